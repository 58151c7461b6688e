"""The level of messages, which an operator may change while the proxy runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from spliceproxy.admin.channel import Message

LEVELS = ("debug", "info", "warning", "error")


def current() -> str:
    """Of this process."""
    return logging.getLevelName(logging.getLogger().level).lower()


def number() -> int:
    """The same as the numbers of :mod:`logging`."""
    return logging.getLogger().level


def set_to(level: object) -> str:
    """Messages of this level and above are written by this process from now on; returns what it
    was before. ValueError."""
    if level not in LEVELS:
        raise ValueError(f"level: {level!r}; allowed: {', '.join(LEVELS)}")
    before = current()
    logging.getLogger().setLevel(str(level).upper())
    return before


def answer(trace: Callable[[], None]) -> Callable[[Message], dict[str, Any]]:
    """A worker's answer to ``log-level``. ``trace`` is called behind each change."""

    def change(question: Message) -> dict[str, Any]:
        before = set_to(question.get("level"))
        trace()
        return {"before": before}

    return change
