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

from spliceproxy.http1.chunked import LAST_CHUNK, ChunkedDecoder, chunk
from spliceproxy.relay.handoff import BODY, LINGER, REQUEST, RESPONSE, Handoff
from spliceproxy.relay.interface import CHUNK

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


# ---- chunks --------------------------------------------------------------------------------

CHUNKED = HEAD.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked")
CHUNKED_GOT = b"POST / HTTP/1.1\r\nHost: o\r\nTransfer-Encoding: chunked\r\nVia: 1.1 sp\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nDate: d\r\nTransfer-Encoding: chunked\r\n\r\n"
ANSWER_GOT = ANSWER[:-2] + b"Via: 1.1 sp\r\n\r\n"
GET = b"GET http://o/ HTTP/1.1\r\nHost: o\r\n\r\n"


def chunks(body: bytes, size: int) -> bytes:
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(chunk(part) for part in parts) + LAST_CHUNK


def pass_on(one: Conversation, source: socket.socket, target: socket.socket, data: bytes) -> bytes:
    """Sends all of it, and what the other one has got when nothing happens any more."""
    rest, got = memoryview(data), bytearray()
    quiet = 0
    while quiet < 20:
        before = one.plain.relay.stats().events, len(rest), len(got)
        with contextlib.suppress(BlockingIOError):
            rest = rest[source.send(rest[:150_000]) :] if rest else rest
        one.plain.step()
        got += received(target) or b""
        same = before == (one.plain.relay.stats().events, len(rest), len(got))
        quiet = quiet + 1 if same else 0
    assert not rest, f"{len(rest)} bytes of {len(data)} are not taken"
    return bytes(got)


def payload(framed: bytes) -> bytes:
    """Of a whole chunked body."""
    buffer, decoder, made = bytearray(framed), ChunkedDecoder(400), bytearray()
    while True:
        made += decoder.decode(buffer)
        if not decoder.paused:
            break
    assert decoder.done, f"not whole: {framed[-50:]!r}"
    assert not buffer, f"behind the body: {buffer[:50]!r}"
    return bytes(made)


SIZES = [(1, 1), (1000, 1), (5000, 7), (300_000, 1000), (300_000, 65_535), (300_000, 65_536)]
SIZES += [(300_000, 65_537), (1 << 20, 200_000), (BIG, 4096), (BIG, BIG)]


@pytest.mark.parametrize(("size", "each"), SIZES)
def test_chunks_of_a_request_arrive(plain: Plain, one: Conversation, size: int, each: int) -> None:
    body = os.urandom(size)
    one.send(one.client, CHUNKED)
    origin = dialled(one)
    got = pass_on(one, one.client, origin, chunks(body, each))
    assert got.startswith(CHUNKED_GOT)
    assert payload(got[len(CHUNKED_GOT) :]) == body
    one.send(origin, OK)
    assert received(one.client) == OK_GOT
    assert plain.relay.stats().given_back == 0
    assert plain.lane._native.idle == 1
    if each == BIG:
        assert plain.relay.stats().spliced > size // 2


@pytest.mark.parametrize(("size", "each"), SIZES)
def test_chunks_of_an_answer_arrive(plain: Plain, one: Conversation, size: int, each: int) -> None:
    body = os.urandom(size)
    one.send(one.client, GET)
    origin = one.keys[KEY]
    assert received(origin)
    got = pass_on(one, origin, one.client, ANSWER + chunks(body, each))
    assert got.startswith(ANSWER_GOT)
    assert payload(got[len(ANSWER_GOT) :]) == body
    assert plain.relay.stats().exchanges == 1
    assert plain.relay.stats().given_back == 0
    assert plain.lane._native.idle == 1
    if each == BIG:
        assert plain.relay.stats().spliced > size // 2


@pytest.mark.parametrize("each", [7, 4096, 100_000, BIG])
@pytest.mark.parametrize("end", [b"0\r\nA: b\r\n\r\n", b"x", b"5;a\r\nhello\r\n"])
def test_an_odd_end_of_an_answer(plain: Plain, one: Conversation, each: int, end: bytes) -> None:
    """What the client has got, what it is owed, and what comes back, make up the answer."""
    body = os.urandom(1 << 20 if each > 7 else 5000)
    one.send(one.client, GET)
    origin = one.keys[KEY]
    assert received(origin)
    framed = chunks(body, each).removesuffix(LAST_CHUNK)
    rest = memoryview(ANSWER + framed + end)
    while rest:  # the client reads nothing before it is given back, or all is sent
        before = plain.relay.stats().events
        with contextlib.suppress(BlockingIOError):
            rest = rest[origin.send(rest) :]
        plain.step()
        if plain.relay.stats().events == before:
            break
    got = bytearray()
    limit = time.monotonic() + PATIENCE
    while not plain.handoffs:
        assert time.monotonic() < limit
        got += received(one.client) or b""
        with contextlib.suppress(BlockingIOError):
            rest = rest[origin.send(rest) :] if rest else rest
        plain.step()
    handoff = one.given_back()
    assert handoff is not None
    assert handoff.begun is not None
    assert handoff.begun.chunks is not None
    got += received_all(one.client)
    assert got.startswith(ANSWER_GOT)
    assert (handoff.cause, handoff.begun.sent) == (BODY, len(got))
    assert handoff.begun.chunks.rest == -1
    assert handoff.begun.chunks.taken == len(framed)
    framed_anew = bytes(got[len(ANSWER_GOT) :]) + handoff.begun.chunks.owed
    assert payload(framed_anew + LAST_CHUNK) == body
    assert handoff.answer + rest.tobytes() == end


@pytest.mark.parametrize("each", [7, 4096, 100_000, BIG])
@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\n\r\n", b"H", b""])
def test_chunks_given_back_in_the_middle(
    plain: Plain, one: Conversation, each: int, answer: bytes
) -> None:
    """What the origin has got, what it is owed, what comes back and what the client is still to
    send make up the body."""
    body = os.urandom(BIG if each > 7 else 5000)
    one.send(one.client, CHUNKED)
    origin = dialled(one)
    whole = chunks(body, each)
    rest = memoryview(whole[:-7])
    while rest:
        try:
            rest = rest[one.client.send(rest) :]
        except BlockingIOError:
            pass
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
    made = handoff.chunks
    assert made is not None
    got = received_all(origin)
    assert got.startswith(CHUNKED_GOT)
    sent = got[len(CHUNKED_GOT) :] + made.owed
    waits = handoff.buffer[len(CHUNKED) :]
    if len(body) == BIG:
        assert made.owed, "nothing was on its way"
    with socket.socket(fileno=os.dup(handoff.client)) as left:
        left.setblocking(False)
        waits += received_all(left) + bytes(rest) + whole[-7:]
    assert made.taken == len(whole) - len(waits)
    if made.open:
        sent += waits[: made.rest] + b"\r\n"
    waits = waits[made.rest + 2 :] if made.open else waits
    decoder, buffer = ChunkedDecoder(400, -1 if made.open else made.rest), bytearray(waits)
    last = bytearray()
    while not decoder.done:
        last += decoder.decode(buffer)
    assert payload(sent + chunk(bytes(last)) + LAST_CHUNK) == body


def test_a_client_that_ends_in_the_middle_of_chunks(plain: Plain, one: Conversation) -> None:
    one.send(one.client, CHUNKED + b"5\r\nhello\r\n5\r\nhe")
    origin = dialled(one)
    one.client.shutdown(socket.SHUT_WR)
    plain.step()
    assert received(origin) == CHUNKED_GOT + b"7\r\nhellohe\r\n"
    assert received(origin) is None
    assert received(one.client) is None
    assert one.given_back() is None


def test_an_answer_that_ends_in_the_middle_of_chunks(plain: Plain, one: Conversation) -> None:
    one.send(one.client, GET)
    origin = one.keys[KEY]
    one.send(origin, ANSWER + b"5\r\nhello\r\n5\r\nhe")
    assert received(one.client) == ANSWER_GOT + b"7\r\nhellohe\r\n"
    origin.close()
    plain.step()
    assert received(one.client) is None
    assert one.given_back() is None


def test_what_is_kept_of_an_answer_goes_along_with_an_odd_upload(
    plain: Plain, one: Conversation
) -> None:
    """Of the size of its next chunk one digit is there."""
    one.allow(CHUNKED)
    one.send(one.client, CHUNKED)
    origin = dialled(one)
    assert received(origin) == CHUNKED_GOT
    one.send(origin, ANSWER + b"5\r\nhello\r\n1")
    assert received(one.client).endswith(b"5\r\nhello\r\n")
    one.send(one.client, b"3;x=y\r\nabc\r\n0\r\n\r\n")
    handoff = one.given_back()
    assert (handoff.cause, handoff.answer) == (BODY, b"1")


def test_a_body_that_is_given_back_behind_a_failed_address(plain: Plain) -> None:
    """The second address is connected to, and more of the body is there than is framed at once."""
    host, port = plain._listener.getsockname()
    plain.lane.dialled = ("255.255.255.255", host), port
    with conversation(plain) as one:
        one.allow(CHUNKED)
    outer, inner = socket.socketpair()
    with outer:
        inner.setblocking(False)
        piece = chunk(b"x" * 0xFFFF)
        plain.lane._native.hand_over(inner.detach(), "", CHUNKED + 2 * piece, 0)
        limit = time.monotonic() + PATIENCE
        while not plain.handoffs:
            assert time.monotonic() < limit
            plain.step()
        handoff = plain.handoffs.pop()
        socket.socket(fileno=handoff.take_client()).close()
    assert (handoff.cause, handoff.tried) == (REQUEST, ())
