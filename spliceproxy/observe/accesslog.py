"""The access log: a line for each request and tunnel that is over, in one of several formats
(:mod:`spliceproxy.observe.formats`).

The event loop only appends records to a list. A timer turns them into text, and a thread
of its own writes it (:mod:`spliceproxy.observe.linewriter`): a slow reader never holds up
the loop. The relay makes the lines of its own exchanges where it knows their format.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from spliceproxy.messages import log
from spliceproxy.observe import losses
from spliceproxy.observe.formats import Format, format_of
from spliceproxy.observe.linewriter import STUCK_SECONDS, LineWriter
from spliceproxy.observe.record import Record
from spliceproxy.observe.standard import STANDARD
from spliceproxy.observe.syslog import SyslogWriter
from spliceproxy.observe.syslog_address import address_of, is_syslog
from spliceproxy.relay.columns import LINES_MADE
from spliceproxy.relay.lane import NATIVE

FLUSH_SECONDS = 0.2
"""A record waits at most this long before it is formatted."""

FLUSH_RECORDS = 256
"""This many are formatted at once: under 2 ms of the event loop."""

MAX_PENDING = 4 << 20
"""Bytes of text that may wait for the thread. Lines beyond it are dropped, and counted,
until half of it is written: each such burst is reported once."""

CLOSE_SECONDS = 3.0
"""How long :meth:`AccessLog.close` waits for the thread, while that gets on. It is less than
the supervisor's GRACE, with what else ends meanwhile."""


class AccessLog:
    """Call from the event loop's thread only, once per process (after a fork)."""

    __slots__ = (
        "_closed",
        "_done",
        "_lines",
        "_loop",
        "_more",
        "_records",
        "_reopens",
        "_row",
        "_timer",
        "_unwritable",
        "_writer",
        "form",
    )

    def __init__(
        self, path: str, loop: asyncio.AbstractEventLoop, form: Format | None = None
    ) -> None:
        """``path`` is a file to append to, one of STANDARD, or syslog (observe.syslog). OSError
        if it cannot be opened (a FIFO also when it has no reader). ``form`` is the format, by
        default the native one."""
        self._loop = loop
        self.form = form or format_of(NATIVE)
        self._records: list[Record | bytes] = []  # bytes: lines that the relay has made
        self._lines = 0  # that all of these are
        self._timer: asyncio.TimerHandle | None = None
        self._unwritable = 0  # records that could not be made into lines
        self._closed = False
        self._done = asyncio.Event()
        self._reopens = path not in STANDARD
        self._row = losses.row()
        self._writer = _writer(path)
        self._more: Callable[[], tuple[bytes, int]] = _no_more

    def change(self, form: Format) -> None:
        """Lines of what ends from here on have another format."""
        self._flush()
        self.form = form

    def follow(self, more: Callable[[], tuple[bytes, int]]) -> None:
        """``more`` takes the lines that are made elsewhere, and says how many there are;
        :meth:`expect` says that there are some."""
        self._more = more

    def expect(self, many: bool) -> None:
        """Lines wait to be taken: at once, where there are ``many``."""
        if many:
            self._flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(FLUSH_SECONDS, self._flush)

    def miss(self, count: int) -> None:
        """So many lines are lost, for want of memory: that is told among the other losses."""
        if not self._closed:
            self._writer.miss(count)

    def write(self, record: Record) -> None:
        """``record`` has ended and must not change any more."""
        self._take()
        self._records.append(record)
        self._lines += 1
        self._row[LINES_MADE] += 1
        if self._timer is None:
            self._timer = self._loop.call_later(FLUSH_SECONDS, self._flush)
        elif len(self._records) >= FLUSH_RECORDS:
            self._flush()

    def reopen(self) -> None:
        """Opens the path anew (after a log rotation) behind the lines written so far."""
        self._flush()
        if self._reopens:
            self._writer.reopen()

    async def close(self) -> None:
        """Writes what is left, within CLOSE_SECONDS. Idempotent; write nothing after it."""
        if self._closed:
            return
        self._closed = True
        self._flush()
        if self._unwritable > 1:  # the first has been told
            log.error("access log: %d records could not be written as lines", self._unwritable)
        self._writer.stop(self._finished)
        end = self._loop.time() + CLOSE_SECONDS
        moved = -1
        while moved != self._writer.moved and (left := end - self._loop.time()) > 0:
            moved = self._writer.moved
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._done.wait(), min(STUCK_SECONDS, left))
                return
        if not losses.is_watched():  # else the supervisor says it
            log.error("access log: %d lines not written at the end", self._writer.unwritten())

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._take()
        records, self._records = self._records, []
        lines, self._lines = self._lines, 0
        before = self._unwritable
        text = b"".join(map(self._line, records))
        if spoilt := self._unwritable - before:
            self._writer.spoil(spoilt)
        if text:
            self._writer.put(text, lines - spoilt)

    def _take(self) -> None:
        """What the relay has made so far comes before what ends from here on."""
        made, count = self._more()
        if made:
            self._records.append(made)
            self._lines += count

    def _line(self, record: Record | bytes) -> bytes:
        """The record's line; what is made already is as it is. One that cannot be written costs
        nobody else's: it is counted, and the first of them is told with its traceback."""
        if isinstance(record, bytes):
            return record
        try:
            return self.form.line(record).encode("ascii")
        except Exception:
            if not self._unwritable:
                log.exception("access log: a record cannot be written as a line")
            self._unwritable += 1
            return b""

    def _finished(self) -> None:
        """In the thread, when it has written everything."""
        with contextlib.suppress(RuntimeError):  # close() gave up, and the loop is closed
            self._loop.call_soon_threadsafe(self._done.set)


def _writer(path: str) -> LineWriter:
    options: Mapping[str, Any] = {
        "limit": MAX_PENDING,
        "told": _tell_dropped,
        "failed": lambda text: log.error("access log: %s", text),
        "name": "access-log",
        "account": losses.Lines(),
    }
    if is_syslog(path):
        return SyslogWriter(address_of(path), **options)
    return LineWriter(partial(_open, path), close=True, **options)


def _no_more() -> tuple[bytes, int]:
    return b"", 0


def _tell_dropped(lines: int, why: str) -> bytes:
    log.warning("access log: %s, %d lines dropped", why, lines)
    return b""


def _open(path: str) -> int:
    if path in STANDARD:
        return os.dup(STANDARD[path])
    # O_NONBLOCK: a FIFO without a reader is an error, not a wait.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
    return os.open(path, flags, 0o640)


def open_log(
    path: str, loop: asyncio.AbstractEventLoop, form: Format | None = None
) -> AccessLog | None:
    """The log that ``Config.access_log`` asks for; None for "off"."""
    return None if path == "off" else AccessLog(path, loop, form)
