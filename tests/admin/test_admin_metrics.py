"""``/metrics`` and ``/stats.json`` of a proxy with real clients: what they count is what has been
done, over several workers, and nothing goes back when one of them dies."""

from __future__ import annotations

import http.server
import os
import re
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from admin_rig import Admin, NewAdmin
from harness import need, refused_port, wait_for

parser = pytest.importorskip("prometheus_client.parser")
openmetrics = pytest.importorskip("prometheus_client.openmetrics.parser")

ACCEPT = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"

Numbers = dict[tuple[str, frozenset[tuple[str, str]]], float]

RULES = """
[[rule]]
id = "no-delete"
action = "deny"
methods = ["DELETE"]
"""


class _Origin(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(int(self.path[1:] or 200))
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def origin() -> Iterator[int]:
    """Answers /404 with 404."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Origin)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def echo() -> Iterator[int]:
    """Sends back what it gets, until the end."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(peer: socket.socket) -> None:
        with peer:
            while data := peer.recv(65536):
                peer.sendall(data)

    def accept() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(peer,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def numbers(admin: Admin, accept: str = "") -> Numbers:
    """Each sample, as the parser of that format reads it."""
    answer = admin.ask("/metrics", token=None, Accept=accept)
    assert answer.status == 200
    new = answer.fields["Content-Type"].startswith("application/openmetrics-text")
    assert new is (accept == ACCEPT)
    parse = (openmetrics if new else parser).text_string_to_metric_families
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse(answer.text)
        for sample in family.samples
    }


def value(found: Numbers, name: str, **labels: str) -> float:
    """The sum of the samples with these labels, whatever others they have."""
    wanted = set(labels.items())
    return sum(
        number
        for (one, pairs), number in found.items()
        if one == f"spliceproxy_{name}" and wanted <= pairs
    )


def ask(admin: Admin, head: str) -> bytes:
    """One request on a connection of its own; all of the answer."""
    with socket.create_connection(("127.0.0.1", admin.proxy.port), 20) as client:
        client.sendall(head.encode())
        found = b""
        while data := client.recv(65536):
            found += data
        return found


def get(admin: Admin, port: int, path: str = "/", method: str = "GET") -> int:
    at = f"127.0.0.1:{port}"
    head = f"{method} http://{at}{path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n"
    return int(ask(admin, head)[9:12])


class Tunnel:
    """A tunnel to a port of this machine."""

    def __init__(self, admin: Admin, port: int) -> None:
        at = f"127.0.0.1:{port}"
        self.socket = socket.create_connection(("127.0.0.1", admin.proxy.port), 20)
        self.head = f"CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n\r\n".encode()
        self.socket.sendall(self.head)
        self.answer = self.socket.recv(65536)
        assert self.answer.startswith(b"HTTP/1.1 200 ")

    def echo(self, size: int) -> None:
        self.socket.sendall(bytes(size))
        left = size
        while left:
            left -= len(self.socket.recv(65536))

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)
        assert self.socket.recv(1) == b""
        self.socket.close()


def rules(tmp_path: Any) -> str:
    path = tmp_path / "rules.toml"
    path.write_text(RULES)
    return str(path)


def settled(admin: Admin, until: Callable[[Numbers], object], what: str) -> Numbers:
    """What is counted as soon as it is so."""
    found: Numbers = {}

    def seen() -> bool:
        found.clear()
        found.update(numbers(admin))
        return bool(until(found))

    wait_for(seen, what)
    return found


def load(admin: Admin, origin: int, echo: int) -> None:
    """What is counted below."""
    for path, times in (("/", 6), ("/404", 3), ("/503", 2)):
        assert {get(admin, origin, path) for _ in range(times)} == {int(path[1:] or 200)}
    assert {get(admin, origin, method="DELETE") for _ in range(4)} == {403}
    with refused_port() as port:
        assert {get(admin, port) for _ in range(5)} == {502}
    tunnels = [Tunnel(admin, echo) for _ in range(3)]
    for tunnel in tunnels:
        tunnel.echo(100_000)
    for tunnel in tunnels[1:]:
        tunnel.close()
    tunnels[0].socket.close()


def check(found: Numbers, times: int) -> None:
    """That it is what :func:`load` has done so often."""
    n = times
    assert value(found, "requests_total", method="GET", status="2xx") == 6 * n
    assert value(found, "requests_total", method="GET", status="4xx") == 3 * n
    assert value(found, "requests_total", method="GET", status="5xx") == 7 * n
    assert value(found, "requests_total", method="DELETE", status="4xx") == 4 * n
    assert value(found, "requests_total", method="CONNECT", status="2xx") == 3 * n
    assert value(found, "requests_total") == 23 * n
    assert value(found, "decisions_total", action="deny", rule="no-delete") == 4 * n
    assert value(found, "errors_total", error="connection_refused") == 5 * n
    assert value(found, "errors_total", error="http_request_denied") == 4 * n
    assert value(found, "tunnels_begun_total") == 3 * n
    assert value(found, "tunnels_ended_total") == 3 * n
    assert value(found, "connections_begun_total") == 23 * n
    assert value(found, "time_to_first_byte_seconds_count") == 11 * n
    assert 0 < value(found, "time_to_first_byte_seconds_sum") < 60
    assert value(found, "generation") == 1


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_counters_are_what_has_been_done_and_never_go_back(
    new_admin: NewAdmin, origin: int, echo: int, tmp_path: Any, engine: str
) -> None:
    args = ("--guard", "off", "--config", rules(tmp_path), "--engine", engine)
    admin = new_admin(*args, workers=3)
    load(admin, origin, echo)
    before = settled(
        admin, lambda found: value(found, "tunnels_ended_total") == 3, "the ends of tunnels"
    )
    check(before, 1)
    assert value(before, "bytes_total", direction="out") >= 300_000
    assert value(before, "worker_up") == 3
    for pid in admin.proxy.workers()[:2]:
        os.kill(pid, signal.SIGKILL)
        after = numbers(admin)
        back = {
            name: (before[name], number)
            for name, number in after.items()
            if number < before.get(name, 0)
            and name[0].endswith(("_total", "_bucket", "_sum", "_count"))
            and not re.search("worker_|process_", name[0])
        }
        assert back == {}
    after = settled(admin, lambda found: value(found, "worker_up") == 3, "other workers")
    check(after, 1)
    load(admin, origin, echo)
    after = settled(
        admin, lambda found: value(found, "tunnels_ended_total") == 6, "the ends of tunnels"
    )
    check(after, 2)
    assert value(after, "worker_deaths_total") == 2


def test_both_formats_say_the_same(new_admin: NewAdmin, origin: int) -> None:
    admin = new_admin("--guard", "off")
    get(admin, origin)
    old, new = numbers(admin), numbers(admin, ACCEPT)
    changing = re.compile("engine_info")  # as soon as a worker has said it
    assert {k for k in old if not changing.search(k[0])} == {
        k for k in new if not changing.search(k[0])
    }
    for process in ("0", "supervisor", "admin"):
        assert value(old, "process_resident_memory_bytes", process=process) > 1e6
        assert 3 < value(old, "process_open_fds", process=process) < 100
        assert value(old, "process_start_time_seconds", process=process) > 1.7e9
    assert value(old, "build_info") == 1
    settled(admin, lambda found: value(found, "engine_info", engine="native"), "the engine")


def test_promtool_takes_it(new_admin: NewAdmin) -> None:
    admin = new_admin()
    text = admin.ask("/metrics", token=None).body
    done = subprocess.run(
        [need("promtool"), "check", "metrics"], input=text, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr.decode()) == (0, b"", "")


def test_no_label_has_a_value_of_a_client(new_admin: NewAdmin, origin: int) -> None:
    admin = new_admin("--guard", "off", "--auth", "ann:secret")
    get(admin, origin)
    before = {name for name in numbers(admin) if "engine" not in name[0]}
    for head in (
        'EVIL"} http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n',
        "EVIL http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        "GET http://evil.example/evil HTTP/1.1\r\nHost: evil.example\r\n"
        "Proxy-Authorization: Basic ZXZpbDpldmls\r\nConnection: close\r\n\r\n",
        "CONNECT evil.example:1 HTTP/1.1\r\nHost: evil.example:1\r\nConnection: close\r\n\r\n",
    ):
        ask(admin, head)
    text = admin.ask("/metrics", token=None).text
    assert "evil" not in text.lower()
    assert {name for name in numbers(admin) if "engine" not in name[0]} == before


def test_rules_beyond_those_that_there_is_room_for_are_one(
    new_admin: NewAdmin, tmp_path: Any
) -> None:
    """Over several workers, which all know the same ids."""
    count, room = 1100, 1024
    path = tmp_path / "rules.toml"
    path.write_text(
        "".join(
            f"[[rule]]\nid = 'r{n}'\naction = 'deny'\nhosts = ['h{n}.test']\n" for n in range(count)
        )
    )
    admin = new_admin("--config", str(path), workers=3)
    asked = [*range(5), *range(room - 5, room + 5), *range(count - 5, count)]
    for n in asked * 2:
        assert b" 403 " in ask(
            admin, f"GET http://h{n}.test/ HTTP/1.1\r\nHost: h{n}.test\r\nConnection: close\r\n\r\n"
        )
    found = settled(admin, lambda it: value(it, "requests_total") == 2 * len(asked), "all")
    for n in asked:
        assert value(found, "decisions_total", action="deny", rule=f"r{n}") == 2 * (n < room)
    beyond = sum(n >= room for n in asked)
    assert value(found, "decisions_total", action="deny", rule="other") == 2 * beyond
    rules = {dict(labels)["rule"] for name, labels in found if name.endswith("decisions_total")}
    assert len({rule for rule in rules if re.fullmatch(r"r\d+", rule)}) <= room


def test_stats_say_what_has_been_done(
    new_admin: NewAdmin, origin: int, echo: int, tmp_path: Any
) -> None:
    admin = new_admin("--guard", "off", "--config", rules(tmp_path), workers=2)
    load(admin, origin, echo)
    settled(admin, lambda found: value(found, "tunnels_ended_total") == 3, "the ends of tunnels")
    stats: Any = {}

    def seen() -> bool:  # who asks gets lists that are a second old at most
        stats.update(admin.get("/stats.json"))
        rows = stats["top"]["all"]["clients"]["requests"]["rows"]
        return bool(rows) and rows[0]["requests"] == 23

    wait_for(seen, "the lists")
    assert stats["version"] == 1
    totals = stats["totals"]
    assert (totals["requests"], totals["failed"], totals["denied"]) == (23, 5, 4)
    assert totals["successful"] == 14
    assert totals["bytes_to_clients"] >= 300_000
    assert Counter(worker["up"] for worker in stats["workers"]) == {True: 2}
    rows = {row["key"]: row for row in stats["top"]["all"]["destinations"]["requests"]["rows"]}
    assert rows[f"127.0.0.1:{origin}"]["requests"] == 11
    assert rows[f"127.0.0.1:{echo}"]["requests"] == 3
    assert rows[f"127.0.0.1:{echo}"]["bytes_to_client"] >= 300_000
    assert not any(row["error"] for row in rows.values())
    (client,) = stats["top"]["recent"]["clients"]["bytes"]["rows"]
    assert (client["key"], client["requests"]) == ("127.0.0.1", 23)
    assert [one["rule"] for one in stats["denials"]] == ["no-delete"] * 4
    assert all(one["reason"] for one in stats["denials"])
    (failure,) = [one for one in stats["failures"] if one["kind"] == "connection_refused"]
    assert failure["hour"] == 5


def test_a_tunnel_is_in_the_lists_while_it_lives(new_admin: NewAdmin, echo: int) -> None:
    admin = new_admin("--guard", "off")
    tunnel = Tunnel(admin, echo)

    def row() -> Any:
        rows = admin.get("/stats.json")["top"]["recent"]["destinations"]["bytes"]["rows"]
        return next((one for one in rows if one["key"] == f"127.0.0.1:{echo}"), None)

    for size in (50_000, 150_000):
        tunnel.echo(50_000 if size == 50_000 else 100_000)
        wait_for(lambda n=size: (one := row()) and one["bytes_to_client"] >= n, "its bytes")
        assert row()["requests"] == 1
    tunnel.close()
    sent = len(tunnel.head) + 150_000, len(tunnel.answer) + 150_000
    wait_for(
        lambda: (row()["bytes_from_client"], row()["bytes_to_client"]) == sent, "all of its bytes"
    )
    assert row()["requests"] == 1


def test_what_makes_no_sense_is_refused(new_admin: NewAdmin) -> None:
    admin = new_admin()
    assert admin.ask("/stats.json?since=yesterday").status == 400
    assert admin.ask("/stats.json?since=1&since=2").status == 400
    assert admin.ask("/stats.json", token=None).status == 401
    assert admin.ask("/metrics", method="POST").status == 405
    assert admin.ask("/stats.json?since=1e300").json["history"]["rows"] == []
