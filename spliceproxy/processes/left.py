"""Another program has taken over, and this one drains: what the two say to each other meanwhile."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from spliceproxy.admin.channel import Closed, Message, close_all
from spliceproxy.messages import log
from spliceproxy.observe.board import Board
from spliceproxy.processes.parcels import Line
from spliceproxy.processes.reopening import Reopening
from spliceproxy.processes.succession import counters

COUNT_SECONDS = 1.0
"""Between two times that the other is told what this one has counted."""

AGAIN_SECONDS = 0.05
"""Until it is told the rest, if there was no room for that. A queue is 10 messages long by default
(net.unix.max_dgram_qlen, unix(7))."""

LAST_SECONDS = 1.0
"""That the other has to read what was counted last."""

LOOK_SECONDS = 0.01
"""Between two looks whether there is room for it."""


class Left:
    """Of the supervisor that drains. ``pid`` is that of the main one, and ``line`` leads to it."""

    def __init__(self, board: Board, reopening: Reopening, pid: int, line: Line) -> None:
        self._board = board
        self._reopening = reopening
        self.pid = pid
        self._line = line
        self._is_told = False
        self._unsaid: deque[list[Any]] = deque()  # what has been counted, in parts
        self._due = 0.0

    def close(self) -> None:
        """In a child, or if there is nobody any more. Idempotent."""
        self._due = math.inf
        self._line.close()

    def moments(self) -> Iterable[float]:
        """When it goes on, time.monotonic()."""
        return [self._due] if self._due < math.inf else []

    def go_on(self) -> None:
        """Says what is due; what finds no room is said later. The other is the main one when it
        knows all that was counted: before that its counters would be seen to go back."""
        if time.monotonic() >= self._due:
            is_said = self._say_counts()
            if is_said and not self._is_told:
                self._is_told = is_said = self._say({"done": True})
            seconds = COUNT_SECONDS if is_said else AGAIN_SECONDS
            self._due = time.monotonic() + seconds

    def last_words(self) -> None:
        """No worker is left. The other has a moment to read what was counted."""
        end = time.monotonic() + LAST_SECONDS
        if self._due < math.inf:
            self._unsaid.clear()
            while not self._say_counts() and time.monotonic() < end:
                time.sleep(LOOK_SECONDS)
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

    def _say_counts(self) -> bool:
        """Goes on where there was no room before; false: there is none for the rest."""
        if not self._unsaid:
            self._unsaid.extend(counters(self._board))
        while self._unsaid:
            if not self._say({"counts": self._unsaid[0]}):
                return False
            self._unsaid.popleft()
        return True

    def _say(self, message: Message) -> bool:
        """False: there is no room just now."""
        try:
            return self._line.send(message)
        except Closed:
            return True  # its end will be seen
        except OSError:
            return False
