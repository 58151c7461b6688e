"""What the kernel knows of one TCP connection: ``struct tcp_info``, decoded.

The raw bytes come from ``getsockopt(IPPROTO_TCP, TCP_INFO)`` (tcp(7)) or from a tunnel's
end. The kernel only ever appends to the struct (linux/tcp.h), so an older one returns a
shorter prefix.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

# Offsets in linux/tcp.h, all fields in the machine's byte order without padding:
# snd_mss 16, rtt 68, rttvar 72, total_retrans 100, bytes_acked 120, bytes_received 128,
# min_rtt 148, delivery_rate 160, busy_time 168, rwnd_limited 176, sndbuf_limited 184,
# bytes_sent 200, bytes_retrans 208, snd_wnd 228. native/core/tcpinfo.pxd has them, too.
_LAYOUT = struct.Struct("=16xI48xII24xI16xQQ12xI8xQQQQ8xQQ12xI")

_NO_SAMPLE = 0xFFFFFFFF  # min_rtt before the first measurement


class TcpInfo(NamedTuple):
    """A part of ``struct tcp_info``; what the kernel did not report is 0."""

    rtt: int  # smoothed, µs
    rttvar: int  # µs
    retransmits: int  # segments, since the start
    bytes_acked: int  # by the peer
    bytes_received: int
    min_rtt: int  # µs
    delivery_rate: int  # bytes/s, of the last measurement
    busy_time: int  # µs with data to send
    rwnd_limited: int  # µs of these, held back by the peer's window
    sndbuf_limited: int  # µs of these, held back by our send buffer
    mss: int = 0  # bytes of a segment that we send
    window: int = 0  # bytes that the peer offers
    bytes_sent: int = 0  # retransmissions included
    bytes_retrans: int = 0


def decode(raw: bytes) -> TcpInfo:
    """Any length of ``raw`` is fine; of no bytes (not a TCP socket) everything is 0."""
    mss, *first, sent, retransmitted, window = _LAYOUT.unpack_from(raw.ljust(_LAYOUT.size, b"\0"))
    info = TcpInfo._make((*first, mss, window, sent, retransmitted))
    return info._replace(min_rtt=0) if info.min_rtt == _NO_SAMPLE else info
