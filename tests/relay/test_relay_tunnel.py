"""Bytes through a tunnel: all of them, in order, without a stall; and its clean end."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest
from relay_rig import Ends, Rig, payload, promote, recv_all, recv_exactly, send_all, until

from spliceproxy.relay.interface import DONE

one_loop = pytest.mark.parametrize("loop_name", ["uvloop"], indirect=True)
both_sides = pytest.mark.parametrize("swapped", [False, True], ids=["up", "down"])


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_bytes_both_ways_then_a_clean_end(rig: Rig, kind: str) -> None:
    tunnel = rig.tunnel(kind)
    tunnel.client.sendall(b"ping")
    assert recv_exactly(tunnel.origin, 4) == b"ping"
    tunnel.origin.sendall(b"pong!")
    assert recv_exactly(tunnel.client, 5) == b"pong!"
    tunnel.client.shutdown(socket.SHUT_WR)
    assert tunnel.origin.recv(1) == b""
    assert not tunnel.future.done()
    tunnel.origin.close()
    assert tunnel.client.recv(1) == b""
    end = tunnel.end()
    assert (end.reason, end.errno) == (DONE, 0)
    assert (end.up_copied, end.up_spliced, end.down_copied, end.down_spliced) == (4, 0, 5, 0)
    assert bool(end.client_info) == bool(end.origin_info) == (kind == "tcp")
    assert rig.stats().tunnels == 0


@pytest.mark.parametrize("size", [5, 6 << 20], ids=["small", "large"])
def test_early_data_goes_first(rig: Rig, size: int) -> None:
    early_up, early_down = payload(size, 1), payload(size, 2)
    tunnel = rig.tunnel("tcp", early_up, early_down)
    senders = [
        send_all(tunnel.client, b"then this", fin=True),
        send_all(tunnel.origin, b"then that", fin=True),
    ]
    assert recv_all(tunnel.origin) == (early_up + b"then this", 0)
    assert recv_all(tunnel.client) == (early_down + b"then that", 0)
    for sender in senders:
        sender.result()
    end = tunnel.end()
    assert end.reason == DONE
    assert end.up_copied == end.down_copied == size + 9


@pytest.mark.parametrize("count", [16, 32, 48])
def test_many_small_segments_arrive_at_once(rig: Rig, count: int) -> None:
    """A pipe with a multiple of 16 buffers, of which the last must not be corked."""
    times = []
    for _ in range(5):
        tunnel = rig.tunnel()
        if rig.relay.engine != "copy":
            promote(rig, tunnel.origin, tunnel.client)
        with rig.paused():
            for _ in range(count):
                tunnel.origin.sendall(b"x" * 100)
        start = time.monotonic()
        assert recv_exactly(tunnel.client, 100 * count) == b"x" * 100 * count
        times.append(time.monotonic() - start)
    assert min(times) < 0.15  # corked, each of them takes 0.2 s


def test_short_answers_are_never_late(rig: Rig) -> None:
    tunnel = rig.tunnel()
    tunnel.origin.sendall(b"220 origin speaks first\r\n")
    assert recv_exactly(tunnel.client, 25).startswith(b"220")
    # A machine that stands still now and then does not do so in each of several turns.
    assert any(late_answers(tunnel) <= 2 for _ in range(3))


def late_answers(tunnel: Ends) -> int:
    """How many of 50 take as long as a delayed acknowledgement or a corked tail."""
    slow = 0
    for _ in range(50):
        start = time.monotonic()
        tunnel.client.sendall(b"?")
        assert recv_exactly(tunnel.origin, 1) == b"?"
        tunnel.origin.sendall(b"!")
        assert recv_exactly(tunnel.client, 1) == b"!"
        slow += time.monotonic() - start > 0.15
    return slow


@one_loop
@both_sides
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_slow_reader_gets_every_byte_and_then_the_fin(rig: Rig, swapped: bool, kind: str) -> None:
    """Also: FIN while bytes wait in the pipe."""
    tunnel = rig.tunnel(kind)
    source, target = tunnel.client, tunnel.origin
    if swapped:
        source, target = target, source
    data = payload(12 << 20)
    sender = send_all(source, data, fin=True)
    got = bytearray()
    while len(got) < len(data):
        got += recv_exactly(target, min(700_001, len(data) - len(got)))
        quiet_since(rig)
    assert got == data
    assert target.recv(1) == b""
    sender.result()
    # The other way is still open.
    target.sendall(b"thanks")
    target.shutdown(socket.SHUT_WR)
    assert recv_all(source) == (b"thanks", 0)
    assert tunnel.end().reason == DONE


def quiet_since(rig: Rig) -> None:
    """Waits until the relay has had some turns and nothing more that it could move."""
    last, same = -1, 0

    def still() -> bool:
        nonlocal last, same
        stats = rig.stats()
        moved = stats.copied + stats.spliced
        same = same + 1 if moved == last else 0
        last = moved
        return same == 5

    until(still, "the relay is quiet")


def test_data_and_both_ends_in_one_event(rig: Rig) -> None:
    """The other side's last data, FIN and so HUP at once, on a half-closed tunnel."""
    for size in (1, 1 << 18):
        tunnel = rig.tunnel()
        tunnel.client.shutdown(socket.SHUT_WR)
        assert tunnel.origin.recv(1) == b""
        data = payload(size)
        with rig.paused():
            tunnel.origin.setblocking(False)
            sent = tunnel.origin.send(data)
            tunnel.origin.close()
        assert recv_all(tunnel.client) == (data[:sent], 0)
        assert tunnel.end().reason == DONE


def test_half_close_from_either_side_lets_the_answer_through(rig: Rig) -> None:
    for first, second in (("client", "origin"), ("origin", "client")):
        tunnel = rig.tunnel()
        asking, answering = getattr(tunnel, first), getattr(tunnel, second)
        sender = send_all(asking, payload(3 << 20), fin=True)
        assert recv_all(answering) == (payload(3 << 20), 0)
        sender.result()
        sender = send_all(answering, payload(2 << 20, 7), fin=True)
        assert recv_all(asking) == (payload(2 << 20, 7), 0)
        sender.result()
        assert tunnel.end().reason == DONE


@pytest.mark.parametrize("pipes", [0, 1, 2])
@one_loop
def test_few_pipes(new_rig: Callable[..., Rig], pipes: int) -> None:
    rig = new_rig(max_pipes=pipes)
    tunnels = [rig.tunnel() for _ in range(4)]
    data = payload(8 << 20)
    senders = [send_all(tunnel.client, data, fin=True) for tunnel in tunnels]
    # All are blocked now, so they hold what pipes there are.
    quiet_since(rig)
    assert rig.stats().pipes_lent <= pipes
    for tunnel in tunnels:
        assert recv_all(tunnel.origin) == (data, 0)
        tunnel.origin.close()
        assert tunnel.end().reason == DONE
    for sender in senders:
        sender.result()
    stats = rig.stats()
    assert stats.pipes_lent == 0
    assert stats.copied + stats.spliced == 4 * len(data)
    if pipes == 0:
        assert stats.spliced == 0
    elif rig.relay.engine != "copy":
        assert stats.spliced > 0
        assert stats.pipe_starved > 0
