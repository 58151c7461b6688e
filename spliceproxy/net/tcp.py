"""The options of every TCP socket, to clients and to origins."""

from __future__ import annotations

import socket

KEEPALIVE_IDLE = 60
"""Seconds without a byte after which the kernel probes the peer (TCP_KEEPIDLE)."""

KEEPALIVE_INTERVAL = 15
"""Seconds between two probes (TCP_KEEPINTVL)."""

KEEPALIVE_COUNT = 4
"""Probes without an answer after which the connection is dead (TCP_KEEPCNT): a dead peer is
found in two minutes, not two hours, and NATs that forget a quiet connection after a few
minutes are kept awake."""

_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT),
    # An urgent byte stays in the stream instead of being lost beside it.
    (socket.SOL_SOCKET, socket.SO_OOBINLINE, 1),
)


def set_options(sock: socket.socket) -> None:
    """Sets TCP_NODELAY, keep-alive and SO_OOBINLINE (socket(7), tcp(7)). Linux copies them
    from a listening socket to those that it accepts."""
    for level, option, value in _OPTIONS:
        sock.setsockopt(level, option, value)
