"""The connection to an origin that belongs to one client."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from spliceproxy.net.stream import Stream
from spliceproxy.upstream.bound import BoundOrigin

KEY = ("o", 80, "")
PEER = "192.0.2.1"


class Rig:
    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.ended = 0
        self._over = self.loop.create_future()
        self.bound = BoundOrigin(self.loop, 0.05, self._count)
        self._peers: list[socket.socket] = []

    def _count(self) -> None:
        self.ended += 1
        self._over.set_result(None)

    def pair(self) -> tuple[Stream, socket.socket]:
        """A connection, and the origin's end of it."""
        inner, outer = socket.socketpair()
        inner.setblocking(False)
        outer.setblocking(False)
        self._peers.append(outer)
        return Stream(inner, self.loop), outer

    def turns(self) -> None:
        """What has come is served."""
        for _ in range(3):
            self.loop.run_until_complete(asyncio.sleep(0))

    def until_ended(self) -> None:
        self.loop.run_until_complete(asyncio.wait_for(self._over, 10))

    def close(self) -> None:
        self.bound.close()
        for peer in self._peers:
            peer.close()
        self.loop.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


def closed(outer: socket.socket) -> bool:
    try:
        return outer.recv(1) == b""
    except BlockingIOError:
        return False


def test_it_is_given_back(rig: Rig) -> None:
    stream, outer = rig.pair()
    assert not rig.bound
    rig.bound.put(KEY, stream, PEER)
    assert rig.bound
    assert rig.bound.take(KEY, ("192.0.2.9", PEER)) == (stream, PEER)
    assert not rig.bound
    assert rig.bound.take(KEY, (PEER,)) is None
    assert not closed(outer)
    stream.close()


@pytest.mark.parametrize(
    ("key", "addresses"),
    [
        (("p", 80, ""), (PEER,)),
        (("o", 81, ""), (PEER,)),
        (("o", 80, "192.0.2.7"), (PEER,)),  # dialled from another address
        (KEY, ("192.0.2.2",)),  # the policy allows it no more
        (KEY, ()),
    ],
)
def test_it_serves_nothing_else(
    rig: Rig, key: tuple[str, int, str], addresses: tuple[str, ...]
) -> None:
    stream, outer = rig.pair()
    rig.bound.put(KEY, stream, PEER)
    assert rig.bound.take(key, addresses) is None
    assert closed(outer)
    assert not rig.bound
    assert not rig.ended  # the client is here and asks for something


def test_there_is_one(rig: Rig) -> None:
    (first, first_end), (second, second_end) = rig.pair(), rig.pair()
    rig.bound.put(KEY, first, PEER)
    rig.bound.put(KEY, second, PEER)
    assert closed(first_end)
    assert not closed(second_end)
    assert rig.bound.take(KEY, (PEER,)) == (second, PEER)
    second.close()


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 408 x\r\n\r\n"])
def test_an_origin_that_says_something_ends_it(rig: Rig, says: bytes) -> None:
    stream, outer = rig.pair()
    rig.bound.put(KEY, stream, PEER)
    if says:
        outer.send(says)
    else:
        outer.shutdown(socket.SHUT_WR)
    rig.turns()
    assert rig.ended == 1
    assert stream.fd < 0
    assert not rig.bound


def test_what_is_said_just_now_ends_it(rig: Rig) -> None:
    stream, outer = rig.pair()
    rig.bound.put(KEY, stream, PEER)
    outer.send(b"x")
    assert rig.bound.take(KEY, (PEER,)) is None
    assert stream.fd < 0


def test_more_than_an_answer_ends_it(rig: Rig) -> None:
    stream, outer = rig.pair()
    stream.buffer += b"x"
    rig.bound.put(KEY, stream, PEER)
    assert not rig.bound
    assert closed(outer)


def test_its_time_is_limited(rig: Rig) -> None:
    stream, outer = rig.pair()
    rig.bound.put(KEY, stream, PEER)
    rig.until_ended()
    assert closed(outer)
    assert rig.ended == 1


def test_no_time_runs_while_it_is_in_use(rig: Rig) -> None:
    stream, _ = rig.pair()
    rig.bound.put(KEY, stream, PEER)
    rig.bound.take(KEY, (PEER,))
    assert rig.bound._timer is None
    assert stream.fd >= 0
    stream.close()
