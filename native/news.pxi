"""What there is to say after a step: records, ends, clients that are given back. Nothing is
forgotten where there is no memory to say it."""

from libc.stdint cimport int32_t

from core cimport linux
from closing cimport lose
from core.types cimport Core, Flow, NOWHERE, R_TLS_NAME
from lane.asking cimport left_asking
from lane.log cimport LOG_BATCH
from lane.records cimport record_take
from lane.types cimport CLIENT, G_CLOSED, Lane, Log, Records, exchange_of

cdef enum:
    # To say what there is to say, without memory for that: as in spliceproxy/relay/driver.py.
    TRIES = 100
    TRY_US = 1000           # microseconds between two of them


cdef inline bint log_waits(const Lane *lane) noexcept:
    """Whether the owner is to be told of lines, or of dropped ones."""
    cdef const Log *log = &lane.log
    return (log.count or log.dropped) and (not log.told or log.used >= LOG_BATCH)


cdef inline bint records_wait(const Lane *lane) noexcept:
    """Whether the owner is to be told of exchanges that are over, or has tokens to get back."""
    return lane.records.first != NULL or lane.records.unused != NULL


cdef inline bint sums_wait(const Lane *lane) noexcept:
    """Whether the owner is to be told that there are many sums."""
    return lane.sums.full and not lane.sums.told


cdef list news(NativeRelay relay):
    """What there is to say. Without memory for that nothing is forgotten, and it is tried
    again for a moment: only other processes and the log's thread can free any meanwhile.
    MemoryError when that is over."""
    cdef int left = TRIES
    while True:
        try:
            return gather(relay)
        except MemoryError:
            left -= 1
            if left == 0:
                raise
        with nogil:
            linux.usleep(TRY_US)


cdef list gather(NativeRelay relay):
    cdef Lane *lane = &relay.state
    cdef Core *c = &lane.core
    if log_waits(lane):
        lane.log.told = True
        try:
            relay.owner.logged(lane.log.used >= LOG_BATCH)
            if lane.log.dropped:
                relay.owner.dropped(lane.log.dropped)
                lane.log.dropped = 0
        except MemoryError:
            lane.log.told = False
            raise
    if sums_wait(lane):
        lane.sums.told = True
        try:
            relay.owner.summed()
        except MemoryError:
            lane.sums.told = False
            raise
    if lane.unseen:
        lane.unseen = False  # first: it may be said again
        try:
            relay.owner.watched()
        except MemoryError:
            lane.unseen = True
            raise
    if lane.accept_error:
        error, lane.accept_error = lane.accept_error, 0  # it comes again, if that is in vain
        relay.owner.not_accepted(error)
    ends = gather_records(relay)
    if c.closed == NOWHERE:
        return ends
    gather_ends(relay, ends)
    if lane.lost:
        try:
            relay.owner.lost(lane.lost)
            lane.lost = 0
        except MemoryError:
            pass  # it is said with the next end
    return ends


cdef list gather_records(NativeRelay relay):
    """The records of exchanges that are over, as one end: what there is no memory for stays
    for the next time, MemoryError where that is all."""
    cdef Records *waiting = &relay.state.records
    cdef list records = []
    cdef list ends = []
    cdef Ending record
    relay._give_up_tokens()
    if waiting.first == NULL:
        return ends
    make = relay.record
    ends.append((relay.owner.ended, records))
    try:
        while waiting.first != NULL:
            record = make.__new__(make)
            records.append(record)
            record.take(record_take(waiting))
    except MemoryError:
        if records and (<Ending>records[len(records) - 1]).at == &NOTHING:
            records.pop()
        if not records:
            raise
    relay._give_up_tokens()
    return ends


cdef int gather_ends(NativeRelay relay, list ends) except -1:
    """Reports and frees what has finished. A flow is in the list until its report is in
    `ends`. A client that there is no memory to give back is closed: others need it, too.
    Anything else stays for the next time, as that a question needs no answer does; MemoryError
    where that is all."""
    cdef Lane *lane = &relay.state
    cdef Core *c = &lane.core
    cdef int32_t slot
    # Where there was no memory for a traceback, what Cython makes of a return within "except" gives
    # up a reference that is none.
    cdef bint enough = False
    while c.closed != NOWHERE and not enough:
        slot = c.closed
        try:
            gather_end(relay, slot, ends)
        except MemoryError:
            if c.flows[slot].kind == CLIENT and exchange_of(&c.flows[slot]).cause != G_CLOSED:
                lose(lane, slot)
            elif ends:
                enough = True
            else:
                raise
        else:
            relay._drop(slot)
    relay._give_up_tokens()
    return 0


cdef int gather_end(NativeRelay relay, int32_t slot, list ends) except -1:
    cdef Flow *f = &relay.state.core.flows[slot]
    if f.kind == CLIENT:
        if left_asking(&relay.state, slot):
            ends.append((relay.owner.left, relay._ident_of(slot)))
            exchange_of(f).asked.told = False  # which is said once, also where the next fails
        if exchange_of(f).cause != G_CLOSED:
            handoff = handoff_of(f)
            if relay.meters is not None:
                give_holds(relay, slot, handoff)
            ends.append((relay.owner.given_back, handoff))
    elif exchange_of(f) == NULL:
        ends.append((<object>f.token, end_of(f)))
    elif f.reason == R_TLS_NAME:
        facts = lane_facts(&relay.state, exchange_of(f))
        ends.append((relay.owner.refused, (facts, end_of(f))))
    return 0
