"""Headers of the PROXY protocol, as balancers send them, and a proxy that expects them."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from admin.admin_rig import Admin, token_file
from harness import ProxyProcess, read_head, wait_for

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
PROXY, LOCAL = 0x21, 0x20

ANSWER = b"HTTP/1.1 200 OK\r\nDate: Tue, 15 Nov 1994 08:12:31 GMT\r\nContent-Length: 2\r\n\r\nok"


def v1(client: str, kind: str = "TCP4") -> bytes:
    """A line that names a client."""
    to = "192.0.2.1" if kind == "TCP4" else "2001:db8::1"
    return f"PROXY {kind} {client} {to} 40000 3128\r\n".encode()


def v2(client: str = "", command: int = PROXY, vectors: bytes = b"") -> bytes:
    """A header of version 2; without a client one of no family."""
    if not client:
        family, addresses = 0x00, b""
    else:
        family = 0x21 if ":" in client else 0x11
        kind = socket.AF_INET6 if ":" in client else socket.AF_INET
        to = "2001:db8::1" if ":" in client else "192.0.2.1"
        addresses = socket.inet_pton(kind, client) + socket.inet_pton(kind, to)
        addresses += struct.pack("!HH", 40000, 3128)
    rest = addresses + vectors
    return SIGNATURE + struct.pack("!BBH", command, family, len(rest)) + rest


def get(address: tuple[str, int], *fields: str) -> bytes:
    """A request that an origin at this address is to get through the proxy."""
    host = f"{address[0]}:{address[1]}"
    lines = [f"GET http://{host}/ HTTP/1.1", f"Host: {host}", *fields, "", ""]
    return "\r\n".join(lines).encode()


def status(client: socket.socket) -> int:
    """Of the next answer, whose body is read."""
    head = read_head(client)
    if not head:
        raise ConnectionError("no answer")
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    left = int(found[1]) if found else 0
    while left:
        got = client.recv(left)
        if not got:
            raise ConnectionError("half an answer")
        left -= len(got)
    return int(head.split(b" ")[1])


def silently_closed(client: socket.socket) -> bool:
    """Whether the proxy closes the connection without a byte."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:  # something was left unread
        return True


class Balanced(Admin):
    """A proxy with an address that expects the PROXY protocol, and an admin address."""

    def counted(self, result: str) -> int:
        """How many connections had this result, by the metrics."""
        name = rf'^spliceproxy_proxy_headers_total{{.*result="{result}".*}} (\d+)'
        return sum(int(one) for one in re.findall(name, self.ask("/metrics").text, re.M))

    def wait_counted(self, result: str, number: int = 1) -> None:
        wait_for(lambda: self.counted(result) >= number, f"{number} connections {result}")

    def lines(self, number: int) -> list[Any]:
        """So many lines of the access log."""
        return [json.loads(line) for line in self.proxy.wait_access(number)]


NewBalanced = Callable[..., Balanced]


@contextlib.contextmanager
def starting(tmp_path: Path) -> Iterator[NewBalanced]:
    """Starts such proxies, and ends them."""
    started: list[ProxyProcess] = []

    def start(*args: str, **kwargs: Any) -> Balanced:
        folder = tmp_path / f"proxy{len(started)}"
        folder.mkdir()
        kwargs.setdefault("listen", ["proxy+tcp://127.0.0.1:0"])
        listens = any("proxy+tcp" in one for one in kwargs["listen"])
        named = "--proxy-protocol-from" in args
        networks = ("--proxy-protocol-from", "127.0.0.1") if listens and not named else ()
        admin = ("--admin", "127.0.0.1:0", "--admin-token-file", str(token_file(folder)))
        if "--admin" in args:
            admin = ("--admin-token-file", str(token_file(folder)))
        proxy = ProxyProcess(folder, *networks, *admin, "--log-format", "json", *args, **kwargs)
        started.append(proxy)
        return Balanced(proxy)

    yield start
    for proxy in started:
        proxy.kill()
        assert "Traceback" not in proxy.stderr(), proxy.stderr()


@pytest.fixture
def new_balanced(tmp_path: Path) -> Iterator[NewBalanced]:
    with starting(tmp_path) as start:
        yield start
