"""A proxy whose lane asks for each request: how often a function is called, and what follows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spliceproxy import (
    Allow,
    AuthConfig,
    Config,
    Deny,
    PolicyConfig,
    Proxy,
    Record,
    Request,
    Timeouts,
)
from spliceproxy.relay.choice import NATIVE_MODULE
from spliceproxy.relay.interface import CLIENT_RESET, RelayStats
from spliceproxy.upstream.resolver import Resolver

BODY = b"hello"
ANSWER = (
    b"HTTP/1.1 200 OK\r\nDate: Tue, 15 Nov 1994 08:12:31 GMT\r\nContent-Length: 5\r\n\r\n" + BODY
)


@pytest.fixture(autouse=True)
def lane() -> None:
    pytest.importorskip(NATIVE_MODULE)


@contextlib.asynccontextmanager
async def origin(answer: bytes = ANSWER) -> AsyncIterator[str]:
    """An origin that keeps connections alive."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


class Client:
    """One connection to a proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, proxy: Proxy) -> Client:
        host, port = proxy.url.removeprefix("http://").rsplit(":", 1)
        return cls(*await asyncio.open_connection(host, int(port)))

    async def head(self) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)

    async def get(self, where: str, *fields: str, method: str = "GET") -> bytes:
        """The status line of an answer; its body is read."""
        lines = [f"{method} http://{where}/ HTTP/1.1", f"Host: {where}", *fields, "", ""]
        self.writer.write("\r\n".join(lines).encode())
        head = await self.head()
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if method != "HEAD":
            await self.reader.readexactly(size)
        return head.partition(b"\r\n")[0]

    async def connect(self, where: str) -> bytes:
        self.writer.write(f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode())
        return (await self.head()).partition(b"\r\n")[0]


def stats(proxy: Proxy) -> RelayStats:
    assert proxy._instance is not None
    return proxy._instance.services.relay._relay.stats()


def config(**more: Any) -> Config:
    return Config(listen=(), via="sp", access_log="off", timeouts=Timeouts(drain=5.0), **more)


def run(main: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), 60))


calls: list[Request] = []


def plain(request: Request) -> Allow | Deny:
    calls.append(request)
    return Allow()


async def at_once(request: Request) -> Allow | Deny:
    return plain(request)


async def later(request: Request) -> Allow | Deny:
    await asyncio.sleep(0.001)
    return plain(request)


@pytest.mark.parametrize("function", [plain, at_once, later])
def test_a_function_is_called_for_each_request_and_nothing_is_handed_over(
    function: Callable[[Request], Any],
) -> None:
    async def main() -> None:
        calls.clear()
        async with origin() as where, Proxy(policy=function, config=config()) as proxy:
            clients = [await Client.to(proxy) for _ in range(5)]
            for _ in range(10):
                answers = await asyncio.gather(*(client.get(where) for client in clients))
                assert set(answers) == {b"HTTP/1.1 200 OK"}
            assert len(calls) == 50
            tunnels = [await Client.to(proxy) for _ in range(5)]
            for tunnel in tunnels:
                assert b" 200 " in await tunnel.connect(where)
                assert b" 200 " in await tunnel.get(where)
            assert len(calls) == 55
            assert stats(proxy).given_back == 0
            assert stats(proxy).exchanges == 50
            for client in clients + tunnels:
                client.writer.close()
        host, _, port = where.rpartition(":")
        one = calls[0]
        assert (one.client, one.method, one.scheme, one.host, one.port, one.path) == (
            "127.0.0.1",
            "GET",
            "http",
            host,
            int(port),
            "/",
        )
        assert one.field("host") == where
        assert (calls[-1].method, calls[-1].scheme, calls[-1].path) == ("CONNECT", "", "")

    run(main)


def test_a_client_that_leaves_cancels_the_function() -> None:
    async def main() -> None:
        entered, cancelled = asyncio.Event(), asyncio.Event()

        async def waits(request: Request) -> Allow:
            entered.set()
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                cancelled.set()
                raise
            return Allow()

        async with origin() as where, Proxy(policy=waits, config=config()) as proxy:
            client = await Client.to(proxy)
            asking = asyncio.ensure_future(client.get(where))
            await asyncio.wait_for(entered.wait(), 20)
            client.writer.close()
            await asyncio.wait_for(cancelled.wait(), 20)
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await asking

    run(main)


def test_a_proxy_that_stops_ends_what_waits() -> None:
    async def main() -> None:
        entered, ended = asyncio.Event(), asyncio.Event()

        async def waits(request: Request) -> Allow:
            entered.set()
            try:
                await asyncio.sleep(3600)
            finally:
                ended.set()
            return Allow()

        settings = replace(config(), timeouts=Timeouts(drain=0.1))
        async with origin() as where:
            async with Proxy(policy=waits, config=settings) as proxy:
                client = await Client.to(proxy)
                asking = asyncio.ensure_future(client.get(where))
                await asyncio.wait_for(entered.wait(), 20)
            assert ended.is_set()
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await asking

    run(main)


def test_a_denied_request_is_refused_in_the_lane() -> None:
    async def main() -> None:
        def half(request: Request) -> Allow | Deny:
            calls.append(request)
            return Deny("no") if request.method != "GET" else Allow()

        async with origin() as where, Proxy(policy=half, config=config()) as proxy:
            calls.clear()
            client = await Client.to(proxy)
            for _ in range(3):
                assert await client.get(where) == b"HTTP/1.1 200 OK"
                assert b" 403 " in await client.get(where, method="HEAD")
            assert stats(proxy).given_back == 0
            assert stats(proxy).exchanges == 3
            assert b" 403 " in await client.connect(where)
            assert b"no" in await asyncio.wait_for(client.reader.read(), 20)
            assert stats(proxy).given_back == 1  # to be closed with care
            assert len(calls) == 7

    run(main)


def test_who_stands_behind_a_unix_socket_is_asked_about(tmp_path: Path) -> None:
    """And what is allowed for one process is allowed for no other."""

    async def main() -> None:
        calls.clear()
        auth = AuthConfig(peers={str(os.getuid()): "ann"})
        settings = config(auth=auth)
        path = str(tmp_path / "s")
        async with (
            origin() as where,
            Proxy(listen=[f"unix:{path}"], policy=plain, config=settings) as proxy,
        ):
            client = Client(*await asyncio.open_unix_connection(path))
            for _ in range(3):
                assert await client.get(where) == b"HTTP/1.1 200 OK"
            client.writer.close()
            assert [one.user for one in calls] == ["ann"] * 3
            assert stats(proxy).given_back == 0

    run(main)


def test_the_address_to_dial_from_is_kept_to_in_the_lane() -> None:
    async def main() -> None:
        seen: list[str] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(writer.get_extra_info("peername")[0])
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    await reader.readuntil(b"\r\n\r\n")
                    writer.write(ANSWER)
            writer.close()

        def by_method(request: Request) -> Allow:
            return Allow("127.0.0.2") if request.method == "GET" else Allow()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        where = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Proxy(policy=by_method, config=config()) as proxy:
            client = await Client.to(proxy)
            for _ in range(2):
                assert await client.get(where) == b"HTTP/1.1 200 OK"
                assert await client.get(where, method="DELETE") == b"HTTP/1.1 200 OK"
            assert seen == ["127.0.0.2", "127.0.0.1"]
            assert stats(proxy).given_back == 0
            client.writer.close()
        server.close()

    run(main)


@pytest.mark.parametrize("function", [plain, later])
def test_a_function_is_called_once_where_the_lane_cannot_go_on(
    function: Callable[[Request], Any],
) -> None:
    """An answer that is not plain comes back, and so does a request whose origin cannot be reached.
    Who goes on knows what has been decided."""

    async def main() -> None:
        calls.clear()
        odd = b"HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\n" + BODY
        with socket.create_server(("127.0.0.1", 0)) as gone:
            nowhere = f"127.0.0.1:{gone.getsockname()[1]}"
        async with origin(odd) as where, Proxy(policy=function, config=config()) as proxy:
            client = await Client.to(proxy)
            for number in range(3):
                assert await client.get(where) == b"HTTP/1.1 200 OK"
                assert len(calls) == 2 * number + 1
                assert b" 502 " in await client.get(nowhere)
                assert len(calls) == 2 * number + 2
            assert stats(proxy).given_back >= 6  # each time it was the lane that asked
            client.writer.close()

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout() is new in Python 3.11")
def test_what_is_asked_while_a_proxy_stops_does_not_end_that() -> None:
    """A function with a limit of its own cancels the task that it runs in: that must not be the
    one that stops the proxy."""
    tasks: list[object] = []

    async def limited(request: Request) -> Allow | Deny:
        tasks.append(asyncio.current_task())
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(3600)
        except TimeoutError:
            return Deny("slow", status=403)
        return Allow()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        outer, inner = socket.socketpair()
        with outer:
            for sock in (outer, inner):
                sock.setblocking(False)
            async with Proxy(policy=limited, config=config()) as proxy:
                assert proxy._instance is not None
                lane = proxy._instance.services.lane
                assert lane is not None
                # As by who has answered one request and read the next already. The loop does not
                # turn before the proxy stops.
                request = b"GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n"
                lane._native.hand_over(inner.detach(), "127.0.0.1", request, 1)
            assert (await loop.sock_recv(outer, 1000)).startswith(b"HTTP/1.1 403 ")
        assert len(tasks) == 1
        assert tasks[0] is not asyncio.current_task()

    run(main)


# ---- faults of our own -------------------------------------------------------------------


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("function", [plain, at_once, later])
@pytest.mark.parametrize("method", ["GET", "CONNECT"])
def test_a_fault_behind_the_function_is_answered_without_another_call(
    function: Callable[[Request], Any],
    method: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And told once a minute, however often it happens."""
    cached = Resolver.cached

    def faulty(self: Resolver, host: str) -> tuple[str, ...] | None:
        if host == "fault.example":
            raise ValueError("it cannot begin")
        return cached(self, host)

    monkeypatch.setattr(Resolver, "cached", faulty)
    seen: list[Record] = []

    async def main() -> None:
        calls.clear()
        async with Proxy(policy=function, on_close=seen.append, config=config()) as proxy:
            for number in range(1, 6):
                client = await Client.to(proxy)
                if method == "GET":
                    line = await client.get("fault.example")
                else:
                    line = await client.connect("fault.example:443")
                assert b" 500 " in line
                assert len(calls) == number
                client.writer.close()
            assert stats(proxy).given_back == 5
        port = 443 if method == "CONNECT" else 80
        assert [(record.status, record.destination) for record in seen] == [
            (500, f"fault.example:{port}")
        ] * 5
        assert told(caplog) == ["a request of 127.0.0.1 could not be served: it cannot begin"]

    with caplog.at_level(logging.ERROR):
        run(main)


@pytest.mark.parametrize("function", [plain, later])
@pytest.mark.parametrize("part", ["seconds", "answer"])
def test_a_fault_while_an_answer_is_given(
    function: Callable[[Request], Any],
    part: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Behind the decision. Where the request goes on already, it is told all the same."""

    async def main() -> None:
        calls.clear()
        settings = config(policy=PolicyConfig(hook_cache=60.0))
        async with origin() as where, Proxy(policy=function, config=settings) as proxy:
            assert proxy._instance is not None
            lane: Any = proxy._instance.services.lane
            given = lane.answer

            def fails(*how: Any) -> Any:
                if part == "answer":
                    given(*how)
                raise ZeroDivisionError("after all")

            client = await Client.to(proxy)
            where = f"localhost:{where.rpartition(':')[2]}"  # a verdict that holds for a second
            monkeypatch.setattr(lane if part == "answer" else type(lane), part, fails)
            line = await client.get(where)
            assert (b" 200 " if part == "answer" else b" 500 ") in line
            assert len(calls) == 1
            client.writer.close()
        assert told(caplog) == ["a request of 127.0.0.1 could not be served: after all"]

    with caplog.at_level(logging.ERROR):
        run(main)


def test_what_is_cancelled_under_a_decision_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The client has not left, and its function is not called again."""

    async def cancelled(self: Resolver, host: str) -> tuple[str, ...]:
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    monkeypatch.setattr(Resolver, "resolve", cancelled)

    async def main() -> None:
        calls.clear()
        async with Proxy(policy=plain, config=config()) as proxy:
            for number in range(1, 4):
                client = await Client.to(proxy)
                assert b" 500 " in await client.get("fault.example")
                assert len(calls) == number
                client.writer.close()
        assert told(caplog) == [
            "a request of 127.0.0.1 could not be served: what a decision waited for was cancelled"
        ]

    with caplog.at_level(logging.ERROR):
        run(main)


# ---- pages that do not fit ---------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "CONNECT"])
@pytest.mark.parametrize("pipelined", [False, True])
def test_a_page_that_is_larger_than_the_buffer(method: str, pipelined: bool) -> None:
    """It comes whole, and once; the client may ask again behind it as behind any other."""
    reason = "because " * 8000
    seen: list[Record] = []

    def denies(request: Request) -> Allow | Deny:
        return Deny(reason) if request.host == "127.0.0.9" else Allow()

    async def main() -> None:
        async with (
            origin() as where,
            Proxy(policy=denies, on_close=seen.append, config=config()) as proxy,
        ):
            assert proxy._instance is not None
            for listening in proxy._instance.server._sockets:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            port = int(proxy.url.rsplit(":", 1)[1])
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
            client = Client(*await asyncio.open_connection(sock=sock, limit=1 << 20))
            target = "127.0.0.9:9" if method == "CONNECT" else "http://127.0.0.9:9/"
            ask = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.9:9\r\n\r\n"
            more = f"GET http://{where}/ HTTP/1.1\r\nHost: {where}\r\n\r\n"
            client.writer.write((ask + (more if pipelined else "")).encode())
            head = await client.head()
            assert b" 403 " in head
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            assert size > 60_000
            if method != "HEAD":
                page = await asyncio.wait_for(client.reader.readexactly(size), 20)
                assert page.count(reason.rstrip().encode()) == 1
            if method == "CONNECT":
                assert await asyncio.wait_for(client.reader.read(), 20) == b""
            else:
                if not pipelined:
                    client.writer.write(more.encode())
                assert b" 200 " in await client.head()
                assert await client.reader.readexactly(len(BODY)) == BODY
            # A head alone fits.
            assert stats(proxy).given_back == (method != "HEAD")
            client.writer.close()
        denied = [record for record in seen if record.status == 403]
        assert [record.bytes_out for record in denied] == [
            len(head) + (size if method != "HEAD" else 0)
        ]
        assert (denied[0].error, denied[0].reason) == ("http_request_denied", "")
        assert denied[0].destination == "127.0.0.9:9"
        assert len(seen) == 1 + (method != "CONNECT")

    run(main)


def test_a_client_that_leaves_a_page_that_does_not_fit() -> None:
    seen: list[Record] = []

    def denies(request: Request) -> Deny:
        return Deny("because " * 80_000)

    async def main() -> None:
        async with Proxy(policy=denies, on_close=seen.append, config=config()) as proxy:
            assert proxy._instance is not None
            for listening in proxy._instance.server._sockets:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            client = await Client.to(proxy)
            client.writer.write(b"GET http://127.0.0.9:9/ HTTP/1.1\r\nHost: 127.0.0.9:9\r\n\r\n")
            assert b" 403 " in await client.head()
            client.writer.transport.abort()
        (record,) = seen
        assert (record.status, record.reason) == (403, CLIENT_RESET)
        assert 0 < record.bytes_out < 600_000

    run(main)
