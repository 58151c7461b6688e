"""A load that goes on while a test does something to the proxy: clients that ask one request after
the other, and a tunnel. Whoever waits too long for an answer fails the test."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness import ProxyProcess, read_exactly, read_head, serving, wait_for

ANSWER = (
    b"HTTP/1.1 200 OK\r\nDate: Tue, 15 Nov 1994 08:12:31 GMT\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
)


class SteadyLoad:
    """``requests`` and ``tunnels`` are those that were answered so far, ``messages`` those that
    went there and back in the tunnel."""

    def __init__(self) -> None:
        self.requests = 0
        self.tunnels = 0
        self.messages = 0
        self.errors: list[BaseException] = []
        self.ended = threading.Event()
        self._lock = threading.Lock()

    def goes_on(self, requests: int = 30) -> None:
        """Waits until there are so many more answers, and one more message."""
        enough, more = self.requests + requests, self.messages

        def seen() -> bool:
            if self.errors:
                raise self.errors[0]
            return self.requests >= enough and self.messages > more

        wait_for(seen, "more answers")

    def ask(self, proxy: ProxyProcess, sent: bytes) -> None:
        """Does so until the end. An answer comes in one piece: a head and two bytes."""
        with proxy.connect() as client:
            while not self.ended.is_set():
                client.sendall(sent)
                got = b""
                while not got.endswith(b"\r\n\r\nok"):
                    part = client.recv(4096)
                    assert part, got
                    got += part
                assert got.startswith(b"HTTP/1.1 200 "), got
                with self._lock:
                    self.requests += 1

    def speak(self, proxy: ProxyProcess, host: str, port: int) -> None:
        """In a tunnel, until the end."""
        with proxy.tunnel(host, port) as client:
            self.tunnels += 1
            while not self.ended.is_set():
                client.sendall(b"message!")
                assert read_exactly(client, 8) == b"message!"
                self.messages += 1
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""

    def run(self, work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - raised at the end
                self.errors.append(error)

        thread = threading.Thread(target=guarded)
        thread.start()
        return thread


def _origin(connection: socket.socket) -> None:
    while read_head(connection):
        connection.sendall(ANSWER)


def _echo(connection: socket.socket) -> None:
    while got := connection.recv(4096):
        connection.sendall(got)


@contextmanager
def steady_load(proxy: ProxyProcess, path: str = "/", clients: int = 2) -> Iterator[SteadyLoad]:
    """Goes on for as long as the block does. When it is over every request has its answer."""
    load = SteadyLoad()
    with serving(_origin, idle=True) as web, serving(_echo) as echo:
        where = f"{web[0]}:{web[1]}"
        sent = f"GET http://{where}{path} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode()
        threads = [load.run(lambda: load.ask(proxy, sent)) for _ in range(clients)]
        threads.append(load.run(lambda: load.speak(proxy, *echo)))
        try:
            load.goes_on(1)
            yield load
        finally:
            load.ended.set()
            for thread in threads:
                thread.join(30)
    if load.errors:
        raise load.errors[0]
