"""Connecting to a target: its addresses in their order, the next beside the last after a moment or
once the last has failed (RFC 8305 section 5). The first connection is taken, the others are closed.

If all attempts have failed, or the time for all of them together is over, the client is given back
with what became of each: its owner says what is wrong.
"""

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t

from core cimport linux
from core.queues cimport enter_queue, leave_queue, wheel_of
from core.slots cimport list_add, slots_reserve
from core.types cimport Core, IN_LANE, NOWHERE
from lane.counts cimport count_failed_dial
from lane.ends cimport give_back
from lane.facts cimport now_us
from lane.origins cimport connection_dial, serve_client
from lane.types cimport (
    Exchange, G_REQUEST, Lane, P_DIAL, Q_DIAL, Q_RACE, TIME_IS_UP, connection_of, exchange_of,
)


cdef inline int error_of(int fd) noexcept nogil:
    """The errno of a finished attempt, 0 for success."""
    cdef int error = 0
    cdef linux.socklen_t size = sizeof(error)
    if linux.getsockopt(fd, linux.SOL_SOCKET, linux.SO_ERROR, &error, &size) < 0:
        return linux.errno
    return error


cdef inline void attempt_failed(
    Lane *lane, Exchange *x, uint8_t address, int error
) noexcept nogil:
    count_failed_dial(lane, error)
    x.failed[x.failures].address = address
    x.failed[x.failures].error = <int16_t>error
    x.failures += 1


cdef inline int64_t began_at(Lane *lane, const Exchange *x) noexcept nogil:
    """ms, when the time for all attempts began. That to connect to a parent is shorter than that
    for an origin, with whom it shares a queue: so it began earlier."""
    cdef int64_t began = x.dialling // 1000
    if x.target.hop != NULL:
        began -= max(wheel_of(&lane.core, Q_DIAL).timeout - x.target.hop.reach_ms, <int64_t>0)
    return began


cdef inline void await_attempts(Lane *lane, int32_t slot) noexcept nogil:
    """Until the next address is to be tried, or the time for all of them is over."""
    cdef Core *c = &lane.core
    cdef const Exchange *x = exchange_of(&c.flows[slot])
    cdef int64_t began = began_at(lane, x)
    cdef bint more = x.begun < x.target.count and (
        c.now + wheel_of(c, Q_RACE).timeout < began + wheel_of(c, Q_DIAL).timeout)
    leave_queue(c, slot)
    # A body of an earlier request may have moved a moment ago.
    c.flows[slot].way[0].active = c.flows[slot].way[1].active = c.now if more else began
    enter_queue(c, slot, Q_RACE if more else Q_DIAL)


cdef inline void attempt(Lane *lane, int32_t slot) noexcept nogil:
    """Begins to connect to the next address; those that fail at once are passed over."""
    cdef Core *c = &lane.core
    cdef Exchange *x = exchange_of(&c.flows[slot])
    cdef uint8_t address
    cdef int32_t connection = NOWHERE
    while x.begun < x.target.count:
        address = x.begun
        x.begun += 1
        connection = connection_dial(lane, x.target, address)
        if connection != NOWHERE:
            serve_client(lane, connection, slot)
            list_add(c, &x.attempts, IN_LANE, connection)
            break
        attempt_failed(lane, x, address, linux.errno)
    if x.attempts.first == NOWHERE:
        give_back(lane, slot, G_REQUEST)
    else:
        await_attempts(lane, slot)


cdef inline void dial(Lane *lane, int32_t slot) noexcept nogil:
    """Connects to the target that the exchange holds. There must be a free slot. What its owner
    has spent on the look-up of a name is a part of the time for all attempts; the time in P_QUEUE
    between the two is none."""
    cdef Exchange *x = exchange_of(&lane.core.flows[slot])
    x.dialling = now_us() - x.dns
    x.begun = x.failures = 0
    x.phase = P_DIAL
    attempt(lane, slot)


cdef inline void attempts_late(Lane *lane, int32_t slot, bint race) noexcept nogil:
    """The time to wait is over: in a `race` for another attempt, else for all of them."""
    cdef Core *c = &lane.core
    cdef Exchange *x = exchange_of(&c.flows[slot])
    if race:
        slots_reserve(c, 1)
        attempt(lane, slot)
        return
    attempt_failed(lane, x, connection_of(&c.flows[x.attempts.last]).address, TIME_IS_UP)
    give_back(lane, slot, G_REQUEST)
