"""The bodies of requests in the lane: what of them goes where, early answers, interim responses,
what is given back in the middle, and whose connection may be used for what may not be repeated."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Iterator

import pytest
from plain_oracle import OK, OK_GOT, OK_LAST, Conversation, Plain, conversation, received
from relay_rig import native_relay

from spliceproxy.relay.interface import CHUNK
from spliceproxy.relay.lane import LINGER, RESPONSE, Handoff

PATIENCE = 20.0
BIG = 8 << 20
HEAD = b"POST http://o/ HTTP/1.1\r\nHost: o\r\nContent-Length: %d\r\n\r\n"
GOT = b"POST / HTTP/1.1\r\nHost: o\r\nContent-Length: %d\r\nVia: 1.1 sp\r\n\r\n"
KEY = ("o", 80)


@pytest.fixture
def plain() -> Iterator[Plain]:
    native_relay()
    made = Plain()
    yield made
    made.close()


@pytest.fixture
def one(plain: Plain) -> Iterator[Conversation]:
    with conversation(plain) as made:
        made.allow(HEAD % 0)
        made.allow(b"GET http://o/ HTTP/1.1\r\nHost: o\r\n\r\n")
        yield made


def take(plain: Plain, peer: socket.socket, size: int) -> bytes:
    """So many bytes, which the relay sends meanwhile."""
    got = bytearray()
    limit = time.monotonic() + PATIENCE
    while len(got) < size:
        assert time.monotonic() < limit, f"{len(got)} bytes of {size} came: {bytes(got[:100])!r}"
        plain.step()
        part = received(peer)
        assert part is not None, f"an end behind {len(got)} bytes: {bytes(got[:100])!r}"
        got += part[: size - len(got)] if len(part) > size - len(got) else part
    return bytes(got)


def dialled(one: Conversation) -> socket.socket:
    peer = one.plain.accept()
    peer.setblocking(False)
    one.exchange(KEY, peer)
    return peer


@pytest.mark.parametrize("size", [1, 1000, CHUNK - 200, CHUNK, 3 * CHUNK + 1, BIG])
@pytest.mark.parametrize("apart", [False, True], ids=["glued", "apart"])
def test_a_body_arrives(plain: Plain, one: Conversation, size: int, apart: bool) -> None:
    body = os.urandom(size)
    head = HEAD % size
    first = head if apart else (head + body)[:CHUNK]
    one.send(one.client, first)
    origin = dialled(one)
    rest = (head + body)[len(first) :]
    want = GOT % size + body
    got = b""
    while rest:
        part, rest = rest[: 5 * CHUNK], rest[5 * CHUNK :]
        with contextlib.suppress(BlockingIOError):
            n = one.client.send(part)
            part, rest = b"", part[n:] + rest
        if part:
            rest = part + rest
        plain.step()
        got += received(origin) or b""
    got += take(plain, origin, len(want) - len(got))
    assert got == want
    one.send(origin, OK)
    assert received(one.client) == OK_GOT
    assert plain.relay.stats().exchanges == 1
    assert plain.relay.stats().given_back == 0
    if size == BIG:
        assert plain.relay.stats().spliced > size // 2
    assert plain.lane._native.idle == 1


def test_both_directions_at_once(plain: Plain, one: Conversation) -> None:
    """An answer that begins early and an upload, each larger than all buffers together."""
    body, answer = os.urandom(BIG), os.urandom(BIG)
    one.send(one.client, HEAD % BIG)
    origin = dialled(one)
    head = GOT % BIG
    assert take(plain, origin, len(head)) == head
    one.send(origin, OK.replace(b": 2", b": %d" % BIG)[:-2])
    up, down = memoryview(body), memoryview(answer)
    seen, got = bytearray(), bytearray()
    limit = time.monotonic() + PATIENCE
    while len(seen) < BIG or len(got) < BIG:
        assert time.monotonic() < limit, f"{len(seen)} up, {len(got)} down"
        with contextlib.suppress(BlockingIOError):
            up = up[one.client.send(up[:100_000]) :] if up else up
        with contextlib.suppress(BlockingIOError):
            down = down[origin.send(down[:100_000]) :] if down and len(seen) > 100_000 else down
        plain.step()
        seen += received(origin) or b""
        got += received(one.client) or b""
        if got.startswith(b"HTTP/1.1 "):
            end = got.index(b"\r\n\r\n") + 4
            assert b"Connection: close" in got[:end]
            del got[:end]
    assert bytes(seen) == body
    assert bytes(got) == answer


def test_an_origin_that_does_not_read(plain: Plain, one: Conversation) -> None:
    """The client is not read from meanwhile, and nothing is lost."""
    body = os.urandom(BIG)
    one.send(one.client, HEAD % BIG)
    origin = dialled(one)
    rest = memoryview(body)
    while True:
        try:
            rest = rest[one.client.send(rest) :]
        except BlockingIOError:
            before = plain.relay.stats().events
            plain.step()
            if plain.relay.stats().events == before:
                break
    assert len(rest) > 0
    assert not select.select([plain.relay.fileno()], [], [], 0)[0]
    want = GOT % BIG + body
    got = bytearray()
    while len(got) < len(want):
        got += received(origin) or b""
        with contextlib.suppress(BlockingIOError):
            rest = rest[one.client.send(rest) :] if rest else rest
        plain.step()
    assert bytes(got) == want
    one.send(origin, OK)
    assert received(one.client) == OK_GOT


@pytest.mark.parametrize("more", [b"", b"x" * 10])
def test_an_early_answer_is_the_last(plain: Plain, one: Conversation, more: bytes) -> None:
    one.send(one.client, HEAD % 100 + b"part")
    origin = dialled(one)
    assert received(origin) == GOT % 100 + b"part"
    one.send(origin, OK[:-1])
    one.send(one.client, more)
    assert (received(origin) or b"") == more
    one.send(origin, OK[-1:])
    assert received(one.client) == OK_LAST
    handoff = one.given_back()
    assert handoff is not None
    assert (handoff.cause, handoff.left > 0) == (LINGER, True)
    assert received(origin) is None


def test_an_early_answer_that_the_body_overtakes(plain: Plain, one: Conversation) -> None:
    """The client was told that its connection ends; the origin's can be used again."""
    one.send(one.client, HEAD % 8 + b"part")
    origin = dialled(one)
    one.send(origin, OK[:-1])
    one.send(one.client, b"more")
    assert received(origin) == GOT % 8 + b"partmore"
    one.send(origin, OK[-1:])
    assert received(one.client) == OK_LAST
    handoff = one.given_back()
    if handoff is not None:
        assert (handoff.cause, handoff.left) == (LINGER, 0)
    assert plain.lane._native.idle == 1


INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
INTERIM_GOT = b"HTTP/1.1 100 Continue\r\nVia: 1.1 sp\r\n\r\n"


def test_a_client_that_waits_for_100(plain: Plain, one: Conversation) -> None:
    head = HEAD.replace(b"Host", b"Expect: 100-continue\r\nHost") % 5
    one.send(one.client, head)
    origin = dialled(one)
    assert received(origin) == GOT.replace(b"Host", b"Expect: 100-continue\r\nHost") % 5
    one.send(origin, INTERIM)
    assert received(one.client) == INTERIM_GOT
    one.send(one.client, b"hello")
    assert received(origin) == b"hello"
    one.send(origin, OK)
    assert received(one.client) == OK_GOT
    assert plain.relay.stats().given_back == 0


def back(one: Conversation) -> Handoff:
    handoff = one.given_back()
    assert handoff is not None
    assert handoff.cause == RESPONSE
    assert handoff.origin >= 0
    return handoff


@pytest.mark.parametrize("size", [5, 100, BIG])
@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\n\r\n", b"H", INTERIM + b"H", b""])
def test_given_back_in_the_middle(
    plain: Plain, one: Conversation, size: int, answer: bytes
) -> None:
    """What the origin has got, what comes back, and what the client is still to send make up the
    body."""
    body = os.urandom(size)
    one.send(one.client, HEAD % size + body[:2])
    origin = dialled(one)
    rest = memoryview(body[2:-1])
    while rest:
        try:
            rest = rest[one.client.send(rest) :]
        except BlockingIOError:
            before = plain.relay.stats().events
            plain.step()
            if plain.relay.stats().events == before:
                break
    plain.step()
    if answer:
        one.send(origin, answer)
    else:
        origin.shutdown(socket.SHUT_WR)
        plain.step()
    handoff = back(one)
    got = received_all(origin)
    assert got.startswith(GOT % size)
    got = got[len(GOT % size) :]
    head = HEAD % size
    assert handoff.buffer.startswith(head)
    waits = handoff.buffer[len(head) :]
    assert handoff.left == size - len(got)
    assert body.startswith(got + waits)
    assert handoff.answer == answer.removeprefix(INTERIM)
    assert handoff.sent == (len(INTERIM_GOT) if answer.startswith(INTERIM) else 0)
    if size == BIG:
        assert waits, "nothing was on its way"


def received_all(peer: socket.socket) -> bytes:
    got = bytearray()
    while part := received(peer):
        got += part
    return bytes(got)


def test_a_client_that_ends_in_the_middle(plain: Plain, one: Conversation) -> None:
    one.send(one.client, HEAD % 100 + b"part")
    origin = dialled(one)
    one.client.shutdown(socket.SHUT_WR)
    plain.step()
    assert received(origin) == GOT % 100 + b"part"
    assert received(origin) is None
    assert received(one.client) is None
    assert one.given_back() is None


def test_what_follows_a_body_is_kept(plain: Plain, one: Conversation) -> None:
    data = (HEAD % 5 + b"hello") * 3 + HEAD % 0
    one.send(one.client, data)
    origin = dialled(one)
    for _ in range(3):
        assert received(origin) == GOT % 5 + b"hello"
        one.send(origin, OK)
        assert received(one.client) == OK_GOT
    assert received(origin) == GOT % 0
    one.send(origin, OK)
    assert received(one.client) == OK_GOT
    assert plain.relay.stats().exchanges == 4


# ---- whose connection ----------------------------------------------------------------------


def posts(one: Conversation, origin: socket.socket) -> None:
    assert received(origin) == GOT % 1 + b"x"
    one.send(origin, OK)
    assert received(one.client) == OK_GOT


def other_client(one: Conversation) -> socket.socket:
    outer, inner = socket.socketpair()
    one._stack.callback(outer.close)
    for end in (outer, inner):
        end.setblocking(False)
    one.plain.lane._native.hand_over(inner.detach(), "", b"", 0)
    return outer


def test_a_client_goes_on_with_its_own_connection(one: Conversation) -> None:
    one.send(one.client, HEAD % 1 + b"x")
    origin = dialled(one)
    posts(one, origin)
    for _ in range(3):
        one.send(one.client, HEAD % 1 + b"x")
        assert not one.plain.dialling
        posts(one, origin)


def test_nobody_takes_a_connection_of_another(one: Conversation) -> None:
    one.send(one.client, HEAD % 1 + b"x")
    origin = dialled(one)
    posts(one, origin)
    other = other_client(one)
    one.send(other, HEAD % 1 + b"x")
    assert one.plain.dialling
    assert received(origin) == b""
    other.close()
    one.plain.step()


def test_what_another_has_used_is_not_its_own(one: Conversation) -> None:
    one.send(one.client, HEAD % 1 + b"x")
    origin = dialled(one)
    posts(one, origin)
    other = other_client(one)
    one.send(other, b"GET http://o/ HTTP/1.1\r\nHost: o\r\n\r\n")
    assert received(origin) == b"GET / HTTP/1.1\r\nHost: o\r\nVia: 1.1 sp\r\n\r\n"
    one.send(origin, OK)
    assert received(other) == OK_GOT
    one.send(one.client, HEAD % 1 + b"x")
    assert one.plain.dialling
    assert received(origin) == b""
    other.close()
    one.plain.step()


def test_not_a_connection_that_speaks(one: Conversation) -> None:
    one.send(one.client, HEAD % 1 + b"x")
    origin = dialled(one)
    posts(one, origin)
    origin.send(b"H")
    one.client.send(HEAD % 1 + b"x")
    one.plain.step()
    assert one.plain.dialling


@pytest.mark.parametrize("answer", [b"", INTERIM])
def test_a_failure_there_is_not_repeated(one: Conversation, answer: bytes) -> None:
    one.send(one.client, HEAD % 1 + b"x")
    origin = dialled(one)
    posts(one, origin)
    one.send(one.client, HEAD % 1 + b"x")
    if answer:
        one.send(origin, answer)
    origin.close()
    one.plain.step()
    handoff = back(one)
    assert handoff.buffer == HEAD % 1
    assert (handoff.left, handoff.reused) == (0, True)
    assert not one.plain.dialling
