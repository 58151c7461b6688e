"""What this worker has not written yet, where the supervisor can see it: also of one that was
killed, and of one whose own messages nobody reads. And what it never will."""

from __future__ import annotations

from spliceproxy.relay.columns import (
    ACCESS_FAILED,
    ACCESS_TOO_SLOW,
    LINES_WAITING,
    MESSAGES_FAILED,
    MESSAGES_TOO_SLOW,
    MESSAGES_WAITING,
)

MESSAGES = 0
LINES = 1
"""What is counted: messages on standard error, and lines of the access log."""

_WAITING = {MESSAGES: MESSAGES_WAITING, LINES: LINES_WAITING}
_SLOW = {MESSAGES: MESSAGES_TOO_SLOW, LINES: ACCESS_TOO_SLOW}
_FAILED = {MESSAGES: MESSAGES_FAILED, LINES: ACCESS_FAILED}

_own: memoryview | None = None


def use(row: memoryview) -> None:
    """This process is the worker of that row."""
    global _own
    _own = row


def is_watched() -> bool:
    """Whether a supervisor tells what this process did not write."""
    return _own is not None


def note(kind: int, unwritten: int) -> None:
    """So many are not written now."""
    if _own is not None:
        _own[_WAITING[kind]] = unwritten


def lose(kind: int, lines: int, failed: bool) -> None:
    """So many more will not be: a write has ``failed``, or there was no room for them."""
    if _own is not None:
        _own[(_FAILED if failed else _SLOW)[kind]] += lines
