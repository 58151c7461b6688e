"""What must hold between two batches of events, looked at after each of them in a debug build
(SPLICEPROXY_DEBUG in setup.py); a release build has nothing of it.

A rule that does not hold ends the process: which rule, which slot, and the line of that slot
go to standard error, and to the report of the sanitizers. The rules:

- Lists are whole: each neighbour points back, each ends at its `last`, and none goes in
  circles. Whatever says that it is in a queue is in the list of that queue, and no list has
  anything else in it; so a free slot is in none but that of the free slots.
- Counters are equal to what is found among the slots.
- A pipe is lent to each way with bytes in one, and to no other; and no descriptor of a pipe is
  in two places.
- A client and its origin connection know each other, and its queue suits its phase. While it
  dials, each address that was tried is in work, or has failed.
- A table counts its items, and an origin is held by whatever leads to it.
- A request's body is on its way only behind its head; whoever has to go on with it, its client or
  its origin, is watched for that. Of a chunked body as much is left as was announced.
- A free slot has nothing attached.
- After so many guesses epoll is asked.
- A way knows whether it goes to the client: its bytes are counted by that.
- Each record has a token that knows of users, once the owner was asked; a client between two
  requests has no record.
- The tunnels that the log has lines about are in their list, the one that is due first last.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from core cimport linux
from core.guess cimport BLIND, PAUSE, SURE, VAIN
from core.moves cimport pending
from core.slots cimport slot_of
from core.types cimport (
    BUCKETS, BULK_ROOM, Core, DOWN, ENDED, FREE, Flow, IN_LANE, IN_QUEUE, List, NARROW, NOWHERE, PROMISED,
    QUEUES, Q_ACK, Q_FINISHED, Q_FROZEN, Q_IDLE, Q_LANE, Q_NONE, Q_YOUNG, STOPPED, TRANSFER, TUNNEL, UNREGISTERED,
    Way, Wheel,
)
from dump cimport Line, describe, line_add
from http.chunks cimport Chunks, LINE_KEPT, WHOLE
from lane.routes cimport origin_find
from lane.sums cimport SUMS_MOST
from lane.types cimport (
    CLIENT, Connection, Ended, Exchange, G_CLOSED, Item, LISTENER, Lane, ORIGIN, Origin, P_ASK,
    P_BODY, P_DIAL, P_HEAD, P_QUEUE, P_WAIT, Q_ASK, Q_DIAL, Q_HEAD, Q_ORIGIN_IDLE, Q_QUEUE, Q_RACE,
    SUM_KINDS, Table, Token,
    connection_of, exchange_of,
)
from lane.upload cimport uploaded, uploading

cdef extern from *:
    """
    #ifdef SPLICEPROXY_DEBUG
    #include <stdlib.h>
    #include <string.h>
    #include <unistd.h>

    #define CHECKED 1
    void __sanitizer_report_error_summary(const char *text);

    /* Says it wherever somebody may look, and ends the process. */
    static void violated(const char *text) {
        if (write(2, text, strlen(text)) < 0 || write(2, "\\n", 1) < 0) {}
        __sanitizer_report_error_summary(text);
        abort();
    }
    #else
    #define CHECKED 0
    #define violated(text) ((void)(text))
    #endif
    """
    const bint CHECKED
    void violated(const char *text) noexcept nogil


cdef inline void fail(const Lane *lane, const char *rule, int32_t slot) noexcept nogil:
    cdef Line line
    cdef Line text
    text.used = 0
    line.used = 0
    line.text[0] = 0
    if 0 <= slot < lane.core.capacity:
        describe(lane, slot, lane.core.now, &line)
    line_add(&text, "spliceproxy: this must hold: %s; slot %d: %s", rule, <int>slot, line.text)
    violated(text.text)


cdef inline bint has(uint32_t mask, uint32_t event) noexcept nogil:
    """Whether epoll watches for this event."""
    return mask != <uint32_t>UNREGISTERED and mask & event


cdef inline bint is_slot(const Core *c, int32_t slot) noexcept nogil:
    return 0 <= slot < c.capacity


cdef inline int32_t check_list(
    const Lane *lane, const List *items, int which, uint8_t queue, int bucket
) noexcept nogil:
    """Walks a list whose flows are all in `queue` (in its bucket `bucket`, where that is not
    negative); their number."""
    cdef const Core *c = &lane.core
    cdef int32_t slot = items.first
    cdef int32_t before = NOWHERE
    cdef int32_t count = 0
    while slot != NOWHERE:
        if not is_slot(c, slot):
            fail(lane, "a list has slots in it", before)
        count += 1
        if count > c.capacity:
            fail(lane, "a list has an end", slot)
        if c.flows[slot].near[which].prev != before:
            fail(lane, "each neighbour in a list points back", slot)
        if c.flows[slot].kind == FREE:
            fail(lane, "a free slot is in no list", slot)
        if c.flows[slot].queue != queue or (bucket >= 0 and c.flows[slot].bucket != bucket):
            fail(lane, "a flow is in the list of its queue", slot)
        before = slot
        slot = c.flows[slot].near[which].next
    if items.last != before:
        fail(lane, "a list ends at its last flow", before)
    return count


cdef inline int32_t check_chain(const Lane *lane, int32_t slot, bint free_ones) noexcept nogil:
    """Walks the free slots, or finished flows, which are linked one way; their number."""
    cdef const Core *c = &lane.core
    cdef int32_t count = 0
    while slot != NOWHERE:
        if not is_slot(c, slot):
            fail(lane, "a list has slots in it", slot)
        count += 1
        if count > c.capacity:
            fail(lane, "a list has an end", slot)
        if free_ones != (c.flows[slot].kind == FREE):
            fail(lane, "free slots, and they alone, are in the list of the free", slot)
        if not free_ones and c.flows[slot].queue != Q_FINISHED:
            fail(lane, "a flow that is to be reported has finished", slot)
        slot = c.flows[slot].near[IN_QUEUE].next
    return count


cdef inline int32_t one_in(const Core *c, int queue) noexcept nogil:
    """A flow that says that it is in this queue, for its line; NOWHERE if none does."""
    cdef int32_t slot
    for slot in range(c.capacity):
        if c.flows[slot].kind != FREE and c.flows[slot].queue == queue:
            return slot
    return NOWHERE


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


cdef inline void check_attempts(const Lane *lane, int32_t slot) noexcept nogil:
    """The connections that are being made for a client."""
    cdef const Core *c = &lane.core
    cdef const Exchange *x = exchange_of(&c.flows[slot])
    cdef int count = check_list(lane, &x.attempts, IN_LANE, Q_NONE, -1)
    cdef int32_t one = x.attempts.first
    if (count > 0) != (x.phase == P_DIAL):
        fail(lane, "a client has attempts to connect while it is dialling", slot)
    if x.phase == P_DIAL and (x.begun > x.target.count or count + x.failures != x.begun):
        fail(lane, "each address that was tried is in work, or has failed", slot)
    while one != NOWHERE:
        if c.flows[one].kind != ORIGIN or connection_of(&c.flows[one]).client != slot or (
            connection_of(&c.flows[one]).origin != x.target.origin
        ):
            fail(lane, "an attempt to connect is its client's", one)
        one = c.flows[one].near[IN_LANE].next


cdef inline void check_upload(const Lane *lane, int32_t slot) noexcept nogil:
    """The body of a client's request."""
    cdef const Core *c = &lane.core
    cdef const Flow *f = &c.flows[slot]
    cdef const Exchange *x = exchange_of(f)
    cdef const Way *w = &f.way[0]
    if w.left < 0 and not x.up.on:
        fail(lane, "what is left of a request's body is known", slot)
    if uploaded(f):
        return
    if x.phase < P_WAIT or (not x.up.on and (x.length <= 0 or w.left > x.length)):
        fail(lane, "a body is on its way behind its head", slot)
    if not uploading(f):
        return
    if pending(w):
        if has(f.mask[0], linux.EPOLLIN):
            fail(lane, "nothing is read of a body while some of it waits", slot)
        if not has(c.flows[x.connection].mask[0], linux.EPOLLOUT):
            fail(lane, "an origin that a body waits for is watched", slot)
    elif not has(f.mask[0], linux.EPOLLIN):
        fail(lane, "a client that a body is to come from is watched", slot)


cdef inline void check_chunks(
    const Lane *lane, int32_t slot, const Chunks *k, const Way *w
) noexcept nogil:
    """A chunked body on its way."""
    cdef int64_t left = -1
    if k.kept > LINE_KEPT or (k.kept and (k.rest > 0 or k.rest == WHOLE)):
        fail(lane, "what is kept of a body is the beginning of a line", slot)
    if w.flags & (ENDED | STOPPED):
        return
    if k.odd:
        fail(lane, "what is odd is given back at once", slot)
    if k.rest == WHOLE:
        left = 0
    elif k.open and k.rest > 0:
        left = k.rest
    if w.left != left:
        fail(lane, "a way has as much left as the chunk that was announced", slot)


cdef inline void check_client(const Lane *lane, int32_t slot) noexcept nogil:
    """A client's phase suits its queue, and it has an origin connection where it needs one."""
    cdef const Core *c = &lane.core
    cdef const Flow *f = &c.flows[slot]
    cdef const Exchange *x = exchange_of(f)
    cdef bint right
    if x == NULL:
        fail(lane, "a client has an exchange", slot)
    if x.connection != NOWHERE:
        if not is_slot(c, x.connection) or c.flows[x.connection].kind != ORIGIN:
            fail(lane, "a client's origin connection is one", slot)
        if connection_of(&c.flows[x.connection]).client != slot:
            fail(lane, "a client and its origin connection know each other", slot)
    if f.queue == Q_FINISHED or f.queue == Q_FROZEN:
        return
    if x.phase == P_HEAD:
        right = f.queue == Q_HEAD
    elif x.phase == P_ASK:
        right = f.queue == Q_ASK
    elif x.phase == P_QUEUE:
        right = f.queue == Q_QUEUE
    elif x.phase == P_DIAL:
        right = f.queue == Q_DIAL or f.queue == Q_RACE
    else:
        right = x.phase <= P_BODY and (f.queue == Q_YOUNG or f.queue == Q_IDLE)
    if not right:
        fail(lane, "a client's queue suits its phase", slot)
    if (x.connection != NOWHERE) != (x.phase > P_DIAL):
        fail(lane, "a client has an origin connection once it has connected", slot)
    if (x.target != NULL) != (x.phase == P_QUEUE or x.phase == P_DIAL):
        fail(lane, "a client holds its target until there is a connection", slot)
    if (x.phase < P_DIAL and x.dialling != 0) or (x.phase == P_DIAL and x.dialling == 0):
        fail(lane, "an origin is dialled from its first attempt on", slot)
    check_attempts(lane, slot)
    if not x.head <= x.have <= x.room or x.data < x.block or x.data + x.have > x.block + x.room:
        fail(lane, "what was received of a client is within its block", slot)
    check_upload(lane, slot)
    if x.up.on and x.phase >= P_WAIT:
        check_chunks(lane, slot, &x.up, &f.way[0])
    if x.down.on and x.phase == P_BODY:
        check_chunks(lane, slot, &x.down, &f.way[1])


cdef inline void check_flows(const Lane *lane) noexcept nogil:
    cdef const Core *c = &lane.core
    cdef int32_t slot
    cdef const Flow *f
    cdef const Connection *k
    for slot in range(c.capacity):
        f = &c.flows[slot]
        if (f.kind == TUNNEL or f.kind == CLIENT) and (
            f.way[0].flags & DOWN or not f.way[1].flags & DOWN
        ):
            fail(lane, "a way knows whether it goes to the client", slot)
        if f.kind == FREE:
            if f.attached != NULL or f.token != NULL or f.way[0].held != NULL or (
                f.way[1].held != NULL or f.queue != Q_NONE
            ):
                fail(lane, "a free slot has nothing attached", slot)
        elif f.kind == CLIENT:
            check_client(lane, slot)
        elif f.kind == ORIGIN:
            k = connection_of(f)
            if k == NULL or f.queue != (Q_ORIGIN_IDLE if k.client == NOWHERE else Q_NONE):
                fail(lane, "an origin connection is idle where it serves nobody", slot)
            if k.client != NOWHERE and (
                not is_slot(c, k.client) or c.flows[k.client].kind != CLIENT
                or (exchange_of(&c.flows[k.client]).connection != slot
                    and exchange_of(&c.flows[k.client]).phase != P_DIAL)
            ):
                fail(lane, "an origin connection and its client know each other", slot)
        elif f.kind == LISTENER:
            if f.queue != Q_NONE:
                fail(lane, "a listening socket waits in no queue", slot)
        elif f.queue == Q_NONE or f.queue >= Q_LANE:
            fail(lane, "a tunnel or transfer waits in a queue of its own", slot)


cdef inline int32_t count_idle(const Lane *lane, const Origin *o) noexcept nogil:
    """The idle connections of an origin."""
    cdef const Core *c = &lane.core
    cdef int32_t slot = o.idle.first
    cdef int32_t count = check_list(lane, &o.idle, IN_LANE, Q_ORIGIN_IDLE, -1)
    if count != o.idle_count:
        fail(lane, "an origin counts its idle connections", o.idle.first)
    while slot != NOWHERE:
        if c.flows[slot].kind != ORIGIN or connection_of(&c.flows[slot]).origin != o:
            fail(lane, "an idle connection is with its origin", slot)
        slot = c.flows[slot].near[IN_LANE].next
    return count


cdef inline int32_t count_waiting(const Lane *lane, const Origin *o) noexcept nogil:
    """The clients that wait for a connection to an origin."""
    cdef const Core *c = &lane.core
    cdef int32_t slot = o.waiting.first
    while slot != NOWHERE:
        if c.flows[slot].kind != CLIENT or exchange_of(&c.flows[slot]).target.origin != o:
            fail(lane, "a client waits for its origin", slot)
        slot = c.flows[slot].near[IN_LANE].next
    return check_list(lane, &o.waiting, IN_LANE, Q_QUEUE, -1)


cdef inline int32_t check_table(const Lane *lane, const Table *t) noexcept nogil:
    """What a table counts; the number of its items."""
    cdef const Item *item
    cdef int32_t count = 0
    cdef size_t size = 0
    cdef uint32_t i
    if t.buckets == NULL:
        return 0
    for i in range(t.width):
        item = t.buckets[i]
        while item != NULL:
            count += 1
            size += item.size
            if item.hash & (t.width - 1) != i:
                fail(lane, "an item of a table is in the bucket of its hash", NOWHERE)
            item = item.next
    if count != t.count or size != t.size:
        fail(lane, "a table counts its items and their bytes", NOWHERE)
    return count


cdef inline void check_sums(const Lane *lane) noexcept nogil:
    """What is put aside is so for an origin that is held, and where somebody wants it."""
    cdef const Core *c = &lane.core
    cdef const Exchange *x
    cdef int32_t slot
    cdef int kind
    for kind in range(SUM_KINDS):
        check_table(lane, &lane.sums.tables[kind])
        if lane.sums.tables[kind].count > SUMS_MOST:
            fail(lane, "the sums are bounded", NOWHERE)
    for slot in range(c.capacity):
        if c.flows[slot].kind != CLIENT and c.flows[slot].kind != TUNNEL:
            continue
        x = exchange_of(&c.flows[slot])
        if x == NULL:
            continue
        if (x.summing != NULL or x.aside_requests) and not lane.sums.on:
            fail(lane, "nothing is added up where nobody asks for it", slot)
        if x.summing != NULL and origin_find(
            &lane.routes, x.summing.item.key, x.summing.item.key_size) != x.summing:
            fail(lane, "an exchange holds the origin that it adds up for", slot)
        if x.summed_received > x.head + x.more + c.flows[slot].way[0].copied + (
            c.flows[slot].way[0].spliced
        ) and x.phase == P_BODY:
            fail(lane, "no more is added up than has moved", slot)


cdef inline void check_origins(const Lane *lane) noexcept nogil:
    """The tables, the idle connections of each origin, and the clients that wait for one."""
    cdef const Core *c = &lane.core
    cdef const Table *t = &lane.routes.origins
    cdef Origin *o
    cdef int32_t slot
    cdef int32_t idle = 0, waiting = 0
    cdef uint32_t i
    check_table(lane, &lane.routes.routes)
    check_table(lane, &lane.routes.groups)
    if check_table(lane, t) == 0:
        return
    for slot in range(c.capacity):
        if c.flows[slot].kind == CLIENT and c.flows[slot].queue != Q_FINISHED:
            waiting += exchange_of(&c.flows[slot]).phase == P_QUEUE
        if c.flows[slot].kind != ORIGIN:
            continue
        if connection_of(&c.flows[slot]).client == NOWHERE:
            idle += 1
        elif connection_of(&c.flows[slot]).origin != NULL:
            connection_of(&c.flows[slot]).origin.seen += 1
    if idle != lane.idle_count:
        fail(lane, "idle origin connections are counted", NOWHERE)
    for i in range(t.width):
        o = <Origin *>t.buckets[i]
        while o != NULL:
            if o.holders <= 0 or o.holders < o.idle_count + o.busy:
                fail(lane, "an origin is held", NOWHERE)
            idle -= count_idle(lane, o)
            waiting -= count_waiting(lane, o)
            if o.seen != o.busy:
                fail(lane, "an origin counts its connections in use", NOWHERE)
            o.seen = 0
            o = <Origin *>o.item.next
    if idle != 0:
        fail(lane, "an idle connection is in the list of its origin", NOWHERE)
    if waiting != 0:
        fail(lane, "a client that waits is in the list of its origin", NOWHERE)


cdef inline void check_asking(const Lane *lane) noexcept nogil:
    """The clients that their owner has yet to be told of."""
    cdef const Core *c = &lane.core
    cdef int32_t slot
    cdef int waiting = 0
    cdef const Flow *f
    for slot in range(c.capacity):
        f = &c.flows[slot]
        if f.kind == CLIENT and f.queue != Q_FINISHED and exchange_of(f).phase == P_ASK:
            waiting += not exchange_of(f).asked.told
    if check_list(lane, &lane.asking, IN_LANE, Q_ASK, -1) != waiting:
        fail(lane, "a client whose owner is to be asked is in the list of them", NOWHERE)


cdef inline void check_lives(const Lane *lane) noexcept nogil:
    """The list of tunnels that the log has lines about."""
    cdef const Core *c = &lane.core
    cdef int32_t slot = lane.live.first
    cdef int32_t before = NOWHERE
    cdef int32_t count = 0
    while slot != NOWHERE:
        if not is_slot(c, slot) or c.flows[slot].kind != TUNNEL or (
            exchange_of(&c.flows[slot]) == NULL
        ):
            fail(lane, "a life is of a tunnel", slot)
        if c.flows[slot].near[IN_LANE].prev != before:
            fail(lane, "each neighbour in a list points back", slot)
        if exchange_of(&c.flows[slot]).told == 0:
            fail(lane, "who is in the list of lives has been told of", slot)
        if before != NOWHERE and (
            exchange_of(&c.flows[slot]).told > exchange_of(&c.flows[before]).told
        ):
            fail(lane, "lives are in the order in which they are due", slot)
        count += 1
        before = slot
        slot = c.flows[slot].near[IN_LANE].next
    if lane.live.last != before:
        fail(lane, "a list ends at its last flow", before)
    for slot in range(c.capacity):
        if c.flows[slot].kind == TUNNEL and exchange_of(&c.flows[slot]) != NULL:
            if exchange_of(&c.flows[slot]).told > 0:
                count -= 1
    if count != 0:
        fail(lane, "each life that was told of is in the list", NOWHERE)


cdef inline void check_records(const Lane *lane) noexcept nogil:
    """Those that exchanges have, those that wait for the owner, and their tokens."""
    cdef const Core *c = &lane.core
    cdef const Ended *e = lane.records.first
    cdef const Ended *last = NULL
    cdef const Token *token = lane.records.unused
    cdef const Exchange *x
    cdef int32_t slot
    while e != NULL:
        if e.token != NULL and e.token.users == 0:
            fail(lane, "the token of a record has a user", NOWHERE)
        last = e
        e = e.next
    if last != lane.records.last:
        fail(lane, "the list of records ends at its last", NOWHERE)
    while token != NULL:
        if token.users != 0:
            fail(lane, "a token is put aside when nobody uses it", NOWHERE)
        token = token.next
    for slot in range(c.capacity):
        if c.flows[slot].kind != CLIENT and c.flows[slot].kind != TUNNEL:
            continue
        x = exchange_of(&c.flows[slot])
        if x != NULL and x.decided != NULL:
            if x.decided.users == 0:
                fail(lane, "an answer has a user while its request is served", slot)
            if c.flows[slot].queue != Q_FINISHED and x.phase == P_HEAD:
                fail(lane, "an answer is for one request", slot)
        if x == NULL or x.record == NULL:
            continue
        if x.record.token == NULL:
            if c.flows[slot].queue != Q_FINISHED and (x.phase != P_ASK or x.asked.told):
                fail(lane, "a record has a token once its owner is asked", slot)
        elif x.record.token.users == 0:
            fail(lane, "the token of a record has a user", slot)
        if c.flows[slot].queue != Q_FINISHED and x.phase == P_HEAD:
            fail(lane, "a client between two requests has no record", slot)


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


cdef inline void check(const Lane *lane) noexcept nogil:
    """All rules, after a batch."""
    check_flows(lane)
    check_queues(lane)
    check_counters(lane)
    check_origins(lane)
    check_sums(lane)
    check_asking(lane)
    check_pipes(lane)
    check_records(lane)
    check_lives(lane)
    check_put_off(lane)
    check_guesses(lane)
