"""What must hold of flows and pipes, of whatever kind (check.pxd)."""

from libc.stdint cimport int32_t, uint64_t, uint8_t

from core.guess cimport BLIND, PAUSE, SURE, VAIN
from core.hello cimport FLIGHT
from core.moves cimport pending
from core.slots cimport slot_of
from core.types cimport (
    BUCKETS, BULK_ROOM, Core, FREE, Flow, IN_QUEUE, NARROW, NOWHERE, PROMISED, QUEUES, Q_ACK,
    Q_FINISHED, Q_FROZEN, Q_NAME, Q_YOUNG, TRANSFER, TUNNEL, Way, Wheel,
)
from lane.types cimport CLIENT, G_CLOSED, Lane, exchange_of
from violation cimport check_chain, check_list, fail


cdef inline int32_t one_in(const Core *c, int queue) noexcept nogil:
    """A flow that says that it is in this queue, for its line; NOWHERE if none does."""
    cdef int32_t slot
    for slot in range(c.capacity):
        if c.flows[slot].kind != FREE and c.flows[slot].queue == queue:
            return slot
    return NOWHERE


cdef inline void check_gate(const Lane *lane, int32_t slot) noexcept nogil:
    """Of the name inside TLS (core/gate.pxd)."""
    cdef const Flow *f = &lane.core.flows[slot]
    if f.queue == Q_NAME and f.gate == NULL:
        fail(lane, "who has to say a name in time has a gate", slot)
    if f.gate == NULL or f.queue == Q_FINISHED:
        return
    if f.kind != TUNNEL:
        fail(lane, "only a tunnel has a gate", slot)
    if f.found or f.way[0].copied or pending(&f.way[0]):
        fail(lane, "nothing passes a gate before it is open", slot)
    if (f.gate.have > 0) != (f.gate.since > 0) or f.gate.have >= FLIGHT:
        fail(lane, "a gate keeps what has come, and since when", slot)


cdef inline void check_queues(const Lane *lane) noexcept nogil:
    cdef const Core *c = &lane.core
    cdef int32_t in_queue[QUEUES]
    cdef int32_t count, slot
    cdef const Wheel *wheel
    cdef int queue, b
    for queue in range(QUEUES):
        in_queue[queue] = 0
    for slot in range(c.capacity):
        if c.flows[slot].queue >= QUEUES:
            fail(lane, "a queue is one of the enum", slot)
        if c.flows[slot].kind != FREE:
            in_queue[c.flows[slot].queue] += 1
        check_gate(lane, slot)
    for queue in range(Q_YOUNG, QUEUES):
        wheel = &c.wheels[queue - Q_YOUNG]
        count = 0
        for b in range(BUCKETS + 2):
            count += check_list(lane, &wheel.bucket[b], IN_QUEUE, <uint8_t>queue, b)
        if count != wheel.count:
            fail(lane, "a wheel counts its flows", one_in(c, queue))
        if count != in_queue[queue]:
            fail(lane, "a flow that is in a queue is in the list of it", one_in(c, queue))
    if check_list(lane, &c.acking, IN_QUEUE, Q_ACK, -1) != in_queue[<int>Q_ACK]:
        fail(lane, "a flow in Q_ACK is in the list of it", c.acking.first)
    if c.finished != NOWHERE:
        fail(lane, "what has finished is closed after a batch", c.finished)
    if check_chain(lane, c.closed, False) != in_queue[<int>Q_FINISHED]:
        fail(lane, "what has finished is in the list of what is to be reported", c.closed)
    if check_chain(lane, c.free, True) != c.capacity - c.used:
        fail(lane, "the free slots are those that are not used", c.free)


cdef inline void check_counters(const Lane *lane) noexcept nogil:
    cdef const Core *c = &lane.core
    cdef int32_t slot
    cdef const Flow *f
    cdef int used = 0, tunnels = 0, transfers = 0, ended = 0, clients = 0
    for slot in range(c.capacity):
        f = &c.flows[slot]
        used += f.kind != FREE
        transfers += f.kind == TRANSFER
        if f.kind == TUNNEL:
            tunnels += 1
            ended += f.queue == Q_FINISHED
        elif f.kind == CLIENT:
            clients += f.queue != Q_FINISHED or exchange_of(f).cause != G_CLOSED
    if used != c.used:
        fail(lane, "used slots are counted", NOWHERE)
    if tunnels != c.tunnels:
        fail(lane, "tunnels are counted", NOWHERE)
    if transfers != c.transfers:
        fail(lane, "transfers are counted", NOWHERE)
    if ended != c.ended:
        fail(lane, "tunnels that are closed and not reported are counted", NOWHERE)
    if clients != lane.clients:
        fail(lane, "clients are counted", NOWHERE)


cdef inline bint holds_pipe(const Core *c, int fd) noexcept nogil:
    """More than one place has this descriptor of a pipe."""
    cdef int32_t slot
    cdef int i, s
    cdef int places = 0
    for i in range(2 * c.pool.idle):
        places += c.pool.fds[i] == fd
    for slot in range(c.capacity):
        if c.flows[slot].kind != FREE:
            for s in range(2):
                places += c.flows[slot].way[s].pipe_r == fd
                places += c.flows[slot].way[s].pipe_w == fd
    return places > 1


cdef inline void check_pipes(const Lane *lane) noexcept nogil:
    cdef const Core *c = &lane.core
    cdef int32_t slot
    cdef const Way *w
    cdef int i, s
    cdef int lent = 0
    cdef int frozen = 0         # a pipe of another process joins the pool when its flow goes on
    for slot in range(c.capacity):
        if c.flows[slot].kind == FREE:
            continue
        for s in range(2):
            w = &c.flows[slot].way[s]
            if (w.pipe_r == NOWHERE) != (w.in_pipe == 0) or (w.pipe_r < 0) != (w.pipe_w < 0):
                fail(lane, "a way has a pipe where bytes are in it", slot)
            if w.flags & PROMISED and not w.flags & NARROW:
                fail(lane, "a way whose buffer is to shrink is narrow", slot)
            if w.held != NULL and w.held_at >= w.held_end:
                fail(lane, "a way holds a block where bytes are in it", slot)
            if w.in_pipe == 0:
                continue
            lent += 1
            frozen += c.flows[slot].queue == Q_FROZEN
            if holds_pipe(c, w.pipe_r) or holds_pipe(c, w.pipe_w):
                fail(lane, "a pipe is in one place", slot)
    if lent != c.pool.lent:
        fail(lane, "lent pipes are those with bytes in them", NOWHERE)
    if c.pool.idle < 0 or c.pool.idle + c.pool.lent - frozen > max(c.pool.limit, 0):
        fail(lane, "there are no more pipes than the limit", NOWHERE)
    for i in range(2 * c.pool.idle):
        if holds_pipe(c, c.pool.fds[i]):
            fail(lane, "a pipe is in one place", NOWHERE)


cdef inline void check_put_off(const Lane *lane) noexcept nogil:
    """The events that are put off, and the bits that say so."""
    cdef const Core *c = &lane.core
    cdef int i, marks = 0
    cdef int32_t slot
    cdef uint64_t tag
    for slot in range(c.capacity):
        if c.flows[slot].kind != FREE and c.flows[slot].queue != Q_FINISHED:
            marks += (c.flows[slot].put_off & 1) + (c.flows[slot].put_off >> 1)
    if not 0 <= c.bulk_count <= BULK_ROOM:
        fail(lane, "there is room for the events that are put off", NOWHERE)
    for i in range(c.bulk_count):
        tag = c.bulk[(c.bulk_at + i) % BULK_ROOM].tag
        slot = slot_of(c, tag)
        if slot == NOWHERE:
            continue
        marks -= 1
        if not c.flows[slot].put_off & (1 << (tag & 1)):
            fail(lane, "a flow knows that an event of it is put off", slot)
    if marks != 0:
        fail(lane, "an event is put off once where its flow says so", NOWHERE)


cdef inline void check_guesses(const Lane *lane) noexcept nogil:
    """What is foreseen."""
    cdef const Core *c = &lane.core
    if not 0 <= c.guesses <= BLIND:
        fail(lane, "epoll is asked after so many guesses", NOWHERE)
    if not 0 <= c.foresight <= SURE or not 0 <= c.vain < VAIN or not 0 <= c.pause <= PAUSE:
        fail(lane, "what guesses are made by is within its bounds", NOWHERE)
