"""Which path the bytes take: bulk is spliced, small messages are copied, rest costs nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from relay_rig import (
    FLOOD,
    Ends,
    Rig,
    fill,
    open_fds,
    payload,
    promote,
    recv_exactly,
    send_all,
    tcp_pair,
    until,
)

from spliceproxy.relay.interface import CHUNK, DONE, TURN_BYTES, TURN_MOVES, Relay
from spliceproxy.relay.quota import LARGEST

one_loop = pytest.mark.parametrize("loop_name", ["uvloop"], indirect=True)
splicing = pytest.mark.parametrize("engine", ["native", "splice"], indirect=True)


def ping_pong(tunnel: Ends, rounds: int, size: int = 64) -> None:
    for _ in range(rounds):
        tunnel.client.sendall(b"?" * size)
        assert recv_exactly(tunnel.origin, size) == b"?" * size
        tunnel.origin.sendall(b"!" * size)
        assert recv_exactly(tunnel.client, size) == b"!" * size


@one_loop
@splicing
def test_bulk_is_spliced(rig: Rig) -> None:
    tunnel = rig.tunnel()
    size = 32 << 20
    sender = send_all(tunnel.origin, payload(size), fin=True)
    assert recv_exactly(tunnel.client, size) == payload(size)
    sender.result()
    tunnel.client.close()
    end = tunnel.end()
    assert end.reason == DONE
    assert end.down_copied + end.down_spliced == size
    assert end.down_spliced > 0.9 * size
    assert (end.up_copied, end.up_spliced) == (0, 0)


@splicing
def test_small_messages_are_copied(rig: Rig) -> None:
    tunnel = rig.tunnel()
    ping_pong(tunnel, 100)
    stats = rig.stats()
    assert (stats.spliced, stats.copied) == (0, 100 * 128)
    # Bulk one way leaves the other way copying, and small messages bring it back.
    promote(rig, tunnel.origin, tunnel.client)
    ping_pong(tunnel, 5)
    before = rig.stats()
    ping_pong(tunnel, 50)
    after = rig.stats()
    assert after.spliced == before.spliced
    assert after.copied == before.copied + 50 * 128


@one_loop
@splicing
def test_after_a_rest_it_copies_again(rig: Rig) -> None:
    tunnel = rig.tunnel()
    promote(rig, tunnel.client, tunnel.origin)
    until(lambda: rig.stats().pipes_idle == 0, "a rest")
    time.sleep(0.1)  # pipes and ways rest equally long
    before = rig.stats()
    with rig.paused():
        tunnel.client.sendall(b"x" * 100_000)
    assert recv_exactly(tunnel.origin, 100_000) == b"x" * 100_000
    after = rig.stats()
    assert after.spliced == before.spliced


@one_loop
def test_idle_tunnels_hold_no_pipe(rig: Rig) -> None:
    tunnels = [rig.tunnel() for _ in range(20)]
    at_rest = open_fds()
    for tunnel in tunnels[:5]:
        if rig.relay.engine != "copy":
            promote(rig, tunnel.client, tunnel.origin)
        else:
            ping_pong(tunnel, 1, 100_000)
    assert rig.stats().pipes_lent == 0
    until(lambda: rig.stats().pipes_idle == 0, "idle pipes are closed")
    assert open_fds() == at_rest
    stats = rig.stats()
    assert stats.tunnels == 20
    # Nothing to do is nothing done.
    time.sleep(0.2)
    after = rig.stats()
    assert after.events == stats.events
    assert after.steps - stats.steps <= 5


@one_loop
@splicing
def test_a_blocked_way_keeps_its_pipe_and_does_not_spin(rig: Rig) -> None:
    tunnel = rig.tunnel("narrow")
    promote(rig, tunnel.client, tunnel.origin)
    sent = fill(tunnel.client, payload(FLOOD), rig)
    stats = rig.stats()
    assert stats.pipes_lent == 1
    time.sleep(0.2)
    after = rig.stats()
    assert after.events - stats.events <= 2
    assert after.steps - stats.steps <= 5
    assert recv_exactly(tunnel.origin, sent) == payload(FLOOD)[:sent]
    until(lambda: rig.stats().pipes_lent == 0, "the pipe is back")


SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33  # socket(7)

FLOODER = """
import socket, sys, threading
source, target = (socket.socket(fileno=int(fd)) for fd in sys.argv[1:])
for sock in (source, target):
    sock.setblocking(True)
def drain():
    while target.recv(1 << 20):
        pass
threading.Thread(target=drain, daemon=True).start()
block = bytes(1 << 20)
print("on", flush=True)
while True:
    source.sendall(block)
"""


def moved(rig: Rig) -> int:
    stats = rig.stats()
    return stats.copied + stats.spliced


@one_loop
def test_a_flood_does_not_starve_a_conversation(rig: Rig) -> None:
    floods = [rig.tunnel() for _ in range(2)]
    processes = []
    try:
        for tunnel in floods:
            fds = (tunnel.client.fileno(), tunnel.origin.fileno())
            process = subprocess.Popen(
                [sys.executable, "-c", FLOODER, *map(str, fds)],
                pass_fds=fds,
                stdout=subprocess.PIPE,
            )
            processes.append(process)
            assert process.stdout is not None
            assert process.stdout.readline() == b"on\n"
        flooded = moved(rig) + (10 << 20)
        talk = rig.tunnel()
        times: list[float] = []
        give_up = time.monotonic() + 30
        while len(times) < 50 or moved(rig) < flooded:
            start = time.monotonic()
            assert start < give_up, "the flood has stopped"
            ping_pong(talk, 1)
            times.append(time.monotonic() - start)
        # The better half: processors are shared with the floods and other tests.
        assert sorted(times)[len(times) // 4] < 0.25
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("length", [-1, 1 << 30], ids=["copied first", "spliced"])
def test_one_turn_is_bounded(new_relay: Callable[..., Relay], length: int) -> None:
    """However much is ready, and however much the target takes."""
    relay = new_relay()
    sender, source = tcp_pair()
    receiver, target = tcp_pair()
    with sender, source, receiver, target:
        try:
            source.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
            target.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 8 << 20)
        except PermissionError:
            pytest.skip("large socket buffers need CAP_NET_ADMIN")
        fill(sender, payload(FLOOD))
        ident = relay.transfer(source.fileno(), target.fileno(), length, None)
        relay.step()
        stats = relay.stats()
        relay.cancel(ident)
        assert stats.events > 0
        assert stats.copied + stats.spliced > 2 * CHUNK
        assert stats.copied + stats.spliced <= stats.events * (TURN_BYTES + LARGEST)
        assert stats.copied <= stats.events * CHUNK * TURN_MOVES
