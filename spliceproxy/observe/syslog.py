"""The access log to syslog: each line is a datagram, to the socket of this machine's syslog daemon
or to another machine.

A daemon that takes nothing for a while is waited for as any reader is: by the thread alone, while
lines wait up to a limit, and more are dropped and counted. One that is gone, as while it is
restarted, is looked for again with each line; the lines meanwhile are lost, and counted. UDP tells
no loss but that nobody listens there, and that only behind a line.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from errno import ECONNREFUSED, ECONNRESET, ENOENT, ENOTCONN, EPIPE
from functools import partial
from typing import Any

from spliceproxy.observe.linewriter import LineWriter
from spliceproxy.observe.syslog_address import Address

_PRIORITY = 3 * 8 + 6
"""Facility daemon, severity informational (RFC 5424 section 6.2.1)."""

_GONE = frozenset({ECONNREFUSED, ECONNRESET, ENOENT, ENOTCONN, EPIPE})

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def connect(address: Address) -> int:
    """A socket to it: the caller's, non-blocking. OSError."""
    if address.path:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        where: Any = address.path
    else:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, where = found[0]
        sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.connect(where)
    except OSError as error:
        sock.close()
        if address.path:
            error.filename = address.path
        raise
    return sock.detach()


class SyslogWriter(LineWriter):
    """A :class:`LineWriter` whose ``open`` connects to ``address``."""

    def __init__(self, address: Address, **options: Any) -> None:
        self._address = address
        self._head = _local_head if address.path else _remote_head
        super().__init__(partial(connect, address), close=True, **options)

    def _use(self, fd: int) -> None:
        self._fd = fd
        self._regular = self._gone = self._failing = self._torn = False

    def _chunk_end(self, text: bytes, start: int) -> int:
        return text.index(b"\n", start) + 1

    def _write(self, chunk: bytes) -> None:
        """One line."""
        self._rest = chunk
        data = self._head() + chunk[:-1]
        try:
            self._send(data)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            if not self._address.path:
                self._send(data)  # this was about an earlier one
                raise OSError(error.errno, os.strerror(error.errno or 0)) from None
            fd = connect(self._address)
            os.close(self._fd)
            self._fd = fd
            self._send(data)
        self.moved += len(chunk)

    def _send(self, data: bytes) -> None:
        while True:
            try:
                os.write(self._fd, data)
                return
            except BlockingIOError:
                self._wait()


def _each_second(make: Callable[[int], bytes]) -> Callable[[], bytes]:
    """What a head is made of changes once a second."""
    last = -1
    made = b""

    def head() -> bytes:
        nonlocal last, made
        now = int(time.time())
        if now != last:
            last, made = now, make(now)
        return made

    return head


@_each_second
def _local_head(now: int) -> bytes:
    """As syslog(3) writes it (RFC 3164 section 4.1, without the host)."""
    t = time.localtime(now)
    stamp = f"{_MONTHS[t.tm_mon - 1]} {t.tm_mday:2d} {t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}"
    return f"<{_PRIORITY}>{stamp} spliceproxy[{os.getpid()}]: ".encode("ascii")


@_each_second
def _remote_head(now: int) -> bytes:
    """RFC 5424 section 6."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    host = socket.gethostname()[:255] or "-"
    head = f"<{_PRIORITY}>1 {stamp} {host} spliceproxy {os.getpid()} - - "
    return head.encode("ascii", "replace")
