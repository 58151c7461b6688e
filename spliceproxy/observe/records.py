"""Where a record goes when its request or tunnel is over: to the log, and to whoever watches."""

from __future__ import annotations

from collections.abc import Callable

from spliceproxy.observe.accesslog import AccessLog
from spliceproxy.observe.record import Record


class Records:
    """Those of one worker. ``log`` is None where none is kept. ``watch`` is told each record;
    None: nobody wants to see them."""

    __slots__ = ("_watch", "log")

    def __init__(self, log: AccessLog | None, watch: Callable[[Record], None] | None) -> None:
        self.log = log
        self._watch = watch

    @property
    def wanted(self) -> bool:
        """Whether anybody is to see a record."""
        return self.log is not None or self._watch is not None

    @property
    def watched(self) -> bool:
        """Whether somebody is to see every record."""
        return self._watch is not None

    def write(self, record: Record) -> None:
        """Ends a record and passes it on."""
        record.end()
        if record.trace is not None:
            record.trace.end(record)
        if self.log is not None:
            self.log.write(record)
        if self._watch is not None:
            self._watch(record)

    def follow(self, more: Callable[[], list[Record]]) -> None:
        """As of :meth:`AccessLog.follow`."""
        if self.log is not None:
            self.log.follow(more)

    def expect(self, count: int) -> None:
        """So many records wait to be taken."""
        if self.log is not None:
            self.log.expect(count)

    def miss(self, count: int) -> None:
        """So many records are lost, for want of memory."""
        if self.log is not None:
            self.log.miss(count)

    async def close(self) -> None:
        """Writes what is left. Idempotent; write nothing after it."""
        if self.log is not None:
            await self.log.close()
