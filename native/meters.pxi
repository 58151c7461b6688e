"""What limits count, as Python: the entries that all processes share, what the owner says of a
request, and what a client holds when it goes to its owner or comes back (lane/meters.pxd)."""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free

from lane.meters cimport (
    Unfit, admit, has_budget, hold_of, holds_new, holds_shrink, meter_add, meter_drop, meter_hold,
    meter_is, meter_move, meter_now, meter_number, meter_of, meter_spend, meter_swap, meters_new,
    meters_release, wall_now,
)
from lane.pacing cimport account_flow, is_small, moved_down, moved_up, pace
from lane.received cimport received
from lane.types cimport (
    BUCKETS_OF_METER, CLIENT, Exchange, GROWN, Holds, Lane, METERS_MOST, Meter, MeterBoard, Meters,
    P_ASK, exchange_of,
)

from spliceproxy.relay import meters as entries


cdef class NativeMeters:
    """As of Counting in spliceproxy/relay/meters.py, for the worker of one row."""

    cdef MeterBoard board
    cdef object memory      # of the owner's, for as long as this object is there

    def __init__(self, meters, uint32_t row):
        cdef Py_buffer buffer
        cdef char *at
        self.memory = meters.memory
        if len(self.memory) < entries.size_of(meters.rows) or row >= meters.rows:
            raise ValueError("what limits count is memory of spliceproxy.relay.meters")
        PyObject_GetBuffer(self.memory, &buffer, PyBUF_WRITABLE)
        at = <char *>buffer.buf
        PyBuffer_Release(&buffer)
        self.board.tags = <uint64_t *>(at + <size_t>entries.PAGE)
        self.board.entries = at + <size_t>entries.PAGE + <size_t>(8 * entries.ENTRIES)
        self.board.leases = at + <size_t>entries.leases_at(meters.rows) + <size_t>meters.leases.at
        self.board.size = entries.entry_of(meters.rows)
        self.board.held_at = entries.SIZE
        self.board.rows = meters.rows
        self.board.row = row

    cdef int _check(self, uint32_t entry) except -1:
        if entry >= <uint32_t>entries.ENTRIES:
            raise ValueError(f"no entry: {entry}")
        return 0

    def spend(self, uint32_t entry, uint64_t tag, int bucket, int64_t interval, int64_t room):
        self._check(entry)
        return meter_spend(&self.board, entry, tag, bucket, interval, room, meter_now())

    def give_back(self, uint32_t entry, int bucket, int64_t interval):
        self._check(entry)
        meter_add(meter_number(&self.board, entry, bucket), -interval)

    def hold(self, uint32_t entry, uint64_t tag, uint32_t most):
        self._check(entry)
        if meter_hold(&self.board, entry, tag, most):
            return 0
        return entries.FULL if meter_is(&self.board, entry, tag) else entries.STALE

    def drop(self, uint32_t entry):
        self._check(entry)
        meter_drop(&self.board, entry)

    def move(self, uint32_t entry, uint64_t n):
        self._check(entry)
        meter_move(&self.board, entry, wall_now(), n)

    def refuse(self, uint32_t entry):
        self._check(entry)
        meter_add(meter_number(&self.board, entry, entries.REFUSED), 1)

    def swap(self, uint32_t entry, int number, int64_t seen, int64_t wanted):
        self._check(entry)
        return bool(meter_swap(meter_number(&self.board, entry, number), &seen, wanted))


cdef Meters *meters_of(object said) except? NULL:
    """What a request counts for, held once; NULL for nothing."""
    cdef Meters *made
    cdef Meter *meter
    cdef uint32_t i
    if not said:
        return NULL
    if len(said) > METERS_MOST:
        raise ValueError(f"{len(said)} limits for one request; at most {METERS_MOST}")
    made = meters_new(len(said))
    if made == NULL:
        raise MemoryError
    try:
        for i in range(made.count):
            (entry, tag), limit, _ = said[i]
            if not 0 <= entry < entries.ENTRIES:
                raise ValueError(f"no entry: {entry}")
            meter = meter_of(made, i)
            meter.entry, meter.tag = entry, tag
            meter.most, meter.scope = limit.most, limit.scope
            meter.watched, meter.paced = limit.watched, limit.paced
            meter.lent = limit.lent
            meter.budgets[0], meter.budgets[1] = limit.budgets
            for bucket in range(BUCKETS_OF_METER):
                meter.interval[<int>bucket] = limit.intervals[bucket]
                meter.room[<int>bucket] = limit.rooms[bucket]
    except BaseException:
        meters_release(made)
        raise
    return made


cdef Holds *holds_of(NativeRelay relay, object held) except? NULL:
    """What a client brings that comes from its owner, whose it stays until it is here."""
    cdef Holds *made
    cdef uint32_t i = 0
    if not held or relay.state.meters.tags == NULL:
        return NULL
    made = holds_new(len(held))
    if made == NULL:
        raise MemoryError
    for entry, scope in held.items():
        hold_of(made, i).entry, hold_of(made, i).scope = entry, scope
        i += 1
    made.count = i
    return made


cdef uint64_t accounted(NativeRelay relay, int32_t slot) noexcept:
    """Bytes of the request in work, both ways, that budgets have counted: all until now."""
    cdef Flow *f = &relay.state.core.flows[slot]
    cdef Exchange *x = exchange_of(f)
    if x.watched == NULL:
        return 0
    account_flow(&relay.state, slot)
    return received(f) + f.way[1].copied + f.way[1].spliced if x.phase > P_ASK else 0


cdef int give_holds(NativeRelay relay, int32_t slot, object handoff) except -1:
    """What a client that is given back holds is its owner's."""
    cdef uint32_t i
    cdef Exchange *x = exchange_of(&relay.state.core.flows[slot])
    handoff.metered = x.metered
    handoff.accounted = accounted(relay, slot)
    if x.holds == NULL:
        return 0
    handoff.held = relay.holding(
        {hold_of(x.holds, i).entry: hold_of(x.holds, i).scope for i in range(x.holds.count)})
    free(x.holds)
    x.holds = NULL
    return 0


cdef object admitted(NativeRelay relay, Question question, object said):
    """Whether the request of a question fits into these limits: None; or which one it does not fit
    into, by its place, why, and after how many seconds it may come again."""
    cdef Lane *lane = &relay.state
    cdef int32_t slot = question._slot()
    cdef Exchange *x
    cdef Unfit unfit
    if slot == NOWHERE or lane.meters.tags == NULL:
        return None
    x = exchange_of(&lane.core.flows[slot])
    meters_release(x.meters)
    x.meters = NULL
    x.meters = meters_of(said)
    if x.meters == NULL or admit(lane, x, x.meters, &unfit):
        return None
    if x.holds == NULL:
        raise MemoryError
    return unfit.which, unfit.why, unfit.wait


cdef object watched_one(NativeRelay relay, int32_t slot):
    """What the owner wants to know of what is watched, None for what it does not look at."""
    cdef Core *c = &relay.state.core
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = exchange_of(f)
    cdef uint32_t i
    cdef list entries_of = [
        meter_of(x.watched, i).entry for i in range(x.watched.count)
        if meter_of(x.watched, i).watched
    ]
    if not entries_of:
        return None
    account_flow(&relay.state, slot)
    x.unpaced = x.unpaced and is_small(f, x)
    return (
        relay._ident_of(slot), tuple(entries_of), moved_up(f, x), moved_down(f, x),
        (c.now - x.became) / 1e3 if f.kind == TUNNEL else -1.0, not x.unpaced,
    )


cdef inline bint is_looked_at(Flow *f) noexcept:
    """Whether limits may count what it moves."""
    return f.attached != NULL and f.queue != Q_FINISHED and (
        f.kind == TUNNEL or f.kind == CLIENT)


cdef list watched_of(NativeRelay relay):
    """All that is watched."""
    cdef Lane *lane = &relay.state
    cdef Exchange *x
    cdef Flow *f
    cdef int32_t slot
    cdef list found = []
    relay._look_at_clock()
    for slot in range(lane.core.capacity):
        f = &lane.core.flows[slot]
        if not is_looked_at(f):
            continue
        x = exchange_of(f)
        if x.watched != NULL:
            one = watched_one(relay, slot)
            if one is not None:
                found.append(one)
                continue
        if x.pace or f.way[1].capped:
            pace(lane, slot, 0, 0)  # it has no rate any more
    lane.grown_count = 0
    return found


cdef bint watch_budgets_of(NativeRelay relay) noexcept:
    """The owner looks at what counts for budgets, too, from here on; whether there is any."""
    cdef Lane *lane = &relay.state
    cdef Exchange *x
    cdef Meter *e
    cdef uint32_t i
    cdef int32_t slot
    cdef bint found = False
    for slot in range(lane.core.capacity):
        if not is_looked_at(&lane.core.flows[slot]):
            continue
        x = exchange_of(&lane.core.flows[slot])
        for i in range(x.watched.count if x.watched != NULL else 0):
            e = meter_of(x.watched, i)
            if has_budget(e):
                e.watched = found = True  # also of who shares them, which does no harm
    return found


cdef list grown_of(NativeRelay relay):
    """Of these, those that may have a rate and have grown."""
    cdef Lane *lane = &relay.state
    cdef uint32_t i, count = lane.grown_count
    cdef Flow *f
    cdef list found = []
    lane.looking = True  # from here on
    if count > GROWN:
        return [one for one in watched_of(relay) if one[5]]
    for i in range(count):
        f = &lane.core.flows[lane.grown[i]]
        if is_looked_at(f) and exchange_of(f).watched != NULL and exchange_of(f).unpaced:
            one = watched_one(relay, lane.grown[i])
            if one is not None and one[5]:
                found.append(one)
    lane.grown_count = 0
    return found
