"""``on_close`` hears of each request and each tunnel once, those of the lane among them, and no
client leaves the lane for that."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from socket import socket
from typing import Any

import pytest
from harness import read_head, serving

from spliceproxy import Allow, Config, PolicyConfig, Proxy, Record, Request, Timeouts
from spliceproxy.processes.worker import new_loop

ANSWER = b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 5\r\n\r\nhello"
ROUNDS = 40


def answer(connection: socket) -> None:
    with suppress(ConnectionError):
        while read_head(connection):
            connection.sendall(ANSWER)


@pytest.fixture
def origin() -> Iterator[str]:
    with serving(answer) as (host, port):
        yield f"{host}:{port}"


@pytest.fixture(params=["native", "copy"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    if request.param == "native":
        pytest.importorskip("spliceproxy.relay._native")
    return Config(
        listen=(),
        via=f"test-{os.urandom(4).hex()}",
        timeouts=Timeouts(drain=2.0),
        access_log=str(tmp_path / "access.log"),
        engine=request.param,
        policy=PolicyConfig(hook_cache=60.0),
    )


def run(main: Callable[[], Awaitable[None]]) -> None:
    loop = new_loop()[0]
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


async def ask(proxy: Proxy, origin: str, count: int) -> None:
    """So many requests on one connection, one after another."""
    port = int(proxy.url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in range(count):
        writer.write(f"GET http://{origin}/{number} HTTP/1.1\r\nHost: {origin}\r\n\r\n".encode())
        await asyncio.wait_for(reader.readuntil(b"hello"), 20)
    writer.close()


async def tunnel(proxy: Proxy, origin: str) -> None:
    port = int(proxy.url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"CONNECT {origin} HTTP/1.1\r\nHost: {origin}\r\n\r\n".encode())
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    await asyncio.wait_for(reader.readexactly(len(ANSWER)), 20)
    writer.close()


def lane_of(proxy: Proxy) -> tuple[int, int]:
    """Exchanges in the lane, and clients that came back."""
    assert proxy._instance is not None
    stats = proxy._instance.services.relay._relay.stats()
    return stats.exchanges, stats.given_back


def test_each_request_and_tunnel(config: Config, origin: str) -> None:
    seen: list[Any] = []

    def authorize(request: Request) -> Allow:
        return Allow(tags={"path": request.host})

    async def main() -> None:
        async with Proxy(config=config, policy=authorize, on_close=seen.append) as proxy:
            await ask(proxy, origin, ROUNDS)
            for _ in range(3):
                await tunnel(proxy, origin)
            exchanges, given_back = lane_of(proxy)
        requests = [record for record in seen if record.method == "GET"]
        assert [record.target for record in requests] == [
            f"http://{origin}/{number}" for number in range(ROUNDS)
        ]
        tunnels = [record for record in seen if record.method == "CONNECT"]
        assert len(tunnels) == 3
        for record in seen:
            assert isinstance(record, Record)
            assert record.destination == origin
            assert dict(record.tags) == {"path": "127.0.0.1"}
            assert (record.status, record.client) == (200, "127.0.0.1")
            assert record.ended
            assert record.error == record.rule == ""
        for record in requests:
            assert record.bytes_out > len(ANSWER)
            assert record.bytes_in > len(origin)
        if config.engine == "native":
            assert (exchanges, given_back) == (ROUNDS, 0)

    run(main)


def test_a_function_that_is_asked_each_time(config: Config, origin: str) -> None:
    """Its calls are the requests, and each record has what was decided for it."""
    asked: list[str] = []
    seen: list[Record] = []

    def authorize(request: Request) -> Allow:
        asked.append(request.path)
        return Allow(tags={"number": str(len(asked))})

    async def main() -> None:
        each = replace(config, policy=PolicyConfig())
        async with Proxy(config=each, policy=authorize, on_close=seen.append) as proxy:
            await ask(proxy, origin, ROUNDS)
            exchanges, given_back = lane_of(proxy)
        assert asked == [f"/{number}" for number in range(ROUNDS)]
        assert [record.target for record in seen] == [f"http://{origin}{path}" for path in asked]
        assert [record.tags["number"] for record in seen] == [
            str(number + 1) for number in range(ROUNDS)
        ]
        if config.engine == "native":
            assert (exchanges, given_back) == (ROUNDS, 0)

    run(main)


@pytest.mark.parametrize("size", [0, 5, 300_000])
def test_a_request_with_a_body(config: Config, size: int) -> None:
    """Its bytes are in the record, and in the line of the log."""
    seen: list[Record] = []
    body = b"x" * size
    expected: list[int] = []

    def takes(connection: socket) -> None:
        while read_head(connection):
            left = size
            while left:
                left -= len(connection.recv(left))
            connection.sendall(ANSWER)

    async def main() -> None:
        with serving(takes) as (host, port):
            head = (
                f"POST http://{host}:{port}/in HTTP/1.1\r\n"
                f"Host: {host}:{port}\r\nContent-Length: {size}\r\n\r\n"
            ).encode()
            expected.extend([len(head) + size] * 3)
            async with Proxy(config=config, on_close=seen.append) as proxy:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", int(proxy.url.rsplit(":", 1)[1])
                )
                for _ in range(3):
                    writer.write(head + body)
                    await asyncio.wait_for(reader.readuntil(b"hello"), 20)
                writer.close()
                exchanges, given_back = lane_of(proxy)
        if config.engine == "native":
            assert (exchanges, given_back) == (3, 0)

    run(main)
    assert [record.method for record in seen] == ["POST"] * 3
    assert [record.bytes_in for record in seen] == expected
    lines = [line.split() for line in Path(config.access_log).read_text().splitlines()]
    assert [words[5] for words in lines] == ["POST"] * 3
    assert [words[-1] for words in lines] == [f"in={count}" for count in expected]


def test_one_that_raises_costs_no_other_its_call(
    config: Config, origin: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    def on_close(record: Record) -> None:
        seen.append(record.target)
        raise ZeroDivisionError

    async def main() -> None:
        async with Proxy(config=config, on_close=on_close) as proxy:
            await asyncio.gather(*[ask(proxy, origin, ROUNDS) for _ in range(5)])
        assert len(seen) == 5 * ROUNDS
        assert {seen.count(target) for target in seen} == {5}
        told = [record.getMessage() for record in caplog.records if record.exc_info]
        assert told == ["the policy hook's on_close failed"]

    with caplog.at_level(logging.ERROR):
        run(main)


def test_one_that_waits(config: Config, origin: str) -> None:
    seen: list[str] = []

    async def on_close(record: Record) -> None:
        target = record.target
        await asyncio.sleep(0)
        assert target == record.target
        seen.append(target)

    async def main() -> None:
        async with Proxy(config=config, on_close=on_close) as proxy:
            await asyncio.gather(*[ask(proxy, origin, ROUNDS) for _ in range(5)])
        assert len(seen) == 5 * ROUNDS

    run(main)


def test_a_tunnel_that_is_cut_at_the_end_of_the_proxy(config: Config, origin: str) -> None:
    seen: list[Record] = []

    async def main() -> None:
        brief = replace(config, timeouts=Timeouts(drain=0.1))
        async with Proxy(config=brief, on_close=seen.append) as proxy:
            await tunnel(proxy, origin)  # the second one is the lane's
            port = int(proxy.url.rsplit(":", 1)[1])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"CONNECT {origin} HTTP/1.1\r\nHost: {origin}\r\n\r\n".encode())
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        writer.close()
        assert [record.status for record in seen] == [200, 200]
        assert seen[1].reason == "aborted"

    run(main)
