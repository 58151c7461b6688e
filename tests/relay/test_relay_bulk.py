"""Bulk and small messages at once in the native engine: who is served first, and that no flow
is forgotten. One look at epoll, and one share of what is put off, for each step."""

from __future__ import annotations

import resource
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest
from relay_rig import fill, native_relay, open_fds, payload, tcp_pair, unix_pair
from sanitizer import release_only

from spliceproxy.relay import interface
from spliceproxy.relay.interface import DONE, TURN_BYTES, Relay, RelayOptions, TunnelEnd
from spliceproxy.relay.quota import LARGEST

SHARE = 1 << 20  # of what is put off (native/step.pxd)
ROOM = 256  # events that can be put off (BULK_ROOM in native/core/types.pxd)


@pytest.fixture
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for it before ``relay``: what waits for its turn does not rest, however long a busy
    machine takes for the others'."""
    monkeypatch.setattr(interface, "REST", 3600.0)


@pytest.fixture
def relay(monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """Transfers splice from their first byte, tunnels never."""
    make = native_relay()
    monkeypatch.setattr(interface, "STEP_SECONDS", 0.0)
    monkeypatch.setattr(interface, "PROMOTE_AFTER", 1000)
    before = open_fds()
    made = make(RelayOptions())
    yield made
    made.close()
    assert open_fds() <= before


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < 2000:
        pytest.skip("needs 2,000 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Flows:
    """Spliced transfers on sockets of their own, each with all the data that fits. With ``pair``
    unix_pair what is sent is there when the call returns: over TCP the kernel delivers it when it
    gets to that, and on a busy machine some flows are then not ready."""

    def __init__(
        self,
        relay: Relay,
        stack: ExitStack,
        count: int,
        size: int,
        pair: Callable[[], tuple[socket.socket, socket.socket]] = tcp_pair,
    ) -> None:
        self.relay = relay
        self.senders: list[socket.socket] = []
        self.sinks: list[socket.socket] = []
        self.idents: list[int] = []
        for _ in range(count):
            sender, source = pair()
            sink, target = pair()
            for sock in (sender, source, sink, target):
                stack.callback(sock.close)
            fill(sender, payload(size))
            self.senders.append(sender)
            self.sinks.append(sink)
            self.idents.append(relay.transfer(source.fileno(), target.fileno(), 1 << 30, None))

    @property
    def served(self) -> int:
        """How many have moved something."""
        poll = select.poll()
        for sink in self.sinks:
            poll.register(sink, select.POLLIN)
        return len(poll.poll(0))


def small_tunnel(relay: Relay, stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    client, inner = unix_pair()
    origin, outer = unix_pair()
    for sock in (client, origin):
        stack.callback(sock.close)
    relay.tunnel(inner.detach(), outer.detach(), b"", b"", lambda end: None)
    return client, origin


def test_a_small_message_waits_for_one_share_at_most(no_rest: None, relay: Relay) -> None:
    """Though more flows have been ready for longer than one batch of events holds."""
    with ExitStack() as stack:
        flows = Flows(relay, stack, 40, 2 << 20)
        client, origin = small_tunnel(relay, stack)
        relay.step()
        assert flows.served > 0
        client.sendall(b"?")
        before = relay.stats().spliced
        relay.step()
        assert origin.recv(10) == b"?"
        assert relay.stats().spliced - before <= TURN_BYTES + LARGEST


@release_only("a turn takes longer than a step")
def test_flows_take_turns(no_rest: None, relay: Relay) -> None:
    """Though each has always more, and its target takes all of it."""
    block = payload(1 << 20)
    with ExitStack() as stack:
        flows = Flows(relay, stack, 40, 128 << 10, unix_pair)
        turns = [0] * 40
        for sock in (*flows.sinks, *flows.senders):
            sock.setblocking(False)
        for _ in range(3 * 40):
            relay.step()
            for n, (sender, sink) in enumerate(zip(flows.senders, flows.sinks, strict=True)):
                with suppress(BlockingIOError):
                    sink.recv(1)
                    turns[n] += 1
                    while True:
                        sink.recv(1 << 20)
                with suppress(BlockingIOError):
                    while True:
                        sender.send(block)
        assert min(turns) > 0
        assert max(turns) - min(turns) <= 1


def test_more_flows_than_can_be_put_off(
    no_rest: None, relay: Relay, many_descriptors: None
) -> None:
    with ExitStack() as stack:
        flows = Flows(relay, stack, ROOM + 50, 32 << 10)
        for _ in range(ROOM + 50):
            relay.step()
        assert flows.served == ROOM + 50
        stats = relay.stats()
        assert stats.spliced == (ROOM + 50) * (32 << 10)


def test_what_was_put_off_may_end_before_its_turn(relay: Relay) -> None:
    """Other flows in the same slots are not touched by it."""
    with ExitStack() as stack:
        flows = Flows(relay, stack, 20, 2 << 20)
        relay.step()
        for ident in flows.idents:
            assert relay.cancel(ident) is not None
        before = relay.stats()
        tunnels = [small_tunnel(relay, stack) for _ in range(20)]
        for _ in range(5):
            relay.step()
        assert relay.stats().events == before.events
        for client, origin in tunnels:
            client.sendall(b"?")
            relay.step()
            assert origin.recv(10) == b"?"
        assert relay.stats().tunnels == 20


def test_copies_do_not_stop_what_is_put_off(relay: Relay) -> None:
    """However much there is to copy, step after step."""
    with ExitStack() as stack:
        copies = []
        for _ in range(40):
            client, inner = tcp_pair()
            outer, origin = tcp_pair()
            relay.tunnel(inner.detach(), outer.detach(), b"", b"", lambda end: None)
            for sock in (client, origin):
                stack.callback(sock.close)
                sock.setblocking(False)
            copies.append((client, origin))
        block = payload(256 << 10)
        flows = Flows(relay, stack, 4, 2 << 20)
        for _ in range(5):
            for client, origin in copies:
                with suppress(BlockingIOError):
                    origin.recv(1 << 20)
                with suppress(BlockingIOError):
                    client.sendall(block)
            before = relay.stats()
            relay.step()
            assert relay.stats().copied - before.copied > SHARE
        assert flows.served > 0


def test_after_a_rest_a_flow_is_not_put_off(relay: Relay) -> None:
    """A transfer whose source has had nothing for a while is one of those with little to say."""
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        with ExitStack() as stack:
            sender, source = unix_pair()
            sink, target = unix_pair()
            for sock in (sender, source, sink, target):
                stack.callback(sock.close)
            ident = relay.transfer(source.fileno(), target.fileno(), 1 << 30, None)
            sender.sendall(payload(32 << 10))
            relay.step()
            assert len(sink.recv(1 << 20)) == 32 << 10
            time.sleep(1.2 * interface.REST)  # the relay's clock is the kernel's
            began = time.monotonic()
            flows = Flows(relay, stack, 40, 128 << 10, unix_pair)
            relay.step()
            sender.sendall(b"?")
            relay.step()
            assert sink.recv(10) == b"?"
            served = flows.served
            for one in (ident, *flows.idents):
                assert relay.cancel(one) is not None
            if time.monotonic() - began < interface.REST:  # else they have rested, too
                assert served < 40
                return
    pytest.fail("the machine was held up each time")


def test_an_idle_relay_is_not_readable(relay: Relay) -> None:
    """What is left over is served without anybody asking; then there is silence."""
    with ExitStack() as stack:
        flows = Flows(relay, stack, 10, 32 << 10)
        steps = 0
        while select.select([relay.fileno()], [], [], 0.05)[0]:
            steps += 1
            assert steps < 100
            relay.step()
        assert flows.served == 10


def test_a_step_that_has_nothing_to_report(relay: Relay) -> None:
    reports: list[list[tuple[object, object]]] = []
    reader = relay.reader(reports.append, pytest.fail)
    with ExitStack() as stack:
        client, origin = small_tunnel(relay, stack)
        assert relay.next_wake() is not None
        for _ in range(3):
            client.sendall(b"?")
            reader()
            assert origin.recv(10) == b"?"
        assert reports == []
        client.shutdown(socket.SHUT_WR)  # its time limit is sooner than that of idle tunnels
        reader()
        assert origin.recv(10) == b""
        assert reports == [[]]
        assert relay.next_wake() is not None
        origin.close()
        reader()
        ((_, end),) = reports[1]
        assert isinstance(end, TunnelEnd)
        assert end.reason == DONE
