"""Limits in a real proxy: what is beyond them is refused, by whichever way it comes, and what is
over makes room."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from harness import ProxyProcess, command, wait_for

ENGINES = ("native", "copy")

HASH = "$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/"
"""Of the password of all users."""

NEVER = 0.001
"""Requests per second: none comes back while a test lasts."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/wait":
            self.server.gate.wait(20)  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def origin() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.gate = threading.Event()  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


class Client:
    """One connection to a proxy."""

    def __init__(self, proxy: ProxyProcess, origin: ThreadingHTTPServer) -> None:
        self.socket = proxy.connect()
        self.file = self.socket.makefile("rb")
        self.place = f"127.0.0.1:{origin.server_address[1]}"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def close(self) -> None:
        self.file.close()
        self.socket.close()

    def send(self, path: str = "/", fields: str = "", host: str = "") -> None:
        place = host or self.place
        head = f"GET http://{place}{path} HTTP/1.1\r\nHost: {place}\r\n{fields}\r\n"
        self.socket.sendall(head.encode())

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        line = self.file.readline()
        if not line:
            raise ConnectionError
        fields = {}
        while (field := self.file.readline().rstrip()) != b"":
            name, _, value = field.decode().partition(": ")
            fields[name.lower()] = value
        body = self.file.read(int(fields.get("content-length", 0)))
        return int(line.split()[1]), fields, body

    def get(self, path: str = "/", fields: str = "", host: str = "") -> int:
        self.send(path, fields, host)
        return self.answer()[0]

    def connect(self) -> int:
        head = f"CONNECT {self.place} HTTP/1.1\r\nHost: {self.place}\r\n\r\n"
        self.socket.sendall(head.encode())
        return self.answer()[0]


@pytest.fixture(params=ENGINES)
def limited(
    request: pytest.FixtureRequest, new_proxy: Callable[..., ProxyProcess], tmp_path: Path
) -> Callable[..., ProxyProcess]:
    def start(limits: str, *args: str, workers: int = 1) -> ProxyProcess:
        config = tmp_path / "limits.toml"
        config.write_text(f'guard = "off"\n{limits}')
        flags = ("--config", str(config), "--engine", request.param, *args)
        return new_proxy(*flags, workers=workers)

    return start


def basic(user: str) -> str:
    return f"Proxy-Authorization: Basic {b64encode(f'{user}:secret'.encode()).decode()}\r\n"


def test_requests(limited: Callable[..., ProxyProcess], origin: ThreadingHTTPServer) -> None:
    proxy = limited(
        f'[[limit]]\nid = "five"\nby = "client"\nrequests-per-second = {NEVER}\nburst = 5\n'
    )
    with Client(proxy, origin) as one, Client(proxy, origin) as other:
        assert [one.get(), one.get(), one.get(), other.get(), other.get()] == [200] * 5
        one.send()
        status, fields, body = one.answer()
        assert status == 429
        assert int(fields["retry-after"]) > 900
        assert fields["proxy-status"] == (
            'spliceproxy; error=http_request_denied; details="limit five"'
        )
        assert b"Limit: five" in body
        assert one.get() == 429
        assert other.connect() == 429
    lines = proxy.wait_access(8)
    assert sum("rule=five" in line for line in lines) == 3, lines


def test_a_limit_counts_what_meets_its_conditions(
    limited: Callable[..., ProxyProcess], origin: ThreadingHTTPServer
) -> None:
    proxy = limited(
        f'[[limit]]\nid = "two"\nby = "total"\nhosts = ["localhost"]\n'
        f"requests-per-second = {NEVER}\nburst = 2\n"
    )
    named = f"localhost:{origin.server_address[1]}"
    with Client(proxy, origin) as one:
        assert [one.get(host=named) for _ in range(3)] == [200, 200, 429]
        assert [one.get() for _ in range(3)] == [200] * 3


def test_what_one_limit_refuses_counts_for_none(
    limited: Callable[..., ProxyProcess], origin: ThreadingHTTPServer
) -> None:
    proxy = limited(
        f'[[limit]]\nid = "all"\nby = "total"\nrequests-per-second = {NEVER}\nburst = 4\n'
        f'[[limit]]\nid = "named"\nby = "total"\nhosts = ["localhost"]\n'
        f"requests-per-second = {NEVER}\nburst = 1\n"
    )
    named = f"localhost:{origin.server_address[1]}"
    with Client(proxy, origin) as one:
        assert [one.get(host=named) for _ in range(4)] == [200, 429, 429, 429]
        assert [one.get() for _ in range(4)] == [200, 200, 200, 429]


def test_connections(limited: Callable[..., ProxyProcess], origin: ThreadingHTTPServer) -> None:
    proxy = limited('[[limit]]\nid = "three"\nby = "client"\nconnections = 3\n')
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(proxy, origin)) for _ in range(4)]
        assert [one.get() for one in clients[:2]] == [200, 200]
        assert clients[2].connect() == 200
        assert [one.get() for one in clients[:2]] == [200, 200]
        assert clients[3].get() == 429
        clients[2].close()
        wait_for(lambda: clients[3].get() == 200, "the place of the tunnel")
        clients[0].close()
        with Client(proxy, origin) as another:
            wait_for(lambda: another.get() == 200, "the place of the client")
            assert Client(proxy, origin).connect() == 429


def test_running_requests_to_a_destination(
    limited: Callable[..., ProxyProcess], origin: ThreadingHTTPServer
) -> None:
    proxy = limited('[[limit]]\nid = "two"\nby = "destination"\nconnections = 2\n')
    gate = origin.gate  # type: ignore[attr-defined]
    gate.clear()
    with Client(proxy, origin) as one, Client(proxy, origin) as two, Client(proxy, origin) as three:
        assert [one.get(), two.get(), three.get(), three.get()] == [200] * 4
        one.send("/wait")
        two.send("/wait")
        wait_for(lambda: three.get() == 429, "two that run")
        gate.set()
        assert one.answer()[0] == two.answer()[0] == 200
        wait_for(lambda: three.get() == 200, "their ends")
        assert one.connect() == 200
        assert two.connect() == 200
        assert three.get() == 429


def test_users_and_groups(
    limited: Callable[..., ProxyProcess], origin: ThreadingHTTPServer, tmp_path: Path
) -> None:
    users = tmp_path / "users"
    users.write_text("".join(f"{name}:{HASH}\n" for name in ("ann", "bob", "cid")))
    proxy = limited(
        f'[[limit]]\nid = "own"\nby = "user"\nrequests-per-second = {NEVER}\nburst = 2\n'
        f'[[limit]]\nid = "team"\nby = "group"\nrequests-per-second = {NEVER}\nburst = 3\n'
        'groups = ["a"]\n[groups]\na = ["ann", "bob"]\n',
        "--htpasswd",
        str(users),
    )
    with Client(proxy, origin) as one:
        assert [one.get(fields=basic("ann")) for _ in range(3)] == [200, 200, 429]
        assert [one.get(fields=basic("bob")) for _ in range(2)] == [200, 429]
        assert [one.get(fields=basic("cid")) for _ in range(3)] == [200, 200, 429]


def test_tunnels_and_socks(
    limited: Callable[..., ProxyProcess], origin: ThreadingHTTPServer
) -> None:
    proxy = limited(
        f'[[limit]]\nid = "new"\nby = "total"\nnew-tunnels-per-second = {NEVER}\nburst = 2\n'
    )
    with Client(proxy, origin) as one, Client(proxy, origin) as two, Client(proxy, origin) as three:
        assert [one.get() for _ in range(3)] == [200] * 3
        assert one.connect() == 200
        assert two.connect() == 200
        assert three.connect() == 429
    with proxy.connect() as client:
        client.sendall(b"\x05\x01\x00")
        assert client.recv(2) == b"\x05\x00"
        port = origin.server_address[1].to_bytes(2, "big")
        client.sendall(b"\x05\x01\x00\x01\x7f\x00\x00\x01" + port)
        assert client.recv(10)[:2] == b"\x05\x02"


def test_a_function_names_limits(
    limited: Callable[..., ProxyProcess], origin: ThreadingHTTPServer, tmp_path: Path
) -> None:
    function = tmp_path / "names.py"
    function.write_text(
        "from spliceproxy.policy import Allow\n"
        "def authorize(request):\n"
        "    if request.path == '/none':\n"
        "        return Allow(limits=('none',))\n"
        "    return Allow(limits=('some',) if request.path == '/some' else ())\n"
    )
    proxy = limited(
        f'[[limit]]\nid = "some"\nby = "client"\nonly-named = true\n'
        f"requests-per-second = {NEVER}\nburst = 2\n",
        "--policy",
        str(function),
    )
    with Client(proxy, origin) as one:
        assert [one.get("/some"), one.get("/"), one.get("/some"), one.get("/some")] == [
            200, 200, 200, 429,
        ]  # fmt: skip
        assert [one.get("/"), one.get("/none")] == [200, 500]
    wait_for(lambda: "no limit 'none'; allowed: some" in proxy.stderr(), "the message")


class Source:
    """A server that sends to whoever connects, as much as it takes, and takes what it is sent."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.socket.accept()
                threading.Thread(target=self._send, args=(client,), daemon=True).start()

    def _send(self, client: socket.socket) -> None:
        data = bytes(1 << 18)
        with client, contextlib.suppress(OSError):
            while True:
                client.sendall(data)


@pytest.fixture
def source() -> Iterator[Source]:
    server = Source()
    yield server
    server.socket.close()


def taken(tunnels: list[socket.socket], seconds: float) -> int:
    """Bytes that come in so many seconds, or until all of them end."""
    end, count = time.monotonic() + seconds, 0
    with selectors.DefaultSelector() as waiting:
        for one in tunnels:
            waiting.register(one, selectors.EVENT_READ)
        while waiting.get_map() and time.monotonic() < end:
            for key, _ in waiting.select(0.1):
                try:
                    data = key.fileobj.recv(1 << 18)  # type: ignore[union-attr]
                except ConnectionResetError:
                    data = b""
                if not data:
                    waiting.unregister(key.fileobj)
                count += len(data)
    return count


@pytest.mark.parametrize("tunnels", [1, 4])
def test_no_more_bytes_than_the_rate(
    limited: Callable[..., ProxyProcess], source: Source, tunnels: int
) -> None:
    """A slow machine moves less: this is about more alone."""
    proxy = limited('[[limit]]\nid = "slow"\nby = "client"\nrate-out = "20MB"\n')
    with contextlib.ExitStack() as stack:
        some = [stack.enter_context(proxy.tunnel("127.0.0.1", source.port)) for _ in range(tunnels)]
        taken(some, 1.0)  # what was sent before it had its pace
        begun = time.monotonic()
        count = taken(some, 2.0)
        assert count <= 20e6 * 1.25 * (time.monotonic() - begun) + 2e6


def test_a_budget_ends_what_lives(
    limited: Callable[..., ProxyProcess],
    origin: ThreadingHTTPServer,
    source: Source,
    tmp_path: Path,
) -> None:
    admin = "--admin", f"unix:{tmp_path}/a"
    proxy = limited('[[limit]]\nid = "day"\nby = "total"\nbytes-per-day = "20MB"\n', *admin)
    with contextlib.ExitStack() as stack:
        some = [stack.enter_context(proxy.tunnel("127.0.0.1", source.port)) for _ in range(3)]
        assert taken(some, 30.0) <= 24e6
        with Client(proxy, origin) as one:
            one.send()
            status, fields, body = one.answer()
            assert status == 429
            assert 0 < int(fields["retry-after"]) <= 86400
            assert b"20000000 bytes in a day" in body
        head, line = command("ctl", *admin, "limits").stdout.splitlines()
        assert head.split() == ["LIMIT", "FOR", "CONNECTIONS", "REFUSED", "TODAY", "THIS", "HOUR"]
        assert line.split()[:2] == ["day", "-"]
        assert line.split()[3] == "1"
        assert line.split()[4] in [f"2{n}.{m}M" for n in range(5) for m in range(10)]
    lines = proxy.wait_access(4)
    assert sum("_LIMITED" in line for line in lines) == 3, lines


def test_a_reload_brings_a_budget_to_connections_that_are_open(
    limited: Callable[..., ProxyProcess], origin: ThreadingHTTPServer, tmp_path: Path
) -> None:
    limit = '[[limit]]\nid = "day"\nby = "total"\n'
    proxy = limited(f'{limit}rate-out = "1GB"\n')
    with Client(proxy, origin) as one:
        assert one.get() == 200
        (tmp_path / "limits.toml").write_text(f'guard = "off"\n{limit}bytes-per-day = 2000\n')
        os.kill(proxy.process.pid, signal.SIGHUP)
        wait_for(lambda: "generation 2 is in force" in proxy.stderr(), "the reload")
        with contextlib.suppress(ConnectionError):  # one is cut
            for _ in range(50):
                if one.get() == 429:
                    break
            else:
                raise AssertionError("nothing is counted")
    with Client(proxy, origin) as one:
        assert one.get() == 429


@pytest.mark.parametrize("less", ['bytes-per-day = "1MB"', "tunnel-seconds = 0.5"])
def test_a_reload_holds_for_tunnels_that_count_for_a_budget(
    limited: Callable[..., ProxyProcess], source: Source, tmp_path: Path, less: str
) -> None:
    limit = '[[limit]]\nid = "day"\nby = "total"\n'
    proxy = limited(f'{limit}bytes-per-day = "50TB"\n')
    with proxy.tunnel("127.0.0.1", source.port) as one:
        assert one.recv(1)
        (tmp_path / "limits.toml").write_text(f'guard = "off"\n{limit}{less}\n')
        os.kill(proxy.process.pid, signal.SIGHUP)
        begun = time.monotonic()
        taken([one], 30.0)
        assert time.monotonic() - begun < 30


def test_a_tunnel_lasts_so_long(limited: Callable[..., ProxyProcess], source: Source) -> None:
    proxy = limited('[[limit]]\nid = "short"\nby = "total"\ntunnel-seconds = 0.5\n')
    with proxy.tunnel("127.0.0.1", source.port) as one:
        begun = time.monotonic()
        taken([one], 30.0)
        assert 0.5 <= time.monotonic() - begun < 30
    (line,) = proxy.wait_access(1)
    assert "_LIMITED" in line


def test_a_tunnel_is_no_older_than_its_connect(
    limited: Callable[..., ProxyProcess], source: Source, origin: ThreadingHTTPServer
) -> None:
    """Its client's connection may be, and count for the same limit."""
    proxy = limited('[[limit]]\nid = "short"\nby = "total"\ntunnel-seconds = 1\n')
    with Client(proxy, origin) as one:
        assert one.get() == 200
        time.sleep(1.2)  # what is to be waited for is time
        one.place = f"127.0.0.1:{source.port}"
        begun = time.monotonic()
        assert one.connect() == 200
        taken([one.socket], 30.0)
        assert 1.0 <= time.monotonic() - begun < 30


@pytest.mark.parametrize("share", [1, 4])
def test_workers_count_together(
    limited: Callable[..., ProxyProcess], origin: ThreadingHTTPServer, share: int
) -> None:
    proxy = limited(
        f'[[limit]]\nid = "some"\nby = "client"\nrequests-per-second = {NEVER}\nburst = 60\n'
        "connections = 40\n",
        workers=4,
    )
    found: list[int] = []

    def ask() -> None:
        with Client(proxy, origin) as one:
            for _ in range(share):
                found.append(one.get())

    threads = [threading.Thread(target=ask) for _ in range(100 // share)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) <= {200, 429}
    assert len(found) == 100 // share * share
    assert found.count(200) <= 60
    if share > 1:  # there is a place for each connection
        assert found.count(200) == 60


def test_who_dies_holds_nothing(
    limited: Callable[..., ProxyProcess], origin: ThreadingHTTPServer
) -> None:
    proxy = limited('[[limit]]\nid = "one"\nby = "total"\nconnections = 1\n')
    with Client(proxy, origin) as one:
        assert one.get() == 200
        with Client(proxy, origin) as two:
            assert two.get() == 429
        before = proxy.worker
        os.kill(before, signal.SIGKILL)
        wait_for(lambda: proxy.workers() and proxy.worker != before, "another worker")

        def fits() -> bool:
            with contextlib.suppress(OSError), Client(proxy, origin) as three:
                return three.get() == 200
            return False

        wait_for(fits, "a worker that serves")
