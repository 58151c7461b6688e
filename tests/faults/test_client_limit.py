"""``--max-connections`` is exact: nobody is refused below it, and nobody is served above."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from fault_peers import Reader, connect_request, request
from harness import ProxyProcess, read_head, serving

NewProxy = Callable[..., ProxyProcess]
Address = tuple[str, int]

ENGINES = ("native", "splice", "copy")
LIMIT = 4
ROUNDS = 60
ANSWER = b"HTTP/1.1 200 OK\r\nDate: Tue, 15 Nov 1994 08:12:31 GMT\r\nContent-Length: 2\r\n\r\nok"


def serve(connection: socket.socket) -> None:
    """Answers whatever looks like a request, within a tunnel too."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(ConnectionError):
        while got := connection.recv(1 << 16):
            for _ in range(got.count(b"\r\n\r\n")):
                connection.sendall(ANSWER)


@pytest.fixture
def origin_server() -> Iterator[Address]:
    with serving(serve) as address:
        yield address


def through_tunnel(client: socket.socket, address: Address) -> int:
    client.sendall(connect_request(address))
    return int(read_head(client).split(b" ")[1])


def ended_tunnel(client: socket.socket, address: Address, *, begun: bool = False) -> int:
    """Until the proxy has closed it: a tunnel whose origin goes on is still a connection."""
    status = 200 if begun else through_tunnel(client, address)
    if status == 200:
        client.shutdown(socket.SHUT_WR)
        Reader(client).rest()
    return status


def plain(client: socket.socket, address: Address) -> int:
    client.sendall(request(address))
    return Reader(client).answer().status


def odd(client: socket.socket, address: Address) -> int:
    """Goes to Python, and comes back."""
    client.sendall(request(address, "TE: trailers", "Connection: TE"))
    reader = Reader(client)
    status = reader.answer().status
    if status == 200:
        client.sendall(request(address))
        status = reader.answer().status
    return status


def last(client: socket.socket, address: Address) -> int:
    """The proxy is the first to close."""
    client.sendall(request(address, "Connection: close"))
    reader = Reader(client)
    status = reader.answer().status
    reader.rest()
    return status


HOLDING = (through_tunnel, plain, odd, plain)
ENDING = (ended_tunnel, plain, odd, last)


@pytest.mark.parametrize("engine", ENGINES)
def test_as_many_as_the_limit_are_never_refused(
    origin_server: Address, new_proxy: NewProxy, engine: str
) -> None:
    """Each closes its connection and makes a new one at once, in every way."""
    proxy = new_proxy("--engine", engine, "--max-connections", str(LIMIT))
    seen: list[int] = []

    def hammer(number: int) -> None:
        for turn in range(ROUNDS):
            way = ENDING[(number + turn // 2) % len(ENDING)]
            with proxy.connect() as client:
                seen.append(way(client, origin_server))

    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(LIMIT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen.count(200) == LIMIT * ROUNDS, sorted(set(seen))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_tunnel_is_counted_once(origin_server: Address, new_proxy: NewProxy, engine: str) -> None:
    """Also while it goes from Python to the relay."""
    proxy = new_proxy("--engine", engine, "--max-connections", "2")
    for _ in range(40):
        with proxy.connect() as first, proxy.connect() as second:
            assert through_tunnel(first, origin_server) == 200
            assert ended_tunnel(second, origin_server) == 200
            assert ended_tunnel(first, origin_server, begun=True) == 200


@pytest.mark.parametrize("engine", ENGINES)
def test_one_more_than_the_limit_is_always_refused(
    origin_server: Address, new_proxy: NewProxy, engine: str
) -> None:
    """Whatever the others are at, and they are served on."""
    proxy = new_proxy("--engine", engine, "--max-connections", str(LIMIT))
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(proxy.connect()) for _ in range(LIMIT)]
        for way, client in zip(HOLDING, held, strict=True):
            assert way(client, origin_server) == 200
        for turn in range(12):
            with proxy.connect() as client:
                assert ENDING[turn % len(ENDING)](client, origin_server) == 503
            if turn % 4 == 0:
                assert plain(held[-1], origin_server) == 200
        held[1].close()  # a place
        with proxy.connect() as client:
            assert plain(client, origin_server) == 200
