"""A reset stays a reset, and costs no byte that was received before it."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet  # its own class before 3.11

import pytest
from relay_rig import (
    FLOOD,
    PATIENCE,
    Ends,
    Rig,
    fill,
    payload,
    promote,
    pump,
    recv_all,
    recv_exactly,
    reset,
    tcp_pair,
    unacknowledged,
    until,
)

from spliceproxy.net import tcp
from spliceproxy.relay.interface import CLIENT_RESET, DONE, IDLE, ORIGIN_RESET, Relay, TunnelEnd

one_loop = pytest.mark.parametrize("loop_name", ["uvloop"], indirect=True)
both_sides = pytest.mark.parametrize("resetter", ["client", "origin"])
REASONS = {"client": CLIENT_RESET, "origin": ORIGIN_RESET}


def sides(tunnel: Ends, resetter: str) -> tuple[socket.socket, socket.socket]:
    peers = (tunnel.client, tunnel.origin)
    return peers if resetter == "client" else peers[::-1]


def send_for_ever(sock: socket.socket) -> None:
    while True:
        sock.sendall(payload(1 << 16))


@both_sides
def test_reset_of_an_idle_tunnel(rig: Rig, resetter: str) -> None:
    tunnel = rig.tunnel()
    cutter, other = sides(tunnel, resetter)
    reset(cutter)
    assert recv_all(other) == (b"", errno.ECONNRESET)
    end = tunnel.end()
    assert (end.reason, end.errno) == (REASONS[resetter], errno.ECONNRESET)


@both_sides
def test_data_and_reset_in_one_event(rig: Rig, resetter: str) -> None:
    tunnel = rig.tunnel()
    cutter, other = sides(tunnel, resetter)
    with rig.paused():
        cutter.sendall(b"last words")
        until(lambda: unacknowledged(cutter) == 0, "acknowledged")
        reset(cutter)
    assert recv_all(other) == (b"last words", errno.ECONNRESET)
    assert tunnel.end().reason == REASONS[resetter]


@one_loop
@both_sides
def test_reset_behind_much_data_and_a_slow_reader(rig: Rig, resetter: str) -> None:
    """All that was acknowledged arrives, and only then the reset."""
    tunnel = rig.tunnel("narrow")
    cutter, other = sides(tunnel, resetter)
    data = payload(FLOOD)
    sent = fill(cutter, data, rig)
    assert sent < len(data)
    received = sent - unacknowledged(cutter)
    assert received > 1 << 17
    reset(cutter)
    got, error = recv_all(other, 30_001)
    assert error == errno.ECONNRESET
    assert len(got) >= received
    assert got == data[: len(got)]
    end = tunnel.end()
    assert (end.reason, end.errno) == (REASONS[resetter], errno.ECONNRESET)


@both_sides
def test_what_is_on_its_way_to_a_dead_side_is_dropped(rig: Rig, resetter: str) -> None:
    """Blocked towards the side that resets, with data from it in the other direction."""
    tunnel = rig.tunnel("narrow")
    cutter, other = sides(tunnel, resetter)
    fill(other, payload(FLOOD), rig)
    cutter.sendall(b"enough")
    assert recv_exactly(other, 6) == b"enough"
    reset(cutter)
    assert recv_all(other) == (b"", errno.ECONNRESET)
    assert tunnel.end().reason == REASONS[resetter]
    assert rig.stats().pipes_lent == 0


@both_sides
def test_a_write_that_finds_the_reset_does_not_hide_data(rig: Rig, resetter: str) -> None:
    """The write takes the error away; then reads give the data and 0, which is no FIN."""
    tunnel = rig.tunnel()
    cutter, other = sides(tunnel, resetter)
    with rig.paused():
        other.sendall(b"towards the dead")
        cutter.sendall(b"x" * 100_000)
        until(lambda: unacknowledged(cutter) == 0, "acknowledged")
        reset(cutter)
    assert recv_all(other) == (b"x" * 100_000, errno.ECONNRESET)
    assert tunnel.end().reason == REASONS[resetter]


@both_sides
def test_reset_after_its_own_fin(rig: Rig, resetter: str) -> None:
    tunnel = rig.tunnel()
    cutter, other = sides(tunnel, resetter)
    cutter.sendall(b"bye")
    cutter.shutdown(socket.SHUT_WR)
    assert recv_all(other) == (b"bye", 0)
    reset(cutter)
    # FIN came first; the reset is seen by the first write, if not by a read.
    assert tunnel.end().reason == REASONS[resetter]
    with pytest.raises(ConnectionError):
        send_for_ever(other)


@both_sides
def test_closed_peer_that_gets_data(rig: Rig, resetter: str) -> None:
    """close() looks like a half-close, until what is sent to it is answered by RST."""
    tunnel = rig.tunnel()
    cutter, other = sides(tunnel, resetter)
    cutter.close()
    assert recv_all(other) == (b"", 0)
    with pytest.raises(ConnectionError):
        send_for_ever(other)
    end = tunnel.end()
    assert end.reason == REASONS[resetter]
    assert end.errno in (errno.EPIPE, errno.ECONNRESET)


def test_both_sides_reset(rig: Rig) -> None:
    tunnel = rig.tunnel()
    with rig.paused():
        reset(tunnel.client)
        reset(tunnel.origin)
    end = tunnel.end()
    assert end.reason in REASONS.values()
    assert end.errno == errno.ECONNRESET
    assert rig.stats().tunnels == 0


@one_loop
def test_a_reset_behind_a_reader_that_never_reads(new_rig: Callable[..., Rig]) -> None:
    """It is not seen before the bytes that came ahead of it are gone: the idle limit."""
    rig = new_rig(idle=1.0)
    tunnel = rig.tunnel("narrow")
    fill(tunnel.client, payload(FLOOD), rig)
    events = rig.stats().events
    reset(tunnel.client)
    assert tunnel.end().reason == IDLE
    assert rig.stats().events - events < 10
    assert recv_all(tunnel.origin)[1] == errno.ECONNRESET


def test_a_peer_that_does_not_acknowledge_is_reset_in_the_end(
    new_relay: Callable[..., Relay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "ACK_PATIENCE", 0.2)
    relay = new_relay()
    client, inner_client = tcp_pair()
    origin, inner_origin = tcp_pair()
    with client, origin:
        # A small window fills, and the rest waits in the relay's send queue.
        origin.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        relay.tunnel(inner_client.detach(), inner_origin.detach(), b"", b"", "token")
        client.sendall(payload(400_000))
        reset(client)
        ((token, end),) = pump(relay, lambda: relay.stats().tunnels == 0)
        assert (token, end.reason) == ("token", CLIENT_RESET)
        # The reset overtook data: that is what the patience is for.
        got, error = recv_all(origin)
        assert error == errno.ECONNRESET
        assert len(got) < 400_000


@one_loop
@both_sides
def test_the_other_side_resets_while_it_still_has_to_acknowledge(rig: Rig, resetter: str) -> None:
    tunnel = rig.tunnel()
    cutter, other = sides(tunnel, resetter)
    other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    cutter.sendall(payload(100_000))
    until(lambda: rig.stats().copied + rig.stats().spliced == 100_000, "relayed")
    reset(cutter)
    with pytest.raises(NotYet):
        tunnel.future.result(0.1)
    start = time.monotonic()
    reset(other)
    end = tunnel.end()
    assert time.monotonic() - start < tcp.ACK_PATIENCE / 2
    assert (end.reason, end.errno) == (REASONS[resetter], errno.ECONNRESET)


@one_loop
@both_sides
def test_urgent_data_neither_spins_nor_is_lost(rig: Rig, resetter: str) -> None:
    """splice(2) cannot pass an urgent byte that has data behind it: EAGAIN for ever."""
    tunnel = rig.tunnel()
    source, target = sides(tunnel, resetter)
    if rig.relay.engine != "copy":
        promote(rig, source, target)
    with rig.paused():
        source.sendall(b"A" * 20_000)
        source.send(b"U", socket.MSG_OOB)
        source.sendall(b"B" * 20_000)
    assert recv_exactly(target, 40_001) == b"A" * 20_000 + b"U" + b"B" * 20_000
    before = rig.stats()
    # It splices no more, but goes on.
    source.sendall(payload(1 << 20))
    assert recv_exactly(target, 1 << 20) == payload(1 << 20)
    after = rig.stats()
    if rig.relay.engine != "copy":
        assert (after.urgent_stalls, after.splice_fallbacks) == (1, 1)
        assert after.spliced == before.spliced
    # An urgent byte with nothing behind it, while the other side waits.
    source.send(b"V", socket.MSG_OOB)
    assert recv_exactly(target, 1) == b"V"
    events = rig.stats().events
    target.sendall(b"ping")
    assert recv_exactly(source, 4) == b"ping"
    assert rig.stats().events - events < 10


@one_loop
@both_sides
def test_urgent_data_before_a_fin_is_not_the_end(rig: Rig, resetter: str) -> None:
    """splice(2) says 0 at the urgent byte then, as at the end of a stream."""
    tunnel = rig.tunnel()
    source, target = sides(tunnel, resetter)
    if rig.relay.engine != "copy":
        promote(rig, source, target)
    with rig.paused():
        source.sendall(b"A" * 20_000)
        source.send(b"U", socket.MSG_OOB)
        source.sendall(b"B" * 20_000)
        source.shutdown(socket.SHUT_WR)
    assert recv_all(target) == (b"A" * 20_000 + b"U" + b"B" * 20_000, 0)
    target.close()
    assert tunnel.end().reason == DONE


def test_linger_is_what_resets() -> None:
    """The helper itself: SO_LINGER 0 gives RST, or all tests here would prove nothing."""
    outer, inner = tcp_pair()
    with outer:
        reset(inner)
        assert recv_all(outer) == (b"", errno.ECONNRESET)


# ---- a peer that has left ------------------------------------------------------------------

LONG = 600.0  # seconds, of a limit that must not be what ends a tunnel


@both_sides
@pytest.mark.parametrize("how", ["closes", "half-closes first", "with much on its way"])
def test_a_peer_that_has_closed_its_unix_socket(
    new_rig: Callable[..., Rig], resetter: str, how: str
) -> None:
    """Nothing can be sent to it any more, so there is nothing to wait for: the other gets what
    was sent before, and FIN."""
    rig = new_rig(half_close=LONG, idle=LONG)
    tunnel = rig.tunnel("unix")
    leaves, stays = sides(tunnel, resetter)
    sent = 0
    if how == "with much on its way":
        sent = fill(leaves, payload(FLOOD), rig)
    if how == "half-closes first":
        leaves.shutdown(socket.SHUT_WR)
        assert recv_all(stays) == (b"", 0)
        rig.stats()
    leaves.close()
    assert recv_all(stays) == (payload(FLOOD)[:sent], 0)
    assert tunnel.end().reason == DONE


@one_loop
@both_sides
def test_the_other_side_resets_after_a_peer_has_left(
    new_rig: Callable[..., Rig], resetter: str
) -> None:
    """It has not acknowledged all that was sent before: the end is its reset, not DONE."""
    rig = new_rig(half_close=LONG, idle=LONG)
    leaves, inner_leaves = rig.pair("unix")
    stays, inner_stays = rig.pair("tcp")
    stays.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client, origin = (
        (inner_stays, inner_leaves) if resetter == "client" else (inner_leaves, inner_stays)
    )
    future: Future[TunnelEnd] = Future()
    fds = (client.detach(), origin.detach())
    rig.call(rig.driver.tunnel, *fds, b"", b"", future.set_result)
    leaves.sendall(payload(100_000))
    until(lambda: rig.stats().copied + rig.stats().spliced == 100_000, "relayed")
    leaves.close()
    with pytest.raises(NotYet):
        future.result(0.1)
    reset(stays)
    end = future.result(PATIENCE)
    assert (end.reason, end.errno) == (REASONS[resetter], errno.ECONNRESET)


@both_sides
def test_a_reset_of_a_peer_that_has_half_closed(new_rig: Callable[..., Rig], resetter: str) -> None:
    """It is seen though nothing of this peer is wanted any more."""
    rig = new_rig(half_close=LONG, idle=LONG)
    tunnel = rig.tunnel("tcp")
    leaves, stays = sides(tunnel, resetter)
    leaves.shutdown(socket.SHUT_WR)
    assert recv_all(stays) == (b"", 0)
    rig.stats()
    reset(leaves)
    assert tunnel.end().reason == REASONS[resetter]


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_peer_that_has_half_closed_is_served_on(new_rig: Callable[..., Rig], kind: str) -> None:
    """Also when the other has said nothing for a while."""
    rig = new_rig(half_close=LONG, idle=LONG)
    tunnel = rig.tunnel(kind)
    tunnel.client.shutdown(socket.SHUT_WR)
    assert recv_all(tunnel.origin) == (b"", 0)
    for _ in range(5):
        rig.stats()
        tunnel.origin.sendall(b"x")
        assert tunnel.client.recv(1) == b"x"
    tunnel.origin.close()
    assert recv_all(tunnel.client) == (b"", 0)
    assert tunnel.end().reason == DONE
