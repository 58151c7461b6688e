"""What a way takes while many others wait for their targets: the twin of native/core/crowd.pxd,
which says why."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios
from typing import Protocol

from spliceproxy.relay.interface import NARROW_RECEIVE, NARROW_UNSENT, NEAR

# Not in the socket module of every Python that we run on.
TCP_NOTSENT_LOWAT = 25
TCP_WINDOW_CLAMP = 10
SO_BUF_LOCK = 72  # Linux 5.14
SOCK_RCVBUF_LOCK = 2

ANY_WINDOW = 1 << 30
MOST_WINDOW = 15 << 20
"""Bytes that are waited for at most until a buffer shrinks: UNITS in C, where they are counted in a
byte. Few windows are larger."""
MIN_RTT_AT = 148  # tcpi_min_rtt in struct tcp_info, us, since Linux 4.9
MIN_RTT_SIZE = 4


class Narrowed(Protocol):
    """What a way is made narrow by."""

    source: socket.socket
    target: socket.socket
    copied: int
    spliced: int
    narrow: bool
    shrinks_at: int  # bytes moved, when the buffer of its source may shrink; -1: it need not


def _set(sock: socket.socket, level: int, option: int, value: int) -> bool:
    """Whether the socket has this option; one of Unix has none of them."""
    try:
        sock.setsockopt(level, option, value)
    except OSError:
        return False
    return True


def is_near(sock: socket.socket) -> bool:
    """Whether a round trip to the peer takes less than NEAR; False if that is not known."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, MIN_RTT_AT + MIN_RTT_SIZE)
    except OSError:
        return False
    if len(info) < MIN_RTT_AT + MIN_RTT_SIZE:
        return False
    return int.from_bytes(info[MIN_RTT_AT:], sys.byteorder) < NEAR * 1e6


def narrow(way: Narrowed) -> None:
    """From now on this way takes less."""
    way.narrow = True
    _set(way.target, socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, NARROW_UNSENT)
    source = way.source
    if is_near(source) and _set(source, socket.SOL_SOCKET, SO_BUF_LOCK, SOCK_RCVBUF_LOCK):
        window = min(
            source.getsockopt(socket.IPPROTO_TCP, TCP_WINDOW_CLAMP),
            source.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
            MOST_WINDOW,
        )
        _set(source, socket.IPPROTO_TCP, TCP_WINDOW_CLAMP, NARROW_RECEIVE)
        way.shrinks_at = way.copied + way.spliced + window


def shrink(way: Narrowed) -> None:
    """Makes the buffer of its source smaller, if what was promised has come."""
    unread = struct.unpack("i", fcntl.ioctl(way.source.fileno(), termios.FIONREAD, b"\0\0\0\0"))
    if way.copied + way.spliced + unread[0] >= way.shrinks_at:
        way.shrinks_at = -1
        _set(way.source, socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW_RECEIVE)


def widen(way: Narrowed) -> None:
    """Undoes :func:`narrow`."""
    way.narrow = False
    way.shrinks_at = -1
    _set(way.target, socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, 0)
    if _set(way.source, socket.SOL_SOCKET, SO_BUF_LOCK, 0):
        _set(way.source, socket.IPPROTO_TCP, TCP_WINDOW_CLAMP, ANY_WINDOW)
