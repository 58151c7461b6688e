"""The access log: a line per finished record in squid's native format.

    %ts.%03tu %6tr %>a %Ss/%03>Hs %<st %rm %ru %[un %Sh/%<a %mt

Behind it comes ``rule=ID``, the rule that has denied a request, or ``error=TYPE,ADDRESS:PORT``
for one that has failed, and then ``in=BYTES`` from the client. docs/log.md has it as a table.

The event loop only appends records to a list. A timer turns them into text, and a thread
of its own writes it (:mod:`spliceproxy.observe.linewriter`): a slow reader never holds up
the loop. The relay makes the lines of its own exchanges (native/lane/line.pxd), by the same
table.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Callable
from functools import lru_cache, partial

from spliceproxy.errors import ErrorType
from spliceproxy.messages import log
from spliceproxy.observe import losses
from spliceproxy.observe.linewriter import STUCK_SECONDS, LineWriter
from spliceproxy.observe.record import Record
from spliceproxy.observe.standard import STANDARD
from spliceproxy.relay import interface
from spliceproxy.relay.lane import LineForm

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

# Longest texts in a line, in characters after escaping. With the numbers and the constant
# texts they stay below PIPE_BUF (4096), so a line never needs to be cut.
_METHOD_MAX = 32
_TARGET_MAX = 3072
_USER_MAX = 256
_ADDRESS_MAX = 128
_TYPE_MAX = 128
_RULE_MAX = 64
_ERROR_MAX = 96

# All that RFC 3986 has no place for, and the apostrophe. What a client has escaped in a
# URL stays as it is, so % is not among them; in a user name it is escaped too.
_UNSAFE = re.compile(r"[^!#-&(-;=?-\[\]_a-z~]")
_UNSAFE_NAME = re.compile(r"[^!#$&(-;=?-\[\]_a-z~]")

_DENIED: frozenset[ErrorType] = frozenset({"http_request_denied", "destination_ip_prohibited"})

_TIMED_OUT = (interface.IDLE, interface.TARGET_IDLE, interface.HALF_CLOSE)
"""Ends that a time limit of ours has made."""

_SUFFIX = {
    reason: "_TIMEDOUT" if reason in _TIMED_OUT else "_ABORTED"
    for reason in interface.REASONS
    if reason not in ("", interface.DONE)
}
"""Ends before the end of the message. squid's word for a broken connection is the same
for both sides."""


def format_line(record: Record, *, query: bool = True) -> str:
    """The record's line with its LF: ASCII, ten fields, then ``rule=`` or ``error=`` where
    there is one, and ``in=``; at most PIPE_BUF bytes. Not ``query``: of a target's query its
    question mark alone is left."""
    # squid's words for a connection that brought no request.
    method = record.method or "NONE"
    target = record.target or "error:invalid-request"
    if not query:
        target = without_query(target)
    hierarchy = "HIER_DIRECT/" if record.peer else "HIER_NONE/"
    return (
        f"{record.ended_at:.3f} {int(record.seconds * 1000):6d} "
        f"{_address(record.client)} {_result(record)}/{record.status:03d} "
        f"{record.bytes_out} {_method(method)} {escape(target, _TARGET_MAX)} "
        f"{_user(record.user)} {hierarchy}{_address(record.peer)} {_type(record.content_type)}"
        f"{why(record)} in={record.bytes_in}\n"
    )


def line_form(*, query: bool) -> LineForm:
    """What the relay has to know to write such lines by itself."""
    texts = [bytes([byte]) for byte in range(128)]
    return LineForm(
        target=b"".join([text for text in texts if not _UNSAFE.match(text.decode())]),
        user=b"".join([text for text in texts if not _UNSAFE_NAME.match(text.decode())]),
        method_most=_METHOD_MAX,
        target_most=_TARGET_MAX,
        user_most=_USER_MAX,
        address_most=_ADDRESS_MAX,
        type_most=_TYPE_MAX,
        query=query,
    )


def why(record: Record) -> str:
    """The field for what was denied or has failed, behind a space; "" for neither."""
    if record.rule:
        return f" rule={escape(record.rule, _RULE_MAX)}"
    if not record.error:
        return ""
    where = f",{record.failed}" if record.failed else ""
    return f" error={escape(record.error + where, _ERROR_MAX)}"


def without_query(target: str) -> str:
    """Of a query its question mark alone is left."""
    end = target.find("?")
    return target if end < 0 else target[: end + 1]


def _result(record: Record) -> str:
    """squid's result code. TCP_HIT: answered from our own files, without an origin."""
    if record.error in _DENIED:
        code = "TCP_DENIED"
    elif record.peer:
        tunnel = record.method == "CONNECT" or record.status == 101
        code = "TCP_TUNNEL" if tunnel else "TCP_MISS"
    elif not record.status or (record.error and record.status >= 400):
        code = "NONE"
    else:
        code = "TCP_HIT"
    return code + _SUFFIX.get(record.reason, "")


def escape(text: str, limit: int, unsafe: re.Pattern[str] = _UNSAFE) -> str:
    """One field of a line: %XX for what could end it, "-" for nothing, cut at ``limit``."""
    return unsafe.sub(_percent, text[:limit])[:limit] or "-"


# What lines have in common is escaped once.


@lru_cache(maxsize=4096)
def _address(text: str) -> str:
    return escape(text, _ADDRESS_MAX)


@lru_cache(maxsize=64)
def _method(text: str) -> str:
    return escape(text, _METHOD_MAX)


@lru_cache(maxsize=4096)
def _user(text: str) -> str:
    return escape(text, _USER_MAX, _UNSAFE_NAME)


@lru_cache(maxsize=256)
def _type(text: str) -> str:
    return escape(text.partition(";")[0].rstrip(), _TYPE_MAX)


def _percent(match: re.Match[str]) -> str:
    # A lone surrogate has no UTF-8 form and must not cost the line.
    return "".join([f"%{byte:02X}" for byte in match[0].encode("utf-8", "backslashreplace")])


class AccessLog:
    """Call from the event loop's thread only, once per process (after a fork)."""

    __slots__ = (
        "_closed",
        "_done",
        "_loop",
        "_more",
        "_query",
        "_records",
        "_reopens",
        "_timer",
        "_unwritable",
        "_writer",
    )

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop, *, query: bool = True) -> None:
        """``path`` is a file to append to, or one of STANDARD. OSError if it cannot be opened
        (a FIFO also when it has no reader). Not ``query``: as of :func:`format_line`."""
        self._loop = loop
        self._query = query
        self._records: list[Record] = []
        self._timer: asyncio.TimerHandle | None = None
        self._unwritable = 0  # records that could not be made into lines
        self._closed = False
        self._done = asyncio.Event()
        self._reopens = path not in STANDARD
        self._writer = LineWriter(
            partial(_open, path),
            close=True,
            limit=MAX_PENDING,
            told=_tell_dropped,
            failed=lambda text: log.error("access log: %s", text),
            note=partial(losses.note, losses.LINES),
            lose=partial(losses.lose, losses.LINES),
            name="access-log",
        )
        self._more: Callable[[], tuple[bytes, int]] = _no_more

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
        self._records.append(record)
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
        more, count = self._more()
        records, self._records = self._records, []
        text = b"".join([*map(self._line, records), more])
        if text:
            self._writer.put(text, len(records) + count)

    def _line(self, record: Record) -> bytes:
        """The record's line. One that cannot be written costs nobody else's: it is counted,
        and the first of them is told with its traceback."""
        try:
            return format_line(record, query=self._query).encode("ascii")
        except Exception:
            if not self._unwritable:
                log.exception("access log: a record cannot be written as a line")
            self._unwritable += 1
            return b""

    def _finished(self) -> None:
        """In the thread, when it has written everything."""
        with contextlib.suppress(RuntimeError):  # close() gave up, and the loop is closed
            self._loop.call_soon_threadsafe(self._done.set)


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


def open_log(path: str, loop: asyncio.AbstractEventLoop, *, query: bool = True) -> AccessLog | None:
    """The log that ``Config.access_log`` asks for; None for "off"."""
    return None if path == "off" else AccessLog(path, loop, query=query)
