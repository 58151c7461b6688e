"""How the work on a client's exchange ends: it is given back, or cut short.

Functions that end a client leave its slot in Q_FINISHED; nothing may touch it afterwards.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy

from core.counts cimport count_up
from core.queues cimport finish
from core.types cimport Core, Flow, NOWHERE, R_ABORTED, R_NONE
from core.waits cimport end_waits
from lane.asking cimport end_asking
from lane.counts cimport K_GIVEN_BACK, count_lost, count_request, cut_column
from lane.facts cimport blamed, leave_stage
from lane.log cimport exchange_over
from lane.origins cimport attempts_drop, connection_drop
from lane.received cimport reclaim
from lane.types cimport (
    Exchange, G_CLOSED, G_REQUEST, Lane, P_ASK, P_QUEUE, exchange_of, with_origin,
)
from lane.waiting cimport end_waiting


cdef inline void note(Lane *lane, int32_t slot, uint8_t reason, uint8_t by) noexcept nogil:
    """The exchange in work is over. `by`: as of `facts_of`."""
    cdef const Flow *f = &lane.core.flows[slot]
    count_request(lane, f)
    if reason != R_NONE:
        by = by if by else blamed(lane, f, reason)
        count_up(&lane.core, cut_column(by))
    exchange_over(lane, slot, reason, by)


cdef inline void give_back(Lane *lane, int32_t slot, uint8_t cause) noexcept nogil:
    """The owner goes on with this client, and with its origin if that has the request."""
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = exchange_of(f)
    if with_origin(cause):
        end_waits(c, f, True)
    if with_origin(cause) and not reclaim(c, f):
        note(lane, slot, R_ABORTED, 0)
        cause = G_CLOSED
    x.cause = cause
    if cause != G_CLOSED:
        leave_stage(lane, x)
    if x.phase == P_QUEUE:
        end_waiting(lane, slot)
    elif x.phase == P_ASK and not x.asked.told:
        end_asking(lane, slot)
    attempts_drop(lane, x)
    if x.connection != NOWHERE and not with_origin(cause):
        connection_drop(lane, x.connection)
        x.connection = NOWHERE
    if cause != G_CLOSED:
        count_up(c, K_GIVEN_BACK + cause - G_REQUEST)
    finish(c, slot, R_NONE)


cdef inline void close_client(Lane *lane, int32_t slot) noexcept nogil:
    give_back(lane, slot, G_CLOSED)


cdef inline void lose_client(Lane *lane, int32_t slot) noexcept nogil:
    """There is no memory for what a client has said before it has a request."""
    count_lost(lane)
    close_client(lane, slot)


cdef inline void cut_by(Lane *lane, int32_t slot, uint8_t reason, uint8_t by) noexcept nogil:
    """Ends an exchange in the middle, visibly: the client's connection is closed. `by`: who ends it,
    where the reason does not say it; or 0."""
    note(lane, slot, reason, by)
    close_client(lane, slot)


cdef inline void cut(Lane *lane, int32_t slot, uint8_t reason) noexcept nogil:
    """The same, for a reason that says who has ended it."""
    cut_by(lane, slot, reason, 0)


cdef inline bint leave_answer(
    Lane *lane, int32_t slot, const char *data, size_t n
) noexcept nogil:
    """Keeps what an origin has said for its owner; where there is no memory the client is cut,
    and it is false."""
    cdef Exchange *x = exchange_of(&lane.core.flows[slot])
    x.answer = <char *>malloc(n)
    if x.answer == NULL:
        cut(lane, slot, R_ABORTED)
        return False
    memcpy(x.answer, data, n)
    x.answer_size = <uint32_t>n
    return True
