"""Relay.flows and Relay.kill: what an operator sees of what lives, and how it is ended."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from plain_oracle import OK, Plain, conversation, received
from relay_rig import Ends, Rig, native_relay, promote, recv_exactly, until

from spliceproxy.relay.interface import KILLED, POLICY, FlowView


@pytest.fixture
def rig(new_rig: Callable[..., Rig]) -> Rig:
    return new_rig()


def flows(rig: Rig, most: int = 100) -> list[FlowView]:
    lists: list[list[FlowView]] = rig.call(lambda: list(rig.driver.flows(most)))
    assert all(len(some) <= most for some in lists)
    return [view for some in lists for view in some]


def test_a_tunnel(rig: Rig) -> None:
    one = rig.tunnel(to_origin=b"12345", to_client=b"abc")
    assert recv_exactly(one.origin, 5) == b"12345"
    assert recv_exactly(one.client, 3) == b"abc"
    (view,) = flows(rig)
    assert (view.ident, view.tunnel, view.phase) == (one.ident, True, "tunnel")
    assert (view.up_copied, view.up_spliced) == (5, 0)
    assert (view.down_copied, view.down_spliced) == (3, 0)
    assert not view.splices
    assert view.client_rtt > 0
    assert view.origin_rtt > 0
    assert 0 <= view.rests < 20
    assert callable(view.token)
    one.client.close()
    one.origin.close()
    one.end()
    assert flows(rig) == []


def test_one_that_splices(rig: Rig, engine: str) -> None:
    one = rig.tunnel()
    if engine == "copy":
        one.client.sendall(b"x" * 5000)
        recv_exactly(one.origin, 5000)
        (view,) = flows(rig)
        assert (view.splices, view.up_spliced, view.up_copied) == (False, 0, 5000)
        return
    promote(rig, one.client, one.origin)
    (view,) = flows(rig)
    assert view.splices
    assert view.up_spliced > 0


def test_a_unix_socket_has_no_round_trip(rig: Rig) -> None:
    rig.tunnel("unix")
    (view,) = flows(rig)
    assert (view.client_rtt, view.origin_rtt) == (-1, -1)


def test_a_few_at_a_time(rig: Rig) -> None:
    """Others come and go between two lists."""
    tunnels = [rig.tunnel("unix") for _ in range(25)]
    lists = rig.driver.flows(4)
    first = rig.call(next, lists)
    assert len(first) == 4
    for one in tunnels[20:]:
        one.client.close()
        one.origin.close()
        one.end()
    more = [rig.tunnel("unix") for _ in range(5)]
    rest = rig.call(list, lists)
    seen = [view.ident for some in [first, *rest] for view in some]
    assert len(seen) == len(set(seen))
    assert {one.ident for one in tunnels[:20]} <= set(seen)
    assert set(seen) <= {one.ident for one in [*tunnels[:20], *more]}


def test_kill(rig: Rig) -> None:
    tunnels = [rig.tunnel() for _ in range(3)]
    assert rig.call(rig.driver.kill, tunnels[1].ident)
    end = tunnels[1].end()
    assert end.reason == KILLED
    for sock in (tunnels[1].client, tunnels[1].origin):
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert not rig.call(rig.driver.kill, tunnels[1].ident)
    assert not rig.call(rig.driver.kill, 1 << 40)
    assert len(flows(rig)) == 2
    assert _lives(tunnels[0])
    assert _lives(tunnels[2])


def test_kill_for_the_policy(rig: Rig) -> None:
    one = rig.tunnel()
    assert rig.call(rig.driver.kill, one.ident, POLICY)
    assert one.end().reason == POLICY


def _lives(one: Ends) -> bool:
    one.client.sendall(b"x")
    return recv_exactly(one.origin, 1) == b"x"


def test_one_that_has_ended_is_not_shown(rig: Rig) -> None:
    """Nor ended a second time, as long as its end is not reported."""
    one = rig.tunnel()

    def end_twice() -> tuple[bool, bool, list[list[FlowView]]]:
        return (
            rig.driver.kill(one.ident),
            rig.driver.kill(one.ident),
            [some for some in rig.driver.flows(10) if some],
        )

    assert rig.call(end_twice) == (True, False, [])
    assert one.end().reason == KILLED


def test_transfers_are_not_shown(rig: Rig) -> None:
    outer, source = rig.pair()
    _, target = rig.pair()
    future = rig.transfer(source, target, 10)
    until(lambda: rig.stats().transfers == 1, "the transfer")
    assert flows(rig) == []
    outer.sendall(b"0123456789")
    assert future.result(20).copied == 10


def test_a_closed_relay(new_relay: Callable[..., object]) -> None:
    relay = new_relay()
    relay.close()  # type: ignore[attr-defined]
    assert not [some for some in relay.flows(10) if some]  # type: ignore[attr-defined]
    assert not relay.kill(5)  # type: ignore[attr-defined]


HEAD = b"GET http://o/path?query HTTP/1.1\r\nHost: o\r\n\r\n"


def test_a_request_in_the_lane() -> None:
    native_relay()
    plain = Plain(log=True)
    with conversation(plain) as one:
        one.allow(HEAD)
        assert list(plain.relay.flows(10)) in ([], [[]])
        assert one.send(one.client, HEAD)
        asked = one.asked()
        assert asked is not None
        (view,) = [view for some in plain.relay.flows(10) for view in some]
        assert (view.tunnel, view.phase) == (False, "wait")
        assert (view.method, view.target) == ("GET", "http://o/path?query")
        assert view.client == ""  # a Unix socket
        assert view.peer == "127.0.0.1"
        assert view.up_copied == len(HEAD)
        assert view.started > 0
        assert view.client_rtt == -1
        assert one.send(one.keys[asked[0]], OK)
        assert received(one.client)
        assert list(plain.relay.flows(10)) == [[]]
    plain.close()


def test_a_request_in_the_lane_is_ended() -> None:
    native_relay()
    plain = Plain(log=True)
    with conversation(plain) as one:
        one.allow(HEAD)
        assert one.send(one.client, HEAD)
        assert one.asked() is not None
        (view,) = [view for some in plain.relay.flows(10) for view in some]
        assert plain.relay.kill(view.ident)
        assert not plain.relay.kill(view.ident)
        plain.relay.step()
        one.client.settimeout(20)
        assert _closed(one.client)
        lines, count = plain.lane._native.take_log()
        assert count == 1
        assert b"_ABORTED" in lines
    plain.close()


def _closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True
