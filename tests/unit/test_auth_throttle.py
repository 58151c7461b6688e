"""How long wrong passwords make the next try wait: by name, then by network."""

from __future__ import annotations

import asyncio

import pytest

from spliceproxy.policy.auth import throttle
from spliceproxy.policy.auth.throttle import (
    BURST,
    FIRST_DELAY,
    FORGET,
    LAST_DELAY,
    Throttle,
    network_of,
)
from spliceproxy.policy.auth.turns import Turns

NET = "192.0.2.1"


def test_never_failed_never_waits() -> None:
    slow = Throttle()
    slow.failed(NET, b"alice", 0.0)
    for _ in range(1000):
        assert slow.wait("192.0.2.2", b"alice", 0.0) == 0.0
        assert slow.wait(NET, b"bob", 0.0) == 0.0


def test_delay_of_a_name_grows_to_its_limit() -> None:
    slow = Throttle()
    now = 0.0
    waits = []
    for _ in range(10):
        wait = slow.wait(NET, b"alice", now)
        waits.append(wait)
        now += wait
        slow.failed(NET, b"alice", now)
    assert waits[:4] == [0.0, FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY]
    assert waits[-3:] == [LAST_DELAY] * 3
    assert not slow.exhausted(NET, now)  # guesses of one name leave the first try to others
    assert slow.wait(NET, b"bob", now) == 0.0


def test_those_before_are_taken_for_failures() -> None:
    slow = Throttle()
    assert slow.wait(NET, b"alice", 0.0, before=3) == FIRST_DELAY * (1 + 2 + 4)
    for _ in range(4):
        slow.failed(NET, b"alice", 0.0)
    assert slow.wait(NET, b"alice", 0.0) == 2.0
    assert slow.wait(NET, b"alice", 1.0, before=2) == 1.0 + 4.0 + 8.0


def test_a_network_runs_out_of_failures() -> None:
    slow = Throttle()
    for number in range(BURST):
        assert slow.wait(NET, b"name %d" % number, 0.0) == 0.0
        assert not slow.exhausted(NET, 0.0)
        slow.failed(NET, b"name %d" % number, 0.0)
    assert slow.exhausted(NET, 0.0)
    assert slow.wait(NET, b"first", 0.0) == LAST_DELAY
    assert slow.wait(NET, b"first", 3.0) == pytest.approx(LAST_DELAY - 3.0)
    assert slow.wait(NET, b"first", LAST_DELAY) == 0.0
    # What is being checked may be one more.
    assert slow.wait(NET, b"first", LAST_DELAY, checking=1) == LAST_DELAY
    assert slow.wait(NET, b"first", BURST * LAST_DELAY, checking=1) == 0.0


def test_forgets() -> None:
    slow = Throttle()
    for _ in range(9):
        slow.failed(NET, b"alice", 0.0)
    assert slow.wait(NET, b"alice", FORGET) == 0.0
    slow.failed(NET, b"alice", FORGET)
    assert slow.wait(NET, b"alice", FORGET) == LAST_DELAY
    slow.failed(NET, b"alice", 2 * FORGET + 1)
    assert slow.wait(NET, b"alice", 2 * FORGET + 1) == FIRST_DELAY


def test_memory_is_bounded() -> None:
    slow = Throttle()
    for i in range(throttle.NAMES + 10):
        slow.failed(f"10.1.{i // 256}.{i % 256}", b"alice", float(i))
    assert len(slow._names) == throttle.NAMES
    assert len(slow._networks) == throttle.NETWORKS
    now = float(throttle.NAMES + 10)
    assert slow.wait("10.1.0.9", b"alice", now) == 0.0  # the oldest are forgotten


def test_a_network_of_ipv6_counts_as_one() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:2")
    assert network_of("2001:db8::1") != network_of("2001:db8:0:1::1")
    assert network_of("fe80::1%eth0") == network_of("fe80::2%eth0")
    assert network_of("192.0.2.1") != network_of("192.0.2.2")
    assert network_of("") == ""


def test_who_comes_does_not_take_the_turn_of_who_waits() -> None:
    """The turn that somebody waits for is there a moment before the timer has told so."""

    async def main() -> None:
        slow = Throttle()
        slow.failed(NET, b"alice", 0.0)
        turns = Turns(slow, lambda: now, lambda _: True)
        now = 0.0
        waits = asyncio.ensure_future(turns.take(NET, b"alice"))
        await asyncio.sleep(0)
        now = FIRST_DELAY - throttle.SOON / 2
        assert not turns.take_now(NET, b"alice")
        assert not turns.take_now(NET, b"bob")  # one at a time
        await asyncio.wait_for(waits, 5.0)
        turns.release(NET, b"alice")
        turns.close()

    asyncio.run(main())
