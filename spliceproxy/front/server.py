"""A worker's listening sockets: accepts in batches, keeps the set of live connections."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from spliceproxy.config import MIXED, Address
from spliceproxy.forward.services import Giver, Services
from spliceproxy.front.cycle import Cycle
from spliceproxy.front.http1 import FRESH_SECONDS, Connection
from spliceproxy.messages import log
from spliceproxy.net.errnos import TRANSIENT
from spliceproxy.net.stream import Stream
from spliceproxy.relay.columns import CLIENTS, CONNECTIONS_BEGUN
from spliceproxy.relay.handoff import HEADER, REFUSED, Handoff
from spliceproxy.relay.lane import REFUSALS

if TYPE_CHECKING:
    from spliceproxy.forward.moving_requests import Running
    from spliceproxy.front.brought import Brought

BATCH = 64
"""Connections accepted in one wake-up, before others have their turn."""

PAUSE = 0.1
"""Seconds without accepting when there are no descriptors left."""

LOOKS = 10
LOOK_SECONDS = 0.01
"""How often, and how far apart, a place is looked for before a client is refused."""


class Server:
    """Accepts for one worker. ``limit``: client connections at once, 0 for no limit."""

    def __init__(
        self, services: Services, sockets: Sequence[socket.socket], limit: int = 0
    ) -> None:
        self._services = services
        self._loop = services.loop
        self._sockets = list(sockets)
        self._limit = limit
        self._tasks: dict[asyncio.Task[None], Connection] = {}
        self._held = 0  # of the connections, those that are here
        self._began = self._leaving = False
        self._beyond: set[Stream] = set()  # of these, those beyond the limit
        self._resume: asyncio.TimerHandle | None = None
        self._empty: asyncio.Future[None] | None = None
        self._ways: dict[socket.socket, Address] = {}  # but of bare addresses
        self._numbers: Mapping[Address, int] = {}  # of those that routes name
        self._kept: frozenset[socket.socket] = frozenset()  # that no other worker accepts from
        self._brought: Brought | None = None
        self._look_at_addresses()
        if services.lane is not None:
            services.lane.report_to(self)

    @property
    def connections(self) -> int:
        """Client connections that are open, tunnels included. Each is counted once: here until
        its socket is closed or given away, or with the relay."""
        lane = self._services.lane
        more = lane.clients if lane is not None else 0
        return self._held + self._services.relay.tunnels + more

    def requests(self) -> Iterator[Connection]:
        """The connections here that serve a request now. Others may come and go meanwhile."""
        return (one for one in list(self._tasks.values()) if one.request is not None)

    def cycles(self) -> Iterator[Cycle]:
        """The requests that are served here now."""
        return (one.request for one in self.requests() if one.request is not None)

    def running(self) -> Iterator[tuple[int, Running]]:
        """The requests that are served here and that another process could go on with now, each
        with its number."""
        for connection in self.requests():
            running = connection.running()
            if running is not None:
                yield running.number, running

    def start(self) -> None:
        """Begins to accept."""
        self._began = True
        lane = self._services.lane
        if lane is not None:
            lane.limit(self._limit, self._held)
        for sock in self._sockets:
            if lane is not None and self._says_where(sock):
                proxied, spoken = self._is_proxied(sock), self._spoken_at(sock)
                place = self._services.place(sock)
                lane.listen(sock, proxied=proxied, spoken=spoken, place=place)
            else:
                self._loop.add_reader(sock.fileno(), self._accept, sock)

    def _look_at_addresses(self) -> None:
        """Which of the sockets are for balancers, and what clients may speak at each. The sockets
        are in the order of the addresses, and an address may have several, one behind the other."""
        listen = self._services.config.places
        if self._brought is not None:
            self._brought.change()
        self._ways, self._services.spoken = {}, None
        self._numbers = self._services.policy.places
        if not self._numbers and not any(address.way or address.target for address in listen):
            return
        names = dict.fromkeys(sock.getsockname() for sock in self._sockets)
        address_of = dict(zip(names, listen, strict=False))
        bare = Address()
        self._ways = {sock: address_of.get(sock.getsockname(), bare) for sock in self._sockets}
        if self._numbers or any(address.spoken != MIXED for address in listen):
            from spliceproxy.front.spoken import Spoken

            self._services.spoken = Spoken(self._ways.items())
        if self._brought is None and any(address.proxied for address in listen):
            from spliceproxy.front.brought import Brought

            self._brought = Brought(self._services, self._begin_brought, self._count)

    def _is_proxied(self, sock: socket.socket) -> bool:
        """Whether a balancer brings the clients of a listening socket."""
        return sock in self._ways and self._ways[sock].proxied

    def _spoken_at(self, sock: socket.socket) -> str:
        """What clients may speak who come in by a listening socket."""
        return self._ways[sock].spoken if sock in self._ways else MIXED

    def _says_where(self, sock: socket.socket) -> bool:
        """Whether the clients of a socket, or the one of a connection, say what they want: the lane
        is for no others."""
        places = self._services.spoken
        return places is None or places.asks(sock)

    def change(self, sockets: Sequence[socket.socket], limit: int) -> None:
        """Accepts from these sockets from here on, and ``limit`` is another. A socket that is not
        among them any more is closed when those have been taken who wait there."""
        gone = [sock for sock in self._sockets if sock not in sockets]
        for sock in gone:
            while self._accept(sock):
                pass
        self._limit = limit
        lane = self._services.lane
        if lane is not None:
            lane.limit(limit, self._held)
        before = self._ways, self._numbers
        if list(sockets) == self._sockets:
            self._look_at_addresses()
            if (self._ways, self._numbers) == before:
                return
        self._stop_accepting()
        for sock in gone:
            sock.close()
        self._sockets = list(sockets)
        self._look_at_addresses()
        if self._resume is None and self._began:
            self._go_on()

    # ---- accepting ---------------------------------------------------------------------

    def _accept(self, sock: socket.socket) -> bool:
        """One batch; returns whether there may be more."""
        for _ in range(BATCH):
            if self._limit and self.connections >= self._limit + REFUSALS:
                self._pause("the limit on connections is reached")
                return False
            try:
                client, address = sock.accept()
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno in TRANSIENT:
                    continue
                self.not_accepted(error.errno or 0)
                return False
            client.setblocking(False)
            self._services.counts.row[CONNECTIONS_BEGUN] += 1
            if self._brought is not None and self._is_proxied(sock):
                self._brought.accepted(client, _client_name(address))
            else:
                self._begin(client, _client_name(address), "", b"")
        return True

    def _begin_brought(self, client: socket.socket, address: str, via: str, data: bytes) -> None:
        """Serves a client whose header was read: in the lane if it can be there."""
        lane = self._services.lane
        full = bool(self._limit) and self.connections >= self._limit
        leaving = self._services.draining or self._services.giver is not None
        fit = not full and not leaving and self._says_where(client)
        places = self._services.spoken
        spoken = MIXED if places is None else places.by(client)
        place = self._services.place(client)
        if lane is None or not fit or not lane.begin(client, address, data, via, spoken, place):
            self._begin(client, address, via, data)

    def _begin(self, client: socket.socket, address: str, via: str, data: bytes) -> None:
        refuse = bool(self._limit) and self.connections >= self._limit
        stream = Stream(client, self._loop)
        stream.buffer += data
        stream.received = len(data)
        admit = self._admit if refuse else None
        connection = Connection(self._services, stream, address, admit, via)
        self._start(connection, refuse)
        if self._services.draining:
            self._loop.call_soon(connection.drain)  # when it has begun to read

    def given_back(self, handoff: Handoff) -> None:
        """Goes on with a client that the relay gives back."""
        if handoff.cause == HEADER:
            assert self._brought is not None
            self._brought.given_back(handoff)
            return
        if self._services.giver is not None and handoff.between:
            self._services.giver.client(handoff)
            return
        self.keep(handoff)

    def keep(self, handoff: Handoff) -> None:
        """Goes on with a client here."""
        beyond = handoff.cause == REFUSED
        admit = self._admit if beyond else None
        try:
            self._start(Connection.of_handoff(self._services, handoff, admit), beyond)
        except MemoryError:
            handoff.close()
            self.lost(1)

    def not_accepted(self, error: int) -> None:
        """accept(2) has failed with this errno; EAGAIN: the limit is reached."""
        if error == errno.EAGAIN:
            self._pause("the limit on connections is reached")
            return
        self._services.origins.close_idle()
        self._pause(f"accept: {os.strerror(error)}")

    def lost(self, count: int) -> None:
        """So many clients of the relay's were closed, for want of memory."""
        self._services.faults.say(
            errno.ENOMEM, logging.ERROR, "no memory: %d clients were closed unanswered", count
        )

    def _start(self, connection: Connection, beyond: bool) -> None:
        """Serves a connection. Where this raises it is closed."""
        stream = connection.stream
        task: asyncio.Task[None] | None = None
        try:
            release = partial(self._release, stream)
            task = self._loop.create_task(connection.run())
            self._tasks[task] = connection
            task.add_done_callback(self._ended)
            if beyond:
                self._beyond.add(stream)
        except BaseException:
            if task is not None:
                task.cancel()
                self._tasks.pop(task, None)
            connection.discard()
            raise
        stream.released = release
        self._count(1)

    def _release(self, stream: Stream) -> None:
        """The socket of a client is about to be closed, or has another owner. The task goes on
        for a moment, and a client that comes meanwhile must not be refused for it."""
        self._beyond.discard(stream)
        self._count(-1)

    def _count(self, more: int) -> None:
        self._held += more
        self._services.counts.row[CLIENTS + 1] = self._held
        if self._limit and self._services.lane is not None:
            self._services.lane.limit(self._limit, self._held)

    async def _admit(self, stream: Stream) -> bool:
        """Whether there is a place after all for a client that came beyond the limit. Another
        that has closed its connection just before may not have been noticed."""
        for look in range(LOOKS):
            if look:
                await asyncio.sleep(LOOK_SECONDS)
            if self.connections - len(self._beyond) < self._limit:
                self._beyond.discard(stream)
                return True
        return False

    def _ended(self, task: asyncio.Task[None]) -> None:
        connection = self._tasks.pop(task, None)
        if connection is not None:
            connection.discard()  # a task that is cancelled before it begins has closed nothing
        if not self._tasks and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)

    def _pause(self, why: str) -> None:
        """Accepts nothing for a moment: what waits stays in the kernel's queue, and a
        listening socket that cannot be served does not spin."""
        self._services.faults.say(
            "accept", logging.WARNING, "no new clients are accepted for a while: %s", why
        )
        if self._resume is None:
            self._stop_accepting()
            self._resume = self._loop.call_later(PAUSE, self._go_on)

    def _go_on(self) -> None:
        self._resume = None
        try:
            self.start()
        except (OSError, MemoryError) as error:
            self._pause(f"listen: {error!r}")  # and another try

    def _cease(self) -> None:
        """Accepts no more, until :meth:`start`."""
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        self._stop_accepting()

    def _stop_accepting(self) -> None:
        if self._services.lane is not None:
            self._services.lane.unlisten()
            return
        for sock in self._sockets:
            self._loop.remove_reader(sock.fileno())

    # ---- another worker takes this one's place -----------------------------------------

    def move_to(self, giver: Giver) -> None:
        """Accepts no more, and gives ``giver`` every client as soon as it may ask again. What
        waits to be accepted is for the other worker, which has the same sockets."""
        self._services.giver = giver
        self._cease()
        if self._services.lane is not None:
            self._services.lane.give_back(moving=True)
            self._services.relay.wake()

    def keep_queues(self, inodes: Collection[int]) -> None:
        """The other worker has not these of the sockets: who waits there when this one drains is
        accepted here."""
        self._kept = frozenset(s for s in self._sockets if os.fstat(s.fileno()).st_ino in inodes)

    def offer(self) -> None:
        """Gives those that may ask again now."""
        for connection in list(self._tasks.values()):
            connection.offer()

    def stay(self) -> None:
        """Gives nothing more. Clients are accepted again after :meth:`resume` only."""
        self._services.giver = None
        if self._leaving:
            self._end_idle()

    def resume(self) -> None:
        """Accepts as before :meth:`move_to`."""
        if not self._leaving:
            self.start()

    def take(self, handoff: Handoff) -> None:
        """Goes on with a client of another worker's, between two requests."""
        lane = self._services.lane
        if lane is None:
            self.keep(handoff)
            return
        stream = Stream.of(
            handoff.take_client(), handoff.address, handoff.buffer, self._services.loop
        )
        places = self._services.spoken
        spoken = MIXED if places is None else places.by(stream.sock)
        if not self._says_where(stream.sock) or not lane.hand_over(
            stream,
            handoff.address,
            handoff.requests,
            handoff.via,
            spoken,
            place=self._services.place(stream.sock),
        ):
            handoff.client = stream.detach()
            self.keep(handoff)

    # ---- the end -----------------------------------------------------------------------

    async def drain(self, seconds: float) -> None:
        """Takes what the kernel has accepted already, unless that is for another worker, then no
        more; lets requests and tunnels end by themselves for ``seconds``, or be given to that
        other worker, then ends them."""
        self._leaving = True
        moving = self._services.giver is not None
        self._services.draining = not moving
        for sock in self._sockets:
            its = not moving or sock in self._kept
            while its and self._began and self._accept(sock):
                pass
        self._cease()
        for sock in self._sockets:
            sock.close()  # the supervisor's copies too are closed: clients are refused
        self._sockets.clear()
        self._ways = {}
        self._kept = frozenset()
        if self._brought is not None:
            self._brought.drain(FRESH_SECONDS)
        if not moving:
            if self._services.lane is not None:
                self._services.lane.give_back()
                await self._services.relay.step()
            # New tasks have not begun to run: let them get to their first read.
            await asyncio.sleep(0)
            self._end_idle()
        try:
            await asyncio.wait_for(self._quiet(), seconds)
        except asyncio.TimeoutError:
            if self.connections:
                tunnels = self._services.relay.tunnels
                log.warning(
                    "the drain time is over, cutting off: connections %d, tunnels %d",
                    self.connections - tunnels,
                    tunnels,
                )
            await self._end_all()

    def _end_idle(self) -> None:
        """Ends those that are between two requests; no other may ask again."""
        if not self._services.draining:
            self._services.draining = True
            if self._services.lane is not None:
                self._services.lane.give_back()
                self._services.relay.wake()
        for connection in list(self._tasks.values()):
            connection.drain()

    async def _quiet(self) -> None:
        # Either kind may become the other, and a client may wait for another worker to take it.
        while self.connections or self._tasks or self._gives:
            if self._brought is not None:
                await self._brought.none_left()
            if self._tasks:
                self._empty = self._loop.create_future()
                await self._empty
            await self._services.relay.drained()
            if self._services.giver is not None:
                await self._services.giver.emptied()

    @property
    def _gives(self) -> bool:
        """Whether a client is on its way to another worker."""
        giver = self._services.giver
        return giver is not None and giver.has_clients

    async def _end_all(self) -> None:
        self._services.draining = True
        if self._brought is not None:
            self._brought.close()
        if self._services.giver is not None:
            self._services.giver.end("the drain time is over")
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._services.lane is not None:
            self._services.lane.close_clients()
        self._services.relay.abort_all()
        await self._services.relay.drained()


def _client_name(address: object) -> str:
    """The client's IP address; "" for a Unix socket. IPv4 on a dual-stack socket is
    written as IPv4. A link-local address has no zone here: Python leaves it out."""
    if not isinstance(address, tuple):
        return ""
    host = str(address[0])
    return host[7:] if host.startswith("::ffff:") and "." in host else host
