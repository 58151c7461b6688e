"""Another program has taken over, and this one drains: what the two say to each other meanwhile."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

from spliceproxy.admin.channel import Closed, Message, close_all
from spliceproxy.messages import log
from spliceproxy.observe.board import Board
from spliceproxy.processes.parcels import Line
from spliceproxy.processes.reopening import Reopening
from spliceproxy.processes.succession import counters

COUNT_SECONDS = 1.0
"""Between two times that the other is told what this one has counted."""

AGAIN_SECONDS = 0.05
"""Until it is told once more that it is the main one, if there was no room for that."""


class Left:
    """Of the supervisor that drains. ``pid`` is that of the main one, and ``line`` leads to it."""

    def __init__(self, board: Board, reopening: Reopening, pid: int, line: Line) -> None:
        self._board = board
        self._reopening = reopening
        self.pid = pid
        self._line = line
        self._is_told = False
        self._due = 0.0

    def close(self) -> None:
        """In a child, or if there is nobody any more. Idempotent."""
        self._due = math.inf
        self._line.close()

    def moments(self) -> Iterable[float]:
        """When it goes on, time.monotonic()."""
        return [self._due] if self._due < math.inf else []

    def go_on(self) -> None:
        """Says what is due; what finds no room is said later."""
        if time.monotonic() >= self._due:
            self._say_counts()
            self._is_told = self._is_told or self._say({"done": True})
            seconds = COUNT_SECONDS if self._is_told else AGAIN_SECONDS
            self._due = time.monotonic() + seconds

    def last_words(self) -> None:
        """No worker is left."""
        if self._due < math.inf:
            self._say_counts()
        self.close()

    def hear(self) -> None:
        """Looks at what the main one has said."""
        while self._due < math.inf:
            try:
                parcel = self._line.receive()
            except Closed:
                self.close()
                return
            if parcel is None:
                return
            close_all(parcel.fds)
            if "reopen" in parcel.head:
                self._reopening.do()

    def ended(self, how: str, *, in_order: bool) -> None:
        """The main one has."""
        if not in_order:
            log.error("process %d, which has taken over from this one, %s", self.pid, how)
        self.close()

    def _say_counts(self) -> None:
        for part in counters(self._board):
            if not self._say({"counts": part}):
                return

    def _say(self, message: Message) -> bool:
        """False: there is no room just now."""
        try:
            return self._line.send(message)
        except Closed:
            return True  # its end will be seen
        except OSError:
            return False
