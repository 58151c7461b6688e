"""Lines about tunnels that live: those that the relay got from Python. It tells of its own by
itself (native/lane/live.pxd), by the same rules."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from itertools import islice

from spliceproxy.observe.accesslog import AccessLog
from spliceproxy.observe.record import Record
from spliceproxy.relay.lane import LIVE, START

BATCH = 64
"""Tunnels that are told of at a time."""

Progress = Callable[[int], tuple[int, int, int, int, str] | None]
"""As :meth:`Relay.progress`."""


class Lives:
    """A line at the start of each tunnel, and every so many ``seconds`` while it lives."""

    __slots__ = ("_log", "_loop", "_progress", "_seconds", "_timer", "_tunnels")

    def __init__(
        self, log: AccessLog, loop: asyncio.AbstractEventLoop, progress: Progress, seconds: float
    ) -> None:
        self._log = log
        self._loop = loop
        self._progress = progress
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        # By the number of the record, in the order in which they are due.
        self._tunnels: dict[int, tuple[float, int, Record]] = {}

    def begin(self, ident: int, record: Record) -> None:
        """A tunnel begins, which the relay knows by ``ident``."""
        self._tell(ident, record, START)
        self.go_on(ident, record)

    def go_on(self, ident: int, record: Record) -> None:
        """One that has begun in another process goes on here."""
        self._wait(ident, record)
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._fire)

    def change(self, log: AccessLog, seconds: float) -> None:
        """Another log, and another time."""
        self._log, self._seconds = log, seconds

    def stop(self) -> None:
        """There are no such lines any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._tunnels.clear()

    def end(self, record: Record) -> None:
        """It is over."""
        self._tunnels.pop(record.number, None)

    def _wait(self, ident: int, record: Record) -> None:
        self._tunnels[record.number] = self._loop.time() + self._seconds, ident, record

    def _fire(self) -> None:
        self._timer = None
        for number, (due, ident, record) in list(islice(self._tunnels.items(), BATCH)):
            if due > self._loop.time():
                break
            del self._tunnels[number]
            self._tell(ident, record, LIVE)
            self._wait(ident, record)
        if self._tunnels:
            due, _, _ = next(iter(self._tunnels.values()))
            wait = max(due - self._loop.time(), 0.0)
            self._timer = self._loop.call_later(wait, self._fire)

    def _tell(self, ident: int, record: Record, event: str) -> None:
        progress = self._progress(ident)
        if progress is None:
            return
        up_copied, up_spliced, down_copied, down_spliced, found = progress
        now = copy.copy(record)
        now.event, now.tls_name = event, found
        now.bytes_in += up_copied + up_spliced
        now.bytes_out += down_copied + down_spliced
        now.spliced_in += up_spliced
        now.spliced_out += down_spliced
        now.end()
        self._log.write(now)
