"""Each request whose head the lane has read is told of once: by the lane, with a record, or by
whoever it is given back to. Also one whose client leaves, or is closed, while its question is
open."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest
from plain_oracle import OK, Plain, received
from relay_rig import native_relay

from spliceproxy.forward import lane_options
from spliceproxy.observe.format_names import NAMES
from spliceproxy.observe.formats import format_of
from spliceproxy.observe.record import Record
from spliceproxy.relay.handoff import REQUEST
from spliceproxy.relay.interface import ABORTED, CLIENT_RESET
from spliceproxy.relay.lane import NATIVE
from spliceproxy.relay.questions import Question

ASK = b"GET http://o/a?b HTTP/1.1\r\nHost: o\r\n\r\n"
NO = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"


class Rig(Plain):
    """A lane that asks, with a log and records."""

    def __init__(self, **more: Any) -> None:
        super().__init__(asks="CGgHhMm", log=True, watched=True, **more)
        self._form = format_of(more.get("form", NATIVE))
        self._peers: list[socket.socket] = []

    def client(self, data: bytes = ASK) -> socket.socket:
        """It is not served before the next step."""
        outer, inner = socket.socketpair()
        self._peers.append(outer)
        inner.setblocking(False)
        outer.setblocking(False)
        self.lane._native.hand_over(inner.detach(), "192.0.2.7", data, 0)
        return outer

    def tcp(self, data: bytes = ASK, *, most: int = 0) -> socket.socket:
        """The same with TCP; ``most``: bytes of the buffers between the two."""
        with socket.create_server(("127.0.0.1", 0)) as server, contextlib.ExitStack() as stack:
            outer = stack.enter_context(socket.socket())
            if most:
                outer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, most)
                server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, most)
            outer.connect(server.getsockname())
            inner, _ = server.accept()
            stack.pop_all()
        self._peers.append(outer)
        inner.setblocking(False)
        outer.setblocking(False)
        self.lane._native.hand_over(inner.detach(), "127.0.0.1", data, 0)
        return outer

    def question(self) -> Question:
        (one,) = self.questions
        self.questions.clear()
        return one

    def lines(self) -> list[str]:
        """Those of the log since the last call."""
        lines, count = self.lane._native.take_log()
        found = lines.decode().splitlines(keepends=True)
        assert len(found) == count
        return found

    def record(self) -> Record:
        """The one that there is, which says what the one line of the log says."""
        (record,) = self.records
        assert self.lines() == [self._form.line(record)]
        return record

    def end(self) -> None:
        for handoff in self.handoffs:
            handoff.close()
        for peer in self._peers:
            peer.close()
        self.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    native_relay()
    made = Rig()
    yield made
    made.end()


def decide(one: Question) -> None:
    """All that can be noted of a request before there is an answer."""
    one.host, one.port, one.user = "o", 80, "ann"
    one.tags, one.reported, one.looked_up = {"team": "web"}, ("later",), 1.5


def test_a_client_that_leaves_while_its_question_is_open(rig: Rig) -> None:
    """Its record has what was known by then, and keeps it."""
    before = time.monotonic()
    client = rig.client()
    rig.step()
    one = rig.question()
    decide(one)
    client.close()
    rig.step()
    assert rig.gone == [one.ident]
    record = rig.record()
    assert isinstance(record, Record)
    assert (record.status, record.reason, record.bytes_out) == (0, CLIENT_RESET, 0)
    assert (record.client, record.destination, record.user) == ("192.0.2.7", "o:80", "ann")
    assert (record.tags, record.reported) == ({"team": "web"}, ("later",))
    assert (record.target, record.bytes_in) == ("http://o/a?b", len(ASK))
    assert before <= record.started == one.started <= time.monotonic()


@pytest.mark.parametrize("form", [name for name in NAMES if format_of(name).lane])
@pytest.mark.parametrize("late", [False, True])
def test_its_line_has_what_was_known_by_then(form: str, late: bool) -> None:
    """Whether that was known when the waiting began, or became known later."""
    native_relay()
    rig = Rig(form=form)
    try:
        client = rig.client()
        rig.step()
        one = rig.question()
        if not late:
            decide(one)
        rig.lane.wait(one, None, rig.lane.note)
        if late:
            decide(one)
        client.close()
        rig.step()
        record = rig.record()  # and the line is that of the record
        assert (record.user, record.tags, record.times.dns) == ("ann", {"team": "web"}, 1_500_000)
    finally:
        rig.end()


def test_the_log_names_the_user_of_a_client_that_leaves(rig: Rig) -> None:
    for user, shown in (("ann", "ann"), ("b" * 63, "b" * 63), ("c" * 64, "-")):
        client = rig.client()
        rig.step()
        rig.question().user = user
        client.close()
        rig.step()
        (line,) = rig.lines()
        assert line.split()[7] == shown
        assert rig.records.pop().user == user


def test_a_client_that_leaves_takes_no_note_of_a_request_before() -> None:
    """The lines of one decision are not those of another."""
    native_relay()
    rig = Rig(form="json")
    try:
        client = rig.client()
        rig.step()
        one = rig.question()
        decide(one)
        assert rig.lane.note is not None
        note = rig.lane.note(one)
        host, port = rig._listener.getsockname()
        how = 0.0, "ann", one.known(), "", 0.0, None, note
        assert rig.lane.answer(one, None, b"o", b"o", (host,), port, *how)
        rig.step()
        with rig.accept() as origin:
            assert origin.recv(1000)
            origin.sendall(OK)
            while not received(client):
                rig.step()
            client.send(ASK)
            rig.step()
            client.close()
            rig.step()
        first, second = rig.lines()
        assert "web" in first
        assert "web" not in second
        assert json.loads(second)["method"] == "GET"
        assert [record.user for record in rig.records] == ["ann", ""]
    finally:
        rig.end()


def test_a_reset_while_a_question_is_open(rig: Rig) -> None:
    client = rig.tcp()
    rig.step()
    rig.question()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    rig.step()
    record = rig.record()
    assert (record.reason, record.destination) == (CLIENT_RESET, ":0")


@pytest.mark.parametrize("told", [True, False])
def test_a_worker_that_ends(rig: Rig, told: bool) -> None:
    """Also where its owner has not heard of the question."""
    client = rig.client()
    if told:
        rig.step()
        decide(rig.question())
    rig.lane.close_clients()
    rig.step()
    assert not rig.questions
    record = rig.record()
    assert (record.reason, record.method) == (ABORTED, "GET")
    assert record.destination == ("o:80" if told else ":0")
    assert received(client) is None


def test_more_questions_than_are_told_of_in_a_step(rig: Rig) -> None:
    for _ in range(1200):
        rig.client()
    for token, end in rig.relay.step():
        token(end)  # type: ignore[operator]
    told = len(rig.questions)
    assert 0 < told < 1200
    rig.lane.close_clients()
    rig.step()
    assert len(rig.questions) == told == len(rig.gone)
    assert len(rig.records) == len(rig.lines()) == 1200


def test_a_question_that_is_given_back_is_for_whoever_goes_on(rig: Rig) -> None:
    rig.client()
    rig.step()
    assert rig.lane.hand_back(rig.question(), "decided")
    rig.step()
    (handoff,) = rig.handoffs
    assert (handoff.cause, handoff.decided, handoff.sent) == (REQUEST, "decided", 0)
    assert (rig.records, rig.lines()) == ([], [])


def test_a_question_whose_time_is_over_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    native_relay()
    monkeypatch.setattr(lane_options, "ASK", -3.95)  # the limit for a name is added
    rig = Rig()
    try:
        rig.client()
        rig.step()
        one = rig.question()
        rig.lane.wait(one, "late", None)
        limit = time.monotonic() + 20
        while not rig.handoffs:
            assert time.monotonic() < limit
            time.sleep(rig.relay.next_wake() or 0.0)
            rig.step()
        assert rig.gone == [one.ident]
        (handoff,) = rig.handoffs
        assert (handoff.cause, handoff.decided) == (REQUEST, "late")
        question, dns, *rest = handoff.stages
        assert question >= 40_000
        assert (dns, *rest) == (0, 0, 0)
        assert (rig.records, rig.lines()) == ([], [])
    finally:
        rig.end()


@pytest.mark.parametrize("keep", [True, False])
def test_a_refusal_is_its_owners_to_tell_of(rig: Rig, keep: bool) -> None:
    client = rig.client()
    rig.step()
    assert rig.lane.refuse(rig.question(), NO, keep) == len(NO)
    rig.step()
    assert received(client) == NO
    client.close()
    rig.step()
    assert (rig.records, rig.lines()) == ([], [])


@pytest.mark.parametrize("more", [b"", ASK])
def test_a_refusal_that_does_not_fit_is_given_back(rig: Rig, more: bytes) -> None:
    """With what has been sent of it, for whoever sends the rest."""
    page = bytes(200_000)
    client = rig.tcp(ASK + more, most=4096)
    rig.step()
    one = rig.question()
    assert rig.lane.refuse(one, page, True, "decided") == -1
    assert not one.waits
    rig.step()
    (handoff,) = rig.handoffs
    assert (handoff.cause, handoff.decided, handoff.buffer) == (REQUEST, "decided", ASK + more)
    assert 0 < handoff.sent < len(page)
    got = 0
    while (data := received(client)) != b"":
        assert data is not None
        got += len(data)
    assert got <= handoff.sent
    assert (rig.records, rig.lines()) == ([], [])


def test_a_question_that_is_not_told_yet_can_be_looked_at(rig: Rig) -> None:
    """It has a record, but nobody's token."""
    rig.client(ASK)  # it is told at the next step
    (view,) = next(iter(rig.relay.flows(10)))
    assert view.token is None
