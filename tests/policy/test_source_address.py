"""The address that a route connects from, in a real proxy."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults.test_reload import Reloaded
from harness import ProxyProcess, free_port, read_exactly, read_head, refused_port, serving

from spliceproxy.settings.loading import load

NewProxy = Callable[..., ProxyProcess]

BASIC = {"ada": "YWRhOnNlY3JldA==", "bob": "Ym9iOnNlY3JldA=="}

ROUTE = '[[route]]\nto = {}\nsource-address = "{}"\n'


def _peer(connection: socket.socket) -> None:
    """Answers each request with the address that it has come from, and says it in a tunnel."""
    peer = connection.getpeername()[0].encode()
    while head := read_head(connection):
        body = peer.ljust(16)
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n" if b"HTTP" in head else b""
        connection.sendall(answer + body)


@pytest.fixture
def origin() -> Iterator[int]:
    with serving(_peer, idle=True) as (_, port):
        yield port


def seen(client: socket.socket, port: int, user: str = "") -> str:
    """What an origin sees as the address of a request."""
    fields = f"Proxy-Authorization: Basic {BASIC[user]}\r\n" if user else ""
    host = f"127.0.0.1:{port}"
    client.sendall(f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode())
    head = read_head(client)
    assert b" 200 " in head, head
    return read_exactly(client, 16).decode().strip()


def seen_of_tunnel(proxy: ProxyProcess, port: int) -> str:
    with proxy.tunnel("127.0.0.1", port) as s:
        s.sendall(b"\r\n\r\n")
        return read_exactly(s, 16).decode().strip()


def proxy_of(new_proxy: NewProxy, tmp_path: Path, text: str, *args: str) -> ProxyProcess:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    return new_proxy("--config", str(file), *args)


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_of_each_route(new_proxy: NewProxy, tmp_path: Path, engine: str, origin: int) -> None:
    with serving(_peer, idle=True) as (_, other):
        first = ROUTE.format('"direct"', "127.0.0.7").replace("to", f"ports = [{origin}]\nto")
        second = ROUTE.format('"direct"', "127.0.0.8").replace("to", f"ports = [{other}]\nto")
        proxy = proxy_of(new_proxy, tmp_path, first + second, "--engine", engine)
        with proxy.connect() as s:
            for _ in range(4):
                assert seen(s, origin) == "127.0.0.7"
                assert seen(s, other) == "127.0.0.8"
        for _ in range(3):
            assert seen_of_tunnel(proxy, origin) == "127.0.0.7"
            assert seen_of_tunnel(proxy, other) == "127.0.0.8"


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_of_each_user(new_proxy: NewProxy, tmp_path: Path, engine: str, origin: int) -> None:
    """No connection of one user's serves another, whose requests go by another route."""
    users = tmp_path / "users"
    users.write_text("ada:secret\nbob:secret\n")
    done = subprocess.run(["openssl", "passwd", "-6", "secret"], capture_output=True, text=True)
    users.write_text("".join(f"{name}:{done.stdout}" for name in BASIC))
    routes = [
        ROUTE.format('"direct"', address) + f'users = ["{user}"]\n'
        for user, address in (("ada", "127.0.0.7"), ("bob", "127.0.0.8"))
    ]
    text = f'htpasswd = "{users}"\n' + "".join(routes)
    proxy = proxy_of(new_proxy, tmp_path, text, "--engine", engine)
    with proxy.connect() as s, proxy.connect() as other:
        for _ in range(4):
            assert seen(s, origin, "ada") == seen(other, origin, "ada") == "127.0.0.7"
            assert seen(s, origin, "bob") == "127.0.0.8"


@pytest.mark.parametrize("url", ["http", "socks5", "socks5h"])
def test_to_a_parent(new_proxy: NewProxy, tmp_path: Path, origin: int, url: str) -> None:
    parent = new_proxy("--via", "parent")
    text = ROUTE.format('"up"', "127.0.0.9") + f'[parent.up]\nurl = "{url}://127.0.0.1:{{}}"\n'
    proxy = proxy_of(new_proxy, tmp_path, text.format(parent.port))
    assert seen_of_tunnel(proxy, origin) == "127.0.0.1", "the parent connects as it likes"
    with proxy.connect() as s:
        for _ in range(2):
            assert seen(s, origin) == "127.0.0.1"
    proxy.stop()
    lines = parent.wait_access(2)
    assert all(" 127.0.0.9 " in line for line in lines), lines


def test_without_a_parent_at_last(new_proxy: NewProxy, tmp_path: Path, origin: int) -> None:
    with refused_port() as port:
        route = ROUTE.format('["up", "direct"]', "127.0.0.9")
        text = route + f'[parent.up]\nurl = "http://127.0.0.1:{port}"\n'
        proxy = proxy_of(new_proxy, tmp_path, text)
        assert seen_of_tunnel(proxy, origin) == "127.0.0.9"
        with proxy.connect() as s:
            assert seen(s, origin) == "127.0.0.9"


def test_a_reload(tmp_path: Path, origin: int) -> None:
    reloaded = Reloaded(tmp_path, settings=ROUTE.format('"direct"', "127.0.0.7"))
    try:
        with reloaded.proxy.connect() as s:
            assert seen(s, origin) == "127.0.0.7"
            reloaded.taken(ROUTE.format('"direct"', "127.0.0.8"))
            assert seen(s, origin) == "127.0.0.8"
            said = reloaded.refused(ROUTE.format('"direct"', "192.0.2.1"))
            assert "route 1: source-address: nothing can be connected to from 192.0.2.1" in said
            assert seen(s, origin) == "127.0.0.8"
    finally:
        reloaded.proxy.stop()


def test_an_address_of_the_other_family(new_proxy: NewProxy, tmp_path: Path, origin: int) -> None:
    proxy = proxy_of(new_proxy, tmp_path, ROUTE.format('"direct"', "::1"))
    with pytest.raises(ConnectionError, match=" 502 "):
        proxy.tunnel("127.0.0.1", origin)
    assert "destination_ip_unroutable" in proxy.wait_access(1)[0]


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    """That is a mistake where the proxy starts, but not where its settings are looked at."""
    file = tmp_path / "settings.toml"
    file.write_text(ROUTE.format('"direct"', "192.0.2.1"))
    config, _ = load({}, str(file), {}, start=False)
    assert config.routing.routes[0].source == "192.0.2.1"
    command = [sys.executable, "-m", "spliceproxy", "--config", str(file)]
    command += ["--listen", f"127.0.0.1:{free_port()}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert re.search(r"route 1: source-address: .* from 192.0.2.1 \(Cannot assign", done.stderr)
