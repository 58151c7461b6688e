"""The idle connections to origins that Python keeps."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Awaitable, Callable

import pytest
from passing_time import Clock

from spliceproxy.net.stream import Stream
from spliceproxy.upstream import pool as module
from spliceproxy.upstream.pool import IdlePool

PEER = "192.0.2.1"


def key(number: int) -> module.Key:
    return f"o{number}", 80, ""


class Rig:
    """A pool, and the other end of each connection that it has been given."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.pool = IdlePool(self._loop)
        self.outers: list[socket.socket] = []

    def put(self, number: int, user: object = None) -> Stream:
        outer, inner = socket.socketpair()
        inner.setblocking(False)
        self.outers.append(outer)
        stream = Stream(inner, self._loop)
        self.pool.put(key(number), stream, PEER, user)
        return stream

    async def closed(self, number: int) -> None:
        """Until fewer than so many are there."""
        loop = asyncio.get_running_loop()
        while len(self.pool) >= number:
            turn = loop.create_future()
            loop.call_soon(turn.set_result, None)
            await turn

    @property
    def ended(self) -> list[bool]:
        return [bool(select.select([outer], [], [], 0)[0]) for outer in self.outers]

    def close(self) -> None:
        self.pool.close()
        for outer in self.outers:
            outer.close()


def run(test: Callable[[Rig], Awaitable[None]]) -> None:
    async def within() -> None:
        rig = Rig()
        try:
            await test(rig)
        finally:
            rig.close()

    asyncio.run(asyncio.wait_for(within(), 20))


def test_a_user_gets_its_own_alone() -> None:
    async def test(rig: Rig) -> None:
        one, other = object(), object()
        mine, _ = rig.put(0, one), rig.put(0, other)
        rig.put(1, one)
        assert rig.pool.take_own(key(0), {PEER}, object()) is None
        assert rig.pool.take_own(key(0), {"192.0.2.2"}, one) is None
        assert rig.pool.take_own(key(0), {PEER}, one) == (mine, PEER)
        assert rig.pool.take_own(key(0), {PEER}, one) is None
        rig.pool.put(key(0), mine, PEER, other)
        assert rig.pool.take_own(key(0), {PEER}, one) is None
        assert rig.pool.take_own(key(0), {PEER}, other) == (mine, PEER)
        mine.close()

    run(test)


@pytest.mark.parametrize(("seconds", "own"), [(4.9, True), (5.1, False)])
def test_what_was_used_long_ago_is_nobody_s_own(seconds: float, own: bool) -> None:
    async def test() -> None:
        rig = Rig()
        user = object()
        stream = rig.put(0, user)
        await asyncio.sleep(seconds)
        taken = rig.pool.take_own(key(0), {PEER}, user)
        assert (taken is not None) == own
        stream.close()
        rig.close()

    Clock().run(test())


def test_the_one_that_was_used_last_is_taken() -> None:
    async def test(rig: Rig) -> None:
        first, last = rig.put(0), rig.put(0)
        for expected in (last, first):
            taken = rig.pool.take(key(0), {PEER})
            assert taken == (expected, PEER)
            expected.close()
        assert rig.pool.take(key(0), {PEER}) is None
        assert len(rig.pool) == 0

    run(test)


def test_in_all_the_one_goes_that_is_unused_for_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "most_idle", lambda: 3)

    async def test(rig: Rig) -> None:
        rig.put(0)
        rig.put(1)
        taken = rig.pool.take(key(0), {PEER})
        assert taken is not None
        rig.pool.put(key(0), taken[0], PEER)  # it is the one used last now
        rig.put(2)
        rig.put(3)
        rig.put(4)
        assert rig.ended == [True, True, False, False, False]
        assert len(rig.pool) == 3

    run(test)


def test_of_an_origin_the_one_goes_that_is_unused_for_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PER_ORIGIN", 2)

    async def test(rig: Rig) -> None:
        rig.put(1)
        for _ in range(4):
            rig.put(0)
        assert rig.ended == [False, True, True, False, False]
        assert len(rig.pool) == 3

    run(test)


def test_one_whose_origin_has_gone_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(rig: Rig) -> None:
        rig.put(0)
        rig.put(0)
        rig.outers[0].close()
        await asyncio.wait_for(rig.closed(2), 10)

    run(test)


@pytest.mark.parametrize(
    ("descriptors", "most"), [(1024, 256), (20_000, 5000), (100_000, 16_384), (-1, 16_384)]
)
def test_how_many(descriptors: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = module.resource.RLIM_INFINITY if descriptors < 0 else descriptors
    monkeypatch.setattr(module.resource, "getrlimit", lambda _: (limit, limit))
    assert module.most_idle() == most


def test_a_fault_while_one_is_closed_does_not_keep_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is not closed now is looked at again."""
    monkeypatch.setattr(module, "MAX_IDLE", 0.05)

    async def test(rig: Rig) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        faults = [MemoryError()]
        real = Stream.close

        def close(stream: Stream) -> None:
            if faults:
                raise faults.pop()
            real(stream)

        monkeypatch.setattr(Stream, "close", close)
        rig.put(1)
        rig.put(2)
        await asyncio.wait_for(rig.closed(1), 20)
        assert rig.ended == [True, True]

    run(test)
