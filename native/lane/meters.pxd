"""What limits count: entries in memory that all processes share, whose layout is that of
spliceproxy/relay/meters.py. Here each change of a number that others change, too, is one atomic
operation, so that nobody waits for a lock.

The owner says which entries a request counts for, and how much is allowed; a route keeps that. A
client holds what counts for as long as its connection, or its request, lasts.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from core cimport linux
from http.plain cimport CONNECT
from lane.types cimport (
    BUCKETS_OF_METER, Exchange, FOR_REQUEST, Hold, Holds, LEASE, Lane, METERS_MOST, Meter, MeterBoard,
    Meters,
)

cdef extern from *:
    """
    static inline int64_t meter_load(const int64_t *at) {
        return __atomic_load_n(at, __ATOMIC_SEQ_CST);
    }
    static inline int meter_swap(int64_t *at, int64_t *seen, int64_t wanted) {
        return __atomic_compare_exchange_n(
            at, seen, wanted, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    static inline void meter_add(int64_t *at, int64_t n) {
        __atomic_add_fetch(at, n, __ATOMIC_SEQ_CST);
    }
    static inline void meter_set(int64_t *at, int64_t n) {
        __atomic_store_n(at, n, __ATOMIC_SEQ_CST);
    }
    static inline void meter_count_up(uint32_t *at) {
        __atomic_add_fetch(at, 1, __ATOMIC_SEQ_CST);
    }
    /* Never below zero: who has made the entry another's meanwhile has forgotten what counted. */
    static inline void meter_count_down(uint32_t *at) {
        uint32_t seen = __atomic_load_n(at, __ATOMIC_SEQ_CST);
        while (seen && !__atomic_compare_exchange_n(
            at, &seen, seen - 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    }
    static inline uint32_t meter_counted(const uint32_t *at) {
        return __atomic_load_n(at, __ATOMIC_SEQ_CST);
    }
    """
    int64_t meter_load(const int64_t *at) nogil
    int meter_swap(int64_t *at, int64_t *seen, int64_t wanted) nogil
    void meter_add(int64_t *at, int64_t n) nogil
    void meter_set(int64_t *at, int64_t n) nogil
    void meter_count_up(uint32_t *at) nogil
    void meter_count_down(uint32_t *at) nogil
    uint32_t meter_counted(const uint32_t *at) nogil

# What a request did not fit into. spliceproxy/policy/limits.py has the words.
cdef enum:
    M_FITS
    M_STALE                 # an entry is another's by now: the owner has to look for it again
    M_CONNECTIONS
    M_REQUESTS
    M_TUNNELS
    M_BYTES

cdef enum:
    N_DAY = 3               # numbers of an entry: a day, and its bytes behind it,
    N_HOUR = 5              # and the same of an hour

cdef enum:
    L_CONNECTIONS           # numbers of what was lent: connections,
    L_INTERVAL              # of each bucket after how many ns there is one more, 0 for none,
    L_TAKEN = 3             # and how many were let in

cdef enum:
    STALE = -1              # of `meter_spend`

cdef struct Unfit:
    uint32_t which          # of the meters
    uint8_t why             # M_...
    int64_t wait            # ns until it may come again; 0: nobody knows


cdef inline int64_t meter_now() noexcept nogil:
    cdef linux.timespec t
    linux.clock_gettime(linux.CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1000000000 + t.tv_nsec


cdef inline int64_t hour_us() noexcept nogil:
    return 3600000000


cdef inline int64_t day_us() noexcept nogil:
    return 24 * hour_us()


cdef inline int64_t wall_now() noexcept nogil:
    """us"""
    cdef linux.timespec t
    linux.clock_gettime(linux.CLOCK_REALTIME, &t)
    return <int64_t>t.tv_sec * 1000000 + t.tv_nsec // 1000


cdef inline int64_t *meter_number(const MeterBoard *b, uint32_t entry, int number) noexcept nogil:
    return <int64_t *>(b.entries + <size_t>entry * b.size) + number


cdef inline uint32_t *meter_held(const MeterBoard *b, uint32_t entry) noexcept nogil:
    return <uint32_t *>(b.entries + <size_t>entry * b.size + b.held_at)


cdef inline int64_t *meter_lease(const MeterBoard *b, uint32_t entry) noexcept nogil:
    return <int64_t *>(b.leases + <size_t>entry * LEASE)


cdef inline bint meter_is(const MeterBoard *b, uint32_t entry, uint64_t tag) noexcept nogil:
    return <uint64_t>meter_load(<const int64_t *>&b.tags[entry]) == tag


cdef inline int64_t meter_spend(
    const MeterBoard *b, uint32_t entry, uint64_t tag, int bucket, int64_t interval, int64_t room,
    int64_t now
) noexcept nogil:
    """As of Counting.spend in spliceproxy/relay/meters.py."""
    cdef int64_t *at = meter_number(b, entry, bucket)
    cdef int64_t seen, full
    if not meter_is(b, entry, tag):
        return STALE
    seen = meter_load(at)
    while True:
        full = (seen if seen > now else now) + interval
        if full - now > room:
            return full - now - room
        if meter_swap(at, &seen, full):
            return 0


cdef inline uint64_t meter_sum(const MeterBoard *b, uint32_t entry) noexcept nogil:
    """Connections of all workers."""
    cdef const uint32_t *held = meter_held(b, entry)
    cdef uint64_t sum = 0
    cdef uint32_t row
    for row in range(b.rows):
        sum += meter_counted(&held[row])
    return sum


cdef inline bint meter_hold(
    const MeterBoard *b, uint32_t entry, uint64_t tag, uint32_t most
) noexcept nogil:
    """As of Counting.hold. Where two workers would let in the last one at the same time, neither
    does."""
    cdef uint32_t *own = &meter_held(b, entry)[b.row]
    if most and meter_sum(b, entry) >= most:
        return False
    meter_count_up(own)
    if not meter_is(b, entry, tag) or (most and meter_sum(b, entry) > most):
        meter_count_down(own)
        return False
    return True


cdef inline void meter_drop(const MeterBoard *b, uint32_t entry) noexcept nogil:
    meter_count_down(&meter_held(b, entry)[b.row])


cdef inline void meter_add_bytes(
    const MeterBoard *b, uint32_t entry, int number, int64_t period, uint64_t n
) noexcept nogil:
    """Bytes of this period; those of another are forgotten."""
    cdef int64_t *at = meter_number(b, entry, number)
    cdef int64_t seen = meter_load(at)
    if seen != period and meter_swap(at, &seen, period):
        meter_set(at + 1, 0)
    meter_add(at + 1, n)


cdef inline void meter_move(
    const MeterBoard *b, uint32_t entry, int64_t wall, uint64_t n
) noexcept nogil:
    """So many bytes have moved, at this time (us, CLOCK_REALTIME)."""
    meter_add_bytes(b, entry, N_DAY, wall // day_us(), n)
    meter_add_bytes(b, entry, N_HOUR, wall // hour_us(), n)


cdef inline uint64_t meter_left(
    const MeterBoard *b, uint32_t entry, int number, int64_t period, uint64_t budget
) noexcept nogil:
    """Bytes of a budget for this period; as many as there are numbers where that is 0."""
    cdef const int64_t *at = meter_number(b, entry, number)
    cdef uint64_t used
    if budget == 0:
        return <uint64_t>-1
    used = <uint64_t>meter_load(at + 1) if meter_load(at) == period else 0
    return budget - used if used < budget else 0


# ---- what a target has -----------------------------------------------------------------------


cdef inline Meters *meters_new(uint32_t count) noexcept nogil:
    """Held once, and its meters are for the caller to fill in; NULL without memory."""
    cdef Meters *m = <Meters *>malloc(sizeof(Meters) + count * sizeof(Meter))
    if m != NULL:
        m.holders = 1
        m.count = count
    return m


cdef inline Meter *meter_of(const Meters *m, uint32_t at) noexcept nogil:
    return <Meter *>(m + 1) + at


cdef inline void meters_release(Meters *m) noexcept nogil:
    if m == NULL:
        return
    m.holders -= 1
    if m.holders == 0:
        free(m)


# ---- what a client holds ---------------------------------------------------------------------


cdef inline Hold *hold_of(const Holds *h, uint32_t at) noexcept nogil:
    return <Hold *>(h + 1) + at


cdef inline Holds *holds_new(uint32_t room) noexcept nogil:
    """NULL without memory."""
    cdef Holds *h = <Holds *>malloc(sizeof(Holds) + room * sizeof(Hold))
    if h != NULL:
        h.count = 0
        h.room = room
    return h


cdef inline bint holds_reserve(Exchange *x, uint32_t more) noexcept nogil:
    """False without memory."""
    cdef Holds *before = x.holds
    cdef Holds *h
    cdef uint32_t count = before.count if before != NULL else 0
    if before != NULL and count + more <= before.room:
        return True
    h = holds_new(2 * (count + more))
    if h == NULL:
        return False
    if before != NULL:
        memcpy(h + 1, before + 1, count * sizeof(Hold))
        h.count = count
        free(before)
    x.holds = h
    return True


cdef inline bint is_held(const Holds *h, uint32_t entry) noexcept nogil:
    cdef uint32_t i
    for i in range(h.count):
        if hold_of(h, i).entry == entry:
            return True
    return False


cdef inline void holds_shrink(Lane *lane, Holds *h, uint32_t count) noexcept nogil:
    """Lets go of all but the first of them."""
    while h.count > count:
        h.count -= 1
        if lane.meters.tags != NULL:  # else its owner has gone
            meter_drop(&lane.meters, hold_of(h, h.count).entry)


cdef inline void request_unmetered(Lane *lane, Exchange *x) noexcept nogil:
    """The request in work is over: what it has held is free."""
    cdef Holds *h = x.holds
    cdef uint32_t i = 0
    x.metered = False
    meters_release(x.meters)
    x.meters = NULL
    if h == NULL:
        return
    while i < h.count:
        if hold_of(h, i).scope == FOR_REQUEST:
            meter_drop(&lane.meters, hold_of(h, i).entry)
            h.count -= 1
            hold_of(h, i)[0] = hold_of(h, h.count)[0]
        else:
            i += 1


cdef inline void unmetered(Lane *lane, Exchange *x) noexcept nogil:
    """The connection is over. May be called again."""
    meters_release(x.meters)
    x.meters = NULL
    meters_release(x.watched)
    x.watched = NULL
    if x.holds != NULL:
        holds_shrink(lane, x.holds, 0)
        free(x.holds)
        x.holds = NULL


# ---- a request -------------------------------------------------------------------------------


cdef inline bint has_budget(const Meter *e) noexcept nogil:
    return e.budgets[0] != 0 or e.budgets[1] != 0


cdef inline int64_t budget_over(const MeterBoard *b, const Meter *e) noexcept nogil:
    """After how many ns there is a budget again; 0: it is not used up."""
    cdef int64_t now
    if not has_budget(e):
        return 0
    now = wall_now()
    if meter_left(b, e.entry, N_DAY, now // day_us(), e.budgets[0]) == 0:
        return (day_us() - now % day_us()) * 1000
    if meter_left(b, e.entry, N_HOUR, now // hour_us(), e.budgets[1]) == 0:
        return (hour_us() - now % hour_us()) * 1000
    return 0


cdef inline uint64_t least_left(const Lane *lane, const Exchange *x) noexcept nogil:
    """Bytes that are left of the smallest budget; as many as there are numbers without one."""
    cdef uint64_t left = <uint64_t>-1
    cdef int64_t now
    cdef const Meter *e
    cdef uint32_t i
    if x.watched == NULL or lane.meters.tags == NULL:
        return left
    for i in range(x.watched.count):
        e = meter_of(x.watched, i)
        if has_budget(e):
            now = wall_now()
            left = min(
                left,
                meter_left(&lane.meters, e.entry, N_DAY, now // day_us(), e.budgets[0]),
                meter_left(&lane.meters, e.entry, N_HOUR, now // hour_us(), e.budgets[1]))
    return left


cdef inline bint same_watched(const Meters *a, const Meters *b) noexcept nogil:
    """Whether they count the same in the same entries; a reload may change what is counted."""
    cdef const Meter *one
    cdef const Meter *other
    cdef uint32_t i
    if a == NULL or a.count != b.count:
        return False
    for i in range(a.count):
        one, other = meter_of(a, i), meter_of(b, i)
        if one.entry != other.entry or one.watched != other.watched or one.paced != other.paced:
            return False
        if one.budgets[0] != other.budgets[0] or one.budgets[1] != other.budgets[1]:
            return False
    return True


cdef inline void unwatch(Lane *lane, Exchange *x) noexcept nogil:
    """The owner does not look at it any more."""
    account(lane, x, x.past_up + x.past_down)
    meters_release(x.watched)
    x.watched = NULL
    x.each_turn = x.unpaced = False


cdef inline void watch_meters(Lane *lane, Exchange *x, Meters *m) noexcept nogil:
    """What the client moves is looked at from here on, if these limits need that: here, and by the
    owner, who is told where it does not look at anything yet."""
    cdef bint watched = False
    cdef bint paced = False
    cdef bint budgeted = False
    cdef uint32_t i
    for i in range(m.count):
        watched |= meter_of(m, i).watched
        paced |= meter_of(m, i).paced
        budgeted |= has_budget(meter_of(m, i))
    if (watched or budgeted) and same_watched(x.watched, m):
        return
    if x.watched != NULL:
        unwatch(lane, x)
        lane.unseen |= not lane.looking
    if watched or budgeted:
        x.watched = m
        m.holders += 1
        x.unpaced = paced
        x.each_turn = paced or budgeted
        lane.unseen |= watched and not lane.looking


cdef inline void account(Lane *lane, Exchange *x, uint64_t moved) noexcept nogil:
    """Adds what is new of `moved` bytes, both ways, to what was used of budgets."""
    cdef uint64_t n = moved - x.accounted
    cdef const Meters *m = x.watched
    cdef const Meter *e
    cdef uint32_t i
    x.accounted = moved
    if m == NULL or n == 0 or lane.meters.tags == NULL:
        return
    for i in range(m.count):
        e = meter_of(m, i)
        if has_budget(e):
            meter_move(&lane.meters, e.entry, wall_now(), n)


cdef inline bint meter_lent(
    const MeterBoard *b, const Meter *e, int bucket, int64_t *interval, int64_t *room
) noexcept nogil:
    """Makes of what a bucket allows the part of this machine. False: it has none."""
    interval[0] = meter_load(meter_lease(b, e.entry) + L_INTERVAL + bucket)
    if room[0] < interval[0]:
        room[0] = interval[0]  # one at least, after a rest
    return interval[0] > 0


cdef inline bint meter_place(const MeterBoard *b, const Meter *e) noexcept nogil:
    """One more connection counts, if there is room for it."""
    cdef uint32_t most = e.most
    cdef int64_t lent
    if e.lent and most:
        lent = meter_load(meter_lease(b, e.entry) + L_CONNECTIONS)
        if lent <= 0:
            return False
        if lent < most:
            most = <uint32_t>lent
    return meter_hold(b, e.entry, e.tag, most)


cdef inline uint8_t meter_take(
    Lane *lane, Exchange *x, const Meter *e, int64_t now, int *spent, int64_t *wait
) noexcept nogil:
    """Whether a request fits into one limit, as of M_...; `spent` are the buckets from which it has
    taken something, a bit each."""
    cdef const MeterBoard *b = &lane.meters
    cdef int64_t interval, room
    cdef int bucket
    wait[0] = budget_over(b, e)
    if wait[0] > 0:
        return M_BYTES
    for bucket in range(BUCKETS_OF_METER):
        if e.interval[bucket] == 0 or (bucket == 1 and x.method != CONNECT):
            continue
        interval, room = e.interval[bucket], e.room[bucket]
        if e.lent and not meter_lent(b, e, bucket, &interval, &room):
            wait[0] = 0
            if not meter_is(b, e.entry, e.tag):
                return M_STALE
            return M_TUNNELS if bucket == 1 else M_REQUESTS
        wait[0] = meter_spend(b, e.entry, e.tag, bucket, interval, room, now)
        if wait[0] == STALE:
            return M_STALE
        if wait[0] > 0:
            return M_TUNNELS if bucket == 1 else M_REQUESTS
        if e.lent:
            meter_add(meter_lease(b, e.entry) + L_TAKEN + bucket, 1)
        spent[0] |= 1 << bucket
    if e.scope and not is_held(x.holds, e.entry):
        if not meter_place(b, e):
            return M_CONNECTIONS if meter_is(b, e.entry, e.tag) else M_STALE
        hold_of(x.holds, x.holds.count).entry = e.entry
        hold_of(x.holds, x.holds.count).scope = e.scope
        x.holds.count += 1
    return M_FITS


cdef inline void meter_return(Lane *lane, const Meter *e, int spent) noexcept nogil:
    cdef int64_t interval, room
    cdef int bucket
    for bucket in range(BUCKETS_OF_METER):
        if not spent & (1 << bucket):
            continue
        interval, room = e.interval[bucket], e.room[bucket]
        if e.lent:
            meter_lent(&lane.meters, e, bucket, &interval, &room)
            meter_add(meter_lease(&lane.meters, e.entry) + L_TAKEN + bucket, -1)
        meter_add(meter_number(&lane.meters, e.entry, bucket), -interval)


cdef inline bint admit(Lane *lane, Exchange *x, Meters *m, Unfit *unfit) noexcept nogil:
    """Whether the request in work fits into all of its limits, and then it counts for each; else
    for none, and `unfit` says which one it did not fit into."""
    cdef int spent[METERS_MOST]
    cdef uint32_t before = x.holds.count if x.holds != NULL else 0
    cdef int64_t now = meter_now()
    cdef uint32_t i
    unfit.which = 0
    unfit.why = M_STALE
    unfit.wait = 0
    if not holds_reserve(x, m.count):
        return False
    for i in range(m.count):
        spent[i] = 0
        unfit.wait = 0
        unfit.why = meter_take(lane, x, meter_of(m, i), now, &spent[i], &unfit.wait)
        if unfit.why == M_FITS:
            continue
        unfit.which = i
        holds_shrink(lane, x.holds, before)
        while True:
            meter_return(lane, meter_of(m, i), spent[i])
            if i == 0:
                return False
            i -= 1
    x.metered = True
    watch_meters(lane, x, m)
    return True
