"""Flows that move much wait until those that have little to say have been served.

A turn of a splicing direction may take half a millisecond. So its event is put off, and the
events put off are served one by one, in the order in which they came, between two looks at
epoll, until a share (step.pxd) has been moved: between two looks a small message waits for
less than one share and one turn, however many flows are splicing. Where small messages are
more than a batch, each batch of them waits so.

Epoll is level-triggered. What is dropped here, for want of room or because its flow has
changed since, is reported again.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from core.flow cimport (
    BULK_ROOM, CLIENT, Core, Flow, ORIGIN, P_BODY, TRANSFER, TUNNEL, slot_of,
)
from core.moves cimport splices
from lane.routes cimport NOWHERE


cdef inline bint is_bulk(const Core *c, int32_t slot) noexcept nogil:
    cdef const Flow *f = &c.flows[slot]
    if f.kind == TUNNEL or f.kind == TRANSFER:
        return splices(c, &f.way[0]) or splices(c, &f.way[1])
    if f.kind == ORIGIN and f.link.client != NOWHERE:
        f = &c.flows[f.link.client]
    return f.kind == CLIENT and f.x.phase == P_BODY and splices(c, &f.way[1])


cdef inline bint put_off(Core *c, int32_t slot, uint64_t tag, uint32_t events) noexcept nogil:
    """False for an event that is to be served at once."""
    cdef int at
    cdef Flow *f = &c.flows[slot]
    if not is_bulk(c, slot):
        return False
    if not f.put_off & (1 << (tag & 1)) and c.bulk_count < BULK_ROOM:
        f.put_off |= 1 << (tag & 1)
        at = (c.bulk_at + c.bulk_count) % BULK_ROOM
        c.bulk[at].tag = tag
        c.bulk[at].events = events
        c.bulk_count += 1
    return True


cdef inline int32_t take_bulk(Core *c, uint64_t *tag, uint32_t *events) noexcept nogil:
    """The flow of the event that has waited the longest; NOWHERE if there is none any more."""
    cdef int32_t slot
    tag[0] = c.bulk[c.bulk_at].tag
    events[0] = c.bulk[c.bulk_at].events
    c.bulk_at = (c.bulk_at + 1) % BULK_ROOM
    c.bulk_count -= 1
    slot = slot_of(c, tag[0])
    if slot == NOWHERE:
        return NOWHERE
    c.flows[slot].put_off &= ~(1 << (tag[0] & 1))
    return slot if is_bulk(c, slot) else NOWHERE
