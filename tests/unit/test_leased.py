"""What a machine was lent: parts of a rate that come and go, connections, and bytes of others."""

from __future__ import annotations

import time

import pytest

from spliceproxy.config import LimitConfig
from spliceproxy.forward.leased import CONNECTION, REQUEST, Leased
from spliceproxy.observe.board import Board
from spliceproxy.policy.limits import numbers_of
from spliceproxy.relay.choice import choose
from spliceproxy.relay.interface import RelayOptions
from spliceproxy.relay.leases import INTERVAL, PARTS
from spliceproxy.relay.meters import Counting, Meters

NEVER = 0.001
"""Requests per second: none comes back while a test lasts."""

BURST = 20
LIMIT = LimitConfig(
    "some", by="total", connections=8, requests_per_second=NEVER, burst=BURST, bytes_per_day=1000
)


class Machine:
    """The entry of LIMIT, as one machine counts it."""

    def __init__(self, engine: str) -> None:
        self.meters: Meters = Board.private().meters
        self.meters.leases.enter(0)
        relay, _ = choose(engine, RelayOptions(idle=10.0, half_close=10.0))
        self.counting: Counting = relay.counting(self.meters, 0)
        relay.close()
        place = self.meters.place("some", "")
        assert place is not None
        self.entry, self.tag = place
        self.meters.leases.expect(self.entry, "some", "")
        self.numbers = numbers_of(LIMIT)
        self.leased = Leased(self.meters, self.counting, self.entry, self.numbers)

    def spend(self, most: int) -> int:
        """So many requests come; how many are let in."""
        for number in range(most):
            interval = self.leased.lease[INTERVAL]
            room = max(self.numbers.rooms[0], interval)
            if not interval or self.counting.spend(self.entry, self.tag, 0, interval, room):
                return number
        return most

    def get(self, parts: int, fresh: int = 0) -> None:
        self.leased.get(REQUEST, parts, fresh)


@pytest.fixture(params=["native", "copy"])
def pair(request: pytest.FixtureRequest) -> tuple[Machine, Machine]:
    return Machine(request.param), Machine(request.param)


def test_a_part_that_moves_brings_no_requests(pair: tuple[Machine, Machine]) -> None:
    one, other = pair
    half = PARTS // 2
    assert one.spend(1) == 0  # nothing is lent
    one.get(half, fresh=half)
    assert one.spend(6) == 6
    other.get(half, fresh=half)
    assert other.spend(BURST) == BURST // 2
    other.get(half // 2)
    one.get(half + half // 2)
    assert one.spend(BURST) == BURST // 2 - 6
    for _ in range(5):  # to and fro
        one.get(half // 2)
        other.get(half + half // 2)
        assert other.spend(BURST) == 0
        other.get(half // 2)
        one.get(half + half // 2)
        assert one.spend(BURST) == 0


def test_whoever_comes_late_has_one_request(pair: tuple[Machine, Machine]) -> None:
    one, other = pair
    one.get(PARTS, fresh=PARTS)
    assert one.spend(BURST + 1) == BURST
    one.get(PARTS // 2)
    other.get(PARTS // 2)
    assert other.spend(BURST) == 1


def test_what_is_given_back(pair: tuple[Machine, Machine]) -> None:
    one, _ = pair
    leased = one.leased
    leased.get(CONNECTION, 8)
    assert [one.counting.hold(one.entry, one.tag, 8) for _ in range(5)] == [0] * 5
    assert leased.give(CONNECTION, 2, asked=False)  # what is not used of more than its half
    assert leased.lent(CONNECTION) == 5
    assert not leased.give(CONNECTION, 2, asked=True)
    assert leased.lacks(CONNECTION)
    asked = leased.wants(CONNECTION, 2, first=False)
    assert (asked.whole, asked.has, asked.wants) == (8, 5, 7)
    for _ in range(5):
        one.counting.drop(one.entry)
    assert not leased.give(CONNECTION, 1, asked=False)
    assert leased.give(CONNECTION, 2, asked=True)
    assert leased.lent(CONNECTION) == 0


def test_bytes_of_others(pair: tuple[Machine, Machine]) -> None:
    one, _ = pair
    wall = int(time.time())
    one.counting.move(one.entry, 100)
    assert one.leased.spent(0, wall).bytes == 100
    one.leased.hear(0, wall, 100, 350)
    one.counting.move(one.entry, 50)
    assert one.meters.used(one.entry)[0] == 400
    assert one.leased.moved(0, wall) == 150
    one.leased.hear(0, wall, 150, 150)  # a store that has forgotten the others
    assert one.meters.used(one.entry)[0] == 400
    one.leased.hear(0, wall + 86400, 0, 70)  # the next day
    assert one.meters.numbers(one.entry)[4] == 70
