"""What stalled downloads leave in the buffers of the kernel, when there are many of them."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest
from relay_rig import PATIENCE, payload, tcp_pair

from spliceproxy.relay import interface
from spliceproxy.relay.interface import CROWD, NARROW_RECEIVE, NARROW_UNSENT, Relay
from spliceproxy.relay.portable import moves
from spliceproxy.relay.portable.crowd import (
    ANY_WINDOW,
    SO_BUF_LOCK,
    TCP_NOTSENT_LOWAT,
    TCP_WINDOW_CLAMP,
)

MIB = 1 << 20
BLOCK = payload(MIB)  # its bytes are compared, however often it goes round


def lies(sock: socket.socket, request: int) -> int:
    return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), request, b"\0" * 4))[0])


class Download:
    """An origin that sends BLOCK again and again, and a client; between them the relay has
    ``source`` and ``target``, of which copies are kept to look at."""

    def __init__(self, stack: ExitStack) -> None:
        self.origin, source = tcp_pair()
        self.client, target = tcp_pair()
        self.origin.setblocking(False)
        self.client.setblocking(False)
        self.source, self.target = source.dup(), target.dup()
        for sock in (self.origin, self.client, self.source, self.target):
            stack.callback(sock.close)
        self.inner = (target.detach(), source.detach())
        self.sent = self.got = 0

    def send(self) -> None:
        at = self.sent % MIB
        self.sent += self.origin.send(memoryview(BLOCK)[at : at + (MIB >> 2)])

    def receive(self) -> None:
        at = self.got % MIB
        part = self.client.recv(MIB - at)
        assert part == BLOCK[at : at + len(part)], "other bytes than were sent"
        self.got += len(part)

    @property
    def held(self) -> int:
        return lies(self.source, termios.FIONREAD) + lies(self.target, termios.TIOCOUTQ)


class Crowd:
    """Downloads through a relay whose loop is here."""

    def __init__(self, relay: Relay, stack: ExitStack) -> None:
        self.relay = relay
        self.stack = stack
        self.all: list[Download] = []

    def add(self) -> Download:
        one = Download(self.stack)
        self.all.append(one)
        self.relay.tunnel(*one.inner, b"", b"", None)
        return one

    def receive(self, done: Callable[[Download], bool]) -> None:
        """Origins send and clients receive, by turns, until each is done."""
        limit = time.monotonic() + 3 * PATIENCE
        while not all(map(done, self.all)):
            assert time.monotonic() < limit, "the downloads do not go on"
            for one in self.all:
                with suppress(BlockingIOError):
                    one.send()
                with suppress(BlockingIOError):
                    one.receive()
            assert self.relay.step() == []

    def stall(self, *those: Download) -> None:
        """Nobody receives, until the origins of those cannot send any more."""
        poll = select.poll()
        for one in those:
            poll.register(one.origin, select.POLLOUT)
        limit = time.monotonic() + PATIENCE
        quiet = 0
        while quiet < 10:
            assert time.monotonic() < limit, "an origin can go on sending"
            quiet = 0 if poll.poll(2) else quiet + 1
            for one in those:
                with suppress(BlockingIOError):
                    one.send()
            assert self.relay.step() == []

    def mean(self, *those: Download) -> float:
        """MiB that lie in the two sockets of each of those."""
        return sum(one.held for one in those) / len(those) / MIB


@pytest.fixture
def crowd(new_relay: Callable[..., Relay], monkeypatch: pytest.MonkeyPatch) -> Iterator[Crowd]:
    """Ways stay narrow, however long a busy machine takes."""
    monkeypatch.setattr(interface, "CROWD_LASTS", 3600.0)
    monkeypatch.setattr(moves, "CROWD_LASTS", 3600.0)
    with ExitStack() as stack:
        yield Crowd(new_relay(), stack)


def test_many_stalled_downloads_hold_little(crowd: Crowd) -> None:
    """One after the other stalls, as soon as it has begun."""
    for _ in range(2 * CROWD):
        crowd.stall(crowd.add())
    late = crowd.all[CROWD + 1 :]
    # What the kernel has promised while they copied is not taken back.
    assert crowd.mean(*late) < 2, "of those that stalled when many had"
    # They go on; and no byte is another one.
    sent = {one: one.sent for one in crowd.all}
    crowd.receive(lambda one: one.got >= sent[one])
    # Those from the beginning shrink, too, when all that they were promised has come.
    crowd.receive(lambda one: one.got >= sent[one] + 32 * MIB)
    crowd.stall(*crowd.all)
    # Without the bound it is 8, and with it about one; how much exactly the kernel says.
    assert crowd.mean(*crowd.all) < 2, "of all, when they stall again"


@pytest.mark.parametrize("engine", ["native", "splice"], indirect=True)
def test_a_buffer_shrinks_when_it_has_been_emptied_once(crowd: Crowd) -> None:
    """Also where the window has no bound, as a way leaves it that was narrow before."""
    one = crowd.add()

    def room() -> int:
        return one.source.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    crowd.receive(lambda one: room() > 4 * NARROW_RECEIVE)
    one.source.setsockopt(socket.IPPROTO_TCP, TCP_WINDOW_CLAMP, ANY_WINDOW)
    for _ in range(CROWD + 2):
        crowd.stall(crowd.add())
    crowd.all = [one]
    crowd.receive(lambda one: one.source.getsockopt(socket.SOL_SOCKET, SO_BUF_LOCK) != 0)
    began, promised = one.got, room()
    crowd.receive(lambda one: room() == 2 * NARROW_RECEIVE)
    # What lies in the sockets and in the pipe has been taken, or is yet to come.
    assert one.got - began <= promised + 10 * MIB


def test_sockets_of_a_transfer_go_back_as_they_came(crowd: Crowd) -> None:
    """Meanwhile it is narrow, which can be seen by its target."""
    for _ in range(CROWD + 2):
        crowd.stall(crowd.add())
    one = Download(crowd.stack)
    target, source = one.inner
    crowd.all = [one]
    ident = crowd.relay.transfer(source, target, 64 * MIB, None)
    crowd.receive(lambda one: one.got >= 8 * MIB)
    assert one.target.getsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT) == NARROW_UNSENT
    assert one.source.getsockopt(socket.SOL_SOCKET, SO_BUF_LOCK)
    assert crowd.relay.cancel(ident) is not None
    assert one.target.getsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT) == 0
    assert not one.source.getsockopt(socket.SOL_SOCKET, SO_BUF_LOCK)
    for fd in one.inner:
        os.close(fd)
