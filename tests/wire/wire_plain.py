"""The lane: the same cases, but the compiled relay has each client first, and every
request of a case has been allowed a moment ago. What it hands over goes on as it would in
the server."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import stat
import struct
import termios
import time
from collections.abc import Callable, Sequence
from typing import Any

from oracle import read
from wire_case import OUR_DATE, Case, Step
from wire_rig import (
    CLIENT,
    ORIGIN,
    Cut,
    Rig,
    Run,
    _Dialer,
    _Names,
    _Origins,
    _Peer,
    _Records,
    _Services,
)

from spliceproxy.config import MIXED, Config
from spliceproxy.forward.answering import Answering, kinds_asked
from spliceproxy.forward.asking import Asking
from spliceproxy.forward.body import BodyMover
from spliceproxy.forward.lane import Lane
from spliceproxy.front.http1 import Connection
from spliceproxy.http1.dates import fixdate
from spliceproxy.http1.errors import HeadError
from spliceproxy.http1.head import RequestHead, parse_request
from spliceproxy.net.stream import Stream
from spliceproxy.observe.counts import Counts
from spliceproxy.observe.formats import format_of
from spliceproxy.observe.record import Record
from spliceproxy.policy.engine import Policy
from spliceproxy.policy.standing import Standing
from spliceproxy.policy.verdict import Verdict
from spliceproxy.relay.driver import RelayDriver
from spliceproxy.relay.handoff import Handoff
from spliceproxy.relay.interface import RelayOptions
from spliceproxy.relay.lane import NATIVE
from spliceproxy.socks import reading
from spliceproxy.upstream.own import Own
from spliceproxy.upstream.parent import LaneWay

TURNS = 200
"""Turns of the event loop in which what is on its way on this machine has come."""

Key = tuple[str, int]


class NotHere(Exception):
    """A case that only the other lane can play."""


def requests(case: Case) -> list[RequestHead]:
    """The heads that clients send in a case, as far as they are any: behind bodies, and in what
    http1/ does not read to its end."""
    heads = []
    for step in case.steps:
        if step.verb != "sends" or not step.peer.startswith("c"):
            continue
        heads += socks_requests(step.data)
        heads += [one for one in read(step.data, False).heads if isinstance(one, RequestHead)]
        for part in step.data.split(b"\r\n\r\n"):
            try:
                heads.append(parse_request(part.lstrip(b"\r\n") + b"\r\n\r\n"))
            except HeadError:
                continue
    return heads


def socks_requests(data: bytes) -> list[RequestHead]:
    """The request of SOCKS in what a client sends, as that of HTTP that it stands for."""
    try:
        if data[0] == reading.V4:
            found = reading.request_4(data)
        else:
            greeting = reading.greeting(data)
            behind = data[greeting.size :] if greeting is not None else b""
            found = reading.request_5(behind if behind[:1] == b"\5" else data)
    except (HeadError, IndexError):
        return []
    if found is None:
        return []
    target = found.target
    return [parse_request(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())]


class _Lane(Lane):
    """Dials the rig's listener whatever the address is; knows whose streams it makes."""

    __slots__ = ("run",)

    VALID = 3600.0  # a machine that is held up forgets no route
    run: PlainRun

    def allow(
        self,
        client: Standing,
        head: RequestHead,
        verdict: Verdict,
        record: Record,
        by: LaneWay | None = None,
    ) -> bool:
        if self.run.case.dial:
            return False
        verdict = verdict._replace(addresses=(ORIGIN,))  # the case's names are none
        return super().allow(client, head, verdict, record, by)

    def _where(self, verdict: Verdict) -> tuple[tuple[str, ...], int]:
        return verdict.addresses, self.run.dialled_by_relay.getsockname()[1]

    def stream(self, fd: int, peer: str, received: bytes) -> Stream:
        stream = super().stream(fd, peer, received)
        for one in self.run.peers:
            if self.run.fds.get(one.name, (-1, -1))[0] == fd:
                one.stream = stream
        return stream


class _PlainDialer(_Dialer):
    """Knows what the relay has dialled before."""

    async def connect(
        self, addresses: Sequence[str], port: int, source: str, spent: float, attempts: None
    ) -> tuple[socket.socket, str]:
        run = self.run
        assert isinstance(run, PlainRun)
        run.accept_dialled()
        return await super().connect(addresses, port, source, spent, attempts)


class _Log:
    """Stands in for AccessLog: counts the lines."""

    def __init__(self) -> None:
        self.form = format_of(NATIVE)
        self.count = 0

    def follow(self, take: Callable[[], tuple[bytes, int]]) -> None:
        self._take = take

    def expect(self, many: bool) -> None:
        lines, count = self._take()
        assert lines.count(b"\n") == count
        self.count += count

    def write(self, record: Record) -> None:
        self.count += 1


class PlainRig(Rig):
    """One event loop; a relay for each case. ``asks``: no request has been allowed, and the lane
    asks about each."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, asks: bool = False) -> None:
        super().__init__(loop)
        self.asks = asks

    def run(self, case: Case, cut: Cut | None = None) -> PlainRun:  # type: ignore[override]
        before = len(os.listdir("/proc/self/fd"))
        run = (AskingRun if self.asks else PlainRun)(self, case, cut)
        try:
            self.loop.run_until_complete(run.play())
        finally:
            run.close()
        after = len(os.listdir("/proc/self/fd"))
        assert after <= before, f"descriptors: {before} before, {after} after"
        return run


class PlainRun(Run):
    """One case in the lane."""

    def __init__(self, rig: Rig, case: Case, cut: Cut | None) -> None:
        from spliceproxy.relay._native import NativeRelay

        super().__init__(rig, case, cut)
        self.fds: dict[str, tuple[int, int]] = {}  # the proxy's end of a peer, and its inode
        self.tasks: set[asyncio.Task[None]] = set()
        self.relay = NativeRelay(RelayOptions())
        self.driver = RelayDriver(self.relay, self.loop)
        self.dialled_by_relay = socket.create_server((ORIGIN, 0))
        self.dialled_by_relay.setblocking(False)
        self.dials_by_relay = 0
        self.alone = (0, 0)  # exchanges, and given back, before the probes
        self.services = self._new_services(self.services.config, self.services.policy)
        if case.draining:
            self.lane.give_back()
        self._prepare()

    def _prepare(self) -> None:
        for head in requests(self.case):
            self._allow(head)

    asks = False

    def _new_services(self, config: Config, policy: Policy) -> _Services:
        self.log = _Log()
        records = _Records(self, self.log)  # type: ignore[arg-type]
        own = Own(self.case.own)
        asks = kinds_asked(config) if self.asks else ""
        lane = _Lane.of(self.relay, self.driver, config, policy, records, own, asks)
        assert lane is not None
        lane.run = self
        lane.report_to(self)
        self.lane = lane
        self.pool = lane  # type: ignore[assignment]
        origins = _Origins(self, _PlainDialer(self), lane)
        return _Services(
            loop=self.loop,
            config=config,
            relay=self.driver,
            mover=BodyMover(self.driver, config.timeouts.idle, config.via.encode()),
            records=records,
            counts=Counts.private(),
            policy=policy,
            lane=lane,
            origins=origins,
            asking=Asking(policy, None, lane, _Names(), origins, config.timeouts.dial),
            site=None,
            draining=self.case.draining,
        )

    def close(self) -> None:
        self.driver.close()
        self.dialled_by_relay.close()

    def _allow(self, head: RequestHead) -> None:
        backend = self.services.config.default_backend
        key: Key | None = (head.host, head.port)
        if head.form in ("origin", "asterisk"):
            key = backend
        if key is not None and (head.form != "absolute" or head.scheme == "http"):
            client = self.services.policy.standing(CLIENT, None)
            verdict = Verdict(*key, (ORIGIN,), "", 3600.0)
            self.lane.allow(client, head, verdict, Record(CLIENT, 0.0))

    # ---- the owner of the exchanges ------------------------------------------------------

    def given_back(self, handoff: Handoff) -> None:
        connection = Connection.of_handoff(self.services, handoff)
        task = self.loop.create_task(connection.run())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def not_accepted(self, error: int) -> None:
        raise AssertionError(error)

    # ---- peers ---------------------------------------------------------------------------

    def _connect(self, name: str) -> _Peer:
        if self.case.refuse:
            raise NotHere("the server refuses, not the relay")
        inner, outer = self.rig.pair()
        peer = _Peer(name, outer)
        self.peers.append(peer)
        self.fds[name] = (inner.fileno(), os.fstat(inner.fileno()).st_ino)
        self.lane._native.hand_over(inner.detach(), CLIENT, b"", 0, "", MIXED)
        self.driver.wake()
        return peer

    async def _turn(self) -> None:
        await super()._turn()
        self.accept_dialled()

    def accept_dialled(self) -> None:
        """The connections that the relay has made since."""
        with contextlib.suppress(BlockingIOError):
            while True:
                outer, address = self.dialled_by_relay.accept()
                outer.setblocking(False)
                outer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                count = sum(peer.name.startswith("o") for peer in self.peers) + 1
                name = f"o{count if count > 1 else ''}"
                self.peers.append(_Peer(name, outer))
                self.fds[name] = _find(address)
                self.dials_by_relay += 1

    def _is_there(self, peer: _Peer) -> int:
        """The descriptor of the proxy's end, -1 once it is closed."""
        fd, inode = self.fds.get(peer.name, (-1, -1))
        try:
            return fd if fd >= 0 and os.fstat(fd).st_ino == inode else -1
        except OSError:
            return -1

    # ---- verbs that are different here ---------------------------------------------------

    async def probed(self, peer: _Peer, step: Step) -> None:
        await super().probed(peer, step)
        self.log.count -= 1  # as its record

    async def _receive(self, peer: _Peer, size: int, want: bytes | None = None) -> bytes:
        """The relay has a clock of its own: its date becomes the one of the case."""
        if want is None or OUR_DATE.encode() not in want:
            return await super()._receive(peer, size, want)
        got = await super()._receive(peer, size)
        now = time.time()
        for second in range(3):
            got = got.replace(fixdate(now - second).encode(), OUR_DATE[6:].encode())
        return got

    async def sends_late(self, peer: _Peer, step: Step) -> None:
        raise NotHere("no hook in the relay")

    async def waits(self, peer: _Peer, step: Step) -> None:
        for _ in range(TURNS):
            stream = peer.stream
            if stream is not None and stream.fd >= 0 and stream.read_limit.waiting is not None:
                break
            await self._turn()
        else:
            raise NotHere("the relay's limits need their time")
        await super().waits(peer, step)

    async def consumed(self, peer: _Peer, step: Step) -> None:
        if peer.name not in self.fds:  # dialled by the dialer
            await super().consumed(peer, step)
            return
        while _queued(peer.sock.fileno(), termios.TIOCOUTQ):
            await self._turn()
        while (fd := self._is_there(peer)) >= 0 and _queued(fd, termios.FIONREAD):
            await self._turn()
        await self._turn()

    # ---- the end of a case ---------------------------------------------------------------

    async def _check_clients(self) -> None:
        stats = self.relay.stats()
        self.alone = (stats.exchanges, stats.given_back)
        for peer in list(self.peers):
            if not peer.name.startswith("c"):
                continue
            if not peer.over:
                self._step = f"the probe of {peer.name}"
                await self.probed(peer, Step(peer.name, "probed"))
            self._step = f"the end of {peer.name}'s connection"
            peer.sock.close()
            while self._is_there(peer) >= 0:
                await self._turn()
        self._step = "the end of tasks"
        while self.tasks or self.relay.clients:
            await self._turn()

    async def _check_origins(self) -> None:
        origins = [peer for peer in self.peers if peer.name.startswith("o")]
        self._step = "the end of tunnels"
        while self.driver.tunnels:
            await self._turn()
        pooled = [peer for peer in origins if not peer.over]
        expected = 0 if self.case.draining else len(pooled)  # the relay keeps none any more
        for _ in range(TURNS):
            if len(self.pool) == expected:
                break
            await self._turn()
        assert len(self.pool) == expected, f"{len(self.pool)} in the pool, not {expected}"
        self.pool.close()
        for peer in pooled:
            self._step = f"the pool's end, for {peer.name}"
            await self.closed(peer, Step(peer.name, "closed"))

    def _check_reports(self) -> None:
        if self.case.log is not None:
            assert self.records == list(self.case.log), f"records: {self.records}"
        assert self.log.count == len(self.records), "each record has its line"
        if self.case.dials is not None:
            made = len(self.dials) + self.dials_by_relay
            assert made == len(self.case.dials), f"dialled {made} times"
            assert [d for d in self.dials if d not in self.case.dials] == []

    async def _clean_up(self) -> None:
        self.pool.close()
        self.accept_dialled()
        for peer in self.peers:
            peer.sock.close()
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self.lane.close_clients()
        self.driver.abort_all()
        self.driver.wake()
        await self.driver.drained()


class AskingRun(PlainRun):
    """One case in a lane that asks about each request."""

    asks = True

    def _prepare(self) -> None:
        native = self.lane._native

        def answer(
            one: Any,
            group: str | None,
            key: object,
            host: bytes,
            addresses: tuple[str, ...],
            port: int,
            *rest: Any,
        ) -> bool:
            """The case's names are none, and its origin is here."""
            if self.case.dial:
                return native.hand_back(one)
            where = (ORIGIN,), self.dialled_by_relay.getsockname()[1]
            return native.answer(one, group, key, host, *where, *rest)

        self.lane.answer = answer
        Answering(self.services, self.lane, _Names(), Own(self.case.own))


def _queued(fd: int, request: int) -> int:
    """Bytes in a queue of a socket (tcp(7))."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(fd, request, b"\0\0\0\0"))[0])
    except OSError:
        return 0


def _find(address: Any) -> tuple[int, int]:
    """This process's socket with this address, and its inode."""
    for entry in os.listdir("/proc/self/fd"):
        fd = int(entry)
        try:
            status = os.fstat(fd)
        except OSError:
            continue  # of the listing itself
        if stat.S_ISSOCK(status.st_mode):
            with socket.socket(fileno=os.dup(fd)) as copy:
                if copy.family == socket.AF_INET and copy.getsockname() == address:
                    return fd, status.st_ino
    return -1, -1
