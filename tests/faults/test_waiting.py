"""Clients that wait for a connection to an origin with many in use."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import statistics
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from fault_peers import request
from harness import Nginx, ProxyProcess

from spliceproxy.processes.worker import new_loop

NewProxy = Callable[..., ProxyProcess]
Address = tuple[str, int]

ANSWER = b"HTTP/1.1 200 OK\r\nDate: Tue, 15 Nov 1994 08:12:31 GMT\r\nContent-Length: 2\r\n\r\nok"
LONG_POLLS = 508
SHORT = 0.007  # seconds that a short answer takes: 570 a second come through four connections


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """Enough for both ends of some thousand connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Origin:
    """Answers each GET after the time that its path says ("/1.5"), on a loop in a thread.
    ``open`` and ``most``: connections now, and at the most."""

    def __init__(self) -> None:
        self.loop = new_loop()[0]
        self.open = self.most = 0
        self.asked: dict[str, int] = {}
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self.on_loop(asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=4096))
        self.address: Address = self._server.sockets[0].getsockname()

    def on_loop(self, work):  # type: ignore[no-untyped-def]
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.most = max(self.most, self.open)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1].decode().rpartition("/")[2]
                self.asked[path] = self.asked.get(path, 0) + 1
                await asyncio.sleep(float(path or 0))
                writer.write(ANSWER)
        self.open -= 1
        writer.close()

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        self.on_loop(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(20)
        self.loop.close()


@pytest.fixture
def slow_origin() -> Iterator[Origin]:
    made = Origin()
    yield made
    made.close()


def ask(address: Address, seconds: float) -> bytes:
    return request(address).replace(b"/ HTTP", b"/%g HTTP" % seconds, 1)


class Client:
    """One connection to the proxy, kept alive."""

    def __init__(self, proxy: ProxyProcess) -> None:
        self._proxy = proxy

    async def open(self) -> Client:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._proxy.port)
        return self

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def get(self, data: bytes) -> float:
        """Seconds until the answer was there."""
        began = time.monotonic()
        self.send(data)
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 60)
        assert head.startswith(b"HTTP/1.1 200 "), head
        await self._reader.readexactly(2)
        return time.monotonic() - began

    def close(self) -> None:
        self._writer.transport.abort()


async def clients(proxy: ProxyProcess, count: int) -> list[Client]:
    made: list[Client] = []
    while len(made) < count:
        part = min(count - len(made), 200)
        made += await asyncio.gather(*(Client(proxy).open() for _ in range(part)))
    return made


async def rounds(client: Client, data: bytes, count: int, pause: float = 0.0) -> list[float]:
    took = []
    for _ in range(count):
        took.append(await client.get(data))
        await asyncio.sleep(pause)
    return took


def run(work):  # type: ignore[no-untyped-def]
    loop = new_loop()[0]
    try:
        return loop.run_until_complete(asyncio.wait_for(work, 90))
    finally:
        loop.close()


def test_long_polls_do_not_starve_short_requests(slow_origin: Origin, new_proxy: NewProxy) -> None:
    """508 clients wait long for their answers; 256 others get theirs as soon as without them."""
    proxy = new_proxy("--engine", "native")
    short, long = ask(slow_origin.address, SHORT), ask(slow_origin.address, 60)

    async def main() -> tuple[float, float]:
        first = await Client(proxy).open()
        await first.get(ask(slow_origin.address, 0))
        others = await clients(proxy, 256)

        async def measured() -> float:
            took = await asyncio.gather(*(rounds(other, short, 10, 0.1) for other in others))
            return statistics.median(seconds for times in took for seconds in times)

        before = await measured()
        polls = await clients(proxy, LONG_POLLS)
        for poll in polls:
            poll.send(long)
        while slow_origin.asked.get("60", 0) < LONG_POLLS:  # noqa: ASYNC110 - another thread's
            await asyncio.sleep(0.02)
        after = await measured()
        for one in (first, *polls, *others):
            one.close()
        return before, after

    before, after = run(main())
    assert after < 3 * before + 0.05, (before, after)


def test_an_origin_that_answers_late_gets_more_connections(
    slow_origin: Origin, new_proxy: NewProxy
) -> None:
    proxy = new_proxy("--engine", "native")
    data = ask(slow_origin.address, 1)

    async def main() -> float:
        many = await clients(proxy, 1200)
        await many[0].get(ask(slow_origin.address, 0))
        began = time.monotonic()
        await asyncio.gather(*(rounds(one, data, 3) for one in many))
        seconds = time.monotonic() - began
        for one in many:
            one.close()
        return seconds

    run(main())
    assert slow_origin.most > 800


def test_an_origin_that_answers_soon_gets_few_connections(
    tmp_path_factory: pytest.TempPathFactory, new_proxy: NewProxy
) -> None:
    """However many clients there are."""
    nginx = Nginx(tmp_path_factory.mktemp("nginx"), server="location / { return 200 'ok'; }")
    try:
        proxy = new_proxy("--engine", "native")
        data = request(("127.0.0.1", nginx.port))
        seen: list[int] = []

        async def main() -> None:
            many = await clients(proxy, 2000)
            await many[0].get(data)
            work = asyncio.gather(*(rounds(one, data, 5) for one in many))
            while not work.done():
                seen.append(connections_to(nginx.port))
                await asyncio.sleep(0.05)
            await work
            for one in many:
                one.close()

        run(main())
    finally:
        nginx.stop()
    assert max(seen) <= 640, seen


def connections_to(port: int) -> int:
    """Established TCP connections over IPv4 to a port of this machine (proc(5))."""
    with open("/proc/net/tcp") as table:
        lines = [line.split() for line in table]
    return sum(line[2].endswith(f":{port:04X}") and line[3] == "01" for line in lines)
