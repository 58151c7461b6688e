"""Origins that authenticate connections: no request goes on another client's."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
from collections.abc import Callable

import pytest
from fault_peers import (
    Address,
    Reader,
    accept,
    at_rest,
    at_start,
    good_request,
    head,
    request,
    response,
)
from harness import ProxyProcess, wait_for
from session_origin import session_origin

NewProxy = Callable[..., ProxyProcess]

HANDSHAKES = 200
AT_ONCE = 25
OTHERS = 50
DATE = "Date: Tue, 15 Nov 1994 08:12:31 GMT"


@pytest.fixture(params=["native", "splice", "copy"])
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "native":
        pytest.importorskip("spliceproxy.relay._native")
    return str(request.param)


class Client:
    """One connection to the proxy."""

    def __init__(self, name: str, origin: Address, port: int) -> None:
        self.name = name
        self._origin = origin
        self._port = port

    async def __aenter__(self) -> Client:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._writer.close()

    async def ask(self, path: str, *fields: str, method: str = "GET") -> tuple[int, str, str]:
        """Status, challenge and body of the answer."""
        host = f"{self._origin[0]}:{self._origin[1]}"
        body = "x" * 100 if method == "POST" else ""
        length = [f"Content-Length: {len(body)}"] if body else []
        first = f"{method} http://{host}{path} HTTP/1.1"
        lines = [first, f"Host: {host}", f"X-Client: {self.name}", *fields, *length, "", body]
        self._writer.write("\r\n".join(lines).encode())
        got = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        values = dict(line.lower().split(": ", 1) for line in got[1:] if line)
        text = await self._reader.readexactly(int(values["content-length"]))
        challenge = next((line for line in got if line.startswith("WWW-Authenticate")), "")
        return int(got[0].split(" ")[1]), challenge.partition(" ")[2], text.decode()


def leg(kind: int, name: str, number: str = "0") -> str:
    return "Authorization: NTLM " + base64.b64encode(f"{kind}:{name}:{number}".encode()).decode()


async def shakes_hands(client: Client, method: str) -> None:
    name = client.name
    assert await client.ask("/private", method=method) == (401, "NTLM", "")
    status, challenge, _ = await client.ask("/private", leg(1, name), method=method)
    assert (status, challenge[:5]) == (401, "NTLM ")
    _, _, number = base64.b64decode(challenge[5:]).decode().split(":")
    third = await client.ask("/private", leg(3, name, number), method=method)
    assert third == (200, "", name)
    for again in ("GET", method, "POST", "GET"):
        assert await client.ask("/private", method=again) == (200, "", name)
    assert await client.ask("/public") == (200, "", name)


async def storm(proxy: ProxyProcess, origin: Address) -> int:
    """Handshakes among other clients; how many requests these have sent."""
    turn = asyncio.Semaphore(AT_ONCE)
    over = asyncio.Event()

    async def user(number: int) -> None:
        async with turn, Client(f"user{number}", origin, proxy.port) as client:
            await shakes_hands(client, ("GET", "POST")[number % 2])

    async def other(number: int) -> int:
        count = 0
        while not over.is_set():
            async with Client(f"other{number}", origin, proxy.port) as client:
                for _ in range(10):
                    assert await client.ask("/public") == (200, "", "nobody")
                    count += 1
        return count

    others = [asyncio.ensure_future(other(number)) for number in range(OTHERS)]
    try:
        await asyncio.gather(*(user(number) for number in range(HANDSHAKES)))
    finally:
        over.set()
    return sum(await asyncio.gather(*others))


def test_no_request_on_the_connection_of_another(
    new_proxy: NewProxy, origin: socket.socket, engine: str
) -> None:
    proxy = new_proxy("--engine", engine)
    before = at_start(proxy, origin)
    with session_origin() as (sessions, address):
        others = asyncio.run(asyncio.wait_for(storm(proxy, address), 120))
        assert sessions.faults == []
        assert sessions.handshakes == HANDSHAKES
        assert others >= OTHERS
    good_request(proxy, origin)
    at_rest(proxy, before)


# ---- the end of such a connection --------------------------------------------------------


def bound(proxy: ProxyProcess, origin: socket.socket) -> tuple[socket.socket, socket.socket]:
    """A client, and its connection to the origin: nobody else's from here on."""
    client = proxy.connect()
    client.sendall(request(origin.getsockname(), "Authorization: Negotiate abc"))
    server = accept(origin)
    head(server)
    server.sendall(response(b"mine", DATE))
    assert Reader(client).answer().body == b"mine"
    return client, server


def test_it_ends_with_the_drain(new_proxy: NewProxy, origin: socket.socket, engine: str) -> None:
    proxy = new_proxy("--engine", engine, "--timeout-drain", "60")
    client, server = bound(proxy, origin)
    with client, server:
        assert proxy.stop() == 0
        assert Reader(server).rest() == b""
        assert Reader(client).rest() == b""


def test_a_request_at_the_drain_is_answered(new_proxy: NewProxy, origin: socket.socket) -> None:
    proxy = new_proxy("--timeout-drain", "60")
    client, server = bound(proxy, origin)
    with client, server:
        client.sendall(request(origin.getsockname()))
        head(server)
        proxy.process.terminate()
        wait_for(lambda: "draining" in proxy.stderr(), "the drain")
        server.sendall(response(b"last", DATE))
        answer = Reader(client).answer()
        assert (answer.body, answer.fields["connection"]) == (b"last", "close")
        assert Reader(server).rest() == b""
        assert proxy.process.wait(20) == 0


def test_it_is_idle_for_a_limited_time(
    new_proxy: NewProxy, origin: socket.socket, engine: str
) -> None:
    """Also where its client goes on with requests that do not need it."""
    proxy = new_proxy("--engine", engine, "--timeout-head", "1")
    before = at_start(proxy, origin)
    client, server = bound(proxy, origin)
    with client, server:
        reader = Reader(client)
        server.setblocking(False)

        def over() -> bool:
            with contextlib.suppress(ConnectionError):  # it may learn of the end at once
                client.sendall(b"OPTIONS * HTTP/1.1\r\nHost: p\r\n\r\n")
                assert reader.answer().status == 200
            try:
                return server.recv(1) == b""
            except BlockingIOError:
                return False

        wait_for(over, "the end of the connection to the origin")
    at_rest(proxy, before)


def test_the_client_comes_back_to_the_lane(new_proxy: NewProxy, origin: socket.socket) -> None:
    """Without a bound connection its plain requests need no Python again, and what they used
    is for all."""
    proxy = new_proxy()
    other = origin.getsockname()
    with socket.create_server(("127.0.0.1", 0)) as second:
        second.settimeout(20)
        client, server = bound(proxy, second)
        with client, server:
            reader = Reader(client)
            for number in range(3):
                client.sendall(request(other))
                if not number:
                    shared = accept(origin)
                    assert Reader(server).rest() == b""
                head(shared)
                shared.sendall(response(b"%d" % number, DATE))
                assert reader.answer().body == b"%d" % number
            with shared, proxy.connect() as another:
                another.sendall(request(other))
                head(shared)
                shared.sendall(response(b"shared", DATE))
                assert Reader(another).answer().body == b"shared"
