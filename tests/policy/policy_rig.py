"""A proxy process whose name server the test plays, and which tells whom it connects to."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path
from typing import ClassVar, NamedTuple, overload

from harness import ProxyProcess, read_exactly, read_head

# Python imports this at its start. The audit hook sees every connect(2) that Python code
# makes (PEP 578), whatever the proxy itself believes to do.
SITE = """
import os, socket, sys

def audit(event, args):
    if event != "socket.connect" or args[0].type & 0xf != socket.SOCK_STREAM:
        return  # a datagram socket is asked for its own address, and sends nothing
    if args[0].family in (socket.AF_INET, socket.AF_INET6):
        host, port = args[1][:2]
        os.write(log, f"{host} {port}\\n".encode())

log = os.open(os.environ["CONNECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
sys.addaudithook(audit)

from spliceproxy.upstream import answers
answers.MIN_TTL = 0.0
"""

# Functions of --policy that allow everything: what else there is to say of a request is said,
# whoever is asked before, and however long that takes.
ALLOWING = {
    "at once": """
from spliceproxy.policy import Allow

def authorize(request):
    return Allow()
""",
    "later": """
import asyncio
from spliceproxy.policy import Allow

async def authorize(request):
    answer = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(answer.set_result, Allow())
    return await answer
""",
}
ANSWERS = ("no function", *ALLOWING)

A, AAAA = 1, 28


class NameServer:
    """Answers A and AAAA with TTL 0. ``zone``: by name a list of answers, each a list of
    addresses; every look-up gets the next one, and after the last the first. It takes ``delay``
    seconds for each answer."""

    def __init__(self) -> None:
        self.delay = 0.0
        self.silent = False
        self.zone: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []
        self._turns: dict[tuple[str, int], Iterator[list[str]]] = {}
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._sock.getsockname())
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            query, peer = self._sock.recvfrom(512)
            if not query:
                return
            time.sleep(self.delay)
            answer = self._answer(query)
            if not self.silent:
                self._sock.sendto(answer, peer)

    def _answer(self, query: bytes) -> bytes:
        at, labels = 12, []
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += query[at] + 1
        name = ".".join(labels).lower()
        (kind,) = struct.unpack_from(">H", query, at + 1)
        self.asked.append(name)
        answers = self.zone.get(name)
        found: list[str] = []
        if answers is not None:
            turn = self._turns.setdefault((name, kind), cycle(answers))
            found = [a for a in next(turn) if (":" in a) == (kind == AAAA)]
        family = socket.AF_INET6 if kind == AAAA else socket.AF_INET
        records = b""
        for address in found:
            packed = socket.inet_pton(family, address)
            records += b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 0, len(packed)) + packed
        flags = 0x8180 | (3 if answers is None else 0)
        head = query[:2] + struct.pack(">HHHHH", flags, 1, len(found), 0, 0)
        return head + query[12 : at + 5] + records

    def close(self) -> None:
        self._sock.sendto(b"", self._sock.getsockname())
        self._thread.join(10)
        self._sock.close()


class Origins:
    """Servers on one port of several loopback addresses (of IPv6 where there is any); they
    answer every request with 200 and their own address, and count connections in ``hits``."""

    def __init__(self, stack: ExitStack, *addresses: str) -> None:
        has_ipv6 = Path("/proc/net/if_inet6").exists()
        there = [address for address in addresses if has_ipv6 or ":" not in address]
        self.hits = dict.fromkeys(there, 0)
        listeners = _on_one_port(there)
        self.port = listeners[0].getsockname()[1]
        for listener, address in zip(listeners, there, strict=True):
            threading.Thread(target=self._accept, args=(listener, address), daemon=True).start()
            stack.callback(listener.close)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket, address: str) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.hits[address] += 1
            threading.Thread(target=_answer, args=(connection, address), daemon=True).start()


def _on_one_port(addresses: Sequence[str]) -> list[socket.socket]:
    """Listening sockets at all of them, on a port that is free at each."""
    for _ in range(20):
        listeners: list[socket.socket] = []
        try:
            for address in addresses:
                port = listeners[0].getsockname()[1] if listeners else 0
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                listeners.append(socket.create_server((address, port), family=family, backlog=256))
        except OSError as error:
            for listener in listeners:
                listener.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return listeners
    raise OSError(errno.EADDRINUSE, "no port that is free at each address")


def _answer(connection: socket.socket, address: str) -> None:
    body = address.encode()
    with connection:
        connection.settimeout(30)
        try:
            while read_head(connection):
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
                )
        except OSError:
            return


class World:
    """A name server, and proxies that ask it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.names = NameServer()
        stack.callback(self.names.close)
        (folder / "sitecustomize.py").write_text(SITE)
        self._count = self._before = 0
        self._connects = folder / "connects"
        self._connects.touch()

    def proxy(self, *args: str, names: bool = True, **kwargs: object) -> ProxyProcess:
        """``names``: it asks the name server, whatever the arguments say."""
        path = f"{self.folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        env = {
            "PYTHONPATH": path.rstrip(os.pathsep),
            "CONNECTS": str(self._connects),
        }
        if names:
            env["SPLICEPROXY_DNS_SERVER"] = self.names.address
            env["SPLICEPROXY_HOSTS_FILE"] = "none"
        self._count += 1
        folder = self.folder / f"proxy{self._count}"
        proxy = ProxyProcess(folder, *args, env=env, **kwargs)  # type: ignore[arg-type]
        self.stack.callback(proxy.kill)
        self._before = len(self._lines())  # the relay tries itself out
        return proxy

    def connects(self) -> list[tuple[str, int]]:
        """What the proxies have connected to since the last of them was started."""
        return [(host, int(port)) for host, port in map(str.split, self._lines()[self._before :])]

    def _lines(self) -> list[str]:
        return self._connects.read_text().splitlines()


@contextmanager
def world(folder: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(folder, stack)


class Answer:
    """A response's status, fields (names in lower case) and body."""

    def __init__(self, s: socket.socket, *, head_only: bool = False) -> None:
        self.head = read_head(s).decode("latin-1")
        lines = self.head.split("\r\n")
        self.status = int(lines[0].split(" ")[1]) if lines[0] else 0
        self.fields = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        self.body = b""
        if not head_only:
            left = int(self.fields.get("content-length", 0))
            while left and (got := s.recv(left)):
                self.body += got
                left -= len(got)

    @property
    def error(self) -> str:
        """The type in Proxy-Status."""
        return self.fields.get("proxy-status", "").partition("error=")[2].partition(";")[0]


class Asked(NamedTuple):
    """A request of SOCKS5, with the greeting in front of it."""

    data: bytes

    def encode(self) -> Asked:
        """It has no text."""
        return self


class Replied:
    """A reply of SOCKS5, as the answer of HTTP that says the same."""

    MEANINGS: ClassVar = {
        0: (200, ""),
        1: (400, "http_request_error"),
        2: (403, "destination_ip_prohibited"),
        4: (502, "dns_error"),
        5: (502, "connection_refused"),
    }

    def __init__(self, s: socket.socket) -> None:
        reply = read_exactly(s, 12)
        assert (len(reply), reply[:3], reply[4:]) == (12, b"\5\0\5", b"\0\1" + bytes(6)), reply
        self.status, self.error = self.MEANINGS[reply[3]]


@overload
def ask(proxy: ProxyProcess, request: str | bytes) -> Answer: ...
@overload
def ask(proxy: ProxyProcess, request: str | bytes | Asked) -> Answer | Replied: ...
def ask(proxy: ProxyProcess, request: str | bytes | Asked) -> Answer | Replied:
    """The answer to one request on a connection of its own."""
    with proxy.connect() as s:
        if isinstance(request, Asked):
            s.sendall(request.data)
            return Replied(s)
        s.sendall(request if isinstance(request, bytes) else request.encode("latin-1"))
        return Answer(s)


def allowing(answers: str, folder: Path) -> list[str]:
    """The flags of a function of ALLOWING, none for "no function"."""
    if answers not in ALLOWING:
        return []
    path = folder / "allowing.py"
    path.write_text(ALLOWING[answers])
    return ["--policy", str(path)]


Make = Callable[[str, int], str | Asked]


def connect(host: str, port: int) -> str:
    return f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"


def socks_named(host: str, port: int) -> Asked:
    """SOCKS5 with a name, whatever it is."""
    name = host.encode()
    return Asked(b"\5\1\0\5\1\0\3" + bytes((len(name),)) + name + port.to_bytes(2, "big"))


def socks(host: str, port: int) -> Asked:
    """SOCKS5 as most clients have it: an address as one, and a name as one."""
    for kind, family in ((b"\1", socket.AF_INET), (b"\4", socket.AF_INET6)):
        bare = host[1:-1] if kind == b"\4" and host[:1] + host[-1:] == "[]" else host
        try:
            address = socket.inet_pton(family, bare)
        except (OSError, ValueError):
            continue
        return Asked(b"\5\1\0\5\1\0" + kind + address + port.to_bytes(2, "big"))
    return socks_named(host, port)


def get(host: str, port: int) -> str:
    return f"GET http://{host}:{port}/ HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"


def upgrade(host: str, port: int) -> str:
    return get(host, port)[:-2] + "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"
