"""The driver, the pool of pipes and the deadlines, each for itself."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from relay_rig import PATIENCE, Rig, open_fds, recv_exactly, until

from spliceproxy.config import Config, Timeouts
from spliceproxy.relay import quota
from spliceproxy.relay.interface import DONE, REST, RelayOptions, TunnelEnd
from spliceproxy.relay.portable import pipes
from spliceproxy.relay.portable.deadlines import Deadlines
from spliceproxy.relay.portable.pipes import PipePool
from spliceproxy.relay.quota import PAGE, PRIVILEGED, RETRY, affordable

one_engine = pytest.mark.parametrize("engine", ["splice"], indirect=True)


def test_a_report_that_raises_touches_nothing_else(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(end: TunnelEnd) -> None:
        raise ZeroDivisionError("of this test")

    good: Future[TunnelEnd] = Future()
    peers = []
    with caplog.at_level(logging.ERROR):
        for done in (fail, good.set_result, fail):
            client, inner_client = rig.pair()
            origin, inner_origin = rig.pair()
            peers += [client, origin]
            fds = (inner_client.detach(), inner_origin.detach())
            rig.call(rig.driver.tunnel, *fds, b"", b"", done)
        drained = asyncio.run_coroutine_threadsafe(rig.driver.drained(), rig.loop)
        with rig.paused():
            for peer in peers:
                peer.close()
        assert good.result(PATIENCE).reason == DONE
        drained.result(PATIENCE)
    assert [record.exc_info is not None for record in caplog.records] == [True, True]
    tunnel = rig.tunnel()
    tunnel.client.sendall(b"x")
    assert recv_exactly(tunnel.origin, 1) == b"x"


@one_engine
def test_a_report_may_close_the_driver(rig: Rig) -> None:
    closed: Future[TunnelEnd] = Future()

    def done(end: TunnelEnd) -> None:
        rig.driver.close()
        closed.set_result(end)

    client, inner_client = rig.pair()
    origin, inner_origin = rig.pair()
    other = rig.tunnel()
    rig.call(rig.driver.tunnel, inner_client.detach(), inner_origin.detach(), b"", b"", done)
    client.close()
    origin.close()
    assert closed.result(PATIENCE).reason == DONE
    assert other.end().reason == "aborted"


@one_engine
def test_one_timer_at_most(new_rig: Callable[..., Rig]) -> None:
    """It is set when first needed and not again for every byte or tunnel."""
    rig = new_rig(idle=60.0)
    made: list[Any] = []
    real = rig.loop.call_later

    def call_later(delay: float, callback: Any, *args: Any, **how: Any) -> Any:
        made.append(delay)
        return real(delay, callback, *args, **how)

    rig.driver._loop = Spy(rig.loop, call_later)
    tunnels = [rig.tunnel() for _ in range(20)]
    for tunnel in tunnels:
        tunnel.client.sendall(b"x")
        assert recv_exactly(tunnel.origin, 1) == b"x"
    assert len(made) == 1
    assert 30.0 < made[0] < 60.1


class Spy:
    """A loop whose ``call_later`` is another."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call_later: Any) -> None:
        self._loop = loop
        self.call_later = call_later

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


@one_engine
def test_drained_by_two_and_one_gives_up(rig: Rig) -> None:
    tunnel = rig.tunnel()
    futures = [asyncio.run_coroutine_threadsafe(rig.driver.drained(), rig.loop) for _ in range(2)]
    until(lambda: len(rig.driver._waiters) == 2, "waiting")
    futures[0].cancel()
    tunnel.client.close()
    tunnel.origin.close()
    futures[1].result(PATIENCE)


def test_pool_lends_last_in_first_out_within_its_limit() -> None:
    before = open_fds()
    pool = PipePool(2)
    one, two = pool.get(0.0), pool.get(0.0)
    assert one is not None
    assert two is not None
    assert pool.get(0.0) is None
    assert (pool.lent, pool.idle) == (2, 0)
    pool.put(one, 1.0)
    pool.put(two, 2.0)
    assert pool.get(2.0) is two
    pool.put(two, 2.0)
    assert pool.due() == 1.0 + REST
    pool.sweep(1.0 + REST)
    assert (pool.lent, pool.idle) == (0, 1)
    assert pool.get(3.0) is two
    pool.kill(two)
    assert (pool.lent, pool.idle, pool.due()) == (0, 0, None)
    three = pool.get(4.0)
    assert three is not None
    pool.put(three, 4.0)
    pool.close()
    assert open_fds() == before


def test_pool_after_a_refusal_asks_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def refuse(flags: int) -> tuple[int, int]:
        asked.append(flags)
        raise OSError(errno.EMFILE, "no descriptor")

    pool = PipePool(2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pipe2", refuse)
        assert pool.get(0.0) is None
        assert pool.get(RETRY / 2) is None
        assert len(asked) == 1
        assert pool.get(RETRY) is None
        assert len(asked) == 2
    pipe = pool.get(2 * RETRY)
    assert pipe is not None
    pool.put(pipe, 0.0)
    pool.close()


def test_pool_closes_a_pipe_that_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_fds()
    monkeypatch.setattr(pipes.fcntl, "fcntl", lambda fd, command, arg=0: 8192)
    assert PipePool(1).get(0.0) is None
    assert open_fds() == before


@pytest.mark.parametrize(
    ("soft", "largest", "size", "count"),
    [
        (16384, 1 << 20, 1 << 20, 32),
        (0, 1 << 20, 1 << 20, 32),
        (16384, 1 << 18, 1 << 18, 128),
        (4096, 1 << 20, 1 << 19, 16),
        (1024, 1 << 20, 1 << 17, 16),
        (16, 1 << 20, 1 << 16, 0),
    ],
)
def test_size_and_number_follow_the_quota(
    soft: int, largest: int, size: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"pipe-user-pages-soft": soft * 4096 // PAGE, "pipe-max-size": largest}
    monkeypatch.setattr(quota, "_proc", lambda name, default: values[name])
    monkeypatch.setattr(quota, "_privileged", lambda: False)
    assert affordable() == (size, count)
    monkeypatch.setattr(quota, "_privileged", lambda: True)
    assert affordable() == (largest, PRIVILEGED)


def test_workers_share_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"pipe-user-pages-soft": (64 << 20) // PAGE, "pipe-max-size": 1 << 20}
    monkeypatch.setattr(quota, "_proc", lambda name, default: values[name])
    monkeypatch.setattr(quota, "_privileged", lambda: False)
    assert [affordable(shares) for shares in (1, 2, 4)] == [
        (1 << 20, 32),
        (1 << 20, 16),
        (1 << 19, 16),
    ]


def test_the_options_are_of_the_configuration() -> None:
    config = Config(listen=(), workers=3, timeouts=Timeouts(idle=7.0, half_close=5.0))
    assert RelayOptions.of(config) == RelayOptions(idle=7.0, half_close=5.0, shares=3)


class Timed:
    def __init__(self, ident: int) -> None:
        self.ident = ident
        self.due = 0.0


def test_deadlines_in_order_without_the_void() -> None:
    deadlines = Deadlines()
    flows = {ident: Timed(ident) for ident in range(5)}
    for ident, when in ((0, 5.0), (1, 3.0), (2, 4.0), (3, 1.0)):
        deadlines.set(flows[ident], when)
    deadlines.set(flows[1], 7.0)  # later than before
    deadlines.set(flows[2], 2.0)  # earlier
    del flows[3]
    order = []
    while (when := deadlines.next(flows)) is not None:
        order.append((when, deadlines.pop()))
    assert order == [(2.0, 2), (5.0, 0), (7.0, 1)]


def test_deadlines_do_not_pile_up() -> None:
    deadlines = Deadlines()
    first = Timed(-1)
    deadlines.set(first, 1.0)
    for ident in range(10_000):
        flow = Timed(ident)
        deadlines.set(flow, 100.0 + ident)
        assert deadlines.next({-1: first, ident: flow}) == 1.0
    assert len(deadlines._heap) < 100
