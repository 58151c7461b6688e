"""Limits, aborts, and many tunnels that come and go."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import random
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future

import pytest
from relay_rig import (
    FLOOD,
    PATIENCE,
    Rig,
    Task,
    fill,
    kept_active,
    open_fds,
    payload,
    promote,
    pump,
    recv_all,
    recv_exactly,
    reset,
    send_all,
    tcp_pair,
    until,
)

from spliceproxy.relay.interface import (
    ABORTED,
    CLIENT_RESET,
    DONE,
    HALF_CLOSE,
    IDLE,
    ORIGIN_RESET,
    Relay,
    TunnelEnd,
)

one_loop = pytest.mark.parametrize("loop_name", ["uvloop"], indirect=True)


def test_idle_limit(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig(idle=0.3)
    last = None
    while last is None:
        since = time.monotonic()
        tunnel = rig.tunnel()
        last = kept_active(since, 0.3, [tunnel], "client")
    end = tunnel.end()
    assert time.monotonic() - last >= 0.29  # timers may be a tick early
    assert (end.reason, end.errno) == (IDLE, 0)
    # The stream is cut short, so it does not end cleanly.
    assert recv_all(tunnel.client) == (b"", errno.ECONNRESET)
    assert recv_all(tunnel.origin) == (b"", errno.ECONNRESET)


@pytest.mark.parametrize("side", ["client", "origin"])
def test_half_close_limit(new_rig: Callable[..., Rig], side: str) -> None:
    rig = new_rig(half_close=0.3)
    other = "origin" if side == "client" else "client"
    last = None
    while last is None:
        since = time.monotonic()
        tunnel = rig.tunnel()
        first: socket.socket = getattr(tunnel, side)
        first.shutdown(socket.SHUT_WR)
        last = kept_active(since, 0.3, [tunnel], other)
    assert tunnel.end().reason == HALF_CLOSE
    assert time.monotonic() - last >= 0.29
    assert recv_all(first) == (b"", errno.ECONNRESET)


@one_loop
def test_other_limits_hold_for_what_lives(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig(idle=600.0, half_close=600.0)
    idle, half = rig.tunnel(), rig.tunnel()
    half.client.shutdown(socket.SHUT_WR)
    assert half.origin.recv(1) == b""
    rig.call(rig.driver.limits, 0.3, 600.0, 5.0)
    assert idle.end().reason == IDLE
    rig.call(rig.driver.limits, 600.0, 0.3, 5.0)
    assert half.end().reason == HALF_CLOSE


@one_loop
@pytest.mark.parametrize("side", ["client", "origin"])
def test_the_half_close_limit_begins_with_the_end(new_rig: Callable[..., Rig], side: str) -> None:
    """And not with the last byte, which may be long ago."""
    rig = new_rig(half_close=0.5)
    tunnel = rig.tunnel()
    time.sleep(0.7)
    since = time.monotonic()
    first: socket.socket = getattr(tunnel, side)
    first.shutdown(socket.SHUT_WR)
    assert tunnel.end().reason == HALF_CLOSE
    assert time.monotonic() - since >= 0.49


@one_loop
def test_idle_limit_while_bytes_are_blocked(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig(idle=1.0)
    tunnel = rig.tunnel("narrow")
    fill(tunnel.client, payload(FLOOD), rig)
    assert tunnel.end().reason == IDLE
    assert rig.stats().pipes_lent == 0


@one_loop
def test_a_pipe_with_bytes_left_in_it_is_not_lent_again(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig(max_pipes=1)
    blocked = rig.tunnel("narrow")
    if rig.relay.engine != "copy":
        promote(rig, blocked.client, blocked.origin)
    fill(blocked.client, payload(FLOOD), rig)
    assert rig.stats().pipes_lent == (rig.relay.engine != "copy")
    reset(blocked.origin)
    blocked.end()
    tunnel = rig.tunnel()
    for _ in range(3):
        sender = send_all(tunnel.client, payload(4 << 20, 2))
        assert recv_exactly(tunnel.origin, 4 << 20) == payload(4 << 20, 2)
        sender.result()
    if rig.relay.engine != "copy":
        assert rig.stats().spliced > 0


@one_loop
def test_many_deadlines(new_rig: Callable[..., Rig]) -> None:
    """Those that are active stay, the others go, whatever their order."""
    rig = new_rig(idle=1.0)
    last = None
    while last is None:
        since = time.monotonic()
        tunnels = [rig.tunnel() for _ in range(60)]
        active = tunnels[::3]
        last = kept_active(since, 1.0, active, "client")
    silent = [tunnel for tunnel in tunnels if tunnel not in active]
    assert all(tunnel.future.done() for tunnel in silent)
    for tunnel in tunnels:
        assert tunnel.end().reason == IDLE


def test_abort(rig: Rig) -> None:
    kept, ended = rig.tunnel(), rig.tunnel()
    rig.call(rig.relay.abort, ended.ident)
    rig.call(rig.relay.abort, ended.ident)
    kept.client.sendall(b"x")  # the next step brings the report
    assert recv_exactly(kept.origin, 1) == b"x"
    end = ended.end()
    assert (end.reason, end.errno) == (ABORTED, 0)
    assert recv_all(ended.client) == (b"", errno.ECONNRESET)
    assert recv_all(ended.origin) == (b"", errno.ECONNRESET)
    rig.call(rig.relay.abort, ended.ident)
    kept.client.sendall(b"x")
    assert recv_exactly(kept.origin, 1) == b"x"


def test_abort_all_and_drained(rig: Rig) -> None:
    tunnels = [rig.tunnel("narrow") for _ in range(5)]
    fill(tunnels[0].client, payload(FLOOD), rig)
    reset(tunnels[1].client)
    drained = asyncio.run_coroutine_threadsafe(rig.driver.drained(), rig.loop)
    tunnels[1].end()
    assert not drained.done()
    rig.call(rig.driver.abort_all)
    drained.result(PATIENCE)
    reasons = [tunnel.end().reason for tunnel in tunnels]
    assert reasons == [ABORTED, CLIENT_RESET, ABORTED, ABORTED, ABORTED]
    assert rig.stats().tunnels == rig.stats().pipes_lent == 0
    asyncio.run_coroutine_threadsafe(rig.driver.drained(), rig.loop).result(PATIENCE)


def test_close(rig: Rig) -> None:
    tunnels = [rig.tunnel("narrow") for _ in range(3)]
    fill(tunnels[0].client, payload(FLOOD), rig)
    _, source = rig.pair()
    _, target = rig.pair()
    transfer = rig.transfer(source, target, 100)
    until(lambda: rig.stats().transfers == 1, "started")
    rig.call(rig.driver.close)
    rig.call(rig.driver.close)
    for tunnel in tunnels:
        assert tunnel.end().reason == ABORTED
    assert recv_all(tunnels[1].client) == (b"", errno.ECONNRESET)
    with pytest.raises(CancelledError):
        transfer.result(PATIENCE)
    with pytest.raises(OSError, match="closed"):
        rig.call(rig.driver.tunnel, source.fileno(), target.fileno(), b"", b"", print)


def test_close_of_the_engine_alone(new_relay: Callable[..., Relay]) -> None:
    relay = new_relay()
    client, inner_client = tcp_pair()
    origin, inner_origin = tcp_pair()
    with client, origin:
        relay.tunnel(inner_client.detach(), inner_origin.detach(), b"", b"", None)
        relay.close()
        relay.close()
        assert recv_all(client) == (b"", errno.ECONNRESET)
        assert recv_all(origin) == (b"", errno.ECONNRESET)


def test_an_end_is_reported_once_and_wakes_the_loop(new_relay: Callable[..., Relay]) -> None:
    relay = new_relay()
    client, inner_client = tcp_pair()
    origin, inner_origin = tcp_pair()
    with client, origin:
        token = object()
        assert relay.next_wake() is None
        ident = relay.tunnel(inner_client.detach(), inner_origin.detach(), b"", b"", token)
        assert (relay.next_wake() or 0.0) > 1
        relay.abort(ident)
        assert relay.next_wake() == 0.0
        ((got, end),) = relay.step()
        assert got is token
        assert isinstance(end, TunnelEnd)
        assert relay.step() == []
        assert relay.next_wake() is None
        assert relay.stats().tunnels == 0


def test_a_slot_and_its_descriptors_used_again_at_once(new_relay: Callable[..., Relay]) -> None:
    """Tunnels that end with events outstanding; new ones take their numbers in between."""
    relay = new_relay()
    before = open_fds()
    for _ in range(4):
        peers = []
        idents = []
        for i in range(40):
            client, inner_client = tcp_pair()
            origin, inner_origin = tcp_pair()
            fds = (inner_client.detach(), inner_origin.detach())
            idents.append(relay.tunnel(*fds, b"", b"", i))
            peers.append((client, origin))
        # Everything is ready: data, FIN and RST on both sides of all tunnels.
        for i, (client, origin) in enumerate(peers):
            client.sendall(b"x")
            origin.sendall(b"y")
            if i % 3 == 0:
                reset(client)
                reset(origin)
            elif i % 3 == 1:
                client.close()
                origin.close()
        for ident in idents[2::3]:
            relay.abort(ident)
        client, inner_client = tcp_pair()
        origin, inner_origin = tcp_pair()
        relay.tunnel(inner_client.detach(), inner_origin.detach(), b"", b"", "new")
        ends = pump(relay, lambda: relay.stats().tunnels == 1)
        assert sorted(token for token, _ in ends) == list(range(40))
        for ident in idents:  # ids of the past
            relay.abort(ident)
            relay.cancel(ident)
        client.sendall(b"fresh")
        client.shutdown(socket.SHUT_WR)
        origin.close()
        ((token, end),) = pump(relay, lambda: relay.stats().tunnels == 0)
        assert (token, end.up_copied) == ("new", 5)
        for pair in [*peers, (client, origin)]:
            for sock in pair:
                sock.close()
    assert open_fds() == before


@one_loop
def test_a_tunnel_started_by_the_report_of_another(rig: Rig) -> None:
    """So it takes the descriptor numbers that were just closed."""
    last: Future[TunnelEnd] = Future()
    hops = 30

    def start(left: int) -> None:
        client, inner_client = tcp_pair()
        origin, inner_origin = tcp_pair()

        def done(end: TunnelEnd) -> None:
            assert end.up_copied == 1
            client.close()
            origin.close()
            start(left - 1) if left else last.set_result(end)

        rig.driver.tunnel(inner_client.detach(), inner_origin.detach(), b"x", b"", done)
        client.close()
        origin.shutdown(socket.SHUT_WR)

    rig.call(start, hops)
    assert last.result(PATIENCE).reason in (DONE, CLIENT_RESET, ORIGIN_RESET)


def peer(sock: socket.socket, seed: int, size: int) -> tuple[str, str]:
    """Sends random data in random pieces with pauses, FIN at its end, and reads all the
    while; returns the digests of what was sent and what came."""
    rng = random.Random(seed)
    sent, got = hashlib.blake2b(), hashlib.blake2b()

    def read() -> None:
        while part := sock.recv(rng.choice((1000, 1 << 16, 1 << 18))):
            got.update(part)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    source = random.Random(seed + 1)
    while size:
        part = source.randbytes(min(size, source.choice((1, 100, 5000, 60_000, 400_000))))
        sock.sendall(part)
        sent.update(part)
        size -= len(part)
        if source.random() < 0.2:
            time.sleep(source.random() * 0.01)
    sock.shutdown(socket.SHUT_WR)
    reader.join(PATIENCE)
    assert not reader.is_alive()
    return sent.hexdigest(), got.hexdigest()


@one_loop
@pytest.mark.parametrize("pipes", [-1, 0, 1, 2])
def test_300_tunnels_at_once(new_rig: Callable[..., Rig], pipes: int) -> None:
    rig = new_rig(max_pipes=pipes)
    if rig.relay.engine == "copy" and pipes >= 0:
        pytest.skip("this engine has no pipes")
    before = open_fds()
    rng = random.Random(pipes)
    tunnels = [rig.tunnel() for _ in range(300)]
    tasks = []
    total = 0
    for i, tunnel in enumerate(tunnels):
        pair = []
        for j, sock in enumerate((tunnel.client, tunnel.origin)):
            size = int(10 ** rng.uniform(0, 6))
            total += size
            pair.append(Task(peer, sock, i * 10 + j * 3, size))
        tasks.append(pair)
    for one, other in tasks:
        sent_by_one, got_by_one = one.result()
        sent_by_other, got_by_other = other.result()
        assert got_by_other == sent_by_one
        assert got_by_one == sent_by_other
    for tunnel in tunnels:
        assert tunnel.end().reason == DONE
        tunnel.client.close()
        tunnel.origin.close()
    stats = rig.stats()
    assert (stats.tunnels, stats.pipes_lent) == (0, 0)
    assert stats.copied + stats.spliced == total
    until(lambda: rig.stats().pipes_idle == 0, "no pipe is open at rest")
    assert open_fds() == before
