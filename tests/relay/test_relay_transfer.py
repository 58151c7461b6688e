"""Exactly so many bytes one way, on sockets that come back."""

from __future__ import annotations

import asyncio
import errno
import select
import socket
from collections.abc import Callable
from concurrent.futures import CancelledError

import pytest
from relay_rig import (
    FLOOD,
    PATIENCE,
    Rig,
    Task,
    fill,
    open_fds,
    payload,
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
    DONE,
    IDLE,
    SOURCE_EOF,
    SOURCE_ERROR,
    SPLICE_MIN,
    TARGET_ERROR,
    TARGET_IDLE,
    Relay,
    TransferEnd,
)

one_loop = pytest.mark.parametrize("loop_name", ["uvloop"], indirect=True)
NEXT = b"GET /next HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize("size", [1, 1000, SPLICE_MIN - 1, SPLICE_MIN, (5 << 20) + 3])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_not_a_byte_beyond_the_length(rig: Rig, size: int, kind: str) -> None:
    """The next request comes in the same segment, and stays in the socket."""
    sender, source = rig.pair(kind)
    receiver, target = rig.pair(kind)
    data = payload(size)
    sending = send_all(sender, data + NEXT)
    future = rig.transfer(source, target, size)
    assert recv_exactly(receiver, size) == data
    end = future.result(PATIENCE)
    assert (end.reason, end.errno, end.copied + end.spliced) == (DONE, 0, size)
    if rig.relay.engine != "copy" and size >= SPLICE_MIN:
        assert end.copied == 0
    sending.result()
    source.settimeout(PATIENCE)
    assert recv_exactly(source, len(NEXT)) == NEXT
    # The sockets are whole: no FIN was passed on.
    target.settimeout(PATIENCE)
    target.sendall(b"more")
    assert recv_exactly(receiver, 4) == b"more"
    assert rig.stats().transfers == 0


def test_many_transfers_one_after_the_other(rig: Rig) -> None:
    sender, source = rig.pair()
    receiver, target = rig.pair()
    sizes = [100, 70_000, 1, 0, 300_000, 65_536, 5]
    data = payload(sum(sizes))
    sending = send_all(sender, data)
    at = 0
    for size in sizes:
        future = rig.transfer(source, target, size)
        assert recv_exactly(receiver, size) == data[at : at + size]
        assert future.result(PATIENCE).reason == DONE
        at += size
    sending.result()


def test_until_fin(rig: Rig) -> None:
    sender, source = rig.pair()
    receiver, target = rig.pair()
    data = payload(2 << 20)
    sending = send_all(sender, data, fin=True)
    future = rig.transfer(source, target, -1)
    assert recv_exactly(receiver, len(data)) == data
    end = future.result(PATIENCE)
    assert (end.reason, end.copied + end.spliced) == (DONE, len(data))
    sending.result()
    target.settimeout(PATIENCE)
    target.sendall(b"0\r\n\r\n")
    assert recv_exactly(receiver, 5) == b"0\r\n\r\n"


@pytest.mark.parametrize("length", [1000, 1 << 20])
def test_early_fin(rig: Rig, length: int) -> None:
    sender, source = rig.pair()
    receiver, target = rig.pair()
    sender.sendall(b"half")
    sender.shutdown(socket.SHUT_WR)
    end = rig.transfer(source, target, length).result(PATIENCE)
    assert end.reason == SOURCE_EOF
    assert end.copied + end.spliced == 4
    assert recv_exactly(receiver, 4) == b"half"


@pytest.mark.parametrize("length", [-1, 1000, 1 << 20])
def test_source_fails(rig: Rig, length: int) -> None:
    sender, source = rig.pair()
    receiver, target = rig.pair()
    future = rig.transfer(source, target, length)
    sender.sendall(b"half")
    assert recv_exactly(receiver, 4) == b"half"
    reset(sender)
    end = future.result(PATIENCE)
    assert (end.reason, end.errno) == (SOURCE_ERROR, errno.ECONNRESET)
    assert end.copied + end.spliced == 4


@pytest.mark.parametrize("busy", [False, True], ids=["silent", "blocked"])
def test_target_fails(rig: Rig, busy: bool) -> None:
    """Also while the source is silent, which no write would notice."""
    sender, source = rig.pair("narrow")
    receiver, target = rig.pair("narrow")
    future = rig.transfer(source, target, 1 << 30)
    if busy:
        fill(sender, payload(FLOOD), rig)
    reset(receiver)
    end = future.result(PATIENCE)
    assert end.reason == TARGET_ERROR
    assert end.errno in (errno.ECONNRESET, errno.EPIPE)
    assert rig.stats().pipes_lent == 0


@one_loop
@pytest.mark.parametrize("busy", [False, True], ids=["silent", "blocked"])
def test_idle(new_rig: Callable[..., Rig], busy: bool) -> None:
    rig = new_rig(idle=1.0)
    sender, source = rig.pair("narrow")
    _, target = rig.pair("narrow")
    future = rig.transfer(source, target, 1 << 30)
    if busy:
        fill(sender, payload(FLOOD), rig)
    assert future.result(PATIENCE).reason == (TARGET_IDLE if busy else IDLE)
    assert source.fileno() >= 0
    assert target.fileno() >= 0
    assert rig.stats().pipes_lent == 0


def test_both_ways_at_once_on_the_same_sockets(rig: Rig) -> None:
    left, a = rig.pair()
    right, b = rig.pair()
    before = open_fds()
    for size in (10_000, 6 << 20):
        up, down = payload(size, 1), payload(size, 2)
        futures = [rig.transfer(a, b, size), rig.transfer(b, a, size)]
        senders = [send_all(left, up), send_all(right, down)]
        readers = [Task(recv_exactly, right, size), Task(recv_exactly, left, size)]
        assert readers[0].result() == up
        assert readers[1].result() == down
        for future in futures:
            assert future.result(PATIENCE).reason == DONE
        for sender in senders:
            sender.result()
    until(lambda: rig.stats().pipes_idle == 0, "no pipe is open at rest")
    assert open_fds() == before


@pytest.mark.parametrize("phase", ["waiting", "blocked", "other way too"])
def test_cancel(rig: Rig, phase: str) -> None:
    sender, source = rig.pair("narrow")
    receiver, target = rig.pair("narrow")
    before = open_fds()
    other = rig.transfer(target, source, 10) if phase == "other way too" else None
    future = rig.transfer(source, target, 1 << 30)
    until(lambda: rig.stats().transfers == (2 if other else 1), "started")
    if phase == "blocked":
        fill(sender, payload(FLOOD), rig)
    future.cancel()
    with pytest.raises(CancelledError):
        future.result(PATIENCE)
    until(lambda: rig.stats().transfers == (1 if other else 0), "cancelled")
    stats = rig.stats()
    assert stats.pipes_lent == 0
    if other:
        receiver.sendall(b"0123456789")
        assert recv_exactly(sender, 10) == b"0123456789"
        assert other.result(PATIENCE).reason == DONE
    until(lambda: rig.stats().pipes_idle == 0, "no pipe is open at rest")
    assert open_fds() == before


def test_cancelled_when_it_has_just_ended(new_relay: Callable[..., Relay]) -> None:
    """After cancel() there is no report, not even one that was due."""
    relay = new_relay()
    sender, source = tcp_pair()
    receiver, target = tcp_pair()
    with sender, source, receiver, target:
        for length in (0, 1000):
            ident = relay.transfer(source.fileno(), target.fileno(), length, "cancelled")
            relay.cancel(ident)
            relay.cancel(ident)
            assert relay.step() == []
        assert relay.stats().transfers == 0
        ident = relay.transfer(source.fileno(), target.fileno(), 4, "kept")
        sender.sendall(b"data")
        ((token, end),) = pump(relay, lambda: relay.stats().transfers == 0)
        assert (token, end) == ("kept", TransferEnd(DONE, 0, 4, 0))
        relay.cancel(ident)


def test_the_caller_may_use_the_other_direction(rig: Rig) -> None:
    sender, source = rig.pair()
    receiver, target = rig.pair()
    future = rig.transfer(source, target, 1 << 20)
    receiver.sendall(b"early answer")
    target.settimeout(PATIENCE)
    assert recv_exactly(target, 12) == b"early answer"
    target.setblocking(False)
    sending = send_all(sender, payload(1 << 20))
    assert recv_exactly(receiver, 1 << 20) == payload(1 << 20)
    assert future.result(PATIENCE).reason == DONE
    sending.result()


def test_what_is_no_socket_is_refused(new_relay: Callable[..., Relay]) -> None:
    """And then both descriptors are still the caller's, and nothing was sent."""
    relay = new_relay()
    outer, inner = tcp_pair()
    with outer, inner, open("/dev/null", "rb") as other:
        before = open_fds()
        for first, second in ((inner, other), (other, inner)):
            with pytest.raises(OSError, match=r"."):
                relay.transfer(first.fileno(), second.fileno(), 5, "t")
            with pytest.raises(OSError, match=r"."):
                relay.tunnel(first.fileno(), second.fileno(), b"early", b"early", "t")
        relay.step()
        assert open_fds() == before
        assert relay.stats().tunnels == relay.stats().transfers == 0
        inner.shutdown(socket.SHUT_WR)
        assert recv_all(outer) == (b"", 0)


@one_loop
def test_a_cancelled_task_gives_the_sockets_back_at_once(rig: Rig) -> None:
    sender, source = rig.pair()
    receiver, target = rig.pair()

    async def work() -> TransferEnd:
        stuck = asyncio.ensure_future(rig.driver.transfer(source.fileno(), target.fileno(), 50))
        await asyncio.sleep(0)
        stuck.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stuck
        sender.sendall(b"again")
        return await rig.driver.transfer(source.fileno(), target.fileno(), 5)

    future = asyncio.run_coroutine_threadsafe(work(), rig.loop)
    assert recv_exactly(receiver, 5) == b"again"
    assert future.result(PATIENCE).reason == DONE


def test_a_cancelled_transfer_says_how_far_it_came(new_relay: Callable[..., Relay]) -> None:
    relay = new_relay()
    sender, source = tcp_pair()
    receiver, target = tcp_pair()
    with sender, source, receiver, target:
        ident = relay.transfer(source.fileno(), target.fileno(), 1000, None)
        sender.sendall(b"x" * 300)
        while relay.stats().copied + relay.stats().spliced < 300:
            select.select([relay.fileno()], [], [], PATIENCE)
            relay.step()
        end = relay.cancel(ident)
        assert end is not None
        assert (end.reason, end.copied + end.spliced) == (ABORTED, 300)
        assert relay.cancel(ident) is None
        assert relay.step() == []
