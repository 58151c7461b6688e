"""What the owner is shown of the flows that live: tunnels, and requests in the lane."""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy

from core cimport linux
from core.queues cimport finish, last_active
from core.types cimport Core, Flow, NOWHERE, Q_FINISHED, Q_FROZEN, SPLICING, TUNNEL, Way
from http.plain cimport Text
from lane.ends cimport cut
from lane.line cimport word_at
from lane.received cimport head_received
from lane.types cimport CLIENT, Exchange, Lane, P_HEAD, exchange_of
from names cimport PHASE_NAMES
from step cimport clock_ms

from spliceproxy.relay.interface import FlowView

cdef enum:
    LOOKS = 4096            # slots that are looked at for one list
    RTT_AT = 68             # of tcpi_rtt in struct tcp_info (linux/tcp.h)


cdef int64_t rtt_of(int fd) noexcept:
    """Microseconds of the smoothed round trip; -1 where there is none, as on a Unix socket."""
    cdef char info[RTT_AT + 4]
    cdef uint32_t rtt
    cdef linux.socklen_t size = sizeof(info)
    if linux.getsockopt(fd, linux.IPPROTO_TCP, linux.TCP_INFO, info, &size) < 0:
        return -1
    if size < sizeof(info):
        return -1
    memcpy(&rtt, info + RTT_AT, sizeof(rtt))
    return rtt


cdef bint is_shown(const Flow *f) noexcept:
    """Whether it is a tunnel, or a request of the lane's that is being served."""
    if f.queue == Q_FINISHED or f.queue == Q_FROZEN:
        return False
    if f.kind == TUNNEL:
        return True
    return f.kind == CLIENT and exchange_of(f).phase != P_HEAD


cdef object view_of(NativeRelay relay, int32_t slot, int64_t now):
    """A FlowView of a flow that is shown."""
    cdef const Flow *f = &relay.state.core.flows[slot]
    cdef const Exchange *x = exchange_of(f)
    cdef const Way *up = &f.way[0]
    cdef const Way *down = &f.way[1]
    cdef int origin = f.fd[1]
    cdef Text method, target
    cdef uint64_t head = 0
    cdef uint64_t number = 0
    cdef int decision = 0
    cdef int generation = 0
    names = ("", "", "", "", "", "")
    via = route = ""
    cdef int place = 0
    token = None
    begun = 0.0
    if f.kind == CLIENT:
        origin = NOWHERE
        if x.connection != NOWHERE:
            origin = relay.state.core.flows[x.connection].fd[0]
    if x == NULL:
        token = <object>f.token
    else:
        method = word_at(x.data)
        target = word_at(method.at + method.size + 1)
        head = head_received(x)
        begun = x.started / 1e6
        names = (
            (<const char *>x.address).decode("ascii"),
            (<const char *>x.user).decode("utf-8", "replace"),
            method.at[:method.size].decode("ascii"), target.at[:target.size].decode("ascii"),
            (<const char *>x.peer).decode("ascii"),
            x.note.text[:x.note.size].decode("ascii") if x.note != NULL else "",
        )
        via = via_of(x)
        number = x.number
        decision = x.decision
        generation = x.generation
        route = route_of_exchange(x)
        place = x.place
        if x.record != NULL and x.record.token != NULL:  # it has none until it is asked
            token = <object>x.record.token.object
    return FlowView(
        relay._ident_of(slot), number, f.kind == TUNNEL,
        "tunnel" if f.kind == TUNNEL else name_in(PHASE_NAMES, x.phase), token, *names, decision,
        begun, max(now - last_active(f), 0) / 1000.0, head + up.copied, up.spliced, down.copied,
        down.spliced, (up.flags | down.flags) & SPLICING != 0, rtt_of(f.fd[0]),
        rtt_of(origin) if origin != NOWHERE else -1, generation, via, route,
        place,
    )


cdef str name_in(const char *const *names, int value):
    return (<const char *>names[value]).decode("ascii")


cdef tuple views_from(NativeRelay relay, int32_t slot, int most):
    """At most so many flows from this slot on, and the slot to go on at; -1 at the end."""
    cdef const Core *c = &relay.state.core
    cdef int64_t now = clock_ms(linux.CLOCK_MONOTONIC)
    cdef int32_t end = min(c.capacity, slot + LOOKS)
    cdef list found = []
    while slot < end and len(found) < most:
        if is_shown(&c.flows[slot]):
            found.append(view_of(relay, slot, now))
        slot += 1
    return found, slot if slot < c.capacity else -1


cdef bint end_shown(NativeRelay relay, uint64_t ident, uint8_t reason) noexcept:
    """Ends a flow that is shown; whether there was one."""
    cdef Lane *lane = &relay.state
    cdef int32_t slot = relay._find(ident)
    if slot == NOWHERE or not is_shown(&lane.core.flows[slot]):
        return False
    if lane.core.flows[slot].kind == TUNNEL:
        finish(&lane.core, slot, reason)
    else:
        cut(lane, slot, reason)
    return True
