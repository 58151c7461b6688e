"""What one client can make the proxy hold, and that nothing of it stays."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_peers import Reader, connect_request, good_request, request
from harness import ProxyProcess, cpu_seconds, memory, need, serving, wait_for

from spliceproxy import Allow, Config, Deny, Proxy, Request, Timeouts
from spliceproxy.forward.exchange import Exchange
from spliceproxy.front.http1 import Connection
from spliceproxy.net.stream import Stream

Address = tuple[str, int]
NewProxy = Callable[..., ProxyProcess]

ENGINES = ("native", "copy")
DATE = b"Date: Tue, 15 Nov 1994 08:12:31 GMT\r\n"
PAGE = os.sysconf("SC_PAGE_SIZE")
OFFERED = 61 << 20
MOST = 8 << 20


def echo_paths(connection: socket.socket) -> None:
    """A kept-alive origin, whose answers tell the paths of the requests."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    data = b""
    with contextlib.suppress(ConnectionError):
        while got := connection.recv(1 << 16):
            data += got
            *heads, data = data.split(b"\r\n\r\n")
            answers = []
            for one in heads:
                path = one.split(b" ", 2)[1]
                size = b"Content-Length: %d\r\n\r\n" % len(path)
                answers.append(b"HTTP/1.1 200 OK\r\n" + DATE + size + path)
            connection.sendall(b"".join(answers))


@pytest.fixture
def echo() -> Iterator[Address]:
    with serving(echo_paths) as address:
        yield address


def ask_for(path: str, address: Address, *fields: str) -> bytes:
    return request(address, *fields).replace(b"/ HTTP", path.encode() + b" HTTP", 1)


def offer(client: socket.socket, data: bytes, total: int) -> int:
    """Sends as much as is taken, until nothing is for a second, or for five seconds; returns
    how much that was."""
    client.settimeout(1)
    sent = 0
    end = time.monotonic() + 5
    with contextlib.suppress(TimeoutError):
        while sent < total and time.monotonic() < end:
            sent += client.send(data[sent % len(data) :])
    return sent


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("odd", [False, True], ids=["plain", "handed-over"])
def test_a_client_that_pipelines_and_does_not_read(
    echo: Address, new_proxy: NewProxy, engine: str, odd: bool
) -> None:
    """What it sends stays in the kernel once a bounded part is here, also where it goes from
    the relay to Python and back again and again; others are served meanwhile."""
    proxy = new_proxy("--engine", engine)
    ask = request(echo)
    block = ask * 1000
    if odd:
        block = (ask + request(echo, "TE: trailers", "Connection: TE")) * 500
    with proxy.connect() as client, proxy.connect() as other:
        client.sendall(ask)
        assert Reader(client).answer().status == 200
        before = memory(proxy.worker, "Rss")
        seen: list[float] = []
        stop = threading.Event()

        def others() -> None:
            reader = Reader(other)
            while not stop.is_set():
                began = time.monotonic()
                other.sendall(ask)
                assert reader.answer().status == 200
                seen.append(time.monotonic() - began)

        thread = threading.Thread(target=others)
        thread.start()
        sent = offer(client, block, OFFERED)
        growth = memory(proxy.worker, "Rss") - before
        stop.set()
        thread.join(20)
        assert not thread.is_alive()
        assert growth < MOST, f"{growth >> 20} MiB more, with {sent >> 20} MiB sent"
        assert len(seen) > 3
        assert sorted(seen)[len(seen) // 2] < 2
    wait_for(lambda: memory(proxy.worker, "Rss") - before < MOST, "the end of it")


@pytest.mark.parametrize("engine", ENGINES)
def test_pipelined_requests_in_any_pieces(echo: Address, new_proxy: NewProxy, engine: str) -> None:
    """More than is held at a time, cut anywhere and read late: each is answered in turn."""
    proxy = new_proxy("--engine", engine)
    count = 6000
    paths = [f"/{number}-{'x' * (number % 97)}" for number in range(count)]
    odd = ("TE: trailers", "Connection: TE")
    data = b"".join(
        ask_for(path, echo, *(odd if number % 53 == 52 else ()))
        for number, path in enumerate(paths)
    )
    rng = random.Random(engine)
    with proxy.connect() as client:

        def send() -> None:
            at = 0
            while at < len(data):
                size = rng.choice([1, 60, 1000, 70_000, 200_000])
                client.sendall(data[at : at + size])
                at += size

        thread = threading.Thread(target=send)
        thread.start()
        reader = Reader(client)
        for path in paths:
            assert reader.answer().body == path.encode()
        thread.join(20)


def test_address_space_runs_out(new_proxy: NewProxy, origin: socket.socket) -> None:
    """Heads for which there is no memory: some clients are closed, the worker goes on or
    another takes its place, and nothing spins."""
    proxy = new_proxy("--engine", "native")
    good_request(proxy, origin)
    size = int(Path(f"/proc/{proxy.worker}/statm").read_text().split()[0]) * PAGE
    most = str(size + (16 << 20))
    subprocess.run([need("prlimit"), "--pid", str(proxy.worker), f"--as={most}"], check=True)
    part = request(origin.getsockname(), "X: " + "a" * 50_000)[:-4]
    with contextlib.ExitStack() as stack:
        for _ in range(800):
            client = stack.enter_context(proxy.connect())
            client.settimeout(2)
            with contextlib.suppress(OSError):
                client.sendall(part)
        wait_for(lambda: "no memory" in proxy.stderr(), "the message")
        wait_for(proxy.workers, "a worker")
        before = cpu_seconds(proxy.worker)
        time.sleep(1)  # the time over which CPU time is measured
        assert cpu_seconds(proxy.worker) - before < 0.5
    good_request(proxy, origin)
    assert "Traceback" not in proxy.stderr()


# ---- nothing stays -------------------------------------------------------------------------


async def ask(address: Address, data: bytes, *, end: bool = True) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(data)
    if end:
        writer.write_eof()
    with contextlib.suppress(asyncio.TimeoutError, ConnectionError):
        await asyncio.wait_for(reader.read() if end else reader.read(1), 5)
    writer.transport.abort()
    return b""


def held() -> dict[str, int]:
    """What there is of a connection; streams that are only kept have nothing in them."""
    counts = {"Connection": 0, "Exchange": 0, "bytes": 0}
    for one in gc.get_objects():
        if type(one) is Stream:
            counts["bytes"] += len(one.buffer)
        elif type(one) in (Connection, Exchange):
            counts[type(one).__name__] += 1
    return counts


@pytest.mark.parametrize("engine", ENGINES)
def test_no_cycle_keeps_a_connection(engine: str, echo: Address) -> None:
    """Whatever ends a connection, its buffers are free at once, without the collector."""

    async def deny(asked: Request) -> Allow | Deny:
        return Deny("no", rule="no") if asked.path == "/denied" else Allow()

    async def main() -> dict[str, int]:
        with socket.create_server(("127.0.0.1", 0), backlog=1) as closed:
            nobody = closed.getsockname()
        config = Config(
            listen=("127.0.0.1:0",),
            engine=engine,
            access_log="off",
            timeouts=Timeouts(head=0.2, drain=0.0),
        )
        async with Proxy(policy=deny, config=config) as proxy:
            here = ("127.0.0.1", int(proxy.url.rsplit(":", 1)[1]))
            more = b"GET " + b"x" * 70_000
            odd = ("TE: trailers", "Connection: TE")
            cases = [
                request(echo, *odd),
                request(echo, *odd) + request(echo, "Connection: close", *odd) + more,
                request(echo, "Authorization: NTLM abc"),  # its origin's connection is its own
                request(nobody),  # refused
                request(nobody, "Connection: close") + more,
                ask_for("/denied", echo) + more,
                request(echo, "Content-Length: 10", method="POST", body=b"abc"),
                request(echo, "Transfer-Encoding: chunked", method="POST", body=b"zz\r\n"),
                b"garbage\r\n\r\n" + more,
                b"GET " + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
                connect_request(nobody),
                connect_request(echo) + more,
            ]
            await ask(here, cases[0])
            gc.collect()
            before = held()
            gc.disable()
            for data in cases:
                for end in (True, False):
                    await ask(here, data, end=end)
            for _ in range(200):  # objects have no event
                if held() == before:
                    break
                await asyncio.sleep(0.05)
            return {kind: n - before[kind] for kind, n in held().items() if n != before[kind]}

    try:
        assert asyncio.run(main()) == {}
    finally:
        gc.enable()
