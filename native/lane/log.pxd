"""The lines of exchanges that are over, until the owner takes them for its log.

A line is made where an exchange ends, into the buffer that the owner takes as it is. It is half as
long as the values that it is made from, so to keep those for later would be more work.
"""

from libc.stdint cimport int32_t, uint8_t
from libc.stdlib cimport realloc

from core.counts cimport count_up
from core.types cimport Flow
from lane.counts cimport K_LINES_LOST
from lane.facts cimport facts_of
from lane.json_line cimport write_json
from lane.line cimport LINE_MOST, write_line
from lane.received cimport received
from lane.records cimport record_end
from lane.sums cimport is_failure, sum_exchange, sum_failure
from lane.types cimport Exchange, Facts, L_JSON, Lane, V_END, exchange_of

cdef enum:
    LOG_BATCH = 262144      # bytes of which the owner is told anew
    LOG_ROOM = 65536        # bytes to begin with
    LOG_MOST = 4194304      # beyond it lines are dropped; the owner is told how many


cdef inline bint log_room(Lane *lane) noexcept nogil:
    """Whether there is room for a line; there is more and more, up to LOG_MOST."""
    cdef size_t room = 2 * lane.log.room if lane.log.room else <size_t>LOG_ROOM
    cdef char *at
    if lane.log.used + LINE_MOST <= lane.log.room:
        return True
    if room > LOG_MOST:
        return False
    at = <char *>realloc(lane.log.at, room)
    if at == NULL:
        return False
    lane.log.at = at
    lane.log.room = room
    return True


cdef inline void log_put(
    Lane *lane, const Exchange *x, const Facts *facts, uint8_t event
) noexcept nogil:
    """Adds a line, in the format that the owner wants."""
    if not log_room(lane):
        lane.log.dropped += 1
        count_up(&lane.core, K_LINES_LOST)
        return
    if lane.log.form.kind == L_JSON:
        lane.log.used += write_json(lane.log.at + lane.log.used, &lane.log, x, facts, event)
    else:
        lane.log.used += write_line(lane.log.at + lane.log.used, &lane.log.form, x, facts)
    lane.log.count += 1


cdef inline void exchange_over(
    Lane *lane, int32_t slot, uint8_t reason, uint8_t by
) noexcept nogil:
    """An exchange, or the tunnel that it became, is over: for the log, the record and the
    sums. The rest is as of `facts_of`."""
    cdef const Flow *f = &lane.core.flows[slot]
    cdef Exchange *x = exchange_of(f)
    cdef bint failed = lane.sums.on and is_failure(lane, f, reason, by)
    cdef bint logged = lane.log.on or (lane.log.rest and x.record == NULL)
    cdef Facts facts
    if lane.sums.on:
        sum_exchange(lane, x, received(f), f.way[1].copied + f.way[1].spliced)
    if not logged and x.record == NULL and not failed:
        return
    facts_of(lane, slot, reason, by, &facts)
    if failed:
        sum_failure(lane, x, reason, facts.ended)
    if logged:
        log_put(lane, x, &facts, V_END)
    record_end(&lane.records, x, &facts)
