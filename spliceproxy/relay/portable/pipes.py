"""A pool of pipes that ways borrow while they splice.

A pipe is lent for one turn, or for as long as its bytes wait for the target. One that
still holds bytes is never lent again: it is closed.
"""

from __future__ import annotations

import fcntl
import os
from collections import deque
from typing import TYPE_CHECKING

from spliceproxy.relay.interface import REST
from spliceproxy.relay.quota import RETRY, affordable

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it since Python 3.11


class Pipe:
    """An open pipe of ``size`` bytes: ``r`` and ``w`` are its ends, non-blocking."""

    __slots__ = ("r", "size", "unused_since", "w")

    def __init__(self, r: int, w: int, size: int) -> None:
        self.r = r
        self.w = w
        self.size = size
        self.unused_since = 0.0

    @classmethod
    def of(cls, r: int, w: int) -> Self:
        """The pipe of these two ends."""
        return cls(r, w, fcntl.fcntl(w, fcntl.F_GETPIPE_SZ))

    def close(self) -> None:
        """Closes both ends."""
        os.close(self.r)
        os.close(self.w)


class PipePool:
    """Lends at most ``limit`` pipes at a time (-1: what the quota of this user affords to
    each of ``shares`` processes).

    Last in, first out. Pipes unused for REST seconds are closed by :meth:`sweep`.
    ``now`` is ``time.monotonic()``.
    """

    __slots__ = ("_idle", "_retry_at", "_size", "lent", "limit")

    def __init__(self, limit: int = -1, shares: int = 1) -> None:
        self._size, count = affordable(shares)
        self.limit = count if limit < 0 else limit
        self._idle: deque[Pipe] = deque()  # the longest unused first
        self._retry_at = 0.0
        self.lent = 0

    @property
    def idle(self) -> int:
        """Open pipes that nobody has."""
        return len(self._idle)

    def get(self, now: float) -> Pipe | None:
        """An empty pipe, or None: the limit or a quota is reached."""
        if self._idle:
            pipe: Pipe | None = self._idle.pop()
        elif self.lent >= self.limit or now < self._retry_at:
            return None
        else:
            pipe = self._open()
            if pipe is None:
                self._retry_at = now + RETRY
                return None
        self.lent += 1
        return pipe

    def put(self, pipe: Pipe, now: float) -> None:
        """Takes back an empty pipe."""
        self.lent -= 1
        pipe.unused_since = now
        self._idle.append(pipe)

    def kill(self, pipe: Pipe) -> None:
        """Takes back a pipe that still holds bytes."""
        self.lent -= 1
        pipe.close()

    def take(self, pipe: Pipe) -> None:
        """Counts the pipe of a tunnel of another process as lent."""
        self.lent += 1

    def fits(self, pipe: Pipe) -> bool:
        """Whether a pipe that is lent may be lent to others later on."""
        return len(self._idle) + self.lent <= self.limit and pipe.size >= self._size

    def sweep(self, now: float) -> None:
        """Closes what has been unused for REST seconds."""
        while self._idle and self._idle[0].unused_since + REST <= now:
            self._idle.popleft().close()

    def due(self) -> float | None:
        """When :meth:`sweep` has something to close."""
        return self._idle[0].unused_since + REST if self._idle else None

    def close(self) -> None:
        """Closes the pipes that nobody has."""
        while self._idle:
            self._idle.pop().close()

    def _open(self) -> Pipe | None:
        try:
            r, w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:  # EMFILE, ENFILE: no descriptor left, so copy
            return None
        pipe = Pipe(r, w, self._size)
        # Beyond the quota the kernel hands out pipes of two pages and refuses to grow them.
        try:
            fcntl.fcntl(w, fcntl.F_SETPIPE_SZ, self._size)
            if fcntl.fcntl(w, fcntl.F_GETPIPE_SZ) >= self._size:
                return pipe
        except OSError:  # EPERM, ENOMEM
            pass  # a pipe that is too small is none: whoever asked copies
        pipe.close()
        return None
