"""A relay on a real event loop in a thread, and blocking sockets as its peers."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib
import os
import random
import select
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import lru_cache
from typing import Any, NamedTuple

import pytest

from spliceproxy.relay.checking import NameCheck
from spliceproxy.relay.choice import NATIVE_MODULE
from spliceproxy.relay.driver import RelayDriver
from spliceproxy.relay.interface import Relay, RelayStats, TransferEnd, TunnelEnd

PATIENCE = 20.0  # seconds after which a test that waits has failed


@lru_cache(maxsize=16)
def payload(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def until(condition: Callable[[], Any], what: str) -> None:
    """Waits for something that has no event to wait for."""
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, f"still not so: {what}"
        time.sleep(0.002)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """A blocking socket for a peer, and its other end, ready for a relay."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        outer = socket.socket()
        # Not create_connection, which loads a codec: some tests have no descriptor or no right
        # to read a file by now.
        outer.settimeout(PATIENCE)
        outer.connect(server.getsockname())
        inner, address = server.accept()
    assert address == outer.getsockname()
    for sock in (outer, inner):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    inner.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    return _ready(outer, inner)


def unix_pair() -> tuple[socket.socket, socket.socket]:
    return _ready(*socket.socketpair())


def _ready(outer: socket.socket, inner: socket.socket) -> tuple[socket.socket, socket.socket]:
    outer.settimeout(PATIENCE)
    inner.setblocking(False)
    return outer, inner


def narrow_pair() -> tuple[socket.socket, socket.socket]:
    """A TCP pair with small buffers, which :func:`fill` fills soon."""
    pair = tcp_pair()
    for sock in pair:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, NARROW)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW)
    return pair


PAIRS = {"tcp": tcp_pair, "unix": unix_pair, "narrow": narrow_pair}
NARROW = 256 * 1024
FLOOD = 16 << 20  # more than the buffers between two peers of narrow pairs take


def recv_exactly(sock: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = sock.recv(min(size - len(parts), 1 << 18))
        assert part, f"FIN after {len(parts)} of {size} bytes"
        parts += part
    return bytes(parts)


def recv_all(sock: socket.socket, chunk: int = 1 << 18) -> tuple[bytes, int]:
    """What comes until FIN (then 0) or an error (then its errno)."""
    parts = bytearray()
    while True:
        try:
            part = sock.recv(chunk)
        except ConnectionError as error:
            return bytes(parts), error.errno or -1
        if not part:
            return bytes(parts), 0
        parts += part


def unacknowledged(sock: socket.socket) -> int:
    return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0])


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Task(threading.Thread):
    """A peer in a thread; ``result()`` is what it returned, or raises what it raised."""

    def __init__(self, work: Callable[..., Any], *args: Any) -> None:
        super().__init__(daemon=True)
        self._work, self._args = work, args
        self._future: Future[Any] = Future()
        self.start()

    def run(self) -> None:
        try:
            self._future.set_result(self._work(*self._args))
        except Exception as error:  # noqa: BLE001 - result() raises it
            self._future.set_exception(error)

    def result(self) -> Any:
        value = self._future.result(PATIENCE * 2)
        self.join()
        return value


def send_all(sock: socket.socket, data: bytes, fin: bool = False) -> Task:
    def work() -> None:
        sock.sendall(data)
        if fin:
            sock.shutdown(socket.SHUT_WR)

    return Task(work)


def fill(sock: socket.socket, data: bytes, rig: Rig | None = None) -> int:
    """Sends until nobody takes more; returns how many bytes the kernel took.

    "Nobody": nothing went for a while, in which the loop of ``rig`` had its turns.
    """
    sock.setblocking(False)
    sent = 0
    quiet = 0
    while quiet < 10 and sent < len(data):
        try:
            sent += sock.send(data[sent : sent + (1 << 18)])
            quiet = 0
        except BlockingIOError:
            quiet += 1
            time.sleep(0.01)
            if rig is not None:
                rig.stats()
    sock.settimeout(PATIENCE)
    return sent


class Ends(NamedTuple):
    """A tunnel from outside: its two peers, its id, and how it will have ended."""

    client: socket.socket
    origin: socket.socket
    ident: int
    future: Future[TunnelEnd]

    def end(self) -> TunnelEnd:
        return self.future.result(PATIENCE)


def kept_active(since: float, limit: float, tunnels: list[Ends], side: str) -> float | None:
    """A byte from ``side`` through each tunnel now and then, for longer than ``limit``
    seconds; when the last ones were sent. None if the test itself was held up for so long,
    also ``since`` the tunnels were made, that the limit may have passed."""
    before = since
    while before - since < 2 * limit:
        time.sleep(0.02)
        earlier, before = before, time.monotonic()
        try:
            for tunnel in tunnels:
                peers = (tunnel.client, tunnel.origin)
                sender, receiver = peers if side == "client" else peers[::-1]
                sender.sendall(b"x")
                assert recv_exactly(receiver, 1) == b"x"
            alive = not any(tunnel.future.done() for tunnel in tunnels)
        except ConnectionError:
            alive = False
        if time.monotonic() - earlier >= limit:
            return None
        assert alive, "it has ended while it was active"
    return before


class Rig:
    """A relay with its driver on a loop in a thread of its own."""

    def __init__(self, relay: Relay, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.relay = relay
        self.loop = new_loop()
        self.peers: list[socket.socket] = []
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.driver: RelayDriver = self.call(RelayDriver, relay, self.loop)

    def call(self, work: Callable[..., Any], *args: Any) -> Any:
        """Runs ``work`` in the loop's thread."""

        async def on_loop() -> Any:
            return work(*args)

        return asyncio.run_coroutine_threadsafe(on_loop(), self.loop).result(PATIENCE)

    def stats(self) -> RelayStats:
        stats: RelayStats = self.call(self.relay.stats)
        return stats

    @contextlib.contextmanager
    def paused(self) -> Any:
        """The loop does nothing meanwhile."""
        stopped, go_on = threading.Event(), threading.Event()

        def stop() -> None:
            stopped.set()
            go_on.wait(PATIENCE)

        self.loop.call_soon_threadsafe(stop)
        assert stopped.wait(PATIENCE)
        try:
            yield
        finally:
            go_on.set()

    def keep(self, *peers: socket.socket) -> None:
        self.peers += peers

    def tunnel(
        self,
        kind: str = "tcp",
        to_origin: bytes = b"",
        to_client: bytes = b"",
        check: NameCheck | None = None,
    ) -> Ends:
        client, inner_client = PAIRS[kind]()
        origin, inner_origin = PAIRS[kind]()
        self.keep(client, origin)
        future: Future[TunnelEnd] = Future()
        ident = self.call(
            self.driver.tunnel,
            inner_client.detach(),
            inner_origin.detach(),
            to_origin,
            to_client,
            future.set_result,
            check,
        )
        return Ends(client, origin, ident, future)

    def transfer(
        self, source: socket.socket, target: socket.socket, length: int
    ) -> Future[TransferEnd]:
        work = self.driver.transfer(source.fileno(), target.fileno(), length)
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def pair(self, kind: str = "tcp") -> tuple[socket.socket, socket.socket]:
        outer, inner = PAIRS[kind]()
        self.keep(outer, inner)
        return outer, inner

    def close(self) -> None:
        for peer in self.peers:
            peer.close()
        self.call(self.driver.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)
        self.loop.close()


def promote(rig: Rig, source: socket.socket, target: socket.socket) -> None:
    """Bulk data until this way splices; nothing of it is left on the way."""
    before = rig.stats().spliced
    block = payload(1 << 20)
    for _ in range(50):
        sender = send_all(source, block)
        assert recv_exactly(target, len(block)) == block
        sender.result()
        if rig.stats().spliced > before:
            return
    raise AssertionError("50 MiB in bulk and not a byte was spliced")


def pump(relay: Relay, done: Callable[[], Any]) -> list[tuple[Any, Any]]:
    """Runs a relay without a loop until ``done()``; the ends that came."""
    ends: list[tuple[Any, Any]] = []
    poll = select.poll()
    poll.register(relay.fileno(), select.POLLIN)
    limit = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < limit, "the relay went on for too long"
        wake = relay.next_wake()
        poll.poll(10 if wake is None else min(10, wake * 1000))
        ends += relay.step()
    return ends


def native_relay() -> Any:
    """The compiled engine; skips where it is not built, unless it must be. One that cannot be
    used is an error."""
    try:
        return importlib.import_module(NATIVE_MODULE).NativeRelay
    except ModuleNotFoundError as error:
        if os.environ.get("SPLICEPROXY_REQUIRE_NATIVE") == "1":
            raise
        pytest.skip(f"native is not built: {error}")
