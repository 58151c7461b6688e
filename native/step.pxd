"""One step of the relay: batches of events, what is due by the clock, and the flows that
have finished."""

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport malloc

from core cimport linux
from core.bulk cimport put_off, take_bulk
from lane.clients cimport RESERVE, accept_clients
from lane.exchange cimport client_event, exchange_late, origin_event
from core.flow cimport (
    BUCKETS, CLIENT, Core, Flow, H_CLOSED, INFO_MAX, LISTENER, Link, ORIGIN, Q_IDLE, R_DONE,
    R_HALF_CLOSE, R_IDLE, R_NONE, R_TARGET_IDLE, TRANSFER, TUNNEL, UNREGISTERED, Wheel,
    enter_queue, last_active, leave_queue, pending, slot_of,
    slots_reserve,
)
from core.moves cimport drop_pending
from lane.log cimport log_put
from lane.origins cimport kept_drop, link_take_out, probe
from core.pipes cimport pool_empty
from lane.routes cimport NOWHERE
from core.service cimport finish, send_queue, serve_event, watch

cdef enum:
    BATCH = 32              # events taken from epoll at a time
    SHARE = 1 << 20         # bytes of what was put off between two looks at epoll


cdef inline int64_t clock_ms(linux.clockid_t clock) noexcept nogil:
    cdef linux.timespec t
    linux.clock_gettime(clock, &t)
    return <int64_t>t.tv_sec * 1000 + t.tv_nsec // 1000000


cdef inline int64_t clock_us() noexcept nogil:
    cdef linux.timespec t
    linux.clock_gettime(linux.CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1000000 + t.tv_nsec // 1000


cdef inline void reset_on_close(int fd) noexcept nogil:
    """close(2) will send RST (SO_LINGER of 0 seconds, socket(7))."""
    cdef linux.linger now
    now.l_onoff = 1
    now.l_linger = 0
    linux.setsockopt(fd, linux.SOL_SOCKET, linux.SO_LINGER, &now, sizeof(now))


cdef inline void read_infos(Flow *f) noexcept nogil:
    """TCP_INFO of both legs, into one block; without memory there is none."""
    cdef int s
    cdef linux.socklen_t size
    f.info = <char *>malloc(2 * INFO_MAX)
    for s in range(2):
        size = INFO_MAX
        f.info_len[s] = 0
        if f.info != NULL and linux.getsockopt(
            f.fd[s], linux.IPPROTO_TCP, linux.TCP_INFO, f.info + s * INFO_MAX, &size
        ) == 0:
            f.info_len[s] = size


cdef inline void release_client(Core *c, int32_t slot) noexcept nogil:
    """Closes the client's descriptor, or takes it and its origin's out of epoll."""
    cdef Flow *f = &c.flows[slot]
    if f.x.cause == H_CLOSED:
        c.clients -= 1  # before its peer can know, who may come again at once
        linux.close(f.fd[0])
        return
    watch(c, slot, 0, <uint32_t>UNREGISTERED)
    if f.x.link != NOWHERE:
        f.x.reused = not c.flows[f.x.link].link.fresh
        f.x.origin_fd = link_take_out(c, f.x.link)
        f.x.link = NOWHERE


cdef inline void release(Core *c, int32_t slot) noexcept nogil:
    """Takes a finished flow's descriptors out of epoll: a tunnel's are closed, a
    transfer's go back to their owner."""
    cdef Flow *f = &c.flows[slot]
    cdef int s
    for s in range(2):
        drop_pending(c, &f.way[s])
    if f.kind == CLIENT:
        release_client(c, slot)
        return
    if f.kind == TUNNEL:
        c.ended += 1
    if f.kind == TUNNEL and f.x == NULL:
        read_infos(f)
    elif f.kind == TUNNEL:
        log_put(
            c, f.x, f.x.head + f.way[0].copied + f.way[0].spliced,
            f.way[1].copied + f.way[1].spliced, f.reason)
    for s in range(2):
        if f.kind == TUNNEL:
            if f.reason != R_DONE:
                reset_on_close(f.fd[s])
        elif f.mask[s] != <uint32_t>UNREGISTERED:
            watch(c, slot, s, <uint32_t>UNREGISTERED)
        if f.kind == TUNNEL or f.dupped & (1 << s):
            linux.close(f.fd[s])


cdef inline void close_finished(Core *c) noexcept nogil:
    """After a batch: the flows that have finished in it, which can be reported now."""
    cdef int32_t slot
    while c.finished != NOWHERE:
        slot = c.finished
        c.finished = c.flows[slot].next
        release(c, slot)
        c.flows[slot].next = c.closed
        c.closed = slot


cdef inline void serve(Core *c, int32_t slot, uint64_t tag, uint32_t events) noexcept nogil:
    """One event."""
    cdef uint8_t kind = c.flows[slot].kind
    c.counters.events += 1
    if kind == LISTENER:
        accept_clients(c, slot)
    elif kind == CLIENT:
        client_event(c, slot, events)
    elif kind == ORIGIN:
        origin_event(c, slot, events)
    else:
        serve_event(c, slot, <int>(tag & 1), events)


cdef inline void serve_batch(Core *c, linux.epoll_event *events, int n) noexcept nogil:
    cdef int i
    cdef uint64_t tag
    cdef int32_t slot
    c.now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)
    # An event opens two connections at most: where an exchange ends, for a client that waits
    # and for the next request. Without a slot the owner does it.
    slots_reserve(c, RESERVE)
    for i in range(n):
        tag = events[i].data.u64
        slot = slot_of(c, tag)
        if slot != NOWHERE and not put_off(c, slot, tag, events[i].events):
            serve(c, slot, tag, events[i].events)
    close_finished(c)


cdef inline void serve_bulk(Core *c) noexcept nogil:
    """What was put off, until a share of bytes has moved: beside those that the others have
    moved, who would stop it for good by being always ready."""
    cdef int served = 0
    cdef int64_t enough = c.moved + SHARE
    cdef uint64_t tag
    cdef uint32_t events
    cdef int32_t slot
    slots_reserve(c, RESERVE)
    while c.bulk_count > 0 and served < BATCH and c.moved < enough:
        served += 1
        slot = take_bulk(c, &tag, &events)
        if slot != NOWHERE:
            serve(c, slot, tag, events)
    close_finished(c)


cdef inline void requeue(Core *c, int32_t slot) noexcept nogil:
    cdef uint8_t queue = c.flows[slot].queue
    leave_queue(c, slot)
    enter_queue(c, slot, queue)


cdef inline void keep_alive(Core *c, int32_t slot) noexcept nogil:
    """A tunnel or an exchange has rested for a while: its origin is probed from now on.
    Clients are from the start, they have it from the listening socket."""
    cdef Flow *f = &c.flows[slot]
    cdef Link *k
    if f.kind == TUNNEL:
        probe(f.fd[1])
    elif f.kind == CLIENT and f.x.link != NOWHERE:
        k = c.flows[f.x.link].link
        if not k.probed:
            k.probed = True
            probe(c.flows[f.x.link].fd[0])


cdef inline void expire(Core *c, Wheel *wheel, uint8_t reason) noexcept nogil:
    """Ends the flows of one wheel whose time is over; those that were active since they
    were queued are queued again."""
    cdef int32_t slot, following
    cdef int bucket
    while wheel.count > 0 and c.now >= wheel.time:
        bucket = wheel.now
        wheel.now = (wheel.now + 1) % (BUCKETS + 2)
        wheel.time += wheel.tick
        slot = wheel.head[bucket]
        while slot != NOWHERE:
            following = c.flows[slot].next
            if c.now - last_active(&c.flows[slot]) >= wheel.timeout:
                if wheel == &c.young:
                    keep_alive(c, slot)
                    enter_queue(c, slot, Q_IDLE)
                elif c.flows[slot].kind == CLIENT:
                    exchange_late(c, slot)
                elif c.flows[slot].kind == ORIGIN:
                    kept_drop(c, slot)
                elif c.flows[slot].kind == TRANSFER and pending(&c.flows[slot].way[0]):
                    finish(c, slot, R_TARGET_IDLE)
                else:
                    finish(c, slot, reason)
            else:
                requeue(c, slot)
            slot = following


cdef inline void check_acks(Core *c) noexcept nogil:
    """The flows that wait for a send queue to empty before they reset its socket."""
    cdef int32_t slot = c.acking
    cdef int32_t following
    cdef int outq
    cdef Flow *f
    c.ack_next = c.now + c.limits.ack_poll
    while slot != NOWHERE:
        f = &c.flows[slot]
        following = f.next
        outq = send_queue(f.fd[0 if f.dead & 2 else 1])
        if outq != f.outq:
            f.outq = outq
            f.queued = c.now
        if outq == 0 or c.now - f.queued >= c.limits.ack_patience:
            finish(c, slot, f.reason)
        slot = following


cdef inline void tick(Core *c) noexcept nogil:
    """What is due by the clock."""
    c.now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)
    expire(c, &c.young, R_NONE)
    expire(c, &c.idle, R_IDLE)
    expire(c, &c.half, R_HALF_CLOSE)
    expire(c, &c.head, R_NONE)
    expire(c, &c.dial, R_NONE)
    expire(c, &c.race, R_NONE)
    expire(c, &c.queue, R_NONE)
    expire(c, &c.kept, R_NONE)
    if c.acking != NOWHERE and c.now >= c.ack_next:
        check_acks(c)
    if c.pool.idle > 0 and c.now - c.pool.used >= c.limits.rest:
        pool_empty(c)
    close_finished(c)


cdef inline void sooner(int64_t *due, const Wheel *wheel) noexcept nogil:
    if wheel.count > 0 and wheel.time < due[0]:
        due[0] = wheel.time


cdef inline int64_t next_due(const Core *c) noexcept nogil:
    """When `tick` must look again, ms; INT64_MAX if nothing is timed."""
    cdef int64_t due = INT64_MAX
    sooner(&due, &c.young)
    sooner(&due, &c.idle)
    sooner(&due, &c.half)
    sooner(&due, &c.head)
    sooner(&due, &c.dial)
    sooner(&due, &c.race)
    sooner(&due, &c.queue)
    sooner(&due, &c.kept)
    if c.acking != NOWHERE:
        due = min(due, c.ack_next)
    if c.pool.idle > 0:
        due = min(due, c.pool.used + c.limits.rest)
    return due


cdef inline bint look(Core *c) noexcept nogil:
    """Takes events from epoll, until none is left or all that are put off have been seen
    again; false when there may be more."""
    cdef linux.epoll_event events[BATCH]
    cdef int n
    cdef int seen = 0
    while seen <= c.bulk_count:
        n = linux.epoll_wait(c.epfd, events, BATCH, 0)
        if n > 0:
            serve_batch(c, events, n)
        if n < BATCH:
            return True
        seen += n
    return False


cdef inline void run(Core *c) noexcept nogil:
    """Looks at epoll and serves what is put off, by turns, until nothing is left or the time
    is up. It goes round again only where much was moved: for a few small messages the extra
    epoll_wait costs more."""
    cdef int64_t end = clock_us() + c.limits.step_us
    cdef bint all_seen
    c.counters.steps += 1
    while True:
        c.moved = 0
        all_seen = look(c)
        serve_bulk(c)
        if all_seen and c.bulk_count == 0 and c.moved < <int64_t>c.limits.chunk:
            break
        if clock_us() >= end:
            break
    tick(c)
