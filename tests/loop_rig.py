"""A whole proxy on this process's event loop, and its clients and origins beside it: the parts of
a worker as they are, each of which can be looked at. Only names are looked up in a table."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from balanced.balanced_rig import LOCAL, v1, v2

from spliceproxy.config import Address, Config, NamesConfig
from spliceproxy.errors import Failure
from spliceproxy.observe.counts import Counts
from spliceproxy.policy.engine import Policy
from spliceproxy.policy.functions import Functions
from spliceproxy.policy.networks import BROUGHT, MARKS
from spliceproxy.processes import rest
from spliceproxy.processes.instance import Instance
from spliceproxy.relay.choice import choose
from spliceproxy.relay.interface import Relay, RelayOptions
from spliceproxy.upstream.addresses import literal

PATIENCE = 20.0
"""Seconds after which nothing more is waited for."""


class Zone:
    """Stands in for the resolver. ``hosts`` are known at once but for those in ``late``, whose
    look-ups end when :meth:`answer` is called; ``looking`` counts who waits for one."""

    def __init__(self, hosts: dict[str, tuple[str, ...]], late: Sequence[str] = ()) -> None:
        self.hosts = dict(hosts)
        self.late_names = frozenset(late)
        self.looking = 0
        self._looking: dict[str, asyncio.Future[None]] = {}

    def cached(self, host: str) -> tuple[str, ...] | None:
        found = literal(host)
        if found:
            return (found,)
        return None if host.lower() in self.late_names else self._known(host)

    async def resolve(self, host: str) -> tuple[str, ...]:
        loop = asyncio.get_running_loop()
        looking = self._looking.setdefault(host.lower(), loop.create_future())
        self.looking += 1
        try:
            await asyncio.shield(looking)
        finally:
            self.looking -= 1
        return self._known(host)

    def late(self, host: str) -> None:
        return None

    def answer(self) -> None:
        """All look-ups that are under way end."""
        for looking in self._looking.values():
            looking.set_result(None)
        self._looking.clear()

    def change(self, seconds: float, names: NamesConfig) -> None:
        pass

    async def close(self) -> None:
        self._looking.clear()

    def _known(self, host: str) -> tuple[str, ...]:
        found = self.hosts.get(host.lower().rstrip("."), ())
        if not found:
            raise Failure("dns_error", "no such name")
        return found


class Origins:
    """Servers on some loopback addresses and ports. Each answers any request with 200, and says
    in the fields X-At, X-From and X-Asked where it is, who has asked it, and what; X-Body is the
    size of the request's body, and X-Leaked there if the proxy's credentials are."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self.connections = 0
        self.requests = 0
        self._servers: list[asyncio.Server] = []

    @classmethod
    async def on(cls, addresses: Sequence[str], ports: int = 1) -> Origins:
        made = cls()
        while len(made.ports) < ports:
            made.ports.append(await made._listen(addresses))
        return made

    async def _listen(self, addresses: Sequence[str], tries: int = 20) -> int:
        """The port, which has to be free at each address."""
        loop = asyncio.get_running_loop()
        servers: list[asyncio.Server] = []
        port = 0
        try:
            for address in addresses:
                server = await loop.create_server(
                    lambda: _Origin(self), address, port, backlog=4096
                )
                servers.append(server)
                port = server.sockets[0].getsockname()[1]
        except OSError:
            for server in servers:
                server.close()
            if not tries:
                raise
            return await self._listen(addresses, tries - 1)
        self._servers += servers
        return port

    def close(self) -> None:
        for server in self._servers:
            server.close()


class _Origin(asyncio.Protocol):
    def __init__(self, origins: Origins) -> None:
        self._origins = origins
        self._data = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._origins.connections += 1

    def connection_lost(self, error: Exception | None) -> None:
        self._origins.connections -= 1

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            line, fields = _parsed(bytes(self._data[:end]))
            size = int(fields.get("content-length", 0))
            if len(self._data) < end + 4 + size:
                return
            del self._data[: end + 4 + size]
            self._origins.requests += 1
            self._transport.write(self._answer(line, fields, size))

    def _answer(self, line: str, fields: dict[str, str], size: int) -> bytes:
        at, port = self._transport.get_extra_info("sockname")[:2]
        peer = self._transport.get_extra_info("peername")[0]
        asked = line.rpartition(" ")[0]
        leaked = "X-Leaked: yes\r\n" if "proxy-authorization" in fields else ""
        return (
            f"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 2\r\nX-At: {at}:{port}\r\n"
            f"X-From: {peer}\r\nX-Asked: {asked}\r\nX-Body: {size}\r\n{leaked}\r\n"
        ).encode() + (b"" if line.startswith("HEAD ") else b"ok")


def _parsed(head: bytes) -> tuple[str, dict[str, str]]:
    """The first line of a head, and its fields, by names in lower case."""
    line, *rest = head.decode("latin-1").split("\r\n")
    pairs = (text.partition(":") for text in rest)
    return line, {name.lower(): value.strip() for name, _, value in pairs}


@dataclass
class Answer:
    """A response. Status 0: the connection has ended before it."""

    status: int = 0
    fields: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def fault(self) -> tuple[str, str]:
        """The type and the details in Proxy-Status (RFC 9209 section 2.1)."""
        _, _, rest = self.fields.get("proxy-status", "").partition("error=")
        error, _, details = rest.partition('; details="')
        return error, details.removesuffix('"')

    @property
    def last(self) -> bool:
        """Whether the connection ends behind it."""
        return not self.status or self.fields.get("connection", "").lower() == "close"


class Client:
    """One end of a connection to the proxy."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = bytearray()
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        try:
            await self._loop.sock_sendall(self.sock, data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # what it has been answered tells why

    async def more(self) -> bool:
        """Receives; false at the end."""
        try:
            data = await asyncio.wait_for(self._loop.sock_recv(self.sock, 1 << 16), PATIENCE)
        except ConnectionResetError:
            return False
        self.received += data
        return bool(data)

    async def answer(self, method: str = "GET") -> Answer:
        """The next response, to a request of this method."""
        while (end := self.received.find(b"\r\n\r\n")) < 0:
            if not await self.more():
                return Answer()
        line, fields = _parsed(bytes(self.received[:end]))
        del self.received[: end + 4]
        status = int(line.split(" ")[1])
        has_body = method != "HEAD" and not (method == "CONNECT" and status == 200)
        size = int(fields.get("content-length", 0)) if has_body else 0
        while len(self.received) < size:
            if not await self.more():
                return Answer()
        body = bytes(self.received[:size])
        del self.received[:size]
        return Answer(status, fields, body)

    async def rest(self) -> bytes:
        """All that comes until the end."""
        while await self.more():
            pass
        return bytes(self.received)

    def close(self) -> None:
        self.sock.close()


@dataclass
class LoopProxy:
    """A proxy that runs. ``address`` is where it listens, ``unix`` the path of its Unix socket, and
    ``balanced`` where a balancer brings clients, if one does."""

    instance: Instance
    relay: Relay
    policy: Policy
    address: tuple[str, int]
    unix: str
    balanced: tuple[str, int]

    async def connect(self, address: str = "127.0.0.1") -> Client:
        """A client at this loopback address; "": one of the Unix socket; behind a mark: one that a
        balancer brings, or does not name."""
        loop = asyncio.get_running_loop()
        marked = address[:1] in MARKS
        sock = socket.socket(socket.AF_INET if address else socket.AF_UNIX)
        sock.setblocking(False)
        if address and not marked:
            sock.bind((address, 0))
        where = self.balanced if marked else self.address if address else self.unix
        await loop.sock_connect(sock, where)
        client = Client(sock)
        if marked:
            await client.send(_header(address))
        return client

    @property
    def connections(self) -> int:
        """Of clients: here, in the lane, and tunnels."""
        return self.instance.server.connections


def _header(client: str) -> bytes:
    """What a balancer says of a client, in either version."""
    if client[0] != BROUGHT:
        return v2(command=LOCAL)
    return v1(client[1:]) if sum(client.encode()) % 2 else v2(client[1:])


@asynccontextmanager
async def running(
    config: Config,
    names: Zone,
    functions: Functions | None = None,
    *,
    engine: str = "native",
    unix: Path | None = None,
    balanced: bool = False,
) -> AsyncIterator[LoopProxy]:
    """A proxy that listens on 127.0.0.1, on a Unix socket if there is a path for it, and if
    ``balanced`` for a balancer on this machine. Nothing is loaded late, so what tests count
    is theirs."""
    for load in rest.LOADS:
        load()
    sockets = [socket.create_server(("127.0.0.1", 0), backlog=4096)]
    addresses = [Address("127.0.0.1")]
    if unix is not None:
        sockets.append(socket.socket(socket.AF_UNIX))
        sockets[-1].bind(str(unix))
        sockets[-1].listen(4096)
        addresses.append(Address(path=str(unix)))
    if balanced:
        sockets.append(socket.create_server(("127.0.0.1", 0), backlog=4096))
        addresses.append(Address("127.0.0.1", proxied=True))
        config = replace(config, listen=tuple(addresses), balancers=("127.0.0.1",))
    for sock in sockets:
        sock.setblocking(False)
    first, last = sockets[0].getsockname(), sockets[-1].getsockname()
    counts = Counts.private()
    relay, _ = choose(engine, RelayOptions.of(config, counts.row))
    policy = Policy(config, names, functions, row=counts.row, report=counts.report)
    instance = Instance(config, sockets, relay, names, policy, counts)  # type: ignore[arg-type]
    instance.start()
    try:
        yield LoopProxy(instance, relay, policy, first, str(unix or ""), last)
    finally:
        await instance.stop()
        if unix is not None:
            os.unlink(unix)


async def together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Does all of it at the same time; what fails ends the rest."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def until(condition: Callable[[], object], what: str) -> None:
    """Lets the loop turn until the condition holds: all that it waits for is on this loop."""
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE
    while not condition():
        assert loop.time() < end, f"no {what}"
        await asyncio.sleep(0)


def own_objects() -> Counter[str]:
    """How many objects of the project's own types there are, by type."""
    gc.collect()
    names = (f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())
    return Counter(name for name in names if name.startswith("spliceproxy."))
