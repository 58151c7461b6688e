"""Clients that wait for a connection to their origin, and when they need not.

An origin that answers soon is best served through few connections: thousands of clients
would otherwise open thousands. A client waits for one of BUSY that will soon be free. What
has been in use for longer than the others is none of these: a long poll, an event stream, a
large answer. So a client waits behind other short exchanges, and for no other's long ones.

How long that is follows from the rate of answers: BUSY connections to an origin that has
much to do are all in use for BUSY / rate seconds, and more of them would not help. Twice
that is long. Where the rate is less than one a second for each, LATE_MS is.
"""

from libc.stdint cimport int32_t, int64_t

from core.flow cimport Core, Exchange, Flow, ORIGIN, P_IDLE, P_QUEUE, Q_QUEUE, enter_queue
from lane.routes cimport NOWHERE, Origin

cdef enum:
    BUSY = 512              # connections to one origin that will soon be free: more clients wait
    LATE_MS = 500           # ms in use, before which no connection is late
    QUEUE_MS = 100          # ms after which a client that waits looks whether it must
    EXTRA = 128             # connections beyond BUSY that are made in such a time


cdef inline void count_answer(Core *c, Origin *o) noexcept nogil:
    if c.now - o.second >= 1000:
        o.answers_before = o.answers if c.now - o.second < 2000 else 0
        o.answers = 0
        o.second = c.now
    o.answers += 1


cdef inline int32_t late_after(const Core *c, const Origin *o) noexcept nogil:
    """How many ms a connection is in use before it is late."""
    cdef int32_t rate = 0
    if c.now - o.second < 2000:
        rate = max(o.answers, o.answers_before)
    if rate < BUSY:
        return LATE_MS
    return max(<int32_t>LATE_MS, <int32_t>(2000 * <int64_t>o.busy // rate))


cdef inline void count_late(Core *c) noexcept nogil:
    """Of each origin, the connections that have been in use for long. Looks at every flow,
    and so every QUEUE_MS at most, and only where an origin has BUSY connections in use."""
    cdef int32_t i
    cdef const Flow *f
    cdef Origin *o
    if c.now - c.looked < QUEUE_MS:
        return
    c.looked = c.now
    for i in range(c.routes.origin_count):
        c.routes.origins[i].late = 0
        c.routes.origins[i].late_after = late_after(c, &c.routes.origins[i])
    for i in range(c.capacity):
        f = &c.flows[i]
        if f.kind != ORIGIN or f.link.client == NOWHERE or f.link.origin == NOWHERE:
            continue
        o = &c.routes.origins[f.link.origin]
        if c.now - f.link.since >= o.late_after:
            o.late += 1


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
