"""What the owner of plain exchanges gives and gets, between two steps of the relay."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest
from plain_oracle import Plain
from relay_rig import native_relay, open_fds, tcp_pair

from spliceproxy.relay.driver import RelayDriver
from spliceproxy.stream import Stream

ASK = b"GET http://o/ HTTP/1.1\r\nHost: o\r\n\r\n"


@pytest.fixture
def plain() -> Iterator[Plain]:
    native_relay()
    before = open_fds()
    made = Plain()
    yield made
    made.close()
    assert open_fds() == before


def test_a_client_that_comes_straight_back_is_not_left_waiting(plain: Plain) -> None:
    """Nothing happens on any descriptor, and still the driver must step."""
    outer, inner = tcp_pair()

    async def give() -> None:
        loop = asyncio.get_running_loop()
        driver = RelayDriver(plain.relay, loop)
        plain.exchanges._services.relay = driver
        stream = Stream(inner, loop)
        stream.buffer += b"POST / HTTP/1.1\r\n"
        assert plain.exchanges.give(stream, "192.0.2.1", 1)
        assert driver._timer is not None
        while not plain.handoffs:
            await loop.run_in_executor(None, lambda: None)
        driver.close()

    with outer:
        asyncio.run(asyncio.wait_for(give(), 20))
        (handoff,) = plain.handoffs
        socket.socket(fileno=handoff.client).close()
    assert handoff.buffer == b"POST / HTTP/1.1\r\n"


def test_the_limits_of_what_is_given_are_watched(plain: Plain) -> None:
    async def give() -> None:
        loop = asyncio.get_running_loop()
        driver = RelayDriver(plain.relay, loop)
        plain.exchanges._services.relay = driver
        outer, inner = tcp_pair()
        with outer:
            plain.exchanges.put(("o", 80), Stream(inner, loop), "192.0.2.1")
            assert driver._timer is not None
            driver.close()
            assert outer.recv(1) == b""

    asyncio.run(asyncio.wait_for(give(), 20))


def test_a_closed_relay_closes_what_was_not_told(plain: Plain) -> None:
    outer, inner = tcp_pair()
    with outer:
        plain.exchanges._native.adopt(inner.detach(), "192.0.2.1", b"POST ", 0)
        plain.relay.close()
        with contextlib.suppress(ConnectionResetError):
            assert outer.recv(1) == b""
    assert not plain.handoffs


def test_a_decision_holds_while_its_origin_is_dialled(plain: Plain) -> None:
    native = plain.exchanges._native
    route = ("C", "", b"", b"o:1", "o", b"o:1")
    native.add_route(*route, 60.0, plain.exchanges.dialled, "192.0.2.1", True, "")
    outer, inner = tcp_pair()
    with outer:
        data = b"CONNECT o:1 HTTP/1.1\r\nHost: o:1\r\n\r\n"
        native.adopt(inner.detach(), "", data, 0)
        native.add_route(*route, -1.0, plain.exchanges.dialled, "192.0.2.1", True, "")
        with plain.accept() as peer:
            assert not plain.handoffs
            assert outer.recv(100) == b"HTTP/1.1 200 Connection established\r\n\r\n"
            outer.close()
            plain.step()
            assert peer.recv(1) == b""
    plain.step()


def test_a_new_origin_beyond_their_number(plain: Plain) -> None:
    """All routes are forgotten then, but the one that is being added."""
    native = plain.exchanges._native
    for number in range(4096 + 3):
        authority = b"h%d" % number
        native.add_route("G", "", b"", authority, number, authority, 60.0, b"", "", True, "")
    outer, inner = socket.socketpair()
    inner.setblocking(False)
    with outer:
        data = ASK.replace(b"/o/", b"/h4098/").replace(b": o", b": h4098")
        native.adopt(inner.detach(), "", data, 0)
        plain.step()
        (handoff,) = plain.handoffs
        socket.socket(fileno=handoff.client).close()
    assert handoff.buffer == data
