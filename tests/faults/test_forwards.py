"""Addresses of --forward: each connection there is a tunnel, if the policy allows it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from balanced.balanced_rig import v2
from faults.test_reload import RULE, Reloaded
from harness import ProxyProcess, free_port, read_all, read_exactly, refused_port, serving

NewProxy = Callable[..., ProxyProcess]


def _greeting(connection: socket.socket) -> None:
    """Speaks first, and then says what it is told."""
    connection.sendall(b"220 ready\r\n")
    while data := connection.recv(1 << 16):
        connection.sendall(data)


@pytest.fixture
def origin() -> Iterator[tuple[str, int]]:
    with serving(_greeting) as address:
        yield address


def to(address: tuple[str, int], place: str = "127.0.0.1:0") -> tuple[str, str]:
    return "--forward", f"{place}={address[0]}:{address[1]}"


def forwards(proxy: ProxyProcess) -> list[int]:
    """The ports of the forwards, in their order."""
    return [int(one) for one in re.findall(r"listening on \S+:(\d+)=", proxy.stderr())]


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 20)


def tunnel(client: socket.socket) -> None:
    """There is one, and it carries bytes both ways and the end of each."""
    with client:
        assert read_exactly(client, 11) == b"220 ready\r\n", "the client has said nothing yet"
        client.sendall(b"ping")
        assert read_exactly(client, 4) == b"ping"
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""


def is_reset(port: int) -> None:
    """As early as that may come."""
    with pytest.raises(ConnectionResetError), connect(port) as client:
        client.recv(1)


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_a_tunnel(new_proxy: NewProxy, origin: tuple[str, int], engine: str) -> None:
    proxy = new_proxy(*to(origin), "--engine", engine, "--log-format", "json", workers=2)
    for _ in range(8):  # at each of the workers
        tunnel(connect(forwards(proxy)[0]))
    for line in proxy.wait_access(8):
        found = json.loads(line)
        assert (found["method"], found["status"]) == ("CONNECT", 200)
        assert found["target"] == f"127.0.0.1:{origin[1]}"
        moved = [found[f"{way}_copied"] + found[f"{way}_spliced"] for way in ("in", "out")]
        assert moved == [4, 15], "and nothing else"
    with proxy.connect() as s:  # the other address is as ever
        s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert s.recv(12) == b"HTTP/1.1 400"


def test_what_is_said_at_once(new_proxy: NewProxy, origin: tuple[str, int]) -> None:
    """It may look like a request, and the client may have ended its part of it."""
    proxy = new_proxy(*to(origin))
    for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x05\x01\x00", b"x" * 300_000, b""):
        with connect(forwards(proxy)[0]) as s:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            assert read_all(s) == b"220 ready\r\n" + data


def test_a_name(new_proxy: NewProxy, origin: tuple[str, int], tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("127.0.0.1 db.test\n")
    hosts = {"SPLICEPROXY_HOSTS_FILE": str(tmp_path / "hosts")}
    proxy = new_proxy(*to(("db.test", origin[1])), env=hosts)
    tunnel(connect(forwards(proxy)[0]))
    assert f"CONNECT db.test:{origin[1]} " in proxy.wait_access(1)[0]


def test_a_unix_socket(new_proxy: NewProxy, origin: tuple[str, int], tmp_path: Path) -> None:
    path = tmp_path / "a=b"
    new_proxy(*to(origin, f"unix:{path}"))
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    tunnel(client)


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_behind_a_balancer(new_proxy: NewProxy, origin: tuple[str, int], engine: str) -> None:
    place = "proxy+tcp://127.0.0.1:0"
    engines = "--engine", engine, "--guard", "off"
    proxy = new_proxy(*to(origin, place), "--proxy-protocol-from", "127.0.0.1", *engines)
    client = connect(forwards(proxy)[0])
    client.sendall(v2("10.1.2.3"))
    tunnel(client)
    assert " 10.1.2.3 " in proxy.wait_access(1)[0]


# ---- refused -----------------------------------------------------------------------------------


def test_a_rule_refuses(new_proxy: NewProxy, origin: tuple[str, int], tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text(RULE.format(id="no-db", host="127.0.0.1"))
    proxy = new_proxy("--config", str(file), *to(origin))
    is_reset(forwards(proxy)[0])
    assert f"TCP_DENIED/403 0 CONNECT 127.0.0.1:{origin[1]}" in proxy.wait_access(1)[0]
    assert "rule=no-db" in proxy.access()[0]


def test_nobody_listens(new_proxy: NewProxy) -> None:
    with refused_port() as port:
        proxy = new_proxy(*to(("127.0.0.1", port)))
        is_reset(forwards(proxy)[0])
    (line,) = proxy.wait_access(1)
    assert "/502 0 CONNECT " in line
    assert "connection_refused" in line


def test_the_guard_refuses(new_proxy: NewProxy) -> None:
    proxy = new_proxy(*to(("169.254.169.254", 80)))
    is_reset(forwards(proxy)[0])
    assert "/403 0 CONNECT 169.254.169.254:80" in proxy.wait_access(1)[0]


def test_it_leads_back(new_proxy: NewProxy) -> None:
    port = free_port()
    place = "127.0.0.1", port
    proxy = new_proxy(*to(place, f"127.0.0.1:{port}"))
    is_reset(port)
    assert "proxy_loop_detected" in proxy.wait_access(1)[0]


def test_the_limit_on_connections(new_proxy: NewProxy, origin: tuple[str, int]) -> None:
    proxy = new_proxy(*to(origin), "--max-connections", "1")
    port = forwards(proxy)[0]
    first = connect(port)
    assert read_exactly(first, 11)
    is_reset(port)
    assert "/503 0 CONNECT " in proxy.wait_access(1)[0]
    tunnel_goes_on = first
    tunnel_goes_on.sendall(b"ping")
    assert read_exactly(tunnel_goes_on, 4) == b"ping"
    first.close()


USERS = """
[auth-networks]
"127.0.0.0/8" = "machine"

[[rule]]
id = "machines"
action = "{}"
users = ["machine"]
"""


@pytest.mark.parametrize("action", ["allow", "deny"])
def test_a_user_of_a_network(
    new_proxy: NewProxy, origin: tuple[str, int], tmp_path: Path, action: str
) -> None:
    file = tmp_path / "p.toml"
    file.write_text('auth = "ada:secret"\n' + USERS.format(action))
    proxy = new_proxy("--config", str(file), *to(origin))
    port = forwards(proxy)[0]
    if action == "allow":
        tunnel(connect(port))
    else:
        is_reset(port)
    assert " machine " in proxy.wait_access(1)[0]


# ---- settings ----------------------------------------------------------------------------------

ONLY_USERS = """
rule-default = "deny"
auth = "ada:secret"
auth-required = false
[[rule]]
id = "users"
action = "allow"
users = ["ada"]
"""


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ('auth = "ada:secret"', "all clients must be users"),
        (ONLY_USERS, "the rules allow nothing but to users"),
        (ONLY_USERS + '[auth-networks]\n"10.0.0.0/8" = "ada"', ""),
        ('auth = "ada:secret"\nauth-required = false', ""),
        ('rule-default = "deny"\n[[rule]]\nid = "x"\naction = "allow"\nhosts = ["db.test"]', ""),
    ],
)
def test_settings_that_would_refuse_all(tmp_path: Path, settings: str, reason: str) -> None:
    file = tmp_path / "p.toml"
    file.write_text(settings)
    command = [sys.executable, "-m", "spliceproxy", "check", "--config", str(file)]
    command += to(("db.test", 5432), "127.0.0.1:5432")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == (2 if reason else 0), done
    if reason:
        assert f"--forward 127.0.0.1:5432=db.test:5432: {reason}, and nobody can be" in done.stderr


@pytest.mark.parametrize("kind", ["redirect", "tproxy"])
def test_the_same_where_the_kernel_leads_clients(tmp_path: Path, kind: str) -> None:
    command = [sys.executable, "-m", "spliceproxy", "check", "--auth", "ada:secret"]
    command += ["--listen", f"{kind}+tcp://:3129"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert f"--listen {kind}+tcp://:3129: all clients must be users, and nobody" in done.stderr


def test_a_reload(tmp_path: Path, origin: tuple[str, int]) -> None:
    """Of a place that stays, the next connection goes to the other destination; tunnels go on."""

    def other(connection: socket.socket) -> None:
        connection.sendall(b"other")

    first, second = free_port(), free_port()
    with serving(other) as elsewhere:
        forward = 'forward = ["127.0.0.1:{}=127.0.0.1:{}"{}]\n'
        before = forward.format(first, origin[1], "")
        reloaded = Reloaded(tmp_path, settings=before)
        try:
            client = connect(first)
            assert read_exactly(client, 11)
            more = f', "127.0.0.1:{second}=127.0.0.1:{origin[1]}"'
            reloaded.taken(forward.format(first, elsewhere[1], more))
            for _ in range(8):
                with connect(first) as s:
                    assert read_all(s) == b"other"
                tunnel(connect(second))
            client.sendall(b"ping")
            assert read_exactly(client, 4) == b"ping"
            client.close()
            said = reloaded.refused(forward.format(first, 0, ""))
            assert "invalid value" in said
            reloaded.taken("")
            with pytest.raises(ConnectionRefusedError):
                connect(first)
        finally:
            reloaded.proxy.stop()
