"""What the kernel knows of one TCP connection: a part of ``struct tcp_info`` (linux/tcp.h).

Its fields are taken by their offsets, as spliceproxy/observe/tcpinfo.py does: the headers of glibc
may be older than the kernel. An older kernel fills a shorter struct, and what it leaves out is 0.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from core cimport linux

cdef enum:
    TCP_INFO_SIZE = 232
    NO_SAMPLE = 0xffffffff      # min_rtt before the first measurement

cdef struct TcpLeg:
    uint32_t rtt            # us
    uint32_t rttvar         # us
    uint32_t min_rtt        # us
    uint32_t mss            # bytes of a segment
    uint32_t retransmits    # segments
    uint32_t window         # bytes that the peer offers
    uint64_t delivery_rate  # bytes a second
    uint64_t busy           # us
    uint64_t rwnd_limited   # us
    uint64_t sndbuf_limited # us
    uint64_t bytes_acked    # of ours, by the peer
    uint64_t bytes_received
    uint64_t bytes_sent
    uint64_t bytes_retrans


cdef inline bint tcp_read(int fd, TcpLeg *leg) noexcept nogil:
    """False where the socket has none."""
    cdef char raw[TCP_INFO_SIZE]
    cdef linux.socklen_t size = TCP_INFO_SIZE
    if linux.getsockopt(fd, linux.IPPROTO_TCP, linux.TCP_INFO, raw, &size) < 0:
        return False
    if size < TCP_INFO_SIZE:
        memset(raw + size, 0, TCP_INFO_SIZE - size)
    memcpy(&leg.mss, raw + 16, 4)
    memcpy(&leg.rtt, raw + 68, 4)
    memcpy(&leg.rttvar, raw + 72, 4)
    memcpy(&leg.retransmits, raw + 100, 4)
    memcpy(&leg.bytes_acked, raw + 120, 8)
    memcpy(&leg.bytes_received, raw + 128, 8)
    memcpy(&leg.min_rtt, raw + 148, 4)
    memcpy(&leg.delivery_rate, raw + 160, 8)
    memcpy(&leg.busy, raw + 168, 8)
    memcpy(&leg.rwnd_limited, raw + 176, 8)
    memcpy(&leg.sndbuf_limited, raw + 184, 8)
    memcpy(&leg.bytes_sent, raw + 200, 8)
    memcpy(&leg.bytes_retrans, raw + 208, 8)
    memcpy(&leg.window, raw + 228, 4)
    if leg.min_rtt == <uint32_t>NO_SAMPLE:
        leg.min_rtt = 0
    return True
