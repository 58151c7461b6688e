"""One step of the relay: batches of events, and what is due by the clock."""

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t

from core cimport linux
from check cimport check
from closing cimport close_finished
from core.counts cimport K_EVENTS, K_STEPS, count_up
from core.bulk cimport put_off, take_put_off
from core.guess cimport SURE, foresee, guess
from core.moves cimport pending, splices
from core.pipes cimport pool_empty
from core.queues cimport enter_queue, finish, leave_queue, waits_since, wheel_of
from core.resets cimport check_acks
from core.service cimport first_late, serve_event
from core.slots cimport slot_of, slots_reserve
from core.types cimport (
    BUCKETS, Core, Flow, IN_QUEUE, NOWHERE, QUEUES, Q_FINISHED, Q_HALF, Q_IDLE, Q_NAME, Q_YOUNG,
    R_HALF_CLOSE, R_IDLE, R_LIMIT, R_TARGET_IDLE, TRANSFER, TUNNEL, WHEELS, Wheel,
)
from lane.clients cimport accept_clients
from lane.counts cimport publish
from lane.exchange cimport client_event, exchange_late, origin_event
from lane.live cimport life_due, tell_lives
from lane.origins cimport idle_drop, probe
from lane.pacing cimport spend
from lane.types cimport (
    BATCH, CLIENT, LISTENER, Lane, ORIGIN, P_BODY, RESERVE, connection_of, exchange_of,
)
from lane.upload cimport uploading
from violation cimport CHECKED

cdef enum:
    SHARE = 1 << 20         # bytes of what was put off between two looks at epoll


cdef inline int64_t clock_ms(linux.clockid_t clock) noexcept nogil:
    cdef linux.timespec t
    linux.clock_gettime(clock, &t)
    return <int64_t>t.tv_sec * 1000 + t.tv_nsec // 1000000


cdef inline int64_t clock_us() noexcept nogil:
    cdef linux.timespec t
    linux.clock_gettime(linux.CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1000000 + t.tv_nsec // 1000


cdef inline bint is_bulk(const Lane *lane, int32_t slot) noexcept nogil:
    """Whether an event of this flow may move much."""
    cdef const Core *c = &lane.core
    cdef const Flow *f = &c.flows[slot]
    if f.kind == TUNNEL or f.kind == TRANSFER:
        return splices(c, &f.way[0]) or splices(c, &f.way[1])
    if f.kind == ORIGIN and connection_of(f).client != NOWHERE:
        f = &c.flows[connection_of(f).client]
    if f.kind != CLIENT:
        return False
    return (exchange_of(f).phase == P_BODY and splices(c, &f.way[1])) or (
        splices(c, &f.way[0]) and uploading(f))


cdef inline void serve(Lane *lane, int32_t slot, uint64_t tag, uint32_t events) noexcept nogil:
    """One event."""
    cdef Core *c = &lane.core
    cdef uint8_t kind = c.flows[slot].kind
    count_up(c, K_EVENTS)
    if kind == LISTENER:
        accept_clients(lane, slot)
    elif kind == CLIENT:
        client_event(lane, slot, events)
    elif kind == ORIGIN:
        origin_event(lane, slot, events)
    else:
        if c.flows[slot].metered and spend(lane, slot):
            finish(c, slot, R_LIMIT)  # others have used up what was left
            return
        serve_event(c, slot, <int>(tag & 1), events)
        if c.flows[slot].metered and c.flows[slot].queue != Q_FINISHED and spend(lane, slot):
            finish(c, slot, R_LIMIT)


cdef inline void serve_batch(Lane *lane, linux.epoll_event *events, int n) noexcept nogil:
    cdef Core *c = &lane.core
    cdef int i
    cdef uint64_t tag
    cdef int32_t slot
    c.now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)
    slots_reserve(c, RESERVE)  # without a slot the owner goes on
    for i in range(n):
        tag = events[i].data.u64
        slot = slot_of(c, tag)
        if slot == NOWHERE:
            continue
        if is_bulk(lane, slot):
            put_off(c, slot, tag, events[i].events)
        else:
            serve(lane, slot, tag, events[i].events)
    foresee(c, events[0].data.u64, events[0].events, n == 1)
    close_finished(lane)
    if CHECKED:
        check(lane)


cdef inline void serve_bulk(Lane *lane) noexcept nogil:
    """Serves what was put off, until that has moved a share of bytes. What the others have moved
    in this round does not count: some are always ready, and would stop it for good."""
    cdef Core *c = &lane.core
    cdef int served = 0
    cdef int64_t enough = c.moved + SHARE
    cdef uint64_t tag
    cdef uint32_t events
    cdef int32_t slot
    slots_reserve(c, RESERVE)
    while c.bulk_count > 0 and served < BATCH and c.moved < enough:
        served += 1
        slot = take_put_off(c, &tag, &events)
        if slot != NOWHERE and is_bulk(lane, slot):
            serve(lane, slot, tag, events)
    close_finished(lane)
    if CHECKED:
        check(lane)


cdef inline void keep_alive(Lane *lane, int32_t slot) noexcept nogil:
    """A tunnel or an exchange has rested for a while: its origin is probed from now on.
    Clients are from the start, they have it from the listening socket."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    if f.kind == TUNNEL:
        probe(c, f.fd[1])
    elif f.kind == CLIENT and exchange_of(f).connection != NOWHERE:
        f = &c.flows[exchange_of(f).connection]
        if not connection_of(f).probed:
            connection_of(f).probed = True
            probe(c, f.fd[0])


cdef inline void late(Lane *lane, int32_t slot, uint8_t queue) noexcept nogil:
    """The time limit of the queue that this flow is in is over."""
    cdef Core *c = &lane.core
    cdef const Flow *f = &c.flows[slot]
    if queue == Q_YOUNG:
        keep_alive(lane, slot)
        enter_queue(c, slot, Q_IDLE)
    elif queue == Q_NAME:
        first_late(c, slot)
    elif f.kind == CLIENT:
        exchange_late(lane, slot)
    elif f.kind == ORIGIN:
        idle_drop(lane, slot)
    elif f.kind == TRANSFER and pending(&f.way[0]):
        finish(c, slot, R_TARGET_IDLE)
    else:
        finish(c, slot, R_HALF_CLOSE if queue == Q_HALF else R_IDLE)


cdef inline void expire(Lane *lane, uint8_t queue) noexcept nogil:
    """Ends the flows of one wheel whose time is over; those that were active since they
    were queued are queued again."""
    cdef Core *c = &lane.core
    cdef Wheel *wheel = wheel_of(c, queue)
    cdef int32_t slot, following
    cdef int bucket
    while wheel.count > 0 and c.now >= wheel.time:
        bucket = wheel.now
        wheel.now = (wheel.now + 1) % (BUCKETS + 2)
        wheel.time += wheel.tick
        slot = wheel.bucket[bucket].first
        while slot != NOWHERE:
            following = c.flows[slot].near[IN_QUEUE].next
            if c.now - waits_since(&c.flows[slot]) >= wheel.timeout:
                late(lane, slot, queue)
            else:
                leave_queue(c, slot)
                enter_queue(c, slot, queue)
            slot = following


cdef inline void tick(Lane *lane) noexcept nogil:
    """What is due by the clock."""
    cdef Core *c = &lane.core
    cdef int queue
    c.now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)
    for queue in range(Q_YOUNG, QUEUES):
        expire(lane, <uint8_t>queue)
    if c.acking.first != NOWHERE and c.now >= c.ack_next:
        check_acks(c)
    tell_lives(lane)
    if c.pool.idle > 0 and c.now - c.pool.used >= c.limits.rest:
        pool_empty(c)
    close_finished(lane)
    if CHECKED:
        check(lane)


cdef inline int64_t next_due(const Lane *lane) noexcept nogil:
    """When `tick` must look again, ms; INT64_MAX if nothing is timed."""
    cdef const Core *c = &lane.core
    cdef int64_t due = life_due(lane)
    cdef int i
    for i in range(WHEELS):
        if c.wheels[i].count > 0:
            due = min(due, c.wheels[i].time)
    if c.acking.first != NOWHERE:
        due = min(due, c.ack_next)
    if c.pool.idle > 0:
        due = min(due, c.pool.used + c.limits.rest)
    return due


cdef inline bint look(Lane *lane) noexcept nogil:
    """Takes events from epoll, until none is left or all that are put off have been seen
    again; false when there may be more."""
    cdef Core *c = &lane.core
    cdef linux.epoll_event events[BATCH]
    cdef int n
    cdef int seen = 0
    while seen <= c.bulk_count:
        n = linux.epoll_wait(c.epfd, events, BATCH, 0)
        if n > 0:
            serve_batch(lane, events, n)
        if n < BATCH:
            return True
        seen += n
    return False


cdef inline bint run_guesses(Lane *lane) noexcept nogil:
    """A step that does not ask epoll; false if it has to."""
    cdef Core *c = &lane.core
    c.now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)
    if not guess(c):
        return False
    close_finished(lane)
    if CHECKED:
        check(lane)
    tick(lane)
    return True


cdef inline void run(Lane *lane) noexcept nogil:
    """Looks at epoll and serves what is put off, by turns, until nothing is left or the time
    is up. It goes round again only where much was moved: for a few small messages the extra
    epoll_wait costs more."""
    cdef Core *c = &lane.core
    cdef int64_t end
    cdef bint all_seen
    count_up(c, K_STEPS)
    if c.foresight == SURE and run_guesses(lane):
        publish(lane)
        return
    end = clock_us() + c.limits.step_us
    while True:
        c.moved = 0
        all_seen = look(lane)
        serve_bulk(lane)
        if all_seen and c.bulk_count == 0 and c.moved < <int64_t>c.limits.chunk:
            break
        if clock_us() >= end:
            break
    tick(lane)
    publish(lane)
