"""What the lines of the access log say of real requests: bytes both ways, the time up to the
answer, why a request failed, and nothing of a query where it may not."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_peers import (
    Reader,
    accept,
    connect_request,
    deaf_address,
    good_request,
    head,
    request,
    reset,
    response,
)
from harness import ProxyProcess, read_all, refused_port, wait_for

NewProxy = Callable[..., ProxyProcess]

ENGINES = ["native", "splice", "copy"]


def fields(line: str) -> dict[str, str]:
    """Those behind squid's ten."""
    return dict(field.split("=", 1) for field in line.split()[10:])


def took(line: str) -> int:
    """Milliseconds."""
    return int(line.split()[1])


# ---- the time ------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_the_time_begins_with_the_whole_head(
    new_proxy: NewProxy, origin: socket.socket, engine: str
) -> None:
    """The time before a request, and the time that its head takes, are the client's."""
    proxy = new_proxy("--engine", engine)
    ask = request(origin.getsockname())
    with proxy.connect() as client:
        reader = Reader(client)
        time.sleep(1)  # the client's time
        client.sendall(ask[:10])
        time.sleep(1)
        client.sendall(ask[10:])
        with accept(origin) as server:
            for more in (ask, b""):
                head(server)
                server.sendall(response(b"ok"))
                assert reader.answer().status == 200
                if more:
                    time.sleep(1)
                    client.sendall(more)
    assert [took(line) < 500 for line in proxy.wait_access(2)] == [True, True]


CONFIG = """
[[rule]]
id = "no-metadata"
action = "deny"
hosts = ["refused.test"]
"""


@pytest.mark.parametrize("engine", ["native", "copy"])
@pytest.mark.parametrize(
    ("sent", "result"),
    [
        (b"CONNECT refused.test:443 HTTP/1.1\r\nHost: refused.test:443\r\n\r\n", "TCP_DENIED/403"),
        (b"GET http://refused.test/ HTTP/1.0\r\n\r\n", "TCP_DENIED/403"),
        (b"HEAD http://refused.test/ HTTP/1.0\r\n\r\n", "TCP_DENIED/403"),
        (b"POST http://refused.test/ HTTP/1.1\r\nHost: refused.test\r\nContent-Length: 9\r\n\r\n1",
         "TCP_DENIED/403"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "NONE/400"),
        (b"GET\r\n\r\n", "NONE/400"),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "TCP_HIT/200"),
    ],
    ids=["connect", "get", "head", "post", "origin-form", "malformed", "options"],
)  # fmt: skip
def test_a_client_that_stays_costs_the_request_no_time(
    new_proxy: NewProxy, tmp_path: Path, engine: str, sent: bytes, result: str
) -> None:
    """The line is there while the connection is still being closed, with the time that the
    answer took, and not with that of the client's leaving."""
    config = tmp_path / "proxy.toml"
    config.write_text(CONFIG)
    proxy = new_proxy("--config", str(config), "--engine", engine)
    with proxy.connect() as client:
        client.sendall(sent)
        reader = Reader(client)
        reader.rest()
        (line,) = proxy.wait_access(1)
        assert reader.end == "fin"
        assert line.split()[3] == result
        assert took(line) < 1000


def test_nor_does_a_client_without_a_user(new_proxy: NewProxy, origin: socket.socket) -> None:
    proxy = new_proxy("--auth", "alice:secret")
    with proxy.connect() as client:
        client.sendall(request(origin.getsockname(), "Connection: close"))
        Reader(client).rest()
        (line,) = proxy.wait_access(1)
    assert line.split()[3] == "TCP_DENIED/407"
    assert took(line) < 1000


def test_nor_does_a_client_that_does_not_read(new_proxy: NewProxy, origin: socket.socket) -> None:
    """What the kernel holds for it is no time of the request's, neither where the answer is
    whole nor where only a reset can show that it is not."""
    proxy = new_proxy("--engine", "copy")
    for whole in (True, False):
        with proxy.connect() as client:
            client.sendall(request(origin.getsockname(), "Connection: close"))
            with accept(origin) as server:
                head(server)
                server.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + bytes(100_000))
                if not whole:
                    reset(server)
            lines = proxy.wait_access(2 - whole)
        assert took(lines[-1]) < 1000
        assert lines[-1].split()[3] == ("TCP_MISS/200" if whole else "TCP_MISS_ABORTED/200")


# ---- bytes from the client -------------------------------------------------------------------

SIZE = 20_000_000


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_an_upload(new_proxy: NewProxy, origin: socket.socket, engine: str, coding: str) -> None:
    proxy = new_proxy("--engine", engine)
    body = bytes(SIZE)
    if coding == "chunked":
        field = "Transfer-Encoding: chunked"
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (SIZE, body)
    else:
        field = f"Content-Length: {SIZE}"
    sent = request(origin.getsockname(), field, "Connection: close", method="POST", body=body)
    with proxy.connect() as client:
        sending = threading.Thread(target=client.sendall, args=(sent,))
        sending.start()
        with accept(origin) as server:
            head(server)
            left = SIZE if coding == "length" else len(body)
            while left > 0:
                left -= len(server.recv(1 << 20))
            server.sendall(response(b"thanks", "Connection: close"))
            sending.join()
            got = Reader(client).rest()
    (line,) = proxy.wait_access(1)
    assert fields(line) == {"in": str(len(sent))}
    assert line.split()[4] == str(len(got))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_tunnel(new_proxy: NewProxy, origin: socket.socket, engine: str) -> None:
    """The second one is the relay's own with the native engine. Bytes that come with the head
    count, too."""
    proxy = new_proxy("--engine", engine)
    asked = connect_request(origin.getsockname())
    for number in (1, 2):
        with proxy.connect() as client:
            client.sendall(asked + b"glued")
            with accept(origin) as server:
                client.sendall(bytes(3_000_000))
                client.shutdown(socket.SHUT_WR)
                assert len(read_all(server)) == 3_000_005
                server.sendall(b"bye")
            assert read_all(client).endswith(b"\r\n\r\nbye")
        line = proxy.wait_access(number)[-1]
        assert line.split()[3] == "TCP_TUNNEL/200"
        assert fields(line) == {"in": str(len(asked) + 3_000_005)}


@pytest.mark.parametrize("engine", ENGINES)
def test_plain_requests(new_proxy: NewProxy, origin: socket.socket, engine: str) -> None:
    """Each counts its own bytes, also where several come at once."""
    proxy = new_proxy("--engine", engine)
    one = request(origin.getsockname())
    two = request(origin.getsockname(), "X-Longer: " + "x" * 100)
    with proxy.connect() as client:
        client.sendall(one)
        with accept(origin) as server:
            reader = Reader(client)
            for data in (b"", one + two + one, b"", b""):
                client.sendall(data)
                head(server)
                server.sendall(response())
                assert reader.answer().status == 200
    lines = proxy.wait_access(4)
    assert [int(fields(line)["in"]) for line in lines] == [len(one), len(one), len(two), len(one)]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_upgrade_behind_a_body(new_proxy: NewProxy, origin: socket.socket, engine: str) -> None:
    """RFC 9110 section 7.8: the request is whole before the protocol changes. Its body counts,
    and an interim response counts as sent."""
    proxy = new_proxy("--engine", engine)
    sent = request(
        origin.getsockname(),
        "Connection: Upgrade",
        "Upgrade: other",
        "Content-Length: 1000",
        method="POST",
        body=bytes(1000),
    )
    with proxy.connect() as client:
        client.sendall(sent)
        with accept(origin) as server:
            head(server)
            assert len(server.recv(1000, socket.MSG_WAITALL)) == 1000
            server.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            server.sendall(b"HTTP/1.1 101 Now\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")
            client.sendall(b"hello")
            assert server.recv(5, socket.MSG_WAITALL) == b"hello"
            client.shutdown(socket.SHUT_WR)
        got = read_all(client)
        assert b" 103 " in got
    (line,) = proxy.wait_access(1)
    assert line.split()[3] == "TCP_TUNNEL/101"
    assert fields(line) == {"in": str(len(sent) + 5)}
    assert line.split()[4] == str(len(got))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET http://a.test/", "000"),
        (b"GET http://a.test/ HTTP/1.1\r\nHost: a.te", "408"),
        (b"GET http://a.test/" + b"a" * 16_384, "414"),
        (b"GET http://a.test/ HTTP/1.1\r\nA: " + b"a" * 65_536, "431"),
        (b"GET\r\n\r\n", "400"),
    ],
    ids=["gone", "late", "line", "head", "malformed"],
)
def test_a_head_that_cannot_be_read(
    new_proxy: NewProxy, engine: str, sent: bytes, status: str
) -> None:
    """All that was read of it is its own."""
    proxy = new_proxy("--engine", engine, "--timeout-head", "0.5")
    with proxy.connect() as client:
        client.sendall(sent)
        if status == "000":
            client.shutdown(socket.SHUT_WR)
        Reader(client).rest()
        (line,) = proxy.wait_access(1)
    assert line.split()[3].rpartition("/")[2] == status
    assert min(len(sent), 65_536) <= int(fields(line)["in"]) <= len(sent)


# ---- why it failed ---------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_why(new_proxy: NewProxy, tmp_path: Path, origin: socket.socket, engine: str) -> None:
    """The error, and the address that it is about."""
    config = tmp_path / "proxy.toml"
    config.write_text(CONFIG)
    proxy = new_proxy("--config", str(config), "--engine", engine, "--timeout-dial", "0.5")
    here = "{}:{}".format(*origin.getsockname())

    def ask(data: bytes) -> dict[str, str]:
        before = len(proxy.access())
        with proxy.connect() as client:
            client.sendall(data)
            Reader(client).answer()
        return fields(proxy.wait_access(before + 1)[-1])

    def answered_by(data: bytes) -> dict[str, str]:
        before = len(proxy.access())
        with proxy.connect() as client:
            client.sendall(request(origin.getsockname(), "Content-Length: 0", method="POST"))
            with accept(origin) as server:
                head(server)
                server.sendall(data)
            Reader(client).answer()
        return fields(proxy.wait_access(before + 1)[-1])

    with refused_port() as port:
        asked = request(("127.0.0.1", port))
        for _ in range(2):
            where = f"127.0.0.1:{port}"
            assert ask(asked) == {"error": f"connection_refused,{where}", "in": str(len(asked))}
        assert ask(connect_request(("localhost", port)))["error"] in (
            f"connection_refused,127.0.0.1:{port}",
            f"connection_refused,[::1]:{port}",
        )
    with deaf_address() as (host, port):
        assert ask(request((host, port)))["error"] == f"connection_timeout,{host}:{port}"
    own = f"127.0.0.1:{proxy.port}"
    for asked in (request(("127.0.0.1", proxy.port)), connect_request(("127.0.0.1", proxy.port))):
        assert ask(asked)["error"] == f"proxy_loop_detected,{own}"
        assert proxy.access()[-1].split()[3:9:5] == ["NONE/502", "HIER_NONE/-"]
    assert ask(request(("a..test", 80)))["error"] == "dns_error"
    assert ask(request(("refused.test", 80)))["rule"] == "no-metadata"
    assert ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")["error"] == "http_request_error"
    assert answered_by(b"HTTP/1.1")["error"] == f"http_response_incomplete,{here}"
    assert (
        answered_by(b"HTTP/1.1 200 OK\r\nA: \0\r\n\r\n")["error"] == f"http_protocol_error,{here}"
    )
    assert answered_by(b"")["error"] == f"connection_terminated,{here}"
    for line in proxy.access():
        assert re.fullmatch(r"\S+ +\d+( \S+){8}( (rule|error)=\S+)? in=\d+", line)


# ---- queries ---------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["info", "debug"])
@pytest.mark.parametrize("engine", ["native", "copy"])
def test_queries_are_left_out(
    new_proxy: NewProxy, tmp_path: Path, origin: socket.socket, engine: str, level: str
) -> None:
    """Of requests that went well (at info the later ones are the relay's own), were refused,
    failed, and could not be understood: neither in the log nor in the messages."""
    config = tmp_path / "proxy.toml"
    config.write_text(
        "log-query = false\n[[rule]]\nid = 'r'\naction = 'deny'\nhosts = ['a.test']\n"
    )
    proxy = new_proxy("--config", str(config), "--engine", engine, "--log-level", level)
    where = "{}:{}".format(*origin.getsockname())
    with proxy.connect() as client:
        reader = Reader(client)
        for number in range(3):
            client.sendall(f"GET http://{where}/p?secret=1?2 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            if not number:
                server = accept(origin)
            head(server)
            server.sendall(response())
            assert reader.answer().status == 200
        server.close()
    with refused_port() as port:
        for target in (
            "http://a.test/?secret",
            f"http://127.0.0.1:{port}/?secret",
            "http://a..test/?secret",
            "/?secret",
            "ftp://a.test/?secret",
            "http://a.test:x/?secret",
        ):
            with proxy.connect() as client:
                client.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                Reader(client).answer()
    lines = proxy.wait_access(9)
    assert [line.split()[6] for line in lines[:3]] == [f"http://{where}/p?"] * 3
    assert "secret" not in "".join(lines) + proxy.stderr()


# ---- standard output ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_by_its_name(new_proxy: NewProxy, origin: socket.socket, name: str) -> None:
    """SIGUSR1 does not open it anew: there may be no way to."""
    proxy = new_proxy("--access-log", name, workers=2)
    for number in range(1, 9):
        good_request(proxy, origin)
        proxy.wait_access(number)
        proxy.process.send_signal(signal.SIGUSR1)
    assert all(line.split()[3] == "TCP_MISS/200" for line in proxy.access())
    assert len(proxy.access()) == 8


def test_standard_error_by_its_name(new_proxy: NewProxy, origin: socket.socket) -> None:
    proxy = new_proxy("--access-log", "/dev/stderr")
    good_request(proxy, origin)
    wait_for(lambda: "TCP_MISS/200" in proxy.stderr(), "the line")
    assert proxy.access() == []


def test_standard_output_is_a_socket(tmp_path: Path, origin: socket.socket) -> None:
    """As under systemd. A socket cannot be opened by its name (ENXIO, unix(7))."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-m", "spliceproxy", "--listen", "127.0.0.1:0"]
        err = tmp_path / "stderr"
        with err.open("wb") as stderr:
            process = subprocess.Popen(
                [*command, "--workers", "1", "--access-log", "/dev/stdout"],
                stdout=theirs,
                stderr=stderr,
            )
        try:
            wait_for(
                lambda: "event loop" in err.read_text() or process.poll() is not None, "a start"
            )
            found = re.search(r"listening on http://\S*:(\d+)", err.read_text())
            assert found is not None, err.read_text()
            with socket.create_connection(("127.0.0.1", int(found[1])), 20) as client:
                client.sendall(request(origin.getsockname(), "Connection: close"))
                with accept(origin) as server:
                    head(server)
                    server.sendall(response())
                Reader(client).rest()
            ours.settimeout(20)
            assert b" TCP_MISS/200 " in ours.recv(4096)
        finally:
            process.terminate()
            process.wait(20)
