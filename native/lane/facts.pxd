"""What is known of an exchange, or of the tunnel that it became, when it is over: its times, who has
ended it, and who has kept it waiting. The letters are those of docs/log.md, and the same as in
spliceproxy/observe/termination.py and spliceproxy/observe/stalled.py.

Clocks are read only where somebody wants the times (Lane.timed), and TCP_INFO only for what somebody
wants it of: tunnels, and exchanges that took a second.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from core cimport linux
from core.moves cimport pending
from core.tcpinfo cimport TcpLeg, tcp_read
from core.types cimport (
    ENDED, Flow, NOWHERE, R_ABORTED, R_CLIENT_RESET, R_DONE, R_HALF_CLOSE, R_IDLE, R_KILLED, R_LIMIT,
    R_NONE, R_ORIGIN_RESET, R_POLICY, R_TARGET_IDLE, R_TLS_NAME, TUNNEL, Way,
)
from core.waits cimport end_waits, silent_side
from lane.received cimport received
from lane.types cimport (
    Exchange, Facts, J_CLIENT, J_NETWORK, J_NONE, J_ORIGIN, J_UNKNOWN, Lane, P_ASK, P_BODY,
    P_DIAL, P_PARENT, P_QUEUE, P_WAIT, exchange_of,
)

cdef enum:
    SECOND = 1000000        # us, from which on TCP_INFO is read, and somebody is to blame
    BRIEF = 100000          # us: of a tunnel that is over before, nobody asks the kernel
    NUMBER_BITS = 40        # of an id; above them is the number of the worker
    UINT32_MOST = 0xffffffff


cdef inline int64_t wall_us() noexcept nogil:
    cdef linux.timespec t
    linux.clock_gettime(linux.CLOCK_REALTIME, &t)
    return <int64_t>t.tv_sec * 1000000 + t.tv_nsec // 1000


cdef inline int64_t now_us() noexcept nogil:
    cdef linux.timespec t
    linux.clock_gettime(linux.CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1000000 + t.tv_nsec // 1000


cdef inline void begin_stages(Lane *lane, Exchange *x) noexcept nogil:
    """The head of a request is there."""
    lane.number += 2  # the owner has the odd ones
    x.number = lane.number  # also where nobody asks for it yet: it may be a tunnel for days
    x.question = x.dns = x.dial = x.first_byte = 0
    if lane.timed:
        x.started = x.lap = now_us()


cdef inline uint32_t stage_over(const Lane *lane, Exchange *x) noexcept nogil:
    """Microseconds since the last call for this exchange; 0 where nobody wants to know them."""
    cdef int64_t now
    cdef int64_t span
    if not lane.timed or x.started == 0:  # it began when nobody wanted to
        return 0
    now = now_us()
    span = now - x.lap
    x.lap = now
    return <uint32_t>min(max(span, 0), <int64_t>UINT32_MOST)


cdef inline void question_over(const Lane *lane, Exchange *x) noexcept nogil:
    """There is an answer to its question, or there will be none. The look-up of a name, which was
    a part of it, is a stage by itself."""
    cdef uint32_t waited = stage_over(lane, x)
    x.question = waited - min(x.dns, waited)


cdef inline bint is_dialling(const Exchange *x) noexcept nogil:
    """Whether it waits for a connection to its origin. One by way of a parent is there when the
    parent has said so."""
    return x.phase == P_QUEUE or x.phase == P_DIAL or x.phase == P_PARENT


cdef inline void leave_stage(const Lane *lane, Exchange *x) noexcept nogil:
    """Somebody else goes on with a request that waits: what it has waited here is a part of its
    times."""
    if x.phase == P_ASK:
        question_over(lane, x)
    elif is_dialling(x):
        x.dial += stage_over(lane, x)


# ---- who has ended it ------------------------------------------------------------------------

cdef inline uint8_t stage_of(const Flow *f) noexcept nogil:
    """The second letter, for what is ended where it is now."""
    cdef uint8_t phase
    if f.kind == TUNNEL:
        return c'D'
    phase = exchange_of(f).phase
    if phase == P_ASK:
        return c'Q'
    if is_dialling(exchange_of(f)):
        return c'C'
    return c'H' if phase == P_WAIT else c'D'


cdef inline uint8_t blamed(const Lane *lane, const Flow *f, uint8_t reason) noexcept nogil:
    """The first letter, from why it has ended. A source that fails is the origin while an answer
    is on its way, and else the client."""
    if reason == R_NONE or reason == R_DONE:
        return c'-'
    if reason == R_CLIENT_RESET:
        return c'C'
    if reason == R_ORIGIN_RESET:
        return c'S'
    if reason == R_KILLED:
        return c'K'
    if reason == R_LIMIT:
        return c'L'
    if reason == R_POLICY or reason == R_TLS_NAME:
        return c'P'
    if reason == R_ABORTED:
        return c'D' if lane.draining else c'P'
    if reason == R_IDLE or reason == R_HALF_CLOSE or reason == R_TARGET_IDLE:
        if f.kind == TUNNEL:
            return silent_side(f)
        return c'c' if pending(&f.way[1]) else c's'
    return c'S' if exchange_of(f).phase == P_BODY else c'C'


# ---- who has kept it waiting -----------------------------------------------------------------

cdef inline uint8_t hindered(const TcpLeg *leg) noexcept nogil:
    """What has kept us from sending to a peer: its program that does not read (J_NONE), or the
    network between. Linux counts the time with data to send (busy), and of that the time in which
    the peer's window was shut. A stopped program may have that at 0 while a retransmission is
    under way, but then its window is smaller than a segment."""
    if leg.busy == 0 or leg.window < leg.mss or leg.rwnd_limited * 100 > leg.busy:
        return J_NONE
    return J_NETWORK


cdef inline uint8_t stalled_by(
    uint32_t window, uint32_t client, uint32_t client_target, uint32_t origin,
    uint32_t origin_target, const TcpLeg *client_leg, const TcpLeg *origin_leg
) noexcept nogil:
    """Who has caused 80 % of a `window` of a second or more, all in ms. `client` is the time that was waited for the
    client, of which `client_target` until it took what was sent; likewise `origin`. The legs are
    NULL where nothing is known of them."""
    if window < SECOND // 1000 or (client * 5 < window * 4 and origin * 5 < window * 4):
        return J_NONE
    if client >= origin:
        if client_target * 2 > client and client_leg != NULL and (
            hindered(client_leg) == J_NETWORK
        ):
            return J_NETWORK
        return J_CLIENT
    if origin_target * 2 > origin and origin_leg != NULL and hindered(origin_leg) == J_NETWORK:
        return J_NETWORK
    return J_ORIGIN


cdef inline uint8_t judge_flow(Lane *lane, Flow *f, const Exchange *x, Facts *facts) noexcept nogil:
    """Who has kept an exchange or a tunnel waiting, since there was a connection."""
    cdef Way *up = &f.way[0]
    cdef Way *down = &f.way[1]
    cdef bint tunnel = f.kind == TUNNEL
    cdef int64_t spent = facts.question + <int64_t>facts.dns + facts.dial
    cdef int64_t window = (facts.took - spent) // 1000
    cdef uint32_t client
    if facts.took < SECOND:
        return J_UNKNOWN
    end_waits(&lane.core, f, not tunnel)
    client = down.for_target
    if not tunnel:
        client += up.for_source
    else:
        # Not the silence in which the origin had yet to take what there was for it.
        window -= max(<int64_t>down.silent - up.for_target, 0)
    return stalled_by(
        <uint32_t>max(window, 0), client, down.for_target, down.for_source + up.for_target,
        up.for_target, &facts.tcp[0] if facts.informed & 1 else NULL,
        &facts.tcp[1] if facts.informed & 2 else NULL)


# ---- all of it -------------------------------------------------------------------------------

cdef inline void inform(Lane *lane, const Flow *f, const Exchange *x, Facts *facts) noexcept nogil:
    """TCP_INFO of both legs."""
    cdef int fd = f.fd[1] if f.kind == TUNNEL else NOWHERE
    if x.connection != NOWHERE:
        fd = lane.core.flows[x.connection].fd[0]
    if tcp_read(f.fd[0], &facts.tcp[0]):
        facts.informed |= 1
    if fd >= 0 and tcp_read(fd, &facts.tcp[1]):
        facts.informed |= 2


cdef inline void add_running(const Exchange *x, uint32_t waited, Facts *facts) noexcept nogil:
    """The stage in which it ends is over, too."""
    if x.phase == P_ASK:
        facts.question = waited - min(x.dns, waited)
    elif is_dialling(x):
        facts.dial = <uint32_t>min(<uint64_t>facts.dial + waited, <uint64_t>UINT32_MOST)


cdef inline void facts_of(
    Lane *lane, int32_t slot, uint8_t reason, uint8_t by, Facts *facts
) noexcept nogil:
    """Of an exchange or tunnel that ends now, for this reason. `by`: who ends it, 0 for who the
    reason is about."""
    cdef Flow *f = &lane.core.flows[slot]
    cdef const Exchange *x = exchange_of(f)
    cdef const Way *up = &f.way[0]
    cdef const Way *down = &f.way[1]
    cdef int64_t now = now_us()
    facts.number = x.number
    facts.ended = wall_us()
    facts.started = x.started
    facts.took = now - x.started if x.started else 0
    facts.received = received(f)
    facts.sent = down.copied + down.spliced
    facts.received_spliced = up.spliced
    facts.sent_spliced = down.spliced
    facts.question = x.question
    facts.dns = x.dns
    facts.dial = x.dial
    if f.kind != TUNNEL and x.started:
        add_running(x, <uint32_t>min(max(now - x.lap, 0), <int64_t>UINT32_MOST), facts)
    facts.first_byte = x.first_byte
    facts.status = x.status
    facts.reason = reason
    facts.by = by if by else blamed(lane, f, reason)
    facts.at = c'-' if facts.by == c'-' else stage_of(f)
    facts.found = f.found
    facts.informed = 0
    facts.stalled = J_UNKNOWN
    if lane.informed and (
        facts.took >= BRIEF if f.kind == TUNNEL
        else facts.took >= SECOND and x.connection != NOWHERE
    ):
        inform(lane, f, x, facts)
        facts.stalled = judge_flow(lane, f, x, facts)
