"""/tunnels: what is shown of live tunnels and requests, the filters, and how they are ended."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from admin_rig import Admin, NewAdmin
from harness import ProxyProcess, alive, read_exactly, read_head, serving, wait_for

from spliceproxy.admin.filters import FILTERS, Filter

FIELDS = {
    "id", "worker", "kind", "state", "age", "idle", "client", "via", "user", "method", "target",
    "host", "port", "peer", "rule", "tags", "generation", "in_copied", "in_spliced", "out_copied",
    "out_spliced",
    "in_rate", "out_rate", "path", "client_rtt_us", "origin_rtt_us",
}  # fmt: skip


def shown(admin: Admin, query: str = "") -> list[dict[str, Any]]:
    answer = admin.get(f"/tunnels{query}")
    assert answer["silent"] == []
    found: list[dict[str, Any]] = answer["tunnels"]
    return found


@contextlib.contextmanager
def echoing() -> Iterator[tuple[str, int]]:
    """An origin that says what it hears, until the client ends."""

    def echo(s: socket.socket) -> None:
        with contextlib.suppress(ConnectionResetError):
            while got := s.recv(1 << 16):
                s.sendall(got)

    with serving(echo) as address:
        yield address


@contextlib.contextmanager
def holding() -> Iterator[tuple[tuple[str, int], threading.Event]]:
    """An origin that answers when it may, or never if the client leaves."""
    may = threading.Event()

    def hold(s: socket.socket) -> None:
        read_head(s)
        may.wait(20)
        with contextlib.suppress(OSError):
            s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with serving(hold) as address:
        try:
            yield address, may
        finally:
            may.set()


@pytest.mark.parametrize("engine", ["native", "splice"])
def test_a_tunnel(new_admin: NewAdmin, engine: str, tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rule]]\nid = "here"\naction = "allow"\nhosts = ["127.0.0.1"]\n')
    admin = new_admin("--config", str(rules), "--engine", engine)
    assert shown(admin) == []
    with echoing() as (host, port), admin.proxy.tunnel(host, port) as s:
        s.sendall(b"12345")
        assert read_exactly(s, 5) == b"12345"
        (one,) = shown(admin)
        assert set(one) == FIELDS
        assert (one["kind"], one["method"], one["target"]) == (
            "tunnel", "CONNECT", f"{host}:{port}",
        )  # fmt: skip
        assert (one["host"], one["port"], one["peer"]) == (host, port, host)
        assert (one["client"], one["user"], one["tags"]) == ("127.0.0.1", "", {})
        assert one["rule"] == "here"
        assert one["in_copied"] > 5
        assert one["out_copied"] > 5
        assert one["path"] == "copied"
        assert one["client_rtt_us"] > 0
        assert one["origin_rtt_us"] > 0
        assert 0 <= one["age"] < 20
        assert admin.get(f"/tunnels/{one['id']}")["target"] == one["target"]
        before = one
        s.sendall(b"x" * 10_000)
        read_exactly(s, 10_000)
        (one,) = shown(admin)
        assert one["id"] == before["id"]
        assert one["in_rate"] > 0
        assert one["in_copied"] + one["in_spliced"] == before["in_copied"] + 10_000
    wait_for(lambda: shown(admin) == [], "its end")
    assert admin.ask(f"/tunnels/{before['id']}").status == 404


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_a_running_request(new_admin: NewAdmin, engine: str) -> None:
    admin = new_admin("--engine", engine)
    with holding() as ((host, port), may), admin.proxy.connect() as s:
        s.sendall(f"GET http://{host}:{port}/a?b HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wait_for(lambda: len(shown(admin)) == 1, "the request")
        (one,) = shown(admin)
        assert set(one) == FIELDS
        assert (one["kind"], one["method"]) == ("request", "GET")
        assert one["target"] == f"http://{host}:{port}/a?b"
        may.set()
        assert b" 200 " in read_head(s)
        assert read_exactly(s, 2) == b"ok"
        wait_for(lambda: shown(admin) == [], "its end")


def test_a_query_is_not_shown_where_the_log_leaves_it_out(new_admin: NewAdmin) -> None:
    admin = new_admin(env={"SPLICEPROXY_LOG_QUERY": "false"})
    with holding() as ((host, port), _), admin.proxy.connect() as s:
        s.sendall(f"GET http://{host}:{port}/a?secret HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wait_for(lambda: len(shown(admin)) == 1, "the request")
        assert shown(admin)[0]["target"] == f"http://{host}:{port}/a?"


def test_users_and_filters(new_admin: NewAdmin, tmp_path: Path) -> None:
    (tmp_path / "hook.py").write_text(
        "from spliceproxy import Allow\n"
        "async def authorize(request):\n"
        "    return Allow(tags={'team': request.user or 'none'})\n"
    )
    admin = new_admin(
        "--auth", "ada:word", "--policy", str(tmp_path / "hook.py"), workers=2,
        env={"SPLICEPROXY_AUTH_REQUIRED": "false"},
    )  # fmt: skip
    with echoing() as (host, port), contextlib.ExitStack() as stack:
        for credentials in ("", "Proxy-Authorization: Basic YWRhOndvcmQ=\r\n") * 4:
            s = stack.enter_context(admin.proxy.connect())
            s.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: x\r\n{credentials}\r\n".encode())
            assert b" 200 " in read_head(s)
        assert len(shown(admin)) == 8
        for query, count in (
            ("?user=ada", 4),
            ("?user=", 4),
            ("?user=eve", 0),
            ("?user=eve&user=ada", 4),
            ("?client=127.0.0.0/8", 8),
            ("?client=10.0.0.0/8", 0),
            ("?client=unix", 0),
            (f"?host={host}&port={port}", 8),
            ("?host=.test", 0),
            (f"?port={port + 1}", 0),
            (f"?peer={host}", 8),
            ("?tag=team=ada", 4),
            ("?tag=team=none&tag=team=ada", 8),
            ("?tag=team=eve", 0),
            ("?kind=tunnel", 8),
            ("?kind=request", 0),
            ("?method=CONNECT", 8),
            ("?older=3600", 0),
            ("?older=0", 8),
        ):
            assert len(shown(admin, query)) == count, query
        assert sum(len(shown(admin, f"?worker={index}")) for index in range(2)) == 8
        ids = [one["id"] for one in shown(admin)]
        assert len(set(ids)) == 8
        assert [one["id"] for one in shown(admin, f"?id={ids[3]}")] == [ids[3]]


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("?colour=red", "there is no filter 'colour'; allowed: id, client,"),
        ("?client=nobody", "client: 'nobody' does not appear to be an IPv4 or IPv6 network"),
        ("?client=10.0.0.1/8", "client: 10.0.0.1/8 has host bits set"),
        ("?host=http://a/", "host: 'http://a/'; a URL; write hosts ="),
        ("?host=/(a%2B)%2Bb/", "host: '/(a%2B)%2Bb/'; allowed: a name, .NAME or *.NAME"),
        ("?host=/(/", "host: '/(/'; allowed: a name"),
        ("?port=http", "port: 'http'; allowed: a port"),
        ("?older=-1", "older: '-1'; allowed: seconds"),
        ("?older=soon", "older: 'soon'; allowed: seconds"),
        ("?kind=flow", "kind: 'flow'; allowed: tunnel, request"),
        ("?tag=team", "tag: 'team'; allowed: NAME=VALUE"),
        ("?worker=x", "worker: 'x'; allowed: the number of a worker"),
        ("?words=  ", "words: '  '; allowed: words, with 200 characters at most"),
    ],
)
def test_a_wrong_filter(query: str, why: str) -> None:
    name, _, value = query.removeprefix("?").partition("=")
    with pytest.raises(ValueError, match=r".") as caught:
        Filter({name: [value]})
    assert str(caught.value).startswith(why)


def test_a_wrong_filter_is_told(new_admin: NewAdmin) -> None:
    admin = new_admin()
    answer = admin.ask("/tunnels?colour=red")
    assert answer.status == 400
    assert "there is no filter 'colour'" in answer.text
    assert admin.ask("/tunnels?kind=x", "DELETE").status == 400
    for path in ("/tunnels", "/tunnels?"):
        answer = admin.ask(path, "DELETE")
        assert answer.status == 400
        assert "a filter is needed" in answer.text
    # A script's variable that is not set must not end all that have no user.
    for query in ("user=", "rule=", "id=", "method=", "user=ada&rule=", "user=ada&user=", "tag=a="):
        answer = admin.ask(f"/tunnels?{query}", "DELETE")
        assert answer.status == 400, query
        assert "''; what is to be ended" in answer.text or "'a='; what is to be" in answer.text
        assert admin.ask(f"/tunnels?{query}").status == 200
    assert admin.ask("/tunnels", "PUT").fields["Allow"] == "DELETE, GET, HEAD, OPTIONS"


def test_the_first_in_an_order(new_admin: NewAdmin) -> None:
    """So that nobody has to take 10,000 of them to see the busiest."""
    admin = new_admin(workers=2)
    with echoing() as (host, port), contextlib.ExitStack() as stack:
        for size in range(1, 7):
            s = stack.enter_context(admin.proxy.tunnel(host, port))
            s.sendall(bytes(size * 1000))
            read_exactly(s, size * 1000)

        def sizes(query: str) -> list[int]:
            answer = admin.get(f"/tunnels?{query}")
            assert answer["found"] == 6
            assert set(answer) == {"tunnels", "silent", "why", "found"}
            return [one["in_copied"] // 1000 for one in answer["tunnels"]]

        assert sizes("most=3&order=-in") == [6, 5, 4]
        assert sizes("most=2&order=in") == [1, 2]
        assert sizes("most=9&order=out") == [1, 2, 3, 4, 5, 6]
        assert sizes("most=0") == []
        assert sizes("most=1&order=age&words=CONNECT+127") == [6]  # the youngest
        ids = [one["id"] for one in admin.get("/tunnels?most=9&order=id")["tunnels"]]
        assert ids == sorted(ids)
        assert admin.get("/tunnels?most=9&words=none")["found"] == 0
        assert len(admin.get("/tunnels?order=-in&worker=0&worker=1")["tunnels"]) == 6
        assert admin.ask("/tunnels?most=1&order=-in", "DELETE").status == 400


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("most=x", "most: 'x'; allowed: 0 to 1000"),
        ("most=1001", "most: '1001'; allowed: 0 to 1000"),
        ("most=1&order=size", "order: 'size'; allowed: id, age, client, user, method, target,"),
        ("most=1&most=2", "most is given more than once"),
    ],
)
def test_a_wrong_order(new_admin: NewAdmin, query: str, why: str) -> None:
    answer = new_admin().ask(f"/tunnels?{query}")
    assert answer.status == 400
    assert answer.text.startswith(why)


def test_those_from_before_there_was_an_admin_address(tmp_path: Path) -> None:
    """Nobody has wanted to know of them, and they may live for days."""
    settings, path = tmp_path / "proxy.toml", tmp_path / "admin"
    settings.write_text('access-log = "off"\n')
    proxy = ProxyProcess(tmp_path, "--config", str(settings))
    admin = Admin(proxy, str(path))
    try:
        with echoing() as address, contextlib.ExitStack() as stack:
            first, _ = (stack.enter_context(proxy.tunnel(*address)) for _ in range(2))
            first.sendall(bytes(100_000))
            read_exactly(first, 100_000)
            settings.write_text(f'access-log = "off"\nadmin = "unix:{path}"\n')
            proxy.process.send_signal(signal.SIGHUP)
            wait_for(path.is_socket, "the admin address")
            wait_for(lambda: len(admin.get("/tunnels")["tunnels"]) == 2, "both")
            for _ in range(2):
                flows = shown(admin)
                assert len({one["id"] for one in flows} - {""}) == 2
                assert all(one["in_rate"] >= 0 <= one["out_rate"] for one in flows)
            ended = admin.ask(f"/tunnels/{flows[0]['id']}", "DELETE").json
            assert ended["killed"] == 1
            assert [one["id"] for one in shown(admin)] == [flows[1]["id"]]
    finally:
        proxy.kill()


@pytest.mark.parametrize("engine", ["native", "splice"])
def test_end_by_id_and_by_filter(new_admin: NewAdmin, engine: str) -> None:
    admin = new_admin("--engine", engine, workers=2)
    with echoing() as one, echoing() as two, contextlib.ExitStack() as stack:
        first = [stack.enter_context(admin.proxy.tunnel(*one)) for _ in range(6)]
        second = [stack.enter_context(admin.proxy.tunnel(*two)) for _ in range(3)]
        ids = [flow["id"] for flow in shown(admin, f"?port={two[1]}")]
        assert len(ids) == 3
        answer = admin.ask(f"/tunnels/{ids[0]}", "DELETE")
        assert (answer.status, answer.json) == (
            200, {"killed": 1, "ids": [ids[0]], "silent": [], "why": []},
        )  # fmt: skip
        wait_for(lambda: len(shown(admin)) == 8, "its end")
        assert admin.ask(f"/tunnels/{ids[0]}", "DELETE").status == 404
        assert admin.ask("/tunnels/nothing", "DELETE").status == 404
        assert sum(_is_cut(s) for s in second) == 1
        ended = admin.ask(f"/tunnels?port={one[1]}&kind=tunnel", "DELETE").json
        assert ended["killed"] == len(set(ended["ids"])) == 6
        assert all(_is_cut(s) for s in first)
        wait_for(lambda: len(shown(admin)) == 2, "their end")
        for s in second:
            if not _is_cut(s):
                s.sendall(b"x")
                assert read_exactly(s, 1) == b"x"
    text = admin.proxy.stderr()
    assert f"an operator has ended 1 tunnel or request: id={ids[0]}" in text
    wait_for(lambda: len(admin.proxy.access()) == 9, "the log")
    lines = admin.proxy.access()
    assert sum("_ABORTED/200" in line for line in lines) == 7


def _is_cut(s: socket.socket) -> bool:
    """Whether it is reset; one that lives has nothing to read."""
    s.settimeout(0.2)
    try:
        return s.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    finally:
        s.settimeout(20)


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_a_running_request_is_ended(new_admin: NewAdmin, engine: str) -> None:
    admin = new_admin("--engine", engine)
    with holding() as ((host, port), _), admin.proxy.connect() as s:
        s.sendall(f"GET http://{host}:{port}/a HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wait_for(lambda: len(shown(admin)) == 1, "the request")
        assert admin.ask("/tunnels?kind=request&method=GET", "DELETE").json["killed"] == 1
        assert _is_cut(s)
        (line,) = admin.proxy.wait_access(1)
        assert "_ABORTED/000" in line
        assert shown(admin) == []


def test_hostile_names(new_admin: NewAdmin) -> None:
    admin = new_admin()
    hostile = '/"},<script>alert(1)</script>&%00\xff\xfe' + "y" * 3000
    with holding() as ((host, port), _), admin.proxy.connect() as s:
        s.sendall(
            f"GET http://{host}:{port}{hostile} HTTP/1.1\r\nHost: x\r\n\r\n".encode("latin-1")
        )
        wait_for(lambda: len(shown(admin)) == 1, "the request")
        answer = admin.ask("/tunnels")
        assert answer.fields["Content-Type"] == "application/json"
        assert answer.fields["X-Content-Type-Options"] == "nosniff"
        (one,) = answer.json["tunnels"]
        assert one["target"].startswith(f'http://{host}:{port}/"}},<script>')
        assert len(one["target"]) == 1024
        assert admin.ask(f"/tunnels?user={quote(hostile)}").json["tunnels"] == []
        assert admin.ask(f"/tunnels/{quote(hostile, safe='')}", "DELETE").status == 404


def test_a_worker_that_is_stopped_is_named(new_admin: NewAdmin) -> None:
    admin = new_admin(workers=2)
    wait_for(lambda: "answer: 2" in admin.ask("/healthz").text, "both workers")
    stopped = admin.proxy.workers()[0]
    os.kill(stopped, signal.SIGSTOP)
    try:
        answer = admin.get("/tunnels")
        assert answer["tunnels"] == []
        assert answer["silent"] == [0]
        assert answer["why"] == [f"worker 0 (pid {stopped}) does not answer"]
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert alive(stopped)


def test_every_filter_is_on_the_page() -> None:
    text = (Path(__file__).parents[2] / "docs" / "admin.md").read_text()
    assert [name for name in FILTERS if f"`{name}=" not in text] == []


COUNT = int(os.environ.get("SPLICEPROXY_TEST_TUNNELS", "1500"))
"""Tunnels that are listed while others are served: 10,000 by hand."""


ORIGIN = """
import socket
origin = socket.create_server(("127.0.0.1", 0), backlog=4096)
print(origin.getsockname()[1], flush=True)
held = []
while True:
    held.append(origin.accept()[0])
"""
"""It takes whoever comes. In a process of its own it has the descriptors for that."""


@contextlib.contextmanager
def taking() -> Iterator[tuple[str, int]]:
    command = (sys.executable, "-c", ORIGIN)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as origin:
        assert origin.stdout is not None
        try:
            yield "127.0.0.1", int(origin.stdout.readline())
        finally:
            origin.kill()


def test_thousands_of_tunnels_are_listed_while_others_are_served(new_admin: NewAdmin) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * COUNT + 1000
    try:  # root may have more
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    except ValueError:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, wanted), hard))
    admin = new_admin("--access-log", "off", workers=2)
    with contextlib.ExitStack() as ends:
        ends.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        host, port = ends.enter_context(taking())
        request = f"CONNECT {host}:{port} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        for begin in range(0, COUNT, 100):
            some = [admin.proxy.connect() for _ in range(min(100, COUNT - begin))]
            for s in some:
                ends.enter_context(s)
                s.sendall(request)
            for s in some:
                assert b" 200 " in read_head(s)
        with echoing() as other, contextlib.ExitStack() as stack:
            pinging = [stack.enter_context(admin.proxy.tunnel(*other)) for _ in range(8)]
            ended = threading.Event()
            waits: list[float] = []

            def ping(s: socket.socket) -> None:
                while not ended.is_set():
                    begun = time.monotonic()
                    s.sendall(b"x")
                    assert read_exactly(s, 1) == b"x"
                    waits.append(time.monotonic() - begun)

            clients = [threading.Thread(target=ping, args=(s,)) for s in pinging]
            for client in clients:
                client.start()
            begun = time.monotonic()
            found = shown(admin, f"?port={port}")
            took = time.monotonic() - begun
            ended.set()
            for client in clients:
                client.join()
            slowest = max(waits) * 1000
            print(
                f"{COUNT} tunnels in {took:.2f} s; {len(waits)} messages, {slowest:.1f} ms at most"
            )
        assert len(found) == len({one["id"] for one in found}) == COUNT
        assert {one["worker"] for one in found} == {0, 1}
        assert len(waits) > 8
        killed = admin.ask(f"/tunnels?port={port}", "DELETE").json
        assert killed["killed"] == COUNT
        wait_for(lambda: shown(admin) == [], "the end of all")
