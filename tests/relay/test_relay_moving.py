"""A tunnel that moves from one relay to another: no byte is lost, comes twice or out of order, and
its ends, limits and counters are what they would have been.

The relays are of this process, and each has descriptors of its own (dup(2)), as after SCM_RIGHTS.
``tests/relay/test_moving_processes.py`` has two processes.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import gc
import os
import random
import select
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from relay_rig import (
    FLOOD,
    Ends,
    Rig,
    Task,
    fill,
    native_relay,
    open_fds,
    payload,
    promote,
    recv_all,
    recv_exactly,
    reset,
    send_all,
    unacknowledged,
    until,
)
from sanitizer import quick

from spliceproxy.relay import columns
from spliceproxy.relay.encoding import (
    TUNNEL,
    TUNNEL_DATA,
    Kind,
    decode,
    encode,
    of_tunnel,
    tunnel_of,
)
from spliceproxy.relay.interface import (
    CLIENT_RESET,
    DONE,
    HALF_CLOSE,
    IDLE,
    ORIGIN_RESET,
    Relay,
    RelayOptions,
    TunnelEnd,
)
from spliceproxy.relay.moving import DRAIN_MOST, FrozenTunnel, TunnelState, Unmovable, WayState
from spliceproxy.relay.portable.engine import CopyRelay, SpliceRelay

ENGINES: dict[str, Callable[[], Any]] = {
    "native": native_relay,
    "splice": lambda: SpliceRelay,
    "copy": lambda: CopyRelay,
}
WAYS = ["native-native", "native-copy", "copy-native", "native-splice", "splice-native"]
both_sides = pytest.mark.parametrize("side", ["client", "origin"])


class Two:
    """Two relays, each on a loop of its own: ``here`` has the tunnels, and they go ``there``."""

    def __init__(self, engines: tuple[str, str]) -> None:
        self.engines = engines
        self.rows = columns.private(), columns.private()
        self._rigs: list[Rig] = []
        self.here = self.rig(0)
        self.there = self.rig(1)

    def rig(self, which: int, **options: Any) -> Rig:
        make = ENGINES[self.engines[which]]()
        relay: Relay = make(RelayOptions(row=self.rows[which], **options))
        self._rigs.append(Rig(relay, asyncio.new_event_loop))
        return self._rigs[-1]

    def close(self) -> None:
        for rig in self._rigs:
            rig.close()
            rig.relay.close()


@pytest.fixture(params=quick(WAYS, "native-native"))
def two(request: pytest.FixtureRequest) -> Iterator[Two]:
    here, _, there = request.param.partition("-")
    gc.collect()
    before = open_fds()
    pair = Two((here, there))
    yield pair
    pair.close()
    assert open_fds() <= before


def freeze(rig: Rig, ident: int) -> tuple[TunnelState, list[int]] | None:
    """What another process would get: a state that has been bytes, and copies of descriptors."""
    frozen: FrozenTunnel | None = rig.call(rig.driver.freeze, ident)
    if frozen is None:
        return None
    fields, data = of_tunnel(frozen.state)
    found = decode(encode("tunnel", fields, {}, data), {"tunnel": Kind(TUNNEL, {}, TUNNEL_DATA)})
    state = tunnel_of(found.state, found.data)
    assert state == frozen.state
    return state, [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0) for fd in frozen.fds]


def adopt(rig: Rig, tunnel: Ends, frozen: tuple[TunnelState, list[int]]) -> Ends:
    future: Future[TunnelEnd] = Future()
    ident = rig.call(rig.driver.adopt, *frozen, future.set_result)
    return Ends(tunnel.client, tunnel.origin, ident, future)


def move(here: Rig, there: Rig, tunnel: Ends) -> Ends:
    """The whole way. A tunnel that has ended stays what it is."""
    frozen = freeze(here, tunnel.ident)
    if frozen is None:
        return tunnel
    moved = adopt(there, tunnel, frozen)
    here.call(here.driver.release, tunnel.ident)
    there.call(there.driver.thaw, moved.ident)
    assert not tunnel.future.done()
    return moved


def refuse(here: Rig, there: Rig, tunnel: Ends) -> None:
    """The other process has had all of it, and is gone."""
    frozen = freeze(here, tunnel.ident)
    if frozen is None:
        return
    moved = adopt(there, tunnel, frozen)
    there.call(there.driver.release, moved.ident)
    here.call(here.driver.thaw, tunnel.ident)


def swap(tunnel: Ends, side: str) -> tuple[socket.socket, socket.socket]:
    peers = (tunnel.client, tunnel.origin)
    return peers if side == "client" else peers[::-1]


# ---- bytes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_an_idle_tunnel(two: Two, kind: str) -> None:
    tunnel = two.here.tunnel(kind)
    tunnel.client.sendall(b"before")
    assert recv_exactly(tunnel.origin, 6) == b"before"
    moved = move(two.here, two.there, tunnel)
    moved.origin.sendall(b"after the move")
    assert recv_exactly(moved.client, 14) == b"after the move"
    moved.client.sendall(b"and")
    assert recv_exactly(moved.origin, 3) == b"and"
    moved.client.close()
    moved.origin.close()
    end = moved.end()
    assert (end.reason, end.up_copied, end.down_copied) == (DONE, 9, 14)
    assert two.here.call(lambda: two.here.relay.tunnels) == 0


def test_how_far_one_has_come_that_is_frozen(two: Two) -> None:
    """Who looks at it, or paces it, before it goes on finds it."""
    tunnel = two.here.tunnel()
    tunnel.client.sendall(b"before")
    assert recv_exactly(tunnel.origin, 6) == b"before"
    frozen = freeze(two.here, tunnel.ident)
    assert frozen is not None
    moved = adopt(two.there, tunnel, frozen)
    two.here.call(two.here.driver.release, tunnel.ident)
    relay = two.there.relay
    assert two.there.call(relay.progress, moved.ident) == (6, 0, 0, 0, "")
    assert two.there.call(relay.pace, moved.ident, 0, 0)
    two.there.call(two.there.driver.thaw, moved.ident)
    tunnel.client.close()
    tunnel.origin.close()
    assert moved.end().reason == DONE


def test_what_came_while_it_was_frozen(two: Two) -> None:
    tunnel = two.here.tunnel()
    frozen = freeze(two.here, tunnel.ident)
    assert frozen is not None
    tunnel.client.sendall(b"up")
    tunnel.origin.sendall(b"down")
    moved = adopt(two.there, tunnel, frozen)
    two.here.call(two.here.driver.release, tunnel.ident)
    two.there.stats()
    assert select.select([tunnel.client, tunnel.origin], [], [], 0)[0] == []
    two.there.call(two.there.driver.thaw, moved.ident)
    assert recv_exactly(tunnel.origin, 2) == b"up"
    assert recv_exactly(tunnel.client, 4) == b"down"


@pytest.mark.parametrize("kind", ["tcp", "unix", "narrow"])
def test_bulk_both_ways_while_it_moves(two: Two, kind: str) -> None:
    """To and fro, and now and then in vain."""
    tunnel = two.here.tunnel(kind)
    up, down = payload(24 << 20, 2), payload(24 << 20, 3)
    senders = send_all(tunnel.client, up, fin=True), send_all(tunnel.origin, down, fin=True)
    tasks = [_read(tunnel.origin), _read(tunnel.client)]
    here, there = two.here, two.there
    odds = random.Random(7)
    while not tunnel.future.done() and any(task.is_alive() for task in tasks):
        if odds.random() < 0.3:
            refuse(here, there, tunnel)
        else:
            tunnel = move(here, there, tunnel)
            here, there = there, here
        time.sleep(odds.random() * 0.01)
    for sender in senders:
        sender.result()
    assert [task.result() for task in tasks] == [(up, 0), (down, 0)]
    end = tunnel.end()
    assert end.reason == DONE
    assert (end.up_copied + end.up_spliced, end.down_copied + end.down_spliced) == (
        len(up),
        len(down),
    )


def _read(sock: socket.socket) -> Task:
    return Task(recv_all, sock)


def test_a_conversation_while_it_moves(two: Two) -> None:
    tunnel = two.here.tunnel()
    here, there = two.here, two.there
    for turn in range(60):
        word = b"message %d" % turn
        tunnel.client.sendall(word)
        if turn % 3 == 0:
            tunnel = move(here, there, tunnel)
            here, there = there, here
        assert recv_exactly(tunnel.origin, len(word)) == word
        tunnel.origin.sendall(word)
        if turn % 5 == 0:
            refuse(here, there, tunnel)
        assert recv_exactly(tunnel.client, len(word)) == word


@both_sides
@pytest.mark.parametrize("kind", ["tcp", "narrow"])
def test_a_slow_reader(two: Two, side: str, kind: str) -> None:
    """Bytes are held for it, in memory or in a pipe."""
    tunnel = two.here.tunnel(kind)
    source, target = swap(tunnel, side)
    data = payload(FLOOD * 4)
    sent = fill(source, data, two.here)
    assert sent < len(data)
    state, fds = freeze(two.here, tunnel.ident) or pytest.fail("it cannot move")
    way = state.up if side == "client" else state.down
    assert way.held or way.piped > DRAIN_MOST
    moved = adopt(two.there, tunnel, (state, fds))
    two.here.call(two.here.driver.release, tunnel.ident)
    two.there.call(two.there.driver.thaw, moved.ident)
    reader = _read(target)
    rest = send_all(source, data[sent:], fin=True)
    target_got, error = reader.result()
    rest.result()
    assert (target_got == data, error) == (True, 0)


@both_sides
def test_a_slow_reader_of_one_that_splices(two: Two, side: str) -> None:
    if two.engines[0] == "copy":
        pytest.skip("it does not splice")
    tunnel = two.here.tunnel("narrow")
    source, target = swap(tunnel, side)
    promote(two.here, source, target)
    data = payload(FLOOD)
    sent = fill(source, data, two.here)
    for _ in range(3):
        refuse(two.here, two.there, tunnel)
    state, fds = freeze(two.here, tunnel.ident) or pytest.fail("it cannot move")
    way = state.up if side == "client" else state.down
    assert way.splices
    assert (way.piped > DRAIN_MOST) == (len(fds) == 4)
    moved = adopt(two.there, tunnel, (state, fds))
    two.here.call(two.here.driver.release, tunnel.ident)
    two.there.call(two.there.driver.thaw, moved.ident)
    reader = _read(target)
    send_all(source, data[sent:], fin=True).result()
    assert reader.result() == (data, 0)
    assert two.here.stats().pipes_lent == 0


def test_a_pipe_where_there_is_no_room_for_it(two: Two) -> None:
    """Its bytes are taken out of it where it goes on, and not before."""
    if two.engines[0] == "copy":
        pytest.skip("it does not splice")
    poor = two.rig(1, max_pipes=0)
    tunnel = two.here.tunnel("narrow")
    promote(two.here, tunnel.client, tunnel.origin)
    data = payload(FLOOD)
    sent = fill(tunnel.client, data, two.here)
    refuse(two.here, poor, tunnel)
    moved = move(two.here, poor, tunnel)
    reader = _read(moved.origin)
    send_all(moved.client, data[sent:], fin=True).result()
    assert reader.result() == (data, 0)
    assert poor.stats().pipes_lent == 0


# ---- ends -----------------------------------------------------------------------------------


@both_sides
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_half_closed(two: Two, side: str, kind: str) -> None:
    tunnel = two.here.tunnel(kind)
    ended, other = swap(tunnel, side)
    ended.sendall(b"last")
    ended.shutdown(socket.SHUT_WR)
    assert recv_all(other) == (b"last", 0)
    refuse(two.here, two.there, tunnel)
    moved = move(two.here, two.there, tunnel)
    other.sendall(payload(200_000))
    assert recv_exactly(ended, 200_000) == payload(200_000)
    other.close()
    assert recv_all(ended) == (b"", 0)
    assert moved.end().reason == DONE


@both_sides
def test_a_fin_while_it_is_frozen(two: Two, side: str) -> None:
    tunnel = two.here.tunnel()
    ended, other = swap(tunnel, side)
    frozen = freeze(two.here, tunnel.ident)
    assert frozen is not None
    ended.sendall(b"last")
    ended.shutdown(socket.SHUT_WR)
    moved = adopt(two.there, tunnel, frozen)
    two.here.call(two.here.driver.release, tunnel.ident)
    two.there.call(two.there.driver.thaw, moved.ident)
    assert recv_all(other) == (b"last", 0)


@both_sides
def test_reset_while_it_is_frozen(two: Two, side: str) -> None:
    tunnel = two.here.tunnel()
    cutter, other = swap(tunnel, side)
    frozen = freeze(two.here, tunnel.ident)
    assert frozen is not None
    reset(cutter)
    moved = adopt(two.there, tunnel, frozen)
    two.here.call(two.here.driver.release, tunnel.ident)
    two.there.call(two.there.driver.thaw, moved.ident)
    assert recv_all(other) == (b"", errno.ECONNRESET)
    end = moved.end()
    assert end.reason == (CLIENT_RESET if side == "client" else ORIGIN_RESET)
    assert end.errno == errno.ECONNRESET


@both_sides
def test_a_reset_that_waits_for_a_slow_reader(two: Two, side: str) -> None:
    """All that was acknowledged arrives, and only then the reset."""
    tunnel = two.here.tunnel("narrow")
    cutter, other = swap(tunnel, side)
    data = payload(FLOOD)
    sent = fill(cutter, data, two.here)
    received = sent - unacknowledged(cutter)
    reset(cutter)
    refuse(two.here, two.there, tunnel)
    moved = move(two.here, two.there, tunnel)
    assert moved is not tunnel
    got, error = recv_all(other, 30_001)
    assert error == errno.ECONNRESET
    assert len(got) >= received
    assert got == data[: len(got)]
    assert moved.end().reason == (CLIENT_RESET if side == "client" else ORIGIN_RESET)


@both_sides
def test_a_reset_that_waits_for_acknowledgements(two: Two, side: str) -> None:
    """All is with the kernel, and the peer has yet to take it."""
    tunnel = two.here.tunnel("narrow")
    cutter, other = swap(tunnel, side)
    tail = payload(600_000)  # more than the peer takes, and less than both it and our kernel
    send_all(cutter, tail).result()
    until(lambda: unacknowledged(cutter) == 0, "acknowledged")
    reset(cutter)
    refuse(two.here, two.there, tunnel)
    moved = move(two.here, two.there, tunnel)
    got, error = recv_all(other, 10_001)
    assert (got == tail, error) == (True, errno.ECONNRESET)
    assert moved.end().reason == (CLIENT_RESET if side == "client" else ORIGIN_RESET)


@both_sides
def test_a_unix_peer_that_has_left(two: Two, side: str) -> None:
    tunnel = two.here.tunnel("unix")
    left, other = swap(tunnel, side)
    left.sendall(b"bye")
    left.close()
    moved = move(two.here, two.there, tunnel)
    assert recv_all(other) == (b"bye", 0)
    assert moved.end().reason == DONE


# ---- limits and what is known of it ----------------------------------------------------------


def test_what_has_passed_of_a_limit(two: Two) -> None:
    tunnel = two.here.tunnel()
    begun = time.monotonic()
    time.sleep(0.2)
    moved = move(two.here, two.there, tunnel)
    (view,) = two.there.call(lambda: [one for some in two.there.driver.flows(9) for one in some])
    assert view.ident == moved.ident
    assert view.rests >= 0.2 - 0.02
    assert view.rests <= time.monotonic() - begun + 0.02


@pytest.mark.parametrize("half", [False, True])
def test_a_limit_ends_it(two: Two, half: bool) -> None:
    quick_one = two.rig(1, idle=0.3, half_close=0.3)
    tunnel = two.here.tunnel()
    if half:
        tunnel.client.shutdown(socket.SHUT_WR)
        assert recv_all(tunnel.origin) == (b"", 0)
    moved = move(two.here, quick_one, tunnel)
    end = moved.end()
    assert end.reason == (HALF_CLOSE if half else IDLE)
    assert recv_all(moved.client) == (b"", errno.ECONNRESET)


def test_waits_go_along(two: Two) -> None:
    tunnel = two.here.tunnel()
    tunnel.client.sendall(b"?")
    assert recv_exactly(tunnel.origin, 1) == b"?"
    time.sleep(0.15)
    moved = move(two.here, two.there, tunnel)
    tunnel.origin.sendall(b"!")
    assert recv_exactly(tunnel.client, 1) == b"!"
    tunnel.client.close()
    tunnel.origin.close()
    assert moved.end().waits[1] >= 130  # for bytes of the origin


def test_what_is_counted(two: Two) -> None:
    tunnel = two.here.tunnel()
    tunnel.client.sendall(b"12345")
    assert recv_exactly(tunnel.origin, 5) == b"12345"
    moved = move(two.here, two.there, tunnel)
    before, after = two.rows
    assert (before[columns.TUNNELS], after[columns.TUNNELS]) == (0, 1)
    moved.client.sendall(b"678")
    assert recv_exactly(moved.origin, 3) == b"678"
    moved.client.close()
    moved.origin.close()
    end = moved.end()
    assert end.up_copied == 8
    two.there.stats()
    assert (before[columns.IN_COPIED], after[columns.IN_COPIED]) == (5, 3)
    begun, ended = columns.TUNNELS_BEGUN, columns.TUNNELS_ENDED
    assert (before[begun], before[ended]) == (1, 0)
    assert (after[begun], after[ended]) == (0, 1)
    assert after[columns.TUNNELS] == 0


# ---- what is frozen --------------------------------------------------------------------------


def test_nothing_ends_what_is_frozen(two: Two) -> None:
    tunnel = two.here.tunnel()
    frozen = freeze(two.here, tunnel.ident)
    assert frozen is not None
    driver = two.here.driver
    assert two.here.call(driver.freeze, tunnel.ident) is None
    assert two.here.call(driver.movable) == []
    assert not two.here.call(driver.kill, tunnel.ident)
    two.here.call(driver.abort_all)
    assert two.here.call(lambda: [one for some in driver.flows(9) for one in some]) == []
    assert two.here.call(lambda: driver.tunnels) == 1
    two.here.stats()
    two.here.call(driver.thaw, tunnel.ident)
    assert two.here.call(driver.movable) == [tunnel.ident]
    tunnel.client.sendall(b"still there")
    assert recv_exactly(tunnel.origin, 11) == b"still there"
    for fd in frozen[1]:
        os.close(fd)


def test_a_relay_that_is_closed_leaves_it_alone(two: Two) -> None:
    """The other process has it."""
    third = two.rig(0)
    tunnel = third.tunnel()
    frozen = freeze(third, tunnel.ident)
    assert frozen is not None
    third.call(third.driver.close)
    moved = adopt(two.there, tunnel, frozen)
    two.there.call(two.there.driver.thaw, moved.ident)
    third.peers.clear()
    moved.client.sendall(b"on")
    assert recv_exactly(moved.origin, 2) == b"on"
    moved.client.close()
    moved.origin.close()
    assert moved.end().reason == DONE


def test_drained_when_the_last_has_moved(two: Two) -> None:
    tunnel = two.here.tunnel()
    waiting = asyncio.run_coroutine_threadsafe(two.here.driver.drained(), two.here.loop)
    move(two.here, two.there, tunnel)
    waiting.result(20)


def test_no_such_tunnel(two: Two) -> None:
    driver = two.here.driver
    assert two.here.call(driver.freeze, 12345) is None
    two.here.call(driver.thaw, 12345)
    two.here.call(driver.release, 12345)
    tunnel = two.here.tunnel()
    two.here.call(driver.release, tunnel.ident)  # it is not frozen
    tunnel.client.sendall(b"x")
    assert recv_exactly(tunnel.origin, 1) == b"x"


# ---- what cannot be adopted ------------------------------------------------------------------

WAY = WayState(0, 0, b"", 0, False, False, False, False, 1, 1, 0, 0, 0)
STATE = TunnelState(WAY, WAY, -1, "", 0, 1, False, 0, 0)
OVER = WAY._replace(over=True)
NO_DESCRIPTOR = 999_999


@pytest.mark.parametrize(
    ("state", "fds", "why"),
    [
        (STATE, "s", "descriptors"),
        (STATE, "ssP", "descriptors"),
        (STATE._replace(up=WAY._replace(piped=9)), "ss", "descriptors"),
        (STATE, "sp", "no socket"),
        (STATE, "sb", "block"),
        (STATE, "sx", "descriptor"),
        (STATE._replace(up=WAY._replace(piped=9)), "ssP", "0 bytes are in a pipe"),
        (STATE._replace(up=WAY._replace(piped=9)), "ssss", "no pipe"),
        (STATE._replace(up=WAY._replace(piped=9, held=b"x")), "ssP", "both in memory"),
        (STATE._replace(up=OVER._replace(held=b"x")), "ss", "is over"),
        (STATE._replace(up=OVER, down=OVER), "ss", "both ways"),
        (STATE._replace(reason=CLIENT_RESET), "ss", "no side"),
        (STATE._replace(dead=0, reason=CLIENT_RESET), "ss", "not over"),
        (STATE._replace(dead=0, down=OVER), "ss", "reason is ''"),
    ],
)
def test_nonsense(two: Two, state: TunnelState, fds: str, why: str) -> None:
    """It is refused, and the descriptors are still the caller's."""
    made: list[int] = []
    others: list[socket.socket] = []
    for letter in fds:
        if letter in "sb":
            one, other = socket.socketpair()
            one.setblocking(letter == "b")
            made.append(one.detach())
            others.append(other)
        elif letter in "pP":
            made += os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            if letter == "p":
                os.close(made.pop())
        else:
            made.append(NO_DESCRIPTOR)
    with pytest.raises(Unmovable, match=why):
        two.there.call(two.there.driver.adopt, state, made, print)
    for fd in made:
        if fd != NO_DESCRIPTOR:
            os.close(fd)
    for other in others:
        other.close()
    assert two.there.call(lambda: two.there.driver.tunnels) == 0
    assert two.rows[1][columns.TUNNELS] == 0
