"""What the lane knows of hosts, users and clients is bounded, and goes one by one."""

from __future__ import annotations

import contextlib
import re
import select
import socket
from collections.abc import Iterator

import pytest
from plain_oracle import HOST, OK, OK_GOT, PATIENCE, Plain
from relay_rig import native_relay, open_fds, tcp_pair

ASK = b"GET http://o/ HTTP/1.1\r\nHost: o\r\n\r\n"


@pytest.fixture
def plain(request: pytest.FixtureRequest) -> Iterator[Plain]:
    native_relay()
    before = open_fds()
    made = Plain()
    yield made
    made.close()
    assert open_fds() <= before


def counted(plain: Plain, what: str) -> int:
    found = re.search(rf" {what}=(\d+)", plain.relay.dump(0))
    assert found is not None
    return int(found[1])


def add_route(plain: Plain, authority: bytes, seconds: float = 3600.0) -> None:
    """An origin for each."""
    far = *plain.lane.dialled, "", ""
    plain.lane._native.add_route("G", "", b"", authority, authority, authority, seconds, *far)


class Kept:
    """A client that asks again and again, and the origin of o."""

    def __init__(self, plain: Plain, stack: contextlib.ExitStack, address: str = "") -> None:
        self._plain = plain
        self._origin, idle = map(stack.enter_context, tcp_pair())
        self._client, inner = map(stack.enter_context, tcp_pair())
        self._origin.settimeout(PATIENCE)
        self._client.settimeout(PATIENCE)
        plain.lane._native.put(b"o", idle.detach(), HOST)
        plain.lane._native.hand_over(inner.detach(), address, b"", 0)

    def ask(self) -> None:
        """A request, which the lane must answer by itself."""
        self._client.sendall(ASK)
        self._until(self._origin)
        assert self._origin.recv(1000).startswith(b"GET / ")
        self._origin.sendall(OK)
        self._until(self._client)
        assert self._client.recv(1000) == OK_GOT

    def _until(self, sock: socket.socket) -> None:
        while not select.select([sock], [], [], 0)[0]:
            select.select([self._plain.relay.fileno(), sock], [], [], PATIENCE)
            self._plain.step()
            assert not self._plain.handoffs


def test_routes_go_one_by_one_and_the_one_in_use_stays(plain: Plain) -> None:
    plain.lane._native.add_client("", "")
    before = 0
    with contextlib.ExitStack() as stack:
        add_route(plain, b"o")
        kept = Kept(plain, stack)
        for number in range(60_000):
            add_route(plain, b"host%d.example" % number)
            if number % 500 == 0:
                kept.ask()
            if number % 50 == 0:
                count = counted(plain, "routes")
                assert count > before - 10  # names grow longer
                before = count
        assert 20_000 < counted(plain, "routes") < 60_000
    plain.step()
    plain.lane._native.forget()
    plain.lane.close()
    assert (counted(plain, "routes"), counted(plain, "origins")) == (0, 0)


def test_long_names_take_no_more_room(plain: Plain) -> None:
    """What is bounded is bytes: clients choose how long a name is."""
    for number in range(20_000):
        add_route(plain, b"%d." % number + b"x" * 900)
    assert 3000 < counted(plain, "routes") < 10_000


def test_what_is_no_longer_valid_goes(plain: Plain) -> None:
    """Without a bound that would be reached: a new one takes the place of an old one."""
    for number in range(20_000):
        add_route(plain, b"host%d.example" % number, -1.0)
    assert counted(plain, "routes") < 1000
    assert counted(plain, "origins") < 1000


def test_groups_go_one_by_one_and_the_one_in_use_stays(plain: Plain) -> None:
    plain.lane._native.add_client("192.0.2.1", "near")
    far = *plain.lane.dialled, "", ""
    plain.lane._native.add_route("G", "near", b"", b"o", b"o", b"o", 3600.0, *far)
    before = 0
    with contextlib.ExitStack() as stack:
        kept = Kept(plain, stack, "192.0.2.1")
        for number in range(200_000):
            plain.lane._native.add_client(f"2001:db8::{number:x}", "far")
            if number % 1000 == 0:
                kept.ask()
                count = counted(plain, "groups")
                assert count > before - 100  # addresses grow longer
                before = count
        assert 50_000 < before < 200_000
    plain.step()


def test_an_origin_is_there_for_as_long_as_it_has_a_connection(plain: Plain) -> None:
    native = plain.lane._native
    with contextlib.ExitStack() as stack:
        outer, inner = map(stack.enter_context, tcp_pair())
        add_route(plain, b"o")
        native.put(b"o", inner.detach(), HOST)
        native.forget()
        assert counted(plain, "origins") == 1
        taken = native.take(b"o", {HOST})
        assert taken is not None
        socket.socket(fileno=taken[0]).close()
        assert outer.recv(1) == b""
    assert counted(plain, "origins") == 0
    assert native.take(b"o", {HOST}) is None


def test_a_route_may_be_forgotten_while_its_origin_is_dialled(plain: Plain) -> None:
    """And while a client waits for a connection."""
    plain.lane._native.add_client("", "")
    add_route(plain, b"o")
    outer, inner = socket.socketpair()
    outer.settimeout(PATIENCE)
    inner.setblocking(False)
    with outer:
        plain.lane._native.hand_over(inner.detach(), "", ASK, 0)
        plain.lane._native.forget()
        assert counted(plain, "origins") == 1
        with plain._listener.accept()[0] as peer:
            select.select([plain.relay.fileno()], [], [], PATIENCE)
            plain.step()
            assert peer.recv(1000).startswith(b"GET / ")
            peer.sendall(OK)
            select.select([plain.relay.fileno()], [], [], PATIENCE)
            plain.step()
            assert outer.recv(1000) == OK_GOT
    plain.step()
    assert not plain.handoffs
    assert counted(plain, "origins") == 0


@pytest.mark.parametrize("limit", ["most_idle", "PER_ORIGIN"])
def test_the_idle_connection_is_closed_that_is_unused_for_longest(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    native_relay()
    three: object = (lambda: 3) if limit == "most_idle" else 3
    monkeypatch.setattr(f"spliceproxy.forward.lane_options.{limit}", three)
    with contextlib.closing(Plain()) as plain, contextlib.ExitStack() as stack:
        outers = []
        for number in range(5):
            outer, inner = map(stack.enter_context, tcp_pair())
            outer.setblocking(False)
            outers.append(outer)
            key = b"o%d" % number if limit == "most_idle" else b"o"
            plain.lane._native.put(key, inner.detach(), HOST)
        assert plain.lane._native.idle == 3
        ended = [bool(select.select([outer], [], [], 0)[0]) for outer in outers]
        assert ended == [True, True, False, False, False]
