"""What exchanges have moved, by destination, client and user, until the owner takes it.

Each kind has a table of sums. Nothing is lost in them: the owner is told before they are full, and
takes all there is now and then. What lasts is added up while it does (`sum_live`), so each
exchange knows how much of it was. Requests of one client to one origin are put aside in its
exchange first, which costs a few additions for each. A failure is a sum, too: its key is the reason
and the destination.

Keys are what is at hand, as written. The owner knows what they mean.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, strcmp, strlen

from core.types cimport (
    Core, Flow, NOWHERE, Q_FINISHED, R_ABORTED, R_DONE, R_NONE, R_POLICY, TUNNEL,
)
from http.plain cimport CONNECT, Text
from lane.facts cimport blamed
from lane.line cimport word_at
from lane.received cimport received
from lane.routes cimport origin_release
from lane.table cimport hash_of, table_add, table_find, table_init, table_take
from lane.types cimport (
    BY_CLIENT, BY_DESTINATION, BY_FAILURE, BY_USER, CLIENT, Exchange, Item, Lane, Origin, PEER_MAX,
    P_BODY, SUM_KINDS, Sum, Sums, Table, connection_of, exchange_of,
)

cdef enum:
    SUMS_TELL = 1024        # sums of a kind, with which the owner is told
    SUMS_MOST = 4096        # of a kind; beyond it what is new is missed, and counted as such
    SUM_KEY = 300           # bytes of a key: a host, a port, an address, the spaces; cut there


cdef inline bint sums_init(Sums *s) noexcept nogil:
    """False without memory."""
    cdef int i
    for i in range(SUM_KINDS):
        if not table_init(&s.tables[i], 0):
            return False
    s.on = True
    return True


cdef inline void sums_clear(Sums *s) noexcept nogil:
    """The owner has them."""
    cdef Table *t
    cdef Item *item
    cdef uint32_t bucket
    cdef int i
    for i in range(SUM_KINDS):
        t = &s.tables[i]
        for bucket in range(t.width):
            if t.count == 0:
                break
            while t.buckets[bucket] != NULL:
                item = t.buckets[bucket]
                table_take(t, item)
                free(item)
    s.missed = 0
    s.told = s.full = False


cdef inline void sums_free(Sums *s) noexcept nogil:
    cdef int i
    if s.on:
        sums_clear(s)
    for i in range(SUM_KINDS):
        free(s.tables[i].buckets)
        s.tables[i].buckets = NULL
    s.on = False


cdef inline Sum *sum_of(Lane *lane, int kind, const char *key, size_t n) noexcept nogil:
    """The sum of a key, made where there is none; NULL without room."""
    cdef Table *t = &lane.sums.tables[kind]
    cdef uint32_t hash = hash_of(lane.routes.seed, key, n)
    cdef Sum *s = <Sum *>table_find(t, hash, key, n)
    if s != NULL:
        return s
    if t.count < SUMS_MOST:
        s = <Sum *>malloc(sizeof(Sum) + n)
    if s == NULL:
        lane.sums.missed += 1
        return NULL
    memcpy(s + 1, key, n)
    s.item.key = <const char *>(s + 1)
    s.item.key_size = <uint32_t>n
    s.item.hash = hash
    s.item.size = <uint32_t>(sizeof(Sum) + n)
    s.requests = s.received = s.sent = 0
    s.last = 0
    s.client[0] = s.peer[0] = 0
    table_add(t, &s.item)
    lane.sums.full |= t.count >= SUMS_TELL
    return s


cdef inline void sum_add(
    Lane *lane, int kind, const char *key, size_t n, int requests, uint64_t received,
    uint64_t sent,
) noexcept nogil:
    cdef Sum *s = sum_of(lane, kind, key, n)
    if s != NULL:
        s.requests += requests
        s.received += received
        s.sent += sent


cdef inline Origin *origin_of(const Lane *lane, const Exchange *x) noexcept nogil:
    """Where a request in work goes; NULL where that is not known."""
    cdef Origin *origin = NULL
    if x.connection != NOWHERE:
        origin = connection_of(&lane.core.flows[x.connection]).origin
    if origin == NULL and x.target != NULL:
        origin = x.target.origin
    return origin


cdef inline Text destination_of(const Lane *lane, const Exchange *x) noexcept nogil:
    """The target of a CONNECT, which has no space; else the key of the origin, which has two.
    Nothing where that is not known."""
    cdef Text where
    if x.method == CONNECT:
        return word_at(x.data + word_at(x.data).size + 1)
    return key_of(origin_of(lane, x))


cdef inline Text key_of(const Origin *origin) noexcept nogil:
    cdef Text key
    key.at = NULL
    key.size = 0
    if origin != NULL:
        key.at = origin.item.key
        key.size = origin.item.key_size
    return key


cdef inline void sum_for(
    Lane *lane, const Exchange *x, Text where, int requests, uint64_t received, uint64_t sent
) noexcept nogil:
    """Adds to the sums of a client, of its user and of a destination."""
    if where.size:
        sum_add(lane, BY_DESTINATION, where.at, min(where.size, <size_t>SUM_KEY), requests,
                received, sent)
    sum_add(lane, BY_CLIENT, x.address, strlen(x.address), requests, received, sent)
    if x.user[0]:
        sum_add(lane, BY_USER, x.user, strlen(x.user), requests, received, sent)


cdef inline void sum_aside(Lane *lane, Exchange *x) noexcept nogil:
    """Adds what was put aside; to be called before the user is another."""
    if x.aside_requests or x.aside_received or x.aside_sent:
        sum_for(lane, x, key_of(x.summing), x.aside_requests, x.aside_received, x.aside_sent)
        x.aside_requests = 0
        x.aside_received = x.aside_sent = 0
    if x.summing != NULL:
        origin_release(&lane.routes, x.summing)
        x.summing = NULL


cdef inline void sum_user(Lane *lane, Exchange *x, const char *user) noexcept nogil:
    """The next request is of this user."""
    if lane.sums.on and strcmp(x.user, user) != 0:
        sum_aside(lane, x)


cdef inline void sum_exchange(
    Lane *lane, Exchange *x, uint64_t received, uint64_t sent
) noexcept nogil:
    """Adds what is new of the exchange in work since the last time."""
    cdef int requests = not x.summed
    cdef uint64_t up = received - x.summed_received
    cdef uint64_t down = sent - x.summed_sent
    cdef Origin *origin
    x.summed = True
    x.summed_received = received
    x.summed_sent = sent
    if x.method == CONNECT:
        if requests or up or down:
            sum_for(lane, x, destination_of(lane, x), requests, up, down)
        return
    origin = origin_of(lane, x)
    if origin != x.summing:
        sum_aside(lane, x)
        x.summing = origin
        if origin != NULL:
            origin.holders += 1
    x.aside_requests += requests
    x.aside_received += up
    x.aside_sent += down


cdef inline bint is_failure(
    const Lane *lane, const Flow *f, uint8_t reason, uint8_t by
) noexcept nogil:
    """Whether somebody may want to know of an end: not where the client has left, an operator, a
    limit or other settings have ended it, or the proxy was stopped (spliceproxy/observe/outcome.py). The
    rest is as of `facts_of`."""
    if reason == R_NONE or reason == R_DONE:
        return False
    if f.kind == TUNNEL and (reason == R_ABORTED or reason == R_POLICY):
        return False
    by = by if by else blamed(lane, f, reason)
    return by != c'C' and by != c'K' and by != c'D' and by != c'L'


cdef inline void sum_failure(
    Lane *lane, const Exchange *x, uint8_t reason, int64_t ended
) noexcept nogil:
    cdef char key[SUM_KEY + 1]
    cdef Text where = destination_of(lane, x)
    cdef size_t n = min(where.size, <size_t>SUM_KEY)
    cdef Sum *s
    key[0] = <char>reason
    if n:
        memcpy(key + 1, where.at, n)
    s = sum_of(lane, BY_FAILURE, key, n + 1)
    if s != NULL:
        s.requests += 1
        s.last = ended
        memcpy(s.client, x.address, PEER_MAX)
        memcpy(s.peer, x.peer, PEER_MAX)


cdef inline int32_t sum_live(Lane *lane, int32_t slot, int32_t count) noexcept nogil:
    """Adds up what is new of the tunnels and answers in `count` slots from this one on; returns
    the slot to go on with, NOWHERE behind the last."""
    cdef Core *c = &lane.core
    cdef int32_t end = min(c.capacity, slot + count)
    cdef const Flow *f
    cdef Exchange *x
    while slot < end and not lane.sums.full:
        f = &c.flows[slot]
        slot += 1
        if f.attached == NULL or f.queue == Q_FINISHED or (
            f.kind != TUNNEL and f.kind != CLIENT
        ):
            continue
        x = exchange_of(f)
        # What may still go to the owner is counted by that, all of it.
        if f.kind == TUNNEL or (x.phase == P_BODY and not x.up.on and not x.down.on):
            sum_exchange(lane, x, received(f),
                         f.way[1].copied + f.way[1].spliced)
        sum_aside(lane, x)
    return slot if slot < c.capacity else NOWHERE
