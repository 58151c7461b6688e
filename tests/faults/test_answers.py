"""Answers that stay what they are: whole, or visibly cut; nothing of ours inside them, and
no end of a connection that comes too early or never."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import harness
import pytest
from fault_peers import (
    Log,
    Reader,
    accept,
    at_rest,
    at_start,
    good_request,
    head,
    request,
    reset,
    response,
    sees_end,
    send_what_goes,
)
from harness import ProxyProcess, read_all, stop, wait_for
from test_client_faults import Swallower

NewProxy = Callable[..., ProxyProcess]

FULL = 32 << 20  # bytes that fit no socket's queue


def narrow(proxy: ProxyProcess) -> socket.socket:
    """A client with a small receive buffer: what it does not take stays with the proxy."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(20)
    client.connect(("127.0.0.1", proxy.port))
    return client


def sending(sock: socket.socket, data: bytes) -> threading.Thread:
    """Sends in a thread, as long as the other side lives."""
    thread = threading.Thread(target=send_what_goes, args=(sock, data), daemon=True)
    thread.start()
    return thread


def given_up(proxy: ProxyProcess) -> None:
    """Waits until the only request is in the log. In vain for a proxy that first wants to
    send a page of its own: it gets the chance."""
    with contextlib.suppress(TimeoutError):
        wait_for(proxy.access, "a log line", 4)


def close_delimited(origin: socket.socket, body: bytes) -> socket.socket:
    """Answers the next request so, and leaves the answer open."""
    server = accept(origin)
    head(server)
    server.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + body)
    return server


# ---- nothing of ours inside an answer ----------------------------------------------------


def test_no_page_inside_a_file(new_proxy: NewProxy, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "big").write_bytes(b"A" * FULL)
    proxy = new_proxy("--serve", str(site), "--timeout-idle", "1")
    with narrow(proxy) as client:
        client.sendall(b"GET /big HTTP/1.1\r\nHost: a.test\r\n\r\n")
        given_up(proxy)
        answer = Reader(client).answer()
    assert answer.status == 200
    assert not answer.whole
    assert answer.body.strip(b"A") == b""
    assert proxy.wait_access(1)[0].split()[3].endswith("/200")


def test_no_page_inside_an_interim_response(new_proxy: NewProxy, origin: socket.socket) -> None:
    proxy = new_proxy("--timeout-idle", "1")
    with narrow(proxy) as client:
        client.sendall(request(origin.getsockname()))
        with accept(origin) as server:
            head(server)
            interim = b"HTTP/1.1 103 Early Hints\r\nLink: <" + b"x" * 3000 + b">\r\n\r\n"
            sender = sending(server, interim * (FULL // len(interim)))
            given_up(proxy)
            reader = Reader(client)
            data = reader.rest()
            sender.join(20)
    first, end, _ = data.partition(b"\r\n\r\n")
    whole = (first + end) * (len(data) // len(first) + 1)
    assert data == whole[: len(data)]


def test_our_short_answers_are_bounded(
    new_proxy: NewProxy, origin: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that pipelines what the proxy answers itself, and never reads."""
    quick = "import spliceproxy.front.answers as a; a.PAGE_SECONDS = 1.0; "
    shown = harness.HIDE_UVLOOP.replace("sys.modules['uvloop'] = None; ", quick)
    assert quick in shown
    monkeypatch.setattr(harness, "HIDE_UVLOOP", shown)
    proxy = new_proxy("--access-log", "off", uvloop=False)
    good_request(proxy, origin)
    many = b"OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n" * (FULL // 35)
    with narrow(proxy) as client, pytest.raises(ConnectionError):
        client.sendall(many)


# ---- early answers -----------------------------------------------------------------------


def test_early_answer_to_a_client_that_trickles(proxy: ProxyProcess, origin: socket.socket) -> None:
    """One more byte of the request's body must not cost the client the answer."""
    body = b"b" * 600_000
    with narrow(proxy) as client:
        client.sendall(
            request(origin.getsockname(), "Content-Length: 100000", method="POST", body=b"ab")
        )
        with accept(origin) as server:
            head(server)
            server.recv(2)
            server.sendall(response(body, status="413 Content Too Large"))
            sees_end(server)  # the proxy has all of the answer, and now closes
        reader = Reader(client)
        while not reader.end and len(reader.data) < len(body):
            reader.more()
            send_what_goes(client, b"c")
        answer = reader.answer()
    assert answer.status == 413
    assert answer.whole


@pytest.mark.parametrize("how", ["stalls", "fin"])
def test_early_answer_outlives_the_upload(
    new_proxy: NewProxy, origin: socket.socket, how: str
) -> None:
    proxy = new_proxy("--timeout-idle", "2")
    log = Log(proxy, origin)
    parts = 30 if how == "stalls" else 5
    with proxy.connect() as client:
        client.sendall(
            request(origin.getsockname(), "Content-Length: 100000", method="POST", body=b"ab")
        )
        with accept(origin) as server:
            head(server)
            server.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {parts * 10000}\r\n\r\n".encode())
            reader = Reader(client)
            reader.more()
            if how == "fin":
                client.shutdown(socket.SHUT_WR)
            for _ in range(parts):  # never silent, and longer than the limit in all
                time.sleep(0.1)
                send_what_goes(server, b"p" * 10000)
            answer = reader.answer()
    assert answer.body == b"p" * 10000 * parts
    assert log.next() == ["TCP_MISS/200"]


# ---- drain, kept-alive connections -------------------------------------------------------


def served(proxy: ProxyProcess, origin: socket.socket) -> socket.socket:
    """A client whose connection is kept alive, after one answer; the origin's is closed."""
    client = proxy.connect()
    client.sendall(request(origin.getsockname()))
    with accept(origin) as server:
        head(server)
        server.sendall(response(b"first", "Connection: close"))
        assert Reader(client).answer().body == b"first"
    return client


def test_drain_ends_with_the_request_in_flight(new_proxy: NewProxy, origin: socket.socket) -> None:
    proxy = new_proxy("--timeout-drain", "100")
    with served(proxy, origin) as idle, proxy.connect() as client:
        client.sendall(request(origin.getsockname()))
        with accept(origin) as server:
            head(server)
            server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
            reader = Reader(client)
            reader.more()
            proxy.process.send_signal(signal.SIGTERM)
            assert read_all(idle) == b""  # the drain has looked at all connections
            server.sendall(b"67890")
            assert reader.answer().body == b"1234567890"
            assert reader.rest() == b""
            assert reader.end == "fin"
    assert proxy.process.wait(20) == 0
    assert "the drain time is over" not in proxy.stderr()


def test_head_limit_counts_from_the_head(new_proxy: NewProxy, origin: socket.socket) -> None:
    proxy = new_proxy("--timeout-head", "4")
    second = request(origin.getsockname(), "X: second")
    with served(proxy, origin) as client:
        time.sleep(2.5)
        client.sendall(second[:20])
        time.sleep(2.5)
        client.sendall(second[20:])
        with accept(origin) as server:
            head(server)
            server.sendall(response(b"second"))
            assert Reader(client).answer().body == b"second"


def test_error_page_is_logged_though_the_drain_ends(
    new_proxy: NewProxy, origin: socket.socket
) -> None:
    proxy = new_proxy("--timeout-drain", "0.3")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with proxy.connect() as client:
            client.sendall(
                request(unused.getsockname(), "Content-Length: 10", method="POST", body=b"ab")
            )
            assert Reader(client).answer().status == 502
            assert proxy.stop() == 0  # while the proxy waits for the rest of the body
    (line,) = proxy.access()
    assert line.split()[3].endswith("/502")


# ---- a cut answer never looks whole --------------------------------------------------------


@pytest.mark.parametrize("engine", ["native", "splice", "copy"])
def test_origin_resets_while_the_upload_runs(
    new_proxy: NewProxy, origin: socket.socket, engine: str
) -> None:
    """The upload may be the one that is told of the reset: the answer must learn it. The
    worker sleeps until there is both something to upload and the reset. One thread does it
    all: the client too has one socket, and its sending must not take the error."""
    if engine == "native":
        pytest.importorskip("spliceproxy.relay._native")
    proxy = new_proxy("--engine", engine)
    worker = proxy.worker
    for turn in range(12):
        with proxy.connect() as client:
            client.sendall(
                request(origin.getsockname(), "Content-Length: 999999999", method="POST")
            )
            server = close_delimited(origin, b"y" * 100_000)
            client.sendall(b"z" * 1000)
            assert server.recv(1)  # the upload runs
            reader = Reader(client)
            while not reader.data.endswith(b"y" * 100_000):
                assert reader.more()
            stop(worker)
            client.sendall(b"z" * (60_000 if turn % 2 else 10))
            reset(server)
            os.kill(worker, signal.SIGCONT)
            reader.rest()
            assert reader.end == "reset"


def test_client_that_takes_nothing_sees_the_cut(new_proxy: NewProxy, origin: socket.socket) -> None:
    proxy = new_proxy("--timeout-idle", "1")
    with narrow(proxy) as client:
        client.sendall(request(origin.getsockname()))
        with close_delimited(origin, b"y") as server:
            sender = sending(server, b"y" * FULL)
            proxy.wait_access(1)
            reader = Reader(client)
            reader.rest()
            sender.join(20)
    assert reader.end == "reset"


def test_end_of_the_drain_shows_the_cut(new_proxy: NewProxy, origin: socket.socket) -> None:
    proxy = new_proxy("--timeout-drain", "0.3")
    with proxy.connect() as client:
        client.sendall(request(origin.getsockname()))
        with close_delimited(origin, b"y" * 1000):
            reader = Reader(client)
            while not reader.data.endswith(b"y" * 1000):
                assert reader.more()
            assert proxy.stop() == 0
            assert reader.rest().endswith(b"y" * 1000)
    assert reader.end == "reset"


# ---- clients that are gone, or too many bytes for nothing ----------------------------------


@pytest.mark.parametrize("framing", ["close", "length", "relay", "chunked"])
def test_client_leaves_a_silent_answer(
    new_proxy: NewProxy, origin: socket.socket, framing: str
) -> None:
    """An event stream or a long poll, whose client closes while there is nothing to send."""
    field = {
        "close": b"",
        "length": b"Content-Length: 1000\r\n",
        "relay": b"Content-Length: 900000000\r\n",
        "chunked": b"Transfer-Encoding: chunked\r\n",
    }[framing]
    event = b"5\r\nevent\r\n" if framing == "chunked" else b"event"
    proxy = new_proxy()
    before = at_start(proxy, origin)
    log = Log(proxy, origin)
    client = proxy.connect()
    client.sendall(request(origin.getsockname()))
    with accept(origin) as server:
        head(server)
        server.sendall(b"HTTP/1.1 200 OK\r\n" + field + b"\r\n" + event)
        reader = Reader(client)
        while b"event" not in reader.data:
            assert reader.more()
        client.close()
        assert sees_end(server) == b""
    at_rest(proxy, before)
    assert log.next() == ["TCP_MISS_ABORTED/200"]


def test_failed_upgrade_closes(proxy: ProxyProcess, origin: socket.socket) -> None:
    """What was meant for the other protocol is never taken for a request."""
    upgrade = request(origin.getsockname(), "Connection: Upgrade", "Upgrade: websocket")
    with proxy.connect() as client:
        client.sendall(upgrade + request(origin.getsockname(), "X: hidden"))
        with accept(origin) as server:
            head(server)
            server.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n")
            reader = Reader(client)
            answer = reader.answer()
            assert (answer.status, answer.error) == (502, "http_upgrade_failed")
            assert answer.fields["connection"] == "close"
            assert reader.rest() == b""
    origin.settimeout(0.2)
    with pytest.raises(TimeoutError):
        origin.accept()


def test_flood_of_empty_lines(proxy: ProxyProcess) -> None:
    """A few are allowed before a request (RFC 9112 section 2.2), a flood is an error."""
    with proxy.connect() as client:
        sender = sending(client, b"\r\n" * FULL)
        answer = Reader(client).answer()
        assert (answer.status, answer.error) == (400, "http_request_error")
        sender.join(20)
        assert not sender.is_alive()


@pytest.mark.parametrize(("engine", "most"), [("copy", 40_000), ("native", 200_000)])
def test_tiny_chunks_do_not_starve_others(
    new_proxy: NewProxy, origin: socket.socket, engine: str, most: int
) -> None:
    """A chunk of one byte costs as much as a large one: measured in bytes that the upload
    moved while the proxy served another request. In C that is a few nanoseconds, and a turn has
    one read of such."""
    proxy = new_proxy("--engine", engine)
    good_request(proxy, origin)
    with proxy.connect() as client:
        client.sendall(request(origin.getsockname(), "Transfer-Encoding: chunked", method="POST"))
        with accept(origin) as server:
            head(server)
            sender = sending(client, b"1\r\nx\r\n" * (FULL // 6))
            wait_for(lambda: server.recv(1, socket.MSG_PEEK), "the body")
            swallower = Swallower(server)
            try:
                least = swallower.least_during(proxy, origin)
            finally:
                swallower.stop()
            sender.join(20)
    assert least < most
