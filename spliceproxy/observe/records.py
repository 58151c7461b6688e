"""Where a record goes when its request or tunnel is over: to the log, and to whoever watches."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from spliceproxy.observe.accesslog import AccessLog
from spliceproxy.observe.record import Record
from spliceproxy.observe.tally import Tally
from spliceproxy.policy.verdict import Notes
from spliceproxy.relay.lane import END, NUMBER_BITS, LineForm, Made

if TYPE_CHECKING:
    from spliceproxy.observe.trace import Trace


class Records:
    """Those of one worker, which has the number ``worker``. ``log`` is None where none is kept.
    ``watch`` is told each record; None: nobody wants to see them. ``tally`` is None where nobody
    may ask for it. ``generation`` is that of the configuration."""

    __slots__ = ("_made", "_numbers", "generation", "listener", "log", "tally", "watch", "worker")

    def __init__(
        self,
        log: AccessLog | None,
        watch: Callable[[Record], None] | None,
        tally: Tally | None = None,
        worker: int = 0,
    ) -> None:
        self.log = log
        self.tally = tally
        self.worker = worker
        self.watch = watch
        self.generation = 1
        self._made: Made | None = None
        # Told each record that is written here, while an operator wants to know.
        self.listener: Callable[[Record], None] | None = None
        self._numbers = itertools.count((worker << NUMBER_BITS) + 1, 2)

    def new(self, client: str, started: float, trace: Trace | None = None) -> Record:
        """The record of a request that begins."""
        return Record(client, started, trace, next(self._numbers), self.generation)

    def skip(self, number: int) -> None:
        """The number of a request that another process has counted as one of this worker's: later
        ones get higher ones."""
        if number >> NUMBER_BITS == self.worker:
            first = max(next(self._numbers), number + 1 | 1)
            self._numbers = itertools.count(first, 2)

    @property
    def wanted(self) -> bool:
        """Whether anybody is to see a record."""
        return any(one is not None for one in (self.log, self.watch, self.listener, self.tally))

    @property
    def watched(self) -> bool:
        """Whether somebody is to see every record."""
        return self.watch is not None

    @property
    def recorded(self) -> bool:
        """Whether somebody wants a record of each request in the lane."""
        return self.watched or (self.log is not None and self.log.form.lane is None)

    @property
    def fields(self) -> bool:
        """Whether records are to have the fields of their requests."""
        return self.log is not None and self.log.form.fields

    @property
    def lines(self) -> LineForm | None:
        """How the relay is to write lines; None where nobody wants them from it."""
        return None if self.log is None else self.log.form.lane

    @property
    def note(self) -> Callable[[Notes], bytes] | None:
        """Makes what the lines of all requests on a route have in common; None: nothing."""
        return None if self.log is None else self.log.form.note

    def write(self, record: Record) -> None:
        """Ends a record and passes it on."""
        record.end()
        if record.trace is not None:
            record.trace.end(record)
        if self.log is not None:
            self.log.write(record)
        try:
            if self.listener is not None:
                self.listener(record)
            if self.tally is not None:
                self.tally.see(record)
        finally:  # a fault of who looks on takes nothing from who is to be told
            if self.watch is not None:
                self.watch(record)

    def ended(self, records: list[Record]) -> None:
        """The same for those of the lane, which have ended. They are in the log, unless it gets
        them from here."""
        if self.log is not None and self.log.form.lane is None:
            for record in records:
                self.log.write(record)
        self._watched([record for record in records if record.event == END])

    def _watched(self, records: list[Record]) -> None:
        if self.watch is None:
            return
        each = iter(records)
        try:
            for record in each:
                self.watch(record)
        except BaseException:  # Ctrl-C in on_close
            self._watched(list(each))
            raise

    def follow(self, made: Made) -> None:
        """What the relay has made of the exchanges that it served alone is taken as well."""
        self._made = made
        self.follow_on()

    def follow_on(self) -> None:
        """The log or the tally is another one."""
        if self._made is None:
            return
        if self.log is not None:
            self.log.follow(self._made.take_log)
        if self.tally is not None:
            self.tally.follow(self._made)

    def hurry(self) -> None:
        """As of :meth:`Tally.hurry`."""
        if self.tally is not None:
            self.tally.hurry()

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
        if self.tally is not None:
            self.tally.stop()
        if self.log is not None:
            await self.log.close()
