"""What a function says beside yes: by way of which parent a request goes, and how fast."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from changing_proxy import ChangingProxy, all_ended
from harness import ProxyProcess, read_all, read_exactly, read_head, serving, wait_for
from test_how_much import Source, taken

New = Callable[..., ProxyProcess]


def says(name: str) -> Callable[[socket.socket], None]:
    """A parent, or an origin, that answers each request with its name."""

    def handle(connection: socket.socket) -> None:
        while head := read_head(connection):
            body = name.encode()
            if head.startswith(b"CONNECT "):
                connection.sendall(b"HTTP/1.1 200 Fine\r\n\r\n" + body)
                read_all(connection)
                return
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    return handle


class Ways:
    """A proxy whose function sends each request where its path, or its port, says."""

    def __init__(self, new: New, folder: Path, engine: str, kind: str, more: str = "") -> None:
        self._stack = contextlib.ExitStack()
        self.ports = {
            name: self._stack.enter_context(serving(says(name), idle=True))[1] for name in "abo"
        }
        self.origin = f"127.0.0.1:{self.ports['o']}"
        function = folder / "function.py"
        function.write_text(
            "from spliceproxy.policy import Allow\n"
            "WAYS = {1: 'a', 2: 'b', 3: 'direct', 4: 'c'}\n"
            f"{kind} authorize(request):\n"
            "    if request.port == 5:\n"
            "        return Allow(parent='a' if request.client == '127.0.0.1' else 'b')\n"
            "    if request.method == 'CONNECT':\n"
            "        return Allow(parent=WAYS.get(request.port, ''))\n"
            "    return Allow(parent=request.path.strip('/'))\n"
        )
        self.settings = folder / "settings.toml"
        self.write(more, "ab")
        flags = "--config", str(self.settings), "--policy", str(function), "--engine", engine
        self.proxy = new(*flags)

    def write(self, more: str, parents: str) -> None:
        tables = "".join(
            f'[parent.{name}]\nurl = "http://127.0.0.1:{self.ports[name]}"\n' for name in parents
        )
        self.settings.write_text(f'guard = "off"\n{more}\n{tables}')

    def get(self, client: socket.socket, path: str) -> tuple[int, str]:
        """The status, and who has answered."""
        head = f"GET http://{self.origin}/{path} HTTP/1.1\r\nHost: {self.origin}\r\n\r\n"
        client.sendall(head.encode())
        head = read_head(client).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        return int(head.split()[1]), read_exactly(client, length).decode()

    def connect(self, port: int, client: str = "127.0.0.1") -> tuple[int, str]:
        """The status of a tunnel to where only a parent can answer, and who has."""
        there, target = ("127.0.0.1", self.proxy.port), f"192.0.2.7:{port}"
        with socket.create_connection(there, 20, (client, 0)) as client:
            client.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            status = int(read_head(client).split()[1])
            return status, read_exactly(client, 1).decode() if status == 200 else ""

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(params=[("native", "def"), ("native", "async def"), ("copy", "async def")])
def ways(
    new_proxy: New, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Ways]]:
    made = []

    def make(more: str = "") -> Ways:
        made.append(Ways(new_proxy, tmp_path, *request.param, more))
        return made[-1]

    yield make
    for one in made:
        one.close()


ROUTE = '[[route]]\nto = "b"\n'


@pytest.mark.parametrize("settings", ["", ROUTE, "policy-cache = 60\n" + ROUTE])
def test_a_function_says_by_which_parent(ways: Callable[..., Ways], settings: str) -> None:
    """Whatever the routes say, and whatever the request before was told."""
    one = ways(settings)
    usual = "b" if "route" in settings else "o"
    for _ in range(2):
        assert [one.connect(port) for port in (1, 2, 1)] == [(200, "a"), (200, "b"), (200, "a")]
        assert [one.connect(5, f"127.0.0.{n}")[1] for n in (1, 2, 1)] == ["a", "b", "a"]
        if "cache" in settings:
            continue  # an answer is for a host, whatever the path
        with one.proxy.connect() as client:
            paths = ("a", "b", "direct", "", "a")
            found = [one.get(client, path) for path in paths]
            assert found == [(200, who) for who in ("a", "b", "o", usual, "a")]
    assert any(" route=a " in line for line in one.proxy.wait_access(6))


def test_a_parent_that_is_not_there(ways: Callable[..., Ways]) -> None:
    one = ways()
    assert one.connect(4)[0] == 500
    with one.proxy.connect() as client:
        status, _ = one.get(client, "c")
        assert status == 500
        assert one.get(client, "a") == (200, "a")
    wait_for(lambda: "no parent 'c'; allowed: a, b, direct" in one.proxy.stderr(), "the message")
    assert one.connect(2) == (200, "b")
    # One that is gone after a reload is like one that never was; others are as before.
    one.write("", "b")
    os.kill(one.proxy.process.pid, signal.SIGHUP)
    wait_for(lambda: "generation 2 is in force" in one.proxy.stderr(), "the reload")
    assert [one.connect(port)[0] for port in (1, 2)] == [500, 200]
    wait_for(lambda: "no parent 'a'; allowed: b, direct" in one.proxy.stderr(), "the message")


PACED = """
from spliceproxy.policy import Allow
{kind} authorize(request):
    return Allow(rate_out="20MB", rate_in={rate_in})
authorize.wants_addresses = {twice}
"""


@pytest.mark.parametrize("engine", ["native", "copy"])
@pytest.mark.parametrize("limit", ["", '[[limit]]\nby = "total"\nid = "x"\nrate-out = "900MB"\n'])
def test_no_more_bytes_than_the_rate(
    new_proxy: New, tmp_path: Path, engine: str, limit: str
) -> None:
    """A slow machine moves less: this is about more alone. Each tunnel has the rate for itself."""
    function, settings = tmp_path / "paced.py", tmp_path / "settings.toml"
    twice = engine == "copy"
    kind = "async def" if twice else "def"
    function.write_text(PACED.format(kind=kind, rate_in=0, twice=twice))
    settings.write_text(f'guard = "off"\n{limit}')
    source = Source()
    flags = "--config", str(settings), "--policy", str(function), "--engine", engine
    proxy = new_proxy(*flags)
    with contextlib.closing(source.socket), contextlib.ExitStack() as stack:
        some = [stack.enter_context(proxy.tunnel("127.0.0.1", source.port)) for _ in range(2)]
        taken(some, 0.3)  # what was sent before it had its pace
        begun = time.monotonic()
        count = taken(some, 1.0)
        assert 0 < count <= 2 * 20e6 * 1.25 * (time.monotonic() - begun) + 2e6


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_a_rate_goes_along_to_another_worker(tmp_path: Path, engine: str) -> None:
    """Where a limit is looked at there, which allows more."""
    function, settings = tmp_path / "paced.py", tmp_path / "settings.toml"
    function.write_text(PACED.format(kind="def", rate_in=0, twice=False))
    settings.write_text('guard = "off"\n[[limit]]\nby = "total"\nid = "x"\nrate-out = "900MB"\n')
    source = Source()
    flags = "--config", str(settings), "--policy", str(function), "--engine", engine
    with all_ended(str(tmp_path)), contextlib.closing(source.socket):
        proxy = ChangingProxy(tmp_path, *flags)
        with proxy.tunnel("127.0.0.1", source.port) as one:
            proxy.recycle()
            wait_for(lambda: len(proxy.workers()) == 1, "the end of the other worker")
            taken([one], 0.5)
            begun = time.monotonic()
            assert 0 < taken([one], 1.0) <= 20e6 * 1.25 * (time.monotonic() - begun) + 2e6
        proxy.stop()


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_a_limit_that_was_named_goes_along_to_another_worker(tmp_path: Path, engine: str) -> None:
    function, settings = tmp_path / "named.py", tmp_path / "settings.toml"
    function.write_text(
        "from spliceproxy.policy import Allow\n"
        "def authorize(request):\n"
        "    return Allow(limits=('one',))\n"
    )
    settings.write_text(
        'guard = "off"\n[[limit]]\nid = "one"\nby = "total"\nonly-named = true\nconnections = 1\n'
    )
    flags = "--config", str(settings), "--policy", str(function), "--engine", engine
    with all_ended(str(tmp_path)), serving(says("o"), idle=True) as place:
        proxy = ChangingProxy(tmp_path, *flags)
        with proxy.tunnel(*place):
            proxy.recycle()
            wait_for(lambda: len(proxy.workers()) == 1, "the end of the other worker")
            with pytest.raises(ConnectionError, match="429"):
                proxy.tunnel(*place)
        proxy.stop()


PART = 500_000


@pytest.mark.parametrize("engine", ["native", "copy"])
@pytest.mark.parametrize("method", ["GET", "CONNECT"])
def test_bytes_count_once_where_they_move(tmp_path: Path, engine: str, method: str) -> None:
    """Nobody looks at what lasts meanwhile, so who gives it away has to count what it has moved."""
    settings = tmp_path / "settings.toml"
    settings.write_text(
        'guard = "off"\n[[limit]]\nid = "day"\nby = "total"\nbytes-per-day = "1GB"\n'
    )
    flags = "--config", str(settings), "--engine", engine
    patch = "from spliceproxy.forward import pacing\npacing.TICK = 1000.0"
    with all_ended(str(tmp_path)), socket.create_server(("127.0.0.1", 0)) as server:
        place = "{}:{}".format(*server.getsockname())
        proxy = ChangingProxy(tmp_path, *flags, patch=patch)

        def used() -> int:
            return sum(one["bytes_today"] for one in proxy.admin.ask("/stats.json").json["limits"])

        with proxy.connect() as client:
            target = place if method == "CONNECT" else f"http://{place}/"
            client.sendall(f"{method} {target} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
            origin, _ = server.accept()
            with origin:
                if method == "GET":
                    assert read_head(origin)
                    head = f"HTTP/1.1 200 OK\r\nContent-Length: {3 * PART}\r\n\r\n"
                    origin.sendall(head.encode())
                assert b" 200 " in read_head(client)
                for _ in range(2):
                    origin.sendall(bytes(PART))
                    assert len(read_exactly(client, PART)) == PART
                    proxy.recycle()
                    wait_for(lambda: len(proxy.workers()) == 1, "the end of the other worker")
                origin.sendall(bytes(PART))
                assert len(read_exactly(client, PART)) == PART
        wait_for(proxy.access, "its line")
        assert 3 * PART < used() < 3 * PART + 2000
        proxy.stop()


SIZE = 8_000_000


def takes(connection: socket.socket) -> None:
    """An origin that takes a body, and says for how many seconds it came; or sends one."""
    head = read_head(connection)
    if head.startswith(b"PUT "):
        begun = time.monotonic()
        assert len(read_exactly(connection, SIZE)) == SIZE
        took = b"%f" % (time.monotonic() - begun)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(took) + took)
    elif head:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
        connection.sendall(bytes(SIZE))


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_bodies_have_their_rate(new_proxy: New, tmp_path: Path, engine: str) -> None:
    function = tmp_path / "paced.py"
    function.write_text(PACED.format(kind="def", rate_in=10_000_000, twice=False))
    proxy = new_proxy("--guard=off", "--policy", str(function), "--engine", engine)
    with serving(takes) as (host, port), proxy.connect() as client:
        for method, least in (("GET", SIZE / 20e6), ("PUT", SIZE / 10e6)):
            place = f"{host}:{port}"
            length = f"Content-Length: {SIZE}\r\n" if method == "PUT" else ""
            head = f"{method} http://{place}/ HTTP/1.1\r\nHost: {place}\r\n{length}\r\n"
            begun = time.monotonic()
            client.sendall(head.encode() + bytes(SIZE if length else 0))
            assert read_head(client).startswith(b"HTTP/1.1 200")
            if method == "GET":
                assert len(read_exactly(client, SIZE)) == SIZE
            # What fits into the buffers of the kernel has no pace.
            assert time.monotonic() - begun > least * 0.4
