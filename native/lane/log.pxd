"""The lines of exchanges that are over, until the owner takes them for its log.

A line is made where an exchange ends, into the buffer that the owner takes as it is. It is half as
long as the values that it is made from, so to keep those for later would be more work.
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport realloc

from core cimport linux
from lane.line cimport LINE_MOST, write_line
from lane.records cimport record_end
from lane.sums cimport is_failure, sum_exchange, sum_failure
from lane.types cimport Exchange, Lane

cdef enum:
    LOG_BATCH = 262144      # bytes of which the owner is told anew
    LOG_ROOM = 65536        # bytes to begin with
    LOG_MOST = 4194304      # beyond it lines are dropped; the owner is told how many


cdef inline int64_t wall_us() noexcept nogil:
    cdef linux.timespec t
    linux.clock_gettime(linux.CLOCK_REALTIME, &t)
    return <int64_t>t.tv_sec * 1000000 + t.tv_nsec // 1000


cdef inline int64_t now_us() noexcept nogil:
    cdef linux.timespec t
    linux.clock_gettime(linux.CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1000000 + t.tv_nsec // 1000


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
    Lane *lane, const Exchange *x, int64_t ended, int64_t took, uint64_t received,
    uint64_t sent, uint8_t reason,
) noexcept nogil:
    """Adds a line, as of `write_line`."""
    if not log_room(lane):
        lane.log.dropped += 1
        lane.counters.dropped += 1
        return
    lane.log.used += write_line(
        lane.log.at + lane.log.used, &lane.log.form, x, ended, took, received, sent, reason)
    lane.log.count += 1


cdef inline void exchange_over(
    Lane *lane, Exchange *x, uint64_t received, uint64_t sent, uint8_t reason
) noexcept nogil:
    """An exchange, or the tunnel that it became, is over: for the log, the record and the
    sums."""
    cdef int64_t ended, took
    if lane.sums.on:
        sum_exchange(lane, x, received, sent)
    if not lane.log.on and x.record == NULL and not (lane.sums.on and is_failure(reason)):
        return
    ended = wall_us()
    if lane.sums.on and is_failure(reason):
        sum_failure(lane, x, reason, ended)
    took = now_us() - x.started
    if lane.log.on:
        log_put(lane, x, ended, took, received, sent, reason)
    record_end(&lane.records, x, ended, took, received, sent, reason)
