"""Figures that must hold: memory under bulk data, system calls, a killed worker, the cost
of idle tunnels."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from conftest import need_engine
from harness import (
    ProxyProcess,
    alive,
    descriptors,
    memory,
    read_exactly,
    read_head,
    serving,
    wait_for,
)
from strace import Calls, traced

BLOCK = random.Random(8).randbytes((1 << 20) + 1)
"""Of an odd size, so that nothing that is repeated or left out can fit."""

GIB_BLOCKS = 1024
RSS_GROWTH = 8 << 20
PSS_PER_TUNNEL = 2048
IDLE_TUNNELS = 5000


def send_blocks(s: socket.socket, blocks: int) -> None:
    for _ in range(blocks):
        s.sendall(BLOCK)


def receive_blocks(s: socket.socket, blocks: int, look: Callable[[], None]) -> None:
    """Checks every byte; calls ``look`` now and then."""
    buffer = bytearray(len(BLOCK))
    view = memoryview(buffer)
    for i in range(blocks):
        filled = 0
        while filled < len(buffer):
            got = s.recv_into(view[filled:])
            assert got, f"an end {filled} bytes into block {i}"
            filled += got
        assert buffer == BLOCK, f"block {i} differs"
        if i % 32 == 0:
            look()


@contextmanager
def bulk_origin(blocks: int) -> Iterator[int]:
    """The port of a server that answers one request, or one line, with a bulk body."""

    def send(s: socket.socket) -> None:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        if read_head(s).startswith(b"GET / "):
            s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (blocks * len(BLOCK)))
        send_blocks(s, blocks)
        s.shutdown(socket.SHUT_WR)
        assert s.recv(1) == b""

    with serving(send) as (_, port):
        yield port


@contextmanager
def bulk_download(proxy: ProxyProcess, way: str, blocks: int) -> Iterator[socket.socket]:
    """A client's connection on which the body comes next."""
    with bulk_origin(blocks) as port:
        if way == "tunnel":
            s = proxy.tunnel("127.0.0.1", port)
            s.sendall(b"go\r\n\r\n")
        else:
            s = proxy.connect()
            host = f"127.0.0.1:{port}"
            s.sendall(f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert b" 200 OK" in read_head(s)
        with s:
            yield s


@pytest.mark.parametrize("way", ["tunnel", "forwarded"])
def test_a_gibibyte(new_proxy: Callable[..., ProxyProcess], engine: str, way: str) -> None:
    """Arrives byte for byte; the worker's resident memory does not grow with it."""
    proxy = new_proxy("--engine", engine)
    worker = proxy.worker
    before = memory(worker, "Rss")
    peak = before

    def look() -> None:
        nonlocal peak
        peak = max(peak, memory(worker, "Rss"))

    with bulk_download(proxy, way, GIB_BLOCKS) as s:
        receive_blocks(s, GIB_BLOCKS, look)
        if way == "tunnel":
            assert s.recv(1) == b""
    assert peak - before < RSS_GROWTH
    (line,) = proxy.wait_access(1)
    total = GIB_BLOCKS * len(BLOCK)
    assert total <= int(line.split()[4]) < total + 1000


def test_a_gibibyte_goes_up(new_proxy: Callable[..., ProxyProcess], engine: str) -> None:
    """The same in the body of a request."""
    proxy = new_proxy("--engine", engine)
    worker = proxy.worker
    before = memory(worker, "Rss")
    peak = before

    def look() -> None:
        nonlocal peak
        peak = max(peak, memory(worker, "Rss"))

    def receive(s: socket.socket) -> None:
        assert read_head(s).startswith(b"PUT / ")
        receive_blocks(s, GIB_BLOCKS, look)
        s.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    length = GIB_BLOCKS * len(BLOCK)
    with serving(receive) as (host, port), proxy.connect() as s:
        s.sendall(
            f"PUT http://{host}:{port}/ HTTP/1.1\r\nHost: {host}:{port}\r\n"
            f"Content-Length: {length}\r\n\r\n".encode()
        )
        send_blocks(s, GIB_BLOCKS)
        assert b" 204 " in read_head(s)
    assert peak - before < RSS_GROWTH


@pytest.mark.parametrize("way", ["tunnel", "forwarded"])
@pytest.mark.parametrize("name", ["native", "splice"])
def test_bulk_is_spliced(
    new_proxy: Callable[..., ProxyProcess], tmp_path: Path, name: str, way: str
) -> None:
    """Of 64 MiB only the start passes through the process's memory."""
    need_engine(name)
    proxy = new_proxy("--engine", name, "--access-log", "off")
    blocks = 64
    with traced(proxy.worker, tmp_path) as calls, bulk_download(proxy, way, blocks) as s:
        receive_blocks(s, blocks, lambda: None)
    check_spliced(calls, blocks)


def check_spliced(calls: Calls, blocks: int) -> None:
    total = blocks * len(BLOCK)
    copied = sum(calls.bytes.values()) - calls.bytes["splice"]
    assert calls.bytes["splice"] > 2 * (total - (2 << 20)), calls.bytes  # in and out
    assert copied < 4 << 20, calls.bytes
    moves = sum(calls.count.values()) - calls.count["splice"]
    assert moves < 200, calls.count


@pytest.mark.parametrize("name", ["native", "splice"])
def test_bulk_by_way_of_a_parent_is_spliced(
    new_proxy: Callable[..., ProxyProcess], tmp_path: Path, name: str
) -> None:
    blocks = 64

    def parent(s: socket.socket) -> None:
        read_head(s)
        s.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        send_blocks(s, blocks)

    with serving(parent) as (host, port):
        proxy = new_proxy(
            "--engine", name, "--access-log", "off", "--proxy", f"http://{host}:{port}"
        )
        with traced(proxy.worker, tmp_path) as calls, proxy.tunnel("192.0.2.1", 443) as s:
            receive_blocks(s, blocks, lambda: None)
    check_spliced(calls, blocks)


@pytest.mark.parametrize("name", ["native", "splice", "copy"])
def test_small_messages_are_copied(
    new_proxy: Callable[..., ProxyProcess], tmp_path: Path, name: str
) -> None:
    """One recv and one send for each message and direction, and no splice."""
    need_engine(name)
    proxy = new_proxy("--engine", name, "--access-log", "off")
    rounds = 200

    def echo(s: socket.socket) -> None:
        while data := s.recv(64):
            s.sendall(data)

    with (
        serving(echo) as (host, port),
        proxy.tunnel(host, port) as s,
        traced(proxy.worker, tmp_path) as calls,
    ):
        for i in range(rounds):
            message = b"%064d" % i
            s.sendall(message)
            assert read_exactly(s, 64) == message
    assert calls.count["splice"] == 0
    assert calls.bytes["recvfrom"] == calls.bytes["sendto"] == rounds * 2 * 64
    assert calls.count["sendto"] == rounds * 2


def test_copy_engine_never_splices(new_proxy: Callable[..., ProxyProcess], tmp_path: Path) -> None:
    proxy = new_proxy("--engine", "copy", "--access-log", "off")
    with traced(proxy.worker, tmp_path) as calls, bulk_download(proxy, "tunnel", 8) as s:
        receive_blocks(s, 8, lambda: None)
    assert calls.count["splice"] == 0
    assert calls.bytes["recvfrom"] >= 8 * len(BLOCK)


# ---- a worker is killed ----------------------------------------------------------------

TUNNELS = 60


class Storm:
    """Threads that send one request after another; ``good`` has an item for each answer,
    ``errors`` what the others failed with (list.append is atomic)."""

    def __init__(self, proxy: ProxyProcess, origin: int) -> None:
        self.good: list[None] = []
        self.errors: list[OSError] = []
        self._proxy, self._origin = proxy, origin
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                fetch(self._proxy, self._origin)
                self.good.append(None)
            except OSError as error:
                self.errors.append(error)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def fetch(proxy: ProxyProcess, origin: int) -> None:
    """One request over a connection of its own; OSError if it has no answer."""
    host = f"127.0.0.1:{origin}"
    with proxy.connect() as s:
        s.sendall(
            f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        )
        if not read_head(s).startswith(b"HTTP/1.1 200 "):
            raise ConnectionError("no answer")


def lives(tunnel: socket.socket) -> bool:
    """Whether the tunnel still echoes."""
    try:
        tunnel.sendall(b"ping")
        return read_exactly(tunnel, 4) == b"ping"
    except OSError:
        return False


def echo_or_answer(s: socket.socket) -> None:
    """An echo server that answers GET, and then closes."""
    try:
        while data := s.recv(4096):
            if data.startswith(b"GET "):
                s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            s.sendall(data)
    except OSError:
        return  # its worker was killed


def test_a_killed_worker_takes_only_its_own_connections(
    new_proxy: Callable[..., ProxyProcess], engine: str
) -> None:
    proxy = new_proxy("--engine", engine, "--access-log", "off", workers=2)
    wait_for(lambda: len(proxy.workers()) == 2, "both workers")
    victim, other = proxy.workers()
    with ExitStack() as stack:
        host, port = stack.enter_context(serving(echo_or_answer))
        idle = descriptors(victim)
        tunnels = [stack.enter_context(proxy.tunnel(host, port)) for _ in range(TUNNELS)]
        assert all(lives(tunnel) for tunnel in tunnels)
        own = (descriptors(victim) - idle) // 2
        assert 0 < own < TUNNELS
        storm = Storm(proxy, port)
        try:
            wait_for(lambda: len(storm.good) > 100, "the storm")
            os.kill(victim, signal.SIGKILL)
            wait_for(lambda: not alive(victim), "its end")
            for _ in range(20):
                fetch(proxy, port)
            living = sum(lives(tunnel) for tunnel in tunnels)
            good = len(storm.good)
            wait_for(lambda: len(storm.good) > good + 100, "the storm goes on")
        finally:
            storm.stop()
        assert living == TUNNELS - own
        # Each thread had one connection when the worker was killed.
        assert len(storm.errors) <= 4, storm.errors
        wait_for(lambda: len(proxy.workers()) == 2, "a new worker")
        assert other in proxy.workers()
        assert victim not in proxy.workers()
    assert proxy.stop() == 0


# ---- idle tunnels ----------------------------------------------------------------------


def perf_script(name: str) -> ModuleType:
    """A script of perf/ as a module."""
    path = Path(__file__).parents[2] / "perf" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_idle_tunnels_hold_no_pipe_and_little_memory() -> None:
    need_engine("native")
    costs = perf_script("idle_tunnels").measure(IDLE_TUNNELS, "native")
    assert costs.echoed
    assert costs.pipes == 0
    assert costs.descriptors == 2 * IDLE_TUNNELS
    assert costs.pss / IDLE_TUNNELS < PSS_PER_TUNNEL
