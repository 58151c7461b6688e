"""A load of requests and tunnels through a balancer, whose clients know what has come of each."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from harness import read_all, read_exactly, read_head
from machines import Network

PORT = 80
BLOCKS = 20
"""Blocks that a tunnel sends, each of which comes back."""


class Origin:
    """On a machine: answers a request with the address that it has come from, and sends back what
    comes in a tunnel that begins with ECHO, behind that address."""

    def __init__(self, net: Network, name: str) -> None:
        with net.being(name):
            self._listener = socket.create_server((net.addresses[name], PORT), backlog=1024)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, peer = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client, peer[0]), daemon=True).start()

    def _serve(self, client: socket.socket, peer: str) -> None:
        with client, contextlib.suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while start := client.recv(4, socket.MSG_WAITALL):
                if start == b"ECHO":
                    client.sendall(peer.ljust(16).encode())
                    while got := client.recv(1 << 16):
                        client.sendall(got)
                    return
                read_head(client)
                body = peer.encode()
                client.sendall(
                    b"HTTP/1.1 200 OK\r\nDate: Tue, 15 Nov 1994 08:12:31 GMT\r\n"
                    b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
                )

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class Tunnel(NamedTuple):
    """Through the proxy with the address ``by``."""

    sock: socket.socket
    by: str

    def echo(self, size: int = 1000) -> None:
        """Sends a block, and gets it back. ConnectionError."""
        block = random.randbytes(size)
        self.sock.sendall(block)
        back = read_exactly(self.sock, size)
        if hashlib.sha256(back).digest() != hashlib.sha256(block).digest():
            raise ConnectionError(f"{len(back)} of {size} bytes came back")

    def end(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)
        if read_all(self.sock):
            raise ConnectionError("more has come back")
        self.sock.close()


class Clients:
    """On a machine, behind the balancer ``to``."""

    def __init__(self, net: Network, name: str, to: str, origin: str, port: int = 3128) -> None:
        self._net = net
        self._name = name
        self._to = to
        self._port = port
        self._origin = f"{net.addresses[origin]}:{PORT}"
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self.done = 0
        self.lost: list[str] = []

    def connect(self) -> socket.socket:
        return self._net.connect(self._name, self._to, self._port)

    def request(self, sock: socket.socket) -> str:
        """One request; which proxy has sent it on. ConnectionError."""
        url = f"http://{self._origin}/"
        sock.sendall(f"GET {url} HTTP/1.1\r\nHost: {self._origin}\r\n\r\n".encode())
        head = read_head(sock)
        if not head.endswith(b"\r\n\r\n"):
            raise EOFError(repr(head))  # what a client may repeat, on a connection used before
        if not head.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(repr(head))
        size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        body = read_exactly(sock, size)
        if len(body) < size:
            raise ConnectionError(f"{len(body)} of {size} bytes")
        return body.decode()

    def tunnel(self) -> Tunnel:
        sock = self.connect()
        sock.sendall(f"CONNECT {self._origin} HTTP/1.1\r\nHost: {self._origin}\r\n\r\n".encode())
        head = read_head(sock)
        if not head.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(repr(head))
        sock.sendall(b"ECHO")
        return Tunnel(sock, read_exactly(sock, 16).decode().strip())

    # ---- a load ------------------------------------------------------------------------

    def start(self, each: int = 3) -> None:
        """So many threads of each kind."""
        for job in (self._once, self._kept, self._tunnelled) * each:
            self._threads.append(threading.Thread(target=self._repeat, args=(job,), daemon=True))
            self._threads[-1].start()

    def stop(self) -> None:
        """Lets what has begun come to its end."""
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _repeat(self, job: Callable[[], None]) -> None:
        while not self._over.is_set():
            try:
                job()
                self.done += 1
            except (OSError, EOFError) as error:
                self.lost.append(f"{job.__name__}: {error!r}")
            time.sleep(0.005)

    def _once(self) -> None:
        """A request on a connection of its own."""
        with self.connect() as sock:
            self.request(sock)

    def _kept(self) -> None:
        """Several on one. If the connection ends between two, the next is sent on another, as
        clients do (RFC 9112 section 9.3.1)."""
        sock = self.connect()
        try:
            self.request(sock)
            for _ in range(5):
                time.sleep(0.01)  # the connection rests
                try:
                    self.request(sock)
                except (EOFError, BrokenPipeError, ConnectionResetError):
                    sock.close()
                    sock = self.connect()
                    self.request(sock)
        finally:
            sock.close()

    def _tunnelled(self) -> None:
        tunnel = self.tunnel()
        with tunnel.sock:
            for _ in range(BLOCKS):
                tunnel.echo()
                time.sleep(0.01)  # so that it lasts
            tunnel.end()
