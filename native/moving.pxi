"""Tunnels that move to another process and from one, as Python: spliceproxy/relay/moving.py says what
is in a state."""

from cpython.ref cimport PyObject, Py_INCREF
from libc.stdint cimport int32_t, int64_t, uint32_t, uint8_t
from libc.stdlib cimport free

from core cimport linux
from closing cimport close_finished
from core.frozen cimport freeze, thaw
from core.gate cimport check_release, gate_free, gate_keep, gate_put
from core.moves cimport hold
from core.slots cimport slot_free
from core.types cimport (
    COPY_ONLY, Core, ENDED, FIN_SENT, Flow, Gate, NARROW, NOWHERE, NameCheck, Q_ACK, Q_FROZEN, Q_HALF,
    Q_IDLE, Q_NAME, Q_YOUNG, REASONS, SPLICING, STOPPED, TUNNEL, Way,
)
from core.waits cimport end_waits
from lane.counts cimport publish
from lane.frozen cimport freeze_exchange, thaw_exchange
from lane.meters cimport hold_of, meter_of
from lane.received cimport head_received, received
from lane.sums cimport sum_aside, sum_exchange
from lane.types cimport (
    Connection, Exchange, G_BODY, G_CLOSED, G_RESPONSE, Lane, P_BODY, P_WAIT, connection_of,
    exchange_of,
)
from step cimport clock_ms

from spliceproxy.relay import checking, interface


cdef object state_of_way(const Core *c, const Way *w):
    from spliceproxy.relay.moving import WayState
    return WayState(
        w.copied, w.spliced, owed_of(w), w.in_pipe, w.flags & (ENDED | STOPPED) != 0,
        w.flags & SPLICING != 0, w.flags & COPY_ONLY != 0, w.flags & NARROW != 0, w.active,
        c.now - <uint32_t>(<uint32_t>c.now - w.mark) if w.mark else 0, w.for_source, w.for_target,
        w.silent,
    )


cdef object open_check(const Gate *g):
    """What is still to be found of the name inside TLS; None for nothing."""
    if g == NULL:
        return None
    from spliceproxy.relay.moving import CheckState
    return CheckState(
        g.check.name[:g.check.size].decode("ascii"), g.check.refused, max(g.since, 0),
        g.data[:g.have] if g.have else b"")


cdef object state_of(const Core *c, const Flow *f):
    """Of a frozen tunnel."""
    cdef bint waits = f.bucket == Q_ACK
    cdef uint8_t queue = f.gate.back if f.bucket == Q_NAME else f.bucket
    from spliceproxy.relay.moving import TunnelState
    return TunnelState(
        state_of_way(c, &f.way[0]), state_of_way(c, &f.way[1]), f.dead - 1,
        interface.REASONS[f.reason] if f.dead else "", f.err if f.dead else 0, f.spoke,
        queue == Q_YOUNG, f.outq if waits else 0, f.queued if waits else 0,
        checking.FOUND[f.found], open_check(f.gate),
    )


cdef tuple entries_of(const Exchange *x):
    """Of the limits for which it counts as long as it lasts."""
    cdef uint32_t i
    cdef set found = set()
    if x.holds != NULL:
        found.update([hold_of(x.holds, i).entry for i in range(x.holds.count)])
    if x.watched != NULL:
        found.update([meter_of(x.watched, i).entry for i in range(x.watched.count)])
    return tuple(found)


cdef object lane_facts(const Lane *lane, const Exchange *x):
    """What the lane knows of a tunnel."""
    cdef Text target = word_at(x.data)
    target = word_at(target.at + target.size + 1)
    known = None
    if x.record != NULL and x.record.token != NULL:
        known = <object>x.record.token.object
    from spliceproxy.relay.moving import LaneFacts
    return LaneFacts(
        (<const char *>x.address).decode("ascii"),
        (<const char *>x.user).decode("utf-8", "replace"),
        target.at[:target.size].decode("ascii"), (<const char *>x.peer).decode("ascii"),
        x.number, x.started / 1e6,
        x.question, x.dns, x.dial, head_received(x), x.data[:x.head] if lane.heads else b"", x.decision,
        x.note.text[:x.note.size] if x.note != NULL else b"", x.generation, known,
        via_of(x), x.socks, route_of_exchange(x), by_of(x), entries_of(x),
    )


cdef object frozen_of(NativeRelay relay, int32_t slot):
    """Freezes a tunnel that can be frozen."""
    cdef Lane *lane = &relay.state
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = exchange_of(f)
    cdef list fds = [f.fd[0], f.fd[1]]
    cdef int s
    from spliceproxy.relay.moving import DRAIN_MOST, FrozenTunnel
    c.now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)
    if x != NULL and lane.sums.on:  # what is new from here on is the next owner's
        sum_exchange(lane, x, received(f), f.way[1].copied + f.way[1].spliced)
        sum_aside(lane, x)
    freeze(c, slot, DRAIN_MOST)
    if x != NULL:
        accounted(relay, slot)  # likewise
    try:
        for s in range(2):
            if f.way[s].in_pipe:
                fds += f.way[s].pipe_r, f.way[s].pipe_w
        return FrozenTunnel(
            tuple(fds), state_of(c, f), <object>f.token if f.token != NULL else None,
            lane_facts(lane, x) if x != NULL else None)
    except BaseException:
        thaw(c, slot)
        close_finished(lane)
        raise


cdef bytes behind_head(const Exchange *x, const Way *w):
    """What was received of a client and not sent on, with the head of its request. What was framed
    anew is of Way.held, and goes on from there."""
    cdef bytes data = x.data[:x.have]
    if x.up.on:
        return data + x.up.line[:x.up.kept]
    return data[:x.head] + owed_of(w) + data[x.head:]


cdef object handoff_of_frozen(Flow *f):
    """As if it were given back now, and without its descriptors."""
    cdef Exchange *x = exchange_of(f)
    x.cause = G_RESPONSE if x.phase == P_WAIT else G_BODY
    try:
        handoff = handoff_of(f)
    finally:
        x.cause = G_CLOSED
    handoff.client = NOWHERE
    handoff.buffer = behind_head(x, &f.way[0])
    if not x.up.on and f.way[0].held != NULL:
        handoff.left += f.way[0].held_end - f.way[0].held_at
    if x.phase == P_BODY and x.down.on:
        handoff.answer = x.down.line[:x.down.kept]
    if x.summed:
        handoff.summed = (x.summed_received, x.summed_sent)
    return handoff


cdef object frozen_exchange(NativeRelay relay, int32_t slot):
    """Freezes a request that can be frozen; None without memory for that."""
    cdef Lane *lane = &relay.state
    cdef Core *c = &lane.core
    cdef Flow *f = &c.flows[slot]
    cdef Exchange *x = exchange_of(f)
    cdef const Connection *k = connection_of(&c.flows[x.connection])
    from spliceproxy.relay.moving import FrozenExchange
    c.now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)
    if not freeze_exchange(lane, slot):
        return None
    try:
        handoff = handoff_of_frozen(f)
        handoff.reused = not k.fresh
        handoff.accounted = accounted(relay, slot)
        return FrozenExchange(
            (f.fd[0], c.flows[x.connection].fd[0]), handoff,
            lane_facts(lane, x),
            k.origin.item.key[:k.origin.item.key_size] if k.origin != NULL else b"")
    except BaseException:
        thaw_exchange(lane, slot)
        close_finished(lane)
        raise


cdef object frozen_transfer(NativeRelay relay, int32_t slot):
    """Freezes a transfer that can be frozen; None without memory for that."""
    cdef Core *c = &relay.state.core
    cdef Flow *f = &c.flows[slot]
    cdef Way *w = &f.way[0]
    from spliceproxy.relay.moving import FrozenTransfer
    c.now = clock_ms(linux.CLOCK_MONOTONIC_COARSE)
    end_waits(c, f, True)
    freeze(c, slot, <uint32_t>0xffffffff)
    try:
        if w.in_pipe:
            raise MemoryError
        return FrozenTransfer(
            w.left, owed_of(w), w.copied, w.spliced, w.for_target, w.for_source)
    except BaseException:
        thaw(c, slot)
        close_finished(&relay.state)
        raise


cdef int take_way(Core *c, Way *w, object state, int at_end) except -1:
    """Makes a way of its state but for its pipe. `at_end`: the flags of one that is over."""
    cdef bytes held = state.held
    cdef int64_t mark = min(<int64_t>state.mark, c.now)
    w.copied, w.spliced = state.copied, state.spliced
    w.active = min(<int64_t>state.active, c.now)
    w.mark = <uint32_t>max(mark, 0)
    w.for_source, w.for_target, w.silent = state.for_source, state.for_target, state.silent
    if state.over:
        w.flags |= at_end
    if state.splices:
        w.flags |= SPLICING
    if state.copies:
        w.flags |= COPY_ONLY
    if state.narrow:
        w.flags |= NARROW
    if held and not hold(w, held, len(held)):
        raise MemoryError
    return 0


cdef int take_tunnel(Core *c, Flow *f, object state) except -1:
    """Makes an empty flow a frozen tunnel of this state, without its pipes."""
    cdef int dead = state.dead
    cdef int s
    for s in range(2):
        at_end = ENDED | FIN_SENT if dead < 0 else ENDED if dead == s else STOPPED
        take_way(c, &f.way[s], state.down if s else state.up, at_end)
    f.dead = 1 << dead if dead >= 0 else 0
    f.reason = interface.REASONS.index(state.reason)
    f.err = state.errno
    f.spoke = state.spoke
    f.outq = state.unacknowledged
    f.queued = min(<int64_t>state.acknowledged, c.now)
    if state.acknowledged:
        f.bucket = Q_ACK
    elif dead >= 0 or state.up.over or state.down.over:
        f.bucket = Q_HALF
    else:
        f.bucket = Q_YOUNG if state.young else Q_IDLE
    f.found = checking.FOUND.index(state.found)
    if state.check is not None:
        take_check_of(c, f, state.check)
    f.queue = Q_FROZEN
    return 0


cdef int take_check_of(Core *c, Flow *f, object check) except -1:
    """What was still to be found of the name of a tunnel goes on."""
    cdef bytes data = check.data
    cdef NameCheck *made = check_of(check)
    cdef bint put = gate_put(c, f, made) and (not data or gate_keep(f.gate, data, len(data)))
    check_release(made)
    if not put:
        raise MemoryError
    if check.since:
        f.gate.since = min(<int64_t>check.since, c.now)
        if not f.dead:  # else nothing more is read of the client
            f.gate.back = f.bucket
            f.bucket = Q_NAME
    return 0


cdef object adopted(NativeRelay relay, object state, object fds, object token):
    """The id of a frozen tunnel of a state."""
    cdef Core *c = &relay.state.core
    cdef int32_t slot
    cdef Flow *f
    cdef int at, s
    from spliceproxy.relay.moving import check, check_descriptors
    check(state)
    check_descriptors(state, fds)
    slot = relay._slot(fds[0], fds[1], TUNNEL)
    f = &c.flows[slot]
    try:
        ident = relay._ident_of(slot)
        take_tunnel(c, f, state)
        at = len(fds) - 2
        pipes = [(state.up.piped, fds[2:4]), (state.down.piped, fds[at:])]
    except BaseException:
        free(f.way[0].held)
        free(f.way[1].held)
        f.way[0].held = f.way[1].held = NULL
        gate_free(f.gate)
        f.gate = NULL
        slot_free(c, slot)
        raise
    for s in range(2):
        if pipes[s][0]:
            f.way[s].in_pipe = pipes[s][0]
            f.way[s].pipe_r, f.way[s].pipe_w = pipes[s][1]
            c.pool.lent += 1
    Py_INCREF(token)
    f.token = <PyObject *>token
    c.tunnels += 1
    publish(&relay.state)
    return ident
