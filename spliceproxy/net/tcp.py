"""The options of every TCP socket, to clients and to origins, and what its peer has not
acknowledged."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios

KEEPALIVE_IDLE = 60
"""Seconds without a byte after which the kernel probes the peer (TCP_KEEPIDLE)."""

KEEPALIVE_INTERVAL = 15
"""Seconds between two probes (TCP_KEEPINTVL)."""

KEEPALIVE_COUNT = 4
"""Probes without an answer after which the connection is dead (TCP_KEEPCNT): a dead peer is
found in two minutes, not two hours, and NATs that forget a quiet connection after a few
minutes are kept awake."""

ACK_POLL = 0.02
"""Seconds between two looks at a send queue."""

ACK_PATIENCE = 5.0
"""Seconds without progress of a send queue after which it is not waited for any more."""

_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT),
    # An urgent byte stays in the stream instead of being lost beside it.
    (socket.SOL_SOCKET, socket.SO_OOBINLINE, 1),
)

_RTT = struct.Struct("=68xI")
_NO_LINGER = struct.pack("ii", 1, 0)


_SO_MAX_PACING_RATE = 47  # asm-generic/socket.h
_ANY = 2**64 - 1


def let_go(sock: socket.socket) -> None:
    """The descriptor is another's from here on. Needs no memory: the method beneath lets go first,
    and then makes a number to return."""
    try:
        socket.SocketType.detach(sock)
    except MemoryError:
        pass  # of the number


def set_options(sock: socket.socket) -> None:
    """Sets TCP_NODELAY, keep-alive and SO_OOBINLINE (socket(7), tcp(7)). Linux copies them
    from a listening socket to those that it accepts."""
    for level, option, value in _OPTIONS:
        sock.setsockopt(level, option, value)


def pace(sock: socket.socket, rate: int) -> None:
    """Lets the kernel send no more bytes per second; 0: any number. Unix sockets have no pace."""
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, struct.pack("=Q", rate or _ANY))


def reset_on_close(sock: socket.socket) -> None:
    """close(2) will send RST (SO_LINGER of 0 seconds, socket(7)); a Unix socket has none."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)


def unacknowledged(sock: socket.socket) -> int:
    """Bytes that were sent and that the peer's kernel has not acknowledged, FIN counted as
    one (SIOCOUTQ in tcp(7) and unix(7)); 0 where that cannot be known."""
    try:
        answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except OSError:
        return 0
    return int(struct.unpack("i", answer)[0])


_INFO_SIZE = 512
"""More than struct tcp_info has (Linux 6.18)."""


def info(sock: socket.socket) -> bytes:
    """The raw ``struct tcp_info`` (tcp(7)), empty if the socket has none."""
    if sock.family == socket.AF_UNIX:
        return b""
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_SIZE)
    except OSError:
        return b""


def round_trip(sock: socket.socket) -> int:
    """Microseconds of the smoothed round trip (tcpi_rtt of TCP_INFO, tcp(7)); -1 where there is
    none, as on a Unix socket."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RTT.size)
    except OSError:
        return -1
    return int(_RTT.unpack(info)[0]) if len(info) == _RTT.size else -1


class SendQueue:
    """What waits before a reset, or before a close that may become one: a reset overtakes
    data, and its peer would lose what it has not acknowledged.

    ``now`` is in monotonic seconds. ``size`` is :func:`unacknowledged` at the last look, and
    ``moved`` when it had changed.
    """

    __slots__ = ("_sock", "moved", "size")

    def __init__(self, sock: socket.socket, now: float) -> None:
        self._sock = sock
        self.size = -1
        self.moved = now

    def waits(self, now: float) -> bool:
        """Looks at the queue: whether to look again ACK_POLL seconds later. False when it is
        empty, and when nothing was acknowledged for ACK_PATIENCE seconds."""
        size = unacknowledged(self._sock)
        if size != self.size:
            self.size = size
            self.moved = now
        return size > 0 and now - self.moved < ACK_PATIENCE
