"""Lines about tunnels that live: at their start, and every so often.

The tunnels are in a list in the order in which they were told of, which is also that in which they
are due. So a look costs as much as there is to say, and at most LIVE_BATCH of them are told at a
time: thousands that began together hold up nobody.
"""

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t

from core.slots cimport list_add, list_take
from core.types cimport IN_LANE, NOWHERE
from lane.facts cimport facts_of
from lane.log cimport log_put
from lane.records cimport record_copy
from lane.types cimport Exchange, Facts, Lane, V_LIVE, V_START, exchange_of

cdef enum:
    LIVE_BATCH = 64         # tunnels that are told of between two looks at epoll


cdef inline void tell_of(Lane *lane, int32_t slot, uint8_t event) noexcept nogil:
    """A line or a record about a tunnel, which is due again when it is the last."""
    cdef Exchange *x = exchange_of(&lane.core.flows[slot])
    cdef Facts facts
    facts_of(lane, slot, 0, c'-', &facts)
    if lane.log.on:
        log_put(lane, x, &facts, event)
    else:
        record_copy(lane, x, &facts, event)
    x.told = lane.core.now
    list_add(&lane.core, &lane.live, IN_LANE, slot)


cdef inline void begin_life(Lane *lane, int32_t slot) noexcept nogil:
    """A tunnel begins."""
    if lane.live_ms > 0:
        tell_of(lane, slot, V_START)


cdef inline void end_life(Lane *lane, int32_t slot) noexcept nogil:
    """It is over."""
    if exchange_of(&lane.core.flows[slot]).told > 0:
        list_take(&lane.core, &lane.live, IN_LANE, slot)
        exchange_of(&lane.core.flows[slot]).told = 0


cdef inline int64_t life_due(const Lane *lane) noexcept nogil:
    """ms, when the next is to be told of; INT64_MAX if none is."""
    if lane.live_ms == 0 or lane.live.last == NOWHERE:
        return INT64_MAX
    return exchange_of(&lane.core.flows[lane.live.last]).told + lane.live_ms


cdef inline void tell_lives(Lane *lane) noexcept nogil:
    """Those that are due, up to a batch."""
    cdef int left = LIVE_BATCH
    cdef int32_t slot
    while left > 0 and life_due(lane) <= lane.core.now:
        left -= 1
        slot = lane.live.last
        list_take(&lane.core, &lane.live, IN_LANE, slot)
        tell_of(lane, slot, V_LIVE)
