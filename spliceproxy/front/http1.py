"""The life of one client connection: heads in, answers out, until it closes or is handed
to the relay as a tunnel.

A connection is in one phase at a time (:class:`Phase`). Each request is a
:class:`front.cycle.Cycle`, which begins with the first byte of its head and ends with its answer:
between two requests there is none.

          accepted, or given back by the relay
                         │
                         ▼  a byte of a head              the whole head
          ┌─────────── IDLE ───────────────────► HEAD ───────────────────► ANSWER ──┐
          │              ▲                         │                         │  │   │
          │              └─────────────────────────┼─────────────────────────┘  │   │
          │                    the client may ask again                         │   │
          │ FIN, no time left                      │ refused                    │   │ a tunnel
          ▼                                        ▼                            │   ▼
        closed ◄────────────────────────────── CLOSING ◄────────────────────────┘  the relay's
                  the client has all of it              this was the last answer

    event                     IDLE                 HEAD      ANSWER           CLOSING
    the worker drains         ends; a client that  goes on   goes on, is the  goes on
                              has not asked yet              last answer
                              has a moment for it
    its bound origin ends     ends                 goes on   goes on          goes on
    the client breaks it      closed               closed    request aborted  closed
    the time is up            closed               408       504 or 408       closed
    a line in the access log  no                   yes       yes              no: it has been

From IDLE a connection may also go to the relay, which can serve plain requests by itself.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from spliceproxy.config import MIXED, TRANSPARENT
from spliceproxy.errors import ClientGone
from spliceproxy.forward import own_faults
from spliceproxy.forward.resumed import Resumed, Spoken
from spliceproxy.forward.services import Services
from spliceproxy.front import faults
from spliceproxy.front.answers import Answers
from spliceproxy.front.cycle import Cycle
from spliceproxy.front.heads import HeadReader
from spliceproxy.net.stream import Stream
from spliceproxy.policy.networks import named
from spliceproxy.policy.standing import Standing
from spliceproxy.relay.handoff import Handoff, between
from spliceproxy.upstream.bound import BoundOrigin

if TYPE_CHECKING:
    from spliceproxy.forward.limiting import Holding
    from spliceproxy.forward.moving_requests import Running

Admit = Callable[[Stream], Awaitable[bool]]
"""Whether the client with this stream may stay."""

FRESH_SECONDS = 1.0
"""When draining begins, how long a new connection still has for its first request."""


LAST_VERSION = 5
"""Of SOCKS: what it begins with is below all letters."""


class Phase(enum.Enum):
    """Where a connection is: the module's documentation has the drawing."""

    IDLE = "between requests"
    HEAD = "head"
    ANSWER = "body and answer"
    CLOSING = "closing"


class Connection:
    """One client. ``admit``, where the limit on connections is reached: waits a moment for a
    place, and says whether there is one. Without one the first request is answered with 503.

    ``via`` is of the balancer that has brought the client, "" if nobody has (as of
    :meth:`relay.lane.Lane.hand_over`). ``cause`` is why the request at hand was aborted; ``bound``
    holds an origin's connection that belongs to this client; ``resumed`` is what the relay has done
    of the first request, and ``spoken`` what it has read of one of SOCKS. ``trace`` tells the
    steps, and is None where nobody wants to know them.
    """

    __slots__ = (
        "_admit",
        "_cycle",
        "_generation",
        "_requests",
        "_standing",
        "_task",
        "address",
        "answers",
        "bound",
        "cause",
        "heads",
        "holding",
        "phase",
        "resumed",
        "services",
        "spoken",
        "stream",
        "trace",
        "via",
    )

    def __init__(
        self,
        services: Services,
        stream: Stream,
        address: str,
        admit: Admit | None = None,
        via: str = "",
    ) -> None:
        self.services = services
        self.stream = stream
        self.address = address
        self.via = via
        self._standing = self._standing_now()
        self._generation = services.generation
        self.answers = Answers(services, stream, last=admit is not None)
        between = services.config.timeouts.head
        self.heads = HeadReader(stream, between)
        self.bound = BoundOrigin(services.loop, between, self._bound_ended)
        self.phase = Phase.IDLE
        self.resumed: Resumed | None = None
        self.spoken: Spoken | None = None
        self.cause: Exception | None = None
        self.holding: Holding | None = None  # of limits
        tracer = services.tracer
        self.trace = (
            None
            if tracer is None
            else tracer.accepted(stream.sock, address, beyond=admit is not None)
        )
        self._admit = admit
        self._requests = 0
        self._cycle: Cycle | None = None
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def of_handoff(
        cls, services: Services, handoff: Handoff, admit: Admit | None = None
    ) -> Connection:
        """A connection that the relay gives back, with what it has received. Where this
        raises, the descriptors that are still the hand-off's are for the caller to close."""
        loop = services.loop
        stream = Stream.of(handoff.take_client(), handoff.address, handoff.buffer, loop)
        origin: Stream | None = None
        try:
            if handoff.origin >= 0:
                origin = Stream.of(handoff.take_origin(), handoff.peer, handoff.answer, loop)
            connection = cls(services, stream, handoff.address, admit, handoff.via)
            connection.resumed = None if handoff.between else Resumed.of(handoff, origin)
            if handoff.socks:
                connection.spoken = Spoken(handoff.socks, handoff.more, handoff.spelled)
            connection._requests = handoff.requests
            connection.holding = handoff.held
            if connection.trace is not None:
                connection.trace.given_back(handoff.cause, len(handoff.buffer))
            return connection
        except BaseException:
            stream.close()
            if origin is not None:
                origin.close()
            raise

    def discard(self) -> None:
        """Closes a connection that cannot be served."""
        self.stream.close()
        self.end_resumed()

    def end_resumed(self) -> None:
        """What the relay has begun is over. Its connection to the origin is closed, if nobody has
        taken that."""
        resumed, self.resumed = self.resumed, None
        if resumed is not None:
            resumed.close()

    async def run(self) -> None:
        """Serves the connection to its end."""
        self._task = asyncio.current_task()
        try:
            if self.resumed is not None and self.resumed.lingers:
                self.phase = Phase.CLOSING
                await self.stream.close_gently()
                return
            while await self._serve_one():
                pass
        except asyncio.CancelledError:
            if self.cause is None:
                raise
        except ClientGone:
            pass  # between two requests: there is nothing to answer or to log
        except Exception as error:  # noqa: BLE001 - it is told
            own_faults.tell(self.services.faults, self.address, error)
            asked = self.phase is not Phase.CLOSING
            asked = asked and (self._cycle is None or self._cycle.speaks_http)
            await faults.last_words(self.stream, asked=asked)
        finally:
            self.bound.close()
            self.end_resumed()
            if self.holding is not None:
                self.holding.release()
            if self._cycle is not None and self._cycle.cut_by_reset:
                self.stream.reset()
            else:
                self.stream.close()
            if self.trace is not None and not self.stream.detached:
                self.trace.closed()
            self._let_go()

    async def _serve_one(self) -> bool:
        """One request and its answer; returns whether another may follow."""
        stream = self.stream
        self.heads.seconds = self.services.config.timeouts.head
        self.phase, self._cycle = Phase.IDLE, None
        received, stream.message_start = stream.received - len(stream.buffer), stream.sent
        cycle = self._unasked(received)
        if cycle is None:
            if self.spoken is not None:
                self.heads.limit()  # it has begun in the relay
            elif not await self.heads.begin(first=not self._requests):
                return False
            cycle = self._begin_cycle(received)
        self.phase, self._cycle = Phase.HEAD, cycle
        keep = await cycle.run()
        if cycle.close is not None:
            self.phase = Phase.CLOSING
            await cycle.close()
        if not keep:
            return False
        self._requests += 1
        if self.services.draining and not stream.buffer:
            return False
        return not (self._pass_on() or (cycle.plain and self._hand_over()))

    def _unasked(self, received: int) -> Cycle | None:
        """The request that a client makes by coming here, whatever it says."""
        spoken = self.services.spoken
        if spoken is None or spoken.asks(self.stream.sock):
            return None
        address = spoken.at(self.stream.sock)
        # Most proxies never need these.
        if address.target is not None:
            from spliceproxy.front import forwards

            return forwards.Forwarded(self, received, address.target)
        if address.spoken in TRANSPARENT:
            from spliceproxy.front import redirected

            return redirected.Redirected(self, received, address.spoken)
        return None

    def _begin_cycle(self, received: int) -> Cycle:
        """The request whose first bytes are there. Only a client that has said nothing before them
        can speak SOCKS."""
        stream, spoken = self.stream, self.services.spoken
        if self.spoken is not None:
            from spliceproxy.front import socks

            return socks.SocksCycle(self, received, MIXED, self.spoken)
        if self._requests or stream.received - len(stream.buffer) != received:
            return Cycle(self, received)
        if stream.buffer[0] > LAST_VERSION and spoken is None:
            return Cycle(self, received)
        from spliceproxy.front import socks  # which most proxies never need

        return socks.begin(self, received, MIXED if spoken is None else spoken.by(stream.sock))

    def _hand_over(self) -> bool:
        """Whether the relay goes on with this client. It knows no connection to an origin
        that belongs to one."""
        lane = self.services.lane
        if lane is None or self.services.draining or self.bound:
            return False
        known = self.stream, self.address, self._requests, self.via
        place = self.services.place(self.stream.sock)
        return lane.hand_over(*known, holding=self.holding, place=place)

    def _pass_on(self) -> bool:
        """Whether another worker goes on with this client."""
        giver = self.services.giver
        if giver is None or self.bound or self.beyond:
            return False
        data = bytes(self.stream.buffer)
        fd = self.stream.detach()
        giver.client(between(fd, self.address, self._requests, data, self.via))
        return True

    def _let_go(self) -> None:
        """Nothing keeps a buffer: a cycle and a fault refer back to this connection, and such a
        circle would last until the garbage is collected."""
        self.stream.buffer.clear()
        self._cycle = self.cause = self._task = None

    @property
    def beyond(self) -> bool:
        """Whether the client came beyond the limit, and has no place yet."""
        return self._admit is not None

    async def admitted(self) -> bool:
        """Whether a client that came beyond the limit has a place by now."""
        assert self._admit is not None
        if not await self._admit(self.stream):
            return False
        self._admit = None
        self.answers = Answers(self.services, self.stream, last=False)
        return True

    @property
    def standing(self) -> Standing:
        """What decisions of the configuration that is in force know of the client."""
        services = self.services
        if self._generation != services.generation:
            self._standing = self._standing_now()
            self._generation = services.generation
        return self._standing

    def _standing_now(self) -> Standing:
        services, sock = self.services, self.stream.sock
        client = self.via[:1] + self.address
        if services.policy.places:
            client = named(client, services.place(sock))
        return services.policy.standing(client, sock)

    def answering(self) -> None:
        """The whole head of the request is there."""
        self.phase = Phase.ANSWER

    # ---- what happens to it ------------------------------------------------------------

    def abort(self, cause: Exception) -> None:
        """Makes what the connection does now fail with ``cause``."""
        if self.cause is None and self._task is not None:
            self.cause = cause
            self._task.cancel()

    @property
    def request(self) -> Cycle | None:
        """The request that is being served."""
        return self._cycle if self.phase is Phase.ANSWER else None

    def client_gone(self) -> None:
        """The client has left while a request of its was served."""
        self.abort(ClientGone())

    def offer(self) -> None:
        """Another worker takes this one's place: a connection between requests goes there."""
        # One whose first request the relay has begun, or that has just come, is at its head soon.
        rests = self.phase is Phase.IDLE and self._task is not None and self.resumed is None
        if rests and self._pass_on():
            self.abort(ClientGone())

    def running(self) -> Running | None:
        """The request that is being served, if another process could go on with it now."""
        cycle = self.request
        part = cycle.part if cycle is not None else None
        if part is None or self.bound or self.beyond:
            return None
        from spliceproxy.forward.moving_requests import Client, Running

        watch = partial(self.stream.watch, self.client_gone)
        gone = self.client_gone
        client = Client(self.stream, self.address, self.via, self._requests, watch, gone)
        return Running(self.services, client, part)

    def drain(self) -> None:
        """The worker stops: a connection between requests ends, a new one gets a moment."""
        if self.phase is not Phase.IDLE:
            return
        if self._requests and self.stream.is_quiet():
            self.abort(ClientGone())
        else:
            self.stream.read_limit.set("connection_read_timeout", "draining", FRESH_SECONDS)

    def _bound_ended(self) -> None:
        """The origin knows the client no more. One between two requests learns that before it
        sends the next, with a body maybe, as somebody it is not."""
        if self.phase is Phase.IDLE and self.stream.is_quiet():
            self.abort(ClientGone())
