"""What remembers entries of limits learns when they have become another's."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from spliceproxy.config import LimitConfig, PolicyConfig
from spliceproxy.forward import leading
from spliceproxy.forward.leading import Leading
from spliceproxy.forward.limiting import Holding, Limiting
from spliceproxy.forward.pacing import Pacing
from spliceproxy.forward.store import Store
from spliceproxy.observe.board import Board
from spliceproxy.observe.record import Record
from spliceproxy.policy.limits import Limited, Limits, Meter
from spliceproxy.relay.leases import CONNECTIONS, ENTRIES, INTERVAL, TAKEN
from spliceproxy.relay.meters import Meters, Place

FAST = LimitConfig("fast", by="destination", rate_out=1_000_000)
SLOW = LimitConfig("slow", by="client", rate_out=50_000)


def limits_of(meters: Meters, *limits: LimitConfig, lent: bool = False) -> Limits:
    return Limits(limits, meters, lambda user: frozenset(), lent=lent)


def place_at(meters: Meters, limit: str, entry: int) -> Place:
    """That of a key which takes an entry that nobody uses any more."""
    for number in range(4 * ENTRIES):
        place = meters.place(limit, str(number))
        if place is not None and place.entry == entry:
            return place
    raise AssertionError("nobody takes it")


class Paced:
    """Stands for the relay: what it is told of tunnels."""

    def __init__(self) -> None:
        self.down: dict[int, int] = {}

    def pace(self, ident: int, up: int, down: int) -> None:
        self.down[ident] = down

    def progress(self, ident: int) -> None:
        """It has ended."""


def test_an_entry_has_the_pace_of_its_limit() -> None:
    meters = Board.private().meters
    limits = limits_of(meters, FAST, SLOW)
    counting = meters.portable(0)
    relay = Paced()
    loop = asyncio.new_event_loop()
    pacing = Pacing(Limiting(limits, counting), meters, 0, cast(Any, relay), None, loop)

    def begin(ident: int, limit: LimitConfig, place: Place) -> None:
        named = limits.named(limit.id)
        assert named is not None
        holding = Holding(counting, {})
        holding.meters = (Meter(place, named[1], limit),)
        assert pacing.tunnel(ident, holding, (0, 0))
        holding.release()

    first = meters.place("fast", "a destination")
    assert first is not None
    begin(1, FAST, first)
    pacing.look(loop.time())
    begin(2, SLOW, place_at(meters, "slow", first.entry))
    pacing.stop()
    loop.close()
    assert relay.down == {1: 1_000_000, 2: 50_000}


class Moved(Paced):
    """The same, of tunnels that have moved much before they came."""

    def progress(self, ident: int) -> tuple[int, int, int, int, str]:  # type: ignore[override]
        return 0, 0, 0, 10**9, ""


def test_what_has_moved_elsewhere_was_not_now() -> None:
    meters = Board.private().meters
    limits = limits_of(meters, FAST)
    counting = meters.portable(0)
    relay = Moved()
    loop = asyncio.new_event_loop()
    pacing = Pacing(Limiting(limits, counting), meters, 0, cast(Any, relay), None, loop)
    holding = Holding(counting, {})
    holding.meters = limits.of("127.0.0.1", "", "CONNECT", "a.example", 443, "")
    holding.counted = 10**9
    assert pacing.tunnel(1, holding, (0, 0))
    pacing.look(loop.time() + 0.1)
    pacing.stop()
    loop.close()
    assert relay.down == {1: 1_000_000}


def test_what_is_given_back_was_not_taken() -> None:
    """The store hears how much is used: not what another limit has refused."""
    meters = Board.private().meters
    meters.leases.enter(0)
    some, one = LimitConfig("some", requests_per_second=10), LimitConfig("one", connections=1)
    limits = limits_of(meters, some, one, lent=True)
    counting = meters.portable(0)
    record = Record("127.0.0.1")
    record.host, record.port = "a.example", 80
    leases = [
        limits.lease(meter.place.entry)
        for meter in Limiting(limits, counting).meters(record, "GET", "")
    ]
    leases[0][INTERVAL] = 1
    with pytest.raises(Limited):
        Limiting(limits, counting).count(record, "GET", "", Holding(counting, {}))
    assert leases[0][TAKEN] == 0
    leases[1][CONNECTIONS] = 1
    Limiting(limits, counting).count(record, "GET", "", Holding(counting, {}))
    assert leases[0][TAKEN] == 1


def test_what_a_store_is_to_hear_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks for ever new destinations takes no memory while the store is away."""
    monkeypatch.setattr(leading, "RELEASED", 100)
    meters = Board.private().meters
    meters.leases.enter(0)
    limit = LimitConfig("new", by="destination", connections=2, requests_per_second=2)
    limits = limits_of(meters, limit, lent=True)

    async def run() -> int:
        policy = PolicyConfig(limits_store="redis://127.0.0.1:1/0")
        store = Store(policy, "here")
        one = Leading(meters, meters.portable(0), limits, store, "there", lambda: None)
        await one.turn()
        for number in range(2 * ENTRIES):
            (found,) = limits.of("127.0.0.1", "", "GET", f"{number}.example", 80, "")
            meters.leases.asks[found.place.entry] = 1
            if number % 512 == 0:
                await one.turn()
        await one.close()
        return len(one._released)

    assert asyncio.run(run()) <= 100
