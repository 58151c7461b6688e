"""Hostile clients and origins: what they send, and how they read what comes back."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from harness import END_OF_HEAD, ProxyProcess, descriptors, read_head, wait_for

RESET = struct.pack("ii", 1, 0)

Address = tuple[str, int]


class Answer(NamedTuple):
    """A response. ``whole``: all of the body came, by its own framing or up to FIN."""

    status: int
    fields: dict[str, str]
    body: bytes
    whole: bool

    @property
    def error(self) -> str:
        """The error token of Proxy-Status (RFC 9209), "" without one."""
        return self.fields.get("proxy-status", "").partition("error=")[2].partition(";")[0]


class Reader:
    """Reads responses from a socket. ``end``: "" while open, "fin" or "reset"."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.data = b""
        self.end = ""

    def more(self) -> bool:
        """Receives once; False at the end."""
        if self.end:
            return False
        try:
            got = self.sock.recv(1 << 16)
        except ConnectionError:
            self.end = "reset"
            return False
        self.data += got
        if not got:
            self.end = "fin"
        return bool(got)

    def rest(self) -> bytes:
        """Everything up to the end."""
        while self.more():
            pass
        data, self.data = self.data, b""
        return data

    def answer(self, method: str = "GET") -> Answer:
        """The next final response; interim ones are passed over."""
        while True:
            head = self._through(b"\r\n\r\n")
            if head is None:
                raise ConnectionError(f"no answer but {self.data!r}, then {self.end}")
            lines = head.decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ")[1])
            if status >= 200 or status == 101:
                break
        pairs = (line.partition(":") for line in lines[1:] if line)
        fields = {name.lower(): value.strip() for name, _, value in pairs}
        body, whole = b"", True
        if "chunked" in fields.get("transfer-encoding", ""):
            body, whole = self._chunks()
        elif method == "HEAD" or status in (101, 204, 304):
            pass
        elif "content-length" in fields:
            length = int(fields["content-length"])
            body = self._take(length)
            whole = len(body) == length
        else:
            body = self.rest()
            whole = self.end == "fin"
        return Answer(status, fields, body, whole)

    def _through(self, mark: bytes) -> bytes | None:
        searched = 0
        while (at := self.data.find(mark, max(searched - len(mark), 0))) < 0:
            searched = len(self.data)
            if not self.more():
                return None
        at += len(mark)
        head, self.data = self.data[:at], self.data[at:]
        return head

    def _take(self, n: int) -> bytes:
        parts, left = [], n
        while left and (self.data or self.more()):
            parts.append(self.data[:left])
            self.data = self.data[left:]
            left -= len(parts[-1])
        return b"".join(parts)

    def _chunks(self) -> tuple[bytes, bool]:
        body = []
        while True:
            line = self._through(b"\r\n")
            if line is None:
                return b"".join(body), False
            size = int(line.split(b";")[0], 16)
            part = self._take(size + 2)
            body.append(part[:size])
            if len(part) < size + 2:
                return b"".join(body), False
            if not size:
                return b"".join(body), True


def request(address: Address, *fields: str, method: str = "GET", body: bytes = b"") -> bytes:
    """A request in absolute form; Content-Length is for the caller to give."""
    where = f"{address[0]}:{address[1]}"
    lines = [f"{method} http://{where}/ HTTP/1.1", f"Host: {where}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


def connect_request(address: Address) -> bytes:
    """CONNECT."""
    where = f"{address[0]}:{address[1]}"
    return f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode()


def response(body: bytes = b"ok", *fields: str, status: str = "200 OK") -> bytes:
    """A response with Content-Length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


def reset(sock: socket.socket) -> None:
    """Closes with RST (SO_LINGER of 0 seconds, socket(7))."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def leave(sock: socket.socket, how: str) -> None:
    """``how``: "fin" or "reset"."""
    if how == "reset":
        reset(sock)
    else:
        sock.close()


def sees_end(sock: socket.socket, seconds: float = 20.0) -> bytes:
    """What still comes until FIN or RST; TimeoutError if there is a silence."""
    sock.settimeout(seconds)
    return Reader(sock).rest()


def send_what_goes(sock: socket.socket, data: bytes) -> None:
    """Sends until the other side does not want any more."""
    with contextlib.suppress(ConnectionError):
        sock.sendall(data)


class Log:
    """The access-log lines, from now on, that hold ``key``: an origin's port is in the target
    of every request to it, so late lines of other tests do not count."""

    def __init__(self, proxy: ProxyProcess, key: socket.socket | str) -> None:
        self._proxy = proxy
        self._key = key if isinstance(key, str) else f":{key.getsockname()[1]}"
        self._seen = len(self._lines())

    def _lines(self) -> list[str]:
        return [line for line in self._proxy.access() if self._key in line]

    def next(self, lines: int = 1) -> list[str]:
        """The results (code/status) of the next lines."""
        seen, self._seen = self._seen, self._seen + lines
        wait_for(lambda: len(self._lines()) >= self._seen, f"{lines} lines with {self._key}")
        return [line.split()[3] for line in self._lines()[seen : self._seen]]


def settle(proxy: ProxyProcess, origin: socket.socket) -> None:
    """Waits until the lines of what has ended before are in the log."""
    log = Log(proxy, origin)
    good_request(proxy, origin)
    log.next()


def good_request(proxy: ProxyProcess, origin: socket.socket) -> None:
    """A request from end to end; ``origin`` is a listening socket that nobody serves."""
    with proxy.connect() as client:
        client.sendall(request(origin.getsockname(), "Connection: close"))
        with accept(origin) as server:
            head(server)
            server.sendall(response(b"good", "Connection: close"))
        assert Reader(client).answer().body == b"good"


def head(server: socket.socket) -> bytes:
    """One request head, no byte more."""
    data = read_head(server)
    assert data.endswith(END_OF_HEAD), f"a head was cut short: {data!r}"
    return data


def accept(origin: socket.socket) -> socket.socket:
    """The next connection."""
    server, _ = origin.accept()
    server.settimeout(20)
    return server


def at_start(proxy: ProxyProcess, origin: socket.socket) -> int:
    """The worker's descriptors once it has served a request: what it opens late is open,
    and the request's connections are closed."""
    good_request(proxy, origin)
    proxy.wait_access(1)
    wait_for(lambda: not connections(proxy.worker), "the connections' end")
    return descriptors(proxy.worker)


def connections(pid: int) -> int:
    """A process's TCP sockets over IPv4 that do not listen (proc(5))."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {f"socket:[{line[9]}]" for line in lines if line[3] != "0A"}
    found = 0
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(fd) in inodes
    return found


def at_rest(proxy: ProxyProcess, count: int) -> None:
    """Waits until the worker has ``count`` descriptors or fewer."""
    wait_for(
        lambda: descriptors(proxy.worker) <= count,
        f"{count} descriptors, there are {descriptors(proxy.worker)}",
    )


@contextlib.contextmanager
def deaf_address() -> Iterator[Address]:
    """An address that answers no SYN: the queue of its listener is full (listen(2))."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[:2]
