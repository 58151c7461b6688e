"""Requests with a body among faults: each scenario is played in the lane and without it, as in
test_plain_faults."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from fault_peers import Reader, head, leave, reset, send_what_goes
from harness import ProxyProcess, read_exactly
from test_plain_faults import ENGINES, STALL, Play, Scenario, _proxies, answer, compare, fin, played

BIG = 4 << 20
"""Bytes of a body that no buffer holds."""

INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"


@pytest.fixture(scope="module")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ProxyProcess]]:
    yield from _proxies(tmp_path_factory)


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ProxyProcess]]:
    yield from _proxies(tmp_path_factory, *STALL)


def post(play: Play, length: int, *fields: str, method: str = "POST") -> bytes:
    return play.request("/post", f"Content-Length: {length}", *fields, method=method)


def warmed(scenario: Scenario, method: str = "POST") -> Scenario:
    """The same, behind a request that allows those of its method."""

    def played(play: Play) -> None:
        with play.proxy.connect() as client:
            client.sendall(play.request("/warm", "Content-Length: 1", method=method, body="x"))
            with play.accept() as server:
                head(server)
                body = b"" if method == "HEAD" else b"ok"
                server.sendall(answer(body, "Connection: close"))
                assert Reader(client).answer(method).body == body
        scenario(play)

    return played


ANSWERS: dict[str, tuple[bytes, Callable[[socket.socket], None]]] = {
    "ok": (answer(b"hello"), fin),
    "interim": (INTERIM + answer(b"hello"), fin),
    "interim, then none": (INTERIM, fin),
    "interim, then a part": (INTERIM + answer()[:20], fin),
    "interim, then another length": (INTERIM + answer(b"hello", "X: y", length=9), fin),
    "no date": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", fin),
    "bad": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", fin),
    "until close": (b"HTTP/1.1 200 OK\r\n\r\nhello", fin),
    "none": (b"", fin),
    "reset": (b"", reset),
    "fin in the head": (answer()[:30], fin),
    "fin in the body": (answer(b"hello", length=9), fin),
    "reset in the body": (answer(b"hello", length=9), reset),
    "413": (answer(b"no", "Connection: close", status="413 Too Large"), fin),
    "big": (answer(b"x" * BIG), fin),
}


@pytest.mark.parametrize("body", ["all", "part"])
@pytest.mark.parametrize("name", ANSWERS)
def test_answers(proxies: dict[str, ProxyProcess], name: str, body: str) -> None:
    """To a request that is there, and to one of whose body a part is still to come."""
    data, end = ANSWERS[name]

    def scenario(play: Play) -> None:
        client = play.client()
        client.sendall(post(play, 10, "Connection: close") + b"0123")
        server = play.accept()
        play.heard(server)
        if body == "all":
            client.sendall(b"456789")
            play.saw("origin", read_exactly(server, 10))
        else:
            play.saw("origin", read_exactly(server, 4))

        def send() -> None:
            send_what_goes(server, data)
            end(server)

        sender = threading.Thread(target=send)  # it waits until the client reads
        sender.start()
        play.until_end(client)
        sender.join(20)

    compare(proxies, warmed(scenario))


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "REPORT", "GET", "HEAD"])
def test_methods(proxies: dict[str, ProxyProcess], method: str) -> None:
    def scenario(play: Play) -> None:
        client = play.client()
        client.sendall(post(play, 4, "Connection: close", method=method) + b"body")
        server = play.accept()
        play.heard(server)
        play.saw("origin", read_exactly(server, 4))
        server.sendall(answer(b"" if method == "HEAD" else b"ok"))
        play.until_end(client)

    compare(proxies, warmed(scenario, method))


@pytest.mark.parametrize("reads", [True, False], ids=["read", "unread"])
def test_a_big_body(proxies: dict[str, ProxyProcess], reads: bool) -> None:
    """All of it is read by the origin, or it answers early and reads on."""
    data = bytes(range(256)) * (BIG // 256)

    def scenario(play: Play) -> None:
        client = play.client()
        sender = threading.Thread(
            target=send_what_goes, args=(client, post(play, BIG, "Connection: close") + data)
        )
        sender.start()
        server = play.accept()
        play.heard(server)
        if reads:
            play.saw("origin", read_exactly(server, BIG) == data)
            server.sendall(answer(b"ok"))
        else:
            play.saw("origin", read_exactly(server, BIG // 2) == data[: BIG // 2])
            server.sendall(answer(b"", length=2))
            play.saw("origin", read_exactly(server, BIG // 2) == data[BIG // 2 :])
            server.sendall(b"ok")
        reader = Reader(client)
        play.saw("client", reader.answer())
        sender.join(20)
        play.saw("client", [reader.rest(), reader.end])

    compare(proxies, warmed(scenario))


@pytest.mark.parametrize("how", ["fin", "reset", "half"])
@pytest.mark.parametrize("answered", [False, True], ids=["no answer", "early answer"])
def test_a_client_leaves(proxies: dict[str, ProxyProcess], how: str, answered: bool) -> None:
    def scenario(play: Play) -> None:
        client = play.client()
        client.sendall(post(play, 10) + b"0123")
        server = play.accept()
        play.heard(server)
        play.saw("origin", read_exactly(server, 4))
        if answered:
            server.sendall(answer(b"hello", length=9))
            play.saw("client", head(client))
            play.saw("client", read_exactly(client, 5))
        if how != "half":
            if answered and how == "fin":
                server.sendall(b"more")
            leave(client, how)
        else:
            client.shutdown(socket.SHUT_WR)
            if answered:
                server.sendall(b"more")
            play.until_end(client)
        play.saw("origin", Reader(server).rest())

    compare(proxies, warmed(scenario))


@pytest.mark.parametrize("end", [fin, reset], ids=["fin", "reset"])
@pytest.mark.parametrize("said", [b"", answer(b"no", "Connection: close", status="413 Too Large")])
def test_an_origin_that_takes_no_more(
    proxies: dict[str, ProxyProcess], end: Callable[[socket.socket], None], said: bytes
) -> None:
    """It ends in the middle of a body. What it has said before is passed on, if it can be."""

    def scenario(play: Play) -> None:
        client = play.client()
        with contextlib.suppress(ConnectionError):
            client.sendall(post(play, BIG) + b"x" * 100_000)
        server = play.accept()
        play.heard(server)
        read_exactly(server, 100_000)
        server.sendall(said)
        if said:
            play.saw("client", head(client))
        end(server)
        play.until_end(client)

    compare(proxies, warmed(scenario))


@pytest.mark.parametrize("part", [b"", b"0123", b"0123456789"])
def test_nobody_goes_on(impatient: dict[str, ProxyProcess], part: bytes) -> None:
    """408 where the client does not send, 504 where the origin does not answer."""

    def scenario(play: Play) -> None:
        client = play.client()
        client.sendall(post(play, 10) + part)
        server = play.accept()
        play.heard(server)
        play.saw("origin", read_exactly(server, len(part)))
        play.until_end(client)
        play.saw("origin", Reader(server).rest())

    compare(impatient, warmed(scenario))


def test_an_origin_that_does_not_read(impatient: dict[str, ProxyProcess]) -> None:
    def scenario(play: Play) -> None:
        client = play.client()
        size = 64 << 20
        sender = threading.Thread(
            target=send_what_goes, args=(client, post(play, size) + b"x" * size)
        )
        sender.start()
        server = play.accept()
        play.heard(server)
        reader = Reader(client)
        got = reader.answer()
        play.saw("client", (got.status, got.error, got.body))
        with contextlib.suppress(OSError):  # it may have been reset
            client.shutdown(socket.SHUT_RDWR)
        sender.join(20)
        reset(server)

    # How much of the body was taken is chance.
    native, copy = (played(impatient[engine], warmed(scenario)) for engine in ENGINES)
    assert native[0] == copy[0]


def test_a_client_that_waits_for_100(proxies: dict[str, ProxyProcess]) -> None:
    def scenario(play: Play) -> None:
        client = play.client()
        client.sendall(post(play, 4, "Expect: 100-continue", "Connection: close"))
        server = play.accept()
        play.heard(server)
        server.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        play.saw("client", head(client))
        client.sendall(b"body")
        play.saw("origin", read_exactly(server, 4))
        server.sendall(answer(b"ok"))
        play.until_end(client)

    compare(proxies, warmed(scenario))
