"""The queues that flows wait in: a timing wheel for each time limit, Q_ACK, and Q_FINISHED
at the end.

A wheel holds the flows of one limit in buckets by the time at which they are to be looked at.
A flow that was active meanwhile is queued again then; so no timer moves while bytes do.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t

from core.slots cimport list_add, list_init, list_take
from core.types cimport (
    BUCKETS, Core, Flow, IN_QUEUE, NOWHERE, Q_ACK, Q_FINISHED, Q_NAME, Q_NONE, Q_YOUNG, R_NONE,
    Wheel,
)


cdef inline Wheel *wheel_of(Core *c, uint8_t queue) noexcept nogil:
    """The wheel of a queue that has one: Q_YOUNG and what comes behind it."""
    return &c.wheels[queue - Q_YOUNG]


cdef inline void wheel_init(Core *c, uint8_t queue, int64_t timeout) noexcept nogil:
    cdef Wheel *wheel = wheel_of(c, queue)
    cdef int i
    wheel.timeout = timeout
    wheel.tick = timeout // BUCKETS + 1
    wheel.time = c.now + wheel.tick
    wheel.now = 0
    wheel.count = 0
    for i in range(BUCKETS + 2):
        list_init(&wheel.bucket[i])


cdef inline int64_t last_active(const Flow *f) noexcept nogil:
    return max(f.way[0].active, f.way[1].active)


cdef inline int64_t waits_since(const Flow *f) noexcept nogil:
    """From when on the time limit of its queue counts."""
    return f.gate.since if f.queue == Q_NAME else last_active(f)


cdef inline void wheel_put(
    Core *c, Wheel *wheel, int32_t slot, int64_t active
) noexcept nogil:
    """Queues a flow that was last active at `active`, to be looked at when that is
    `timeout` ago. O(1): no list is searched."""
    cdef int64_t ticks
    if wheel.count == 0:  # it rested: its clock stood still
        wheel.time = c.now + wheel.tick
    ticks = (active + wheel.timeout - wheel.time) // wheel.tick + 1
    if ticks < 0:
        ticks = 0
    elif ticks > BUCKETS + 1:
        ticks = BUCKETS + 1
    c.flows[slot].bucket = <uint8_t>((wheel.now + ticks) % (BUCKETS + 2))
    list_add(c, &wheel.bucket[c.flows[slot].bucket], IN_QUEUE, slot)
    wheel.count += 1


cdef inline void wheel_change(Core *c, uint8_t queue, int64_t timeout) noexcept nogil:
    """Another limit, for those as well that wait in this queue."""
    cdef Wheel *wheel = wheel_of(c, queue)
    cdef int32_t slot
    if timeout == wheel.timeout:
        return
    wheel_init(c, queue, timeout)
    for slot in range(c.capacity):
        if c.flows[slot].queue == queue:
            wheel_put(c, wheel, slot, waits_since(&c.flows[slot]))


cdef inline void leave_queue(Core *c, int32_t slot) noexcept nogil:
    cdef Flow *f = &c.flows[slot]
    cdef Wheel *wheel
    if f.queue >= Q_YOUNG:
        wheel = wheel_of(c, f.queue)
        list_take(c, &wheel.bucket[f.bucket], IN_QUEUE, slot)
        wheel.count -= 1
    elif f.queue == Q_ACK:
        list_take(c, &c.acking, IN_QUEUE, slot)
    f.queue = Q_NONE


cdef inline void enter_queue(Core *c, int32_t slot, uint8_t queue) noexcept nogil:
    """Of Q_ACK and the wheels. A flow that is in this queue already stays where it is."""
    cdef Flow *f = &c.flows[slot]
    if f.queue == queue:
        return
    leave_queue(c, slot)
    f.queue = queue
    if queue >= Q_YOUNG:
        wheel_put(c, wheel_of(c, queue), slot, waits_since(f))
    elif queue == Q_ACK:
        if c.acking.first == NOWHERE:
            c.ack_next = c.now + c.limits.ack_poll
        f.queued = c.now
        list_add(c, &c.acking, IN_QUEUE, slot)


cdef inline void finish(Core *c, int32_t slot, uint8_t reason) noexcept nogil:
    """No more work for this flow; `close_finished` ends it after the batch."""
    cdef Flow *f = &c.flows[slot]
    if f.queue == Q_FINISHED:
        return
    leave_queue(c, slot)
    if f.reason == R_NONE:
        f.reason = reason
    f.queue = Q_FINISHED
    f.near[IN_QUEUE].next = c.finished
    c.finished = slot
