"""Clients that wait for a connection to their origin, and when they need not.

An origin that answers soon is best served through few connections: thousands of clients
would otherwise open thousands. A client waits for one of those that will soon be free, if there
are Lane.busy_most. What has been in use for longer than the others is none of these: a long poll,
an event stream, a large answer. So a client waits behind other short exchanges, and for no
other's long ones.

How long that is follows from the rate of answers: N connections to an origin that has much to do
are all in use for N / rate seconds, and more of them would not help. Twice that is long. Where
the rate is less than one a second for each, Lane.late_ms is.
"""

from libc.stdint cimport int32_t, int64_t

from core.queues cimport enter_queue
from core.slots cimport list_add, list_take
from core.types cimport Core, Flow, IN_LANE, NOWHERE
from lane.types cimport (
    Connection, Exchange, Lane, ORIGIN, Origin, P_HEAD, P_QUEUE, Q_QUEUE, connection_of,
    exchange_of,
)

cdef enum:
    QUEUE_MS = 100          # ms after which a client that waits looks whether it must


cdef inline void count_answer(Lane *lane, Origin *o) noexcept nogil:
    cdef Core *c = &lane.core
    if c.now - o.second >= 1000:
        o.answers_before = o.answers if c.now - o.second < 2000 else 0
        o.answers = 0
        o.second = c.now
    o.answers += 1


cdef inline int32_t late_after(const Lane *lane, const Origin *o) noexcept nogil:
    """How many ms a connection is in use before it is late."""
    cdef const Core *c = &lane.core
    cdef int32_t rate = 0
    if c.now - o.second < 2000:
        rate = max(o.answers, o.answers_before)
    if rate < lane.busy_most:
        return lane.late_ms
    return max(lane.late_ms, <int32_t>(2000 * <int64_t>o.busy // rate))


cdef inline void count_late(Lane *lane) noexcept nogil:
    """Of each origin, the connections that have been in use for long. Looks at every flow,
    and so every QUEUE_MS at most, and only where an origin has many connections in use."""
    cdef Core *c = &lane.core
    cdef int32_t i
    cdef const Flow *f
    cdef const Connection *k
    cdef Origin *o
    if c.now - lane.looked < QUEUE_MS:
        return
    lane.looked = c.now
    for i in range(c.capacity):
        f = &c.flows[i]
        if f.kind != ORIGIN:
            continue
        k = connection_of(f)
        if k.client == NOWHERE or k.origin == NULL:
            continue
        o = k.origin
        if o.looked != c.now:
            o.looked = c.now
            o.late = 0
            o.late_after = late_after(lane, o)
        if c.now - k.since >= o.late_after:
            o.late += 1


cdef inline bint may_have_more(Lane *lane, Origin *o) noexcept nogil:
    """Whether one more connection may be made now."""
    cdef Core *c = &lane.core
    if o.busy < lane.busy_most:  # some have ended without an answer, or were given back
        return True
    count_late(lane)
    if o.busy - o.late >= lane.busy_most:
        return False
    if c.now - o.spell >= QUEUE_MS:
        o.spell = c.now
        o.extra = 0
    o.extra += 1
    return o.extra <= lane.extra_most


cdef inline void begin_waiting(Lane *lane, int32_t slot) noexcept nogil:
    """For a connection to the target that the exchange holds."""
    cdef Core *c = &lane.core
    cdef Exchange *x = exchange_of(&c.flows[slot])
    x.phase = P_QUEUE
    list_add(c, &x.target.origin.waiting, IN_LANE, slot)
    c.flows[slot].way[1].active = c.now
    enter_queue(c, slot, Q_QUEUE)


cdef inline void end_waiting(Lane *lane, int32_t slot) noexcept nogil:
    cdef Core *c = &lane.core
    cdef Exchange *x = exchange_of(&c.flows[slot])
    list_take(c, &x.target.origin.waiting, IN_LANE, slot)
    x.phase = P_HEAD
