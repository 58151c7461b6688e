"""Requests that move to another process while their answer is awaited, or their bodies are on
their way: the client and the origin notice nothing, and each has one line in the log."""

from __future__ import annotations

import random
import select
import socket
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from harness import read_head, wait_for
from moving_rig import PATIENCE, Workers, exactly

SIZE = 6 << 20
BODY = random.Random(3).randbytes(SIZE)


@pytest.fixture(params=["native-native", "native-copy", "copy-native"])
def workers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workers]:
    here, _, there = request.param.partition("-")
    made = Workers((here, there), tmp_path / "log", log_format="json")
    yield made
    made.close()


class Conversation:
    """A client, and the origin that it has asked."""

    def __init__(self, workers: Workers, *, known: bool = True) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(PATIENCE)
        self.host = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.client = socket.create_connection(workers.address, PATIENCE)
        if known:  # the next request is the lane's alone
            self.ask("GET")
            self.accept()
            assert read_head(self.origin).startswith(b"GET ")
            self.origin.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            assert read_head(self.client).startswith(b"HTTP/1.1 200 ")
            assert exactly(self.client, 2) == b"ok"

    def accept(self) -> None:
        self.origin, _ = self._server.accept()
        self.origin.settimeout(PATIENCE)

    def ask(self, method: str, fields: str = "", minor: int = 1) -> None:
        head = f"{method} http://{self.host}/x HTTP/1.{minor}\r\nHost: {self.host}\r\n{fields}\r\n"
        self.client.sendall(head.encode())

    def again(self) -> None:
        """The client's connection still serves."""
        self.ask("GET", "X-Again: yes\r\n")
        head = self.head_of_any()
        assert b"X-Again" in head
        self.origin.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagain")
        assert read_head(self.client).startswith(b"HTTP/1.1 200 ")
        assert exactly(self.client, 5) == b"again"

    def head_of_any(self) -> bytes:
        """The next head on this connection to the origin, or on a new one."""
        self._server.setblocking(False)
        found: list[bytes] = []

        def come() -> bool:
            try:
                self.origin.settimeout(0.01)
                found.append(read_head(self.origin))
                assert found[-1], "this one is closed"
            except (TimeoutError, ConnectionError, AssertionError):
                try:
                    self.origin, _ = self._server.accept()
                except BlockingIOError:
                    return False
                self.origin.settimeout(PATIENCE)
                found.append(read_head(self.origin))
            self.origin.settimeout(PATIENCE)
            return bool(found[-1])

        wait_for(come, "a request")
        return found[-1]

    def close(self) -> None:
        self.client.close()
        self.origin.close()
        self._server.close()


class Mover:
    """Gives what there is to the other process, and back, as often as it is asked."""

    def __init__(self, workers: Workers) -> None:
        self._sides = [workers.here, workers.there]

    def move(self) -> None:
        def given() -> bool:
            answer = self._sides[0].ask("give")
            assert answer.get("kept", 0) == 0
            return bool(answer["gave"] == 1)

        wait_for(given, "something that can move")
        self._sides.reverse()

    def in_vain(self) -> None:
        """The taker refuses it."""
        self._sides[1].ask("refuse 1")

        def kept() -> bool:
            return bool(self._sides[0].ask("give").get("kept") == 1)

        wait_for(kept, "something that can move")
        self._sides[1].ask("refuse 0")


def send(sock: socket.socket, data: bytes) -> threading.Thread:
    thread = threading.Thread(target=sock.sendall, args=(data,), daemon=True)
    thread.start()
    return thread


HEADS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: %d\r\n\r\n" % SIZE,
    "chunked": b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nTransfer-Encoding: chunked\r\n\r\n",
    "close": b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\n\r\n",
}


def framed(kind: str) -> list[bytes]:
    """The body in a few parts, as the origin sends it."""
    parts = [BODY[at : at + SIZE // 4] for at in range(0, SIZE, SIZE // 4)]
    if kind != "chunked":
        return parts
    # One chunk of each part, so that a move finds a large one that is not over.
    return [b"%x\r\n%b\r\n" % (len(part), part) for part in parts[:-1]] + [
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(parts[-1]), parts[-1])
    ]


SMALL = [b"abc", b"\x00" * 700, b"d", b"efgh" * 100]
"""Parts of a body that is too small for the relay."""


def unframed(sock: socket.socket, kind: str, size: int = sum(map(len, SMALL))) -> bytes:
    """A body of this size, as its receiver gets it."""
    return exactly(sock, size) if kind == "length" else body_of(sock, kind)


def body_of(client: socket.socket, kind: str) -> bytes:
    """All of it, as the client gets it."""
    if kind == "length":
        return exactly(client, SIZE)
    got = bytearray()
    if kind == "close":
        while part := client.recv(1 << 18):
            got += part
        return bytes(got)
    while True:
        line = bytearray()
        while not line.endswith(b"\r\n"):
            line += exactly(client, 1)
        size = int(line, 16)
        got += exactly(client, size)
        assert exactly(client, 2) == b"\r\n"
        if not size:
            return bytes(got)


@pytest.mark.parametrize("kind", ["length", "chunked", "close"])
def test_a_download(workers: Workers, kind: str) -> None:
    talk = Conversation(workers)
    mover = Mover(workers)
    talk.ask("GET")
    head = talk.head_of_any()
    assert head.startswith(b"GET ")
    first, *rest = framed(kind)
    received: list[bytes] = []
    reading = threading.Event()

    def read() -> None:
        read_head(talk.client)
        reading.set()
        received.append(body_of(talk.client, kind))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    send(talk.origin, HEADS[kind] + first[: len(first) // 2]).join(PATIENCE)
    assert reading.wait(PATIENCE)
    mover.move()
    send(talk.origin, first[len(first) // 2 :] + rest[0][: len(rest[0]) // 2]).join(PATIENCE)
    mover.in_vain()
    mover.move()
    send(talk.origin, rest[0][len(rest[0]) // 2 :] + rest[1][:200_000]).join(PATIENCE)
    mover.move()
    send(talk.origin, rest[1][200_000:] + rest[2]).join(PATIENCE)
    if kind == "close":
        talk.origin.shutdown(socket.SHUT_WR)
    reader.join(PATIENCE)
    assert received == [BODY]
    if kind == "length":
        talk.again()
    talk.close()
    lines = workers.lines(3 if kind == "length" else 2)
    assert len(lines) == (3 if kind == "length" else 2)
    line = lines[1]
    assert (line["status"], line["type"], line["termination"]) == (200, "a/b", "--")
    assert line["out_copied"] + line["out_spliced"] >= SIZE
    assert line["out_copied"] + line["out_spliced"] < SIZE + 1000
    assert len({one["id"] for one in lines}) == len(lines)


@pytest.mark.parametrize("kind", ["length", "chunked"])
def test_an_upload(workers: Workers, kind: str) -> None:
    talk = Conversation(workers)
    mover = Mover(workers)
    fields = f"Content-Length: {SIZE}\r\n" if kind == "length" else "Transfer-Encoding: chunked\r\n"
    first, *rest = framed(kind)
    talk.ask("PUT", fields)
    talk.client.sendall(first[:100])
    head = talk.head_of_any()
    assert head.startswith(b"PUT ")
    received: list[bytes] = []
    reader = threading.Thread(
        target=lambda: received.append(body_of(talk.origin, kind)), daemon=True
    )
    reader.start()
    send(talk.client, first[100 : len(first) // 2]).join(PATIENCE)
    mover.move()
    send(talk.client, first[len(first) // 2 :] + rest[0][:200_000]).join(PATIENCE)
    mover.in_vain()
    mover.move()
    send(talk.client, rest[0][200_000:]).join(PATIENCE)
    mover.move()
    send(talk.client, b"".join(rest[1:])).join(PATIENCE)
    reader.join(PATIENCE)
    assert received == [BODY]
    talk.origin.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok")
    assert read_head(talk.client).startswith(b"HTTP/1.1 201 ")
    assert exactly(talk.client, 2) == b"ok"
    talk.again()
    talk.close()
    line = workers.lines(3)[1]
    assert (line["status"], line["termination"]) == (201, "--")
    assert SIZE < line["in_copied"] + line["in_spliced"] < SIZE + 1000


def test_an_answer_that_is_awaited(workers: Workers) -> None:
    """A long poll."""
    talk = Conversation(workers)
    mover = Mover(workers)
    talk.ask("GET")
    assert talk.head_of_any().startswith(b"GET ")
    mover.in_vain()
    mover.move()
    talk.origin.sendall(b"HTTP/1.1 103 Early Hints\r\nX-Early: yes\r\n\r\nHTTP/1.1 2")
    assert b"X-Early" in read_head(talk.client)
    mover.move()
    mover.in_vain()
    mover.move()
    talk.origin.sendall(b"00 OK\r\nContent-Length: 4\r\n\r\nlate")
    assert read_head(talk.client).startswith(b"HTTP/1.1 200 ")
    assert exactly(talk.client, 4) == b"late"
    talk.again()
    talk.close()
    assert [line["status"] for line in workers.lines(3)] == [200, 200, 200]


def pieces(kind: str) -> list[bytes]:
    """What is sent of it between two moves: of chunks, ends where chunks do not."""
    if kind != "chunked":
        return SMALL
    data = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in SMALL) + b"0\r\n\r\n"
    # In a size, behind one, within a payload, before and within the CRLF behind it.
    ends = [0, 2, 4, 6, 7, 10, 100, data.index(b"d\r\n", 700), len(data) - 20, len(data)]
    return [data[one:two] for one, two in pairwise(ends)]


def check_brought(
    mover: Mover, sender: socket.socket, receiver: socket.socket, kind: str, parts: list[bytes]
) -> None:
    """The receiver gets all of SMALL, with a move in front of each of these parts of it."""
    got = bytearray()
    reader = threading.Thread(target=lambda: got.extend(unframed(receiver, kind)), daemon=True)
    reader.start()
    for part in parts:
        mover.move()
        sender.sendall(part)
    reader.join(PATIENCE)
    assert bytes(got) == b"".join(SMALL)


@pytest.mark.parametrize("kind", ["length", "chunked"])
def test_a_small_answer_in_pieces(workers: Workers, kind: str) -> None:
    """As of an origin that has something to say now and then."""
    talk = Conversation(workers)
    mover = Mover(workers)
    talk.ask("GET")
    assert talk.head_of_any().startswith(b"GET ")
    whole = b"".join(SMALL)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(whole)
    if kind == "chunked":
        head = HEADS["chunked"]
    talk.origin.sendall(head)
    assert b" 200 " in read_head(talk.client)
    check_brought(mover, talk.origin, talk.client, kind, pieces(kind))
    talk.again()
    talk.close()
    line = workers.lines(3)[1]
    assert (line["status"], line["termination"]) == (200, "--")
    assert 0 < line["out_copied"] + line["out_spliced"] - len(whole) < 1000


@pytest.mark.parametrize("kind", ["length", "chunked"])
def test_a_small_upload_in_pieces(workers: Workers, kind: str) -> None:
    talk = Conversation(workers)
    mover = Mover(workers)
    whole = b"".join(SMALL)
    length = f"Content-Length: {len(whole)}\r\n"
    talk.ask("PUT", length if kind == "length" else "Transfer-Encoding: chunked\r\n")
    first, *more = pieces(kind)
    talk.client.sendall(first)
    assert talk.head_of_any().startswith(b"PUT ")
    check_brought(mover, talk.client, talk.origin, kind, more)
    mover.move()
    talk.origin.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok")
    assert read_head(talk.client).startswith(b"HTTP/1.1 201 ")
    assert exactly(talk.client, 2) == b"ok"
    talk.again()
    talk.close()
    line = workers.lines(3)[1]
    assert (line["status"], line["termination"]) == (201, "--")
    assert 0 < line["in_copied"] + line["in_spliced"] - len(whole) < 1000


@pytest.mark.parametrize("kind", ["length", "chunked"])
def test_a_client_that_does_not_read(workers: Workers, kind: str) -> None:
    """What Python was about to send it goes along."""
    talk = Conversation(workers)
    mover = Mover(workers)
    talk.ask("GET")
    assert talk.head_of_any().startswith(b"GET ")
    part, count = b"x" * 900, 16000
    if kind == "length":
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(part) * count)
        body = part * count
    else:
        head, body = HEADS["chunked"], b"384\r\n%b\r\n" % part * count + b"0\r\n\r\n"
    sender = send(talk.origin, head + body)
    wait_for(lambda: talk.client.recv(1, socket.MSG_PEEK), "a first byte")
    mover.move()
    mover.move()
    mover.in_vain()
    mover.move()
    assert b" 200 " in read_head(talk.client)
    got = unframed(talk.client, kind, len(part) * count)
    assert got == part * count
    sender.join(PATIENCE)
    talk.again()
    talk.close()


@pytest.mark.parametrize("kind", ["length", "chunked"])
def test_an_origin_that_does_not_read(workers: Workers, kind: str) -> None:
    """What the relay has taken for it goes along, and is counted once."""
    talk = Conversation(workers)
    mover = Mover(workers)
    size = 48 << 20  # more than all buffers on its way can have (tcp_rmem, tcp_wmem)
    data = b"%x\r\n%b\r\n0\r\n\r\n" % (size, bytes(size))
    if kind == "length":
        data = bytes(size)
    fields = f"Content-Length: {size}\r\n" if kind == "length" else "Transfer-Encoding: chunked\r\n"
    talk.ask("PUT", fields)
    assert talk.head_of_any().startswith(b"PUT ")
    talk.origin.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    sender = send(talk.client, data)
    full = select.poll()
    full.register(talk.client, select.POLLOUT)
    wait_for(lambda: not full.poll(300), "a connection that takes no more")
    mover.move()
    mover.move()
    assert unframed(talk.origin, kind, size) == bytes(size)
    sender.join(PATIENCE)
    talk.origin.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok")
    assert read_head(talk.client).startswith(b"HTTP/1.1 201 ")
    assert exactly(talk.client, 2) == b"ok"
    talk.close()
    line = workers.lines(2)[1]
    head = len(f"PUT http://{talk.host}/x HTTP/1.1\r\nHost: {talk.host}\r\n{fields}\r\n")
    assert line["in_copied"] + line["in_spliced"] == head + len(data)


def test_the_next_request_is_there_already(workers: Workers) -> None:
    """A client that pipelines."""
    if workers.engines[0] != "native":
        pytest.skip("Python closes such connections to origins")
    talk = Conversation(workers)
    mover = Mover(workers)
    talk.ask("GET")
    assert read_head(talk.origin).startswith(b"GET ")
    talk.origin.sendall(HEADS["length"] + BODY[:1000])
    assert b" 200 " in read_head(talk.client)
    assert exactly(talk.client, 1000) == BODY[:1000]
    talk.ask("GET", "X-Next: yes\r\n")
    mover.move()
    sender = send(talk.origin, BODY[1000:])
    assert exactly(talk.client, SIZE - 1000) == BODY[1000:]
    sender.join(PATIENCE)
    assert b"X-Next: yes" in talk.head_of_any()
    talk.origin.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext")
    read_head(talk.client)
    assert exactly(talk.client, 4) == b"next"
    talk.close()


def test_an_answer_that_is_cut(workers: Workers) -> None:
    """It looks cut, wherever it is by then."""
    talk = Conversation(workers)
    mover = Mover(workers)
    talk.ask("GET")
    talk.head_of_any()
    sender = send(talk.origin, HEADS["length"] + BODY[: SIZE // 2])
    assert b" 200 " in read_head(talk.client)
    assert exactly(talk.client, SIZE // 2) == BODY[: SIZE // 2]
    sender.join(PATIENCE)
    mover.move()
    talk.origin.close()
    with pytest.raises((AssertionError, ConnectionError)):
        exactly(talk.client, 1)
    line = workers.lines(2)[1]
    assert line["termination"] == "SD"
    talk.close()
