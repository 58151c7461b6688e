"""One worker gives flows to another: who may move their bytes, whatever fails in between."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest

from spliceproxy.processes import giving, parcels
from spliceproxy.processes.giving import Giver
from spliceproxy.processes.parcels import Line
from spliceproxy.processes.taking import Taker
from spliceproxy.relay.handoff import Handoff, between
from spliceproxy.relay.moving import Unmovable

STATE = b'{"a": "\\n"}\n\0\xff'


class Frozen(NamedTuple):
    fds: tuple[int, ...]
    state: bytes


class Relay:
    """Says what was done to its tunnels, each of which is a pair of sockets."""

    def __init__(self, states: Sequence[bytes] = ()) -> None:
        self.tunnels = dict(enumerate(states, 1))
        self.done: list[tuple[str, int]] = []
        self.pairs = {ident: socket.socketpair() for ident in self.tunnels}
        self.taken: dict[int, tuple[bytes, list[int]]] = {}
        self.refuses = False
        self.has_no_memory = False
        self.broken = 0

    def movable(self) -> list[int]:
        last = {ident: what for what, ident in self.done}
        return [ident for ident in self.tunnels if last.get(ident, "thaw") == "thaw"]

    def freeze(self, ident: int) -> Frozen | None:
        if ident == self.broken:
            raise RuntimeError("a fault of the relay's")
        self.done.append(("freeze", ident))
        one, other = self.pairs[ident]
        return Frozen((one.fileno(), other.fileno()), self.tunnels[ident])

    def thaw(self, ident: int) -> None:
        self.done.append(("thaw", ident))

    def release(self, ident: int) -> None:
        self.done.append(("release", ident))

    def adopt(self, state: bytes, fds: Sequence[int]) -> int:
        if self.refuses:
            raise Unmovable("of another version")
        if self.has_no_memory:
            raise MemoryError
        ident = 100 + len(self.taken)
        self.taken[ident] = state, list(fds)
        return ident

    def close(self) -> None:
        for pair in self.pairs.values():
            for sock in pair:
                sock.close()
        for _, fds in self.taken.values():
            for fd in fds:
                os.close(fd)


class Front:
    """Says what became of clients."""

    connections = 0

    def __init__(self, clients: Sequence[Handoff] = ()) -> None:
        self.offered = list(clients)
        self.kept: list[Handoff] = []
        self.taken: list[Handoff] = []
        self.stays = False
        self._giver: Giver | None = None

    def move_to(self, giver: Giver) -> None:
        self._giver = giver

    def offer(self) -> None:
        assert self._giver is not None
        while self.offered:
            self._giver.client(self.offered.pop())

    def keep(self, handoff: Handoff) -> None:
        self.kept.append(handoff)

    def take(self, handoff: Handoff) -> None:
        self.taken.append(handoff)

    def stay(self) -> None:
        self.stays = True

    def close(self) -> None:
        for handoff in (*self.kept, *self.taken):
            handoff.close()


class Both:
    """A giver and a taker on this event loop. The taker does not read before :meth:`take`."""

    def __init__(self, given: Relay, clients: Sequence[Handoff] = ()) -> None:
        loop = asyncio.get_running_loop()
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.given, self.taking = given, Relay()
        self.front, self.other_front = Front(clients), Front()
        self.reports: list[Any] = []
        self.ends: list[Taker] = []
        self.giver = Giver(loop, Line(one), self.front, given, self.reports.append)
        self.end = other
        self.taker = Taker(loop, Line(other), self.other_front, self.taking, self.ends.append)

    def take(self) -> None:
        self.taker.start()

    async def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + 10
        for _ in iter(lambda: bool(condition()), True):
            assert time.monotonic() < end
            await asyncio.sleep(0)

    def close(self) -> None:
        self.giver.end("the test is over")
        self.taker.end()
        for one in (self.given, self.taking, self.front, self.other_front):
            one.close()


Rig = Callable[..., Both]


def play(scene: Callable[[Rig], Awaitable[None]]) -> None:
    """Runs it, and looks that no descriptor is left."""
    before = len(os.listdir("/proc/self/fd"))

    async def run() -> None:
        rigs: list[Both] = []

        def new(given: Relay, clients: Sequence[Handoff] = ()) -> Both:
            rigs.append(Both(given, clients))
            return rigs[-1]

        try:
            await scene(new)
        finally:
            for rig in rigs:
                rig.close()

    asyncio.run(run())
    assert len(os.listdir("/proc/self/fd")) == before


def client(buffer: bytes = b"") -> tuple[Handoff, socket.socket]:
    """A client between two requests, and its own end."""
    one, other = socket.socketpair()
    return between(one.detach(), "192.0.2.1", 3, buffer), other


@pytest.mark.parametrize("state", [STATE, b"x" * (parcels.MOST + 1)], ids=["small", "large"])
def test_a_tunnel_goes_with_its_state_and_descriptors(state: bytes) -> None:
    async def scene(new: Rig) -> None:
        both = new(Relay([state, state]))
        both.giver.start()
        both.take()
        await both.until(lambda: both.reports)
        assert both.reports == [{"gave": {"tunnels": 2, "clients": 0}, "left": 0}]
        await both.until(lambda: ("thaw", 101) in both.taking.done)
        assert sorted(both.given.done) == [
            ("freeze", 1), ("freeze", 2), ("release", 1), ("release", 2),
        ]  # fmt: skip
        assert both.taking.done == [("thaw", 100), ("thaw", 101)]
        for ident, (found, fds) in both.taking.taken.items():
            assert found == state
            inodes = [os.fstat(sock.fileno()).st_ino for sock in both.given.pairs[ident - 99]]
            assert [os.fstat(fd).st_ino for fd in fds] == inodes
            assert not any(os.get_inheritable(fd) for fd in fds)

    play(scene)


def test_a_client_goes_with_what_it_has_sent() -> None:
    async def scene(new: Rig) -> None:
        handoff, end = client(b"GET / HT")
        with end:
            both = new(Relay(), [handoff])
            both.giver.start()
            both.take()
            await both.until(lambda: both.other_front.taken)
            (taken,) = both.other_front.taken
            assert (taken.address, taken.requests, taken.buffer) == ("192.0.2.1", 3, b"GET / HT")
            assert taken.between
            end.sendall(b"TP/1.1")
            assert os.read(taken.client, 99) == b"TP/1.1"
            await asyncio.wait_for(both.giver.emptied(), 10)
            assert both.giver.given["clients"] == 1
            assert handoff.client == -1

    play(scene)


def test_no_byte_moves_before_the_giver_has_let_go() -> None:
    async def scene(new: Rig) -> None:
        both = new(Relay([STATE]))
        both.giver._flows.append(1)
        both.giver._fill()
        both.take()
        await both.until(lambda: both.taking.taken)
        assert both.taking.done == []
        assert both.given.done == [("freeze", 1)]

    play(scene)


def test_what_the_taker_refuses_stays() -> None:
    async def scene(new: Rig) -> None:
        both = new(Relay([STATE]))
        both.taking.refuses = True
        both.giver.start()
        both.take()
        await both.until(lambda: both.reports)
        assert both.reports == [{"gave": {"tunnels": 0, "clients": 0}, "left": 0}]
        assert both.given.done == [("freeze", 1), ("thaw", 1)]
        assert both.taking.done == []

    play(scene)


def test_a_taker_that_is_gone_has_taken_nothing() -> None:
    async def scene(new: Rig) -> None:
        handoff, end = client()
        with end:
            both = new(Relay([STATE]), [handoff])
            both.giver.start()
            both.end.close()
            both.taker.closed = True
            await both.until(lambda: both.reports)
            assert both.reports == [{"kept": "the other worker is gone"}]
            assert both.given.done == [("freeze", 1), ("thaw", 1)]
            assert both.front.kept == [handoff]
            assert both.front.stays

    play(scene)


def test_a_giver_that_dies_leaves_what_has_come_to_the_taker() -> None:
    async def scene(new: Rig) -> None:
        handoff, end = client()
        with end:
            both = new(Relay([STATE]), [handoff])
            both.giver.start()
            await both.until(lambda: len(both.giver._open) == 2)
            dies(both)
            both.front.kept.append(handoff)
            both.take()
            await both.until(lambda: both.ends)
            assert both.taking.done == [("thaw", 100)]
            assert len(both.other_front.taken) == 1

    play(scene)


def test_a_taker_that_is_late_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(giving, "CONFIRM_SECONDS", 0.05)

    async def scene(new: Rig) -> None:
        handoff, end = client()
        with end:
            both = new(Relay([STATE]), [handoff])
            both.giver.start()
            await both.until(lambda: both.reports)
            assert both.reports == [
                {"kept": "the other worker has not confirmed a flow within 0.05 s"}
            ]
            assert both.given.done == [("freeze", 1), ("thaw", 1)]
            assert both.front.kept == [handoff]
            both.take()
            await both.until(lambda: both.ends)
            assert both.taking.done == [("release", 100)]
            assert both.other_front.taken == []

    play(scene)


def dies(both: Both) -> None:
    """The giver does, as the kernel does it at the end of a process: without a word."""
    asyncio.get_running_loop().remove_reader(both.giver._line.fileno())
    both.giver._line.close()
    both.giver.closed = True


@pytest.mark.parametrize("then", ["ends", "dies"])
def test_a_giver_that_has_not_read_an_answer(then: str) -> None:
    """What it says, or has given, behind that counts as ever."""

    async def scene(new: Rig) -> None:
        handoff, end = client()
        with end:
            both = new(Relay([STATE, STATE]), [handoff])
            both.giver.start()
            await both.until(lambda: len(both.giver._open) == 3)
            came = both.taker._line.receive()
            assert came is not None
            parcels.close_all(came.fds)
            both.taker._line.send({"ok": [came.head["client"]]})
            if then == "ends":
                both.giver.end("it is to serve on")
            else:
                dies(both)
                both.front.kept.append(handoff)
            both.take()
            await both.until(lambda: both.ends)
            if then == "ends":
                assert both.taking.done == [("release", 100), ("release", 101)]
                assert both.given.done[-2:] == [("thaw", 1), ("thaw", 2)]
                assert both.front.kept == [handoff]
            else:
                assert both.taking.done == [("thaw", 100), ("thaw", 101)]

    play(scene)


def test_a_taker_that_dies_behind_its_answer_has_taken_nothing() -> None:
    async def scene(new: Rig) -> None:
        both = new(Relay([STATE]))
        both.giver.start()
        both.taker._read()
        both.taker.closed = True
        both.taker._line.close()
        await both.until(lambda: both.reports)
        assert both.reports == [{"kept": "the other worker is gone"}]
        assert both.given.done == [("freeze", 1), ("thaw", 1)]

    play(scene)


def test_what_is_no_message_is_not_the_end_of_the_giver() -> None:
    async def scene(new: Rig) -> None:
        both = new(Relay([STATE]))
        both.giver.start()
        both.giver._line._sock.send(b"nonsense")
        both.take()
        await both.until(lambda: ("release", 1) in both.given.done)
        await both.until(lambda: ("thaw", 100) in both.taking.done)
        assert both.ends == []

    play(scene)


def test_a_giver_that_stood_still_reads_before_it_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(new: Rig) -> None:
        both = new(Relay([STATE]))
        both.giver.start()
        both.taker._read()
        monkeypatch.setattr(giving, "CONFIRM_SECONDS", 1e-9)
        both.giver._fire()  # the time is over, and the answer is there
        assert both.given.done == [("freeze", 1), ("release", 1)]
        assert both.reports == [{"gave": {"tunnels": 1, "clients": 0}, "left": 0}]

    play(scene)


def test_a_fault_in_one_tunnel_is_no_others() -> None:
    async def scene(new: Rig) -> None:
        given = Relay([STATE] * 3)
        given.broken = 2
        both = new(given)
        both.giver.start()
        both.take()
        await both.until(lambda: both.reports)
        assert both.reports == [{"gave": {"tunnels": 2, "clients": 0}, "left": 0}]
        assert sorted(both.given.done) == [
            ("freeze", 1), ("freeze", 3), ("release", 1), ("release", 3),
        ]  # fmt: skip

    play(scene)


def test_what_the_taker_has_no_memory_for_is_offered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(giving, "LATER_SECONDS", 0.1)

    async def scene(new: Rig) -> None:
        both = new(Relay([STATE]))
        both.taking.has_no_memory = True
        both.giver.start()
        both.take()
        await both.until(lambda: both.reports)
        assert both.reports == [{"gave": {"tunnels": 0, "clients": 0}, "left": 0}]
        both.taking.has_no_memory = False
        await both.until(lambda: ("thaw", 100) in both.taking.done)
        assert both.given.done[-1] == ("release", 1)

    play(scene)


def test_the_taker_is_told_how_to_give_back() -> None:
    async def scene(new: Rig) -> None:
        both = new(Relay())
        both.giver.start()
        both.take()
        own, back = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with own:
            both.giver.end("it is to serve on", back)
            await both.until(lambda: both.ends)
            with socket.socket(fileno=both.taker.back) as found:
                found.send(b"here")
                assert own.recv(9) == b"here"
        assert both.reports[-1] == {"kept": "it is to serve on"}

    play(scene)


@pytest.fixture
def limit() -> Iterator[Callable[[int], None]]:
    """Sets how many descriptors there may be, for this test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def lower(most: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))

    yield lower
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_free_descriptors_a_tunnel_stays(limit: Callable[[int], None]) -> None:
    async def scene(new: Rig) -> None:
        both = new(Relay([STATE]))
        held = [os.dup(0) for _ in range(64)]  # no gap is left among the numbers
        try:
            both.giver.start()
            limit(max(held) + 1)
            both.take()
            await both.until(lambda: both.reports)
        finally:
            for fd in held:
                os.close(fd)
        assert both.reports == [{"gave": {"tunnels": 0, "clients": 0}, "left": 0}]
        assert both.given.done == [("freeze", 1), ("thaw", 1)]

    play(scene)


def test_many_tunnels_go_in_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(giving, "WINDOW", 4)

    async def scene(new: Rig) -> None:
        both = new(Relay([STATE] * 20))
        both.giver.start()
        await asyncio.sleep(0)
        assert len(both.giver._open) == 4
        both.take()
        await both.until(lambda: both.reports)
        assert both.reports[0]["gave"]["tunnels"] == 20
        await both.until(lambda: len(both.taking.done) == 20)

    play(scene)


def test_a_client_that_comes_later_is_given_too() -> None:
    async def scene(new: Rig) -> None:
        both = new(Relay())
        both.giver.start()
        both.take()
        await both.until(lambda: both.reports)
        handoff, end = client()
        with end:
            both.giver.client(handoff)
            await both.until(lambda: both.other_front.taken)

    play(scene)
