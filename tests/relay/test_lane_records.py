"""Records of exchanges in the lane: each that has a token gives one, which says what a Record
says, and each token is given up once."""

from __future__ import annotations

import contextlib
import copy
import gc
import select
import socket
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from plain_oracle import CLIENT, HOST, OK, WORKER, Conversation, Plain, conversation, received
from relay_rig import native_relay

from spliceproxy.forward.lane import origin_key
from spliceproxy.http1.head import parse_request
from spliceproxy.observe.record import Record
from spliceproxy.policy.verdict import Verdict
from spliceproxy.relay import interface

PEER = HOST
HEAD = b"GET http://o/a?b HTTP/1.1\r\nHost: o\r\n\r\n"
CONNECT = b"CONNECT o:1 HTTP/1.1\r\nHost: o:1\r\n\r\n"
TYPED = OK.replace(b"\r\n\r\n", b"\r\nContent-Type: text/\xe9\r\n\r\n")


class Tags(dict[str, str]):
    """Those of a decision, which can be seen to be given up."""


@pytest.fixture
def plain() -> Iterator[Plain]:
    native_relay()
    with contextlib.closing(Plain(watched=True)) as made:
        yield made


def decision(user: str = "ann") -> Record:
    record = Record("192.0.2.99")  # of another client: each record has its own
    record.host, record.port, record.user = "o", 80, user
    record.tags = Tags(team="web")
    record.reported, record.allowed_by = ("would-deny",), "web"
    record.method, record.target, record.status = "HEAD", "http://o/other", 500
    return record


def route(one: Conversation, head: bytes, token: Record) -> socket.socket | None:
    """Allows requests like this one; the other end of an idle connection for them."""
    plain, request = one.plain, parse_request(head)
    verdict = Verdict(request.host, request.port, (PEER,), "", 3600.0)
    assert plain.lane.allow(CLIENT, request, verdict, token)
    assert CLIENT.group is not None
    plain.lane._native.add_client("", CLIENT.group)
    if head == CONNECT:
        return None
    outer, inner = one._pair()
    plain.lane._native.put(origin_key(verdict.key), inner.detach(), PEER)
    return outer


def exchange(one: Conversation, origin: socket.socket, answer: bytes = OK) -> bytes:
    one.send(one.client, HEAD)
    assert received(origin)
    one.send(origin, answer)
    got = received(one.client)
    assert got
    return got


def test_a_record_says_what_is_known(plain: Plain) -> None:
    before, began = time.time(), time.monotonic()
    with conversation(plain) as one:
        origin = route(one, HEAD, decision())
        assert origin is not None
        got = exchange(one, origin, TYPED)
    (record,) = plain.records
    assert isinstance(record, Record)
    assert not hasattr(record, "__dict__")
    assert before <= record.ended_at <= time.time()
    assert began <= record.started <= time.monotonic()
    assert 0.0 <= record.seconds <= time.monotonic() - began
    found = {name: getattr(record, name) for name in VALUES}
    assert found == {**VALUES, "bytes_in": len(HEAD), "bytes_out": len(got)}
    assert record.id == f"{WORKER}-2"
    assert record.number == (WORKER << 40) + 2
    assert 0 < record.first_byte <= record.times.total
    assert record.times == (0, 0, 0, 0, record.first_byte, int(record.seconds * 1e6))
    assert repr(record) == f"<Record GET 'http://o/a?b' status=200 bytes_out={len(got)}>"
    with pytest.raises(AttributeError):
        record.status = 404


def test_an_empty_record_says_nothing(plain: Plain) -> None:
    """Its class can be had from any other."""
    with conversation(plain) as one:
        origin = route(one, HEAD, decision())
        assert origin is not None
        exchange(one, origin)
    (record,) = plain.records
    kind = type(record)
    for empty in (kind.__new__(kind), kind()):  # type: ignore[call-arg]
        assert (empty.status, empty.target, empty.method, empty.client) == (0, "", "", "")
        assert (empty.destination, empty.user, empty.tags, empty.reported) == (":0", "", {}, ())
    with pytest.raises(TypeError):
        copy.copy(record)
    assert record.status == 200


VALUES: dict[str, Any] = {
    "client": "",
    "via": "",
    "mark": "",
    "method": "GET",
    "target": "http://o/a?b",
    "name": "",
    "sni": "",
    "tls_name": "",
    "socks": 0,
    "route": "",
    "connect_by": "",
    "hop": None,
    "holding": None,
    "rates": (0, 0),
    "listener": None,
    "host": "o",
    "port": 80,
    "destination": "o:80",
    "user": "ann",
    "peer": PEER,
    "status": 200,
    "content_type": "text/\xe9",
    "tags": {"team": "web"},
    "reported": ("would-deny",),
    "allowed_by": "web",
    "decision": 0,
    "rule": "",
    "why": "",
    "words": "",
    "detail": "",
    "event": "end",
    "error": "",
    "failed": "",
    "reason": "",
    "bytes_in": 0,
    "bytes_out": 0,
    "ended": True,
    "trace": None,
    "tried": (),
    "dialling_since": 0.0,
    "looked_up": 0.0,
    "generation": 1,
    "minor": 1,
    "fields": [],
    "spliced_in": 0,
    "spliced_out": 0,
    "head": 0,
    "question": 0,
    "dial": 0,
    "by": "",
    "stage": "-",
    "termination": "--",
    "stalled": "",
    "client_tcp": None,
    "origin_tcp": None,
}


def test_a_record_has_all_that_a_record_has() -> None:
    times = {"ended_at", "started", "seconds", "first_byte", "times", "id", "number"}
    names = {name for name in dir(Record) if not name.startswith("_")}
    names -= {"register", "blame", "end", "inform", "field"}
    names -= {"summed"}  # the sums by client and destination of these are made in C
    assert names == {*VALUES, *times}


def test_each_request_has_a_record_in_order(plain: Plain) -> None:
    """Also those that come together, and of other routes."""
    with conversation(plain) as one:
        first = route(one, HEAD, decision())
        other = HEAD.replace(b"http://o/", b"http://p/").replace(b"Host: o", b"Host: p")
        second = route(one, other, decision("bob"))
        assert first is not None
        assert second is not None
        one.send(one.client, HEAD + other + HEAD)
        for origin in (first, second, first):
            assert received(origin)
            one.send(origin, OK)
    assert [record.user for record in plain.records] == ["ann", "bob", "ann"]
    assert [record.status for record in plain.records] == [200, 200, 200]


def test_a_repeated_route_has_the_token_said_last(plain: Plain) -> None:
    with conversation(plain) as one:
        first = decision()
        gone = weakref.ref(first.tags)
        origin = route(one, HEAD, first)
        del first
        assert origin is not None
        one.send(one.client, HEAD)
        assert received(origin)
        route(one, HEAD, decision("bob"))
        assert gone() is not None  # the exchange has it
        one.send(origin, OK)
        exchange(one, origin)
        assert [record.user for record in plain.records] == ["ann", "bob"]
        plain.records.clear()
        assert gone() is None


@pytest.mark.parametrize(
    ("answer", "reason"), [(OK[:-1], interface.SOURCE_EOF), (b"", interface.CLIENT_RESET)]
)
def test_an_exchange_that_is_cut_has_a_record(plain: Plain, answer: bytes, reason: str) -> None:
    with conversation(plain) as one:
        origin = route(one, HEAD, decision())
        assert origin is not None
        one.send(one.client, HEAD)
        assert received(origin)
        if answer:
            one.send(origin, answer)
            origin.close()
        else:
            one.client.close()
        plain.step()
    assert [record.reason for record in plain.records] == [reason]


def test_a_tunnel_has_its_record_at_its_end(plain: Plain) -> None:
    with conversation(plain) as one:
        route(one, CONNECT, decision())
        one.send(one.client, CONNECT + b"early")
        with plain.accept() as far:
            assert far.recv(5, socket.MSG_WAITALL) == b"early"
            plain.lane._native.forget()
            assert plain.records == []
            assert received(one.client)
            one.client.close()
            plain.step()
        while plain.relay.tunnels:
            select.select([plain.relay.fileno()], [], [], 1)
            plain.step()
    (record,) = plain.records
    assert (record.method, record.target, record.status) == ("CONNECT", "o:1", 200)
    assert (record.bytes_in, record.user) == (len(CONNECT) + 5, "ann")


def test_a_request_that_is_given_back_has_no_record(plain: Plain) -> None:
    """Its owner goes on with it."""
    token = decision()
    gone = weakref.ref(token.tags)
    with conversation(plain) as one:
        origin = route(one, HEAD, token)
        del token
        assert origin is not None
        one.send(one.client, HEAD)
        assert received(origin)
        one.send(origin, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n")
        handoff = one.given_back()
        assert handoff is not None
        plain.lane._native.forget()
        plain.step()
    assert plain.records == []
    assert gone() is None


def test_a_record_outlives_the_relay() -> None:
    native_relay()
    with contextlib.closing(Plain(watched=True)) as plain:
        with conversation(plain) as one:
            origin = route(one, HEAD, decision())
            assert origin is not None
            exchange(one, origin)
        (record,) = plain.records
    del plain, one
    gc.collect()
    assert record.target == "http://o/a?b"
    assert dict(record.tags) == {"team": "web"}


@pytest.mark.parametrize("how", ["exchange", "tunnel"])
def test_tokens_are_given_up_where_the_relay_is_closed(how: str) -> None:
    native_relay()
    with contextlib.closing(Plain(watched=True)) as plain, contextlib.ExitStack() as stack:
        one = Conversation(plain, stack)
        token = decision()
        gone = weakref.ref(token.tags)
        head = CONNECT if how == "tunnel" else HEAD
        origin = route(one, head, token)
        del token
        one.send(one.client, head)
        if origin is None:
            stack.enter_context(plain.accept())
            assert plain.relay.tunnels == 1
        else:
            assert received(origin)
        assert gone() is not None
        plain.relay.abort_all()
        plain.step()
        assert len(plain.records) == plain.relay.clients ^ 1
        plain.records.clear()
        plain.relay.close()
        assert gone() is None


def test_thousands_of_exchanges_leave_nothing(plain: Plain) -> None:
    """Routes that are said again, forgotten, and used by several clients at once."""
    tokens: list[weakref.ref[Any]] = []
    with conversation(plain) as one, contextlib.ExitStack() as stack:
        other = Conversation.__new__(Conversation)
        other.plain, other._stack, other.keys = plain, stack, {}
        other.client, inner = one._pair()
        plain.lane._native.hand_over(inner.detach(), "", b"", 0)
        for number in range(600):
            token = decision(str(number))
            tokens.append(weakref.ref(token.tags))
            origins = [route(one, HEAD, token), route(other, HEAD, token)]
            del token
            one.send(one.client, HEAD * 2)
            one.send(other.client, HEAD)
            while len(plain.records) < 3 * (number + 1):
                asked = [origin for origin in origins if origin is not None and received(origin)]
                assert asked, "a request is with no origin"
                for origin in asked:
                    one.send(origin, OK)
            if number % 3 == 0:
                plain.lane._native.forget()
            assert received(one.client)
            assert received(other.client)
            plain.lane.close()
        assert len(plain.records) == 1800
        assert [record.user for record in plain.records[-3:]] == ["599"] * 3
        assert all(token() is not None for token in tokens)
        other.client.close()
        plain.lane._native.forget()
        plain.step()
        plain.records.clear()
        assert not any(token() is not None for token in tokens)


def test_a_route_keeps_what_was_decided_and_not_the_record(plain: Plain) -> None:
    """A record has the target of its request, as long as the client has made that."""

    class Whole(Record):
        __slots__ = ("__weakref__",)

    record = Whole("192.0.2.99")
    record.host, record.port, record.target = "o", 80, "http://o/" + "a" * 10_000
    gone = weakref.ref(record)
    with conversation(plain) as one:
        origin = route(one, HEAD, record)
        del record
        assert gone() is None
        assert origin is not None
        exchange(one, origin)
    assert [record.host for record in plain.records] == ["o"]


@pytest.mark.parametrize("size", [10, 4000, 60_000])
def test_routes_are_bounded_by_the_bytes_of_their_tags(plain: Plain, size: int) -> None:
    """16 MiB of all that they hold: what is in the tags, a client may have chosen."""
    kept: list[weakref.ref[Any]] = []
    with conversation(plain):
        for number in range(40_000_000 // (size + 2000)):
            record = decision()
            record.tags = Tags(tag=f"{number:0{size}}")
            kept.append(weakref.ref(record.tags))
            head = f"GET http://o{number}/ HTTP/1.1\r\nHost: o{number}\r\n\r\n"
            verdict = Verdict(f"o{number}", 80, (PEER,), "", 3600.0)
            assert plain.lane.allow(CLIENT, parse_request(head.encode()), verdict, record)
        plain.step()
        alive = sum(tags() is not None for tags in kept)
        line = plain.relay.dump(0).splitlines()[0]
        assert f" routes={alive} " in line
        assert alive * size < 16 << 20 < 2 * alive * (size + 1000)


def test_a_token_that_holds_much_makes_no_route(plain: Plain) -> None:
    record = decision()
    record.tags = Tags(tag="a" * 70_000)
    with conversation(plain) as one:
        route(one, HEAD, record)
        assert " routes=0 " in plain.relay.dump(0)
