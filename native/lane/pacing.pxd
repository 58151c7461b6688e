"""What lasts and is looked at by the owner again and again: how much has moved for limits on bytes,
and how fast it may (SO_MAX_PACING_RATE, socket(7)). The kernel paces what is sent, so splicing goes
on, and nothing here waits.

A way whose rate is below WIDE is narrow (core/crowd.pxd), and takes PACED_READ at a time: what its
source has sent, and its target may not have yet, would else fill the buffers of the kernel. It takes no
more near the end of a budget, either: what is beyond it is what goes in one turn.
"""

from libc.stdint cimport int32_t, uint64_t

from core cimport linux
from core.crowd cimport narrow, widen
from core.types cimport Core, Flow, NARROW, NOWHERE, TUNNEL, Way
from lane.meters cimport account, least_left, unmetered, unwatch
from lane.received cimport received
from lane.types cimport Connection, Exchange, GROWN, Lane, P_ASK, connection_of, exchange_of

cdef enum:
    FREE = 16384            # bytes: a connection that moves no more has no rate
    WIDE = 100000000        # bytes per second: at this, and above it, a whole pipe is 10 ms or less
    NEAR = 1 << 26          # bytes that are left of a budget near its end
    BY_RATE = 1             # Way.paced
    BY_BUDGET = 2


cdef inline void pace_socket(int fd, uint64_t rate) noexcept nogil:
    """Bytes per second that go out, headers not counted; 0: any number. A socket that cannot be
    paced (of Unix) is not."""
    cdef uint64_t value = rate if rate else <uint64_t>-1
    linux.setsockopt(fd, linux.SOL_SOCKET, linux.SO_MAX_PACING_RATE, &value, sizeof(value))


cdef inline void cap_way(Way *w, uint64_t rate) noexcept nogil:
    w.capped = rate != 0
    w.paced = (w.paced & BY_BUDGET) | (BY_RATE if 0 < rate < WIDE else 0)


cdef inline void pace_way(Core *c, Way *w, int source, int target, uint64_t rate) noexcept nogil:
    pace_socket(target, rate)
    cap_way(w, rate)
    if w.paced and not w.flags & NARROW:
        narrow(c, w, source, target)
    elif not w.paced and w.flags & NARROW and c.now >= c.crowd_until:
        widen(w, source, target)


cdef inline void pace_connection(Connection *k, int fd, uint64_t rate) noexcept nogil:
    """That of an origin, which other clients may use later."""
    if k.pace != rate:
        pace_socket(fd, rate)
        k.pace = rate


cdef inline void pace(Lane *lane, int32_t slot, uint64_t up, uint64_t down) noexcept nogil:
    """Of a tunnel, or of a client and whatever serves it, from here on."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x
    if f.kind == TUNNEL:
        if up or f.way[0].capped:
            pace_way(c, &f.way[0], f.fd[0], f.fd[1], up)
        if down or f.way[1].capped:
            pace_way(c, &f.way[1], f.fd[1], f.fd[0], down)
        return
    x = exchange_of(f)
    x.pace = up
    cap_way(&f.way[0], up)
    if down or f.way[1].capped:
        pace_socket(f.fd[0], down)
    cap_way(&f.way[1], down)
    if x.connection != NOWHERE:
        pace_connection(
            connection_of(&c.flows[x.connection]), c.flows[x.connection].fd[0], up)


cdef inline uint64_t moved_up(const Flow *f, const Exchange *x) noexcept nogil:
    """Bytes of all requests of a client, and of its tunnel. One that is asked about may yet count
    for others."""
    if f.kind != TUNNEL and x.phase <= P_ASK:
        return x.past_up
    return x.past_up + received(f)


cdef inline uint64_t moved_down(const Flow *f, const Exchange *x) noexcept nogil:
    if f.kind != TUNNEL and x.phase <= P_ASK:
        return x.past_down
    return x.past_down + f.way[1].copied + f.way[1].spliced


cdef inline void account_flow(Lane *lane, int32_t slot) noexcept nogil:
    cdef const Flow *f = &lane.core.flows[slot]
    cdef Exchange *x = exchange_of(f)
    account(lane, x, moved_up(f, x) + moved_down(f, x))


cdef inline uint64_t mind_budgets(Lane *lane, Flow *f, const Exchange *x) noexcept nogil:
    """Near the end of a budget both ways take little at a time; returns what is left of it."""
    cdef uint64_t left = least_left(lane, x)
    cdef int way
    for way in range(2):
        f.way[way].paced = (f.way[way].paced & BY_RATE) | (BY_BUDGET if left < NEAR else 0)
    return left


cdef inline void begin_watched(Lane *lane, int32_t slot) noexcept nogil:
    """A request goes on whose client is watched. If it counts for nothing, that is over."""
    cdef Flow *f = &lane.core.flows[slot]
    cdef Exchange *x = exchange_of(f)
    if not x.metered:
        unwatch(lane, x)
        pace(lane, slot, 0, 0)
    f.metered = x.each_turn
    mind_budgets(lane, f, x)


cdef inline bint is_small(const Flow *f, const Exchange *x) noexcept nogil:
    """Whether it has moved so little that its rate is nobody's concern."""
    return moved_up(f, x) + moved_down(f, x) < FREE


cdef inline bint spend(Lane *lane, int32_t slot) noexcept nogil:
    """Counts what has moved in a turn; whether nothing is left of a budget. Whoever may have a rate
    and has grown is to have it at once."""
    cdef Flow *f = &lane.core.flows[slot]
    cdef Exchange *x = exchange_of(f)
    account_flow(lane, slot)
    if x.unpaced and not is_small(f, x):
        if lane.grown_count < GROWN:
            lane.grown[lane.grown_count] = slot
        lane.grown_count += 1
        lane.unseen = True
    return mind_budgets(lane, f, x) == 0


cdef inline void end_metering(Lane *lane, int32_t slot) noexcept nogil:
    """The connection is over, before its peer can know."""
    cdef Exchange *x = exchange_of(&lane.core.flows[slot])
    if x.watched != NULL:
        account_flow(lane, slot)
    unmetered(lane, x)
