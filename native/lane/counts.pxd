"""What the lane counts, in the columns behind those of the relay (core/counts.pxd).

A request is counted by whoever ends it: here where its exchange is over or has become a tunnel, and
not where its client is given back. So are its head and what was decided about it. The bytes of
bodies and tunnels are counted as they move.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcmp

from core.counts cimport K_BYTES, K_LANE, K_PIPES, K_TRANSFERS, K_TUNNELS, count_up
from core.queues cimport wheel_of
from core.types cimport Core, Flow
from http.plain cimport OTHER
from lane.received cimport received
from lane.types cimport CAUSES, ERRNOS, Exchange, Lane, Q_ASK, V4, exchange_of

cdef enum:
    METHOD_KINDS = 9
    STATUS_KINDS = 7
    BUCKETS = 14            # with an upper bound
    HISTOGRAM = BUCKETS + 2 # and one beyond them, and the sum
    DIAL_ERRORS = 7
    ENDED_BY = 8
    HEADER_RESULTS = 11
    K_REQUESTS = K_LANE
    K_LANE_REQUESTS = K_REQUESTS + METHOD_KINDS * STATUS_KINDS
    K_REQUESTS_CUT = K_LANE_REQUESTS + 1        # by who has ended it
    K_GIVEN_BACK = K_REQUESTS_CUT + ENDED_BY    # by cause, from G_REQUEST on
    K_LOST = K_GIVEN_BACK + CAUSES - 1
    K_CONNECTIONS_BEGUN
    K_ROUTE_HITS
    K_QUESTIONS
    K_REUSES
    K_DIALS
    K_DIAL_ERRORS           # by Proxy Error Type
    K_DIAL_SECONDS = K_DIAL_ERRORS + DIAL_ERRORS
    K_FIRST_BYTE_SECONDS = K_DIAL_SECONDS + HISTOGRAM
    K_LINES_LOST = K_FIRST_BYTE_SECONDS + HISTOGRAM     # the first: without memory
    K_LINES = K_LINES_LOST + 7
    K_PROXY_HEADERS         # by result; version 1 is the first, then 2
    K_SOCKS_REQUESTS = K_PROXY_HEADERS + HEADER_RESULTS     # by version: 4, 5
    K_CLIENTS = K_SOCKS_REQUESTS + 2    # gauges from here on
    K_QUESTIONS_OPEN = K_CLIENTS + 2
    K_ORIGINS_IDLE
    K_PYTHON                # the first that is Python's alone

cdef extern from *:
    """
    static const int64_t bucket_bounds[] = {  /* us */
        500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 500000,
        1000000, 2500000, 5000000, 10000000,
    };
    """
    const int64_t bucket_bounds[]


cdef inline int method_at(const Exchange *x) noexcept nogil:
    """The place of a request's method among METHODS of spliceproxy/relay/columns.py."""
    cdef const char *name = x.data
    if x.method != OTHER:
        return x.method
    if memcmp(name, b"POST ", 5) == 0:
        return 3
    if memcmp(name, b"PUT ", 4) == 0:
        return 4
    if memcmp(name, b"PATCH ", 6) == 0:
        return 5
    if memcmp(name, b"DELETE ", 7) == 0:
        return 6
    if memcmp(name, b"OPTIONS ", 8) == 0:
        return 7
    return 8


cdef inline void count_request(Lane *lane, const Flow *f) noexcept nogil:
    """A request is over, or has become a tunnel. What was received of it is counted, but for what
    has moved: its head, and of a chunked body what its client's frames have more than ours. Where
    they have less the next requests make up for it: nothing that is counted ever goes back."""
    cdef Core *c = &lane.core
    cdef Exchange *x = exchange_of(f)
    cdef int64_t more = lane.uncounted + <int64_t>(
        received(f) - f.way[0].copied - f.way[0].spliced)
    c.row[K_BYTES] += max(more, 0)
    lane.uncounted = min(more, 0)
    x.uncounted = False
    c.row[K_REQUESTS + STATUS_KINDS * method_at(x) + min(x.status // 100, STATUS_KINDS - 1)] += 1
    if x.decision:
        c.row[x.decision] += 1
    if x.socks:
        c.row[K_SOCKS_REQUESTS + x.socks - V4] += 1


cdef inline int cut_column(uint8_t by) noexcept nogil:
    """That of requests that were ended early by whom this letter of a termination stands for."""
    cdef const char *letters = b"CScsPKDL"
    cdef int at = 0
    while at < ENDED_BY - 1 and by != <uint8_t>letters[at]:
        at += 1
    return K_REQUESTS_CUT + at


cdef inline void count_lost(Lane *lane) noexcept nogil:
    """A client is closed because there is no memory to go on with it. The owner is told with the
    next end."""
    lane.lost += 1
    count_up(&lane.core, K_LOST)


cdef inline void count_time(Lane *lane, int histogram, int64_t us) noexcept nogil:
    cdef int at = 0
    while at < BUCKETS and us > bucket_bounds[at]:
        at += 1
    lane.core.row[histogram + at] += 1
    lane.core.row[histogram + BUCKETS + 1] += us


cdef inline void count_failed_dial(Lane *lane, int error) noexcept nogil:
    """An attempt to connect has failed, with an errno or TIME_IS_UP."""
    lane.core.row[K_DIAL_ERRORS + lane.dial_errors[error if 0 < error < ERRNOS else 0]] += 1


cdef inline void count_lines(Lane *lane) noexcept nogil:
    """The lines that were made since the last call. Whoever finds them unwritten when this process
    has been killed knows by this how many there were."""
    lane.core.row[K_LINES] += lane.log.count - lane.log.counted
    lane.log.counted = lane.log.count


cdef inline void publish(Lane *lane) noexcept nogil:
    """The gauges, as they are now, and what is counted once for each step."""
    cdef Core *c = &lane.core
    count_lines(lane)
    c.row[K_TUNNELS] = c.tunnels - c.ended
    c.row[K_TRANSFERS] = c.transfers
    c.row[K_PIPES] = c.pool.lent
    c.row[K_PIPES + 1] = c.pool.idle
    c.row[K_CLIENTS] = lane.clients
    c.row[K_QUESTIONS_OPEN] = wheel_of(c, Q_ASK).count
    c.row[K_ORIGINS_IDLE] = lane.idle_count


cdef inline uint64_t given_back_counted(const Lane *lane) noexcept nogil:
    """For whatever cause."""
    cdef uint64_t sum = 0
    cdef int cause
    for cause in range(CAUSES - 1):
        sum += lane.core.row[K_GIVEN_BACK + cause]
    return sum
