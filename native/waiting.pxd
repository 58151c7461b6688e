"""Clients that wait for a connection to their origin, and when they need not.

An origin that answers soon is best served through few connections: thousands of clients
would otherwise open thousands. Where each of BUSY connections answers once a second, a
client waits for one of them; where they do not, their number grows.
"""

from libc.stdint cimport int32_t

from flow cimport Core, Exchange, P_IDLE, P_QUEUE, Q_QUEUE, enter_queue
from routes cimport NOWHERE, Origin

cdef enum:
    BUSY = 512              # connections in use to one origin, beyond which clients wait
    QUEUE_MS = 100          # ms after which such a client looks whether it must
    EXTRA = 128             # connections beyond BUSY that are made in such a time


cdef inline void count_answer(Core *c, Origin *o) noexcept nogil:
    if c.now - o.second >= 1000:
        o.answers_before = o.answers if c.now - o.second < 2000 else 0
        o.answers = 0
        o.second = c.now
    o.answers += 1


cdef inline bint answers_soon(Core *c, const Origin *o) noexcept nogil:
    if c.now - o.second >= 2000:
        return False
    return o.answers + o.answers_before >= BUSY


cdef inline bint may_have_more(Core *c, Origin *o) noexcept nogil:
    """Whether one more connection may be made now."""
    if o.busy < BUSY:  # some have ended without an answer, or were handed over
        return True
    if answers_soon(c, o):
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
