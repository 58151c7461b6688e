"""Flows that move much wait until those that have little to say have been served.

A turn of a way that splices may take half a millisecond. So its event is put off, and the
events put off are served one by one, in the order in which they came, between two looks at
epoll, until a share (step.pxd) has been moved: between two looks a small message waits for
less than one share and one turn, however many flows are splicing. Where small messages are
more than a batch, each batch of them waits so.

Epoll is level-triggered. What is dropped here, for want of room or because its flow has
changed since, is reported again. Which flows move much, step.pxd says.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from core.slots cimport slot_of
from core.types cimport BULK_ROOM, Core, Flow, NOWHERE


cdef inline void put_off(Core *c, int32_t slot, uint64_t tag, uint32_t events) noexcept nogil:
    """An event of a flow that moves much."""
    cdef int at
    cdef Flow *f = &c.flows[slot]
    if not f.put_off & (1 << (tag & 1)) and c.bulk_count < BULK_ROOM:
        f.put_off |= 1 << (tag & 1)
        at = (c.bulk_at + c.bulk_count) % BULK_ROOM
        c.bulk[at].tag = tag
        c.bulk[at].events = events
        c.bulk_count += 1


cdef inline int32_t take_put_off(Core *c, uint64_t *tag, uint32_t *events) noexcept nogil:
    """The flow of the event that has waited the longest; NOWHERE if it has ended."""
    cdef int32_t slot
    tag[0] = c.bulk[c.bulk_at].tag
    events[0] = c.bulk[c.bulk_at].events
    c.bulk_at = (c.bulk_at + 1) % BULK_ROOM
    c.bulk_count -= 1
    slot = slot_of(c, tag[0])
    if slot != NOWHERE:
        c.flows[slot].put_off &= ~(1 << (tag[0] & 1))
    return slot
