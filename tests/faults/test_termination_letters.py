"""How each request and tunnel has ended, in two letters, and who has kept it waiting: each scenario
on the lane and on Python's road, which must say the same. Each line is valid by the schema."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from counting_load import board_of
from fault_peers import (
    Reader,
    accept,
    connect_request,
    deaf_address,
    head,
    request,
    reset,
    response,
    send_what_goes,
)
from harness import ProxyProcess, read_all, refused_port, wait_for
from json_lines import LINE

from spliceproxy.admin.client import Client
from spliceproxy.admin.sampling import totals_of
from spliceproxy.config import Address
from spliceproxy.observe.outcome import OF_ERRORS, OF_LETTERS, OUTCOMES

ENGINES = ("native", "copy")
RULE = "[[rule]]\nid = 'no'\naction = 'deny'\nhosts = ['denied.test']\n"
LIMITS = (
    *("--timeout-head", "0.7", "--timeout-dial", "0.7"),
    *("--timeout-idle", "1.3", "--timeout-half-close", "0.7"),
)
BIG = 64 << 20
"""More than the buffers of the kernel take."""


class Case:
    """A client, and a listener that nobody serves, which is its origin."""

    def __init__(
        self, proxy: ProxyProcess, client: socket.socket, origin: socket.socket, before: int = 0
    ) -> None:
        self.proxy = proxy
        self.before = before  # lines in the log
        self.client = client
        self.listener = origin
        self.where = origin.getsockname()

    def ask(self, *fields: str, method: str = "GET", body: bytes = b"") -> None:
        self.client.sendall(request(self.where, *fields, method=method, body=body))

    def served(self) -> socket.socket:
        """The origin's end of the connection for a request, whose head it has read."""
        server = accept(self.listener)
        head(server)
        return server

    def tunnel(self) -> socket.socket:
        self.client.sendall(connect_request(self.where))
        server = accept(self.listener)
        assert head(self.client).startswith(b"HTTP/1.1 200 ")
        return server


Scenario = Callable[[Case], Any]


def ok(case: Case) -> None:
    case.ask()
    with case.served() as server:
        server.sendall(response())
        assert Reader(case.client).answer().status == 200


def sends(data: bytes, status: int = 0) -> Scenario:
    """The client sends this, and gets such an answer."""

    def play(case: Case) -> None:
        case.client.sendall(data)
        if status:
            assert Reader(case.client).answer().status == status

    return play


def leaves_in_head(case: Case) -> None:
    case.client.sendall(b"GET http://a.te")
    case.client.shutdown(socket.SHUT_WR)
    Reader(case.client).rest()


def refused(case: Case) -> None:
    with refused_port() as port:
        case.client.sendall(request(("127.0.0.1", port)))
        assert Reader(case.client).answer().status == 502


def refused_tunnel(case: Case) -> None:
    with refused_port() as port:
        case.client.sendall(connect_request(("127.0.0.1", port)))
        assert Reader(case.client).answer("CONNECT").status == 502


def deaf(case: Case) -> None:
    with deaf_address() as where:
        case.client.sendall(request(where))
        assert Reader(case.client).answer().status == 504


def leaves_while_dialling(case: Case) -> None:
    with deaf_address() as where:
        case.client.sendall(request(where))
        case.client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            case.client.recv(1)
        reset(case.client)
        wait_for(lambda: len(case.proxy.access()) > case.before, "the line")


def itself(case: Case) -> None:
    case.client.sendall(request(("127.0.0.1", case.proxy.port)))
    assert Reader(case.client).answer().status == 502


def leaves_before_the_answer(case: Case) -> None:
    case.ask()
    with case.served() as server:
        reset(case.client)
        server.recv(1)


def leaves_in_the_answer(case: Case) -> None:
    case.ask()
    with case.served() as server:
        server.sendall(response(b"x" * 1000)[:-500])
        assert case.client.recv(10)
        reset(case.client)
        server.recv(1)


def answers(data: bytes) -> Scenario:
    """The origin says this and ends."""

    def play(case: Case) -> None:
        case.ask("Connection: close")
        with case.served() as server:
            server.sendall(data)
        Reader(case.client).rest()

    return play


def stalls(data: bytes) -> Scenario:
    """The origin says this, and no more."""

    def play(case: Case) -> None:
        case.ask("Connection: close")
        with case.served() as server:
            server.sendall(data)
            Reader(case.client).rest()

    return play


def takes_no_answer(case: Case) -> None:
    case.ask()
    with case.served() as server:
        sender = threading.Thread(target=send_what_goes, args=(server, response(b"x" * BIG)))
        sender.start()
        sender.join(20)
        assert not sender.is_alive()


def ends_its_body_early(case: Case) -> None:
    case.ask("Content-Length: 100000", method="POST", body=b"x" * 10)
    with case.served() as server:
        case.client.shutdown(socket.SHUT_WR)
        read_all(server)


def stalls_its_body(case: Case) -> None:
    case.ask("Content-Length: 100000", method="POST", body=b"x" * 10)
    with case.served() as server:
        read_all(server)
        assert Reader(case.client).answer().status == 408


def takes_no_body(case: Case) -> None:
    case.ask(f"Content-Length: {BIG}", method="POST")
    with case.served():
        sender = threading.Thread(target=send_what_goes, args=(case.client, b"x" * BIG))
        sender.start()
        assert Reader(case.client).answer().status == 504
        with contextlib.suppress(OSError):  # the proxy may have closed it
            case.client.shutdown(socket.SHUT_RDWR)
        sender.join(20)


def closes(case: Case) -> None:
    with case.tunnel():
        case.client.shutdown(socket.SHUT_WR)
    assert read_all(case.client) == b""


def resets_the_tunnel(case: Case) -> None:
    with case.tunnel() as server:
        reset(case.client)
        Reader(server).rest()


def is_reset_in_the_tunnel(case: Case) -> None:
    reset(case.tunnel())
    Reader(case.client).rest()


def asks_in_the_tunnel(case: Case) -> None:
    with case.tunnel() as server:
        case.client.sendall(b"?")
        assert server.recv(1) == b"?"
        Reader(case.client).rest()


def answers_in_the_tunnel(case: Case) -> None:
    with case.tunnel() as server:
        case.client.sendall(b"?")
        assert server.recv(1) == b"?"
        server.sendall(b"!")
        assert case.client.recv(1) == b"!"
        Reader(case.client).rest()


def half_closes(case: Case) -> None:
    with case.tunnel() as server:
        case.client.shutdown(socket.SHUT_WR)
        assert server.recv(1) == b""
        Reader(case.client).rest()


def is_half_closed(case: Case) -> None:
    with case.tunnel() as server:
        server.shutdown(socket.SHUT_WR)
        assert case.client.recv(1) == b""
        Reader(server).rest()


def takes_nothing_of_the_tunnel(case: Case) -> None:
    with case.tunnel() as server:
        send_what_goes(server, b"x" * BIG)


DENIED = b"GET http://denied.test/ HTTP/1.1\r\nHost: denied.test\r\n\r\n"
DENIED_TUNNEL = b"CONNECT denied.test:443 HTTP/1.1\r\nHost: denied.test:443\r\n\r\n"
CUT = response(b"x" * 1000)[:-500]

CASES: dict[str, tuple[Scenario, str, str | None]] = {
    "ok": (ok, "--", None),
    "a tunnel": (closes, "--", None),
    "denied": (sends(DENIED, 403), "PQ", None),
    "a tunnel denied": (sends(DENIED_TUNNEL, 403), "PQ", None),
    "malformed": (sends(b"GET\r\n\r\n", 400), "PR", None),
    "no proxy request": (sends(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400), "PQ", None),
    "the client leaves in its head": (leaves_in_head, "CR", None),
    "a head that is late": (sends(b"GET http://a.te", 408), "cR", None),
    "no such name": (sends(b"GET http://a..test/ HTTP/1.0\r\n\r\n", 502), "SQ", None),
    "refused": (refused, "SC", None),
    "a tunnel refused": (refused_tunnel, "SC", None),
    "nobody there": (deaf, "sC", None),
    "the client leaves while it is dialled": (leaves_while_dialling, "CC", None),
    "the proxy itself": (itself, "PC", None),
    "the client leaves before the answer": (leaves_before_the_answer, "CH", None),
    "no answer": (answers(b""), "SH", None),
    "half a head": (answers(b"HTTP/1.1 200"), "SH", None),
    "a bad head": (answers(b"HTTP/1.1 200 OK\r\nA: \0\r\n\r\n"), "SH", None),
    "an origin that is silent": (stalls(b""), "sH", "origin"),
    "the client leaves in the answer": (leaves_in_the_answer, "CD", None),
    "a cut answer": (answers(CUT), "SD", None),
    "a bad chunk": (answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx"), "SD", None),
    "an answer that stalls": (stalls(CUT), "sD", "origin"),
    "an answer that is not taken": (takes_no_answer, "cD", None),
    "the client ends its body early": (ends_its_body_early, "CH", None),
    "a body that stalls": (stalls_its_body, "cH", "client"),
    "a body that is not taken": (takes_no_body, "sH", None),
    "the client resets a tunnel": (resets_the_tunnel, "CD", None),
    "the origin resets a tunnel": (is_reset_in_the_tunnel, "SD", None),
    "a tunnel without an answer": (asks_in_the_tunnel, "sD", "origin"),
    "a tunnel without a question": (answers_in_the_tunnel, "cD", "none"),
    "an origin that does not end": (half_closes, "sD", None),
    "a client that does not end": (is_half_closed, "cD", None),
    "a tunnel that is not taken": (takes_nothing_of_the_tunnel, "cD", None),
}  # fmt: skip


@pytest.fixture(scope="module", params=ENGINES)
def proxy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ProxyProcess]:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "proxy.toml").write_text(RULE)
    config = "--config", str(folder / "proxy.toml"), "--log-format", "json"
    # Whoever may ask has each failure added up.
    admin = "--admin", f"unix:{folder / 'admin'}"
    made = ProxyProcess(folder, "--engine", request.param, *config, *LIMITS, *admin)
    try:
        yield made
        stats = Client(Address(path=str(folder / "admin")), "").get("/stats.json")
        assert sum(one["total"] for one in stats["failures"]) == stats["totals"]["failed"]
    finally:
        made.kill()
    assert "Traceback" not in made.stderr()
    for line in made.access():
        LINE.validate(json.loads(line))


def whole(proxy: ProxyProcess, number: int) -> Any:
    """A line, when all of it is there."""
    wait_for(lambda: proxy.access_path.read_text().count("\n") > number, "the line")
    return json.loads(proxy.access()[number])


def outcomes(totals: dict[str, int]) -> list[int]:
    return [totals[name] for name in OUTCOMES]


@pytest.mark.parametrize("name", CASES)
def test_letters(proxy: ProxyProcess, name: str) -> None:
    play, letters, stalled = CASES[name]
    before = len(proxy.access())
    board = board_of(proxy.process.pid)
    counted = totals_of(board.totals())
    with socket.create_server(("127.0.0.1", 0)) as origin, proxy.connect() as client:
        origin.settimeout(20)
        client.settimeout(20)
        play(Case(proxy, client, origin, before))
        line = whole(proxy, before)
    assert line["termination"] == letters
    if stalled is not None:
        assert line["stalled"] == stalled
    outcome = OF_ERRORS[line["error"]] if line["error"] else OF_LETTERS[letters[0]]
    counted[outcome] += 1
    wait_for(lambda: outcomes(totals_of(board.totals())) == outcomes(counted), f"one {outcome}")
    if letters[1] in "HD-" and line["method"] and line["peer"]:
        assert line["total_us"] >= line["dial_us"] + line["first_byte_us"]
    assert (line["rule"], line["error"]) == (
        ("no", "http_request_denied") if letters == "PQ" and line["status"] == 403
        else (None, line["error"])
    )  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
def test_what_an_operator_ends_has_not_failed(
    new_proxy: Callable[..., ProxyProcess], origin: socket.socket, tmp_path: Path, engine: str
) -> None:
    """A request that waits for its answer, and a tunnel."""
    admin = Client(Address(path=str(tmp_path / "admin")), "")
    proxy = new_proxy(
        *("--engine", engine, "--log-format", "json", "--admin", f"unix:{tmp_path / 'admin'}")
    )
    first, second = proxy.connect(), proxy.connect()
    with first, second:
        case = Case(proxy, first, origin)
        with case.tunnel():
            case.client = second
            case.ask()
            with case.served():
                assert admin.delete("/tunnels?client=127.0.0.1")["killed"] == 2
                lines = [whole(proxy, number) for number in range(2)]
    assert sorted(line["termination"] for line in lines) == ["KD", "KH"]
    stats = admin.get("/stats.json")
    assert outcomes(stats["totals"]) == [0, 0, 0, 2]
    assert stats["failures"] == stats["denials"] == []
    assert stats["requests_cut"] == [{"by": "operator", "total": 1}]
    assert stats["tunnels_ended"] == [{"reason": "killed", "total": 1}]


@pytest.mark.parametrize("engine", ENGINES)
def test_who_has_stalled_what_an_operator_ends(
    new_proxy: Callable[..., ProxyProcess], origin: socket.socket, tmp_path: Path, engine: str
) -> None:
    """The wait that is open at the end counts, though nothing has happened for long."""
    admin = Client(Address(path=str(tmp_path / "admin")), "")
    proxy = new_proxy(
        *("--engine", engine, "--log-format", "json", "--admin", f"unix:{tmp_path / 'admin'}")
    )
    with proxy.connect() as client, Case(proxy, client, origin).tunnel():
        client.settimeout(0.3)
        with contextlib.suppress(OSError):
            client.sendall(b"x" * BIG)
        time.sleep(1.5)  # more than a gap in a flow of bytes
        assert admin.delete("/tunnels?client=127.0.0.1")["killed"] == 1
        line = whole(proxy, 0)
    assert (line["termination"], line["stalled"]) == ("KD", "origin")


@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_drain_ends(
    new_proxy: Callable[..., ProxyProcess], origin: socket.socket, engine: str
) -> None:
    """A request that waits for its answer, and two tunnels."""
    proxy = new_proxy("--engine", engine, "--log-format", "json", "--timeout-drain", "0.3")
    first, second = proxy.connect(), proxy.connect()
    with first, second:
        case = Case(proxy, first, origin)
        with case.tunnel():
            case.client = second
            case.ask()
            with case.served():
                proxy.process.send_signal(signal.SIGTERM)
                lines = [whole(proxy, number) for number in range(2)]
    assert sorted(line["termination"] for line in lines) == ["DD", "DH"]
