"""Connections with a header of the PROXY protocol, to a real proxy: who the client is then, and
what becomes of a header that is not right."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest
from balanced_rig import (
    LOCAL,
    PROXY,
    SIGNATURE,
    Balanced,
    NewBalanced,
    get,
    silently_closed,
    status,
    v1,
    v2,
)
from harness import free_port, read_head, wait_for

from spliceproxy.front.proxy_header import crc32c

ENGINES = ("native", "copy")
Address = tuple[str, int]

ANYWHERE = {"SPLICEPROXY_GUARD_ALLOW": "127.0.0.0/8"}
"""Lets any client reach the origins of the tests, which are on this machine."""


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ask(proxy: Balanced, header: bytes, request: bytes) -> int:
    with proxy.proxy.connect() as client:
        client.sendall(header + request)
        return status(client)


def summed(client: str) -> bytes:
    """With a checksum."""
    draft = v2(client, vectors=b"\x03\0\x04\0\0\0\0")
    return draft[:-4] + crc32c(draft).to_bytes(4, "big")


HEADERS = {
    "v1": (v1("10.1.2.3"), "10.1.2.3"),
    "v1, IPv6": (v1("2001:db8::5", "TCP6"), "2001:db8::5"),
    "v1, mapped": (v1("::ffff:10.1.2.3", "TCP6"), "10.1.2.3"),
    "v2": (v2("10.1.2.3"), "10.1.2.3"),
    "v2, IPv6": (v2("2001:db8::5"), "2001:db8::5"),
    "v2, mapped": (v2("::ffff:10.1.2.3"), "10.1.2.3"),
    "v2, vectors": (v2("10.1.2.3", vectors=b"\x04\0\x02ab\xe0\0\0"), "10.1.2.3"),
    "v2, checksum": (summed("10.1.2.3"), "10.1.2.3"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_the_client_is_whom_the_header_names(
    new_balanced: NewBalanced, web: Address, engine: str, name: str
) -> None:
    header, client = HEADERS[name]
    proxy = new_balanced(
        "--engine", engine, "--allow-clients", "10.0.0.0/8", "--allow-clients", "2001:db8::/32",
        env=ANYWHERE,
    )  # fmt: skip
    with proxy.proxy.connect() as sock:
        sock.sendall(header + get(web))
        assert status(sock) == 200
        sock.sendall(get(web))  # with a route
        assert status(sock) == 200
        sock.sendall(get(web, "Connection: TE", "TE: trailers"))  # not plain: Python's
        assert status(sock) == 200
        sock.sendall(f"CONNECT {web[0]}:{web[1]} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert read_head(sock).startswith(b"HTTP/1.1 200")
        (tunnel,) = proxy.get("/tunnels")["tunnels"]
        assert tunnel["client"] == client
    for line in proxy.lines(4):
        assert (line["client"], line["via"]) == (client, "127.0.0.1")
    assert proxy.counted(name[:2]) == 1


@pytest.mark.parametrize("name", ["v1", "v2", "v2, checksum"])
def test_a_header_in_pieces(new_balanced: NewBalanced, web: Address, name: str) -> None:
    """Split anywhere, and glued to the first request."""
    header = HEADERS[name][0]
    proxy = new_balanced("--allow-clients", "10.0.0.0/8", env=ANYWHERE)
    data = header + get(web)
    with proxy.proxy.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(data)):
            sock.sendall(data[at : at + 1])
            time.sleep(0.001)  # so that some arrive by themselves
        assert status(sock) == 200
    for at in (1, len(header) - 1, len(header), len(header) + 1):
        with proxy.proxy.connect() as sock:
            sock.sendall(data[:at])
            wait_for(lambda: _received(proxy), "the first part")
            sock.sendall(data[at:])
            assert status(sock) == 200
    assert proxy.counted(name[:2]) == 5


def _received(proxy: Balanced) -> bool:
    """Whether the worker has read all that was sent to it (proc(5): the queue of a socket)."""
    port = f":{proxy.proxy.port:04X} "
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    mine = [row.split() for row in rows if port in row.split(maxsplit=3)[1] + " "]
    return all(row[4].endswith(":00000000") for row in mine)


UNNAMED = {
    "unknown": (
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN 127.0.0.1 127.0.0.1 1 1\r\n",
        v2(),
        SIGNATURE + bytes([PROXY, 0x31, 0, 216]) + bytes(216),
    ),
    "local": (v2(command=LOCAL), v2("10.1.2.3", LOCAL)),
}


@pytest.mark.parametrize("result", UNNAMED)
def test_a_header_that_names_no_client(
    new_balanced: NewBalanced, web: Address, engine: str, result: str
) -> None:
    """The client has the address of the balancer, but is not on this machine, as that is: HAProxy
    says LOCAL also for whom it brings from a Unix socket."""
    strict = new_balanced("--engine", engine)
    open_ = new_balanced("--engine", engine, env=ANYWHERE)
    for header in UNNAMED[result]:
        assert ask(strict, header, get(web)) == 403
        assert ask(open_, header, get(web)) == 200
    for proxy in (strict, open_):
        for line in proxy.lines(len(UNNAMED[result])):
            assert (line["client"], line["via"]) == ("127.0.0.1", "127.0.0.1")
        assert proxy.counted(result) == len(UNNAMED[result])
    assert {line["error"] for line in strict.lines(1)} == {"destination_ip_prohibited"}


def test_loopback_in_a_header_is_another_machine(
    new_balanced: NewBalanced, web: Address, engine: str
) -> None:
    """A decision for a client of this machine is never repeated for one that only says so. Both
    ask for the same at the same time, so that each would find the other's route."""
    listen = ["proxy+tcp://127.0.0.1:0", "127.0.0.1:0"]
    proxy = new_balanced("--engine", engine, "--allow-clients", "0.0.0.0/0", listen=listen)
    plain = _plain_port(proxy)
    for header in (v1("127.0.0.1"), v2("127.0.0.1"), v2()):
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", plain), 20) as sock:
                sock.sendall(get(web))
                assert status(sock) == 200
            assert ask(proxy, header, get(web)) == 403
    refused = [line for line in proxy.lines(18) if line["status"] == 403]
    assert len(refused) == 9
    assert {line["error"] for line in refused} == {"destination_ip_prohibited"}


def _plain_port(proxy: Balanced) -> int:
    for line in proxy.proxy.stderr().splitlines():
        if "listening on http://" in line:
            return int(line.rpartition(":")[2])
    raise AssertionError(proxy.proxy.stderr())


def test_no_network_within_loopback_names_them(new_balanced: NewBalanced, web: Address) -> None:
    proxy = new_balanced("--allow-clients", "127.0.0.0/8", env=ANYWHERE)
    assert ask(proxy, v2("127.0.0.1"), get(web)) == 403
    assert ask(proxy, v2(command=LOCAL), get(web)) == 200


# ---- headers that are not right ----------------------------------------------------------------

WRONG = {
    "missing": [get(("h", 80)), b"\x16\x03\x01\x02\0\x01", b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"],
    "malformed": [
        b"PROXY TCP4 10.1.2.3 10.1.2.3 01 2\r\n",
        b"PROXY TCP9 10.1.2.3 10.1.2.3 1 2\r\n",
        SIGNATURE + b"\x21\x11\0\x02ab",
        v2("10.1.2.3", vectors=b"\x04\0\x09"),
    ],
    "too_long": [b"PROXY UNKNOWN " + b"x" * 93 + b"\r\n", SIGNATURE + b"\x21\x11\xff\xff"],
    "checksum": [summed("10.1.2.3")[:-1] + b"\xff"],
}


def told(proxy: Balanced) -> list[str]:
    """What the messages have of the PROXY protocol, when there is something."""

    def lines() -> list[str]:
        return [line for line in proxy.proxy.stderr().splitlines() if "PROXY protocol" in line]

    wait_for(lines, "a message")
    return lines()


@pytest.mark.parametrize("result", WRONG)
def test_a_header_that_is_not_right(new_balanced: NewBalanced, engine: str, result: str) -> None:
    """Closed without an answer, counted, and told once, while others are served."""
    proxy = new_balanced("--engine", engine)
    with proxy.proxy.connect() as other:
        for data in WRONG[result] * 2:
            with proxy.proxy.connect() as sock:
                sock.sendall(data)
                assert silently_closed(sock), data
        assert proxy.counted(result) == 2 * len(WRONG[result])
        (said,) = told(proxy)
        assert "WARNING" in said
        assert "a connection from 127.0.0.1 was closed" in said
        other.sendall(v2("10.1.2.3") + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status(other) == 400
    assert len(proxy.lines(1)) == 1


def test_a_stranger_is_closed_whatever_it_says(new_balanced: NewBalanced, engine: str) -> None:
    proxy = new_balanced("--engine", engine, "--proxy-protocol-from", "10.0.0.0/8")
    for data in (b"", v2("10.1.2.3"), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
        with proxy.proxy.connect() as sock:
            with contextlib.suppress(ConnectionError):
                sock.sendall(data)
            assert silently_closed(sock)
    assert proxy.counted("outside") == 3
    (said,) = told(proxy)
    assert "the address is not in --proxy-protocol-from" in said


def test_a_header_that_does_not_come(new_balanced: NewBalanced, engine: str) -> None:
    proxy = new_balanced("--engine", engine, "--timeout-proxy-header", "0.3")
    with proxy.proxy.connect() as silent, proxy.proxy.connect() as slow:
        slow.sendall(b"PROXY TCP4 10.")
        assert silently_closed(silent)
        assert silently_closed(slow)
    assert proxy.counted("timeout") == 2
    with proxy.proxy.connect() as sock:
        sock.sendall(v2("10.1.2.3"))
        with proxy.proxy.connect() as another:
            assert silently_closed(another)
        # The limit was for the header: the request has its own.
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status(sock) == 400


def test_who_only_looks_whether_somebody_listens(new_balanced: NewBalanced, engine: str) -> None:
    """A balancer's check by connecting is counted, and no fault."""
    proxy = new_balanced("--engine", engine)
    proxy.proxy.connect().close()
    proxy.wait_counted("closed")
    assert "was closed" not in proxy.proxy.stderr()
    with proxy.proxy.connect() as sock:
        sock.sendall(b"PROXY TC")
        sock.shutdown(socket.SHUT_WR)
        assert silently_closed(sock)
    proxy.wait_counted("closed", 2)
    assert "in the middle" in proxy.proxy.stderr()
    with proxy.proxy.connect() as sock:  # as HAProxy's check does: LOCAL, and a reset
        sock.sendall(v2(command=LOCAL))
        proxy.wait_counted("local")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert not proxy.proxy.access()


# ---- limits, users, the end --------------------------------------------------------------------


def test_the_limit_on_connections(new_balanced: NewBalanced, web: Address, engine: str) -> None:
    proxy = new_balanced(
        "--engine", engine, "--max-connections", "2", "--allow-clients", "10.0.0.0/8", env=ANYWHERE
    )
    with proxy.proxy.connect() as one, proxy.proxy.connect() as two:
        for sock in (one, two):
            sock.sendall(v2("10.1.2.3") + get(web))
            assert status(sock) == 200
        assert ask(proxy, v2("10.1.2.4"), get(web)) == 503
    # Two have gone: there is room again.
    wait_for(lambda: ask(proxy, v2("10.1.2.3"), get(web)) == 200, "a place")


def test_wrong_passwords_are_those_of_the_client(
    new_balanced: NewBalanced, web: Address, engine: str
) -> None:
    wrong = get(web, "Proxy-Authorization: Basic YTp4")  # a:x
    right = get(web, "Proxy-Authorization: Basic YTpi")  # a:b
    proxy = new_balanced("--engine", engine, "--auth", "a:b", env=ANYWHERE)
    for n in range(3):
        assert ask(proxy, v2("10.1.2.3"), wrong.replace(b"YTp4", b"YTp%d" % n)) in (407, 429)
    assert ask(proxy, v2("10.1.2.4"), right) == 200  # the delay is of another address
    assert "authentication failed: client 10.1.2.3, user a" in proxy.proxy.stderr()


def test_users_by_network(new_balanced: NewBalanced, web: Address, tmp_path: Path) -> None:
    """An address of loopback in a header is not one of this machine's users."""
    config = tmp_path / "config.toml"
    config.write_text('[auth-networks]\n"10.0.0.0/8" = "team"\n"127.0.0.0/8" = "root"\n')
    proxy = new_balanced("--config", str(config), "--allow-clients", "0.0.0.0/0", env=ANYWHERE)
    for client in ("10.1.2.3", "127.0.0.1"):
        assert ask(proxy, v2(client), get(web)) == 200
    assert [line["user"] for line in proxy.lines(2)] == ["team", None]


def test_a_unix_socket(
    new_balanced: NewBalanced, web: Address, engine: str, tmp_path: Path
) -> None:
    """Who may write to the file may send headers. The process behind it is the balancer, which is
    no client and makes nobody a user."""
    config = tmp_path / "config.toml"
    config.write_text('[auth-peers]\n0 = "root"\n')
    path = tmp_path / "s"
    proxy = new_balanced(
        "--engine", engine, "--config", str(config), "--allow-clients", "10.0.0.0/8",
        "--allow-clients", "unix", listen=[f"proxy+unix:{path}"],
        env=ANYWHERE,
    )  # fmt: skip

    def by_unix(header: bytes) -> int:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(str(path))
            sock.sendall(header + get(web))
            return status(sock)

    assert by_unix(v2("10.1.2.3")) == 200
    assert by_unix(v2(command=LOCAL)) == 200
    assert by_unix(v2()) == 200
    assert by_unix(v2("10.1.2.3")) == 200
    found = [(one["client"], one["via"], one["user"]) for one in proxy.lines(4)]
    assert found == [
        ("10.1.2.3", "unix", None),
        (None, "unix", None),
        (None, "unix", None),
        ("10.1.2.3", "unix", None),
    ]


def test_a_header_while_the_proxy_drains(
    new_balanced: NewBalanced, web: Address, engine: str
) -> None:
    """Who was accepted before is served, and who says nothing does not hold it up."""
    proxy = new_balanced(
        "--engine", engine, "--allow-clients", "10.0.0.0/8", "--timeout-drain", "30", env=ANYWHERE
    )
    with proxy.proxy.connect() as late, proxy.proxy.connect() as silent:
        late.sendall(v2("10.1.2.3")[:20])
        wait_for(lambda: _received(proxy), "the first part")
        silent.sendall(b"PROXY ")
        wait_for(lambda: _received(proxy), "the other's first part")
        stopped = threading.Thread(target=proxy.proxy.stop)
        stopped.start()
        wait_for(lambda: not _listens(proxy), "the drain")
        late.sendall(v2("10.1.2.3")[20:] + get(web))
        assert status(late) == 200
        assert silently_closed(silent)
        stopped.join(20)
    assert proxy.proxy.process.returncode == 0


def _listens(proxy: Balanced) -> bool:
    try:
        proxy.proxy.connect().close()
        return True
    except OSError:
        return False


def test_a_reload_changes_whom_headers_are_taken_from(
    new_balanced: NewBalanced, web: Address, engine: str, tmp_path: Path
) -> None:
    """Also for the relay, which has known the balancer, and for an address that is new."""
    config = tmp_path / "config.toml"
    port = free_port()
    one = 'listen = ["proxy+tcp://127.0.0.1:0"]\nproxy-protocol-from = ["127.0.0.1"]\n'
    two = f'listen = ["127.0.0.1:{port}", "proxy+tcp://127.0.0.1:0"]\n'
    config.write_text(one)
    proxy = new_balanced(
        "--engine", engine, "--config", str(config), "--allow-clients", "10.0.0.0/8",
        listen=(), env=ANYWHERE,
    )  # fmt: skip
    for _ in range(2):
        assert ask(proxy, v2("10.1.2.3"), get(web)) == 200
    config.write_text(two + 'proxy-protocol-from = ["127.0.0.1", "10.0.0.0/8"]\n')
    assert proxy.ask("/reload", "POST").status == 200
    assert ask(proxy, v2("10.1.2.3"), get(web)) == 200
    with socket.create_connection(("127.0.0.1", port), 20) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status(plain) == 400
    config.write_text(two + 'proxy-protocol-from = ["10.0.0.0/8"]\n')
    assert proxy.ask("/reload", "POST").status == 200
    with proxy.proxy.connect() as sock:
        sock.sendall(v2("10.1.2.3"))
        assert silently_closed(sock)
    assert proxy.counted("outside") == 1


def test_connections_are_counted(new_balanced: NewBalanced, web: Address, engine: str) -> None:
    proxy = new_balanced("--engine", engine, "--allow-clients", "10.0.0.0/8", env=ANYWHERE)
    with proxy.proxy.connect() as waits, proxy.proxy.connect() as served:
        waits.sendall(b"PROXY ")
        served.sendall(v2("10.1.2.3") + get(web))
        assert status(served) == 200
        text = proxy.ask("/metrics").text
        assert "spliceproxy_connections_begun_total" in text
        wait_for(lambda: _open(proxy) == 2, "two open connections")
    wait_for(lambda: _open(proxy) == 0, "the end of both")


def _open(proxy: Balanced) -> int:
    text = proxy.ask("/metrics").text
    rows = [line for line in text.splitlines() if line.startswith("spliceproxy_connections{")]
    return sum(int(line.rpartition(" ")[2]) for line in rows)
