"""A proxy of the library on the loop of a worker, and its clients."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from socket import socket

from harness import read_head

from spliceproxy import Proxy
from spliceproxy.processes.worker import new_loop
from spliceproxy.relay.interface import RelayStats

ANSWER = b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 5\r\n\r\nhello"
"""That of the origin."""


def answer(connection: socket) -> None:
    """An origin's side of a connection."""
    with suppress(ConnectionError):  # a proxy that ends cuts off what is open
        while read_head(connection):
            connection.sendall(ANSWER)


def run(main: Callable[[], Awaitable[None]]) -> None:
    loop = new_loop()[0]
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


async def connected(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if proxy.url.startswith("unix:"):
        return await asyncio.open_unix_connection(proxy.url.removeprefix("unix:"))
    return await asyncio.open_connection("127.0.0.1", int(proxy.url.rsplit(":", 1)[1]))


async def ask(proxy: Proxy, origin: str, count: int) -> None:
    """So many requests on one connection."""
    reader, writer = await connected(proxy)
    for number in range(count):
        writer.write(f"GET http://{origin}/{number} HTTP/1.1\r\nHost: {origin}\r\n\r\n".encode())
        await asyncio.wait_for(reader.readuntil(b"hello"), 20)
    writer.close()


async def tunnel(proxy: Proxy, origin: str) -> None:
    """A tunnel with one request in it, which comes at once."""
    reader, writer = await connected(proxy)
    writer.write(
        f"CONNECT {origin} HTTP/1.1\r\nHost: {origin}\r\n\r\nGET / HTTP/1.1\r\n\r\n".encode()
    )
    await asyncio.wait_for(reader.readuntil(b"hello"), 20)
    writer.close()


def stats(proxy: Proxy) -> RelayStats:
    assert proxy._instance is not None
    return proxy._instance.services.relay._relay.stats()


def lane_of(proxy: Proxy) -> tuple[int, int]:
    """Exchanges in the lane, and clients that came back."""
    found = stats(proxy)
    return found.exchanges, found.given_back
