"""Where a record goes when its request or tunnel is over: to the log, and to whoever watches."""

from __future__ import annotations

from collections.abc import Callable

from spliceproxy.observe.accesslog import AccessLog
from spliceproxy.observe.record import Record


class Records:
    """Those of one worker. ``log`` is None where none is kept. ``watch`` is told each record;
    None: nobody wants to see them."""

    __slots__ = ("_watch", "listener", "log")

    def __init__(self, log: AccessLog | None, watch: Callable[[Record], None] | None) -> None:
        self.log = log
        self._watch = watch
        # Told each record that is written here, while an operator wants to know.
        self.listener: Callable[[Record], None] | None = None

    @property
    def wanted(self) -> bool:
        """Whether anybody is to see a record."""
        return self.log is not None or self._watch is not None or self.listener is not None

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
        if self.listener is not None:
            self.listener(record)
        if self._watch is not None:
            self._watch(record)

    def ended(self, records: list[Record]) -> None:
        """The same for those of the lane, which have ended and are in the log."""
        if self._watch is None:
            return
        each = iter(records)
        try:
            for record in each:
                self._watch(record)
        except BaseException:  # Ctrl-C in on_close
            self.ended(list(each))
            raise

    def follow(self, more: Callable[[], tuple[bytes, int]]) -> None:
        """As of :meth:`AccessLog.follow`."""
        if self.log is not None:
            self.log.follow(more)

    def expect(self, many: bool) -> None:
        """As of :meth:`AccessLog.expect`."""
        if self.log is not None:
            self.log.expect(many)

    def miss(self, count: int) -> None:
        """So many lines are lost, for want of memory."""
        if self.log is not None:
            self.log.miss(count)

    async def close(self) -> None:
        """Writes what is left. Idempotent; write nothing after it."""
        if self.log is not None:
            await self.log.close()
