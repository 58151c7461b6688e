"""Connects to the origin: the first of its addresses to answer, in the manner of RFC 8305.

No tasks: an attempt is a socket and a writer on the event loop. A socket is off the loop
before it is closed or returned.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping, Sequence
from errno import (
    EACCES,
    EADDRNOTAVAIL,
    EAFNOSUPPORT,
    EAGAIN,
    ECONNABORTED,
    ECONNREFUSED,
    ECONNRESET,
    EINPROGRESS,
    EINVAL,
    ENOMEM,
    EPERM,
    EPIPE,
    ETIMEDOUT,
)
from operator import itemgetter

from spliceproxy.errors import EXHAUSTED, NOTHING_LEFT, ErrorType, Failure
from spliceproxy.net import tcp
from spliceproxy.net.errnos import NO_WAY
from spliceproxy.observe.trace import Attempts
from spliceproxy.relay import columns
from spliceproxy.relay.handoff import TIME_IS_UP

ATTEMPT_DELAY = 0.25
"""Seconds after which the next address is tried beside the last (RFC 8305 section 5)."""

# By rank: if several attempts fail, the first in this order is reported, because it says most.
# Without descriptors the other results mean little. An answer from the origin says more than
# silence. Silence says more than an address that this machine cannot or may not reach, which is
# often just IPv6 on a machine without it.
_ERRNOS: Mapping[ErrorType, tuple[int, ...]] = {
    "connection_limit_reached": (*EXHAUSTED, EAGAIN),
    "connection_refused": (ECONNREFUSED,),
    "connection_terminated": (ECONNRESET, ECONNABORTED, EPIPE),
    "connection_timeout": (ETIMEDOUT,),
    "destination_ip_prohibited": (EACCES, EPERM),
    "destination_unavailable": (),  # any other
    "destination_ip_unroutable": (
        *NO_WAY,
        EADDRNOTAVAIL,
        EAFNOSUPPORT,  # no IPv6 in this kernel
        EINVAL,  # a link-local address without its link
    ),
}
_TYPES = {errno: error for error, errnos in _ERRNOS.items() for errno in errnos}
_RANKS = {error: rank for rank, error in enumerate(_ERRNOS)}

_IP_BIND_ADDRESS_NO_PORT = 24  # ip(7)

_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK


def from_source(addresses: tuple[str, ...], source: str) -> tuple[str, ...]:
    """Those of the addresses that can be dialled from ``source``, an IP address, "" for any."""
    if not source:
        return addresses
    return tuple(a for a in addresses if (":" in a) == (":" in source))


class Dialer:
    """Makes connections, each within ``timeout`` seconds, and counts them in ``row``
    (relay.columns)."""

    __slots__ = ("_row", "_timeout")

    def __init__(self, timeout: float, row: memoryview | None = None) -> None:
        self._timeout = timeout
        self._row = columns.private() if row is None else row

    async def connect(
        self,
        addresses: Sequence[str],
        port: int,
        source: str = "",
        spent: float = 0.0,
        attempts: Attempts | None = None,
    ) -> tuple[socket.socket, str]:
        """A connected socket, which is the caller's, and the address that it is connected to.

        ``addresses`` are IP literals in the order to try, at least one. ``source`` is the IP
        address to dial from, "" for any; addresses of the other family are left out. The socket
        is non-blocking, with TCP_NODELAY, keep-alive and SO_OOBINLINE. ``spent`` seconds of the
        limit are over already. ``attempts`` tells of each attempt. Failure if every address
        failed or the time is up. When it is cancelled, every socket is closed at once.
        """
        addresses = from_source(tuple(addresses), source)
        if not addresses:
            raise Failure(
                "destination_ip_unroutable",
                f"the server has no address that can be dialled from {source}",
            )
        began = time.monotonic() - spent
        race = _Race(addresses, port, self._timeout, source, spent, attempts, self._row)
        found = await race.run()
        self._row[columns.DIALS] += 1
        waited = time.monotonic() - began
        columns.observe(self._row, columns.DIAL_SECONDS, int(waited * 1e6))
        return found

    def failure_of(
        self,
        tried: Sequence[tuple[str, int]],
        addresses: Sequence[str],
        port: int,
        source: str = "",
    ) -> Failure | None:
        """What :meth:`connect` would raise, after attempts that have been made elsewhere: each an
        address and its errno, TIME_IS_UP for the last one if the limit is over, in the order in
        which they failed. None if it may still succeed."""
        addresses = from_source(tuple(addresses), source)
        late = [one for one in tried if one[1] == TIME_IS_UP]
        if not late and not set(addresses) <= {address for address, _ in tried}:
            return None
        failed = [(_RANKS[_type(errno)], address, errno) for address, errno in late or tried]
        _, address, errno = min(failed, key=itemgetter(0))  # the first of its rank
        failure = _failure(address, port, errno, self._timeout, len(addresses))
        return None if failure.error == "connection_limit_reached" else failure


class _Race:
    """The attempts at some addresses, until the first succeeds or all have failed.

    For a single address, the usual case, it costs 3 us (3 %) more than code for just that.
    """

    __slots__ = (
        "_addresses",
        "_attempts",
        "_delay",
        "_done",
        "_failed",
        "_left",
        "_limit",
        "_loop",
        "_pending",
        "_port",
        "_row",
        "_source",
        "_timeout",
        "_total",
    )

    def __init__(
        self,
        addresses: Sequence[str],
        port: int,
        limit: float,
        source: str,
        spent: float,
        attempts: Attempts | None,
        row: memoryview,
    ) -> None:
        self._row = row
        self._loop = asyncio.get_running_loop()
        self._addresses = iter(addresses)  # those not tried yet
        self._left = self._total = len(addresses)
        self._port = port
        self._attempts = attempts
        self._source = source
        self._limit = limit
        self._timeout = max(limit - spent, 0.0)
        self._pending: dict[int, tuple[socket.socket, str]] = {}  # by descriptor
        self._failed: tuple[int, str, int] | None = None  # the one to report, by rank
        self._delay: asyncio.TimerHandle | None = None
        self._done: asyncio.Future[int] = self._loop.create_future()  # the winner, -1: none

    async def run(self) -> tuple[socket.socket, str]:
        deadline = self._loop.call_later(self._timeout, self._expire)
        try:
            self._next()
            winner = await self._done
            # The winner was pending until here, so that a cancelled race would close it.
            if winner >= 0:
                return self._pending.pop(winner)
        finally:
            deadline.cancel()
            if self._delay is not None:
                self._delay.cancel()
            for fd, (sock, _) in self._pending.items():
                self._loop.remove_writer(fd)
                sock.close()
            if self._attempts is not None and self._pending:
                self._tell_dropped(self._attempts)
        assert self._failed is not None
        _, address, errno = self._failed
        raise _failure(address, self._port, errno, self._limit, self._total)

    def _tell_dropped(self, attempts: Attempts) -> None:
        """Those that were still in progress at the end."""
        late = self._failed is not None and self._failed[2] == TIME_IS_UP
        for _, address in self._pending.values():
            attempts.drop(address, late=late)

    def _next(self) -> None:
        """Starts one more attempt, or ends the race if none is left."""
        if self._done.done():
            return
        if self._delay is not None:
            self._delay.cancel()
        for address in self._addresses:
            self._left -= 1
            if self._start(address):
                if self._left:
                    self._delay = self._loop.call_later(ATTEMPT_DELAY, self._next)
                return
            if self._done.done():
                return
        if not self._pending:
            self._done.set_result(-1)

    def _start(self, address: str) -> bool:
        """Whether an attempt is now in progress; otherwise it has failed, or won."""
        if self._attempts is not None:
            self._attempts.begin(address)
        try:
            sock = _open(address, self._source)
        except OSError as error:
            self._fail(address, error.errno)
            return False
        fd = sock.fileno()
        self._pending[fd] = (sock, address)
        errno = sock.connect_ex((address, self._port))
        if errno == EINPROGRESS:
            try:
                self._loop.add_writer(fd, self._ready, fd)
                return True
            except OSError as error:  # epoll_ctl(2): too many watches
                errno = error.errno or ENOMEM
        self._finish(fd, errno)
        return False

    def _ready(self, fd: int) -> None:
        """An attempt is over."""
        self._loop.remove_writer(fd)
        if not self._done.done():
            sock, address = self._pending[fd]
            self._finish(fd, _socket_error(sock, address, self._port))
            if not self._done.done():
                self._next()

    def _finish(self, fd: int, errno: int) -> None:
        if not errno:
            if self._attempts is not None:
                self._attempts.end(self._pending[fd][1], 0)
            self._done.set_result(fd)
            return
        sock, address = self._pending.pop(fd)
        sock.close()
        self._fail(address, errno)

    def _fail(self, address: str, errno: int | None) -> None:
        if self._attempts is not None:
            self._attempts.end(address, errno or 0)
        self._count(errno)
        failed = (_RANKS[_type(errno)], address, errno or 0)
        if self._failed is None or failed[0] < self._failed[0]:  # the first of its rank
            self._failed = failed

    def _expire(self) -> None:
        """The time is up. This is reported, whatever else has failed before."""
        if not self._done.done():
            _, address = next(iter(self._pending.values()))
            self._failed = (0, address, TIME_IS_UP)
            self._count(ETIMEDOUT)
            self._done.set_result(-1)

    def _count(self, errno: int | None) -> None:
        self._row[columns.DIAL_ERROR_COLUMNS[_type(errno)]] += 1


def _open(address: str, source: str) -> socket.socket:
    """A socket with its options, bound to ``source`` if there is one, not connected."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, _STREAM)
    try:
        tcp.set_options(sock)
        if source:
            # The port is chosen by connect(2): the same one may serve for several origins.
            sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((source, 0))
    except BaseException:
        sock.close()
        raise
    return sock


def _socket_error(sock: socket.socket, address: str, port: int) -> int:
    """The errno of a finished attempt, 0 for success.

    A socket that dials a port of its own machine in the range for outgoing connections may
    get that same port and be connected to itself (simultaneous open, RFC 9293 section 3.5):
    nobody listens there, so that counts as refused. Go's net package does the same.
    """
    errno = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if not errno and port >= 1024 and sock.getsockname()[:2] == (address, port):
        return ECONNREFUSED
    return errno


def dial_error_table() -> bytes:
    """By errno up to 255, at 0 for TIME_IS_UP: the place of its error among the columns of
    ``dial_errors``."""
    errnos = (ETIMEDOUT, *range(1, 256))
    return bytes(columns.DIAL_ERRORS.index(_type(errno)) for errno in errnos)


def _type(errno: int | None) -> ErrorType:
    return _TYPES.get(errno or 0, "destination_unavailable")


def _failure(address: str, port: int, errno: int, limit: float, total: int) -> Failure:
    """The failure to report for one address of ``total``."""
    text = os.strerror(errno) if errno else "connection failed"
    if errno == TIME_IS_UP:
        errno, text = ETIMEDOUT, f"no connection within {limit:g} s"
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    among = f" ({total} addresses tried)" if total > 1 else ""
    error = _type(errno)
    why = NOTHING_LEFT if error == "connection_limit_reached" else ""
    return Failure(error, f"{where}: {text}{among}", why=why, where=where)
