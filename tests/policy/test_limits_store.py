"""Limits that two machines share by a real Redis, which is killed and comes back. Here a machine is
a proxy with workers of its own."""

from __future__ import annotations

import re
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from admin.admin_rig import Admin, token_file
from clients.certificates import Certificates
from harness import ProxyProcess, free_port, wait_for
from store_rig import PASSWORD, RedisServer
from test_how_much import Client

WORKERS = 2
ALL = 2 * WORKERS
"""Workers of both machines: by so many a limit may be exceeded."""

CONNECTIONS = 24
RATE, BURST = 10, 20
BUDGET = 3_000_000
BODY = 400_000
NEAR_END = 4_000_000
"""Bytes within which a budget ends."""

LIMITS = f"""
[[limit]]
id = "connections"
by = "total"
hosts = ["127.0.0.2"]
connections = {CONNECTIONS}

[[limit]]
id = "rate"
by = "client"
hosts = ["127.0.0.3"]
requests-per-second = {RATE}
burst = {BURST}

[[limit]]
id = "budget"
by = "client"
hosts = ["127.0.0.4"]
bytes-per-day = {BUDGET}

[[limit]]
id = "destination"
by = "destination"
networks = ["127.0.1.0/24"]
connections = 2
"""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = bytes(int(self.path[1:] or 2))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class Origin(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512


@pytest.fixture(scope="module")
def origin() -> Iterator[ThreadingHTTPServer]:
    server = Origin(("0.0.0.0", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def ends() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def redis(ends: ExitStack, folder: Path) -> RedisServer:
    server = RedisServer(folder)
    ends.callback(server.kill)
    return server


Start = Callable[..., ProxyProcess]


@pytest.fixture(scope="module")
def start(ends: ExitStack, folder: Path) -> Start:
    """Starts a machine with this store."""
    numbers = iter(range(100))

    def begin(url: str, limits: str = LIMITS, engine: str = "auto", **kwargs: Any) -> ProxyProcess:
        place = folder / str(next(numbers))
        place.mkdir()
        config = place / "limits.toml"
        config.write_text(
            f'guard = "off"\nlimits-store = "{url}"\nadmin = "127.0.0.1:0"\n'
            f'admin-token-file = "{token_file(place)}"\n{limits}'
        )
        flags = "--config", str(config), "--engine", engine
        proxy = ProxyProcess(place, *flags, **{"workers": WORKERS, **kwargs})
        ends.callback(proxy.stop)
        return proxy

    return begin


def store_of(proxy: ProxyProcess) -> dict[str, Any]:
    found: dict[str, Any] = Admin(proxy).get("/stats.json")["limits_store"]
    return found


def wait_together(*machines: ProxyProcess) -> None:
    for one in machines:
        wait_for(
            lambda one=one: store_of(one)["up"] and store_of(one)["machines"] == len(machines),  # type: ignore[misc]
            "machines that know each other",
        )


@pytest.fixture(scope="module")
def machines(start: Start, redis: RedisServer) -> list[ProxyProcess]:
    # One counts in C, the other in Python.
    found = [start(redis.url), start(redis.url, engine="copy")]
    wait_together(*found)
    return found


def crowd(
    machines: list[ProxyProcess], origin: ThreadingHTTPServer, host: str, each: int
) -> list[Client]:
    """So many clients of each machine at once; those whose request was let in."""
    clients = [Client(proxy, origin) for _ in range(each) for proxy in machines]
    for one in clients:
        one.place = f"{host}:{origin.server_address[1]}"
        one.send()
    allowed = []
    for one in clients:
        status = one.answer()[0]
        assert status in (200, 429)
        if status == 200:
            allowed.append(one)
        else:
            one.close()
    return allowed


def test_connections(
    machines: list[ProxyProcess], origin: ThreadingHTTPServer, redis: RedisServer
) -> None:
    """Also while the store is away, and when it is back and has forgotten all."""
    allowed: list[Client] = []

    def fill(which: list[ProxyProcess]) -> bool:
        allowed.extend(crowd(which, origin, "127.0.0.2", 10))
        assert len(allowed) <= CONNECTIONS + ALL
        return len(allowed) >= CONNECTIONS

    allowed.extend(crowd(machines, origin, "127.0.0.2", 100))
    assert 0 < len(allowed) <= CONNECTIONS + ALL
    wait_for(lambda: fill(machines), "as many connections as are allowed")
    while allowed:
        allowed.pop().close()
    # One machine may have all, for the other gives back what it does not use.
    wait_for(lambda: fill(machines[:1]), "as many connections at one machine")

    redis.kill()
    wait_for(lambda: not any(store_of(one)["up"] for one in machines), "a store that is away")
    assert not crowd(machines, origin, "127.0.0.2", 5)
    # A destination that no machine has seen is not refused because nobody can be asked.
    assert len(crowd(machines, origin, "127.0.1.1", 1)) == 2
    for one in machines:
        assert len(re.findall("it is away", one.stderr())) == 1
        assert "it is back after" not in one.stderr()
        assert "limits_store_up 0" in Admin(one).ask("/metrics").text

    redis.start()
    wait_together(*machines)
    assert not crowd(machines, origin, "127.0.0.2", 5)
    for one in machines:
        assert len(re.findall("it is back after", one.stderr())) == 1
    while allowed:
        allowed.pop().close()
    wait_for(lambda: fill(machines[1:]), "all connections at the other machine")
    while allowed:
        allowed.pop().close()


def test_requests_in_a_second(machines: list[ProxyProcess], origin: ThreadingHTTPServer) -> None:
    clients = [Client(proxy, origin) for _ in range(2) for proxy in machines]
    began, allowed, refused = time.monotonic(), 0, 0
    while time.monotonic() < began + 2.5:
        for one in clients:
            one.send(host=f"127.0.0.3:{origin.server_address[1]}")
        answers = [one.answer()[0] for one in clients]
        allowed += answers.count(200)
        refused += answers.count(429)
    elapsed = time.monotonic() - began
    assert refused
    assert BURST / 2 <= allowed <= BURST + RATE * elapsed + ALL
    for one in clients:
        one.close()


def test_a_budget(
    machines: list[ProxyProcess], origin: ThreadingHTTPServer, start: Start, redis: RedisServer
) -> None:
    """A machine that is started anew knows what was used."""
    host = f"127.0.0.4:{origin.server_address[1]}"

    def status(proxy: ProxyProcess) -> int:
        with Client(proxy, origin) as one:
            try:
                return one.get(f"/{BODY}", host=host)
            except (ConnectionError, OSError):  # it has come to its end meanwhile
                return 0

    moved = 0
    for number in range(50):
        found = status(machines[number % 2])
        moved += BODY if found == 200 else 0
        if found == 429:
            break
    else:
        pytest.fail("the budget has no end")
    assert moved <= BUDGET + NEAR_END
    wait_for(lambda: [status(one) for one in machines] == [429, 429], "both at the end")
    third = start(redis.url)
    wait_together(*machines, third)
    assert status(third) == 429
    third.stop()
    wait_together(*machines)


SHORT = """
from spliceproxy.forward import store
store.TTL = 1.5
"""


def test_a_machine_that_dies(
    start: Start, origin: ThreadingHTTPServer, redis: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SHORT)
    limits = '[[limit]]\nid = "dying"\nby = "total"\nconnections = 6\n'
    env = {"PYTHONPATH": str(tmp_path)}
    pair = [start(redis.url, limits, workers=1, env=env) for _ in range(2)]
    for one in pair:
        wait_for(lambda one=one: store_of(one)["up"], "the store")  # type: ignore[misc]
    held: list[Client] = []

    def fill(proxy: ProxyProcess) -> bool:
        held.extend(crowd([proxy], origin, "127.0.0.2", 2))
        return len(held) >= 6

    wait_for(lambda: fill(pair[0]), "all connections")
    assert len(held) <= 6 + 2
    assert len(crowd(pair[1:], origin, "127.0.0.2", 3)) <= 2
    pair[0].kill()
    held.clear()
    wait_for(lambda: fill(pair[1]), "the connections of the dead machine")
    assert len(held) <= 6 + 2


def test_the_first_request_does_not_depend_on_a_slow_store(
    start: Start, origin: ThreadingHTTPServer, redis: RedisServer
) -> None:
    kinds = "connections = 5", "requests-per-second = 5", 'bytes-per-day = "1GB"'
    limits = "".join(
        f'[[limit]]\nid = "slow{n}"\nby = "destination"\n{kind}\n' for n, kind in enumerate(kinds)
    )
    for engine in ("native", "copy"):
        proxy = start(redis.url, limits, engine, workers=1)
        wait_for(lambda proxy=proxy: store_of(proxy)["up"], "the store")  # type: ignore[misc]
        redis.say("CLIENT", "PAUSE", "800")  # it is not away yet
        assert crowd([proxy], origin, "127.0.0.2", 1)


def test_a_store_that_says_nonsense(start: Start, origin: ThreadingHTTPServer) -> None:
    class Nonsense(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline():
                self.wfile.write(b":many\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Nonsense) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        proxy = start(f"redis://127.0.0.1:{server.server_address[1]}/0", workers=1)
        wait_for(lambda: "it is away" in proxy.stderr(), "a word of the store")
        assert crowd([proxy], origin, "127.0.0.2", 1)
        server.shutdown()
    assert "Traceback" not in proxy.stderr()


def documented_user() -> list[str]:
    """The user of Redis that docs/limits.md shows, as arguments of redis-server."""
    page = (Path(__file__).parents[2] / "docs/limits.md").read_text()
    found = re.search(r"^    user (spliceproxy (?:.*\\\n)*.*)", page, re.MULTILINE)
    assert found is not None
    words = found[1].replace("\\", " ").replace("PASSWORD", PASSWORD).split()
    return ["--user", *words]


def test_a_password_is_not_shown(
    folder: Path, ends: ExitStack, start: Start, origin: ThreadingHTTPServer
) -> None:
    server = RedisServer(folder, *documented_user())
    ends.callback(server.kill)
    auth = "SPLICEPROXY_LIMITS_STORE_AUTH"
    pair = [start(server.url, env={auth: f"spliceproxy:{PASSWORD}"}, workers=1) for _ in range(2)]
    wait_together(*pair)
    for host in ("127.0.0.2", "127.0.0.3", "127.0.0.4"):  # all that this user may do is enough
        assert crowd(pair, origin, host, 8)
    assert not store_of(pair[0])["failures"]
    proxy = pair[0]
    wrong = start(server.url, env={auth: f"ann:x{PASSWORD}"}, workers=1)
    wait_for(lambda: "it is away" in wrong.stderr(), "a word of a wrong password")
    for one in (proxy, wrong):
        assert PASSWORD not in one.stderr()
        assert PASSWORD not in Admin(one).ask("/config?format=toml").text
        assert server.url in Admin(one).ask("/config?format=toml").text


def test_by_tls(folder: Path, ends: ExitStack, start: Start, origin: ThreadingHTTPServer) -> None:
    """A machine that trusts who has signed for the store shares its limits, and no other."""
    made = Certificates(folder / "certificates")
    tls = free_port()
    server = RedisServer(
        folder, "--tls-port", str(tls), "--tls-cert-file", str(made.cert),
        "--tls-key-file", str(made.key), "--tls-auth-clients", "no",
    )  # fmt: skip
    ends.callback(server.kill)
    url = f"rediss://localhost:{tls}/0"
    pair = [start(url, env={"SSL_CERT_FILE": str(made.ca)}, workers=1) for _ in range(2)]
    wait_together(*pair)
    assert 1 <= len(crowd(pair, origin, "127.0.0.2", CONNECTIONS)) <= CONNECTIONS + 2
    alone = start(url, workers=1)
    wait_for(lambda: "it is away" in alone.stderr(), "a word of a certificate")
    assert "certificate" in alone.stderr()
    assert crowd([alone], origin, "127.0.0.2", 1)


@pytest.mark.parametrize(
    ("flags", "env", "said"),
    [
        ({"STORE": "redis://ann:pw-x@127.0.0.1:6379/0"}, {}, "SPLICEPROXY_LIMITS_STORE_AUTH"),
        ({"STORE": "http://127.0.0.1:6379/0"}, {}, "allowed: redis://HOST:PORT/DB"),
        ({"STORE": "redis://127.0.0.1"}, {}, "a host and a port are needed"),
        ({"STORE_AUTH": "ann:pw-x"}, {}, "there is no limits-store that it could be for"),
        ({"STORE": "redis://127.0.0.1:6379", "STORE_AUTH": "pw-x"}, {}, "USER:PASSWORD"),
        ({"STORE": "redis://127.0.0.1:6379"}, {"hide": "1"}, "pip install 'spliceproxy[redis]'"),
    ],
)
def test_what_cannot_be(
    flags: dict[str, str], env: dict[str, str], said: str, tmp_path: Path
) -> None:
    if env:
        (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['redis'] = None\n")
    variables = {f"SPLICEPROXY_LIMITS_{name}": value for name, value in flags.items()}
    done = subprocess.run(
        [sys.executable, "-m", "spliceproxy", "--listen", "127.0.0.1:0"],
        env={"PYTHONPATH": str(tmp_path), **variables},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2, done
    assert said in done.stderr
    assert "pw-x" not in done.stderr
