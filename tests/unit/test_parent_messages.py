"""What parents are sent and what they answer, in pieces of any size, cut short, or wrong."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from spliceproxy.errors import Failure
from spliceproxy.http1.framing import Body
from spliceproxy.http1.head import parse_request
from spliceproxy.http1.rewrite import origin_request
from spliceproxy.net.stream import Stream
from spliceproxy.net.tcp import reset_on_close
from spliceproxy.upstream import http_parent, socks4_parent, socks5_parent
from spliceproxy.upstream.hop import Refused, Unauthorized

Ask = Callable[..., Awaitable[None]]

BEHIND = b"\x16\x03the other end's"
"""What comes behind an answer, and is the client's."""

GOOD: dict[str, tuple[Ask, tuple[str, str] | None, list[tuple[bytes, bytes]]]] = {
    # By what is asked, with which credentials: what is sent and what comes, by turns.
    "http": (
        http_parent.ask,
        ("a", "b"),
        [
            (
                b"CONNECT x.test:443 HTTP/1.1\r\nHost: x.test:443\r\nVia: 1.1 me\r\n"
                b"Proxy-Authorization: Basic YTpi\r\n\r\n",
                b"HTTP/1.1 200 Fine\r\nContent-Length: 7\r\n\r\n",
            )
        ],
    ),
    "http with interim": (
        http_parent.ask,
        None,
        [
            (
                b"CONNECT x.test:443 HTTP/1.1\r\nHost: x.test:443\r\nVia: 1.1 me\r\n\r\n",
                b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.0 200\r\n\r\n",
            )
        ],
    ),
    "socks5": (
        socks5_parent.ask,
        None,
        [
            (b"\x05\x01\x00", b"\x05\x00"),
            (b"\x05\x01\x00\x03\x06x.test\x01\xbb", b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"),
        ],
    ),
    "socks5 with a password": (
        socks5_parent.ask,
        ("us", "pw"),
        [
            (b"\x05\x02\x00\x02", b"\x05\x02"),
            (b"\x01\x02us\x02pw", b"\x01\x00"),
            (b"\x05\x01\x00\x03\x06x.test\x01\xbb", b"\x05\x00\x00\x03\x04host\x00\x01"),
        ],
    ),
    "socks5 of IPv6": (
        socks5_parent.ask,
        None,
        [
            (b"\x05\x01\x00", b"\x05\x00"),
            (b"\x05\x01\x00\x03\x06x.test\x01\xbb", b"\x05\x00\x00\x04" + bytes(18)),
        ],
    ),
    "socks4a": (
        socks4_parent.ask,
        None,
        [(b"\x04\x01\x01\xbb\0\0\0\1\0x.test\0", b"\x00\x5a" + bytes(6))],
    ),
}


async def converse(
    ask: Ask, credentials: Any, turns: list[tuple[bytes, bytes]], pieces: list[bytes], end: str = ""
) -> bytes:
    """Asks for a tunnel; the parent sends its answers in these pieces. What is left in the buffer.
    ``end``: behind the last piece it closes ("fin") or breaks ("reset") the connection."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setblocking(False)
    theirs.setblocking(False)
    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream = Stream(ours, loop)
    stream.read_limit.set("connection_timeout", "no answer", 20.0)
    task = asyncio.ensure_future(ask(stream, "x.test", 443, credentials, b"1.1 me"))
    try:
        wanted = [sent for sent, _ in turns]
        answers = b"".join(answer for _, answer in turns)
        got = bytearray()
        told = 0
        bounds = [0]
        for _, answer in turns:
            bounds.append(bounds[-1] + len(answer))
        for piece in pieces:
            # A piece is not sent before the question that its first byte answers was asked.
            turn = sum(1 for bound in bounds[1:] if bound <= told)
            need = b"".join(wanted[: turn + 1])
            while len(got) < len(need) and not task.done():
                got += await loop.sock_recv(theirs, 4096)
            await loop.sock_sendall(theirs, piece)
            told += len(piece)
            while not task.done() and stream.received < told:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0)
        assert told <= len(answers) + len(BEHIND)
        if end:
            if end == "reset":
                reset_on_close(theirs)
            theirs.close()
        await asyncio.wait_for(task, 20)
        assert bytes(got) == b"".join(wanted)
        while stream.received < told:
            await stream.fill()
        return bytes(stream.buffer)
    finally:
        task.cancel()
        theirs.close()
        stream.close()


@pytest.mark.parametrize("name", GOOD)
def test_an_answer_may_come_in_two_pieces(name: str) -> None:
    async def check() -> None:
        ask, credentials, turns = GOOD[name]
        last = turns[-1][1]
        before = [answer for _, answer in turns[:-1]]
        for answers in (last, last + BEHIND):
            for cut in range(1, len(last)):
                pieces = [*before, answers[:cut], answers[cut:]]
                left = await converse(ask, credentials, turns, pieces)
                assert left == answers[len(last) :]
        for number, answer in enumerate(before):
            for cut in range(1, len(answer)):
                pieces = [*before[:number], answer[:cut], answer[cut:], *before[number + 1 :], last]
                assert await converse(ask, credentials, turns, pieces) == b""

    asyncio.run(check())


@pytest.mark.parametrize("end", ["fin", "reset"])
@pytest.mark.parametrize("name", GOOD)
def test_an_answer_that_is_cut_short_is_none(name: str, end: str) -> None:
    async def check() -> None:
        ask, credentials, turns = GOOD[name]
        whole = b"".join(answer for _, answer in turns)
        bounds, at = [], 0
        for _, answer in turns:
            bounds.append((at, at + len(answer)))
            at += len(answer)
        for cut in range(len(whole)):
            pieces = [whole[first : min(last, cut)] for first, last in bounds if first < cut]
            with pytest.raises(Failure) as caught:
                await converse(ask, credentials, turns, pieces, end)
            assert caught.value.error == "connection_terminated"
            assert not isinstance(caught.value, Refused)

    asyncio.run(check())


REFUSED: list[tuple[Ask, list[bytes], str, int]] = [
    (http_parent.ask, [b"HTTP/1.1 503 No\r\n\r\n"], "destination_unavailable", 503),
    (http_parent.ask, [b"HTTP/1.1 504 No\r\n\r\n"], "connection_timeout", 504),
    (
        http_parent.ask,
        [b"HTTP/1.1 403 No\r\nContent-Length: 1\r\n\r\nx"],
        "destination_unavailable",
        403,
    ),
    (http_parent.ask, [b"HTTP/1.1 302 Go\r\nLocation: x\r\n\r\n"], "destination_unavailable", 502),
    (http_parent.ask, [b"HTTP/1.1 401 No\r\n\r\n"], "destination_unavailable", 502),
    (socks5_parent.ask, [b"\x05\x00", b"\x05\x01\0\1" + bytes(6)], "destination_unavailable", 502),
    (socks5_parent.ask, [b"\x05\x00", b"\x05\x02\0\1" + bytes(6)], "destination_unavailable", 403),
    (socks5_parent.ask, [b"\x05\x00", b"\x05\x03\0\1"], "destination_ip_unroutable", 502),
    (socks5_parent.ask, [b"\x05\x00", b"\x05\x05\0\0"], "connection_refused", 502),
    (socks5_parent.ask, [b"\x05\x00", b"\x05\x06\0\0"], "connection_timeout", 504),
    (socks5_parent.ask, [b"\x05\x00", b"\x05\xee\0\0"], "destination_unavailable", 502),
    (socks4_parent.ask, [b"\x00\x5b" + bytes(6)], "destination_unavailable", 502),
]


@pytest.mark.parametrize(("ask", "pieces", "error", "status"), REFUSED)
def test_a_destination_is_refused(ask: Ask, pieces: list[bytes], error: str, status: int) -> None:
    turns = [(b"", piece) for piece in pieces]
    with pytest.raises(Refused) as caught:
        asyncio.run(converse(ask, None, turns, pieces))
    assert (caught.value.error, caught.value.status) == (error, status)


WRONG: list[tuple[Ask, list[bytes], str]] = [
    (http_parent.ask, [b"SSH-2.0-OpenSSH\r\n\r\n"], "http_protocol_error"),
    (http_parent.ask, [b"\x05\x00\r\n\r\n"], "http_protocol_error"),
    (http_parent.ask, [b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000], "http_protocol_error"),
    (http_parent.ask, [b"HTTP/1.1 100 On\r\n\r\n" * 100], "http_protocol_error"),
    (socks5_parent.ask, [b"HT"], "http_protocol_error"),
    (socks5_parent.ask, [b"\x05\x02"], "http_protocol_error"),  # was not offered
    (socks5_parent.ask, [b"\x05\x00", b"\x04\x00\0\1" + bytes(6)], "http_protocol_error"),
    (socks5_parent.ask, [b"\x05\x00", b"\x05\x00\0\2" + bytes(6)], "http_protocol_error"),
    (socks4_parent.ask, [b"HTTP/1.1"], "http_protocol_error"),
]


@pytest.mark.parametrize(("ask", "pieces", "error"), WRONG)
def test_an_answer_that_is_wrong(ask: Ask, pieces: list[bytes], error: str) -> None:
    turns = [(b"", piece) for piece in pieces]
    with pytest.raises(Failure) as caught:
        asyncio.run(converse(ask, None, turns, pieces))
    assert caught.value.error == error
    assert not isinstance(caught.value, (Refused, Unauthorized))


@pytest.mark.parametrize(
    ("ask", "pieces", "credentials"),
    [
        (http_parent.ask, [b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\n\r\n"], None),
        (socks5_parent.ask, [b"\x05\xff"], None),
        (socks5_parent.ask, [b"\x05\x02", b"\x01\x01"], ("a", "b")),
    ],
)
def test_credentials_that_are_not_taken(ask: Ask, pieces: list[bytes], credentials: Any) -> None:
    turns = [(b"", piece) for piece in pieces]
    with pytest.raises(Unauthorized) as caught:
        asyncio.run(converse(ask, credentials, turns, pieces))
    assert caught.value.status == 502


def test_what_a_parent_of_our_kind_says_goes_on() -> None:
    answer = (
        b"HTTP/1.1 502 Bad Gateway\r\n"
        b'Proxy-Status: spliceproxy; error=dns_error; details="x.test"\r\n\r\n'
    )
    with pytest.raises(Refused) as caught:
        asyncio.run(converse(http_parent.ask, None, [(b"", answer)], [answer]))
    assert 'error=dns_error; details="x.test"' in caught.value.detail
    assert caught.value.received == 502


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("GET http://x.test/a?b HTTP/1.1", b"GET http://x.test/a?b HTTP/1.1"),
        ("GET http://x.test:8080 HTTP/1.1", b"GET http://x.test:8080/ HTTP/1.1"),
        ("GET http://[2001:db8::1]:81/ HTTP/1.1", b"GET http://[2001:db8::1]:81/ HTTP/1.1"),
        ("OPTIONS http://x.test HTTP/1.1", b"OPTIONS http://x.test HTTP/1.1"),
    ],
)
def test_a_request_that_a_parent_forwards(line: str, wanted: bytes) -> None:
    fields = "Host: wrong\r\nProxy-Authorization: Basic c2VjcmV0\r\nAccept: */*\r\n\r\n"
    head = parse_request(f"{line}\r\n{fields}".encode())
    written = origin_request(head, Body.NONE, b"me")
    sent = http_parent.forwarded(head, written, ("a", "b"))
    first, *rest, empty, last = sent.split(b"\r\n")
    assert first == wanted
    assert (empty, last) == (b"", b"")
    assert rest[0] == b"Host: " + wanted.split()[1][7:].rstrip(b"/").partition(b"/")[0]
    assert rest[1:] == [b"Accept: */*", b"Via: 1.1 me", b"Proxy-Authorization: Basic YTpi"]
