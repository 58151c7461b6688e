"""Clients that vanish, stall, lie, or do not read: at every step of a connection."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_peers import (
    Address,
    Log,
    Reader,
    accept,
    at_rest,
    at_start,
    connect_request,
    deaf_address,
    good_request,
    head,
    leave,
    request,
    reset,
    response,
    sees_end,
    send_what_goes,
    settle,
)
from harness import (
    ProxyProcess,
    descriptors,
    memory,
    read_all,
    read_exactly,
    serving,
    stop,
    wait_for,
)

NewProxy = Callable[..., ProxyProcess]

BIG = 4 << 20  # bytes of a body that goes through the relay

LEAVING = pytest.mark.parametrize("how", ["fin", "reset"])


# ---- a client that vanishes ------------------------------------------------------------


@LEAVING
def test_before_a_head(shared_proxy: ProxyProcess, origin: socket.socket, how: str) -> None:
    settle(shared_proxy, origin)
    log = Log(shared_proxy, "")
    leave(shared_proxy.connect(), how)
    good_request(shared_proxy, origin)
    assert log.next() == ["TCP_MISS/200"]  # and nothing before it


@LEAVING
def test_inside_a_head(shared_proxy: ProxyProcess, origin: socket.socket, how: str) -> None:
    settle(shared_proxy, origin)
    log = Log(shared_proxy, "")
    client = shared_proxy.connect()
    client.sendall(b"GET http://a.test/ HTT")
    good_request(shared_proxy, origin)  # behind it: a reset must not overtake what was sent
    leave(client, how)
    assert log.next(2) == ["TCP_MISS/200", "NONE_ABORTED/000"]


@LEAVING
@pytest.mark.parametrize("make", [request, connect_request], ids=["GET", "CONNECT"])
def test_while_dialling(
    new_proxy: NewProxy,
    each_loop: bool,
    origin: socket.socket,
    make: Callable[[Address], bytes],
    how: str,
) -> None:
    proxy = new_proxy("--timeout-dial", "120", uvloop=each_loop)
    before = at_start(proxy, origin)
    with deaf_address() as address:
        client = proxy.connect()
        client.sendall(make(address))
        wait_for(lambda: descriptors(proxy.worker) == before + 2, "client and origin sockets")
        leave(client, how)
        at_rest(proxy, before)
    assert proxy.wait_access(2)[1].split()[3] == "NONE_ABORTED/000"


@contextlib.contextmanager
def silent_dns(folder: Path) -> Iterator[tuple[list[str], socket.socket]]:
    """A prefix under which names are asked of a server that never answers, and its socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(20)
        conf = folder / "resolv.conf"
        conf.write_text(f"nameserver [127.0.0.1]:{server.getsockname()[1]}\n")
        script = f'mount --bind {conf} /etc/resolv.conf && exec "$@"'
        yield ["unshare", "-m", "sh", "-c", script, "sh"], server


@LEAVING
def test_while_resolving(
    new_proxy: NewProxy, tmp_path: Path, origin: socket.socket, how: str
) -> None:
    if os.getuid():
        pytest.skip("needs a mount namespace")
    with silent_dns(tmp_path) as (prefix, server):
        proxy = new_proxy("--timeout-dns", "120", prefix=prefix)
        before = at_start(proxy, origin)
        client = proxy.connect()
        client.sendall(request(("name.test", 80)))
        server.recv(512)
        leave(client, how)
        assert proxy.wait_access(2)[1].split()[3] == "NONE_ABORTED/000"
        at_rest(proxy, before + 1)  # c-ares keeps its socket while the look-up lasts


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Meanwhile what comes for a process piles up."""
    stop(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("state", ["waiting", "kept alive"])
def test_a_reset_right_behind_data(
    new_proxy: NewProxy, each_loop: bool, origin: socket.socket, state: str
) -> None:
    proxy = new_proxy(uvloop=each_loop)
    before = at_start(proxy, origin)
    post = request(origin.getsockname(), "Content-Length: 2", method="POST", body=b"hi")
    client = proxy.connect()
    client.sendall(post)
    with accept(origin) as server:
        head(server)
        assert read_exactly(server, 2) == b"hi"
        if state == "kept alive":
            server.sendall(response(b"ok", "Connection: close"))
            assert Reader(client).answer().body == b"ok"
        with stopped(proxy.worker):
            client.sendall(post)
            reset(client)
        at_rest(proxy, before)


@LEAVING
@pytest.mark.parametrize(
    ("fields", "glued", "later"),
    [
        ((), b"", b""),
        (("Content-Length: 5",), b"hello", b""),
        (("Content-Length: 5",), b"", b"hello"),
        (("Content-Length: 300000",), b"", b"x" * 300000),
        (("Transfer-Encoding: chunked",), b"", b"5\r\nhello\r\n0\r\n\r\n"),
    ],
    ids=["none", "glued", "small", "relay", "chunked"],
)
def test_while_the_origin_thinks(
    shared_proxy: ProxyProcess,
    origin: socket.socket,
    how: str,
    fields: tuple[str, ...],
    glued: bytes,
    later: bytes,
) -> None:
    log = Log(shared_proxy, origin)
    client = shared_proxy.connect()
    method = "POST" if fields else "GET"
    client.sendall(request(origin.getsockname(), *fields, method=method, body=glued))
    with accept(origin) as server:
        head(server)
        client.sendall(later)
        assert len(read_exactly(server, len(glued + later))) == len(glued + later)
        leave(client, how)
        assert sees_end(server) == b""
    assert log.next() == ["TCP_MISS_ABORTED/000"]


@pytest.mark.parametrize("kind", ["length", "relay", "chunked", "close"])
@pytest.mark.parametrize("talking", [True, False], ids=["talking", "silent"])
def test_reset_in_the_response(
    shared_proxy: ProxyProcess, origin: socket.socket, kind: str, talking: bool
) -> None:
    log = Log(shared_proxy, origin)
    client = shared_proxy.connect()
    client.sendall(request(origin.getsockname()))
    framing = {
        "length": "Content-Length: 60000",
        "relay": "Content-Length: 900000000",
        "chunked": "Transfer-Encoding: chunked",
        "close": "Connection: close",
    }[kind]
    with accept(origin) as server:
        head(server)
        part = b"5\r\nhello\r\n" if kind == "chunked" else b"hello"
        server.sendall(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode() + part)
        client.recv(1)
        reset(client)
        if talking:
            wait_for(lambda: _refused(server, part), "the end of the connection")
        else:
            sees_end(server)
    assert log.next() == ["TCP_MISS_ABORTED/200"]


def _refused(server: socket.socket, part: bytes) -> bool:
    try:
        server.sendall(part)
    except ConnectionError:
        return True
    return False


@LEAVING
@pytest.mark.parametrize(
    ("framing", "part"),
    [
        ("Content-Length: 60000", b"x" * 100),
        ("Content-Length: 900000000", b"x" * 1000000),
        ("Transfer-Encoding: chunked", b"64\r\n" + b"x" * 50),
        ("Transfer-Encoding: chunked", b"fffffff\r\n" + b"x" * 1000000),
    ],
    ids=["small", "relay", "chunked", "chunked-relay"],
)
def test_in_an_upload(
    shared_proxy: ProxyProcess, origin: socket.socket, framing: str, part: bytes, how: str
) -> None:
    log = Log(shared_proxy, origin)
    client = shared_proxy.connect()
    client.sendall(request(origin.getsockname(), framing, method="POST"))
    with accept(origin) as server:
        assert b"\r\n" in head(server)
        client.sendall(part)
        server.recv(1, socket.MSG_PEEK)
        leave(client, how)
        got = sees_end(server)
        assert len(got) <= len(part) + 20
        assert not got.endswith(b"0\r\n\r\n")
    assert log.next() == ["TCP_MISS_ABORTED/000"]


# ---- tunnels -----------------------------------------------------------------------------

HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256))


@pytest.mark.parametrize("size", [len(HELLO), 60000, 300000])
def test_early_data_comes_first(
    shared_proxy: ProxyProcess, origin: socket.socket, size: int
) -> None:
    early = (HELLO * (size // len(HELLO) + 1))[:size]
    with shared_proxy.connect() as client:
        client.sendall(connect_request(origin.getsockname()) + early + b"second")
        with accept(origin) as server:
            assert read_exactly(server, size + 6) == early + b"second"
            client.sendall(b"third")
            assert read_exactly(server, 5) == b"third"
            server.sendall(b"answer")
            assert Reader(client).answer("HEAD").status == 200


@pytest.mark.parametrize("size", [10, 60000, 300000])
def test_early_data_and_fin(shared_proxy: ProxyProcess, origin: socket.socket, size: int) -> None:
    log = Log(shared_proxy, origin)
    with shared_proxy.connect() as client:
        client.sendall(connect_request(origin.getsockname()) + b"e" * size)
        client.shutdown(socket.SHUT_WR)
        with accept(origin) as server:
            assert read_all(server) == b"e" * size
            server.sendall(b"answer")
        assert read_all(client).endswith(b"\r\n\r\nanswer")
    assert log.next() == ["TCP_TUNNEL/200"]


def test_half_closed_tunnel_both_ways(shared_proxy: ProxyProcess, origin: socket.socket) -> None:
    address = origin.getsockname()
    with shared_proxy.tunnel(*address) as client, accept(origin) as server:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert read_all(server) == b"question"
        server.sendall(b"answer")
        server.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"answer"
    with shared_proxy.tunnel(*address) as client, accept(origin) as server:
        server.sendall(b"greeting")
        server.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"greeting"
        client.sendall(b"reply")
        client.shutdown(socket.SHUT_WR)
        assert read_all(server) == b"reply"


def test_fin_before_the_answer_is_the_end(
    shared_proxy: ProxyProcess, origin: socket.socket
) -> None:
    with shared_proxy.connect() as client:
        client.sendall(request(origin.getsockname()))
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""


def test_pipelined_behind_a_failed_connect(
    shared_proxy: ProxyProcess, origin: socket.socket
) -> None:
    """What was meant for a tunnel is never taken for a request."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with shared_proxy.connect() as client:
            tunnelled = request(origin.getsockname())
            client.sendall(connect_request(unused.getsockname()) + tunnelled)
            reader = Reader(client)
            answer = reader.answer()
            assert (answer.status, answer.fields["connection"]) == (502, "close")
            assert reader.rest() == b""
    origin.settimeout(0.2)
    with pytest.raises(TimeoutError):
        origin.accept()


# ---- heads -------------------------------------------------------------------------------


def test_a_slow_head(new_proxy: NewProxy, each_loop: bool, origin: socket.socket) -> None:
    proxy = new_proxy("--timeout-head", "2", uvloop=each_loop)
    with proxy.connect() as silent, proxy.connect() as slow:
        slow.sendall(b"GET http://a.test/ HTTP/1.1\r\nHo")
        with contextlib.suppress(ConnectionError):
            for byte in b"st: a.test\r\nX: " + b"x" * 150:  # trickling does not help
                time.sleep(0.02)
                slow.sendall(bytes([byte]))
        reader = Reader(slow)
        answer = reader.answer()
        assert (answer.status, answer.error) == (408, "connection_read_timeout")
        assert answer.fields["connection"] == "close"
        assert reader.rest() == b""
        assert read_all(silent) == b""
    with proxy.connect() as idle:  # kept alive, then silent
        idle.sendall(request(origin.getsockname()))
        with accept(origin) as server:
            head(server)
            server.sendall(response())
        reader = Reader(idle)
        assert reader.answer().status == 200
        assert reader.rest() == b""
    assert sorted(line.split()[3] for line in proxy.wait_access(2)) == ["NONE/408", "TCP_MISS/200"]


def test_a_head_byte_by_byte(shared_proxy: ProxyProcess, origin: socket.socket) -> None:
    with shared_proxy.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"\r\n" + request(origin.getsockname(), "X: y"):
            client.sendall(bytes([byte]))
        with accept(origin) as server:
            assert b"X: y\r\n" in head(server)
            server.sendall(response(b"bytes"))
            assert Reader(client).answer().body == b"bytes"


def echo(connection: socket.socket) -> None:
    """Answers each request with its X field, or its body, until there is a pause."""
    connection.settimeout(3)
    with contextlib.suppress(AssertionError, ConnectionError, TimeoutError):
        while True:
            got = head(connection)
            fields = dict(line.split(b": ", 1) for line in got.split(b"\r\n")[1:] if line)
            body = read_exactly(connection, int(fields.get(b"Content-Length", b"0")))
            connection.sendall(response(body or fields[b"X"]))


def test_pipelined_requests_in_order(shared_proxy: ProxyProcess) -> None:
    with serving(echo) as address, shared_proxy.connect() as client:
        client.sendall(b"".join(request(address, f"X: {n}") for n in range(10)))
        reader = Reader(client)
        assert [reader.answer().body for _ in range(10)] == [b"%d" % n for n in range(10)]
        post = request(address, "Content-Length: 4", method="POST", body=b"body")
        client.sendall(request(address, "X: a") + post + request(address, "X: b"))
        assert [reader.answer().body for _ in range(3)] == [b"a", b"body", b"b"]
        client.sendall(post + request(address, "X: c", "Connection: close"))
        assert [reader.answer().body for _ in range(2)] == [b"body", b"c"]
        assert reader.rest() == b""


BAD_HEADS = {
    "long-target": (b"GET http://a.test/" + b"a" * 70000, 414),
    "long-line-whole": (b"GET http://a.test/" + b"a" * 17000 + b" HTTP/1.1\r\n\r\n", 414),
    "long-field": (b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nX: " + b"a" * 70000, 431),
    "many-fields": (
        b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n" + b"X: y\r\n" * 3000 + b"\r\n",
        431,
    ),
    "tls": (HELLO, 400),
    "h2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "garbage": (bytes(range(255, 0, -1)) * 4, 400),
    "nul": (b"GET http://a.test/\0 HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
    "bare-lf": (b"GET http://a.test/ HTTP/1.1\nHost: a.test\n\n", 400),
    "http09": (b"GET http://a.test/\r\n\r\n", 400),
    "http2.0": (b"GET http://a.test/ HTTP/2.0\r\nHost: a.test\r\n\r\n", 505),
    "no-host": (b"GET http://a.test/ HTTP/1.1\r\n\r\n", 400),
    "origin-form": (b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
    "https": (b"GET https://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
    "connect-body": (
        b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\nContent-Length: 5\r\n\r\nhello",
        400,
    ),
}


@pytest.mark.parametrize("name", BAD_HEADS)
def test_bad_heads(shared_proxy: ProxyProcess, origin: socket.socket, name: str) -> None:
    data, status = BAD_HEADS[name]
    settle(shared_proxy, origin)
    log = Log(shared_proxy, "")
    with shared_proxy.connect() as client:
        client.sendall(data)
        reader = Reader(client)
        answer = reader.answer()
        assert answer.status == status
        assert answer.error == "http_request_error"
        assert answer.fields["connection"] == "close"
        assert answer.whole
        assert reader.rest() == b""
        assert reader.end == "fin"
    assert log.next() == [f"NONE/{status}"]


SMUGGLING = {
    "cl-te": "Content-Length: {n}\r\nTransfer-Encoding: chunked",
    "te-cl": "Transfer-Encoding: chunked\r\nContent-Length: 5",
    "te-te": "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "te-xchunked": "Transfer-Encoding: xchunked",
    "te-tab": "Transfer-Encoding:\tchunked, chunked",
    "te-space": "Transfer-Encoding : chunked",
    "te-fold": "Transfer-Encoding:\r\n chunked",
    "te-quoted": 'Transfer-Encoding: "chunked"',
    "te-vt": "Transfer-Encoding: \x0bchunked",
    "cl-cl": "Content-Length: 0\r\nContent-Length: {n}",
    "cl-list": "Content-Length: 0, {n}",
    "cl-plus": "Content-Length: +{n}",
    "cl-hex": "Content-Length: 0x10",
    "cl-negative": "Content-Length: -1",
    "cl-huge": "Content-Length: 99999999999999999999",
    "cl-empty": "Content-Length: ",
    "lf-field": "X: y\nContent-Length: {n}",
    "cr-field": "X: y\rContent-Length: {n}",
    "host-host": "Host: b.test",
}


@pytest.mark.parametrize("name", SMUGGLING)
def test_smuggling(shared_proxy: ProxyProcess, origin: socket.socket, name: str) -> None:
    second = request(origin.getsockname(), "X: smuggled")
    body = b"0\r\n\r\n" + second
    field = SMUGGLING[name].replace("{n}", str(len(body)))
    with shared_proxy.connect() as client:
        client.sendall(request(origin.getsockname(), field, method="POST", body=body))
        reader = Reader(client)
        answer = reader.answer()
        assert (answer.status, answer.error) == (400, "http_request_error")
        assert reader.rest() == b""
        assert reader.end == "fin"
    origin.settimeout(0.2)
    with pytest.raises(TimeoutError):
        origin.accept()


BAD_CHUNKS = {
    "size": b"zz\r\n",
    "negative": b"-1\r\n",
    "prefix": b"0x5\r\nhello\r\n",
    "long": b"5\r\nhelloworld\r\n",
    "lf": b"5\nhello\n0\n\n",
    "space": b" 5\r\nhello\r\n",
    "overflow": b"ffffffffffffffffff\r\n",
    "line": b"5;" + b"x" * 5000,
    "trailer": b"0\r\nContent-Length: 5\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD_CHUNKS)
def test_bad_chunks(shared_proxy: ProxyProcess, origin: socket.socket, name: str) -> None:
    with shared_proxy.connect() as client:
        client.sendall(
            request(origin.getsockname(), "Transfer-Encoding: chunked", method="POST")
            + b"3\r\nabc\r\n"
        )
        with accept(origin) as server:
            head(server)
            assert read_exactly(server, 8) == b"3\r\nabc\r\n"
            client.sendall(BAD_CHUNKS[name])
            assert not sees_end(server).endswith(b"0\r\n\r\n")
        reader = Reader(client)
        answer = reader.answer()
        assert (answer.status, answer.error) == (400, "http_request_error")
        assert reader.rest() == b""


# ---- answers to a client that is still sending ---------------------------------------------


@pytest.mark.parametrize("name", ["refused", "te-cl", "early"])
def test_answer_to_a_client_that_sends(
    shared_proxy: ProxyProcess, origin: socket.socket, name: str
) -> None:
    """It arrives whole, however the client goes on: 10 MB are on the way."""
    size = 10 << 20
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = unused.getsockname() if name == "refused" else origin.getsockname()
        fields = [f"Content-Length: {size}"]
        if name == "te-cl":
            fields.append("Transfer-Encoding: chunked")
        with shared_proxy.connect() as client:
            client.sendall(request(address, *fields, method="POST"))
            if name == "early":
                server = accept(origin)
                head(server)
                server.sendall(response(b"no", status="413 Content Too Large"))
                server.close()
            sender = threading.Thread(target=send_what_goes, args=(client, b"x" * size))
            sender.start()
            reader = Reader(client)
            answer = reader.answer()
            assert answer.status == {"refused": 502, "te-cl": 400, "early": 413}[name]
            assert answer.whole
            assert answer.fields["connection"] == "close"
            sender.join(20)
            assert not sender.is_alive()


def test_body_behind_an_early_answer_is_no_request(
    new_proxy: NewProxy, each_loop: bool, origin: socket.socket
) -> None:
    """The origin has answered and is gone before the whole body was sent to it."""
    proxy = new_proxy(uvloop=each_loop)
    smuggled = request(origin.getsockname(), "X: smuggled")
    size = 1000 + len(smuggled)
    with proxy.connect() as client:
        client.sendall(request(origin.getsockname(), f"Content-Length: {size}", method="POST"))
        server = accept(origin)
        head(server)
        client.sendall(b"x" * 500)
        server.recv(1)
        # Both sides become ready while the worker sleeps, the client first.
        stop(proxy.worker)
        client.sendall(b"x" * 500)
        server.sendall(response(b"no", status="413 Content Too Large"))
        server.close()  # with unread input: RST
        os.kill(proxy.worker, signal.SIGCONT)
        reader = Reader(client)
        assert reader.answer().status == 413
        send_what_goes(client, smuggled)
        origin.settimeout(1)
        with pytest.raises(TimeoutError):
            origin.accept()


def test_answer_is_whole_though_the_client_says_more(
    shared_proxy: ProxyProcess, origin: socket.socket
) -> None:
    """Input that nobody will read must not turn the close into a reset that overtakes
    the answer (RFC 9112 section 9.6)."""
    body = b"b" * BIG
    for fields in (("Connection: close",), ()):
        with shared_proxy.connect() as client:
            client.sendall(request(origin.getsockname(), *fields))
            with accept(origin) as server:
                head(server)
                server.sendall(
                    b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
                    + (b"Content-Length: %d\r\n" % BIG if fields else b"")
                    + b"\r\n"
                )
                reader = Reader(client)
                reader.more()
                client.sendall(request(origin.getsockname()))  # pipelined, never answered
                thread = threading.Thread(target=_send_last, args=(server, body))
                thread.start()
                # The origin is done when the last bytes are in queues on the way.
                thread.join(0.5)
                answer = reader.answer()
                thread.join(20)
            assert answer.whole
            assert answer.body == body


def _send_last(server: socket.socket, body: bytes) -> None:
    server.sendall(body)
    server.shutdown(socket.SHUT_WR)


# ---- a client that does not read -----------------------------------------------------------


def flood(connection: socket.socket) -> None:
    """A chunked or plain response without end, by the path's X field."""
    with contextlib.suppress(ConnectionError, AssertionError):
        chunked = b"X: chunked" in head(connection)
        if chunked:
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            part = (b"400\r\n" + b"c" * 1024 + b"\r\n") * 512
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 900000000000\r\n\r\n")
            part = b"p" * (1 << 19)
        while True:
            connection.sendall(part)


@pytest.mark.parametrize("kind", ["chunked", "plain", "tunnel"])
def test_client_that_never_reads(
    new_proxy: NewProxy, each_loop: bool, origin: socket.socket, kind: str
) -> None:
    proxy = new_proxy(uvloop=each_loop)
    good_request(proxy, origin)
    before = memory(proxy.worker, "Rss")
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(serving(flood))
        for _ in range(10):
            client = stack.enter_context(proxy.connect())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            if kind == "tunnel":
                client.sendall(connect_request(address) + b"GET / HTTP/1.1\r\n\r\n")
            else:
                client.sendall(request(address, f"X: {kind}"))
        seen = 0
        for _ in range(5):
            good_request(proxy, origin)
            time.sleep(0.1)  # time in which memory could grow
            seen = max(seen, memory(proxy.worker, "Rss") - before)
        assert seen < 10 * (1 << 20)
        stack.pop_all().close()


class Swallower:
    """Reads from a connection as fast as it can, in a thread; ``taken`` counts the bytes."""

    def __init__(self, client: socket.socket) -> None:
        self.taken = 0
        self._client = client
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        space = bytearray(1 << 20)
        with contextlib.suppress(ConnectionError):
            while got := self._client.recv_into(space):
                self.taken += got

    def least_during(self, proxy: ProxyProcess, origin: socket.socket) -> int:
        """Bytes taken while the proxy served one other request: the least of ten, for while
        this process has to wait for a processor the proxy need not."""
        taken = []
        for _ in range(10):
            before = self.taken
            good_request(proxy, origin)
            taken.append(self.taken - before)
        return min(taken)

    def stop(self) -> None:
        self._client.shutdown(socket.SHUT_RDWR)
        self._thread.join(20)


@pytest.mark.parametrize("kind", ["chunked", "plain"])
def test_fast_bodies_do_not_starve_others(
    new_proxy: NewProxy, each_loop: bool, origin: socket.socket, kind: str
) -> None:
    """Both ends of a body are always ready: others still have their turn. It is measured in
    bytes, so the speed of the machine does not matter."""
    proxy = new_proxy(uvloop=each_loop)
    good_request(proxy, origin)
    with serving(flood) as address, proxy.connect() as client:
        client.sendall(request(address, f"X: {kind}"))
        swallower = Swallower(client)
        try:
            least = swallower.least_during(proxy, origin)
        finally:
            swallower.stop()
        assert least < 128 << 20  # some ten turns


def test_pipelining_does_not_starve_others(
    new_proxy: NewProxy, each_loop: bool, origin: socket.socket
) -> None:
    """A client whose next request is always there already."""
    proxy = new_proxy("--access-log", "off", uvloop=each_loop)
    good_request(proxy, origin)
    many = b"OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n" * 2000
    with proxy.connect() as client:
        swallower = Swallower(client)
        writer = threading.Thread(target=_send_always, args=(client, many))
        writer.start()
        try:
            least = swallower.least_during(proxy, origin)
        finally:
            swallower.stop()
            writer.join(20)
        assert least < 500_000  # bytes of answers: some thousands


def _send_always(client: socket.socket, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            client.sendall(data)
