"""What a way takes while many others wait for their targets.

A way that splices takes a mebibyte at a time, which costs the least. But the kernel makes a
socket's receive buffer as large as twice what is taken in a round trip, and its send buffer
as large as it may be (tcp_rmem and tcp_wmem in tcp(7)). When the target then takes nothing
more, both are full: 8 MiB for each stalled download. So, while more than Limits.crowd pipes
are lent, and that is to ways whose targets are full, each way that splices becomes *narrow*:

- its target is writable only while less than Limits.narrow_unsent wait to be sent
  (TCP_NOTSENT_LOWAT). What is on its way does not count, so no path is slower for it;
- it takes Limits.narrow_read at a time;
- if its source is near, the receive buffer of that is not tuned any more (SO_BUF_LOCK, Linux
  5.14), and shrinks. A far source needs what the kernel gives it: it is as much as its path
  holds, and not what we take at a time.

A receive buffer must not become smaller than what the source has been told that it may send:
what has no room is dropped, and sent again. So at first little more is promised
(TCP_WINDOW_CLAMP), and the buffer shrinks when as much has come as was promised at most: what
has been taken since and what is unread are then as much as the window was (Way.shrinks_at). That
was no larger than its bound, nor than the buffer: a way that has been wide again has no bound
that tells anything.

A way that can only copy is narrow at once: it gains nothing by large buffers. When few pipes
have been lent for Limits.crowd_lasts all of it is undone. Unix sockets have none of these options; they
hold 208 KiB.
"""

from libc.stdint cimport int8_t, uint8_t, uint32_t
from libc.string cimport memcpy

from core cimport linux
from core.types cimport Core, NARROW, PROMISED, Way

cdef enum:
    MIN_RTT_AT = 148        # tcpi_min_rtt in struct tcp_info, us, since Linux 4.9
    UNIT_SHIFT = 17         # of Way.shrinks_at: 128 KiB
    UNITS = 120             # 15 MiB, more than most windows
    ANY_WINDOW = 1 << 30


cdef inline int set_int(int fd, int level, int name, int value) noexcept nogil:
    return linux.setsockopt(fd, level, name, &value, sizeof(value))


cdef inline bint is_near(const Core *c, int fd) noexcept nogil:
    """Whether a round trip to the peer takes so little that a small window holds it up by
    little; false where that is not known."""
    cdef char info[MIN_RTT_AT + 4]
    cdef uint32_t rtt
    cdef linux.socklen_t size = sizeof(info)
    if linux.getsockopt(fd, linux.IPPROTO_TCP, linux.TCP_INFO, info, &size) < 0:
        return False
    if size < sizeof(info):
        return False
    memcpy(&rtt, info + MIN_RTT_AT, sizeof(rtt))
    return rtt < c.limits.near_us


cdef inline uint8_t units_taken(const Way *w) noexcept nogil:
    """What has gone through a way, of which nothing waits; it goes round."""
    return <uint8_t>((w.copied + w.spliced) >> UNIT_SHIFT)


cdef inline void narrow(Core *c, Way *w, int source, int target) noexcept nogil:
    """From now on this way takes less."""
    cdef int window = ANY_WINDOW
    cdef int buffer = ANY_WINDOW
    cdef linux.socklen_t size = sizeof(int)
    w.flags |= <uint8_t>NARROW
    set_int(target, linux.IPPROTO_TCP, linux.TCP_NOTSENT_LOWAT, c.limits.narrow_unsent)
    if not is_near(c, source):
        return
    if set_int(source, linux.SOL_SOCKET, linux.SO_BUF_LOCK, linux.SOCK_RCVBUF_LOCK) < 0:
        return
    linux.getsockopt(source, linux.IPPROTO_TCP, linux.TCP_WINDOW_CLAMP, &window, &size)
    linux.getsockopt(source, linux.SOL_SOCKET, linux.SO_RCVBUF, &buffer, &size)
    window = min(window, buffer)
    set_int(source, linux.IPPROTO_TCP, linux.TCP_WINDOW_CLAMP, c.limits.narrow_receive)
    w.flags |= <uint8_t>PROMISED
    w.shrinks_at = <uint8_t>(units_taken(w) + min((window >> UNIT_SHIFT) + 1, <int>UNITS))


cdef inline void shrink(Core *c, Way *w, int source) noexcept nogil:
    """Makes the buffer of a way that is PROMISED smaller, if what was promised has come."""
    cdef int unread = 0
    if linux.ioctl(source, linux.FIONREAD, &unread) < 0:
        return
    unread = min(unread >> UNIT_SHIFT, <int>UNITS)
    if <int8_t>(units_taken(w) + unread - w.shrinks_at) >= 0:
        w.flags &= ~<uint8_t>PROMISED
        set_int(source, linux.SOL_SOCKET, linux.SO_RCVBUF, c.limits.narrow_receive)


cdef inline void widen(Way *w, int source, int target) noexcept nogil:
    """Undoes `narrow`. A buffer that has shrunk grows when more is taken in a round trip than
    ever before."""
    w.flags &= ~<uint8_t>(NARROW | PROMISED)
    set_int(target, linux.IPPROTO_TCP, linux.TCP_NOTSENT_LOWAT, 0)
    if set_int(source, linux.SOL_SOCKET, linux.SO_BUF_LOCK, 0) == 0:
        set_int(source, linux.IPPROTO_TCP, linux.TCP_WINDOW_CLAMP, ANY_WINDOW)


cdef inline void fit(Core *c, Way *w, int source, int target) noexcept nogil:
    """Before this way splices: narrow in a crowd, and wide again when it has gone."""
    if c.pool.lent > c.limits.crowd:
        c.crowd_until = c.now + c.limits.crowd_lasts
    if c.now < c.crowd_until or w.paced:
        if not w.flags & NARROW:
            narrow(c, w, source, target)
        elif w.flags & PROMISED:
            shrink(c, w, source)
    elif w.flags & NARROW:
        widen(w, source, target)
