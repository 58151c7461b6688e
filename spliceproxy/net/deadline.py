"""A time limit on one direction of a stream, and the wait that it ends."""

from __future__ import annotations

import asyncio
import math

from spliceproxy.errors import ErrorType, Failure

TICK = 0.001
"""Seconds by which a timer of an event loop may fire early: those of uvloop are in whole
milliseconds."""


class Deadline:
    """At most one coroutine waits at a time; when the time is up its wait, and every later
    one until a new limit is set, fails with a Failure. Who need not wait asks now and then.

    The timer is lazy: setting a later limit moves nothing, it looks again when it fires. So
    a limit per message costs an addition, not a timer.
    """

    __slots__ = ("_at", "_error", "_expired", "_fires", "_loop", "_timer", "_what", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._at = math.inf
        self._error: ErrorType = "proxy_internal_error"  # until a limit is set
        self._what = ""
        self._expired = False
        # For a time that has come uvloop makes a handle that knows of none.
        self._timer: asyncio.Handle | None = None
        self._fires = 0.0
        self.waiting: asyncio.Future[None] | None = None

    def set(self, error: ErrorType, what: str, seconds: float) -> None:
        """From now on, waits beyond ``seconds`` fail with ``Failure(error, what)``."""
        self._error = error
        self._what = what
        self._expired = False
        self._at = self._loop.time() + seconds
        if self._timer is not None:
            if self._fires <= self._at:
                return
            self._timer.cancel()
        self._start()

    def _start(self) -> None:
        self._fires = self._at
        self._timer = self._loop.call_at(self._at, self._fire)

    def clear(self) -> None:
        """No limit: something else bounds the wait."""
        self._at = math.inf
        self._expired = False

    def check(self) -> None:
        """Failure if the time is up."""
        if self._expired:
            raise Failure(self._error, self._what)

    def begin(self) -> asyncio.Future[None]:
        """The future of a new wait; Failure if the time is up already."""
        self.check()
        self.waiting = self._loop.create_future()
        return self.waiting

    def end(self) -> None:
        """The wait is over, one way or another."""
        self.waiting = None

    def wake(self) -> None:
        """What was waited for has come."""
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)

    def hold(self) -> float | None:
        """The wait stands still: neither the time nor an event ends it until :meth:`go_on`, or
        what it waits for is nobody's any more. The seconds that it had left; None where nobody
        waits, or the wait is over."""
        if self.waiting is None or self.waiting.done():
            return None
        left, self._at = self._at - self._loop.time(), math.inf
        return left

    def go_on(self, seconds: float) -> None:
        """A wait that stood still has so many seconds left."""
        if seconds < math.inf:
            self.set(self._error, self._what, seconds)

    def cancel(self) -> None:
        """No timer is left behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        if self._at == math.inf:
            return
        if self._loop.time() + TICK < self._at:
            self._start()
            return
        self._expired = True
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_exception(Failure(self._error, self._what))
