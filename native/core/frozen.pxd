"""A tunnel that is given to another process, or taken over from one (spliceproxy/relay/moving.py):
it is *frozen*, which is out of epoll and in no wheel, until one of both goes on with it. So is a
transfer, whose owner gives it away.

No event reaches it: those that were put off are taken out here, and no others wait between two
steps. Nothing ends it either. While it is frozen Flow.bucket says which queue it goes back to.

A pipe of another process joins the pool when its tunnel goes on, if there is room. Before that its
bytes may not be touched: they are in the other's copy of the pipe as well.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from core cimport linux
from core.moves cimport empty_pipe, unpipe
from core.pipes cimport pool_kill
from core.queues cimport enter_queue, finish, leave_queue
from core.service cimport settle, side_failed, wanted, watch
from core.types cimport (
    BULK_ROOM, Core, Flow, Pool, Q_ACK, Q_FINISHED, Q_FROZEN, Q_NONE, R_ABORTED, TRANSFER, TUNNEL,
    UNREGISTERED, Way,
)


cdef inline bint can_freeze(const Flow *f) noexcept nogil:
    """Whether it is a tunnel that another process could go on with."""
    return (
        f.kind == TUNNEL and f.queue != Q_FINISHED and f.queue != Q_FROZEN and f.dead != 3
    )


cdef inline bint can_freeze_transfer(const Flow *f) noexcept nogil:
    return f.kind == TRANSFER and f.queue != Q_FINISHED and f.queue != Q_FROZEN


cdef inline void take_back_put_off(Core *c, int32_t slot) noexcept nogil:
    """Makes events that were put off those of nobody."""
    cdef Flow *f = &c.flows[slot]
    cdef int i, at
    if not f.put_off:
        return
    for i in range(c.bulk_count):
        at = (c.bulk_at + i) % BULK_ROOM
        if <int32_t>(<uint32_t>c.bulk[at].tag >> 1) == slot:
            # A generation that this slot has not, and will not have soon.
            c.bulk[at].tag ^= <uint64_t>1 << 63
    f.put_off = 0


cdef inline void drain_small(Core *c, Way *w, uint32_t most) noexcept nogil:
    """Reads up to so many bytes out of a way's pipe, if there is memory for them."""
    if 0 < w.in_pipe <= most:
        unpipe(c, w)


cdef inline void freeze(Core *c, int32_t slot, uint32_t drain_most) noexcept nogil:
    """Of a flow that can be frozen."""
    cdef Flow *f = &c.flows[slot]
    cdef uint8_t queue = f.queue
    cdef int s
    take_back_put_off(c, slot)
    for s in range(2):
        watch(c, slot, s, <uint32_t>UNREGISTERED)
        f.mask[s] = <uint32_t>UNREGISTERED
        drain_small(c, &f.way[s], drain_most)
    leave_queue(c, slot)
    f.queue = Q_FROZEN
    f.bucket = queue


cdef inline bint fits(const Pool *p, const Way *w) noexcept nogil:
    """Whether the pipe of a way, which counts as lent, may be lent to others later on."""
    return p.idle + p.lent <= p.limit and linux.fcntl(w.pipe_w, linux.F_GETPIPE_SZ) >= p.size


cdef inline bint join_pool(Core *c, Way *w) noexcept nogil:
    """Keeps the pipe of a way that goes on, or the bytes in it; false without memory for them."""
    if w.in_pipe == 0 or fits(&c.pool, w):
        return True
    if not empty_pipe(w):
        return False
    pool_kill(c, w)
    return True


cdef inline void thaw(Core *c, int32_t slot) noexcept nogil:
    """Of a frozen flow. It may finish at once."""
    cdef Flow *f = &c.flows[slot]
    cdef int64_t queued = f.queued
    cdef int s
    f.queue = Q_NONE
    enter_queue(c, slot, f.bucket)
    if f.queue == Q_ACK:
        f.queued = queued
    for s in range(2):
        if not join_pool(c, &f.way[s]):
            finish(c, slot, R_ABORTED)
            return
    for s in range(2):
        if watch(c, slot, s, wanted(f, s)) < 0:
            side_failed(c, f, s, linux.errno)
            finish(c, slot, f.reason)
            return
    settle(c, slot, -1)
