"""``stalled`` of the access log over real networks: a program that does not read, an origin that is
silent, a link that is slow, and one that loses packets. Each for a tunnel and for a request, in the
lane and on Python's road."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from counting_load import board_of
from harness import ProxyProcess, read_head, wait_for
from three_networks import Networks, networks

SECONDS = 1.2
"""How long somebody is kept waiting: what takes less than a second is not judged."""

HALF = 0.8
"""So long for each side, where neither is to blame."""

PIECE = b"x" * 65536


class Case:
    """One tunnel or request: ``client`` and ``server`` are the ends of its connections."""

    def __init__(self, kind: str, client: socket.socket, server: socket.socket) -> None:
        self.kind = kind
        self.client = client
        self.server = server

    # What the ends say: in a request bodies are chunks, for nobody knows how long they will be.

    def floods(self, sock: socket.socket, seconds: float) -> None:
        """Sends for so long, and what the other side then takes is the end of it."""
        chunk = PIECE if self.kind == "tunnel" else b"10000\r\n%b\r\n" % PIECE
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sock.sendall(chunk)
        if self.kind == "request":
            sock.sendall(b"0\r\n\r\n")
        else:
            sock.shutdown(socket.SHUT_WR)

    def begins_to_answer(self) -> None:
        if self.kind == "request":
            self.server.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")

    def drained(self, sock: socket.socket) -> None:
        """Reads up to the end."""
        data = b""
        while self.kind == "tunnel" or not data.endswith(b"0\r\n\r\n"):
            got = sock.recv(1 << 18)
            if not got:
                break
            data = (data + got)[-5:]

    def question(self) -> None:
        """A tunnel's client has said something, so that its origin has something to say."""
        if self.kind == "tunnel":
            self.client.sendall(b"?")
            assert self.server.recv(1) == b"?"


Play = Callable[[Case], None]


def _beside(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def downloads(case: Case) -> None:
    """Both programs do what they can."""
    case.begins_to_answer()
    reader = _beside(lambda: case.drained(case.client))
    case.floods(case.server, SECONDS)
    reader.join(30)


def a_client_that_does_not_read(case: Case) -> None:
    case.begins_to_answer()
    sender = _beside(lambda: case.floods(case.server, SECONDS))
    time.sleep(SECONDS)
    case.drained(case.client)
    sender.join(30)


def an_origin_that_is_silent(case: Case) -> None:
    case.question()
    time.sleep(SECONDS)
    case.begins_to_answer()
    case.floods(case.server, 0)
    case.drained(case.client)


def neither(case: Case) -> None:
    """Each for half of the time."""
    case.question()
    time.sleep(HALF)
    case.begins_to_answer()
    sender = _beside(lambda: case.floods(case.server, HALF))
    time.sleep(HALF)
    case.drained(case.client)
    sender.join(30)


def uploads(case: Case) -> None:
    reader = _beside(lambda: case.drained(case.server))
    case.floods(case.client, SECONDS)
    reader.join(30)
    ends(case)


def an_origin_that_does_not_read(case: Case) -> None:
    sender = _beside(lambda: case.floods(case.client, SECONDS))
    time.sleep(SECONDS)
    case.drained(case.server)
    sender.join(30)
    ends(case)


def a_client_that_sends_late(case: Case) -> None:
    time.sleep(SECONDS)
    case.floods(case.client, 0)
    case.drained(case.server)
    ends(case)


def ends(case: Case) -> None:
    """The answer to what was sent."""
    if case.kind == "request":
        case.server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert b" 200 " in read_head(case.client)


DOWN, UP = "GET", "POST"
BOTH = ("tunnel", "request")

CASES: list[tuple[Play, str, str, str, tuple[str, ...], str]] = [
    # the play, what is asked, the client's link, the origin's, for what, and who is to blame
    (a_client_that_does_not_read, DOWN, "quick", "quick", BOTH, "client"),
    (an_origin_that_is_silent, DOWN, "quick", "quick", BOTH, "origin"),
    (neither, DOWN, "quick", "quick", BOTH, "none"),
    (downloads, DOWN, "slow", "quick", BOTH, "network"),
    (downloads, DOWN, "lossy", "quick", BOTH, "network"),
    (uploads, UP, "quick", "slow", BOTH, "network"),
    (an_origin_that_does_not_read, UP, "quick", "quick", BOTH, "origin"),
    (a_client_that_sends_late, UP, "quick", "quick", ("request",), "client"),
]


@pytest.fixture(scope="module")
def three() -> Iterator[Networks]:
    with networks() as made:
        yield made


def played(three: Networks, port: int, one: Any, kind: str) -> int:
    """Plays a case; the port of its origin, by which its line is found."""
    play, method, client_link, origin_link, _, _ = one
    with three.listen() as origin, three.connect(client_link, port) as client:
        origin.settimeout(20)
        at = f"{three.to_origin[origin_link]}:{origin.getsockname()[1]}"
        if kind == "tunnel":
            head = f"CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n\r\n"
        else:
            chunked = "Transfer-Encoding: chunked\r\n" if method == UP else ""
            head = f"{method} http://{at}/ HTTP/1.1\r\nHost: {at}\r\n{chunked}\r\n"
        client.sendall(head.encode())
        with origin.accept()[0] as server:
            if kind == "tunnel":
                assert b" 200 " in read_head(client)
            else:
                read_head(server)
            for sock in (client, server):
                sock.settimeout(30)
            play(Case(kind, client, server))
        return int(at.rpartition(":")[2])


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_who_is_to_blame(three: Networks, tmp_path: Path, engine: str) -> None:
    """All at the same time, for most of that is waiting."""
    proxy = ProxyProcess(
        tmp_path, "--engine", engine, "--guard", "off", "--log-format", "json",
        listen=("0.0.0.0:0",), prefix=three.proxy.prefix,
    )  # fmt: skip
    ports: dict[int, tuple[str, str]] = {}
    errors: list[BaseException] = []

    def one(case: Any, kind: str) -> None:
        try:
            port = played(three, proxy.port, case, kind)
            ports[port] = f"{case[0].__name__} {case[2]} {case[3]} {kind}", case[-1]
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [
        threading.Thread(target=one, args=(case, kind)) for case in CASES for kind in case[4]
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        if errors:
            raise errors[0]
        wait_for(lambda: len(proxy.access()) == len(threads), "all lines")
        lines = [json.loads(line) for line in proxy.access()]
        counted = board_of(proxy.process.pid).totals()
    finally:
        proxy.kill()
    found = {}
    for line in lines:
        _, _, port = line["target"].rstrip("/").rpartition(":")
        found[ports[int(port)][0]] = line["stalled"], line
    wrong = {name: found[name] for name, who in ports.values() if found[name][0] != who}
    assert not wrong, json.dumps(wrong, indent=1)
    assert "Traceback" not in proxy.stderr()
    # The road that is meant was taken by all of them.
    requests = sum(kind == "request" for case in CASES for kind in case[4])
    assert counted["lane_requests"][()] == (requests if engine == "native" else 0)
    assert not any(counted["given_back"].values())
