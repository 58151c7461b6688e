"""Tunnels by way of parents that the lane asks for: what clients, the log and the counters are told
is the same as where Python asks for all of them, whatever a parent does."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from counting_load import board_of, echo
from harness import ProxyProcess, read_exactly, read_head, refused_port, serving, wait_for
from test_parent_faults import (
    Asked,
    breaks,
    endless,
    garbage,
    leaves,
    new,
    parent,
    settings,
    silent,
    storm,
    switches,
    unauthorized,
)

__all__ = ["new"]  # a fixture

Handle = Callable[[socket.socket], None]

TARGET = "192.0.2.1:443"
HEAD = b"CONNECT x.test:1 HTTP/1.1\r\nHost: x.test:1\r\n"
CONNECT = f"CONNECT {TARGET} HTTP/1.1\r\nHost: {TARGET}\r\n\r\n".encode()


def says(*parts: bytes, end: Callable[[socket.socket], None] | None = None) -> Handle:
    """A parent that answers this, each part in a segment of its own, and echoes what comes."""

    def handle(connection: socket.socket) -> None:
        assert read_head(connection).startswith(b"CONNECT ")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            connection.sendall(part)
        if end is not None:
            end(connection)
            return
        with contextlib.suppress(ConnectionError):
            echo(connection)

    return handle


def fin(connection: socket.socket) -> None:
    """It says no more, and takes all that comes."""
    connection.shutdown(socket.SHUT_WR)
    with contextlib.suppress(ConnectionError):
        while connection.recv(4096):
            pass


YES = b"HTTP/1.1 200 Fine\r\n\r\n"
LENGTH = b"Content-Length: 0\r\n\r\n"
SAID = b"Proxy-Status: up; error=dns_timeout\r\n" + LENGTH


def resets(connection: socket.socket) -> None:
    read_head(connection)
    breaks(connection)


CASES: dict[str, Handle] = {
    "yes": says(YES),
    "an-old-yes": says(b"HTTP/1.0 200 Connection established\r\n\r\n"),
    "early": says(YES + b"hello"),
    "early-and-the-end": says(YES + b"hello", end=fin),
    "in-parts": says(b"HTTP/1.1 20", b"0 OK\r\nA: ", b"b\r\n\r\nhello"),
    "interim": says(b"HTTP/1.1 103 Hints\r\n\r\n" + YES),
    "odd-field": says(b"HTTP/1.1 200 OK\r\nno field\r\n\r\n"),
    "403": says(b"HTTP/1.1 403 No\r\n" + LENGTH),
    "404": says(b"HTTP/1.1 404 No\r\n" + LENGTH),
    "502": says(b"HTTP/1.1 502 No\r\n" + SAID),
    "504": says(b"HTTP/1.1 504 No\r\n" + SAID),
    "302": says(b"HTTP/1.1 302 No\r\nLocation: /\r\n" + LENGTH),
    "407": unauthorized,
    "101": switches,
    "leaves": leaves,
    "resets": resets,
    "cut": says(b"HTTP/1.1 200 Fi", end=fin),
    "endless": endless,
    "storm": storm,
    "garbage": garbage,
    "silent": silent,
}

PLAIN = ("yes", "an-old-yes", "early", "early-and-the-end")
"""Those that never come to Python."""

VOLATILE = ("time", "id", "client_tcp", "origin_tcp", "stalled")
COUNTED = (
    "requests", "requests_cut", "errors", "dials", "dial_errors", "parents", "tunnels_begun",
    "decisions", "bytes", "socks_requests",
)  # fmt: skip

ASKED = {
    "http": lambda host: f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode(),
    "socks5": lambda host: b"\5\1\0\5\1\0\3" + bytes([len(host)]) + host.encode() + b"\1\xbb",
}
"""How clients ask for port 443 of a host."""


class Pair:
    """Two proxies with the same settings: one with a lane, and one without."""

    def __init__(self, folder: Path, text: str, stack: contextlib.ExitStack) -> None:
        self.proxies = []
        for engine in ("native", "splice"):
            more = ("--log-format", "json", "--timeout-dial", "0.5", "--engine", engine)
            one = Asked(folder / engine, text, *more)
            self.proxies.append(one.proxy)
            stack.callback(one.proxy.kill)
        self._lines = 0

    def ask(self, head: bytes) -> list[dict[str, Any]]:
        """What each tells a client that asks so, and says and counts of it."""
        self._lines += 1
        return [self._ask(proxy, head) for proxy in self.proxies]

    def _ask(self, proxy: ProxyProcess, head: bytes) -> dict[str, Any]:
        board = board_of(proxy.process.pid)
        before = board.totals()
        with proxy.connect() as client:
            client.sendall(head + b"early")
            told = bytearray()
            with contextlib.suppress(ConnectionResetError):
                while data := client.recv(4096):
                    told += data
                    if data.endswith(b"early"):  # as a parent sends it back
                        client.shutdown(socket.SHUT_WR)
        lines = [line for line in bytes(told).split(b"\r\n") if not line.startswith(b"Date: ")]
        line = json.loads(proxy.wait_access(self._lines)[-1])
        said = {
            key: value
            for key, value in line.items()
            if key not in VOLATILE and not key.endswith("_us")
        }
        after = board.totals()
        counted = {
            name: {
                labels: more
                for labels, value in after[name].items()
                if (more := value - before[name].get(labels, 0))
            }
            for name in COUNTED
        }
        asked = after["questions"][()] - before["questions"][()]
        back = {
            cause: value - before["given_back"][(cause,)]
            for (cause,), value in after["given_back"].items()
            if value > before["given_back"][(cause,)]
        }
        return {"told": lines, "line": said, **counted, "asked": asked, "back": back}


def tables(ports: dict[str, int], good: int) -> str:
    """For each case and each way to ask a parent that only it has: alone, and one of two."""
    routes, parents = [], [f'[parent.good]\nurl = "http://127.0.0.1:{good}"\n']
    for name, port in ports.items():
        for how in ASKED:
            one = f"{how}-{name}"
            parents.append(f'[parent.{one}]\nurl = "http://127.0.0.1:{port}"\n')
            routes.append(f'[[route]]\nhosts = ["alone.{one}.test"]\nto = "{one}"\n')
            routes.append(f'[[route]]\nhosts = ["both.{one}.test"]\nto = ["{one}", "good"]\n')
    return "".join(routes + parents)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        ports = {
            name: stack.enter_context(serving(handle, idle=True))[1]
            for name, handle in CASES.items()
        }
        ports["gone"] = stack.enter_context(refused_port())
        good = stack.enter_context(serving(says(YES), idle=True))[1]
        made = Pair(tmp_path_factory.mktemp("pair"), tables(ports, good), stack)
        yield made
        for proxy in made.proxies:
            assert "Traceback" not in proxy.stderr(), proxy.stderr()


@pytest.mark.parametrize("how", ASKED)
@pytest.mark.parametrize("name", [*CASES, "gone"])
def test_a_parent(pair: Pair, name: str, how: str) -> None:
    for host in (f"alone.{how}-{name}.test", f"both.{how}-{name}.test"):
        lane, python = pair.ask(ASKED[how](host))
        assert (lane.pop("asked"), python.pop("asked")) == (1, 0)
        python.pop("back")
        cause = "" if name in PLAIN else "request" if name == "gone" else "parent"
        back = lane.pop("back")
        if name != "in-parts":  # which may be received in one
            assert back == ({cause: 1} if cause else {})
        assert lane == python


# ---- health ------------------------------------------------------------------------------------


def test_failures_are_in_a_row_if_nothing_was_granted_between(new: Callable[..., Asked]) -> None:
    """Also by the lane, which tells nobody of what it is granted."""
    answers = iter([b"HTTP/1.1 407 No\r\n" + LENGTH, YES] * 5)

    def handle(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(next(answers))

    with serving(handle) as (_, port):
        one = new(settings(("a", port)))
        statuses = []
        for _ in range(10):
            with one.proxy.connect() as client:
                client.sendall(CONNECT)
                statuses.append(read_head(client)[9:12])
        assert statuses == [b"502", b"200"] * 5
        assert "put aside" not in one.proxy.stderr()


def test_what_is_in_the_lane(new: Callable[..., Asked]) -> None:
    """One that is asked again a moment later is not asked about, but with each parent in turn."""
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(serving(says(YES)))[1] for _ in range(2)]
        both = ("a", ports[0]), ("b", ports[1])
        for pick, hits, of_a in (
            ("in-order", 3, (4,)),
            ("hash", 3, (0, 4)),
            ("round-robin", 0, (2,)),
            ("least", 0, range(5)),
        ):
            one = new(settings(*both, more=f'pick = "{pick}"\n'))
            for _ in range(4):
                with one.tunnel(TARGET):
                    pass
            totals = board_of(one.proxy.process.pid).totals()
            given_back = 4 if pick == "least" else 0
            assert totals["given_back"][("request",)] == given_back, pick
            assert totals["route_hits"][()] == hits, pick
            names = [line.split(" route=")[1][0] for line in one.proxy.wait_access(4)]
            assert names.count("a") in of_a, (pick, names)


def test_no_client_is_quoted(new: Callable[..., Asked]) -> None:
    """What a client says of itself reaches no parent, whoever asks."""
    heads: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        heads.append(read_head(connection))
        connection.sendall(YES)

    secret = b"Proxy-Authorization: Basic YWRhOnNlY3JldA==\r\n"
    fields = secret + b"Cookie: c\r\nUser-Agent: u\r\nX-Any: x\r\n"
    with serving(handle) as (_, port):
        one = new(settings(("a", port)) + 'auth-env = "OURS"\n', env={"OURS": "us:them"})
        for _ in range(3):
            with one.proxy.connect() as client:
                client.sendall(HEAD + fields + b"\r\n")
                assert read_head(client).startswith(b"HTTP/1.1 200 ")
        assert (
            heads
            == [
                b"CONNECT x.test:1 HTTP/1.1\r\nHost: x.test:1\r\nVia: 1.1 spliceproxy\r\n"
                b"Proxy-Authorization: Basic dXM6dGhlbQ==\r\n\r\n"
            ]
            * 3
        )
        assert board_of(one.proxy.process.pid).totals()["questions"][()] >= 1


def test_the_chain_of_proxies_is_told(new: Callable[..., Asked]) -> None:
    heads: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        heads.append(read_head(connection))
        connection.sendall(YES)

    with serving(handle) as (_, port):
        one = new(settings(("a", port)))
        for via in (b"", b"Via: 1.1 before\r\n", b""):
            with one.proxy.connect() as client:
                client.sendall(HEAD + via + b"\r\n")
                assert read_head(client).startswith(b"HTTP/1.1 200 ")
        told = [[line for line in head.split(b"\r\n") if line.startswith(b"Via")] for head in heads]
        ours, both = [b"Via: 1.1 spliceproxy"], [b"Via: 1.1 before, 1.1 spliceproxy"]
        assert told == [ours, both, ours]


# ---- what changes meanwhile --------------------------------------------------------------------


def reload(one: Asked, where: Path, text: str) -> None:
    one.file.write_text(text)
    command = [sys.executable, "-m", "spliceproxy", "ctl", "--admin", f"unix:{where}", "reload"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def test_a_reload_while_a_parent_is_asked(new: Callable[..., Asked], tmp_path: Path) -> None:
    """Whoever has been asked goes on; if that comes to nothing, what is in force now decides."""
    asked, go = threading.Semaphore(0), threading.Event()

    def handle(connection: socket.socket) -> None:
        read_head(connection)
        asked.release()
        go.wait(20)
        connection.sendall(b"HTTP/1.1 503 No\r\n" + LENGTH)

    with serving(handle) as (_, old), serving(says(YES)) as (_, other):
        where = tmp_path / "admin"
        one = new(settings(("old", old)), "--admin", f"unix:{where}")
        with one.proxy.connect() as client:
            client.sendall(CONNECT)
            assert asked.acquire(timeout=20)
            reload(one, where, settings(("other", other)))
            go.set()
            assert read_head(client).startswith(b"HTTP/1.1 200 ")
        assert one.proxy.wait_access(1)[0].endswith(" route=other by=address")


def test_a_tunnel_of_the_lane_goes_on_in_another_worker(
    new: Callable[..., Asked], tmp_path: Path
) -> None:
    with serving(parent) as (_, port), serving(echo) as (host, there):
        where = tmp_path / "admin"
        one = new(settings(("a", port)), "--admin", f"unix:{where}", "--log-format", "json")
        first = one.proxy.worker
        with one.tunnel(f"{host}:{there}") as client:
            assert board_of(one.proxy.process.pid).totals()["given_back"][("request",)] == 0
            command = [sys.executable, "-m", "spliceproxy", "ctl", "--admin", f"unix:{where}"]
            subprocess.run([*command, "recycle", "0"], check=True, capture_output=True, timeout=60)
            wait_for(lambda: first not in one.proxy.workers(), "another worker")
            client.sendall(b"behind")
            assert read_exactly(client, 6) == b"behind"
        line = json.loads(one.proxy.wait_access(1)[0])
        assert (line["route"], line["connect_by"]) == ("a", "address")


def test_a_tunnel_is_judged_again_by_its_name_alone(
    new: Callable[..., Asked], tmp_path: Path
) -> None:
    """The address of its parent is not the destination's: rules say nothing of it."""
    rule = '[[rule]]\nid = "no-loopback"\naction = "deny"\nnetworks = ["127.0.0.0/8"]\n'
    with serving(says(YES)) as (_, port):
        where = tmp_path / "admin"
        text = settings(("a", port))
        one = new(text, "--admin", f"unix:{where}")
        with one.tunnel("192.0.2.7:443") as client:
            reload(one, where, text + rule)
            with one.tunnel("192.0.2.8:443"):
                pass
            client.sendall(b"on")
            assert read_exactly(client, 2) == b"on"
        assert "do not allow" not in one.proxy.stderr()
