"""What this worker has not written yet of lines and messages, where the supervisor can see it: also
of one that was killed, and of one whose own messages nobody reads."""

from __future__ import annotations

from spliceproxy.observe.linewriter import Account
from spliceproxy.relay.columns import (
    ACCESS_AT_END,
    ACCESS_FAILED,
    ACCESS_TOO_SLOW,
    LINES_MADE,
    LINES_UNTOLD,
    LINES_WAITING,
    LINES_WRITTEN,
    MESSAGES_AT_END,
    MESSAGES_FAILED,
    MESSAGES_TOO_SLOW,
    MESSAGES_UNTOLD,
    MESSAGES_WAITING,
    private,
)

_own: memoryview | None = None


def use(row: memoryview) -> None:
    """This process is the worker of that row."""
    global _own
    _own = row


def is_watched() -> bool:
    """Whether a supervisor tells what this process did not write."""
    return _own is not None


def row() -> memoryview:
    """That of this process; one that nobody looks at where there is no supervisor."""
    return private() if _own is None else _own


class Lines(Account):
    """Of the access log. Who makes a line adds it to LINES_MADE."""

    def __init__(self) -> None:
        self._row = row()

    def note(self, waiting: int, untold: int) -> None:
        self._row[LINES_WAITING] = waiting
        self._row[LINES_UNTOLD] = untold

    def wrote(self, lines: int) -> None:
        self._row[LINES_WRITTEN] += lines

    def lose(self, lines: int, failed: bool) -> None:
        self._row[ACCESS_FAILED if failed else ACCESS_TOO_SLOW] += lines


class Messages(Account):
    """On standard error."""

    def __init__(self) -> None:
        self._row = row()

    def note(self, waiting: int, untold: int) -> None:
        self._row[MESSAGES_WAITING] = waiting
        self._row[MESSAGES_UNTOLD] = untold

    def lose(self, lines: int, failed: bool) -> None:
        self._row[MESSAGES_FAILED if failed else MESSAGES_TOO_SLOW] += lines


def settle(row: memoryview, base: memoryview) -> tuple[int, int]:
    """The worker of a row has ended: what it has not written is lost. Returns how many messages,
    and lines of the access log, are lost that nobody was told of."""
    messages = row[MESSAGES_WAITING]
    # Also those that had not come to the writer yet. It counts behind each write, so of a worker
    # that was killed there may be a few that are written, and pass for lost.
    known = row[LINES_WRITTEN] + row[ACCESS_TOO_SLOW] + row[ACCESS_FAILED]
    lines = max(row[LINES_MADE] - known, 0)
    base[MESSAGES_AT_END] += messages
    base[ACCESS_AT_END] += lines
    return messages + row[MESSAGES_UNTOLD], lines + row[LINES_UNTOLD]
