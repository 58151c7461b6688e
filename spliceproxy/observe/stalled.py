"""Who has kept a request or tunnel waiting. The lane finds the same by native/lane/facts.pxd.

The relay knows for how long it has waited until a side took bytes, or until it said something. Who
has caused 80 % of that time, if it was a second or more, is to blame. Where that is a side which
did not take bytes, TCP_INFO of its connection says whether its program did not read, or the
network between was slow.
"""

from __future__ import annotations

from typing import NamedTuple

from spliceproxy.observe.tcpinfo import TcpInfo

SECOND = 1.0
"""What is shorter is nobody's fault."""

BRIEF = 0.1
"""Seconds. Of a tunnel that is over before, nobody asks what the kernel knows: that would cost as
much as all the rest of its line."""


class Waits(NamedTuple):
    """Milliseconds. ``window`` is all of the time, and the others are parts of it."""

    window: int
    client: int  # that the client was waited for
    client_target: int  # of these, until it took what was sent
    origin: int
    origin_target: int


def stalled_by(waits: Waits, client: TcpInfo | None, origin: TcpInfo | None) -> str:
    """``client``, ``origin``, ``network`` or ``none``. The connections are None where nothing is
    known of them."""
    window = waits.window
    if window < SECOND * 1000 or (waits.client * 5 < window * 4 and waits.origin * 5 < window * 4):
        return "none"
    if waits.client >= waits.origin:
        blocked = waits.client_target * 2 > waits.client
        return "network" if blocked and client is not None and _network(client) else "client"
    blocked = waits.origin_target * 2 > waits.origin
    return "network" if blocked and origin is not None and _network(origin) else "origin"


def _network(leg: TcpInfo) -> bool:
    """Whether the network has kept us from sending, not the peer's program. Linux counts the time
    with data to send (busy_time), and of that the time in which the peer's window was shut. A
    stopped program may have that at 0 while a retransmission is under way, but then its window is
    smaller than a segment."""
    if not leg.busy_time or leg.window < leg.mss:
        return False
    return leg.rwnd_limited * 100 <= leg.busy_time
