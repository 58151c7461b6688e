"""The state of the relay as C structures, and the intrusive lists that hold it.

A *flow* is a tunnel or a transfer between side 0 (client, or a transfer's source) and
side 1 (origin, or its target). ``way[s]`` is the direction that starts at side ``s``.
"""

from cpython.ref cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    NOWHERE = -1            # no slot, no descriptor
    UNREGISTERED = 0xffffffff   # Flow.mask of a descriptor that is not in epoll
    BUCKETS = 64            # a timeout is exact to its 64th part
    INFO_MAX = 256          # room for one struct tcp_info

cdef enum Kind:
    FREE, TUNNEL, TRANSFER

# Way.flags
cdef enum:
    ENDED = 1               # its source will say no more: FIN, or failed and drained
    FIN_SENT = 2            # FIN passed on to its target
    STOPPED = 4             # nothing is read from its source any more
    SPLICING = 8            # promoted
    COPY_ONLY = 16          # splice does not work here, or stalls

# Flow.queue
cdef enum Queue:
    Q_NONE, Q_IDLE, Q_HALF, Q_ACK, Q_FINISHED

cdef enum Reason:
    R_NONE, R_DONE, R_SIDE0, R_SIDE1, R_IDLE, R_HALF_CLOSE, R_ABORTED, R_SOURCE_EOF,
    R_TARGET_IDLE

cdef struct Way:
    uint64_t copied
    uint64_t spliced
    int64_t left            # bytes still to be read from the source; -1: no end but FIN
    int64_t active          # ms, when a byte last moved
    char *held              # read but not yet sent (only while the target is blocked)
    uint32_t held_at
    uint32_t held_end
    uint32_t in_pipe        # bytes in the lent pipe; 0: there is no pipe
    int32_t pipe_r
    int32_t pipe_w
    uint8_t flags
    uint8_t streak          # bulk reads in a row while copying, chatty ones while splicing
    uint8_t strikes         # readable, yet splice said EAGAIN: an urgent byte?

cdef struct Flow:
    int fd[2]
    uint32_t mask[2]        # what epoll watches for
    Way way[2]
    PyObject *token
    char *info              # two struct tcp_info, once finished
    int64_t queued          # ms; Q_ACK: since when the send queue has not shrunk
    uint32_t info_len[2]
    uint32_t generation
    int32_t next
    int32_t prev
    int32_t outq            # Q_ACK: bytes in the send queue when last looked at
    int err
    uint8_t kind
    uint8_t queue
    uint8_t bucket
    uint8_t reason
    uint8_t dead            # bit s: side s failed
    uint8_t dupped          # bit s: fd[s] is our own dup(2)

cdef struct Wheel:
    int64_t timeout         # ms
    int64_t tick            # ms of one bucket
    int64_t time            # ms, end of the bucket `now`
    int now
    int count
    int32_t head[BUCKETS + 2]

cdef struct Pool:
    int size                # bytes that each pipe holds
    int limit
    int lent
    int idle
    int *fds                # idle pipes, a stack of (read end, write end)
    int64_t used            # ms, last lent or returned
    int64_t retry           # ms, no new pipe before: the last one was refused

cdef struct Counters:
    uint64_t copied
    uint64_t spliced
    uint64_t starved
    uint64_t fallbacks
    uint64_t urgent
    uint64_t events
    uint64_t steps

cdef struct Limits:
    size_t chunk
    ssize_t bulk_read
    ssize_t chatty_read
    int64_t splice_min
    int64_t rest            # ms
    int64_t turn_bytes
    int turn_moves
    int promote_after
    int demote_after
    int64_t step_us
    int64_t ack_poll        # ms
    int64_t ack_patience    # ms

cdef struct Core:
    int epfd
    char *buffer            # limits.chunk bytes, shared by every flow
    Flow *flows
    int32_t capacity
    int32_t free            # first free slot, linked by Flow.next
    int32_t acking          # flows in Q_ACK, linked
    int32_t finished        # flows in Q_FINISHED, linked
    int32_t closed          # of these, the first whose descriptors are closed already
    int64_t now             # ms
    int64_t moved           # bytes in this batch of events
    int64_t ack_next        # ms, next look at the send queues
    int tunnels
    int transfers
    Wheel idle
    Wheel half
    Pool pool
    Counters counters
    Limits limits


cdef inline bint pending(const Way *w) noexcept nogil:
    return w.in_pipe > 0 or w.held != NULL


cdef inline void link(Core *c, int32_t *head, int32_t slot) noexcept nogil:
    cdef Flow *f = &c.flows[slot]
    f.prev = NOWHERE
    f.next = head[0]
    if head[0] != NOWHERE:
        c.flows[head[0]].prev = slot
    head[0] = slot


cdef inline void unlink(Core *c, int32_t *head, int32_t slot) noexcept nogil:
    cdef Flow *f = &c.flows[slot]
    if f.prev != NOWHERE:
        c.flows[f.prev].next = f.next
    else:
        head[0] = f.next
    if f.next != NOWHERE:
        c.flows[f.next].prev = f.prev


cdef inline void wheel_init(Wheel *wheel, int64_t timeout, int64_t now) noexcept nogil:
    cdef int i
    wheel.timeout = timeout
    wheel.tick = timeout // BUCKETS + 1
    wheel.time = now + wheel.tick
    wheel.now = 0
    wheel.count = 0
    for i in range(BUCKETS + 2):
        wheel.head[i] = NOWHERE


cdef inline void wheel_put(
    Core *c, Wheel *wheel, int32_t slot, int64_t active
) noexcept nogil:
    """Queues a flow that was last active at `active`, to be looked at when that is
    `timeout` ago. O(1): no list is searched, no timer moves while bytes do."""
    cdef int64_t ticks
    if wheel.count == 0:  # it rested: its clock stood still
        wheel.time = c.now + wheel.tick
    ticks = (active + wheel.timeout - wheel.time) // wheel.tick + 1
    if ticks < 0:
        ticks = 0
    elif ticks > BUCKETS + 1:
        ticks = BUCKETS + 1
    c.flows[slot].bucket = <uint8_t>((wheel.now + ticks) % (BUCKETS + 2))
    link(c, &wheel.head[c.flows[slot].bucket], slot)
    wheel.count += 1


cdef inline void leave_queue(Core *c, int32_t slot) noexcept nogil:
    cdef Flow *f = &c.flows[slot]
    if f.queue == Q_IDLE:
        unlink(c, &c.idle.head[f.bucket], slot)
        c.idle.count -= 1
    elif f.queue == Q_HALF:
        unlink(c, &c.half.head[f.bucket], slot)
        c.half.count -= 1
    elif f.queue == Q_ACK:
        unlink(c, &c.acking, slot)
    f.queue = Q_NONE


cdef inline int64_t last_active(const Flow *f) noexcept nogil:
    return max(f.way[0].active, f.way[1].active)


cdef inline void enter_queue(Core *c, int32_t slot, uint8_t queue) noexcept nogil:
    cdef Flow *f = &c.flows[slot]
    if f.queue == queue:
        return
    leave_queue(c, slot)
    f.queue = queue
    if queue == Q_IDLE:
        wheel_put(c, &c.idle, slot, last_active(f))
    elif queue == Q_HALF:
        wheel_put(c, &c.half, slot, last_active(f))
    elif queue == Q_ACK:
        if c.acking == NOWHERE:
            c.ack_next = c.now + c.limits.ack_poll
        f.queued = c.now
        link(c, &c.acking, slot)
