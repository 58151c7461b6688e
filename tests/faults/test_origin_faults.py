"""Origins that close, reset, stall, or answer nonsense: each has its status, its error
token and its line in the access log; a cut answer never looks whole."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest
from fault_peers import (
    Log,
    Reader,
    accept,
    good_request,
    head,
    request,
    reset,
    response,
    sees_end,
    send_what_goes,
)
from harness import ProxyProcess, read_exactly, serving, stop

NewProxy = Callable[..., ProxyProcess]
Script = Callable[[socket.socket], None]

BIG = 4 << 20


def send(data: bytes) -> Script:
    return lambda server: server.sendall(data)


def fin(server: socket.socket) -> None:
    server.close()


def rst(server: socket.socket) -> None:
    reset(server)


# ---- before the response's body: the client gets an answer of the proxy ------------------


class Fault(NamedTuple):
    """What the origin sends, how it ends, and what the client must see."""

    data: bytes
    end: Script
    status: int
    error: str


def big_head(size: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * (size // 6) + b"Content-Length: 0\r\n\r\n"


def wait_for_close(server: socket.socket) -> None:
    sees_end(server)


FAULTS = {
    "fin": Fault(b"", fin, 502, "connection_terminated"),
    "rst": Fault(b"", rst, 502, "connection_terminated"),
    "fin-in-head": Fault(b"HTTP/1.1 200 OK\r\nX", fin, 502, "http_response_incomplete"),
    "garbage": Fault(b"\x00\x01\x02 garbage\r\n\r\n", fin, 502, "http_protocol_error"),
    "ssh": Fault(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", fin, 502, "http_protocol_error"),
    "tls": Fault(b"\x15\x03\x01\x00\x02\x02\x46", fin, 502, "http_protocol_error"),
    "http09": Fault(b"<html>hello</html>\r\n\r\n", fin, 502, "http_protocol_error"),
    "http2": Fault(b"HTTP/2.0 200 OK\r\n\r\n", fin, 502, "http_protocol_error"),
    "status": Fault(b"HTTP/1.1 20x OK\r\n\r\n", fin, 502, "http_protocol_error"),
    "bare-cr": Fault(b"HTTP/1.1 200 OK\r\nX: y\rZ: z\r\n\r\n", fin, 502, "http_protocol_error"),
    "nul": Fault(b"HTTP/1.1 200 OK\nX: \0\n\n", fin, 502, "http_protocol_error"),
    "cl-cl": Fault(
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        fin,
        502,
        "http_protocol_error",
    ),
    "cl-bad": Fault(
        b"HTTP/1.1 200 OK\r\nContent-Length: 5x\r\n\r\nhello", fin, 502, "http_protocol_error"
    ),
    "gzip-chunked": Fault(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        fin,
        502,
        "http_response_transfer_coding",
    ),
    "fold-first": Fault(b"HTTP/1.1 200 OK\r\n X: a\r\n\r\n", fin, 502, "http_protocol_error"),
    "fold-of-length": Fault(
        b"HTTP/1.1 200 OK\r\nContent-Length:\r\n 0\r\n\r\n", fin, 502, "http_protocol_error"
    ),
    "space-in-name": Fault(
        b"HTTP/1.1 200 OK\r\nContent Length: 0\r\n\r\n", fin, 502, "http_protocol_error"
    ),
    "long-head": Fault(big_head(100000), wait_for_close, 502, "http_response_header_size"),
    "long-line": Fault(
        b"HTTP/1.1 200 " + b"x" * 20000 + b"\r\n\r\n",
        wait_for_close,
        502,
        "http_response_header_size",
    ),
    "101": Fault(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nbytes",
        wait_for_close,
        502,
        "http_upgrade_failed",
    ),
    "100-then-fin": Fault(b"HTTP/1.1 100 Continue\r\n\r\n", fin, 502, "http_response_incomplete"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_no_usable_answer(shared_proxy: ProxyProcess, origin: socket.socket, name: str) -> None:
    fault = FAULTS[name]
    log = Log(shared_proxy, origin)
    with shared_proxy.connect() as client:
        client.sendall(request(origin.getsockname()))
        with accept(origin) as server:
            head(server)
            send_what_goes(server, fault.data)
            fault.end(server)
        reader = Reader(client)
        answer = reader.answer()
        assert (answer.status, answer.error) == (fault.status, fault.error)
        assert answer.whole
        assert log.next() == [f"TCP_MISS/{fault.status}"]
        # The client has done nothing wrong: its connection goes on.
        client.sendall(request(origin.getsockname()))
        with accept(origin) as server:
            head(server)
            server.sendall(response(b"again"))
            assert reader.answer().body == b"again"
    assert log.next() == ["TCP_MISS/200"]


def test_reset_in_the_head(shared_proxy: ProxyProcess, origin: socket.socket) -> None:
    log = Log(shared_proxy, origin)
    with shared_proxy.connect() as client:
        client.sendall(request(origin.getsockname()))
        server = accept(origin)
        head(server)
        server.sendall(b"HTTP/1.1 200 OK\r\nX")
        with socket.create_server(("127.0.0.1", 0)) as other:
            other.settimeout(20)
            good_request(shared_proxy, other)  # the part has arrived
        reset(server)
        answer = Reader(client).answer()
        assert (answer.status, answer.error) == (502, "connection_terminated")
    assert log.next() == ["TCP_MISS/502"]


# ---- in the body: the client must see that it was cut --------------------------------------

CUT = {
    "length": b"Content-Length: 1000\r\n\r\n" + b"x" * 500,
    "relay": b"Content-Length: 1000000\r\n\r\n" + b"x" * 500000,
    "chunked": b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "in-chunk": b"Transfer-Encoding: chunked\r\n\r\n64\r\nhello",
    "relay-chunk": b"Transfer-Encoding: chunked\r\n\r\n100000\r\n" + b"x" * 500000,
    "last-chunk": b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    "trailers": b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n",
}


@pytest.mark.parametrize("end", [fin, rst])
@pytest.mark.parametrize("name", CUT)
def test_cut_body(
    shared_proxy: ProxyProcess, origin: socket.socket, name: str, end: Script
) -> None:
    log = Log(shared_proxy, origin)
    with shared_proxy.connect() as client:
        client.sendall(request(origin.getsockname()))
        reader = Reader(client)
        server = accept(origin)
        head(server)
        server.sendall(b"HTTP/1.1 200 OK\r\n" + CUT[name])
        assert reader.more()
        end(server)
        answer = reader.answer()
        assert answer.status == 200
        assert not answer.whole
        assert reader.end
        if end is fin:  # a reset may overtake what was sent before it
            sent = CUT[name].partition(b"\r\n\r\n")[2]
            payload = sent.count(b"x") or sent.count(b"hello") * 5
            assert len(answer.body) == payload
    assert log.next() == ["TCP_MISS_ABORTED/200"]


@pytest.mark.parametrize(
    ("minor", "framing"), [(0, b""), (1, b""), (0, b"Transfer-Encoding: chunked\r\n")]
)
def test_cut_body_that_ends_with_the_connection(
    shared_proxy: ProxyProcess, origin: socket.socket, minor: int, framing: bytes
) -> None:
    """Only a reset shows that it is not whole."""
    log = Log(shared_proxy, origin)
    with shared_proxy.connect() as client:
        client.sendall(request(origin.getsockname()).replace(b"/1.1", b"/1.%d" % minor))
        reader = Reader(client)
        server = accept(origin)
        head(server)
        part = b"64\r\nhello" if framing else b"hello"
        server.sendall(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n" + part)
        while b"hello" not in reader.data:
            assert reader.more()
        reset(server)
        answer = reader.answer()
        assert answer.body == b"hello"
        assert (answer.whole, reader.end) == (False, "reset")
    assert log.next() == ["TCP_MISS_ABORTED/200"]


def test_whole_body_that_ends_with_the_connection(
    shared_proxy: ProxyProcess, origin: socket.socket
) -> None:
    log = Log(shared_proxy, origin)
    for version in (b"1.0", b"1.1"):
        for body in (b"", b"hello", b"x" * 300000):
            with shared_proxy.connect() as client:
                client.sendall(request(origin.getsockname()))
                with accept(origin) as server:
                    head(server)
                    server.sendall(b"HTTP/" + version + b" 200 OK\r\n\r\n" + body)
                reader = Reader(client)
                answer = reader.answer()
                assert (answer.body, answer.whole) == (body, True)
                assert answer.fields["connection"] == "close"
            assert log.next() == ["TCP_MISS/200"]


BAD_CHUNKS = [
    b"zz\r\n",
    b"-5\r\nhello\r\n",
    b"5\r\nhelloworld\r\n",
    b"5\nhello\n",
    b"g",
    b"\r\n\r\n",
]


@pytest.mark.parametrize("bad", BAD_CHUNKS)
@pytest.mark.parametrize("first", [b"", b"3\r\nabc\r\n"], ids=["first", "later"])
def test_bad_chunk(
    shared_proxy: ProxyProcess, origin: socket.socket, bad: bytes, first: bytes
) -> None:
    log = Log(shared_proxy, origin)
    with shared_proxy.connect() as client:
        client.sendall(request(origin.getsockname()))
        reader = Reader(client)
        with accept(origin) as server:
            head(server)
            server.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + first)
            if first:
                assert reader.more()
            send_what_goes(server, bad)
            sees_end(server)
        rest = reader.rest()
        assert not rest.endswith(b"0\r\n\r\n")
        if first:
            assert b"abc" in rest
    (result,) = log.next()
    assert result in ("TCP_MISS_ABORTED/200", "TCP_MISS/502")


# ---- stalls ---------------------------------------------------------------------------------


@pytest.fixture
def hasty(new_proxy: NewProxy) -> ProxyProcess:
    """A proxy with a short --timeout-idle."""
    return new_proxy("--timeout-idle", "2")


def test_no_answer_in_time(hasty: ProxyProcess, origin: socket.socket) -> None:
    log = Log(hasty, origin)
    for data in (b"", b"HTTP/1.1 200 OK\r\nX"):
        with hasty.connect() as client:
            client.sendall(request(origin.getsockname()))
            with accept(origin) as server:
                head(server)
                server.sendall(data)
                sees_end(server)
            answer = Reader(client).answer()
            assert (answer.status, answer.error) == (504, "http_response_timeout")
        assert log.next() == ["TCP_MISS/504"]


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (("Content-Length: 5",), b"hello"),
        (("Content-Length: 300000",), b"x" * 300000),
        (("Transfer-Encoding: chunked",), b"5\r\nhello\r\n0\r\n\r\n"),
    ],
    ids=["small", "relay", "chunked"],
)
def test_no_answer_after_an_upload(
    hasty: ProxyProcess, origin: socket.socket, fields: tuple[str, ...], body: bytes
) -> None:
    log = Log(hasty, origin)
    with hasty.connect() as client:
        client.sendall(request(origin.getsockname(), *fields, method="POST"))
        with accept(origin) as server:
            head(server)
            client.sendall(body)
            assert len(read_exactly(server, len(body))) == len(body)
            sees_end(server)
        answer = Reader(client).answer()
        assert (answer.status, answer.error) == (504, "http_response_timeout")
    assert log.next() == ["TCP_MISS/504"]


@pytest.mark.parametrize("name", CUT)
def test_stalled_body(hasty: ProxyProcess, origin: socket.socket, name: str) -> None:
    log = Log(hasty, origin)
    with hasty.connect() as client:
        client.sendall(request(origin.getsockname()))
        reader = Reader(client)
        with accept(origin) as server:
            head(server)
            server.sendall(b"HTTP/1.1 200 OK\r\n" + CUT[name])
            answer = reader.answer()
            assert (answer.status, answer.whole) == (200, False)
            sees_end(server)
    assert log.next() == ["TCP_MISS_TIMEDOUT/200"]


@pytest.mark.parametrize("minor", [0, 1])
def test_stalled_body_that_ends_with_the_connection(
    hasty: ProxyProcess, origin: socket.socket, minor: int
) -> None:
    log = Log(hasty, origin)
    with hasty.connect() as client:
        client.sendall(request(origin.getsockname()).replace(b"/1.1", b"/1.%d" % minor))
        reader = Reader(client)
        with accept(origin) as server:
            head(server)
            server.sendall(b"HTTP/1.1 200 OK\r\n\r\nhello")
            answer = reader.answer()
            assert (answer.body, answer.whole, reader.end) == (b"hello", False, "reset")
    assert log.next() == ["TCP_MISS_TIMEDOUT/200"]


@pytest.mark.parametrize("kind", ["relay", "chunked"])
def test_origin_that_never_reads(hasty: ProxyProcess, origin: socket.socket, kind: str) -> None:
    log = Log(hasty, origin)
    size = 100 << 20
    field = f"Content-Length: {size}" if kind == "relay" else "Transfer-Encoding: chunked"
    chunks = (b"2000\r\n" + b"x" * 0x2000 + b"\r\n") * 128
    with hasty.connect() as client:
        client.sendall(request(origin.getsockname(), field, method="POST"))
        with accept(origin):
            sender = threading.Thread(target=send_what_goes, args=(client, chunks * 100))
            sender.start()
            answer = Reader(client).answer()
            assert answer.status == 504
            assert answer.error in ("connection_write_timeout", "http_response_timeout")
        sender.join(20)
    assert log.next() == ["TCP_MISS/504"]


@pytest.mark.parametrize("kind", ["small", "relay", "chunked"])
def test_client_that_stalls_in_its_upload(
    hasty: ProxyProcess, origin: socket.socket, kind: str
) -> None:
    """The fault is the client's: 408, not 504 (RFC 9110 section 15.5.9)."""
    log = Log(hasty, origin)
    field = {
        "small": "Content-Length: 10",
        "relay": "Content-Length: 1000000",
        "chunked": "Transfer-Encoding: chunked",
    }[kind]
    with hasty.connect() as client:
        client.sendall(request(origin.getsockname(), field, method="POST"))
        with accept(origin) as server:
            head(server)
            client.sendall(b"5\r\nhe")
            answer = Reader(client).answer()
            assert answer.status == 408
    assert log.next() == ["TCP_MISS/408"]


@pytest.mark.parametrize("kind", ["relay", "chunked"])
def test_slow_upload_is_no_silence(hasty: ProxyProcess, origin: socket.socket, kind: str) -> None:
    """An upload that takes longer than --timeout-idle, without a pause of that length."""
    field = "Content-Length: 400000" if kind == "relay" else "Transfer-Encoding: chunked"
    part = b"x" * 10000 if kind == "relay" else b"2710\r\n" + b"x" * 10000 + b"\r\n"
    with hasty.connect() as client:
        client.sendall(request(origin.getsockname(), field, method="POST"))
        with accept(origin) as server:
            head(server)
            for _ in range(40):
                client.sendall(part)
                assert len(read_exactly(server, len(part))) == len(part)
                time.sleep(0.08)
            if kind == "chunked":
                client.sendall(b"0\r\n\r\n")
                assert read_exactly(server, 5) == b"0\r\n\r\n"
            server.sendall(response(b"thanks"))
            assert Reader(client).answer().body == b"thanks"


# ---- odd, but whole ---------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True], ids=["glued", "late"])
def test_junk_behind_the_message(
    shared_proxy: ProxyProcess, origin: socket.socket, late: bool
) -> None:
    """It is not passed on, and the connection not used again."""
    junk = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\njunk"
    heads = {
        "GET": response(b"right"),
        "HEAD": response(b"right")[:-5],
        "PUT": b"HTTP/1.1 204 No Content\r\n\r\n",
        "DELETE": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nright\r\n0\r\n\r\n",
    }
    with shared_proxy.connect() as client:
        reader = Reader(client)
        for method, answer in heads.items():
            client.sendall(request(origin.getsockname(), method=method))
            with accept(origin) as server:
                head(server)
                server.sendall(answer + (b"" if late else junk))
                body = b"right" if method in ("GET", "DELETE") else b""
                assert reader.answer(method).body == body
                if late:
                    server.sendall(junk)
                assert sees_end(server) == b""
        assert reader.data == b""


@pytest.mark.parametrize(
    ("method", "status", "fields"),
    [
        ("HEAD", "200 OK", b"Content-Length: 1000\r\n"),
        ("HEAD", "200 OK", b"Transfer-Encoding: chunked\r\n"),
        ("GET", "204 No Content", b"Content-Length: 1000\r\n"),
        ("GET", "204 No Content", b"Transfer-Encoding: chunked\r\n"),
        ("GET", "304 Not Modified", b"Content-Length: 1000\r\n"),
        ("HEAD", "404 Not Found", b""),
    ],
)
def test_answers_without_body(
    shared_proxy: ProxyProcess, origin: socket.socket, method: str, status: str, fields: bytes
) -> None:
    with shared_proxy.connect() as client:
        reader = Reader(client)
        with contextlib.ExitStack() as stack:
            server = None
            for _ in range(2):  # the second on the same connections: nothing was left over
                if server and "204" in status:  # but for what announces a body it cannot have
                    assert sees_end(server) == b""
                    server = None
                client.sendall(request(origin.getsockname(), method=method))
                server = server or stack.enter_context(accept(origin))
                head(server)
                server.sendall(f"HTTP/1.1 {status}\r\n".encode() + fields + b"\r\n")
                raw = b""
                while not raw.endswith(b"\r\n\r\n"):
                    assert reader.more()
                    raw += reader.data
                    reader.data = b""
                assert raw.startswith(f"HTTP/1.1 {status}\r\n".encode())
                if b"Length" in fields:
                    assert (b"Content-Length: 1000" in raw) == ("204" not in status)
                if "204" in status:  # RFC 9112 section 6.1
                    assert b"transfer-encoding" not in raw.lower()


def test_interim_storm(shared_proxy: ProxyProcess, origin: socket.socket) -> None:
    with shared_proxy.connect() as client:
        client.sendall(request(origin.getsockname()))
        with accept(origin) as server:
            head(server)
            storm = b"HTTP/1.1 102 Processing\r\n\r\n" * 1000
            server.sendall(storm + response(b"calm"))
            reader = Reader(client)
            assert reader.answer().body == b"calm"


def test_endless_interim_storm_starves_nobody(
    new_proxy: NewProxy, each_loop: bool, origin: socket.socket
) -> None:
    proxy = new_proxy(uvloop=each_loop)

    def storm(connection: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):
            head(connection)
            while True:
                connection.sendall(b"HTTP/1.1 102 Processing\r\n\r\n" * 5000)

    with serving(storm) as address, proxy.connect() as client:
        # To HTTP/1.0 nothing of it is passed on.
        client.sendall(request(address).replace(b"HTTP/1.1", b"HTTP/1.0"))
        for _ in range(2):
            good_request(proxy, origin)
        reset(client)


def test_early_answer_to_a_huge_upload(shared_proxy: ProxyProcess, origin: socket.socket) -> None:
    """The origin refuses 100 MB after the first bytes, and goes on reading or not."""
    size = 100 << 20
    for goes_on in (True, False):
        with shared_proxy.connect() as client:
            field = f"Content-Length: {size}"
            client.sendall(request(origin.getsockname(), field, method="POST"))
            sender = threading.Thread(target=send_what_goes, args=(client, bytes(size)))
            sender.start()
            server = accept(origin)
            head(server)
            read_exactly(server, 100000)
            server.sendall(response(b"too much", status="413 Content Too Large"))
            if goes_on:
                server.shutdown(socket.SHUT_WR)
            else:
                server.close()
            answer = Reader(client).answer()
            assert (answer.status, answer.body) == (413, b"too much")
            assert answer.fields["connection"] == "close"
            sender.join(20)
            assert not sender.is_alive()
            server.close()


# ---- reuse of connections ---------------------------------------------------------------------


@pytest.mark.parametrize("end", [fin, rst])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_get_is_sent_again_when_a_reused_connection_dies(
    shared_proxy: ProxyProcess, origin: socket.socket, end: Script, method: str
) -> None:
    """The origin closes as the request arrives: it is retried once, on a new connection."""
    with shared_proxy.connect() as client:
        reader = Reader(client)
        client.sendall(request(origin.getsockname()))
        first = accept(origin)
        head(first)
        first.sendall(response(b"one"))
        assert reader.answer().body == b"one"
        client.sendall(request(origin.getsockname(), method=method))
        head(first)  # it came on the idle connection
        end(first)
        with accept(origin) as second:
            head(second)
            second.sendall(response(b"two") if method != "HEAD" else response(b"two")[:-3])
            assert reader.answer(method).status == 200


def test_a_retry_is_not_retried(shared_proxy: ProxyProcess, origin: socket.socket) -> None:
    with shared_proxy.connect() as client:
        reader = Reader(client)
        client.sendall(request(origin.getsockname()))
        first = accept(origin)
        head(first)
        first.sendall(response(b"one"))
        assert reader.answer().body == b"one"
        client.sendall(request(origin.getsockname()))
        head(first)
        first.close()
        second = accept(origin)
        head(second)
        second.close()
        answer = reader.answer()
        assert (answer.status, answer.error) == (502, "connection_terminated")


@pytest.mark.parametrize("fields", [(), ("Content-Length: 5",)])
def test_post_never_goes_out_on_a_reused_connection(
    shared_proxy: ProxyProcess, origin: socket.socket, fields: tuple[str, ...]
) -> None:
    """Another client has used it; its own may be used by a client for a while."""
    with shared_proxy.connect() as client, shared_proxy.connect() as other:
        other.sendall(request(origin.getsockname()))
        first = accept(origin)
        head(first)
        first.sendall(response(b"one"))
        assert Reader(other).answer().body == b"one"
        reader = Reader(client)
        body = b"hello" if fields else b""
        client.sendall(request(origin.getsockname(), *fields, method="POST", body=body))
        with accept(origin) as second:
            assert head(second).startswith(b"POST")
            second.sendall(response(b"two"))
            assert reader.answer().body == b"two"
        first.close()


@pytest.mark.parametrize("end", [fin, rst])
def test_idle_connection_closed_just_before(
    new_proxy: NewProxy, each_loop: bool, origin: socket.socket, end: Script
) -> None:
    """FIN and request are both there when the worker wakes up."""
    proxy = new_proxy(uvloop=each_loop)
    with proxy.connect() as client:
        reader = Reader(client)
        client.sendall(request(origin.getsockname()))
        first = accept(origin)
        head(first)
        first.sendall(response(b"one"))
        assert reader.answer().body == b"one"
        stop(proxy.worker)
        client.sendall(request(origin.getsockname()))
        end(first)
        os.kill(proxy.worker, signal.SIGCONT)
        with accept(origin) as second:
            head(second)
            second.sendall(response(b"two"))
            assert reader.answer().body == b"two"


def test_parts_of_an_answer_are_no_reason_to_retry(
    shared_proxy: ProxyProcess, origin: socket.socket
) -> None:
    with shared_proxy.connect() as client:
        reader = Reader(client)
        client.sendall(request(origin.getsockname()))
        first = accept(origin)
        head(first)
        first.sendall(response(b"one"))
        assert reader.answer().body == b"one"
        client.sendall(request(origin.getsockname()))
        head(first)
        first.sendall(b"HTTP/1.1 2")
        first.close()
        answer = reader.answer()
        assert (answer.status, answer.error) == (502, "http_response_incomplete")


def test_tunnel_reset_passes_through(shared_proxy: ProxyProcess, origin: socket.socket) -> None:
    """Behind everything that was sent before it."""
    log = Log(shared_proxy, origin)
    with shared_proxy.tunnel(*origin.getsockname()) as client:
        server = accept(origin)
        server.sendall(b"x" * 100000)
        assert len(read_exactly(client, 50000)) == 50000
        assert len(read_exactly(client, 50000)) == 50000
        reset(server)
        reader = Reader(client)
        assert reader.rest() == b""
        assert reader.end == "reset"
    assert log.next() == ["TCP_TUNNEL_ABORTED/200"]
