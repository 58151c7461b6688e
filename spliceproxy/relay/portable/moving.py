"""The ways of a tunnel that moves to another process or from one: as states, and from them.
A process that moves none does not load this."""

from __future__ import annotations

from time import monotonic

from spliceproxy.relay.checking import NameCheck
from spliceproxy.relay.moving import DRAIN_MOST, CheckState, WayState
from spliceproxy.relay.portable.gate import Gate
from spliceproxy.relay.portable.moves import (
    BLOCKED,
    COPY,
    COPY_FOR_GOOD,
    OVER,
    SPLICE,
    Copier,
    Way,
)


def state_of(way: Way, mover: Copier) -> WayState:
    """Of a way of a frozen tunnel. A few bytes in a pipe are taken out of it before."""
    if way.pipe is not None and way.in_pipe <= DRAIN_MOST:
        mover.unpipe(way)
    return WayState(
        way.copied,
        way.spliced,
        bytes(way.held) if way.held is not None else b"",
        way.in_pipe,
        way.state == OVER,
        way.mode == SPLICE,
        way.mode == COPY_FOR_GOOD,
        way.narrow,
        int(way.active * 1e3),
        int(way.mark * 1e3),
        int(way.for_source * 1e3),
        int(way.for_target * 1e3),
        int(way.silent * 1e3),
    )


def check_of(gate: Gate) -> CheckState:
    """Of a gate of a frozen tunnel."""
    since = max(int(gate.since * 1e3), 1) if gate.since else 0
    return CheckState(gate.check.name, gate.check.refused, since, bytes(gate.data))


def gate_of(state: CheckState) -> Gate:
    """Of the state of one."""
    gate = Gate(NameCheck(state.name, state.refused))
    if state.data:
        gate.hear(state.data, min(state.since / 1e3, monotonic()))
    return gate


def take_way(way: Way, state: WayState) -> None:
    """Makes an empty way one of this state, but for its pipe."""
    now = monotonic()
    way.copied, way.spliced = state.copied, state.spliced
    way.mode = SPLICE if state.splices else COPY_FOR_GOOD if state.copies else COPY
    way.narrow = state.narrow
    way.active = min(state.active / 1e3, now)
    way.mark = min(state.mark / 1e3, now) if state.mark else now
    way.for_source, way.for_target = state.for_source / 1e3, state.for_target / 1e3
    way.silent = state.silent / 1e3
    if state.held:
        way.held = memoryview(state.held)
        way.state = BLOCKED
    elif state.over:
        way.state = OVER
