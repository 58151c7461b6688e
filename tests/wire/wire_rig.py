"""Runs cases of the wire suite: the real connection code and relay on a real event loop,
over TCP, with a dialer that hands out connections whose other end is the case's."""

from __future__ import annotations

import asyncio
import math
import os
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Container, Iterable, Sequence
from functools import partial

from wire_case import PROBE, PROBED, Case, Step, wire

from spliceproxy.config import Config, PolicyConfig
from spliceproxy.forward.asking import Asking
from spliceproxy.forward.body import BodyMover
from spliceproxy.forward.services import Services
from spliceproxy.front.http1 import Connection
from spliceproxy.net.stream import Stream
from spliceproxy.observe.accesslog import AccessLog
from spliceproxy.observe.counts import Counts
from spliceproxy.observe.record import Record
from spliceproxy.observe.records import Records
from spliceproxy.policy.engine import Policy
from spliceproxy.policy.verdict import Verdict
from spliceproxy.relay.choice import choose
from spliceproxy.relay.driver import RelayDriver
from spliceproxy.relay.interface import RelayOptions
from spliceproxy.upstream.origins import Origins
from spliceproxy.upstream.own import Own
from spliceproxy.upstream.pool import IdlePool, Key, Pool

PATIENCE = 20.0
"""Seconds after which a case has stalled."""

CLIENT = "192.0.2.7"
ORIGIN = "127.0.0.9"
"""The addresses in records: the sockets are on loopback."""

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER, socket(7)

Cut = tuple[str, Iterable[int]]
"""Whose first ``sends`` is cut, and at which offsets. Each part is consumed by the proxy
before the next is sent."""


async def _no_place(stream: Stream) -> bool:
    """The limit on connections is reached, and stays so."""
    return False


class _Services(Services):
    """Its clock stands still."""

    def date(self) -> bytes:
        return b"Sun, 06 Nov 1994 08:49:37 GMT"


class _Origins(Origins):
    """Its streams are known."""

    def __init__(self, run: Run, dialer: _Dialer, idle: Pool) -> None:
        own = Own(run.case.own)
        super().__init__(run.loop, dialer, idle, own)  # type: ignore[arg-type]
        self._run = run

    async def dial(self, verdict: Verdict, record: Record) -> Stream:
        stream = await super().dial(verdict, record)
        self._run.peers[-1].stream = stream
        return stream


class _Records(Records):
    """They are kept."""

    def __init__(self, run: Run, log: AccessLog | None = None) -> None:
        super().__init__(log, self._keep)
        self._run = run

    def _keep(self, record: Record) -> None:
        self._run.records.append((record.status, record.error, record.reason))


class _Names:
    """Stands in for the resolver: a name is an address, and leads to ORIGIN too."""

    def cached(self, host: str) -> tuple[str, ...]:
        return host, ORIGIN

    async def resolve(self, host: str) -> tuple[str, ...]:
        raise NotImplementedError

    def late(self, host: str) -> None:
        return None


class _Dialer:
    """Stands in for upstream.dialer.Dialer."""

    def __init__(self, run: Run) -> None:
        self.run = run

    async def connect(
        self, addresses: Sequence[str], port: int, source: str, spent: float, attempts: None
    ) -> tuple[socket.socket, str]:
        run = self.run
        run.dials.append((addresses[0], port))
        if isinstance(run.case.dial, Exception):
            raise run.case.dial
        if run.case.dial:
            await asyncio.get_running_loop().create_future()
        inner, outer = run.rig.pair()
        count = sum(peer.name.startswith("o") for peer in run.peers) + 1
        run.peers.append(_Peer(f"o{count if count > 1 else ''}", outer))
        return inner, ORIGIN


class _Pool(IdlePool):
    """Does what ``late`` says just before it is asked for a connection."""

    late: Callable[[], object] | None = None

    def take(self, key: Key, addresses: Container[str]) -> tuple[Stream, str] | None:
        late, self.late = self.late, None
        if late is not None:
            late()
        return super().take(key, addresses)


class _Peer:
    """The case's end of one connection, and the proxy's stream at the other."""

    def __init__(self, name: str, sock: socket.socket) -> None:
        self.name = name
        self.sock = sock
        self.stream: Stream | None = None
        self.task: asyncio.Task[None] | None = None  # of a client's connection
        self.sent = 0
        self.over = False  # its end has been seen or made


class Rig:
    """One event loop with one relay, for many cases."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        relay, self.engine = choose("auto", RelayOptions())
        self.relay = relay
        self.loop = loop
        self.driver = RelayDriver(relay, loop)
        self._listener = socket.create_server(("127.0.0.1", 0))

    def close(self) -> None:
        self.driver.close()
        self._listener.close()
        self.loop.close()

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Two ends of a TCP connection: the proxy's, and the case's."""
        inner = socket.create_connection(self._listener.getsockname())
        outer, address = self._listener.accept()
        assert address == inner.getsockname()
        for sock in (inner, outer):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return inner, outer

    def descriptors(self) -> int:
        """Open descriptors of this process, but for the relay's pipes."""
        stats = self.relay.stats()
        assert stats.pipes_lent == 0, f"{stats.pipes_lent} pipes lent"
        return len(os.listdir("/proc/self/fd")) - 2 * stats.pipes_idle

    def run(self, case: Case, cut: Cut | None = None) -> None:
        """Fails where the case does not go as it says."""
        before = self.descriptors()
        self.loop.run_until_complete(Run(self, case, cut).play())
        after = self.descriptors()
        # Fewer, if what an earlier test has left is closed only now, by a thread or as garbage.
        assert after <= before, f"descriptors: {before} before, {after} after"


class Run:
    """One case being played. The methods named as verbs of ``wire_case.Step`` play it."""

    def __init__(self, rig: Rig, case: Case, cut: Cut | None) -> None:
        self.rig = rig
        self.case = case
        self.cut = cut
        self.loop = rig.loop
        self.peers: list[_Peer] = []
        self.dials: list[tuple[str, int]] = []
        self.records: list[tuple[int, str, str]] = []
        self.pool = _Pool(rig.loop)
        # Names of no network, and clients and origins of networks for documentation.
        settings = PolicyConfig(guard="off", clients=("0.0.0.0/0",))
        config = Config(listen=(), policy=settings, **case.config)
        policy = Policy(config, _Names())
        origins = _Origins(self, _Dialer(self), self.pool)
        self.services = _Services(
            loop=rig.loop,
            config=config,
            relay=rig.driver,
            mover=BodyMover(rig.driver, config.timeouts.idle, config.via.encode()),
            records=_Records(self),
            counts=Counts.private(),
            policy=policy,
            lane=None,
            origins=origins,
            asking=Asking(policy, None, None, _Names(), origins, config.timeouts.dial),
            site=None,
            draining=case.draining,
        )
        self._got = b""
        self._step = "the start"

    async def play(self) -> None:
        try:
            await asyncio.wait_for(self._play(), PATIENCE)
        except asyncio.TimeoutError:
            raise AssertionError(f"stalled at {self._step}; so far {self._got!r}") from None
        finally:
            await self._clean_up()

    async def _play(self) -> None:
        for number, step in enumerate(self.case.steps, 1):
            self._step = f"step {number}, {step.peer} {step.verb} {step.data!r}"
            self._got = b""
            peer = await self._peer(step.peer)
            verb: Callable[[_Peer, Step], Awaitable[None]] = getattr(self, step.verb)
            await verb(peer, step)
        await self._check_clients()
        await self._check_origins()
        self._check_reports()

    async def _peer(self, name: str) -> _Peer:
        """The peer of this name: a client that is new connects, an origin's connection is
        waited for."""
        while True:
            for peer in self.peers:
                if peer.name == name:
                    return peer
            if name.startswith("c"):
                return self._connect(name)
            if self.case.dial:
                return _Peer(name, socket.socket())  # there is none
            await self._turn()

    def _connect(self, name: str) -> _Peer:
        inner, outer = self.rig.pair()
        peer = _Peer(name, outer)
        peer.stream = Stream(inner, self.loop)
        admit = _no_place if self.case.refuse else None
        connection = Connection(self.services, peer.stream, CLIENT, admit)
        peer.task = self.loop.create_task(connection.run())
        self.peers.append(peer)
        return peer

    async def _turn(self) -> None:
        """One turn of the event loop: what has arrived is served."""
        await asyncio.sleep(0)

    # ---- the end of a case -------------------------------------------------------------

    async def _check_clients(self) -> None:
        for peer in list(self.peers):
            if peer.task is None:
                continue
            if not peer.over:
                self._step = f"the probe of {peer.name}"
                await self.probed(peer, Step(peer.name, "probed"))
                peer.sock.close()
            self._step = f"the end of {peer.name}'s connection"
            peer.sock.close()
            await peer.task

    async def _check_origins(self) -> None:
        origins = [peer for peer in self.peers if peer.task is None]
        self._step = "the end of tunnels"
        while self.rig.driver.tunnels:
            await self._turn()
        pooled = [peer for peer in origins if not peer.over]
        assert len(self.pool) == len(pooled), f"{len(self.pool)} in the pool"
        self.pool.close()
        for peer in pooled:
            self._step = f"the pool's end, for {peer.name}"
            await self.closed(peer, Step(peer.name, "closed"))

    def _check_reports(self) -> None:
        if self.case.log is not None:
            assert self.records == list(self.case.log), f"records: {self.records}"
        if self.case.dials is not None:
            assert self.dials == list(self.case.dials), f"dialled: {self.dials}"

    async def _clean_up(self) -> None:
        self.pool.close()
        for peer in self.peers:
            peer.sock.close()
        tasks = {peer.task for peer in self.peers if peer.task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self.rig.driver.abort_all()
        await self.rig.driver.drained()

    # ---- verbs -------------------------------------------------------------------------

    async def sends(self, peer: _Peer, step: Step) -> None:
        data: bytes = step.data
        at = 0
        if self.cut is not None and self.cut[0] == peer.name and not peer.sent:
            for offset in self.cut[1]:
                await self._send(peer, data[at:offset])
                at = offset
                await self.consumed(peer, step)
        await self._send(peer, data[at:])

    async def sends_late(self, peer: _Peer, step: Step) -> None:
        self.pool.late = partial(peer.sock.send, step.data)

    async def _send(self, peer: _Peer, data: bytes) -> None:
        peer.sent += len(data)
        try:
            await self.loop.sock_sendall(peer.sock, data)
        except (BrokenPipeError, ConnectionResetError):
            # The proxy has answered already and may have closed: a later step looks.
            if self.cut is None:
                raise

    async def consumed(self, peer: _Peer, step: Step) -> None:
        stream = peer.stream
        assert stream is not None
        while stream.received < peer.sent and stream.fd >= 0:
            await self._turn()

    async def gets(self, peer: _Peer, step: Step) -> None:
        want: bytes = step.data
        got = await self._receive(peer, len(want), want)
        assert got == want, f"{self._step}\n got {got!r}\nwant {want!r}"

    async def gets_chunked(self, peer: _Peer, step: Step) -> None:
        head, payload, trailers = step.data
        await self.gets(peer, Step(peer.name, "gets", head))
        decoded = bytearray()
        while size := int(await self._line(peer), 16):
            decoded += await self._receive(peer, size)
            assert await self._line(peer) == b"", "a chunk's end"
        await self.gets(peer, Step(peer.name, "gets", trailers + b"\r\n"))
        assert decoded == payload, f"{self._step}: {len(decoded)} other bytes"

    async def _line(self, peer: _Peer) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            byte = await self._receive(peer, 1)
            assert byte, f"{self._step}: the end after {line!r}"
            line += byte
        assert re.fullmatch(rb"[0-9a-f]*\r\n", line), line
        return line[:-2]

    async def _receive(self, peer: _Peer, size: int, want: bytes | None = None) -> bytes:
        """``size`` bytes; fewer at the end of the stream, or as soon as they differ."""
        got = bytearray()
        while len(got) < size:
            data = await self.loop.sock_recv(peer.sock, size - len(got))
            got += data
            self._got = bytes(got)
            if not data or (want is not None and not want.startswith(got)):
                break
        return bytes(got)

    async def ends(self, peer: _Peer, step: Step) -> None:
        peer.sock.shutdown(socket.SHUT_WR)

    async def resets(self, peer: _Peer, step: Step) -> None:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        peer.sock.close()
        peer.over = True

    async def _end(self, peer: _Peer) -> str:
        """How a peer's connection ends: FIN, reset, or what comes instead."""
        peer.over = True
        try:
            data = await self.loop.sock_recv(peer.sock, 1 << 16)
        except ConnectionResetError:
            return "reset"
        return repr(data) if data else "FIN"

    async def sees_fin(self, peer: _Peer, step: Step) -> None:
        end = await self._end(peer)
        assert end == "FIN", f"{self._step}: {end}"

    async def sees_reset(self, peer: _Peer, step: Step) -> None:
        end = await self._end(peer)
        assert end == "reset", f"{self._step}: {end}"

    async def closed(self, peer: _Peer, step: Step) -> None:
        end = await self._end(peer)
        assert end in ("FIN", "reset"), f"{self._step}: {end}"

    async def probed(self, peer: _Peer, step: Step) -> None:
        await self._send(peer, wire(PROBE))
        await self.gets(peer, Step(peer.name, "gets", wire(PROBED)))
        record = self.records.pop()
        assert record == (200, "", ""), f"the probe's record: {record}"

    async def dialled(self, peer: _Peer, step: Step) -> None:
        peer.sock.close()
        while not self.dials:
            await self._turn()

    async def waits(self, peer: _Peer, step: Step) -> None:
        """Lets the limit of a read's wait pass without the time."""
        assert peer.stream is not None
        limit = peer.stream.read_limit
        while limit.waiting is None or limit._at == math.inf:
            await self._turn()
        limit.cancel()
        limit._at = 0.0
        limit._fire()
