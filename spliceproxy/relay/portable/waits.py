"""What a way waits for, in seconds: for its target, while bytes are pending; else for its source.
The rules, and their reasons, are those of native/core/waits.pxd."""

from __future__ import annotations

from collections.abc import Sequence

from spliceproxy.relay.interface import REST
from spliceproxy.relay.portable.moves import BLOCKED, OVER, Way


def end_wait(way: Way, other: Way, now: float, *, due: bool, asked: bool) -> None:
    """A wait is over, or is looked at. ``other`` is the way back. ``due``: more must come of the
    source; ``asked``: the other side was the last to say something."""
    since, way.mark = way.mark, now
    span = now - since
    if way.state == BLOCKED:
        way.for_target += span
    elif due or span <= REST:
        way.for_source += span
    else:
        owed = min(now - other.active, span) if asked else 0.0
        way.for_source += owed
        way.silent += span - owed


def waits_of(ways: Sequence[Way], now: float, spoke: int) -> tuple[int, int, int, int]:
    """Of a tunnel that ends, as :class:`TunnelEnd` has them. ``spoke``: the side whose bytes were
    the last."""
    up, down = ways
    for side, (way, other) in enumerate(((up, down), (down, up))):
        if way.state != OVER:
            end_wait(way, other, now, due=False, asked=spoke != side)
    each = down.for_target, down.for_source, up.for_target, down.silent
    return int(each[0] * 1e3), int(each[1] * 1e3), int(each[2] * 1e3), int(each[3] * 1e3)


def silent_side(ways: Sequence[Way], spoke: int) -> str:
    """Whose time limit has ended a tunnel, as :class:`TunnelEnd` has it."""
    up, down = ways
    if down.state == BLOCKED:
        return "c"
    if up.state == BLOCKED:
        return "s"
    if (up.state == OVER) != (down.state == OVER):
        return "s" if up.state == OVER else "c"
    return "c" if spoke else "s"
