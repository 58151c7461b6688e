"""Messages that a fault may cause at any rate, each said once a minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

SILENCE = 60.0
"""Seconds before the same thing is said again."""

MOST = 256
"""Things remembered; beyond it the one that was said longest ago is forgotten."""


class Seldom:
    """Says what it is told to ``log``, at most once in SILENCE seconds for each ``key``. The
    next message with a key says how many have been left out."""

    __slots__ = ("_clock", "_log", "_said")

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._said: dict[object, tuple[float, int]] = {}

    def say(
        self,
        key: object,
        level: int,
        text: str,
        *values: object,
        error: BaseException | None = None,
    ) -> None:
        """``key``: hashable; where clients have a part in making it, they can make others be
        said again. ``error``: its traceback follows."""
        now = self._clock()
        at, missed = self._said.get(key, (-SILENCE, 0))
        if now - at < SILENCE:
            self._said[key] = at, missed + 1
            return
        self._said.pop(key, None)  # one that is said again goes to the end
        if len(self._said) >= MOST:
            del self._said[next(iter(self._said))]
        self._said[key] = now, 0
        if missed:
            text, values = f"{text} (and %d more since the last message)", (*values, missed)
        self._log.log(level, text, *values, exc_info=error)
