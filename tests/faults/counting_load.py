"""A load whose clients count what they do, and the board of the proxy that served it."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness import read_head, serving

from spliceproxy.observe.board import Board

BIG = 3 << 20  # bytes: spliced where splice(2) works
FLOOD = 400_000


def board_of(pid: int) -> Board:
    """That of a supervisor."""
    folder = Path(f"/proc/{pid}/fd")
    for link in folder.iterdir():
        if "memfd:spliceproxy-board" in os.readlink(link):
            return Board.attach(os.open(link, os.O_RDWR))
    raise LookupError("no board")


class Account:
    """What the clients know: requests by method and status class, bytes that they sent and
    received, tunnels, and what they were denied."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.requests: Counter[tuple[str, str]] = Counter()
        self.denied: Counter[str] = Counter()
        self.sent = 0
        self.received = 0
        self.tunnels = 0
        self.begun = 0  # requests, whether they were answered or not

    def answered(self, method: str, status: int) -> None:
        with self.lock:
            self.requests[method, f"{status // 100}xx"] += 1


class Client:
    """One connection to the proxy."""

    def __init__(self, port: int, account: Account) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 30)
        self.account = account

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)
        with self.account.lock:
            self.account.sent += len(data)

    @contextmanager
    def sending(self, data: bytes) -> Iterator[None]:
        """The same beside what the block does; it may find that the proxy has died."""

        def send() -> None:
            with suppress(OSError):
                self.send(data)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            yield
        finally:
            sender.join()

    def receive(self, size: int = -1) -> bytes:
        """So many bytes, or all up to the end."""
        parts = []
        got = 0
        while size < 0 or got < size:
            part = self.sock.recv(1 << 16 if size < 0 else min(size - got, 1 << 16))
            if not part:
                break
            parts.append(part)
            got += len(part)
        with self.account.lock:
            self.account.received += got
        if size >= 0 and got < size:
            raise EOFError(f"{got} of {size} bytes")
        return b"".join(parts)

    def request(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        counted: str = "",
        chunked: bool = False,
        fields: str = "",
    ) -> int:
        """One request and its answer; the status. ``counted`` is how the method is counted, and
        ``fields`` are more lines of the head."""
        with self.account.lock:
            self.account.begun += 1
        host = target.removeprefix("http://").partition("/")[0]
        head = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}"
        if chunked:
            half = len(body) // 2
            head += "Transfer-Encoding: chunked\r\n"
            body = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:half], body[half:]))
            body += b"0\r\n\r\n"
        elif body:
            head += f"Content-Length: {len(body)}\r\n"
        with self.sending(f"{head}\r\n".encode() + body):
            status = self.answer(method)
        self.account.answered(counted or method, status)
        return status

    def answer(self, method: str) -> int:
        head = read_head(self.sock)
        with self.account.lock:
            self.account.received += len(head)
        status = int(head.split(b" ", 2)[1])
        fields = dict(
            line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line
        )
        if method == "HEAD" or (method == "CONNECT" and status == 200) or status in (204, 304):
            return status
        if b"content-length" in fields:
            self.receive(int(fields[b"content-length"]))
        elif b"transfer-encoding" in fields:
            while size := self._line(16):
                self.receive(size + 2)
            self.receive(2)
        else:
            self.receive()
        return status

    def _line(self, base: int) -> int:
        line = b""
        while not line.endswith(b"\r\n"):
            line += self.receive(1)
        return int(line, base)


def origin(connection: socket.socket) -> None:
    """Answers by the path of the request."""
    while head := read_head(connection):
        line, *rest = head.split(b"\r\n")
        method, target, _ = line.split(b" ")
        fields = dict(field.lower().split(b": ", 1) for field in rest if b": " in field)
        if fields.get(b"transfer-encoding") == b"chunked":
            data = b""
            while not data.endswith(b"0\r\n\r\n"):
                data += connection.recv(1 << 16)
        left = int(fields.get(b"content-length", b"0"))
        while left:
            left -= len(connection.recv(min(left, 1 << 16)))
        name, _, number = target.rpartition(b"/")[2].partition(b"-")
        if name == b"status":
            connection.sendall(b"HTTP/1.1 %b X\r\nContent-Length: 0\r\n\r\n" % number)
        elif name == b"chunked":
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(3):
                connection.sendall(b"%x\r\n%b\r\n" % (FLOOD, bytes(FLOOD)))
            connection.sendall(b"0\r\n\r\n")
        elif name == b"close":
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(FLOOD))
            return
        else:
            size = int(number)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            if method != b"HEAD":
                connection.sendall(bytes(size))


def echo(connection: socket.socket) -> None:
    while data := connection.recv(1 << 16):
        connection.sendall(data)


@contextmanager
def origins() -> Iterator[tuple[str, str]]:
    """``host:port`` of one that speaks HTTP, and of one that sends back what it gets."""

    def surviving(handle: Callable[[socket.socket], None]) -> Callable[[socket.socket], None]:
        """Workers that are killed break their connections."""

        def one(connection: socket.socket) -> None:
            with suppress(ConnectionError):
                handle(connection)

        return one

    with serving(surviving(origin), idle=True) as one, serving(surviving(echo)) as other:
        yield f"127.0.0.1:{one[1]}", f"127.0.0.1:{other[1]}"


def browse(port: int, account: Account, web: str, echoes: str, refused: str, rounds: int) -> None:
    """What one client does: some of everything."""
    for n in range(rounds):
        with Client(port, account) as client:  # all that the lane can serve by itself
            for _ in range(5):
                assert client.request("GET", f"http://{web}/size-330") == 200
            assert client.request("GET", f"http://{web}/size-{BIG}") == 200
            assert client.request("HEAD", f"http://{web}/size-{BIG}") == 200
            assert client.request("GET", f"http://{web}/status-302") == 302
            assert client.request("GET", f"http://{web}/status-404") == 404
            assert client.request("POST", f"http://{web}/size-10", bytes(1000)) == 200
            assert client.request("PUT", f"http://{web}/size-10", bytes(BIG)) == 200
            assert client.request("DELETE", f"http://{web}/status-204") == 204
            assert client.request("BREW", f"http://{web}/status-500", counted="other") == 500
        with Client(port, account) as client:  # what it gives back, and takes again
            assert client.request("GET", f"http://{web}/chunked") == 200
            assert client.request("GET", f"http://{web}/size-330") == 200
            assert client.request("POST", f"http://{web}/size-5", bytes(5000), chunked=True) == 200
            assert client.request("GET", f"http://{web}/size-330") == 200
            assert client.request("GET", f"http://{web}/close") == 200
        with Client(port, account) as client:  # what goes nowhere
            assert client.request("GET", f"http://ads.example/{n}") == 403
            with account.lock:
                account.denied["ads"] += 1
        with Client(port, account) as client:
            assert client.request("CONNECT", "ads.example:443") == 403
            with account.lock:
                account.denied["ads"] += 1
        with Client(port, account) as client:
            assert client.request("GET", "http://169.254.169.254/") == 403
            with account.lock:
                account.denied["guard"] += 1
        with Client(port, account) as client:
            assert client.request("GET", f"http://{refused}/") == 502
        with Client(port, account) as client:
            client.send(b"GET / HTTP/1.1\r\nno colon\r\n\r\n")
            account.answered("other", client.answer("GET"))
        for size in (32, FLOOD, BIG):
            with Client(port, account) as client:
                assert client.request("CONNECT", echoes) == 200
                with account.lock:
                    account.tunnels += 1
                with client.sending(bytes(size)):
                    client.receive(size)
                client.sock.shutdown(socket.SHUT_WR)
                client.receive()


def load(
    port: int, account: Account, web: str, echoes: str, refused: str, *, clients: int, rounds: int
) -> None:
    """So many clients at a time."""
    errors: list[BaseException] = []

    def one() -> None:
        try:
            browse(port, account, web, echoes, refused, rounds)
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(clients)]
    random.shuffle(threads)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    if errors:
        raise errors[0]
