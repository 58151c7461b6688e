"""Parents that cannot be reached, lie, stall or die: who is tried next, and what clients hear."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_peers import Answer, Reader
from harness import (
    ProxyProcess,
    descriptors,
    read_exactly,
    read_head,
    refused_port,
    serving,
    wait_for,
)

Handle = Callable[[socket.socket], None]

FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def origin(connection: socket.socket) -> None:
    """Answers requests, and what is said in a tunnel."""
    while head := read_head(connection):
        assert b"proxy-authorization" not in head.lower()
        connection.sendall(FINE)


def pass_on(connection: socket.socket, host: str, port: int) -> None:
    """Both ways, until the client ends."""
    with socket.create_connection((host, port), 20) as there:
        there.settimeout(20)

        def back() -> None:
            with contextlib.suppress(OSError):
                while data := there.recv(65536):
                    connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=back, daemon=True)
        thread.start()
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                there.sendall(data)
            there.shutdown(socket.SHUT_WR)
        thread.join(20)


def parent(connection: socket.socket) -> None:
    """An HTTP proxy that does what it should."""
    while head := read_head(connection):
        method, target, _ = head.split(b"\r\n")[0].split(b" ")
        if method == b"CONNECT":
            host, _, port = target.decode().rpartition(":")
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            pass_on(connection, host, int(port))
            return
        connection.sendall(FINE)


def settings(*parents: tuple[str, int], to: str = "", more: str = "", url: str = "http") -> str:
    """A route by way of these, by their names and ports."""
    names = ", ".join(f'"{name}"' for name, _ in parents)
    tables = "".join(
        f'[parent.{name}]\nurl = "{url}://127.0.0.1:{port}"\n' for name, port in parents
    )
    return f"[[route]]\nto = [{names}{to}]\n{more}{tables}"


class Asked:
    """A proxy with a file of settings."""

    def __init__(self, folder: Path, text: str, *args: str, **kwargs: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "settings.toml"
        self.file.write_text(text)
        self.proxy = ProxyProcess(folder / "proxy", "--config", str(self.file), *args, **kwargs)  # type: ignore[arg-type]

    def get(self, url: str) -> Answer:
        with self.proxy.connect() as client:
            client.sendall(f"GET {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            return Reader(client).answer()

    def connect(self, target: str) -> Answer:
        with self.proxy.connect() as client:
            client.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            return Reader(client).answer("HEAD")

    def tunnel(self, target: str) -> socket.socket:
        """One that is there."""
        host, _, port = target.rpartition(":")
        return self.proxy.tunnel(host, int(port))


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Callable[..., Asked]]:
    """Starts a proxy: ``new(settings, flag...)``."""
    made: list[Asked] = []

    def start(text: str, *args: str, **kwargs: object) -> Asked:
        made.append(Asked(tmp_path / f"proxy{len(made)}", text, *args, **kwargs))
        return made[-1]

    yield start
    for one in made:
        one.proxy.kill()
        assert "Traceback" not in one.proxy.stderr(), one.proxy.stderr()


# ---- parents that are at fault -----------------------------------------------------------------


def silent(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def leaves(connection: socket.socket) -> None:
    read_head(connection)


def breaks(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def endless(connection: socket.socket) -> None:
    read_head(connection)
    with contextlib.suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        for number in itertools.count():
            connection.sendall(b"X-%d: y\r\n" % number)


def storm(connection: socket.socket) -> None:
    read_head(connection)
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(b"HTTP/1.1 102 Wait\r\n\r\n")


def garbage(connection: socket.socket) -> None:
    read_head(connection)
    with contextlib.suppress(OSError):
        connection.sendall(b"\x00" * 100_000)


def switches(connection: socket.socket) -> None:
    read_head(connection)
    connection.sendall(b"HTTP/1.1 101 Switch\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")


def unauthorized(connection: socket.socket) -> None:
    while read_head(connection):
        connection.sendall(
            b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n"
        )


FAULTS: dict[str, tuple[Handle, str]] = {
    "leaves": (leaves, "connection_terminated"),
    "breaks": (breaks, "connection_terminated"),
    "endless": (endless, "http_protocol_error"),
    "storm": (storm, "http_protocol_error"),
    "garbage": (garbage, "http_protocol_error"),
    "unauthorized": (unauthorized, "destination_unavailable"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_parent_at_fault_and_the_next_one(new: Callable[..., Asked], name: str) -> None:
    handle, error = FAULTS[name]
    with serving(origin) as (host, port), serving(handle) as (_, bad), serving(parent) as (_, good):
        alone = new(settings(("bad", bad)))
        answer = alone.connect(f"{host}:{port}")
        assert (answer.status, answer.error) == (502, error)
        assert 'next-hop="bad"' in answer.fields["proxy-status"]
        assert "proxy-authenticate" not in answer.fields
        both = new(settings(("bad", bad), ("good", good)))
        with both.tunnel(f"{host}:{port}") as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert read_exactly(client, len(FINE)) == FINE
        assert " route=good by=address" in both.proxy.wait_access(1)[0]


def test_a_parent_at_fault_while_it_forwards(new: Callable[..., Asked]) -> None:
    """It may have passed the request on, so no other is asked."""

    def never(connection: socket.socket) -> None:
        raise AssertionError("a request was sent twice")

    with serving(leaves) as (_, bad), serving(never) as (_, other):
        one = new(settings(("bad", bad), ("other", other)))
        answer = one.get("http://192.0.2.1/")
        assert (answer.status, answer.error) == (502, "connection_terminated")
        assert 'next-hop="bad"' in answer.fields["proxy-status"]


def test_a_parent_that_does_not_answer(new: Callable[..., Asked]) -> None:
    with serving(silent) as (_, port):
        one = new(settings(("slow", port)), "--timeout-dial", "0.3")
        answer = one.connect("192.0.2.1:443")
        assert (answer.status, answer.error) == (504, "connection_timeout")
        assert 'next-hop="slow"' in answer.fields["proxy-status"]
        assert "0.3 s" in answer.fields["proxy-status"]


def test_a_407_is_never_the_clients(new: Callable[..., Asked]) -> None:
    with serving(unauthorized, idle=True) as (_, port):
        one = new(settings(("strict", port)))
        answer = one.get("http://192.0.2.1/")
        assert answer.status == 502
        assert "received-status=407" in answer.fields["proxy-status"]
        assert "proxy-authenticate" not in answer.fields


def test_what_comes_behind_a_parents_head_is_the_clients(new: Callable[..., Asked]) -> None:
    def early(connection: socket.socket) -> None:
        read_head(connection)
        # Nothing of the client's comes before the answer, although it has sent something.
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)
        connection.setblocking(True)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        assert read_exactly(connection, 5) == b"early"

    with serving(early) as (_, port):
        one = new(settings(("a", port)))
        with one.proxy.connect() as client:
            client.sendall(b"CONNECT 192.0.2.1:443 HTTP/1.1\r\nHost: x\r\n\r\nearly")
            assert read_head(client).startswith(b"HTTP/1.1 200 ")
            assert read_exactly(client, 5) == b"hello"


def test_a_parent_has_so_many_connections_and_no_more(new: Callable[..., Asked]) -> None:
    with serving(origin, idle=True) as (host, there), serving(parent, idle=True) as (_, port):
        one = new(settings(("a", port)) + "max-connections = 1\n")
        with one.tunnel(f"{host}:{there}"):
            answer = one.connect(f"{host}:{there}")
            assert (answer.status, answer.error) == (503, "connection_limit_reached")
        one.proxy.wait_access(2)
        for lines in (4, 6):  # one that is idle makes room
            assert one.get(f"http://{host}:{there}/").status == 200
            with one.tunnel(f"{host}:{there}"):
                pass
            one.proxy.wait_access(lines)


def test_connections_that_are_being_made_count(new: Callable[..., Asked]) -> None:
    asked, answered = threading.Semaphore(0), threading.Event()

    def late(connection: socket.socket) -> None:
        read_head(connection)
        asked.release()
        assert answered.wait(20)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

    with serving(late) as (_, port):
        one = new(settings(("a", port)) + "max-connections = 1\n")
        with one.proxy.connect() as first:
            first.sendall(b"CONNECT 192.0.2.1:443 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert asked.acquire(timeout=20)
            assert one.connect("192.0.2.1:443").error == "connection_limit_reached"
            answered.set()
            assert read_head(first).startswith(b"HTTP/1.1 200 ")


def test_the_limit_of_a_parent_in_a_chain(new: Callable[..., Asked]) -> None:
    with serving(origin, idle=True) as (host, there), serving(parent, idle=True) as (_, port):
        text = (
            settings(("b", port)) + f'through = "a"\n[parent.a]\nurl = "http://127.0.0.1:{port}"\n'
        )
        one = new(text + "max-connections = 1\n")
        with one.tunnel(f"{host}:{there}"):
            answer = one.connect(f"{host}:{there}")
            assert (answer.status, answer.error) == (503, "connection_limit_reached")
            assert 'next-hop="a"' in answer.fields["proxy-status"]


@pytest.mark.parametrize("what", ["reload", "recycle"])
def test_tunnels_of_before_count(new: Callable[..., Asked], tmp_path: Path, what: str) -> None:
    """Those of former settings, and those that another process had."""
    with serving(origin, idle=True) as (host, there), serving(parent, idle=True) as (_, port):
        where = tmp_path / "admin"
        text = settings(("a", port)) + "max-connections = 1\n"
        one = new(text, "--admin", f"unix:{where}")
        first = one.proxy.worker
        with one.tunnel(f"{host}:{there}"):
            one.file.write_text(f"log-query = false\n{text}")
            command = [sys.executable, "-m", "spliceproxy", "ctl", "--admin", f"unix:{where}"]
            subprocess.run([*command, what], check=True, capture_output=True, timeout=60)
            if what == "recycle":
                wait_for(lambda: first not in one.proxy.workers(), "another worker")
            answer = one.connect(f"{host}:{there}")
            assert (answer.status, answer.error) == (503, "connection_limit_reached")
        one.proxy.wait_access(2)
        with one.tunnel(f"{host}:{there}"):
            pass


# ---- health ------------------------------------------------------------------------------------


def test_a_parent_that_is_gone_is_put_aside_and_comes_back(new: Callable[..., Asked]) -> None:
    with serving(origin) as (host, port), serving(parent, idle=True) as (_, good):
        with refused_port() as gone:
            one = new(settings(("gone", gone), ("good", good)))
            for _ in range(4):
                with one.tunnel(f"{host}:{port}"):
                    pass
            assert "the parent gone is put aside" in one.proxy.stderr()
        again = socket.create_server(("127.0.0.1", gone))
        with contextlib.closing(again):
            said = "the parent gone can be connected to: requests try it"
            wait_for(lambda: said in one.proxy.stderr(), "the look")
            assert "there again" not in one.proxy.stderr()  # nobody has asked it yet


def test_what_a_client_asks_for_puts_no_parent_aside(new: Callable[..., Asked]) -> None:
    def refuses(connection: socket.socket) -> None:
        while read_head(connection):
            connection.sendall(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")

    def never(connection: socket.socket) -> None:
        raise AssertionError("the next parent is asked about what the first has refused")

    with serving(refuses, idle=True) as (_, port), serving(never) as (_, other):
        one = new(settings(("busy", port), ("other", other)))
        for _ in range(5):
            answer = one.connect("192.0.2.1:443")
            assert (answer.status, answer.error) == (503, "destination_unavailable")
            assert "received-status=503" in answer.fields["proxy-status"]
            assert one.get("http://192.0.2.1/").status == 503
        assert "put aside" not in one.proxy.stderr()


def test_when_all_are_down(new: Callable[..., Asked]) -> None:
    with refused_port() as gone, serving(origin, idle=True) as (host, port):
        refusing = new(settings(("a", gone)))
        errors = [refusing.connect(f"{host}:{port}").error for _ in range(5)]
        assert errors == ["connection_refused"] * 3 + ["destination_unavailable"] * 2
        direct = new(settings(("a", gone), to=', "direct"'))
        for _ in range(5):
            assert direct.get(f"http://{host}:{port}/").body == b"ok"
            with direct.tunnel(f"{host}:{port}"):
                pass
        direct.proxy.stop()
        assert all(" HIER_DIRECT/" in line for line in direct.proxy.access())
        assert not any(" route=" in line for line in direct.proxy.access())


def test_going_straight_the_guard_is_asked(new: Callable[..., Asked]) -> None:
    """A name that a parent was to find leads to an address that nobody may go to."""
    with refused_port() as gone:
        one = new(settings(("a", gone), to=', "direct"'), "--guard", "private")
        answer = one.connect("localhost:80")
        assert (answer.status, answer.error) == (403, "destination_ip_prohibited")


def test_an_address_is_checked_before_a_parent_is_asked(new: Callable[..., Asked]) -> None:
    def never(connection: socket.socket) -> None:
        raise AssertionError("a parent was asked for an address that is forbidden")

    with serving(never) as (_, port):
        one = new(settings(("a", port)))
        for target in ("169.254.169.254:80", "[fe80::1]:80"):
            assert one.connect(target).status == 403
        assert one.get("http://169.254.169.254/").status == 403


def test_names_are_for_the_parent(new: Callable[..., Asked]) -> None:
    heads: list[bytes] = []

    def notes(connection: socket.socket) -> None:
        heads.append(read_head(connection))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with serving(notes, idle=True) as (_, port):
        one = new(settings(("a", port)))
        assert one.connect("only.inside.test:443").status == 200
        assert one.get("http://only.inside.test/x").status == 200
        assert heads[0].startswith(b"CONNECT only.inside.test:443 HTTP/1.1\r\n")
        assert heads[1].startswith(b"GET http://only.inside.test/x HTTP/1.1\r\n")
        assert all(" by=name" in line for line in one.proxy.wait_access(2))


def test_a_rule_about_addresses_needs_them(new: Callable[..., Asked]) -> None:
    """Then the name is looked up, checked, and the parent is told an address."""
    heads: list[bytes] = []

    def notes(connection: socket.socket) -> None:
        heads.append(read_head(connection))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    rule = '[[rule]]\nid = "no-ten"\naction = "deny"\nnetworks = ["10.0.0.0/8"]\n'
    with serving(notes, idle=True) as (_, port):
        one = new(settings(("a", port), more=rule))
        assert one.connect("localhost:443").status == 200
        assert re.match(rb"CONNECT (127\.0\.0\.1|\[::1\]):443 ", heads[0])
        assert one.connect("only.inside.test:443").status == 502
        assert one.connect("10.0.0.1:443").status == 403


def test_routes_are_tried_in_order(new: Callable[..., Asked]) -> None:
    with serving(origin, idle=True) as (host, there), serving(parent, idle=True) as (_, port):
        text = (
            '[[route]]\nhosts = ["no.test"]\nto = "refuse"\n'
            f'[[route]]\nports = [{there}]\nto = "direct"\n' + settings(("a", port))
        )
        one = new(text)
        answer = one.connect("no.test:443")
        assert (answer.status, answer.fields["proxy-status"].count("rule route")) == (403, 1)
        assert one.get(f"http://{host}:{there}/").status == 200
        assert one.get(f"http://{host}:1/").status == 200
        ways = [line.split()[8].partition("/")[0] for line in one.proxy.wait_access(3)]
        assert ways == ["HIER_NONE", "HIER_DIRECT", "FIRSTUP_PARENT"]


@pytest.mark.parametrize("pick", ["round-robin", "least", "hash"])
def test_which_is_tried_first(new: Callable[..., Asked], pick: str) -> None:
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(serving(parent, idle=True))[1] for _ in range(2)]
        one = new(settings(("a", ports[0]), ("b", ports[1]), more=f'pick = "{pick}"\n'))
        host, port = stack.enter_context(serving(origin, idle=True))
        tunnels = [stack.enter_context(one.tunnel(f"{host}:{port}")) for _ in range(4)]
        for tunnel in tunnels:
            tunnel.close()
        names = [re.findall(r"route=(\w)", line)[0] for line in one.proxy.wait_access(4)]
        assert len(set(names)) == (1 if pick == "hash" else 2)
        assert names.count("a") in ((0, 4) if pick == "hash" else (2,))
        if pick == "round-robin":
            for _ in range(4):
                assert one.get(f"http://{host}:{port}/").status == 200
            names = [re.findall(r"route=(\w)", line)[0] for line in one.proxy.wait_access(8)]
            assert names[4:].count("a") == 2


@pytest.mark.parametrize("ask", ["get", "tunnel"])
def test_one_of_two_dies_under_load(new: Callable[..., Asked], tmp_path: Path, ask: str) -> None:
    """No more requests fail than were on it."""
    with contextlib.ExitStack() as stack:
        dying = ProxyProcess(tmp_path / "dying", "--via", "dying")
        stack.callback(dying.kill)
        other = ProxyProcess(tmp_path / "other", "--via", "other")
        stack.callback(other.kill)
        host, port = stack.enter_context(serving(origin, idle=True))
        text = settings(("a", dying.port), ("b", other.port), more='pick = "round-robin"\n')
        one = new(text)
        failed: list[int] = []
        ended, asked = threading.Event(), itertools.count()

        def load() -> None:
            while not ended.is_set():
                if ask == "get":
                    status = one.get(f"http://{host}:{port}/").status
                else:
                    status = one.connect(f"{host}:{port}").status
                next(asked)
                if status != 200:
                    failed.append(status)

        clients = [threading.Thread(target=load, daemon=True) for _ in range(4)]
        for client in clients:
            client.start()
        wait_for(lambda: next(asked) > 50, "some load")
        dying.kill()
        before = next(asked)
        wait_for(lambda: next(asked) > before + 100, "more load")
        ended.set()
        for client in clients:
            client.join(20)
        assert len(failed) <= len(clients), failed


# ---- a PAC file --------------------------------------------------------------------------------

SCRIPT = """
function FindProxyForURL(url, host) {{
    if (host == "fault.test") return nothing;
    if (host == "127.0.0.1") return "DIRECT";
    if (host == "late.test") while (true) {{}}
    return "PROXY 127.0.0.1:{gone}; PROXY 127.0.0.1:{port}";
}}
"""


def test_a_pac_file(new: Callable[..., Asked], tmp_path: Path) -> None:
    pytest.importorskip("pacparser")
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(serving(parent, idle=True))[1]
        gone = stack.enter_context(refused_port())
        host, there = stack.enter_context(serving(origin, idle=True))
        path = tmp_path / "proxy.pac"
        path.write_text(SCRIPT.format(gone=gone, port=port))
        one = new("", "--pac", str(path), "--log-format", "json")
        for _ in range(2):
            assert one.get(f"http://{host}:{there}/").status == 200
            assert one.get("http://x.test/").status == 200
            assert one.get("http://fault.test/").status == 502
        answer = one.connect("late.test:443")
        assert answer.status == 502
        assert "no answer within 3 s" in answer.fields["proxy-status"]
        lines = list(map(json.loads, one.proxy.wait_access(7)))
        by = f"http://127.0.0.1:{port}"
        assert [line["route"] for line in lines] == ["direct", by, None] * 2 + [None]


# ---- what is left behind -----------------------------------------------------------------------


def test_nothing_is_left_open(new: Callable[..., Asked]) -> None:
    with contextlib.ExitStack() as stack:
        good = stack.enter_context(serving(parent, idle=True))[1]
        bad = stack.enter_context(serving(leaves))[1]
        host, port = stack.enter_context(serving(origin, idle=True))
        one = new(settings(("bad", bad), ("good", good)))
        with one.tunnel(f"{host}:{port}"):
            pass
        one.proxy.wait_access(1)
        worker = one.proxy.worker
        before = descriptors(worker)
        for _ in range(20):
            with one.tunnel(f"{host}:{port}"):
                pass
        wait_for(lambda: descriptors(worker) <= before, "the end of all connections")


def test_a_reload_changes_the_routes(new: Callable[..., Asked], tmp_path: Path) -> None:
    with serving(origin, idle=True) as (host, there), serving(parent, idle=True) as (_, port):
        where = tmp_path / "admin"
        one = new("", "--admin", f"unix:{where}")

        def reload(text: str) -> subprocess.CompletedProcess[str]:
            one.file.write_text(text)
            command = [sys.executable, "-m", "spliceproxy", "ctl", "--admin", f"unix:{where}"]
            return subprocess.run([*command, "reload"], capture_output=True, text=True, timeout=60)

        url = f"http://{host}:{there}/"
        assert one.get(url).status == 200
        assert reload(settings(("a", port))).returncode == 0
        assert one.get(url).status == 200
        refused = reload(settings(("a", port), to=', "nobody"'))
        assert refused.returncode != 0
        assert "there is no parent 'nobody'" in refused.stderr + refused.stdout
        assert one.get(url).status == 200
        assert reload("").returncode == 0
        assert one.get(url).status == 200
        ways = [line.split()[8].partition("/")[0] for line in one.proxy.wait_access(4)]
        assert ways == ["HIER_DIRECT", "FIRSTUP_PARENT", "FIRSTUP_PARENT", "HIER_DIRECT"]


def test_a_tunnel_goes_on_in_another_worker(new: Callable[..., Asked], tmp_path: Path) -> None:
    def echo(connection: socket.socket) -> None:
        while data := connection.recv(4096):
            connection.sendall(data)

    with serving(echo) as (host, there), serving(parent) as (_, port):
        where = tmp_path / "admin"
        one = new(settings(("a", port)), "--admin", f"unix:{where}")
        first = one.proxy.worker
        with one.tunnel(f"{host}:{there}") as client:
            client.sendall(b"before")
            assert read_exactly(client, 6) == b"before"
            command = [sys.executable, "-m", "spliceproxy", "ctl", "--admin", f"unix:{where}"]
            subprocess.run([*command, "recycle", "0"], check=True, capture_output=True, timeout=60)
            wait_for(lambda: first not in one.proxy.workers(), "another worker")
            client.sendall(b"behind")
            assert read_exactly(client, 6) == b"behind"
        (line,) = one.proxy.wait_access(1)
        assert " FIRSTUP_PARENT/127.0.0.1 " in line
        assert line.endswith(" route=a by=address")
