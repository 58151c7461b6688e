"""The slots of flows, and the lists that flows are in.

A list runs through the flows themselves, by their slots: to enter it, or to leave it from its
middle, takes no memory and no search. Each flow has two pairs of neighbours, so it can be in
a list of its queue (IN_QUEUE) and in one of the lane (IN_LANE) at the same time.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memset

from core.types cimport (
    Core, DOWN, FREE, Flow, IN_LANE, IN_QUEUE, List, NOWHERE, Neighbours, Q_FINISHED, Q_NONE,
    UNREGISTERED,
)

cdef enum:
    FIRST_SLOTS = 64


cdef inline void list_init(List *items) noexcept nogil:
    items.first = items.last = NOWHERE


cdef inline void list_add(Core *c, List *items, int which, int32_t slot) noexcept nogil:
    """Puts a flow in front of the others. `which`: IN_QUEUE or IN_LANE."""
    cdef Neighbours *near = &c.flows[slot].near[which]
    near.prev = NOWHERE
    near.next = items.first
    if items.first != NOWHERE:
        c.flows[items.first].near[which].prev = slot
    else:
        items.last = slot
    items.first = slot


cdef inline void list_take(Core *c, List *items, int which, int32_t slot) noexcept nogil:
    """Takes a flow out of a list that it is in."""
    cdef const Neighbours *near = &c.flows[slot].near[which]
    if near.prev != NOWHERE:
        c.flows[near.prev].near[which].next = near.next
    else:
        items.first = near.next
    if near.next != NOWHERE:
        c.flows[near.next].near[which].prev = near.prev
    else:
        items.last = near.prev


cdef inline bint slots_reserve(Core *c, int32_t n) noexcept nogil:
    """Makes room for `n` more flows, which may move them all; false without memory."""
    cdef int32_t capacity = c.capacity * 2 if c.capacity else FIRST_SLOTS
    cdef int32_t i
    cdef Flow *flows
    if c.capacity - c.used >= n:
        return True
    flows = <Flow *>realloc(c.flows, capacity * sizeof(Flow))
    if flows == NULL:
        return False
    c.flows = flows
    memset(&flows[c.capacity], 0, (capacity - c.capacity) * sizeof(Flow))
    for i in range(capacity - 1, c.capacity - 1, -1):
        flows[i].near[IN_QUEUE].next = c.free
        c.free = i
    c.capacity = capacity
    return True


cdef inline int32_t slot_take(Core *c, int a, int b, uint8_t kind) noexcept nogil:
    """An empty flow on descriptors `a` and `b`, in no queue and not watched; NOWHERE if no
    slot is reserved."""
    cdef int32_t slot = c.free
    cdef uint32_t generation
    cdef Flow *f
    cdef int s
    if slot == NOWHERE:
        return NOWHERE
    f = &c.flows[slot]
    c.free = f.near[IN_QUEUE].next
    c.used += 1
    generation = f.generation
    memset(f, 0, sizeof(Flow))
    f.generation = generation
    f.kind = kind
    f.fd[0] = a
    f.fd[1] = b
    f.near[IN_QUEUE].next = f.near[IN_QUEUE].prev = NOWHERE
    f.near[IN_LANE].next = f.near[IN_LANE].prev = NOWHERE
    for s in range(2):
        f.mask[s] = <uint32_t>UNREGISTERED
        f.way[s].left = -1
        f.way[s].active = c.now
        f.way[s].pipe_r = f.way[s].pipe_w = NOWHERE
    f.way[1].flags = DOWN
    return slot


cdef inline int32_t slot_of(const Core *c, uint64_t tag) noexcept nogil:
    """The flow that an event is for; NOWHERE if it has ended."""
    cdef int32_t slot = <int32_t>(<uint32_t>tag >> 1)
    cdef const Flow *f = &c.flows[slot]
    if f.kind == FREE or f.generation != tag >> 32 or f.queue == Q_FINISHED:
        return NOWHERE
    return slot


cdef inline void slot_free(Core *c, int32_t slot) noexcept nogil:
    """Events that are still on their way to it are told by its generation."""
    cdef Flow *f = &c.flows[slot]
    f.kind = FREE
    f.queue = Q_NONE
    f.generation += 1
    f.near[IN_QUEUE].next = c.free
    c.free = slot
    c.used -= 1
