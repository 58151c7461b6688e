"""What the lane adds up by destination, client and user: all that its exchanges have moved, and
each byte of a tunnel once, however often it is looked at while it lives."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterator

import pytest
from plain_oracle import CLIENT, HOST, OK, Conversation, Plain, conversation, received
from relay_rig import native_relay

from spliceproxy.forward.lane import origin_key
from spliceproxy.http1.head import parse_request
from spliceproxy.observe.record import Record
from spliceproxy.policy.verdict import Verdict
from spliceproxy.relay import interface
from spliceproxy.relay.handoff import BODY
from spliceproxy.relay.lane import Sum

HEAD = b"GET http://o/a?b HTTP/1.1\r\nHost: o\r\n\r\n"
CONNECT = b"CONNECT Tunnel.Example:1 HTTP/1.1\r\nHost: Tunnel.Example:1\r\n\r\n"
ESTABLISHED = 39
"""Bytes of the answer to CONNECT."""


@pytest.fixture
def plain() -> Iterator[Plain]:
    native_relay()
    with contextlib.closing(Plain(summed=True)) as made:
        yield made


def route(one: Conversation, head: bytes, user: str = "ann") -> socket.socket | None:
    """Allows requests like this one; the other end of an idle connection for them."""
    plain, request = one.plain, parse_request(head)
    verdict = Verdict(request.host, request.port, (HOST,), "", 3600.0)
    notes = Record("")
    notes.user = user
    assert plain.lane.allow(CLIENT, request, verdict, notes)
    assert CLIENT.group is not None
    plain.lane._native.add_client("", CLIENT.group)
    if head.startswith(b"CONNECT"):
        return None
    outer, inner = one._pair()
    plain.lane._native.put(origin_key(verdict.key), inner.detach(), HOST)
    return outer


def take(plain: Plain) -> dict[tuple[str, bytes], tuple[int, int, int]]:
    found, missed = plain.lane.take_sums()
    assert missed == 0
    return {(one.kind, one.key): (one.requests, one.received, one.sent) for one in found}


def look(plain: Plain) -> None:
    """At all that lives."""
    slot = 0
    while slot >= 0:
        slot = plain.lane.sum_live(slot)


def exchange(one: Conversation, origin: socket.socket, head: bytes = HEAD) -> int:
    one.send(one.client, head)
    assert received(origin)
    one.send(origin, OK)
    got = received(one.client)
    assert got
    return len(got)


def test_requests_are_added_up(plain: Plain) -> None:
    with conversation(plain) as one:
        origin = route(one, HEAD)
        assert origin is not None
        sent = [exchange(one, origin) for _ in range(3)]
        look(plain)
        three = 3, 3 * len(HEAD), sum(sent)
        assert take(plain) == {
            ("destinations", b"80  o"): three,
            ("clients", b""): three,
            ("users", b"ann"): three,
        }
        assert take(plain) == {}
        sent = [exchange(one, origin)]
        look(plain)
        assert take(plain)["users", b"ann"] == (1, len(HEAD), sent[0])


def test_requests_of_each_user_are_theirs(plain: Plain) -> None:
    with conversation(plain) as one:
        for user in ("ann", "bob", "ann", ""):
            origin = route(one, HEAD, user)
            assert origin is not None
            exchange(one, origin)
        look(plain)
        found = take(plain)
    assert found["users", b"ann"][0] == 2
    assert found["users", b"bob"][0] == 1
    assert found["destinations", b"80  o"][0] == 4


def test_what_was_put_aside_is_there_when_the_client_has_left(plain: Plain) -> None:
    with conversation(plain) as one:
        origin = route(one, HEAD)
        assert origin is not None
        exchange(one, origin)
        one.client.close()
        plain.step()
        plain.lane._native.forget()  # nothing but the sum knows the origin
        plain.lane.close()
    assert take(plain)["destinations", b"80  o"][0] == 1


def test_without_a_user_there_is_no_sum_of_one(plain: Plain) -> None:
    with conversation(plain) as one:
        origin = route(one, HEAD, "")
        assert origin is not None
        exchange(one, origin)
        look(plain)
    assert {kind for kind, _ in take(plain)} == {"destinations", "clients"}


def test_a_tunnel_counts_while_it_lives_and_each_byte_once(plain: Plain) -> None:
    key = "destinations", b"Tunnel.Example:1"
    with conversation(plain) as one:
        route(one, CONNECT)
        one.send(one.client, CONNECT + b"early")
        with plain.accept() as far:
            assert far.recv(5, socket.MSG_WAITALL) == b"early"
            assert len(received(one.client)) == ESTABLISHED
            assert take(plain) == {}
            look(plain)
            assert take(plain)[key] == (1, len(CONNECT) + 5, ESTABLISHED)
            look(plain)
            assert take(plain) == {}
            one.send(one.client, b"more")
            assert far.recv(4, socket.MSG_WAITALL) == b"more"
            look(plain)
            assert take(plain)[key] == (0, 4, 0)
            one.send(one.client, b"last")
            assert far.recv(4, socket.MSG_WAITALL) == b"last"
            one.client.close()
            plain.step()
        while plain.relay.tunnels:
            select.select([plain.relay.fileno()], [], [], 1)
            plain.step()
    found = take(plain)
    assert found[key] == (0, 4, 0)
    assert found["users", b"ann"] == (0, 4, 0)


def test_a_long_answer_counts_while_it_lives(plain: Plain) -> None:
    with conversation(plain) as one:
        origin = route(one, HEAD)
        assert origin is not None
        one.send(one.client, HEAD)
        assert received(origin)
        look(plain)
        assert take(plain) == {}  # it may still go to the owner
        head = OK.replace(b": 2\r", b": 1000\r")
        one.send(origin, head)
        first = len(received(one.client))
        look(plain)
        assert take(plain)["users", b"ann"] == (1, len(HEAD), first)
        one.send(origin, b"x" * 998)
        assert len(received(one.client)) == 998
        look(plain)
        assert take(plain)["users", b"ann"] == (0, 0, 998)
        exchange(one, origin)  # the next request of the same connection
        look(plain)
        assert take(plain)["users", b"ann"][0] == 1


def test_a_failure_says_where_and_why(plain: Plain) -> None:
    before = time.time()
    with conversation(plain) as one:
        origin = route(one, HEAD)
        assert origin is not None
        one.send(one.client, HEAD)
        assert received(origin)
        one.send(origin, OK[:-1])
        origin.close()
        plain.step()
        found, _ = plain.lane.take_sums()
    (failure,) = [one for one in found if one.kind == "failures"]
    assert before <= failure.last <= time.time()
    assert failure == Sum(
        "failures", b"80  o", 1, 0, 0, interface.SOURCE_EOF, failure.last, "", HOST
    )


def test_a_client_that_leaves_is_no_failure(plain: Plain) -> None:
    with conversation(plain) as one:
        origin = route(one, HEAD)
        assert origin is not None
        one.send(one.client, HEAD)
        assert received(origin)
        one.client.close()
        plain.step()
    assert {kind for kind, _ in take(plain)} == {"destinations", "clients", "users"}


def test_many_are_told_and_nothing_is_missed(plain: Plain) -> None:
    total = 0
    with conversation(plain) as one:
        for number in range(1500):
            name = b"h%d" % number
            head = b"GET http://%b/ HTTP/1.1\r\nHost: %b\r\n\r\n" % (name, name)
            origin = route(one, head)
            assert origin is not None
            exchange(one, origin, head)
            if plain.hurried:
                assert plain.lane.sum_live(3) == 3  # there are many: they are taken first
                total += sum(n for (kind, _), (n, _, _) in take(plain).items() if kind == "users")
                plain.hurried.clear()
        look(plain)
    assert 0 < total < 1500
    total += take(plain)["users", b"ann"][0]
    assert total == 1500


def test_without_somebody_who_asks_nothing_is_kept() -> None:
    native_relay()
    with contextlib.closing(Plain()) as plain:
        with conversation(plain) as one:
            origin = route(one, HEAD)
            assert origin is not None
            exchange(one, origin)
        look(plain)
        assert plain.lane.take_sums() == ([], 0)


def test_what_the_operator_has_ended_is_no_failure(plain: Plain) -> None:
    with conversation(plain) as one:
        origin = route(one, HEAD)
        one.send(one.client, HEAD)
        assert received(origin)
        (view,) = next(iter(plain.relay.flows(10)))
        assert plain.relay.kill(view.ident)
        plain.step()
        assert not [kind for kind, _ in take(plain) if kind == "failures"]


def test_what_the_owner_goes_on_with_is_not_added_up(plain: Plain) -> None:
    """An answer in chunks, of which one is odd: who goes on counts all of it."""
    with conversation(plain) as one:
        origin = route(one, HEAD)
        one.send(one.client, HEAD)
        assert received(origin)
        answer = b"HTTP/1.1 200 OK\r\nDate: d\r\nTransfer-Encoding: chunked\r\n\r\n"
        one.send(origin, answer + b"5\r\nhello\r\n")
        assert received(one.client)
        look(plain)
        one.send(origin, b"3;x=y\r\nabc\r\n0\r\n\r\n")
        assert one.given_back().cause == BODY
        look(plain)
        assert take(plain) == {}
