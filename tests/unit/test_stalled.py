"""Who has kept a request or tunnel waiting: the rule, and that the lane has the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spliceproxy.observe.stalled import Waits, stalled_by
from spliceproxy.observe.tcpinfo import TcpInfo, decode
from spliceproxy.relay.choice import NATIVE_MODULE

NOTHING = decode(b"")


def leg(busy: int, rwnd: int, window: int = 65536) -> TcpInfo:
    return NOTHING._replace(busy_time=busy, rwnd_limited=rwnd, window=window, mss=1448)


READS = leg(10_000_000, 0)
"""The kernel sends whenever the network lets it."""


@pytest.mark.parametrize(
    ("waits", "client", "origin", "who"),
    [
        (Waits(10_000, 9_900, 9_900, 50, 0), leg(10_000_000, 9_000_000), None, "client"),
        (Waits(10_000, 9_900, 9_900, 50, 0), leg(10_000_000, 2_000_000), None, "client"),
        (Waits(10_000, 9_900, 9_900, 50, 0), leg(10_000_000, 500_000), None, "client"),
        (Waits(10_000, 9_900, 9_900, 50, 0), leg(10_000_000, 100_000), None, "network"),
        (Waits(10_000, 9_900, 9_900, 50, 0), READS, None, "network"),
        (Waits(10_000, 9_900, 9_900, 50, 0), leg(10_000_000, 0, window=100), None, "client"),
        (Waits(10_000, 9_900, 9_900, 50, 0), None, None, "client"),
        (Waits(10_000, 8_000, 8_000, 0, 0), READS, None, "network"),
        (Waits(10_000, 7_999, 7_999, 0, 0), READS, None, "none"),
        (Waits(10_000, 9_900, 0, 0, 0), READS, READS, "client"),  # it sends no body
        (Waits(10_000, 0, 0, 9_000, 0), READS, READS, "origin"),
        (Waits(10_000, 0, 0, 9_000, 9_000), READS, READS, "network"),
        (Waits(10_000, 0, 0, 9_000, 9_000), READS, leg(10_000_000, 9_000_000), "origin"),
        (Waits(10_000, 1_800, 1_800, 2_300, 0), READS, READS, "none"),
        (Waits(999, 999, 999, 0, 0), READS, READS, "none"),
        (Waits(1000, 999, 999, 0, 0), None, None, "client"),
        (Waits(-5, 9, 9, 9, 9), READS, READS, "none"),
    ],
)
def test_the_rule(waits: Waits, client: TcpInfo | None, origin: TcpInfo | None, who: str) -> None:
    assert stalled_by(waits, client, origin) == who


spans = st.integers(0, 20).map(lambda units: units * 100)
legs = st.none() | st.builds(
    leg, st.integers(0, 300), st.integers(0, 12), st.sampled_from([0, 1447, 1448, 65536])
)


@given(
    waits=st.builds(Waits, spans, spans, spans, spans, spans),
    client=legs,
    origin=legs,
)
def test_the_lane_has_the_same(
    waits: Waits, client: TcpInfo | None, origin: TcpInfo | None
) -> None:
    native = pytest.importorskip(NATIVE_MODULE)
    assert native.judge(waits, client, origin) == stalled_by(waits, client, origin)
