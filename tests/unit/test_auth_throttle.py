"""Clients that offer wrong credentials are slowed."""

from __future__ import annotations

from spliceproxy.policy.auth import throttle
from spliceproxy.policy.auth.throttle import FIRST_DELAY, FORGET, LAST_DELAY, PATIENCE, Throttle


def test_never_failed_never_waits() -> None:
    slow = Throttle()
    slow.failed("192.0.2.1", 0.0)
    for _ in range(1000):
        assert slow.reserve("192.0.2.2", 0.0) == (True, 0.0)


def test_delay_grows_to_its_limit() -> None:
    slow = Throttle()
    now = 0.0
    waits = []
    for _ in range(10):
        granted, wait = slow.reserve("192.0.2.1", now)
        assert granted
        waits.append(wait)
        now += wait
        slow.failed("192.0.2.1", now)
    assert waits[:4] == [0.0, FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY]
    assert waits[-3:] == [LAST_DELAY] * 3


def test_attempts_at_once_queue_up() -> None:
    """Many connections are no way around: each takes a turn of its own."""
    slow = Throttle()
    for _ in range(4):
        slow.failed("192.0.2.1", 0.0)
    assert slow.reserve("192.0.2.1", 0.0) == (True, 2.0)
    assert slow.reserve("192.0.2.1", 0.0) == (True, 4.0)
    turns = [slow.reserve("192.0.2.1", 0.0) for _ in range(100)]
    assert turns[-1] == (False, turns[-1][1])
    assert sum(granted for granted, _ in turns) == PATIENCE // 2 - 2
    granted, wait = slow.reserve("192.0.2.1", turns[-1][1])
    assert granted
    assert wait <= PATIENCE


def test_forgets() -> None:
    slow = Throttle()
    for _ in range(9):
        slow.failed("192.0.2.1", 0.0)
    assert slow.reserve("192.0.2.1", FORGET)[1] == 0.0
    slow.failed("192.0.2.1", FORGET)
    assert slow.reserve("192.0.2.1", FORGET)[1] == LAST_DELAY
    assert slow.reserve("192.0.2.1", 2 * FORGET + 1) == (True, 0.0)
    slow.failed("192.0.2.1", 2 * FORGET + 1)
    assert slow.reserve("192.0.2.1", 2 * FORGET + 1) == (True, FIRST_DELAY)


def test_memory_is_bounded() -> None:
    slow = Throttle()
    for i in range(throttle.NETWORKS + 10):
        slow.failed(f"10.1.{i // 256}.{i % 256}", float(i))
    assert len(slow._offenders) == throttle.NETWORKS
    now = float(throttle.NETWORKS + 10)
    assert slow.reserve("10.1.0.9", now) == (True, 0.0)  # the oldest are forgotten


def test_a_network_of_ipv6_counts_as_one() -> None:
    slow = Throttle()
    slow.failed("2001:db8::1", 0.0)
    assert slow.reserve("2001:db8::ffff:2", 0.0) == (True, FIRST_DELAY)
    assert slow.reserve("2001:db8:0:1::1", 0.0) == (True, 0.0)
    slow.failed("fe80::1%eth0", 0.0)
    assert slow.reserve("fe80::2%eth0", 0.0) == (True, FIRST_DELAY)


def test_unix_socket() -> None:
    slow = Throttle()
    slow.failed("", 0.0)
    assert slow.reserve("", 0.0) == (True, FIRST_DELAY)
