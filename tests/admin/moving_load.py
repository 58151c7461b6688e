"""A load whose peers notice what a hand-over must not do: lose, repeat or change a byte, fail a
request, or end a tunnel."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from collections.abc import Callable, Sequence

from harness import ProxyProcess, read_exactly, read_head, wait_for

BLOCK = 32 << 10
PACE = 0.01
"""Seconds between two blocks or requests of each: the load is to be steady, and not to take all of
the machine."""


class Origin:
    """Echoes what it gets in a tunnel until FIN. ``GET /held`` is answered when ``release`` is set,
    and any other request at once; connections are kept alive."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.held = threading.Semaphore(0)
        """Released for each connection that has said all, and waits for ``release``."""

    def serve(self, connection: socket.socket) -> None:
        connection.settimeout(60)
        with contextlib.suppress(ConnectionError):
            first = connection.recv(5)
            if first == b"HELD:":
                self._hold(connection)
            elif first == b"GET /":
                self._answer(connection)
            else:
                while first:
                    connection.sendall(first)
                    first = connection.recv(BLOCK)

    def _hold(self, connection: socket.socket) -> None:
        """Says what it has got as soon as it may, behind the other's FIN."""
        got = bytearray()
        while data := connection.recv(BLOCK):
            got += data
        self.held.release()
        self.release.wait(60)
        connection.sendall(bytes(got))

    @staticmethod
    def _answer(connection: socket.socket) -> None:
        while True:
            if not read_head(connection).endswith(b"\r\n\r\n"):
                return
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def ask_once(s: socket.socket, address: tuple[str, int]) -> None:
    """One request of a connection that is kept alive. AssertionError where it fails."""
    where = f"{address[0]}:{address[1]}"
    s.sendall(f"GET http://{where}/ HTTP/1.1\r\nHost: {where}\r\n\r\n".encode())
    head = read_head(s)
    assert head.startswith(b"HTTP/1.1 200 "), head
    assert read_exactly(s, 2) == b"ok"


class Busy:
    """Echoes blocks over a tunnel until it is told to stop."""

    def __init__(self, tunnel: socket.socket, seed: int) -> None:
        self._tunnel = tunnel
        self._seed = seed
        self._stop = threading.Event()
        self._sent, self._got = hashlib.sha256(), hashlib.sha256()
        self.blocks = 0
        self.fault: BaseException | None = None
        self._threads = [threading.Thread(target=self._guard, args=(one,)) for one in self._both]
        for thread in self._threads:
            thread.start()

    @property
    def _both(self) -> Sequence[Callable[[], None]]:
        return self._send, self._receive

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - told by end()
            self.fault = self.fault or error

    def _send(self) -> None:
        number = self._seed
        while not self._stop.is_set():
            block = number.to_bytes(8, "big") * (BLOCK // 8)
            self._tunnel.sendall(block)
            self._sent.update(block)
            number += 1000
            self._stop.wait(PACE)
        self._tunnel.shutdown(socket.SHUT_WR)

    def _receive(self) -> None:
        while data := self._tunnel.recv(BLOCK):
            self._got.update(data)
            self.blocks += 1

    def end(self) -> None:
        """AssertionError where a byte is wrong, or the tunnel was cut."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "the tunnel stands still"
        if self.fault is not None:
            raise AssertionError(f"the tunnel was cut: {self.fault!r}") from self.fault
        assert self._sent.digest() == self._got.digest()


class Asking:
    """Asks over and over on one connection."""

    def __init__(self, s: socket.socket, address: tuple[str, int]) -> None:
        self._s = s
        self._address = address
        self._stop = threading.Event()
        self.count = 0
        self.fault: BaseException | None = None
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        try:
            while not self._stop.is_set():
                ask_once(self._s, self._address)
                self.count += 1
                self._stop.wait(PACE)
        except BaseException as error:  # noqa: BLE001 - told by end()
            self.fault = error

    def end(self) -> None:
        """AssertionError where a request has failed."""
        self._stop.set()
        self._thread.join(60)
        if self.fault is not None:
            raise AssertionError(f"request {self.count} failed: {self.fault!r}") from self.fault


class Load:
    """Tunnels and requests through ``proxy``, of every kind that there is."""

    def __init__(
        self, proxy: ProxyProcess, origin: Origin, address: tuple[str, int], each: int = 4
    ) -> None:
        self._origin = origin
        self._address = address
        self.idle = [proxy.tunnel(*address) for _ in range(each)]
        for number, tunnel in enumerate(self.idle):
            self._echo(tunnel, f"first {number}")
        self.half = [proxy.tunnel(*address) for _ in range(each)]
        for number, tunnel in enumerate(self.half):
            tunnel.sendall(f"HELD:{number}".encode())
            tunnel.shutdown(socket.SHUT_WR)
        for _ in self.half:
            assert origin.held.acquire(timeout=20)
        self.quiet = [proxy.connect() for _ in range(each)]
        for one in self.quiet:
            ask_once(one, address)
        self.asking = [Asking(proxy.connect(), address) for _ in range(each)]
        self._busy_sockets = [proxy.tunnel(*address) for _ in range(each)]
        self.busy = [Busy(one, number) for number, one in enumerate(self._busy_sockets)]

    @staticmethod
    def _echo(tunnel: socket.socket, text: str) -> None:
        tunnel.sendall(text.encode())
        assert read_exactly(tunnel, len(text)) == text.encode()

    def goes_on(self) -> None:
        """Waits until all who are busy have got something from now on."""
        blocks = [one.blocks for one in self.busy]
        counts = [one.count for one in self.asking]

        def moved() -> bool:
            return all(
                one.fault or one.blocks > before
                for one, before in zip(self.busy, blocks, strict=True)
            ) and all(
                one.fault or one.count > before
                for one, before in zip(self.asking, counts, strict=True)
            )

        wait_for(moved, "bytes of every tunnel")

    def end(self) -> None:
        """Ends all of it. AssertionError where anything has gone wrong since the start."""
        faults = []
        for one in (*self.busy, *self.asking):
            try:
                one.end()
            except AssertionError as error:
                faults.append(str(error))
        assert not faults, faults
        for number, tunnel in enumerate(self.idle):
            self._echo(tunnel, f"last {number}")
        for one in self.quiet:
            ask_once(one, self._address)
        self._origin.release.set()
        for number, tunnel in enumerate(self.half):
            text = str(number).encode()
            assert read_exactly(tunnel, len(text) + 1) == text
        self.close()

    def close(self) -> None:
        for s in (*self.idle, *self.half, *self.quiet, *self._busy_sockets):
            s.close()
        for one in self.asking:
            one._s.close()


def echo(tunnels: list[socket.socket]) -> None:
    """Each of these tunnels to an echo still works."""
    for number, one in enumerate(tunnels):
        one.sendall(b"%04d" % number)
    for number, one in enumerate(tunnels):
        assert read_exactly(one, 4) == b"%04d" % number
