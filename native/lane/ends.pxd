"""How the work on a client's exchange ends: it is handed over, or cut short.

Functions that end a client leave its slot in Q_FINISHED; nothing may touch it afterwards.
"""

from libc.stdint cimport int32_t, uint8_t

from core.flow cimport (
    Core, Exchange, Flow, H_CLOSED, H_RESPONSE, H_UNANSWERED, P_QUEUE, R_HANDED_OVER,
)
from lane.log cimport log_put
from lane.origins cimport link_drop
from lane.routes cimport NOWHERE
from core.service cimport finish
from lane.waiting cimport dequeue


cdef inline void hand_over(Core *c, int32_t slot, uint8_t cause) noexcept nogil:
    """The owner goes on with this client, and with its origin if that has the request."""
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = f.x
    x.cause = cause
    if x.phase == P_QUEUE:
        dequeue(c, slot)
    if x.link != NOWHERE and cause != H_RESPONSE and cause != H_UNANSWERED:
        link_drop(c, x.link)
        x.link = NOWHERE
    if cause != H_CLOSED:
        c.counters.handed_over += 1
    finish(c, slot, R_HANDED_OVER)


cdef inline void close_client(Core *c, int32_t slot) noexcept nogil:
    hand_over(c, slot, H_CLOSED)


cdef inline void note(Core *c, int32_t slot, uint8_t reason) noexcept nogil:
    """The exchange in work is over: a line for the log."""
    cdef Flow *f = &c.flows[slot]
    log_put(c, f.x, f.x.head, f.way[1].copied + f.way[1].spliced, reason)


cdef inline void cut(Core *c, int32_t slot, uint8_t reason) noexcept nogil:
    """Ends an exchange in the middle, visibly: the client's connection is closed."""
    note(c, slot, reason)
    close_client(c, slot)
