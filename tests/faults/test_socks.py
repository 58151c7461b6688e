"""SOCKS in a real proxy: who may speak it where, limits, users, and what is told of it."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from admin.admin_rig import Admin
from harness import ProxyProcess, read_all, read_exactly, refused_port, serving, wait_for

NewProxy = Callable[..., ProxyProcess]

GREETING = b"\x05\x01\x00"
BOTH = b"\x05\x02\x00\x02"
DONE = b"\x05\x00\x00\x01" + bytes(6)


def asks(host: str, port: int, command: int = 1) -> bytes:
    """A request of SOCKS5 with a name."""
    name = host.encode()
    return bytes((5, command, 0, 3, len(name))) + name + port.to_bytes(2, "big")


def asks_4(host: str, port: int) -> bytes:
    """Of SOCKS4a."""
    return b"\x04\x01" + port.to_bytes(2, "big") + b"\0\0\0\1\0" + host.encode() + b"\0"


def password(user: str, secret: str) -> bytes:
    return b"\x01%c%s%c%s" % (len(user), user.encode(), len(secret), secret.encode())


def get(address: tuple[str, int]) -> bytes:
    host = f"{address[0]}:{address[1]}"
    return f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def _echo(connection: socket.socket) -> None:
    """Says what it is told; a request of HTTP gets an answer."""
    while data := connection.recv(1 << 16):
        if data.startswith(b"GET "):
            data = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        connection.sendall(data)


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    with serving(_echo, idle=True) as address:
        yield address


def socks(client: socket.socket, address: tuple[str, int], data: bytes = GREETING) -> None:
    """A tunnel by SOCKS5 on this connection, in one segment."""
    client.sendall(data + asks(*address))
    steps = b"\x05\x00" if data == GREETING else b"\x05\x02\x01\x00"
    assert read_exactly(client, len(steps) + 10) == steps + DONE


def echoed(client: socket.socket) -> None:
    client.sendall(b"ping")
    assert read_exactly(client, 4) == b"ping"


def ports(proxy: ProxyProcess) -> list[int]:
    return [int(one) for one in re.findall(r"listening on \S*://\S*:(\d+)", proxy.stderr())]


def told(client: socket.socket, data: bytes) -> bytes:
    """All that is said to this."""
    with client:
        client.settimeout(20)
        client.sendall(data)
        return read_all(client)


# ---- in pieces ---------------------------------------------------------------------------------


def _conversation(kind: str, address: tuple[str, int]) -> tuple[bytes, bytes]:
    """All that a client says up to a request, and all that it is told."""
    if kind == "5":
        return GREETING + asks(*address), b"\x05\x00" + DONE
    if kind == "5 with a password":
        said = BOTH + password("ada", "secret") + asks(*address)
        return said, b"\x05\x02\x01\x00" + DONE
    user = b"somebody\0"
    if kind == "4":
        packed = socket.inet_aton(address[0])
        said = b"\x04\x01" + address[1].to_bytes(2, "big") + packed + user
    else:
        said = asks_4(*address).replace(b"\1\0", b"\1" + user)
    return said, b"\0\x5a" + bytes(6)


@pytest.mark.parametrize("engine", ["native", "splice"])
@pytest.mark.parametrize("kind", ["5", "5 with a password", "4", "4a"])
def test_cut_at_every_byte(
    new_proxy: NewProxy, echo: tuple[str, int], kind: str, engine: str
) -> None:
    """What comes in two pieces is understood as what comes in one; what ends in the middle ends
    there."""
    users = ("--auth", "ada:secret") if "password" in kind else ()
    proxy = new_proxy("--engine", engine, *users)
    said, wanted = _conversation(kind, echo)
    for cut in range(1, len(said) + 1):
        with proxy.connect() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(said[:cut])
            client.sendall(said[cut:] + b"early")
            assert read_exactly(client, len(wanted) + 5) == wanted + b"early", cut
        if cut == len(said):
            break
        with proxy.connect() as client:
            client.sendall(said[:cut])
            client.shutdown(socket.SHUT_WR)
            assert wanted.startswith(read_all(client)), cut
    assert "Traceback" not in proxy.stderr(), proxy.stderr()


# ---- where -------------------------------------------------------------------------------------


def _speaks(client: socket.socket, address: tuple[str, int], what: str) -> None:
    """A listener takes SOCKS, HTTP or both, and says so to the other."""
    with client:
        client.settimeout(20)
        if what == "socks":
            socks(client, address)
            echoed(client)
        else:
            for _ in range(2):
                client.sendall(get(address))
                assert b" 200 OK" in client.recv(4096)


@pytest.mark.parametrize("engine", ["native", "splice"])
def test_listeners(new_proxy: NewProxy, tmp_path: Path, echo: tuple[str, int], engine: str) -> None:
    """Mixed, of HTTP alone, of SOCKS alone; also of Unix sockets."""
    ways = ("", "mixed+", "http+", "socks+")
    paths = [tmp_path / f"s{number}" for number in range(4)]
    proxy = new_proxy(
        "--engine",
        engine,
        listen=[
            *[f"{way}tcp://127.0.0.1:0" if way else "127.0.0.1:0" for way in ways],
            *[f"{way}unix:{path}" for way, path in zip(ways, paths, strict=True)],
        ],
    )

    def connect(number: int, unix: bool) -> socket.socket:
        if not unix:
            return socket.create_connection(("127.0.0.1", ports(proxy)[number]), 20)
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(paths[number]))
        return client

    for unix in (False, True):
        for number in (0, 1, 2):
            _speaks(connect(number, unix), echo, "http")
        for number in (0, 1, 3):
            _speaks(connect(number, unix), echo, "socks")
        answer = told(connect(3, unix), get(echo))
        assert answer.startswith(b"HTTP/1.1 400 Bad Request: this is a SOCKS proxy\r\n")
        assert b"for SOCKS alone" in answer
        assert told(connect(2, unix), GREETING + asks(*echo)) == b"\x05\xff"
        assert told(connect(2, unix), asks_4(*echo)) == b"\x00\x5b" + bytes(6)


def test_by_a_balancer(new_proxy: NewProxy, echo: tuple[str, int]) -> None:
    """Behind the header there is SOCKS, be it in the same segment."""
    proxy = new_proxy(
        *("--proxy-protocol-from", "127.0.0.1", "--allow-clients", "192.0.2.0/24"),
        *("--guard", "off"),
        listen=["proxy+tcp://127.0.0.1:0", "proxy+socks+tcp://127.0.0.1:0"],
    )
    header = b"PROXY TCP4 192.0.2.9 192.0.2.1 1000 1080\r\n"
    for port in ports(proxy):
        for pause in (False, True):
            with socket.create_connection(("127.0.0.1", port), 20) as client:
                if pause:
                    client.sendall(header)
                    time.sleep(0.05)  # most likely a read of its own; it need not be
                    socks(client, echo)
                else:
                    client.sendall(header + GREETING + asks(*echo))
                    assert read_exactly(client, 12) == b"\x05\x00" + DONE
                echoed(client)
    with socket.create_connection(("127.0.0.1", ports(proxy)[1]), 20) as client:
        answer = told(client, header + get(echo))
        assert answer.startswith(b"HTTP/1.1 400 Bad Request: this is a SOCKS proxy\r\n")
    lines = proxy.wait_access(5)
    assert all(" 192.0.2.9 " in line for line in lines)


def test_a_reload_changes_what_is_spoken(
    new_proxy: NewProxy, tmp_path: Path, echo: tuple[str, int]
) -> None:
    """At the same address: who waits there is not lost, and what lives goes on."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    config = tmp_path / "config.toml"

    def listens(way: str) -> None:
        config.write_text(f'listen = ["{way}tcp://127.0.0.1:{port}"]\n')

    listens("mixed+")
    proxy = new_proxy("--config", str(config), listen=())
    tunnel = proxy.connect()
    socks(tunnel, echo)
    for number, (way, of_http, of_socks) in enumerate(
        (("socks+", False, True), ("http+", True, False), ("mixed+", True, True)), 2
    ):
        listens(way)
        proxy.process.send_signal(signal.SIGHUP)
        told_of = f"generation {number} is in force"
        wait_for(lambda text=told_of: text in proxy.stderr(), "the reload")  # type: ignore[misc]
        assert told(proxy.connect(), get(echo)[:-2] + b"Connection: close\r\n\r\n").startswith(
            b"HTTP/1.1 200" if of_http else b"HTTP/1.1 400"
        )
        if of_socks:
            _speaks(proxy.connect(), echo, "socks")
        else:
            assert told(proxy.connect(), GREETING) == b"\x05\xff"
        echoed(tunnel)
    tunnel.close()


@pytest.mark.parametrize("scheme", ["http", "socks5h", "socks4a"])
def test_by_way_of_a_parent(new_proxy: NewProxy, echo: tuple[str, int], scheme: str) -> None:
    """What comes by SOCKS leaves as the parent wants it, and what is said too early waits."""
    parent = new_proxy("--via", "parent")
    proxy = new_proxy("--proxy", f"{scheme}://127.0.0.1:{parent.port}")
    with proxy.connect() as client:
        client.sendall(GREETING + asks("localhost", echo[1]) + b"early")
        assert read_exactly(client, 17) == b"\x05\x00" + DONE + b"early"
        echoed(client)
    assert " FIRSTUP_PARENT/127.0.0.1 " in proxy.wait_access(1)[0]
    assert f" CONNECT localhost:{echo[1]} " in parent.wait_access(1)[0]
    with refused_port() as port:
        reply = told(proxy.connect(), GREETING + asks("127.0.0.1", port))
        assert reply[2:4] in (b"\x05\x04", b"\x05\x05")  # SOCKS4 does not say which


# ---- limits ------------------------------------------------------------------------------------


def test_one_limit_for_all_that_is_said(new_proxy: NewProxy, echo: tuple[str, int]) -> None:
    """A byte now and then does not make it longer."""
    proxy = new_proxy("--timeout-head", "1")
    began = time.monotonic()
    with proxy.connect() as client:
        client.sendall(GREETING)
        assert read_exactly(client, 2) == b"\x05\x00"
        client.settimeout(0.1)
        said = b""
        for byte in asks("a" * 200, echo[1]):
            client.sendall(bytes((byte,)))
            with contextlib.suppress(TimeoutError):
                said = client.recv(100)
                break
        assert said == b"\x05\x06\x00\x01" + bytes(6)
    assert 0.9 < time.monotonic() - began < 10
    assert "NONE/408" in proxy.wait_access(1)[0]


def test_silence(new_proxy: NewProxy) -> None:
    """Of a client that has not begun there is neither an answer nor a line."""
    proxy = new_proxy("--timeout-head", "0.3", listen=["socks+tcp://127.0.0.1:0"])
    with proxy.connect() as client:
        assert read_all(client) == b""
    assert proxy.access() == []


def test_max_connections(new_proxy: NewProxy, echo: tuple[str, int]) -> None:
    proxy = new_proxy("--max-connections", "1")
    with proxy.connect() as tunnel:
        socks(tunnel, echo)
        reply = b"\x05\x00\x05\x01\x00\x01" + bytes(6)
        assert told(proxy.connect(), GREETING + asks(*echo)) == reply
    assert "NONE/503" in proxy.wait_access(1)[0]


# ---- users -------------------------------------------------------------------------------------


def test_users(new_proxy: NewProxy, echo: tuple[str, int]) -> None:
    proxy = new_proxy("--auth", "ann:secret")
    with proxy.connect() as client:
        socks(client, echo, BOTH + password("ann", "secret"))
        echoed(client)
    assert told(proxy.connect(), BOTH + password("ann", "wrong")) == b"\x05\x02\x01\x01"
    assert told(proxy.connect(), BOTH + password("eve", "secret")) == b"\x05\x02\x01\x01"
    assert told(proxy.connect(), GREETING + asks(*echo)) == b"\x05\xff"
    assert told(proxy.connect(), asks_4(*echo)) == b"\x00\x5b" + bytes(6)
    lines = proxy.wait_access(5)
    assert sum("TCP_DENIED/407" in line for line in lines) == 4
    (line,) = [line for line in lines if "TCP_TUNNEL/200" in line]
    assert f" CONNECT {echo[0]}:{echo[1]} ann HIER_DIRECT/127.0.0.1 " in line
    assert proxy.stderr().count("authentication failed: client 127.0.0.1, user ann, wrong") == 1
    assert proxy.stderr().count("authentication failed: client 127.0.0.1, user eve, no such") == 1


def test_guesses_are_slowed(new_proxy: NewProxy) -> None:
    """As those of HTTP are, and together with them."""
    proxy = new_proxy("--auth", "ann:secret")
    clients = [proxy.connect() for _ in range(40)]
    for number, client in enumerate(clients):
        client.sendall(BOTH + password("ann", f"guess{number}"))
    for client in clients:
        assert read_all(client) == b"\x05\x02\x01\x01"
        client.close()
    lines = proxy.wait_access(40)
    assert sum("/429 " in line for line in lines) > 0
    assert sum("/407 " in line or "/429 " in line for line in lines) == 40


def test_networks_without_passwords(
    new_proxy: NewProxy, tmp_path: Path, echo: tuple[str, int]
) -> None:
    """Whoever is a user by the network needs no password, and may give one."""
    config = tmp_path / "config.toml"
    config.write_text('auth = "ann:secret"\n[auth-networks]\n"127.0.0.0/8" = "office"\n')
    proxy = new_proxy("--config", str(config))
    for data in (GREETING, BOTH + password("ann", "secret")):
        with proxy.connect() as client:
            socks(client, echo, data)
            echoed(client)
    users = [line.split()[7] for line in proxy.wait_access(2)]
    assert sorted(users) == ["ann", "office"]


def test_passwords_by_rule(new_proxy: NewProxy, tmp_path: Path, echo: tuple[str, int]) -> None:
    """The password is asked for before it is known where the client wants to go. Whoever offers
    none may go where nobody may, and is told no more than that it may not go anywhere else."""
    config = tmp_path / "config.toml"
    config.write_text(
        'auth = "ann:secret"\nauth-required = "by-rule"\nrule-default = "deny"\n'
        f'[[rule]]\nid = "open"\naction = "allow"\nports = [{echo[1]}]\n'
        '[[rule]]\nid = "users"\naction = "allow"\nusers = ["*"]\n'
    )
    proxy = new_proxy("--config", str(config))
    for data in (GREETING, BOTH + password("ann", "secret")):
        with proxy.connect() as client:
            socks(client, echo, data)
            echoed(client)
    refused = b"\x05\x02\x00\x01" + bytes(6)
    with refused_port() as port:
        elsewhere = asks(echo[0], port)
        assert told(proxy.connect(), GREETING + elsewhere) == b"\x05\x00" + refused
        assert told(proxy.connect(), BOTH + password("ann", "wrong")) == b"\x05\x02\x01\x01"
        data = BOTH + password("ann", "secret") + elsewhere
        assert told(proxy.connect(), data)[:6] == b"\x05\x02\x01\x00\x05\x05"  # nobody is there
    assert sum("TCP_DENIED/407" in line for line in proxy.wait_access(5)) == 2


def test_strangers(new_proxy: NewProxy, echo: tuple[str, int]) -> None:
    """The reply says that it is not allowed, and the line whither it was."""
    proxy = new_proxy("--allow-clients", "192.0.2.0/24", "--auth", "ann:secret")
    reply = b"\x05\x02\x00\x01" + bytes(6)
    assert told(proxy.connect(), GREETING + asks(*echo)) == b"\x05\x00" + reply
    assert told(proxy.connect(), BOTH + password("ann", "secret")) == b"\x05\x02\x01\x01"
    assert "authentication failed" not in proxy.stderr()  # nothing was checked
    first, second = proxy.wait_access(2)
    assert f" CONNECT {echo[0]}:{echo[1]} " in first
    assert all("TCP_DENIED/403" in line for line in (first, second))


# ---- what is told ------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_what_is_told(
    new_proxy: NewProxy, tmp_path: Path, echo: tuple[str, int], engine: str
) -> None:
    """The log, the metrics, the list of tunnels, and the function of --policy."""
    policy = tmp_path / "policy.py"
    policy.write_text(
        "from spliceproxy.policy import Allow, Deny\n"
        "def authorize(request):\n"
        "    if request.host == 'denied.test':\n"
        "        return Deny('not there', rule='no')\n"
        "    return Allow(tags={'method': request.method, 'host': request.host})\n"
    )
    path = tmp_path / "admin"
    proxy = new_proxy(
        *("--engine", engine, "--log-format", "json", "--policy", str(policy)),
        *("--admin", f"unix:{path}", "--log-level", "debug"),
    )
    admin = Admin(proxy, str(path))
    wait_for(path.is_socket, "the admin address")
    with proxy.connect() as five, proxy.connect() as four:
        socks(five, echo)
        four.sendall(asks_4(*echo))
        assert read_exactly(four, 8) == b"\x00\x5a" + bytes(6)
        echoed(five)
        echoed(four)
        target = f"{echo[0]}:{echo[1]}"
        found: list[Any] = admin.get("/tunnels")["tunnels"]
        assert [one["target"] for one in found] == [target] * 2
    assert told(proxy.connect(), GREETING + asks("denied.test", 1))[2:4] == b"\x05\x02"
    lines = [json.loads(line) for line in proxy.wait_access(3)]
    served = {one["socks"]: one for one in lines if one["status"] == 200}
    assert set(served) == {4, 5}
    for one in served.values():
        assert (one["method"], one["target"]) == ("CONNECT", target)
        assert one["tags"] == {"method": "CONNECT", "host": "127.0.0.1"}
        assert one["termination"] == "--"
    total = served[5]
    assert total["in_copied"] + total["in_spliced"] == len(GREETING + asks(*echo)) + 4
    assert total["out_copied"] + total["out_spliced"] == 2 + 10 + 4
    (denied,) = [one for one in lines if one["status"] == 403]
    assert (denied["rule"], denied["socks"], denied["target"]) == ("no", 5, "denied.test:1")
    text = admin.ask("/metrics").text
    for version, number in ((4, 1), (5, 2)):
        found_number = re.findall(
            rf'^spliceproxy_socks_requests_total{{.*version="{version}".*}} (\d+)', text, re.M
        )
        assert sum(map(int, found_number)) == number
    assert f"head CONNECT {target} SOCKS5" in proxy.stderr()


def test_learned(new_proxy: NewProxy, tmp_path: Path, echo: tuple[str, int]) -> None:
    path = tmp_path / "learned"
    proxy = new_proxy("--learn", str(path))
    with proxy.connect() as client:
        socks(client, ("localhost", echo[1]))
    assert told(proxy.connect(), GREETING + asks("169.254.169.254", 80))[2:4] == b"\x05\x02"
    assert proxy.stop() == 0
    text = path.read_text()
    assert "localhost" in text
    assert "169.254.169.254" in text


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_a_tunnel_moves(
    new_proxy: NewProxy, tmp_path: Path, echo: tuple[str, int], engine: str
) -> None:
    """With what its line will say, and so does a client that has yet to say where it wants to go:
    that ends, or goes on here."""
    path = tmp_path / "admin"
    proxy = new_proxy("--engine", engine, "--admin", f"unix:{path}")
    admin = Admin(proxy, str(path), 60.0)
    wait_for(path.is_socket, "the admin address")
    with proxy.connect() as tunnel, proxy.connect() as slow:
        socks(tunnel, echo)
        echoed(tunnel)
        slow.sendall(GREETING)
        assert read_exactly(slow, 2) == b"\x05\x00"
        assert admin.ask("/recycle", "POST").status == 200
        echoed(tunnel)
        slow.sendall(asks(*echo))
        assert read_exactly(slow, 10) == DONE
        echoed(slow)
    lines = proxy.wait_access(2)
    assert all(line.endswith(" socks=5") and "TCP_TUNNEL/200" in line for line in lines)


def test_a_client_that_leaves(new_proxy: NewProxy, echo: tuple[str, int]) -> None:
    """In the middle of what it has to say: no fault, and nothing is left."""
    proxy = new_proxy()
    for data in (b"\x05", GREETING, GREETING + b"\x05\x01", b"\x04\x01\0"):
        client = proxy.connect()
        client.sendall(data)
        client.close()
    lines = proxy.wait_access(4)
    assert all("NONE_ABORTED/000" in line for line in lines)
    _speaks(proxy.connect(), echo, "socks")
