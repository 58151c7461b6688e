"""Resets, which are sent only when all that was received before them has been acknowledged.

A reset overtakes data: the peer's kernel throws away what its program has not read. So the side
of a tunnel whose other side has failed is reset when its peer has acknowledged everything, or has
acknowledged nothing more for a while (Limits.ack_patience). Meanwhile the flow is in Q_ACK, and
its send queue is looked at now and then: nothing tells when it empties.
"""

from libc.stdint cimport int32_t

from core cimport linux
from core.queues cimport enter_queue, finish
from core.types cimport Core, Flow, IN_QUEUE, NOWHERE, Q_ACK


cdef inline void reset_on_close(int fd) noexcept nogil:
    """close(2) will send RST (SO_LINGER of 0 seconds, socket(7))."""
    cdef linux.linger now
    now.l_onoff = 1
    now.l_linger = 0
    linux.setsockopt(fd, linux.SOL_SOCKET, linux.SO_LINGER, &now, sizeof(now))


cdef inline int send_queue(int fd) noexcept nogil:
    """Bytes that the peer has not acknowledged; 0 when that cannot be known."""
    cdef int queued = 0
    return queued if linux.ioctl(fd, linux.SIOCOUTQ, &queued) == 0 else 0


cdef inline int survivor(const Flow *f) noexcept nogil:
    """The descriptor of the side that has not failed."""
    return f.fd[0 if f.dead & 2 else 1]


cdef inline void finish_acknowledged(Core *c, int32_t slot) noexcept nogil:
    """Finishes a flow of which one side has failed, as soon as the other side has acknowledged
    what it was sent."""
    cdef Flow *f = &c.flows[slot]
    f.outq = send_queue(survivor(f))
    if f.outq == 0:
        finish(c, slot, f.reason)
    else:
        enter_queue(c, slot, Q_ACK)


cdef inline void check_acks(Core *c) noexcept nogil:
    """Looks at the send queues of the flows in Q_ACK."""
    cdef int32_t slot = c.acking.first
    cdef int32_t following
    cdef int outq
    cdef Flow *f
    c.ack_next = c.now + c.limits.ack_poll
    while slot != NOWHERE:
        f = &c.flows[slot]
        following = f.near[IN_QUEUE].next
        outq = send_queue(survivor(f))
        if outq != f.outq:
            f.outq = outq
            f.queued = c.now
        if outq == 0 or c.now - f.queued >= c.limits.ack_patience:
            finish(c, slot, f.reason)
        slot = following
