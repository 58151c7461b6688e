"""The state of the relay as C structures, and the intrusive lists that hold it.

A *flow* is a tunnel or a transfer between side 0 (client, or a transfer's source) and
side 1 (origin, or its target). ``way[s]`` is the direction that starts at side ``s``.
A client of plain exchanges, and a connection to an origin that serves them, are flows
with side 0 alone; each knows the slot of the other while one serves the other.
"""

from cpython.ref cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memset

from http.plain cimport Plain
from lane.routes cimport NOWHERE, PEER_MAX, Routes, USER_MAX

cdef enum:
    UNREGISTERED = 0xffffffff   # Flow.mask of a descriptor that is not in epoll
    FIRST_SLOTS = 64
    BUCKETS = 64            # a timeout is exact to its 64th part
    INFO_MAX = 256          # room for one struct tcp_info
    BULK_ROOM = 256         # events that are put off

cdef enum Kind:
    FREE, TUNNEL, TRANSFER, LISTENER, CLIENT, ORIGIN

# Way.flags
cdef enum:
    ENDED = 1               # its source will say no more: FIN, or failed and drained
    FIN_SENT = 2            # FIN passed on to its target
    STOPPED = 4             # nothing is read from its source any more
    SPLICING = 8            # promoted
    COPY_ONLY = 16          # splice does not work here, or stalls

# Flow.queue
cdef enum Queue:
    Q_NONE, Q_YOUNG, Q_IDLE, Q_HALF, Q_HEAD, Q_DIAL, Q_RACE, Q_QUEUE, Q_KEPT, Q_ACK, Q_FINISHED

cdef enum Reason:
    R_NONE, R_DONE, R_SIDE0, R_SIDE1, R_IDLE, R_HALF_CLOSE, R_ABORTED, R_SOURCE_EOF,
    R_TARGET_IDLE, R_CLIENT_GONE, R_HANDED_OVER

cdef enum Phase:
    P_IDLE                  # the next request has not begun
    P_QUEUE                 # it waits for a connection to its origin
    P_DIAL                  # its origin is being connected to
    P_WAIT                  # the request is sent, no byte of the response is there
    P_BODY                  # the response's head is sent, or held

cdef enum Cause:
    H_CLOSED                # it is over: nothing is handed over
    H_REQUEST               # a request, maybe not all of its head, or what is none
    H_RETRY                 # a request whose reused origin connection was dead
    H_RESPONSE              # a request and its origin, which has been sent it
    H_UNANSWERED            # the same, but the time for the response is up
    H_LINGER                # answered in full, to be closed with care
    H_REFUSED               # a new client beyond the limit

cdef struct Exchange:       # of a CLIENT
    char *block             # of `room` bytes, NULL while nothing has been received
    char *data              # in it, received and not consumed: the head in work comes first
    uint32_t room
    uint32_t have           # bytes at `data`
    uint32_t head           # bytes of the head in work
    int32_t link            # slot of its origin, NOWHERE
    int32_t origin          # P_QUEUE: for which it waits, and its neighbours there
    int32_t before
    int32_t after
    int32_t origin_fd       # handed over with it
    uint32_t requests       # answered so far
    int64_t started         # us, when the head in work was there; 0: not known
    int64_t dialling        # us, since when its origin is dialled; 0: it is not
    uint16_t status
    uint8_t phase
    uint8_t method
    uint8_t cause
    uint8_t close           # behind this response
    uint8_t spent           # the origin's connection cannot be used again
    uint8_t reused
    char *answer            # of the origin, received and not consumed, when handed over
    uint32_t answer_size
    uint8_t type_size
    char type[64]           # Content-Type, for the log
    char user[USER_MAX]
    char peer[PEER_MAX]
    char address[PEER_MAX]  # the client's

cdef struct Link:           # of an ORIGIN
    int32_t client          # the slot that it serves, NOWHERE while idle
    int32_t origin          # which, in Routes.origins; NOWHERE: not to be kept
    int32_t above           # in the stack of the idle, the more recently used first
    int32_t below
    int64_t since           # ms, when it began to serve this client
    uint8_t fresh           # no request has been sent on it
    uint8_t probed          # it has TCP keep-alive
    char peer[PEER_MAX]

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
    Exchange *x
    Link *link
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
    uint8_t put_off         # bit s: an event of side s is in Core.bulk

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

cdef struct Log:
    char *at                # entries, as of log.pxd
    size_t used
    size_t room
    int count
    bint on
    bint told               # the owner knows that there are some

cdef struct Counters:
    uint64_t exchanges      # answered without the owner
    uint64_t handed_over
    uint64_t dropped        # log entries, without memory
    uint64_t lost           # clients that were closed, without memory to hand them over
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

cdef struct Event:
    uint64_t tag
    uint32_t events

cdef struct Core:
    int epfd
    char *buffer            # limits.chunk bytes, shared by every flow
    Flow *flows
    int32_t capacity
    int32_t used
    int32_t free            # first free slot, linked by Flow.next
    int32_t acking          # flows in Q_ACK, linked
    int32_t finished        # flows in Q_FINISHED whose descriptors are to be closed, linked
    int32_t closed          # flows in Q_FINISHED that are to be reported, linked
    int64_t now             # ms
    int64_t moved           # bytes in this round of `run`: at a look, and behind it
    Event bulk[BULK_ROOM]   # put off (bulk.pxd): a ring
    int bulk_at
    int bulk_count
    int64_t ack_next        # ms, next look at the send queues
    int tunnels
    int transfers
    Wheel young
    Wheel idle
    Wheel half
    Wheel head
    Wheel dial
    Wheel race
    Wheel queue
    Wheel kept
    Pool pool
    Plain plain
    Routes routes
    char *out               # PLAIN_OUT bytes: a rewritten head
    char *established       # the answer to CONNECT
    size_t established_size
    Log log
    int clients
    int others              # connections of clients that the owner has
    int ended               # tunnels that are closed, and not yet reported
    int most                # of all of them; beyond it they are refused, 0: no limit
    int first_port          # of outgoing connections
    int last_port
    int accept_error        # errno of an accept(2) that the owner must deal with, 0
    int64_t looked          # ms, when Origin.late was counted
    int kept_count
    int kept_most           # in all
    int kept_each           # per origin
    bint draining
    Counters counters
    Limits limits


cdef inline bint pending(const Way *w) noexcept nogil:
    return w.in_pipe > 0 or w.held != NULL


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
        flows[i].next = c.free
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
    c.free = f.next
    c.used += 1
    generation = f.generation
    memset(f, 0, sizeof(Flow))
    f.generation = generation
    f.kind = kind
    f.fd[0] = a
    f.fd[1] = b
    f.next = f.prev = NOWHERE
    for s in range(2):
        f.mask[s] = <uint32_t>UNREGISTERED
        f.way[s].left = -1
        f.way[s].active = c.now
        f.way[s].pipe_r = f.way[s].pipe_w = NOWHERE
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
    f.next = c.free
    c.free = slot
    c.used -= 1


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


cdef inline Wheel *wheel_of(Core *c, uint8_t queue) noexcept nogil:
    if queue == Q_YOUNG:
        return &c.young
    if queue == Q_IDLE:
        return &c.idle
    if queue == Q_HALF:
        return &c.half
    if queue == Q_HEAD:
        return &c.head
    if queue == Q_DIAL:
        return &c.dial
    if queue == Q_RACE:
        return &c.race
    if queue == Q_QUEUE:
        return &c.queue
    return &c.kept if queue == Q_KEPT else NULL


cdef inline void leave_queue(Core *c, int32_t slot) noexcept nogil:
    cdef Flow *f = &c.flows[slot]
    cdef Wheel *wheel = wheel_of(c, f.queue)
    if wheel != NULL:
        unlink(c, &wheel.head[f.bucket], slot)
        wheel.count -= 1
    elif f.queue == Q_ACK:
        unlink(c, &c.acking, slot)
    f.queue = Q_NONE


cdef inline int64_t last_active(const Flow *f) noexcept nogil:
    return max(f.way[0].active, f.way[1].active)


cdef inline void enter_queue(Core *c, int32_t slot, uint8_t queue) noexcept nogil:
    cdef Flow *f = &c.flows[slot]
    cdef Wheel *wheel = wheel_of(c, queue)
    if f.queue == queue:
        return
    leave_queue(c, slot)
    f.queue = queue
    if wheel != NULL:
        wheel_put(c, wheel, slot, last_active(f))
    elif queue == Q_ACK:
        if c.acking == NOWHERE:
            c.ack_next = c.now + c.limits.ack_poll
        f.queued = c.now
        link(c, &c.acking, slot)
