"""``on_close`` hears of each request and each tunnel once, those of the lane among them, and no
client leaves the lane for that."""

from __future__ import annotations

import asyncio
import logging
import os
import struct
from base64 import b64encode
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from socket import SO_LINGER, SOL_SOCKET, create_server, socket
from typing import Any

import pytest
from harness import read_head, serving
from library_rig import ANSWER, ask, connected, lane_of, run, tunnel

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
from spliceproxy.relay.interface import ABORTED, CLIENT_RESET

ROUNDS = 40


@pytest.fixture
def config(engine: str, tmp_path: Path) -> Config:
    return Config(
        listen=(),
        via=f"test-{os.urandom(4).hex()}",
        timeouts=Timeouts(drain=2.0),
        access_log=str(tmp_path / "access.log"),
        engine=engine,
        policy=PolicyConfig(hook_cache=60.0),
    )


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
        assert told == ["the policy function on_close failed"]

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


# ---- a client that leaves before its request may go anywhere -----------------------------


def words(config: Config) -> list[list[str]]:
    """Of the lines of the log."""
    return [line.split() for line in Path(config.access_log).read_text().splitlines()]


async def leave(writer: asyncio.StreamWriter, how: str) -> None:
    if how == "reset":
        sock = writer.get_extra_info("socket")
        sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


@pytest.mark.parametrize("how", ["leaves", "reset", "is cut off"])
@pytest.mark.parametrize("method", ["GET", "CONNECT"])
def test_a_client_that_is_gone_before_there_is_an_answer(
    config: Config, how: str, method: str
) -> None:
    """It is told of once, with what is known by then, and as the log has it."""
    seen: list[Record] = []
    basic = f"Proxy-Authorization: Basic {b64encode(b'ann:secret').decode()}\r\n"

    async def main() -> None:
        entered, cancelled = asyncio.Event(), asyncio.Event()

        async def waits(request: Request) -> Allow:
            entered.set()
            try:
                await asyncio.sleep(3600)
            finally:
                cancelled.set()
            return Allow()

        auth = AuthConfig(user=("ann", "secret"))
        brief = replace(config, timeouts=Timeouts(drain=0.1), auth=auth)
        async with Proxy(config=brief, policy=waits, on_close=seen.append) as proxy:
            _, writer = await connected(proxy)
            target = "127.0.0.9:9" if method == "CONNECT" else "http://127.0.0.9:9/x"
            head = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.9:9\r\n{basic}\r\n".encode()
            writer.write(head)
            await asyncio.wait_for(entered.wait(), 20)
            if how != "is cut off":
                await leave(writer, how)
                await asyncio.wait_for(cancelled.wait(), 20)
        (record,) = seen
        assert (record.method, record.target, record.bytes_in) == (method, target, len(head))
        assert (record.destination, record.user) == ("127.0.0.9:9", "ann")
        assert (record.status, record.bytes_out, record.error) == (0, 0, "")
        assert record.reason == (ABORTED if how == "is cut off" else CLIENT_RESET)
        assert record.ended
        writer.close()

    run(main)
    (line,) = words(config)
    assert line[5] == method
    assert line[7] == "ann"
    assert line[3] == "NONE_ABORTED/000"


def test_each_request_is_told_of_once_whatever_becomes_of_it(config: Config, origin: str) -> None:
    """Many clients at once: some are allowed, denied, leave, reset, or fail at a random moment."""
    seen: list[Record] = []
    random = Random(7)
    sent: Counter[str] = Counter()

    async def authorize(request: Request) -> Allow | Deny:
        how = request.path.split("-")[0]
        for _ in range(random.randrange(4)):
            await asyncio.sleep(0 if random.random() < 0.5 else 0.002)
        if how == "/fail":
            raise ZeroDivisionError
        return Deny("no") if how == "/deny" else Allow()

    async def one(proxy: Proxy, number: int) -> None:
        reader, writer = await connected(proxy)
        how = random.choice(["allow", "deny", "leave", "reset", "fail", "gone"])
        host = f"127.0.0.1:{gone}" if how == "gone" else origin
        target = f"http://{host}/{how}-{number}"
        sent[target] += 1
        writer.write(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        if how in ("leave", "reset"):
            await writer.drain()
            await asyncio.sleep(random.random() * 0.006)
            await leave(writer, how)
            return
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        writer.close()

    with create_server(("127.0.0.1", 0)) as free:
        gone = free.getsockname()[1]

    async def main() -> None:
        each = replace(config, policy=PolicyConfig(hook_cache=0.0))
        async with Proxy(config=each, policy=authorize, on_close=seen.append) as proxy:
            for _ in range(5):
                await asyncio.gather(*[one(proxy, number) for number in range(60)])

    run(main)
    told = Counter(record.target for record in seen)
    # A reset may come before the request has been read.
    missing = {target for target in sent - told if "/reset-" not in target}
    assert not missing
    assert not told - sent
    assert sorted(told.elements()) == sorted(line[6] for line in words(config))
