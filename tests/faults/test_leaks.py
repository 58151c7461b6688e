"""After storms of good and bad connections everything is back where it was."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from fault_peers import (
    RESET,
    Address,
    Reader,
    accept,
    at_rest,
    at_start,
    connect_request,
    good_request,
    request,
    reset,
)
from harness import ProxyProcess, read_head, serving, wait_for

NewProxy = Callable[..., ProxyProcess]

STORM = 300  # connections


def moody_origin(seed: int) -> Callable[[socket.socket], None]:
    """Answers in many ways, and sometimes not to the end."""
    rng = random.Random(seed)
    lock = threading.Lock()

    def handle(connection: socket.socket) -> None:
        with lock:
            mood = rng.randrange(8)
        connection.settimeout(5)
        with contextlib.suppress(OSError):
            read_head(connection)
            body = b"x" * (rng.randrange(400000) if mood % 2 else 100)
            if mood == 0:
                reset(connection)
                return
            if mood == 1:
                return
            if mood < 4:
                connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                connection.sendall(b"%x\r\n" % len(body) + body)
                if mood == 2:
                    connection.sendall(b"\r\n0\r\n\r\n")
            elif mood < 7:
                length = len(body) + (mood == 4)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
                connection.sendall(body)
            else:
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + body)
                reset(connection)
                return

    return handle


def one_client(proxy: ProxyProcess, address: Address, rng: random.Random) -> None:
    """One connection that goes some way and leaves."""
    with contextlib.suppress(OSError), proxy.connect(5) as client:
        size = rng.choice([10, 70000, 500000])
        data = rng.choice(
            [
                request(address),
                request(address) * 3,
                request(address, "Connection: close"),
                request(address, f"Content-Length: {size}", method="POST", body=b"x" * size),
                request(address, "Transfer-Encoding: chunked", method="POST")
                + b"%x\r\n" % size
                + b"x" * size
                + b"\r\n0\r\n\r\n",
                connect_request(address) + b"GET / HTTP/1.1\r\n\r\n",
                connect_request(("127.0.0.1", 1)),
                b"garbage" * 10 + b"\r\n\r\n",
                request(address, "Transfer-Encoding: chunked", method="POST") + b"zz\r\n",
            ]
        )
        cut = rng.choice([len(data), len(data), rng.randrange(len(data))])
        client.sendall(data[:cut])
        way = rng.randrange(5)
        if way == 0:
            reset(client)
        elif way == 1:
            client.recv(rng.randrange(1, 100000))
            reset(client)
        elif way == 2:
            client.shutdown(socket.SHUT_WR)
            Reader(client).rest()
        elif way == 3:
            client.recv(rng.randrange(1, 100000))
        elif cut == len(data):
            client.settimeout(1)
            Reader(client).rest()


def storm(proxy: ProxyProcess, address: Address, seed: int, count: int = STORM) -> None:
    """So many connections, forty at a time."""
    seeds = iter(range(seed, seed + count))
    lock = threading.Lock()

    def run() -> None:
        while True:
            with lock:
                mine = next(seeds, None)
            if mine is None:
                return
            one_client(proxy, address, random.Random(mine))

    threads = [threading.Thread(target=run) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
        assert not thread.is_alive()


def pipes(pid: int) -> int:
    """Open ends of pipes."""
    found = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(f"/proc/{pid}/fd/{name}").startswith("pipe:")
    return found


QUIET = ("Traceback", "never retrieved", "never awaited", "ResourceWarning", "was destroyed")


@pytest.mark.parametrize(
    ("engine", "uvloop"), [("auto", True), ("auto", False), ("splice", False), ("copy", True)]
)
def test_storm(new_proxy: NewProxy, origin: socket.socket, engine: str, uvloop: bool) -> None:
    proxy = new_proxy("--engine", engine, uvloop=uvloop)
    before = at_start(proxy, origin)
    pipes_before = pipes(proxy.worker)
    worker = proxy.worker
    with serving(moody_origin(1)) as address:
        storm(proxy, address, 1000)
    # Pipes that the pool keeps for the next transfer are no leak.
    wait_for(lambda: pipes(worker) <= pipes_before + 64, "lent pipes")
    kept = pipes(worker) - pipes_before
    at_rest(proxy, before + kept)
    with serving(moody_origin(2)) as address:
        storm(proxy, address, 5000, 100)
    at_rest(proxy, before + max(kept, pipes(worker) - pipes_before))
    good_request(proxy, origin)
    assert proxy.worker == worker
    assert proxy.stop() == 0
    assert not [word for word in QUIET if word in proxy.stderr()], proxy.stderr()


def test_storm_in_development_mode(
    new_proxy: NewProxy, each_loop: bool, origin: socket.socket
) -> None:
    """Python's own checks: nothing is left to the garbage collector, no task is lost."""
    env = {
        "PYTHONASYNCIODEBUG": "1",
        "PYTHONDEVMODE": "1",
        "PYTHONWARNINGS": "always::ResourceWarning",
    }
    proxy = new_proxy(uvloop=each_loop, env=env)
    before = at_start(proxy, origin)
    pipes_before = pipes(proxy.worker)
    with serving(moody_origin(3)) as address:
        storm(proxy, address, 9000)
    at_rest(proxy, before + pipes(proxy.worker) - pipes_before)
    good_request(proxy, origin)
    assert proxy.stop() == 0
    assert not [word for word in QUIET if word in proxy.stderr()], proxy.stderr()


# ---- a bad network -----------------------------------------------------------------------


class Link:
    """A piece of network in front of ``target``, on a loop in a thread of its own: it can
    stand still and be cut. ``moved`` bytes have passed."""

    def __init__(self, target: Address) -> None:
        self.moved = 0
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._works = asyncio.Event()
        self._works.set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        start = asyncio.start_server(self._join, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result(20)
        self.address: Address = self._server.sockets[0].getsockname()[:2]

    def stall(self, seconds: float) -> None:
        """Lets nothing pass meanwhile."""
        self._loop.call_soon_threadsafe(self._works.clear)
        time.sleep(seconds)
        self._loop.call_soon_threadsafe(self._works.set)

    def cut(self) -> None:
        """Resets every connection; new ones pass again."""
        self._loop.call_soon_threadsafe(self._reset, *self._writers)

    def close(self) -> None:
        """What still passes is cut."""
        self._loop.call_soon_threadsafe(self._server.close)
        self.cut()
        wait_for(lambda: not self._writers, "the connections' end")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._writers |= {writer, far_writer}
        try:
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
            writer.close()
            far_writer.close()
        except OSError:
            self._reset(writer, far_writer)
        self._writers -= {writer, far_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            await self._works.wait()
            writer.write(data)
            await writer.drain()
            self.moved += len(data)
        writer.write_eof()

    def _reset(self, *writers: asyncio.StreamWriter) -> None:
        for writer in writers:
            if not writer.is_closing():
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                writer.transport.abort()


@contextlib.contextmanager
def link(target: Address) -> Iterator[Link]:
    made = Link(target)
    try:
        yield made
    finally:
        made.close()


Talk = tuple[str, str, str]
"""Digests of what was sent and what came, and how that ended: "fin" or "reset"."""


def talk(sock: socket.socket, seed: int, size: int) -> Talk:
    """Sends ``size`` bytes and FIN, and reads all the while."""
    sent, got = hashlib.blake2b(), hashlib.blake2b()
    ends: list[str] = []

    def read() -> None:
        try:
            while part := sock.recv(1 << 16):
                got.update(part)
            ends.append("fin")
        except ConnectionError:
            ends.append("reset")

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    rng = random.Random(seed)
    with sock:
        try:
            while size > 0:
                part = rng.randbytes(min(size, rng.choice((10, 5000, 100_000))))
                sock.sendall(part)
                sent.update(part)
                size -= len(part)
            sock.shutdown(socket.SHUT_WR)
        except ConnectionError:  # which the kernel does not tell the reader again
            ends.append("reset")
        reader.join(60)
    assert not reader.is_alive()
    return sent.hexdigest(), got.hexdigest(), max(ends)


@pytest.mark.parametrize("engine", ["auto", "splice", "copy"])
@pytest.mark.parametrize("side", ["client", "origin"])
def test_a_network_that_stalls_is_cut_and_works_again(
    new_proxy: NewProxy, origin: socket.socket, engine: str, side: str
) -> None:
    """On either side of the proxy: a stall costs no byte, and a cut is no clean end."""
    proxy = new_proxy("--engine", engine)
    before = at_start(proxy, origin) + 2  # a pipe that the pool keeps is no leak
    with (
        link(("127.0.0.1", proxy.port)) as near,
        link(origin.getsockname()) as far,
        ThreadPoolExecutor(16) as threads,
    ):
        bad = near if side == "client" else far

        def start(*sizes: int) -> list[tuple[Future[Talk], Future[Talk]]]:
            """Eight tunnels through both links, with two peers that talk at once: ``sizes``
            are the client's and the origin's bytes."""
            pairs = []
            for _ in range(8):
                client = socket.create_connection(near.address, 20)
                client.sendall(connect_request(far.address))
                assert b" 200 " in read_head(client)
                pairs.append((client, accept(origin)))
            return [
                (
                    threads.submit(talk, client, 2 * i, sizes[0]),
                    threads.submit(talk, server, 2 * i + 1, sizes[1]),
                )
                for i, (client, server) in enumerate(pairs)
            ]

        def whole(work: list[tuple[Future[Talk], Future[Talk]]]) -> None:
            for one, other in work:
                sent, got, end = one.result(90)
                assert (got, sent, "fin") == other.result(90)
                assert end == "fin"

        def passed(size: int) -> None:
            wait_for(lambda: bad.moved > size, "bytes through the link")

        work = start(4 << 20, 4 << 20)
        for part in range(1, 5):  # of 64 MiB
            passed(part * 10 << 20)
            bad.stall(0.1)
        whole(work)
        before_cut = bad.moved
        # One that only reads has nothing but the way its tunnel ends.
        work = start(*((1 << 40, 0) if side == "client" else (0, 1 << 40)))
        passed(before_cut + (16 << 20))
        bad.cut()
        assert {future.result(90)[2] for pair in work for future in pair} == {"reset"}
        whole(start(100_000, 100_000))
    at_rest(proxy, before)
    good_request(proxy, origin)
    assert proxy.stop() == 0
    assert not [word for word in QUIET if word in proxy.stderr()], proxy.stderr()
