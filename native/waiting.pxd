"""Clients that wait for a connection to their origin, and when they need not.

An origin that answers soon is best served through few connections: thousands of clients
would otherwise open thousands. A client waits for one of BUSY that will soon be free. What
has been in use for LATE_MS is none of these: a long poll, an event stream, a slow answer or
a large one. So a client waits behind other short exchanges, and for no other's long ones.
"""

from libc.stdint cimport int32_t

from flow cimport Core, Exchange, Flow, ORIGIN, P_IDLE, P_QUEUE, Q_QUEUE, enter_queue
from routes cimport NOWHERE, Origin

cdef enum:
    BUSY = 512              # connections to one origin that will soon be free: more clients wait
    LATE_MS = 500           # ms in use, after which a connection is not expected to be free soon
    QUEUE_MS = 100          # ms after which a client that waits looks whether it must
    EXTRA = 128             # connections beyond BUSY that are made in such a time


cdef inline void count_late(Core *c) noexcept nogil:
    """Of each origin, the connections that have been in use for long. Looks at every flow,
    and so every QUEUE_MS at most, and only where an origin has BUSY connections in use."""
    cdef int32_t i
    cdef const Flow *f
    if c.now - c.looked < QUEUE_MS:
        return
    c.looked = c.now
    for i in range(c.routes.origin_count):
        c.routes.origins[i].late = 0
    for i in range(c.capacity):
        f = &c.flows[i]
        if f.kind != ORIGIN or f.link.client == NOWHERE or f.link.origin == NOWHERE:
            continue
        if c.now - f.link.since >= LATE_MS:
            c.routes.origins[f.link.origin].late += 1


cdef inline bint may_have_more(Core *c, Origin *o) noexcept nogil:
    """Whether one more connection may be made now."""
    if o.busy < BUSY:  # some have ended without an answer, or were handed over
        return True
    count_late(c)
    if o.busy - o.late >= BUSY:
        return False
    if c.now - o.spell >= QUEUE_MS:
        o.spell = c.now
        o.extra = 0
    o.extra += 1
    return o.extra <= EXTRA


cdef inline void enqueue(Core *c, int32_t slot, int32_t origin) noexcept nogil:
    cdef Exchange *x = c.flows[slot].x
    cdef Origin *o = &c.routes.origins[origin]
    x.phase = P_QUEUE
    x.origin = origin
    x.before = o.last
    x.after = NOWHERE
    if o.last != NOWHERE:
        c.flows[o.last].x.after = slot
    else:
        o.first = slot
    o.last = slot
    c.flows[slot].way[1].active = c.now
    enter_queue(c, slot, Q_QUEUE)


cdef inline void dequeue(Core *c, int32_t slot) noexcept nogil:
    cdef Exchange *x = c.flows[slot].x
    cdef Origin *o = &c.routes.origins[x.origin]
    if x.before != NOWHERE:
        c.flows[x.before].x.after = x.after
    else:
        o.first = x.after
    if x.after != NOWHERE:
        c.flows[x.after].x.before = x.before
    else:
        o.last = x.before
    x.phase = P_IDLE
