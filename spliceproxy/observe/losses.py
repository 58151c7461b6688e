"""What each worker has not written yet, where the supervisor can see it: also of one that was
killed, and of one whose own messages nobody reads."""

from __future__ import annotations

import mmap

MESSAGES = 0
LINES = 1
"""What is counted: messages on standard error, and lines of the access log."""

_KINDS = 2


class Losses:
    """A row of numbers for each worker, in memory that processes share after a fork."""

    __slots__ = ("_numbers",)

    def __init__(self, workers: int) -> None:
        self._numbers = memoryview(mmap.mmap(-1, 8 * _KINDS * workers)).cast("Q")

    def row(self, worker: int) -> memoryview:
        """A worker's numbers, to write to."""
        return self._numbers[_KINDS * worker : _KINDS * (worker + 1)]

    def take(self, worker: int) -> tuple[int, int]:
        """Messages and lines that a worker which has ended did not write; 0 from now on."""
        row = self.row(worker)
        found = row[MESSAGES], row[LINES]
        row[MESSAGES] = row[LINES] = 0
        return found


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
        _own[kind] = unwritten
