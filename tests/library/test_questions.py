"""A proxy whose lane asks for each request: how often a function is called, and what follows."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spliceproxy import Allow, AuthConfig, Config, Deny, Proxy, Request, Timeouts
from spliceproxy.relay.choice import NATIVE_MODULE
from spliceproxy.relay.interface import RelayStats

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
    """An answer without a Date comes back, and so does a request whose origin cannot be reached.
    Who goes on knows what has been decided."""

    async def main() -> None:
        calls.clear()
        bare = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + BODY
        with socket.create_server(("127.0.0.1", 0)) as gone:
            nowhere = f"127.0.0.1:{gone.getsockname()[1]}"
        async with origin(bare) as where, Proxy(policy=function, config=config()) as proxy:
            client = await Client.to(proxy)
            for number in range(3):
                assert await client.get(where) == b"HTTP/1.1 200 OK"
                assert len(calls) == 2 * number + 1
                assert b" 502 " in await client.get(nowhere)
                assert len(calls) == 2 * number + 2
            assert stats(proxy).given_back >= 6  # each time it was the lane that asked
            client.writer.close()

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout is new in Python 3.11")
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
