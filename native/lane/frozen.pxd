"""A request that is given to another process while its answer is awaited, or comes (core/frozen.pxd):
its client and the connection to its origin. The other goes on with it as with a client that the
lane has given back, so what is in a pipe is read out of it, and nothing is narrow any more.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t

from core.crowd cimport widen
from core.frozen cimport take_back_put_off
from core.moves cimport unpipe
from core.queues cimport enter_queue, leave_queue
from core.service cimport watch
from core.types cimport (
    Core, Flow, NARROW, NOWHERE, Q_FINISHED, Q_FROZEN, Q_NONE, UNREGISTERED, Way,
)
from core.waits cimport end_waits
from lane.origins cimport probe
from lane.types cimport (
    CLIENT, Connection, Exchange, Lane, P_BODY, P_WAIT, connection_of, exchange_of,
)
from lane.upload cimport uploaded, uploading, watch_both


cdef inline bint can_freeze_exchange(const Flow *f) noexcept nogil:
    """Whether it is a client whose request has been sent, maybe but for a part of its body. Where
    the origin takes no more of that it stays: its answer says what is the matter."""
    cdef const Exchange *x = exchange_of(f)
    if f.kind != CLIENT or f.queue == Q_FINISHED or f.queue == Q_FROZEN:
        return False
    if x.connection == NOWHERE or (x.phase != P_WAIT and x.phase != P_BODY):
        return False
    return uploaded(f) or uploading(f)


cdef inline bint unpiped(Core *c, Way *w) noexcept nogil:
    return w.in_pipe == 0 or unpipe(c, w)


cdef inline bint freeze_exchange(Lane *lane, int32_t slot) noexcept nogil:
    """Of one that can be frozen; false without memory, and it is as it was."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef int32_t other = exchange_of(f).connection
    cdef Connection *k = connection_of(&c.flows[other])
    cdef int fd = c.flows[other].fd[0]
    cdef uint8_t queue = f.queue
    end_waits(c, f, True)
    if not unpiped(c, &f.way[0]) or not unpiped(c, &f.way[1]):
        return False
    if f.way[0].flags & NARROW:
        widen(&f.way[0], f.fd[0], fd)
    if f.way[1].flags & NARROW:
        widen(&f.way[1], fd, f.fd[0])
    if not k.probed:
        k.probed = True
        probe(c, fd)
    take_back_put_off(c, slot)
    take_back_put_off(c, other)
    watch(c, slot, 0, <uint32_t>UNREGISTERED)
    watch(c, other, 0, <uint32_t>UNREGISTERED)
    f.mask[0] = c.flows[other].mask[0] = <uint32_t>UNREGISTERED
    leave_queue(c, slot)
    f.queue = Q_FROZEN
    f.bucket = queue
    return True


cdef inline void thaw_exchange(Lane *lane, int32_t slot) noexcept nogil:
    """Of a frozen one. It may finish at once."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    f.queue = Q_NONE
    enter_queue(c, slot, f.bucket)
    watch_both(lane, slot)
