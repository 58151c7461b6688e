"""Clients that a balancer brings: of each connection the header of the PROXY protocol is read, and
then it is served like any other, as the client that the header names.

A balancer sends the header at once, so it is mostly there when the connection is accepted, with the
first request behind it. The relay accepts, and reads what is plain by itself
(``native/lane/header.pxd``): here is the rest, and what an engine without a lane accepts. Whoever
may not send one, or sends none that is right, is closed without an answer, and counted by its
result (``HEADERS`` of relay.columns).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import deque
from collections.abc import Callable

from spliceproxy.forward.services import Services
from spliceproxy.front import proxy_header
from spliceproxy.front.proxy_header import Fault, Header
from spliceproxy.policy.clients import ClientNetworks
from spliceproxy.policy.networks import BROUGHT, UNNAMED
from spliceproxy.relay.columns import HEADER_COLUMNS
from spliceproxy.relay.handoff import Handoff
from spliceproxy.relay.lane import BALANCERS

READ = 4096
"""Bytes that one receive asks for: a header, and an ordinary request behind it."""

OUTSIDE = "outside"
TIMEOUT = "timeout"
CLOSED = "closed"

UNIX = "unix"
"""Stands for a balancer that has connected by a Unix socket."""

Begin = Callable[[socket.socket, str, str, bytes], None]
"""Serves a client: its connection, its address ("" for a Unix socket), the balancer's (as of
``relay.lane.Lane.hand_over``), and what it has said so far."""


class _Waiting:
    """A connection whose header is not all there. ``data`` is what there is of it."""

    __slots__ = ("data", "limit", "peer", "sock")

    def __init__(self, sock: socket.socket, peer: str, data: bytes) -> None:
        self.sock = sock
        self.peer = peer
        self.data = data
        self.limit: asyncio.TimerHandle | None = None


class Brought:
    """Of one worker. ``begin`` goes on with each client; ``count`` is told how many more
    connections are here."""

    __slots__ = (
        "_admits",
        "_begin",
        "_count",
        "_none",
        "_seconds",
        "_services",
        "_told",
        "_waiting",
    )

    def __init__(self, services: Services, begin: Begin, count: Callable[[int], None]) -> None:
        self._services = services
        self._begin = begin
        self._count = count
        self._admits: Callable[[str], bool]
        self._seconds = 0.0
        self._waiting: set[_Waiting] = set()
        self._none: asyncio.Future[None] | None = None
        self._told: deque[str] = deque(maxlen=BALANCERS)  # whom the relay knows
        self.change()

    def change(self) -> None:
        """The configuration is another."""
        config = self._services.config
        self._admits = ClientNetworks(config.balancers).admit
        self._seconds = config.timeouts.proxy_header
        self._told.clear()
        if self._services.lane is not None:
            self._services.lane.know_nobody()

    def accepted(self, sock: socket.socket, peer: str) -> None:
        """A connection from this address, "" for a Unix socket: whoever may write to the file of
        that may send headers."""
        if self._may_send(sock, peer):
            self._receive(sock, peer, self._seconds, None)

    def given_back(self, handoff: Handoff) -> None:
        """One that the relay has accepted, with what it has said so far."""
        peer = handoff.address
        family = socket.AF_INET6 if ":" in peer else socket.AF_INET if peer else socket.AF_UNIX
        try:
            sock = socket.socket(family, socket.SOCK_STREAM, 0, fileno=handoff.client)
        except BaseException:
            handoff.close()
            raise
        handoff.take_client()
        if not self._may_send(sock, peer):
            return
        self._tell(peer)
        seconds = self._seconds + handoff.started - time.monotonic()
        if handoff.buffer:
            self._look(sock, peer, seconds, handoff.buffer, None)
        elif seconds > 0:
            self._receive(sock, peer, seconds, None)
        else:
            self._too_late(sock, peer)

    def _may_send(self, sock: socket.socket, peer: str) -> bool:
        """Whether this address is a balancer's. If not the connection is closed."""
        if not peer or self._admits(peer):
            return True
        self._refused(OUTSIDE, peer, "the address is not in --proxy-protocol-from")
        sock.close()
        return False

    def _tell(self, peer: str) -> None:
        """The relay may read headers from this balancer by itself."""
        lane = self._services.lane
        if lane is not None and peer not in self._told:
            lane.know(peer)
            self._told.append(peer)

    def drain(self, seconds: float) -> None:
        """No more come, and those that are here have so many seconds left at most."""
        loop = self._services.loop
        for waiting in self._waiting:
            if waiting.limit is not None:
                waiting.limit.cancel()
            waiting.limit = loop.call_later(min(seconds, self._seconds), self._late, waiting)

    async def none_left(self) -> None:
        """Waits until no connection is here."""
        if self._waiting:
            self._none = self._services.loop.create_future()
            await self._none

    def close(self) -> None:
        """Closes all that are here."""
        for waiting in list(self._waiting):
            self._done(waiting)
            waiting.sock.close()

    # ---- one connection ----------------------------------------------------------------

    def _receive(
        self, sock: socket.socket, peer: str, seconds: float, waiting: _Waiting | None
    ) -> None:
        """Receives once from a connection, which may have waited for that."""
        try:
            more = sock.recv(READ)
        except BlockingIOError:
            if waiting is None:
                self._wait(sock, peer, seconds, b"")
            return
        except OSError:
            more = b""  # whatever has happened, nothing more will come
        data = more if waiting is None else waiting.data + more
        if more:
            self._look(sock, peer, seconds, data, waiting)
            return
        if waiting is not None:
            self._done(waiting)
        # Some balancers look in that way whether somebody listens, and that is no fault.
        self._refused(CLOSED, peer, "it ends in the middle of one" if data else "")
        sock.close()

    def _look(
        self, sock: socket.socket, peer: str, seconds: float, data: bytes, waiting: _Waiting | None
    ) -> None:
        """It has said so much, and is served, waits for more, or is closed."""
        try:
            header = proxy_header.read(data)
        except Fault as fault:
            if waiting is not None:
                self._done(waiting)
            self._refused(fault.reason, peer, str(fault))
            sock.close()
            return
        if header is not None:
            if waiting is not None:
                self._done(waiting)
            self._serve(sock, peer, header, data)
        elif waiting is not None:
            waiting.data = data
        else:
            self._wait(sock, peer, seconds, data)

    def _serve(self, sock: socket.socket, peer: str, header: Header, data: bytes) -> None:
        self._services.counts.row[HEADER_COLUMNS[header.kind]] += 1
        # HAProxy says LOCAL also for those whom it brings from a Unix socket, so that LOCAL makes
        # nobody a client of this machine.
        mark = BROUGHT if header.client else UNNAMED
        self._begin(sock, header.client or peer, mark + (peer or UNIX), data[header.size :])

    def _refused(self, result: str, peer: str, why: str) -> None:
        self._services.counts.row[HEADER_COLUMNS[result]] += 1
        if why:
            self._services.faults.say(
                ("PROXY", result),
                logging.WARNING,
                "a connection from %s was closed, which has no right header of the PROXY "
                "protocol: %s",
                peer or UNIX,
                why,
            )

    # ---- those whose header is to come -------------------------------------------------

    def _wait(self, sock: socket.socket, peer: str, seconds: float, data: bytes) -> None:
        waiting = _Waiting(sock, peer, data)
        loop = self._services.loop
        loop.add_reader(sock.fileno(), self._receive, sock, peer, seconds, waiting)
        waiting.limit = loop.call_later(max(seconds, 0.0), self._late, waiting)
        self._waiting.add(waiting)
        self._count(1)

    def _late(self, waiting: _Waiting) -> None:
        self._done(waiting)
        self._too_late(waiting.sock, waiting.peer)

    def _too_late(self, sock: socket.socket, peer: str) -> None:
        self._refused(TIMEOUT, peer, "its time is over (--timeout-proxy-header)")
        sock.close()

    def _done(self, waiting: _Waiting) -> None:
        """It waits no longer."""
        self._services.loop.remove_reader(waiting.sock.fileno())
        if waiting.limit is not None:
            waiting.limit.cancel()
        self._waiting.discard(waiting)
        self._count(-1)
        if not self._waiting and self._none is not None and not self._none.done():
            self._none.set_result(None)
