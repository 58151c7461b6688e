"""After storms of good and bad connections everything is back where it was."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
from collections.abc import Callable

import pytest
from fault_peers import (
    Address,
    Reader,
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
