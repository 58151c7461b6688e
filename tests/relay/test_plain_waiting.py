"""Clients of the lane that wait for a connection to an origin of which many are in use
(native/lane/waiting.pxd)."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from plain_oracle import HOST, OK, OK_GOT, PATIENCE, Plain
from relay_rig import native_relay, open_fds, tcp_pair

from spliceproxy.relay import lane as words

ASK = b"GET http://o/ HTTP/1.1\r\nHost: o\r\n\r\n"
POST = b"POST http://o/ HTTP/1.1\r\nHost: o\r\nContent-Length: 0\r\n\r\n"
BUSY = 4
NEVER = 3600.0
SECONDS = 2.0
"""With one answer a second for each connection: after this long one is late."""
REFUSING = "127.0.0.9"
"""Nobody listens there."""


def readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


class Crowd:
    """Clients that ask for the origin o, which has BUSY connections before others wait. A
    connection counts no more when it has been in use for ``late`` seconds."""

    def __init__(self, stack: contextlib.ExitStack, late: float) -> None:
        self._stack = stack
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(words, "BUSY", BUSY)
            patch.setattr(words, "LATE", late)
            self.plain = Plain(asks="GM")
        self.plain._listener.settimeout(PATIENCE)

    def ask(self, data: bytes = ASK, address: str = HOST, spent: float = 0.0) -> socket.socket:
        """A client whose request may go to this address. ``spent``: seconds for its name."""
        outer, inner = map(self._stack.enter_context, socket.socketpair())
        outer.settimeout(PATIENCE)
        inner.setblocking(False)
        self.plain.lane._native.hand_over(inner.detach(), "", data, 0)
        self.allow(address, spent)
        return outer

    def allow(self, address: str = HOST, spent: float = 0.0) -> None:
        """The owner says where a request may go."""
        self.plain.step()
        (question,) = self.plain.questions
        self.plain.questions.clear()
        port = self.plain.lane.dialled[1]
        how = b"o", b"o", (address,), port, 0.0, "", None, "", spent
        assert self.plain.lane.answer(question, None, *how)

    def until(self, true: Callable[[], bool]) -> None:
        limit = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < limit
            select.select([self.plain.relay.fileno()], [], [], self.plain.relay.next_wake())
            self.plain.step()

    def fill(self, count: int = BUSY) -> list[socket.socket]:
        """Takes so many connections into use; the ends of the origin."""
        made = []
        for _ in range(count):
            self.ask()
            made.append(self.accept())
        return made

    def accept(self) -> socket.socket:
        """The origin's end of what was dialled and has a request."""
        return self._stack.enter_context(self.plain.accept())

    def put(self) -> socket.socket:
        """The owner has done with a connection; its other end."""
        outer, inner = map(self._stack.enter_context, tcp_pair())
        outer.settimeout(PATIENCE)
        self.plain.lane._native.put(b"o", inner.detach(), HOST)
        return outer

    def answer(self, origin: socket.socket, client: socket.socket, begin: bytes) -> None:
        self.until(lambda: readable(origin))
        assert origin.recv(1000).startswith(begin)
        origin.sendall(OK)
        self.until(lambda: readable(client))
        assert client.recv(1000) == OK_GOT

    @property
    def waiting(self) -> list[str]:
        """What the dump says of clients that wait."""
        return re.findall(r".* phase=queue .*", self.plain.relay.dump(100))


@contextlib.contextmanager
def busy(late: float) -> Iterator[Crowd]:
    native_relay()
    before = open_fds()
    with contextlib.ExitStack() as stack:
        made = Crowd(stack, late)
        yield made
        made.plain.close()
    assert open_fds() <= before


def test_who_waits_gets_what_an_exchange_leaves() -> None:
    with busy(NEVER) as crowd:
        first = crowd.fill()[0]
        client = crowd.ask()
        assert len(crowd.waiting) == 1
        assert first.recv(1000).startswith(b"GET / ")
        first.sendall(OK)
        crowd.answer(first, client, b"GET / ")
        assert not crowd.waiting


def test_who_waits_gets_what_the_owner_has_done_with() -> None:
    with busy(NEVER) as crowd:
        crowd.fill()
        client = crowd.ask()
        assert len(crowd.waiting) == 1
        origin = crowd.put()
        assert not crowd.waiting
        crowd.answer(origin, client, b"GET / ")


def test_who_may_not_use_what_is_idle_has_a_new_one_in_its_place() -> None:
    """Though none that is in use will ever be free."""
    with busy(NEVER) as crowd:
        crowd.fill()
        idle = crowd.put()
        client = crowd.ask(POST)
        assert len(crowd.waiting) == 1
        crowd.until(lambda: not crowd.waiting)
        assert idle.recv(1000) == b""
        crowd.answer(crowd.accept(), client, b"POST / ")


def test_connections_that_are_late_do_not_count() -> None:
    with busy(0.0) as crowd:
        crowd.fill()
        client = crowd.ask()
        assert not crowd.waiting
        crowd.answer(crowd.accept(), client, b"GET / ")


def test_an_origin_that_has_much_to_do_gets_few_connections() -> None:
    """How long one may be in use follows from the rate of answers."""
    limit = time.monotonic() + 3 * PATIENCE
    while time.monotonic() < limit:  # until a machine was not held up for so long
        with busy(0.0) as crowd:
            began = time.monotonic()
            client = crowd.ask()
            origin = crowd.accept()
            for left in reversed(range(BUSY)):
                crowd.answer(origin, client, b"GET / ")
                if left:
                    client.sendall(ASK)
                    crowd.allow()
            crowd.ask()  # on the same connection
            crowd.fill(BUSY - 1)
            crowd.ask()
            waiting = len(crowd.waiting)
            if time.monotonic() - began < 0.8:  # all answers are of one second
                assert waiting == 1
                crowd.until(lambda: not crowd.waiting)  # then they are late
                assert time.monotonic() - began > 0.9 * SECONDS
                return
    pytest.fail("the machine was held up each time")


def test_the_time_of_waiting_is_no_time_of_dialling() -> None:
    """That for the name is."""
    with busy(NEVER) as crowd:
        first = crowd.fill()[0]
        crowd.ask(address=REFUSING, spent=3.0)
        waited = time.monotonic()
        (line,) = crowd.waiting
        assert " dialling=" not in line
        first.sendall(OK)
        crowd.until(lambda: bool(crowd.plain.handoffs))
        (handoff,) = crowd.plain.handoffs
        crowd.plain.handoffs.clear()
        socket.socket(fileno=handoff.take_client()).close()
        assert [address for address, _ in handoff.tried] == [REFUSING]
        assert waited <= handoff.dialling + 3.0 <= time.monotonic()
