"""What must hold of the lane (check.pxd): clients and their origin connections, tables, questions,
records."""

from libc.stdint cimport int32_t, int64_t, uint32_t

from core cimport linux
from core.moves cimport pending
from core.types cimport (
    Core, ENDED, Flow, IN_LANE, NOWHERE, Q_FINISHED, Q_FROZEN, Q_IDLE, Q_NONE, Q_YOUNG, STOPPED,
    TUNNEL, Way,
)
from http.chunks cimport Chunks, LINE_KEPT, WHOLE
from lane.routes cimport origin_find
from lane.sums cimport SUMS_MOST
from lane.types cimport (
    CLIENT, Ended, Exchange, G_CLOSED, Item, Lane, ORIGIN, Origin, P_ASK, P_BODY, P_DIAL, P_HEAD,
    P_PARENT, P_QUEUE, P_WAIT, Q_ASK, Q_DIAL, Q_HEAD, Q_ORIGIN_IDLE, Q_QUEUE, Q_RACE, SUM_KINDS, Table, Token,
    connection_of, exchange_of,
)
from lane.upload cimport uploaded, uploading
from violation cimport check_list, fail, has, is_slot


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
    if f.queue == Q_FROZEN:
        return
    if f.queue == Q_FINISHED:
        if x.cause == G_CLOSED and x.uncounted:
            fail(lane, "a request that is over has been counted", slot)
        return
    if x.phase == P_HEAD:
        if x.uncounted:
            fail(lane, "a client between two requests has none to be counted", slot)
        right = f.queue == Q_HEAD
    elif x.phase == P_ASK:
        right = f.queue == Q_ASK
    elif x.phase == P_QUEUE:
        right = f.queue == Q_QUEUE
    elif x.phase == P_DIAL:
        right = f.queue == Q_DIAL or f.queue == Q_RACE
    elif x.phase == P_PARENT:
        right = f.queue == Q_DIAL
    else:
        right = x.phase <= P_BODY and (f.queue == Q_YOUNG or f.queue == Q_IDLE)
    if not right:
        fail(lane, "a client's queue suits its phase", slot)
    if (x.connection != NOWHERE) != (x.phase > P_DIAL):
        fail(lane, "a client has an origin connection once it has connected", slot)
    if (x.target != NULL) != (x.phase == P_QUEUE or x.phase == P_DIAL):
        fail(lane, "a client holds its target until there is a connection", slot)
    if x.phase == P_PARENT and (x.hop == NULL or x.hop.holders <= 0):
        fail(lane, "who has asked a parent knows which", slot)
    if (x.phase < P_DIAL and x.dialling != 0) or (x.phase == P_DIAL and x.dialling == 0):
        fail(lane, "an origin is dialled from its first attempt on", slot)
    check_attempts(lane, slot)
    if not x.head <= x.have <= x.room or x.data < x.block or x.data + x.have > x.block + x.room:
        fail(lane, "what was received of a client is within its block", slot)
    check_upload(lane, slot)
    if x.up.on and x.phase >= P_WAIT:
        if x.up.kept and x.have > x.head:
            fail(lane, "what is kept of a request's body is the last that came of it", slot)
        check_chunks(lane, slot, &x.up, &f.way[0])
    if x.down.on and x.phase == P_BODY:
        check_chunks(lane, slot, &x.down, &f.way[1])


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
