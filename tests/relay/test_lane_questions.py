"""What the lane asks its owner, and what it does with the answers: native engine alone."""

from __future__ import annotations

import contextlib
import select
import socket
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from plain_oracle import OK, OK_GOT, OK_LAST, PATIENCE, Plain, received
from relay_rig import native_relay, open_fds

from spliceproxy.forward import lane_options
from spliceproxy.relay.handoff import LINGER, REQUEST
from spliceproxy.relay.questions import Question

ASK = b"GET http://o/ HTTP/1.1\r\nHost: o\r\n\r\n"
SENT = b"GET / HTTP/1.1\r\nHost: o\r\nVia: 1.1 sp\r\n\r\n"
FAR = "127.0.0.1"
"""The address of every origin here."""


class Rig(Plain):
    """A lane that asks, with clients and idle connections to origins."""

    def __init__(self, stack: contextlib.ExitStack, asks: str = "CGgHh") -> None:
        super().__init__(asks=asks)
        self._stack = stack
        self.port = self._listener.getsockname()[1]

    def pair(self) -> tuple[socket.socket, socket.socket]:
        outer, inner = socket.socketpair()
        outer.setblocking(False)
        inner.setblocking(False)
        self._stack.callback(outer.close)
        return outer, inner

    def client(self, data: bytes = b"", address: str = "") -> socket.socket:
        outer, inner = self.pair()
        self.lane._native.hand_over(inner.detach(), address, data, 0)
        self.step()
        return outer

    def idle(self, key: bytes = b"o") -> socket.socket:
        """The other end of an idle connection to an origin."""
        outer, inner = self.pair()
        self.lane._native.put(key, inner.detach(), FAR)
        return outer

    def send(self, peer: socket.socket, data: bytes) -> None:
        peer.sendall(data)
        self.step()

    def question(self) -> Question:
        """The one that has been asked since the last call."""
        (one,) = self.questions
        self.questions.clear()
        return one

    def go(self, one: Question, seconds: float = 0.0, **more: Any) -> bool:
        """Answers it."""
        how: dict[str, Any] = {"group": "all", "key": b"o", "host": b"o", "token": None, **more}
        done = self.lane.answer(
            one, how["group"], how["key"], how["host"], (FAR,), self.port, seconds, "", how["token"]
        )
        self.step()
        return done

    def origin(self) -> socket.socket:
        """The other end of what the relay dials."""
        peer, _ = self._listener.accept()
        peer.settimeout(PATIENCE)
        return peer

    def until(self, done: Callable[[], object]) -> None:
        """Serves until this is true."""
        limit = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < limit
            select.select([self.relay.fileno()], [], [], 0.1)
            self.step()

    def close_handoffs(self) -> None:
        for handoff in self.handoffs:
            handoff.close()
        self.handoffs.clear()


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as made:
        yield made


@pytest.fixture
def rig(stack: contextlib.ExitStack) -> Iterator[Rig]:
    native_relay()
    before = open_fds()
    with contextlib.ExitStack() as inner:
        made = Rig(inner)
        try:
            yield made
        finally:
            made.close()
            made.close_handoffs()
    assert open_fds() <= before


@pytest.mark.parametrize(
    ("head", "kind", "method", "scheme", "authority", "path"),
    [
        (ASK, "G", "GET", "http", b"o", "/"),
        (
            b"HEAD http://O:80/a?b HTTP/1.1\r\nHost: O:80\r\n\r\n",
            "H",
            "HEAD",
            "http",
            b"O:80",
            "/a?b",
        ),
        (b"GET /c HTTP/1.1\r\nHost: o:1\r\n\r\n", "g", "GET", "http", b"o:1", "/c"),
        (b"CONNECT o:443 HTTP/1.1\r\nHost: o:443\r\n\r\n", "C", "CONNECT", "", b"o:443", ""),
    ],
)
def test_a_question_says_what_the_head_says(
    rig: Rig, head: bytes, kind: str, method: str, scheme: str, authority: bytes, path: str
) -> None:
    client = rig.client(head[:-2] + b"X-A:  b \r\nx-a: c\r\n\r\nmore", "192.0.2.7")
    one = rig.question()
    client.close()
    rig.step()
    assert not one.waits
    assert (one.kind, one.method, one.scheme, one.authority, one.path) == (
        kind,
        method,
        scheme,
        authority,
        path,
    )
    assert one.client == "192.0.2.7"
    assert one.head == head[:-2] + b"X-A:  b \r\nx-a: c\r\n\r\n"
    assert one.fields[1:] == [(b"X-A", b"b"), (b"x-a", b"c")]
    assert one.values(b"x-a") == [b"b", b"c"]
    assert (one.host, one.port, one.user, dict(one.tags), one.reported) == ("", 0, "", {}, ())


def test_an_answer_for_once_is_for_no_other_request(rig: Rig) -> None:
    origin = rig.idle()
    client = rig.client()
    for number in range(3):
        rig.send(client, ASK)
        assert received(origin) == b""
        assert rig.go(rig.question())
        assert received(origin) == SENT, number
        rig.send(origin, OK)
        assert received(client) == OK_GOT
    assert rig.relay.stats().given_back == 0


def test_an_answer_with_seconds_is_for_others_like_it(rig: Rig) -> None:
    origin = rig.idle()
    client = rig.client(ASK)
    assert rig.go(rig.question(), 60.0)
    assert received(origin) == SENT
    rig.send(origin, OK)
    rig.send(client, ASK)
    assert not rig.questions
    assert received(origin) == SENT
    rig.send(origin, OK)
    for other in (
        ASK.replace(b"GET", b"HEAD"),
        ASK.replace(b"//o/", b"//O/").replace(b": o", b": O"),
    ):
        one = rig.client(other)
        assert rig.question().waits
        one.close()
    stranger = rig.client(ASK, "192.0.2.9")  # its group is not known
    assert rig.question().client == "192.0.2.9"
    stranger.close()


def test_a_client_that_leaves_is_told(rig: Rig) -> None:
    client = rig.client(ASK)
    one = rig.question()
    client.close()
    rig.step()
    assert rig.gone == [one.ident]
    assert not rig.go(one)
    assert not rig.lane.hand_back(one)
    assert rig.relay.clients == 0


def test_a_client_that_leaves_before_the_question_is_told_of(rig: Rig) -> None:
    outer, inner = rig.pair()
    rig.lane._native.hand_over(inner.detach(), "", ASK, 0)
    rig.lane.close_clients()
    rig.step()
    assert not rig.questions
    assert not rig.gone
    assert received(outer) is None


def test_what_a_client_says_more_is_kept(rig: Rig) -> None:
    origin = rig.idle()
    client = rig.client(ASK)
    one = rig.question()
    rig.send(client, ASK)
    rig.send(client, ASK)
    for left in (2, 1, 0):
        assert rig.go(one)
        assert received(origin) == SENT
        rig.send(origin, OK)
        assert received(client) == OK_GOT
        if left:
            one = rig.question()
    assert not rig.questions


def test_a_client_has_left_when_nothing_follows_its_request(rig: Rig) -> None:
    """As in each phase: a FIN behind further requests is none yet."""
    origin = rig.idle()
    client = rig.client(ASK + ASK)
    first = rig.question()
    client.shutdown(socket.SHUT_WR)
    rig.step()
    assert not rig.gone
    assert rig.go(first)
    rig.send(origin, OK)
    assert received(client) == OK_GOT
    assert rig.gone == [rig.question().ident]
    assert received(client) is None


@pytest.mark.parametrize("more", [b"", b"CONNECT "])
def test_a_client_that_is_handed_back_has_every_byte(rig: Rig, more: bytes) -> None:
    client = rig.client(ASK + more)
    assert rig.question().followed is bool(more)
    client = rig.client(ASK)
    one = rig.question()
    rig.send(client, more + b"G")
    assert rig.lane.hand_back(one)
    rig.step()
    (handoff,) = rig.handoffs
    assert (handoff.cause, handoff.buffer) == (REQUEST, ASK + more + b"G")
    assert not rig.gone
    assert not rig.go(one)


def test_a_question_is_answered_once(rig: Rig) -> None:
    origin = rig.idle()
    client = rig.client(ASK)
    first = rig.question()
    assert rig.go(first)
    assert not rig.go(first)
    rig.send(origin, OK)
    rig.send(client, ASK)
    second = rig.question()
    assert second.ident == first.ident
    assert not rig.go(first)
    assert not rig.lane.hand_back(first)
    assert rig.go(second)
    assert received(origin) == SENT * 2


def test_questions_of_one_step_come_together(rig: Rig) -> None:
    """However many: some are told of in the next round."""
    pairs = [rig.pair() for _ in range(300)]
    for _, inner in pairs:
        rig.lane._native.hand_over(inner.detach(), "", ASK, 0)
    batches: list[int] = []
    rig.asked = lambda questions: batches.append(len(questions))  # type: ignore[method-assign]
    rig.lane.answer_by(rig)
    rig.step()
    assert sum(batches) == 300
    assert len(batches) == 3
    rig.lane.close_clients()
    rig.step()
    assert len(rig.gone) == 300


def test_who_raises_gets_the_clients_back(rig: Rig) -> None:
    def asked(questions: list[Question]) -> None:
        rig.lane.answer(questions[0], None, b"o", b"o", (FAR,), rig.port, 0.0, "", None)
        raise RuntimeError("not mine")

    origin = rig.idle()
    rig.asked = asked  # type: ignore[method-assign]
    rig.lane.answer_by(rig)
    for _ in range(2):
        rig.lane._native.hand_over(rig.pair()[1].detach(), "", ASK, 0)
    with pytest.raises(RuntimeError, match="not mine"):
        rig.step()
    rig.step()
    assert received(origin) == SENT
    assert [handoff.buffer for handoff in rig.handoffs] == [ASK]


def test_draining_waits_for_the_answer(rig: Rig) -> None:
    origin = rig.idle()
    client = rig.client(ASK)
    one = rig.question()
    rig.lane.give_back()
    rig.step()
    assert received(origin) is None  # idle connections are closed
    assert not rig.handoffs
    assert rig.go(one, token=None)
    with rig.origin() as peer:
        rig.until(lambda: select.select([peer], [], [], 0)[0])
        assert peer.recv(1000) == SENT
        peer.sendall(OK)
        rig.until(lambda: rig.handoffs)
    assert received(client) == OK_LAST
    assert rig.handoffs[0].cause == LINGER


NO = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"


def test_a_refusal_keeps_the_client(rig: Rig) -> None:
    origin = rig.idle()
    client = rig.client(ASK + ASK + ASK)
    for _ in range(2):
        assert rig.lane.refuse(rig.question(), NO, True) == len(NO)
        assert received(client) == NO
        rig.step()
    assert rig.go(rig.question())
    assert received(origin) == SENT
    assert not rig.handoffs


@pytest.mark.parametrize(
    ("ask", "keep"), [(ASK, False), (ASK[:-2] + b"Connection: close\r\n\r\n", True)]
)
def test_a_refusal_closes_with_care(rig: Rig, ask: bytes, keep: bool) -> None:
    """The client may say more before it has read the answer, and a close would reset it."""
    client = rig.client(ask + b"more")
    one = rig.question()
    assert rig.lane.refuse(one, NO, keep) == len(NO)
    assert rig.lane.refuse(one, NO, keep) == -1
    rig.step()
    (handoff,) = rig.handoffs
    assert (handoff.cause, handoff.buffer) == (LINGER, b"more")
    assert received(client) == NO


def test_a_client_that_reads_nothing_is_refused_by_its_owner(rig: Rig) -> None:
    client = rig.client(ASK + ASK)
    assert rig.lane.refuse(rig.question(), NO, True) == len(NO)
    rig.step()
    one = rig.question()
    assert rig.lane.refuse(one, NO, True, "decided") == -1
    assert not one.waits
    rig.step()
    (handoff,) = rig.handoffs
    assert (handoff.cause, handoff.decided, handoff.sent) == (REQUEST, "decided", 0)
    assert handoff.buffer == ASK
    assert received(client) == NO


def test_a_client_that_has_left_takes_no_refusal(rig: Rig) -> None:
    client = rig.client(ASK)
    one = rig.question()
    client.close()
    assert rig.lane.refuse(one, NO, True) == 0
    rig.step()
    assert not rig.relay.clients
    assert not rig.gone


def test_kinds_that_nobody_answers_are_handed_over(stack: contextlib.ExitStack) -> None:
    native_relay()
    rig = Rig(stack, asks="C")
    try:
        rig.client(ASK)
        assert not rig.questions
        assert [handoff.buffer for handoff in rig.handoffs] == [ASK]
    finally:
        rig.close()
        rig.close_handoffs()


def test_a_host_that_is_not_written_as_the_authority_is_handed_over(rig: Rig) -> None:
    rig.client(ASK.replace(b": o", b": O"))
    assert not rig.questions
    assert len(rig.handoffs) == 1


def test_an_answer_that_cannot_be_is_an_error_and_the_question_stays(rig: Rig) -> None:
    rig.client(ASK)
    one = rig.question()
    for wrong in ({"key": []}, {"host": None}, {"group": "x" * 60, "seconds": 1.0}):
        with pytest.raises((TypeError, ValueError)):
            rig.go(one, **wrong)
    with pytest.raises(ValueError, match="no IP address"):
        rig.lane.answer(one, None, b"o", b"o", ("o",), 80, 0.0, "", None)
    assert one.waits
    assert rig.lane.hand_back(one)
    rig.step()


class Token:
    pass


def test_a_token_is_kept_to_the_end(rig: Rig) -> None:
    origin = rig.idle()
    client = rig.client(ASK)
    token = Token()
    alive = weakref.ref(token)
    rig.go(rig.question(), token=token)
    del token
    assert alive() is not None
    rig.send(origin, OK)
    assert [record.status for record in rig.records] == [200]
    rig.records.clear()
    assert alive() is None
    assert received(client) == OK_GOT


def test_a_tunnel_keeps_its_token(rig: Rig) -> None:
    client = rig.client(b"CONNECT o:1 HTTP/1.1\r\nHost: o:1\r\n\r\nfirst")
    token = Token()
    alive = weakref.ref(token)
    rig.go(rig.question(), token=token)
    del token
    with rig.accept() as peer:
        assert peer.recv(100) == b"first"
        assert received(client) == b"HTTP/1.1 200 Connection established\r\n\r\n"
        assert alive() is not None
    client.close()
    rig.until(lambda: not rig.relay.tunnels)
    assert [record.method for record in rig.records] == ["CONNECT"]
    rig.records.clear()
    assert alive() is None


def test_a_closed_relay_answers_nothing(rig: Rig) -> None:
    rig.client(ASK)
    token = Token()
    alive = weakref.ref(token)
    rig.idle()
    rig.go(rig.question(), token=token)
    del token
    rig.client(ASK)
    one = rig.question()
    rig.relay.close()
    assert not one.waits
    assert not rig.lane.answer(one, None, b"o", b"o", (FAR,), 80, 0.0, "", None)
    assert not rig.lane.hand_back(one)
    assert alive() is None


def test_no_origin_for_a_request_hands_it_over(rig: Rig) -> None:
    """The answer is for once, and nothing of it stays."""
    rig.client(ASK)
    one = rig.question()
    with socket.create_server((FAR, 0)) as gone:
        port = gone.getsockname()[1]
    assert rig.lane.answer(one, None, b"o", b"o", (FAR,), port, 0.0, "", None)
    rig.until(lambda: rig.handoffs)
    (handoff,) = rig.handoffs
    assert (handoff.cause, handoff.buffer) == (REQUEST, ASK)
    assert handoff.dialling > 0.0


def test_a_question_that_nobody_answers_has_a_limit(
    stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client comes back, and whoever thinks about it is told."""
    native_relay()
    monkeypatch.setattr(lane_options, "ASK", 0.2)
    rig = Rig(stack)
    try:
        rig.client(ASK)
        one = rig.question()
        rig.until(lambda: rig.handoffs)
        assert rig.gone == [one.ident]
        assert rig.handoffs[0].buffer == ASK
        assert not rig.go(one)
    finally:
        rig.close()
        rig.close_handoffs()
