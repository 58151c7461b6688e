"""What the board says of requests that were refused or have failed, of tunnels by how they ended,
and of what a worker did that was killed in the middle: what its clients know."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from counting_load import Account, Client, board_of, origins
from fault_peers import deaf_address, reset
from harness import ProxyProcess, refused_port, serving, wait_for

from spliceproxy.admin.sampling import totals_of
from spliceproxy.observe.board import Board

RULES = """
[[rule]]
id = "tried"
action = "deny"
methods = ["PATCH"]
report-only = true

[[rule]]
id = "ads"
action = "deny"
hosts = ["ads.example"]

[[rule]]
id = "here"
action = "allow"
hosts = ["127.0.0.1"]
"""

LIMITS = (
    *("--timeout-dial", "0.4", "--timeout-idle", "1.0", "--timeout-half-close", "0.5"),
    *("--guard", "off", "--access-log", "off"),
)

NewProxy = Callable[..., ProxyProcess]


def basic(pair: str) -> str:
    """A field."""
    return f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}\r\n"


RIGHT = basic("ada:word")


@pytest.fixture(params=["native", "copy"])
def proxy(new_proxy: NewProxy, tmp_path: Path, request: pytest.FixtureRequest) -> ProxyProcess:
    config = tmp_path / "proxy.toml"
    config.write_text(RULES)
    flags = "--config", str(config), "--auth", "ada:word", "--engine", request.param
    return new_proxy(*flags, *LIMITS, workers=2)


def some(board: Board, family: str) -> dict[tuple[str, ...], int]:
    return {values: number for values, number in board.totals()[family].items() if number}


def each(clients: int, work: Callable[[], None]) -> None:
    """So many at the same time."""
    errors: list[BaseException] = []

    def one() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if errors:
        raise errors[0]


def test_refusals_and_failures(proxy: ProxyProcess) -> None:
    account = Account()
    clients, rounds = 4, 2
    times = clients * rounds

    with origins() as (web, _), refused_port() as refused, deaf_address() as deaf:
        asked = (
            ("GET", f"http://{web}/size-9", "", 407),
            ("GET", f"http://{web}/size-9", "Proxy-Authorization: Basic !\r\n", 407),
            ("CONNECT", web, basic("eve:word"), 407),
            ("PATCH", f"http://{web}/size-9", RIGHT, 200),
            ("GET", "http://ads.example/", RIGHT, 403),
            ("GET", f"http://127.0.0.1:{refused}/", RIGHT, 502),
            ("GET", f"http://{deaf[0]}:{deaf[1]}/", RIGHT, 504),
            # No TCP leads to a broadcast address.
            ("CONNECT", "127.255.255.255:9", RIGHT, 502),
        )

        def work() -> None:
            for _ in range(rounds):
                for method, target, fields, status in asked:
                    with Client(proxy.port, account) as client:
                        assert client.request(method, target, fields=fields) == status, target

        each(clients, work)
        board = board_of(proxy.process.pid)
        wait_for(
            lambda: sum(board.totals()["requests"].values()) == sum(account.requests.values()),
            "all of them",
        )
    assert some(board, "requests") == dict(account.requests)
    assert some(board, "authentication_failures") == {
        ("missing",): times, ("malformed",): times, ("wrong",): times,
    }  # fmt: skip
    assert some(board, "decisions") == {
        ("report", "tried"): times,
        ("deny", "ads"): times,
        ("allow", "here"): 3 * times,
        ("allow", "default"): times,
    }
    assert some(board, "dial_errors") == {
        ("connection_refused",): times,
        ("connection_timeout",): times,
        ("destination_ip_unroutable",): times,
    }
    assert some(board, "errors") == {
        ("http_request_denied",): 4 * times,
        ("connection_refused",): times,
        ("connection_timeout",): times,
        ("destination_ip_unroutable",): times,
    }


def test_a_guesser_that_is_told_to_come_later(proxy: ProxyProcess) -> None:
    """Many guesses at a time, of which most are not checked."""
    asked = 60
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(proxy.connect()) for _ in range(asked)]
        for number, sock in enumerate(sockets):
            fields = basic(f"ada:guess-{number}")
            sock.sendall(f"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n".encode())
        board = board_of(proxy.process.pid)

        def throttled() -> int:
            return board.totals()["authentication_failures"][("throttled",)]

        wait_for(lambda: throttled() >= asked // 2, "those that are told so")
        said: Counter[bytes] = Counter()

        def told() -> bool:
            for sock in list(sockets):
                with contextlib.suppress(BlockingIOError):
                    said[sock.recv(12, socket.MSG_DONTWAIT)[9:]] += 1
                    sockets.remove(sock)
            return said[b"429"] == throttled()

        wait_for(told, "as many answers")


@contextlib.contextmanager
def hostile_ends() -> Iterator[str]:
    """An origin of tunnels: it resets at an ``r``, and never ends by itself."""

    def serve(connection: socket.socket) -> None:
        while got := connection.recv(1):
            if got == b"r":
                reset(connection)
                return
        with contextlib.suppress(OSError):  # it has ended, and waits until the proxy does
            connection.settimeout(30)
            while not connection.recv(1):
                gone.wait(0.05)
                if gone.is_set():
                    return

    gone = threading.Event()
    with serving(serve) as (host, port):
        try:
            yield f"{host}:{port}"
        finally:
            gone.set()


def test_tunnels_by_how_they_end(proxy: ProxyProcess) -> None:
    account = Account()
    clients = 3

    with origins() as (_, echoes), hostile_ends() as hostile:

        def opened(at: str) -> Client:
            client = Client(proxy.port, account)
            assert client.request("CONNECT", at, fields=RIGHT) == 200
            return client

        def work() -> None:
            with opened(echoes) as client:  # both sides end
                client.sock.shutdown(socket.SHUT_WR)
                assert client.receive() == b""
            reset(opened(echoes).sock)
            with opened(hostile) as client, contextlib.suppress(ConnectionResetError):
                client.sock.sendall(b"r")
                assert client.receive() == b""
            with opened(echoes) as client, contextlib.suppress(ConnectionResetError):
                assert client.receive() == b""  # until the proxy ends it
            with opened(hostile) as client, contextlib.suppress(ConnectionResetError):
                client.sock.shutdown(socket.SHUT_WR)
                assert client.receive() == b""

        each(clients, work)
        board = board_of(proxy.process.pid)
        wait_for(lambda: not board.totals()["tunnels"][()], "the end of all")
    assert board.totals()["tunnels_begun"][()] == 5 * clients
    assert some(board, "tunnels_ended") == {
        ("done",): clients,
        ("client-reset",): clients,
        ("origin-reset",): clients,
        ("idle-timeout",): clients,
        ("half-close-timeout",): clients,
    }
    assert some(board, "requests") == dict(account.requests)


NO_MEMORY = """
from errno import ENOMEM
from spliceproxy.forward import tunnel
ended = tunnel._ended
def cut(services, record, end):
    ended(services, record, end._replace(errno=ENOMEM))
tunnel._ended = cut
"""


def test_a_tunnel_that_is_cut_for_want_of_memory_counts_once(
    new_proxy: NewProxy, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_MEMORY)
    env = {"PYTHONPATH": str(tmp_path)}
    proxy = new_proxy("--engine", "copy", "--guard", "off", env=env)
    account = Account()
    with origins() as (web, _), hostile_ends() as hostile:
        with Client(proxy.port, account) as client:
            assert client.request("GET", f"http://{web}/size-9") == 200
        with Client(proxy.port, account) as client, contextlib.suppress(ConnectionResetError):
            assert client.request("CONNECT", hostile) == 200
            client.sock.sendall(b"r")
            assert client.receive() == b""
        board = board_of(proxy.process.pid)
        (line,) = (one for one in proxy.wait_access(2) if "CONNECT" in one)
    assert "error=proxy_internal_error" in line
    assert not board.totals()["tunnels"][()]
    totals = totals_of(board.totals())
    outcomes = {name: totals[name] for name in ("successful", "failed", "denied", "aborted")}
    assert outcomes == {"successful": 1, "failed": 1, "denied": 0, "aborted": 0}


def kill_worker(board: Board, worker: int) -> None:
    pid = board.read().worker(worker)["worker_pid"][()]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: board.read().worker(worker)["worker_pid"][()] not in (0, pid), "another")


def test_a_worker_that_is_killed_in_the_middle(proxy: ProxyProcess) -> None:
    """What was on its way then is counted or not; all that had an answer before is counted once."""
    account = Account()
    asked: Counter[str] = Counter()
    stop = threading.Event()
    clients, size = 4, 3000

    with origins() as (web, echoes):
        kinds = (
            ("GET", f"http://{web}/size-{size}", RIGHT, 200),
            ("PATCH", f"http://{web}/size-{size}", RIGHT, 200),
            ("GET", "http://ads.example/", RIGHT, 403),
            ("HEAD", f"http://{web}/size-{size}", "", 407),
            ("CONNECT", echoes, RIGHT, 200),
        )

        def one() -> None:
            while not stop.is_set():
                for method, target, fields, status in kinds:
                    with (
                        contextlib.suppress(OSError, EOFError, IndexError),
                        Client(proxy.port, account) as client,
                    ):
                        assert client.request(method, target, fields=fields) == status
                        if method == "CONNECT":
                            client.send(b"x")
                            client.receive(1)

        board = board_of(proxy.process.pid)
        threads = [threading.Thread(target=one) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for worker in (0, 1):
            enough = sum(account.requests.values()) + 100
            wait_for(lambda: sum(account.requests.values()) > enough, "some load")  # noqa: B023
            kill_worker(board, worker)
        enough = sum(account.requests.values()) + 50
        wait_for(lambda: sum(account.requests.values()) > enough, "some load")
        stop.set()
        for thread in threads:
            thread.join(60)
        wait_for(lambda: not any(board.totals()["connections"].values()), "the end")
    totals = board.totals()
    doubt = 2 * clients
    for (method, status), answered in account.requests.items():
        counted = totals["requests"][method, status]
        assert answered - doubt <= counted <= answered + doubt, (method, status)
        asked[f"{method} {status}"] = answered
    for family, values, key in (
        ("decisions", ("report", "tried"), "PATCH 2xx"),
        ("decisions", ("deny", "ads"), "GET 4xx"),
        ("authentication_failures", ("missing",), "HEAD 4xx"),
        ("tunnels_begun", (), "CONNECT 2xx"),
    ):
        assert abs(totals[family][values] - asked[key]) <= doubt, key
    moved = totals["bytes"]
    most = doubt * 2 * size
    sent = moved["in", "copied"] + moved["in", "spliced"]
    received = moved["out", "copied"] + moved["out", "spliced"]
    assert account.sent - most <= sent <= account.sent + most
    assert account.received - most <= received <= account.received + most
    assert most * 5 < account.received
    assert totals["worker_deaths"][()] == 2


def moved_in(totals: Mapping[str, Mapping[Any, int]]) -> list[int]:
    """Bytes, each way."""
    counted = totals["bytes"]
    return [counted[way, "copied"] + counted[way, "spliced"] for way in ("in", "out")]


def moved_by(board: Board, worker: int) -> list[int]:
    return moved_in(board.read().worker(worker))


def test_what_a_living_tunnel_has_moved_is_kept(proxy: ProxyProcess) -> None:
    """Its worker is killed: what it has moved is known, and that it has begun; how it ended is
    not."""
    account = Account()
    board = board_of(proxy.process.pid)
    with origins() as (_, echoes), Client(proxy.port, account) as client:
        assert client.request("CONNECT", echoes, fields=RIGHT) == 200
        with client.sending(bytes(1_000_000)):
            client.receive(1_000_000)
        live = [n for n in range(2) if board.read().worker(n)["tunnels"][()]]
        assert len(live) == 1
        # What the client has may not be counted yet: it is counted when it has been sent.
        wait_for(lambda: min(moved_by(board, live[0])) >= 1_000_000, "the counters")
        kill_worker(board, live[0])
        totals = board.totals()
    for moved in moved_in(totals):
        assert 1_000_000 <= moved <= max(account.sent, account.received)
    assert totals["tunnels_begun"][()] == totals["requests"]["CONNECT", "2xx"] == 1
    assert sum(totals["tunnels_ended"].values()) == totals["tunnels"][()] == 0
