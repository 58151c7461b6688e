"""One parent proxy: how it is reached, by way of others maybe, and asked."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from spliceproxy.config import ParentConfig
from spliceproxy.errors import Failure
from spliceproxy.net.stream import Stream
from spliceproxy.observe.record import Record, endpoint
from spliceproxy.policy.verdict import Names, Verdict, Way
from spliceproxy.relay.lane import Hop
from spliceproxy.upstream import http_parent, socks4_parent, socks5_parent
from spliceproxy.upstream.addresses import literal
from spliceproxy.upstream.dialer import Dialer, from_source
from spliceproxy.upstream.health import Health
from spliceproxy.upstream.hop import NO_WAY, Refused, Unauthorized
from spliceproxy.upstream.origins import Origins

if TYPE_CHECKING:
    import ssl

    from spliceproxy.upstream.tls import Bridges

_ASK = {
    "http": http_parent.ask,
    "https": http_parent.ask,
    "socks5": socks5_parent.ask,
    "socks5h": socks5_parent.ask,
    "socks4a": socks4_parent.ask,
}
"""How each kind of parent is asked for a tunnel."""

SOURCES = 64
"""Addresses to connect from for which the same is remembered; a function may name any."""

_NOT_ITS_FAULT = ("connection_limit_reached", "proxy_loop_detected")


Column = Callable[[str, str], int]
"""That of an event of a parent: ``(event, name)``."""


@dataclass(slots=True, eq=False, repr=False)
class Ground:
    """What all parents of one configuration use. ``seconds`` is the limit for a request with all
    that it tries, ``via`` our word in Via, b"" for none. Events of parents are counted in the
    ``column`` of ``row``."""

    origins: Origins
    names: Names
    seconds: float
    via: bytes
    row: memoryview
    column: Column
    bridges: Bridges | None


class LaneWay(NamedTuple):
    """A parent as the lane has it (:meth:`relay.lane.Lane.add_route`): the key of connections to
    it, the head that asks it for a tunnel, its addresses and its port."""

    key: bytes
    head: bytes
    addresses: tuple[str, ...]
    port: int
    hop: Hop


class Held:
    """``count`` connections to a parent are there, or are being made: those of earlier settings,
    too."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Parent:
    """``held`` are the connections to it, at most ``most`` (0: no limit). ``outer``
    is the parent by way of which it is reached, if any. ``stays``: there is TLS on the way, so this
    process alone can go on with what goes over it. ``counted`` is its name in the metrics."""

    __slots__ = (
        "_ask",
        "_context",
        "_dialer",
        "_fields",
        "_ground",
        "_hops",
        "_in_lane",
        "_literal",
        "_seconds",
        "config",
        "counted",
        "health",
        "held",
        "most",
        "name",
        "outer",
        "stays",
    )

    health: Health
    stays: bool
    counted: str

    def __init__(
        self, name: str, config: ParentConfig, most: int, ground: Ground, outer: Parent | None
    ) -> None:
        """OSError for certificates that are none."""
        self.name = name
        self.config = config
        self.most = most
        self.outer = outer
        self.held = Held()
        self._ground = ground
        self._seconds = min(config.timeout, ground.seconds)  # to reach it
        self._dialer = Dialer(self._seconds, ground.row)
        self._ask = _ASK[config.url.scheme]
        self._context: ssl.SSLContext | None = None
        if config.url.scheme == "https":
            from spliceproxy.upstream.tls import context_of  # late: most have no TLS

            self._context = context_of(config.ca_file)
        self._in_lane = config.url.scheme == "http" and outer is None and not most
        self._fields = http_parent.own_fields(config.credentials, ground.via)
        is_literal = literal(config.url.host) is not None
        self._literal = ground.names.cached(config.url.host) if is_literal else None
        self._hops: dict[tuple[str, bool], tuple[bytes, Hop]] = {}
        self.stays = self._context is not None or (outer is not None and outer.stays)

    @property
    def port(self) -> int:
        return self.config.url.port

    @property
    def full(self) -> Parent | None:
        """The parent on the way that has as many connections as it may, itself or one before it;
        None where one more may be made."""
        if self.most and self.held.count >= self.most:
            return self
        return None if self.outer is None else self.outer.full

    def take(self) -> None:
        """One more connection to it is made, or has come from another process."""
        self.held.count += 1
        if self.outer is not None:
            self.outer.take()

    def left(self) -> None:
        """One of these has ended."""
        self.held.count -= 1
        if self.outer is not None:
            self.outer.left()

    def in_lane(self, way: Way, verdict: Verdict) -> LaneWay | None:
        """What the lane needs to ask it for a tunnel where a ``verdict`` leads; None where it
        cannot: there is TLS, another parent before it, another protocol, a limit on its
        connections, or its own name has to be looked up; or the first request is to show whether it
        is there again."""
        if not self._in_lane or self.health.unproven:
            return None
        url, source = self.config.url, verdict.source_address
        addresses = self._literal or self._ground.names.cached(url.host)
        if source and addresses:
            addresses = from_source(addresses, source)
        if not addresses:
            return None
        found = self._hops.get((source, way.by_name))
        key, hop = found or self._hop(source, by_name=way.by_name)
        head = http_parent.connect_to(verdict.host, verdict.port, self._fields)
        return _new(LaneWay, (key, head, addresses, url.port, hop))

    def _hop(self, source: str, *, by_name: bool) -> tuple[bytes, Hop]:
        """What is the same for many destinations: the key of connections, and who it is."""
        column = self._ground.column
        sent, granted = column("sent", self.counted), column("granted", self.counted)
        key = f"0 {source}  {self.name}".encode()  # no host begins with a blank
        if len(self._hops) >= SOURCES:
            self._hops.clear()
        made = key, Hop(self.name, by_name, self._seconds, sent, granted)
        self._hops[source, by_name] = made
        return made

    def forwards(self, way: Way, host: str) -> bool:
        """Whether it is sent requests for this host as they are."""
        return self.config.url.scheme in ("http", "https") and is_told(way, host)

    # ---- a connection to it ------------------------------------------------------------

    async def reach(self, record: Record, deadline: float, source: str = "") -> Stream:
        """A connection to it, by way of those before it, from the address ``source`` of this
        machine, "" for any. Failure."""
        began = time.monotonic()
        outer, context = self.outer, self._context
        if outer is None:
            stream = await self._connect(record, source)
        else:
            stream = await self._reach_through(outer, record, deadline, source)
        if context is None:
            return stream
        assert self._ground.bridges is not None
        spent = time.monotonic() - began if outer is None else 0.0
        said = f"TLS: no answer within {self._seconds:g} s"
        _limit(stream, said, self._seconds - spent)
        try:
            return await self._ground.bridges.secure(stream, context, self.config.url.host)
        except BaseException as error:
            stream.close()
            if isinstance(error, Failure):
                self.health.failed(error)
                raise self.named(error) from None
            raise

    async def _connect(self, record: Record, source: str) -> Stream:
        url = self.config.url
        try:
            addresses = await self._ground.names.resolve(url.host)
            where = url.host, addresses, url.port, record, source
            return await self._ground.origins.connect(*where, dialer=self._dialer)
        except Failure as failure:
            raise self._unreached(failure) from None

    def _unreached(self, failure: Failure) -> Failure:
        """The failure to connect to it."""
        if failure.error not in _NOT_ITS_FAULT:
            self.health.failed(failure)
        return self.named(failure)

    def look_at(self, tried: Sequence[tuple[str, int]], source: str) -> None:
        """Attempts to connect to it (:meth:`Dialer.failure_of`) have failed elsewhere: Failure if
        no more can be tried."""
        addresses = self._ground.names.cached(self.config.url.host) or ()
        failure = self._dialer.failure_of(tried, addresses, self.port, source)
        if failure is not None:
            raise self._unreached(failure)

    async def _reach_through(
        self, outer: Parent, record: Record, deadline: float, source: str
    ) -> Stream:
        stream = await outer.reach(record, deadline, source)
        host, port = self.config.url.host, self.config.url.port
        try:
            if outer.config.by_address:
                host = (await self._ground.names.resolve(host))[0]
            await outer.ask(stream, host, port, self._ground.via, deadline)
            return stream
        except Refused as refused:  # it is this parent that cannot be reached
            stream.close()
            self.health.failed(refused)
            hop = outer.name
            raise Failure(refused.error, refused.detail, 502, why=NO_WAY, next_hop=hop) from None
        except BaseException:
            stream.close()
            raise

    async def ask(self, stream: Stream, host: str, port: int, via: bytes, deadline: float) -> None:
        """Makes a connection to it one to this destination. ``via`` is the value of Via. Failure,
        of which Refused is one."""
        asked = self._ask(stream, host, port, self.config.credentials, via)
        await self._answer(stream, asked, deadline)

    async def hear(self, stream: Stream, deadline: float) -> None:
        """The same where it is an HTTP proxy, and was asked for it."""
        await self._answer(stream, http_parent.hear(stream), deadline)

    async def _answer(self, stream: Stream, asked: Awaitable[None], deadline: float) -> None:
        """Its answer to what was ``asked``."""
        _limit(stream, f"no answer within {self._ground.seconds:g} s", deadline - time.monotonic())
        try:
            await asked
        except Failure as failure:
            if isinstance(failure, Unauthorized):
                self.health.failed(failure)
            raise self.named(failure) from None
        stream.read_limit.clear()
        stream.write_limit.clear()

    async def try_it(self) -> None:
        """Whether it can be reached: Failure if not."""
        (await self.reach(Record(""), time.monotonic() + self._ground.seconds)).close()

    def named(self, failure: Failure) -> Failure:
        """The same failure, which is about this parent unless it is about another."""
        if not failure.next_hop:
            failure.next_hop = self.name
            failure.where = failure.where or endpoint(self.config.url.host, self.port)
            failure.detail = f"parent {self.name}: {failure.detail}"
            failure.why = failure.why or NO_WAY
        return failure


_new = tuple.__new__  # of a NamedTuple, without the call of its own __new__


def is_told(way: Way, host: str) -> bool:
    """Whether a parent is told the host as the client has written it."""
    return way.by_name or literal(host) is not None


def _limit(stream: Stream, said: str, seconds: float) -> None:
    for limit in (stream.read_limit, stream.write_limit):
        limit.set("connection_timeout", said, max(seconds, 0.001))
