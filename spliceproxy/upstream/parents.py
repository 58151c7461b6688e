"""By way of other proxies: which of them is tried, and how each is reached.

A tunnel through a parent is a connection like any other, once the parent has said yes: nothing of
the client's is sent before that, and the relay gets both sockets. A request for ``http://`` is
forwarded by an HTTP parent that is told names; through any other parent it goes in a tunnel.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Protocol
from zlib import crc32

from spliceproxy.config import DIRECT, PAC, Config, ParentConfig, Url
from spliceproxy.errors import Failure
from spliceproxy.http1.head import RequestHead, ResponseHead
from spliceproxy.net.stream import Stream
from spliceproxy.observe.record import Record
from spliceproxy.policy.verdict import Head, Names, Verdict, Way
from spliceproxy.upstream import http_parent
from spliceproxy.upstream.bound import BoundOrigin
from spliceproxy.upstream.health import Health
from spliceproxy.upstream.hop import NO_WAY, Refused, Unauthorized
from spliceproxy.upstream.origins import Origins
from spliceproxy.upstream.parent import Column, Ground, LaneWay, Parent, is_told
from spliceproxy.upstream.pool import IdlePool, Key

if TYPE_CHECKING:
    from spliceproxy.upstream.pac import Pac
    from spliceproxy.upstream.tls import Bridges

IN_ORDER = "in-order"

OF_PAC = 256
"""Parents that a PAC file has named, and that are known: it may name one for each host."""

ADDRESSES = 3
"""Of a destination's addresses so many are tried by way of a parent, one after the other."""

Straight = Callable[[], Awaitable[tuple[Stream, Verdict]]]
"""A connection without a parent."""


class Begun(Protocol):
    """What the lane has done by way of the parent ``hop``: it has ``tried`` to connect to it, in
    vain; or has asked it for the tunnel, on the connection ``origin``. Who takes that clears it."""

    hop: str
    peer: str
    tried: tuple[tuple[str, int], ...]
    origin: Stream | None


class _Anything:
    """The addresses of a parent: whoever is at the other end of a connection to it."""

    def __contains__(self, address: object) -> bool:
        return True


class Parents:
    """Those of one configuration, in one worker."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: Config,
        origins: Origins,
        names: Names,
        row: memoryview,
        column: Column,
        bridges: Bridges | None = None,
        forget: Callable[[], None] | None = None,
        before: Parents | None = None,
    ) -> None:
        """``bridges`` are those of the worker, if it has had a use for any. ``forget`` is called
        when a parent is put aside: what :meth:`in_lane` has said holds no longer. Connections to
        those ``before`` count for the same parents here. OSError for certificates that are none."""
        self._forget_ways = forget
        self._row = row
        self._column = column
        self._seconds = config.timeouts.dial
        self._idle = IdlePool(loop)
        self._turn = 0
        routing = config.routing
        schemes = {one.url.scheme for one in routing.all_parents.values()}
        if bridges is None and (routing.pac or "https" in schemes):
            from spliceproxy.upstream.tls import Bridges  # late: most have no TLS

            bridges = Bridges(loop, config.timeouts.half_close)
        self.bridges = bridges
        self._via = f"1.1 {config.via}".encode("ascii") if config.via else b""
        ground = Ground(origins, names, self._seconds, self._via, row, column, bridges)
        self._loop = loop
        self._parents: dict[str, Parent] = {}
        for name in routing.all_parents:
            self._add(name, config, ground)
        if before is not None:
            self._go_on(before)
        self._pac: Pac | None = None
        if routing.pac:
            from spliceproxy.upstream.pac import Pac

            self._pac = Pac(loop, routing.script)
        self._of_pac: OrderedDict[str, Parent] = OrderedDict()  # that the file has named
        self._auth = routing.auth
        self._ground = ground
        # Whose connections have to be known here.
        least = [route.to for route in routing.all_routes if route.pick == "least"]
        self._counted = frozenset(name for to in least for name in to)

    def _add(self, name: str, config: Config, ground: Ground) -> Parent:
        """A parent, behind those by way of which it is reached."""
        if name not in self._parents:
            found = config.routing.all_parents[name]
            outer = self._add(found.through, config, ground) if found.through else None
            most = -(-found.max_connections // config.workers)
            made = self._parents[name] = Parent(name, found, most, ground, outer)
            self._watch(made, name)
        return self._parents[name]

    def _go_on(self, before: Parents) -> None:
        """Connections to parents of former settings end later on."""
        for name, parent in self._parents.items():
            former = before._parents.get(name)
            if former is not None and former.config.url == parent.config.url:
                parent.held = former.held

    def _watch(self, parent: Parent, counted: str) -> None:
        """``counted`` is its name in the metrics."""
        parent.counted = counted
        tell = partial(self._count, counted)
        granted = partial(self._granted_by, counted)
        parent.health = Health(self._loop, parent.name, parent.try_it, tell, granted)

    def _count(self, name: str, event: str) -> None:
        self._row[self._column(event, name)] += 1
        if event == "down" and self._forget_ways is not None:
            self._forget_ways()

    def _granted_by(self, name: str) -> int:
        return self._row[self._column("granted", name)]

    def finish(self) -> None:
        """They are used for nothing new."""
        self._idle.close()
        for parent in self._parents.values():
            parent.health.finish()
        if self._pac is not None:
            self._pac.finish()

    # ---- a connection ------------------------------------------------------------------

    async def dial(
        self,
        head: Head,
        verdict: Verdict,
        record: Record,
        straight: Straight,
        begun: Begun | None = None,
    ) -> tuple[Stream, Verdict]:
        """A connection by way of the first parent that can be reached, and the verdict with the
        way that it has gone. ``straight`` goes without one. What the lane has ``begun`` by way of
        one of these parents goes on. Failure."""
        verdict = await self._asked(head, verdict)
        way = verdict.way
        assert way is not None
        deadline = (record.dialling_since or time.monotonic() - record.looked_up) + self._seconds
        failure: Failure | None = None
        if begun is not None and begun.hop not in way.parents:
            begun = None
        if begun is None:
            self._take_turn(way, 1)
        for name in self._order(way, verdict.host, begun.hop if begun is not None else ""):
            if name == DIRECT:
                record.route, record.hop, record.connect_by = "", None, ""
                return await straight()
            parent = self._parents[name]
            if parent.full is not None:
                self._idle.close()
            if parent.full is not None:
                failure = failure or _full(parent.full)
                continue
            here, begun = begun, None
            parent.take()
            try:
                stream = await self._by(parent, head, verdict, way, record, deadline, here)
            except BaseException as error:
                parent.left()
                if not isinstance(error, Failure) or isinstance(error, Refused):
                    raise
                if time.monotonic() >= deadline:
                    raise
                failure = error
                continue
            stream.released = parent.left
            return stream, verdict._replace(way=Way((name,), IN_ORDER, way.by_name))
        raise failure or _all_down(way)

    def take_over(self, record: Record) -> None:
        """A tunnel that has come from another process goes on by way of one of these."""
        parent = self._parents.get(record.route)
        if parent is not None and not parent.stays:
            record.hop = parent
            parent.take()

    async def _asked(self, head: Head, verdict: Verdict) -> Verdict:
        """The verdict with what the PAC file says, if that is to say where to. Failure."""
        way = verdict.way
        assert way is not None
        if self._pac is None or way.parents != (PAC,):
            return verdict
        scheme = "https" if head.method == "CONNECT" else "http"
        ways = await self._pac.find(scheme, verdict.host, verdict.port)
        names = tuple(DIRECT if url is None else self._named(url) for url in ways)
        return verdict._replace(way=Way(names, IN_ORDER, way.by_name))

    def _named(self, url: Url) -> str:
        """The name of a parent that the PAC file has named by its URL."""
        name = str(url)  # no name of the settings has a colon
        if name in self._of_pac:
            self._of_pac.move_to_end(name)
            return name
        made = Parent(name, ParentConfig(url, credentials=self._auth), 0, self._ground, None)
        self._watch(made, PAC)
        self._parents[name] = self._of_pac[name] = made
        if len(self._of_pac) > OF_PAC:
            self._forget()
        return name

    def _forget(self) -> None:
        """Forgets the one of these parents that has not been used for longest, and is not now."""
        for name, parent in self._of_pac.items():
            if not parent.held.count and parent is not self._of_pac[next(reversed(self._of_pac))]:
                parent.health.finish()
                del self._of_pac[name], self._parents[name]
                return

    def in_lane(self, verdict: Verdict, *, once: bool = True) -> LaneWay | None:
        """How the lane gets a tunnel where the verdict leads; None where it cannot. Not ``once``:
        the same is for further requests, which cannot be said where each parent has its turn."""
        way = verdict.way
        if way is None:
            return None
        host = verdict.host
        if not way.by_name and verdict.addresses != (host,) and not is_told(way, host):
            return None
        if way.pick != IN_ORDER:
            return self._picked_in_lane(way, verdict, once=once)
        for name in way.parents:
            parent = self._parents.get(name)
            if parent is None:  # without one, or as the PAC file says
                return None
            if not parent.health.down:
                return None if name in self._counted else parent.in_lane(way, verdict)
        return None

    def _picked_in_lane(self, way: Way, verdict: Verdict, *, once: bool) -> LaneWay | None:
        if not once and way.by_turns:
            return None
        self._take_turn(way, 1)
        parent = self._parents.get(next(self._order(way, verdict.host), DIRECT))
        found = None
        if parent is not None and parent.name not in self._counted:
            found = parent.in_lane(way, verdict)
        if found is None:
            self._take_turn(way, -1)  # whoever goes on has this turn
        return found

    def _take_turn(self, way: Way, step: int) -> None:
        if way.pick == "round-robin":
            self._turn += step

    def _order(self, way: Way, host: str, first: str = "") -> Iterator[str]:
        """The names of a way, in the order to try, but those that are put aside. The one that is
        to be the ``first``, if any, was so before."""
        names = [name for name in way.parents if name != DIRECT]
        if way.pick == "round-robin" and names:
            at = names.index(first) if first else self._turn % len(names)
            names = names[at:] + names[:at]
        elif way.pick == "least":
            names.sort(key=lambda name: self._parents[name].held.count)
        elif way.pick == "hash":
            # Rendezvous hashing: of the hosts of one that is gone each other gets its share.
            names.sort(key=lambda name: crc32(f"{name} {host}".encode()), reverse=True)
        if first:
            yield first
        for name in names:
            if name != first and not self._parents[name].health.down:
                yield name
        if DIRECT in way.parents:
            yield DIRECT

    async def _by(
        self,
        parent: Parent,
        head: Head,
        verdict: Verdict,
        way: Way,
        record: Record,
        deadline: float,
        begun: Begun | None,
    ) -> Stream:
        """By way of this one."""
        source = verdict.source_address
        if begun is not None:  # and counted
            self._set(parent, way, record)
            if begun.origin is not None:
                stream, begun.origin, record.peer = begun.origin, None, begun.peer
                return await self._granted(parent, stream, parent.hear(stream, deadline))
            parent.look_at(begun.tried, source)
        else:
            self._note(parent, way, record)
        if head.method != "CONNECT" and parent.forwards(way, verdict.host):
            return await parent.reach(record, deadline, source)
        via = self._passed(head)
        targets = (verdict.host,) if way.by_name else verdict.addresses[:ADDRESSES]
        for number, target in enumerate(targets, 1):
            stream = await parent.reach(record, deadline, source)
            try:
                asked = parent.ask(stream, target, verdict.port, via, deadline)
                return await self._granted(parent, stream, asked)
            except Refused:
                if number == len(targets) or time.monotonic() >= deadline:
                    raise
        raise AssertionError("a destination has an address or a name")

    async def _granted(self, parent: Parent, stream: Stream, asked: Awaitable[None]) -> Stream:
        """A connection to a parent that was ``asked`` for a tunnel, once it has said yes."""
        try:
            await asked
        except BaseException as error:
            stream.close()
            if isinstance(error, Refused):
                parent.health.worked()
            raise
        parent.health.worked()
        self._count(parent.counted, "granted")
        return stream

    def _note(self, parent: Parent, way: Way, record: Record) -> None:
        """The request is sent to it."""
        self._set(parent, way, record)
        self._count(parent.counted, "sent")

    def _set(self, parent: Parent, way: Way, record: Record) -> None:
        record.route, record.hop = parent.name, parent
        record.connect_by = "name" if way.by_name else "address"

    def _passed(self, head: Head) -> bytes:
        """The value of Via for a request for a tunnel: whoever has passed it on, and we."""
        return b", ".join([*head.values(b"via"), *([self._via] if self._via else [])])

    # ---- requests that a parent forwards -----------------------------------------------

    def written(self, verdict: Verdict, head: RequestHead, data: bytes) -> bytes:
        """What is sent as the head ``data`` of a request that goes to its origin."""
        parent, way = self._of(verdict)
        if parent.forwards(way, verdict.host):
            return http_parent.forwarded(head, data, parent.config.credentials)
        return data

    def check(self, verdict: Verdict, response: ResponseHead) -> None:
        """Failure for an answer that is for us and not for the client."""
        parent, way = self._of(verdict)
        if parent.forwards(way, verdict.host):
            try:
                http_parent.check(response)
            except Unauthorized as failure:
                parent.health.failed(failure)
                raise parent.named(failure) from None
            parent.health.worked()

    def _of(self, verdict: Verdict) -> tuple[Parent, Way]:
        """The way that a connection has gone."""
        assert verdict.way is not None
        return self._parents[verdict.way.parents[0]], verdict.way

    # ---- between two requests ----------------------------------------------------------

    async def arranged(self, head: Head, verdict: Verdict) -> Verdict:
        """The verdict with the parents in the order in which they are tried for this request.
        Failure, if the PAC file gives none."""
        verdict = await self._asked(head, verdict)
        way = verdict.way
        assert way is not None
        self._take_turn(way, 1)
        names = tuple(self._order(way, verdict.host))
        return verdict._replace(way=Way(names or way.parents, IN_ORDER, way.by_name))

    def take(
        self, verdict: Verdict, record: Record, bound: BoundOrigin, *, repeats: bool
    ) -> tuple[Stream, Verdict, bool] | None:
        """An idle connection to the first parent of an arranged verdict, the verdict with its way,
        and whether the connection belongs to the client that has this ``bound``. Not ``repeats``:
        only one that this client was the last to use."""
        way = verdict.way
        assert way is not None
        # The addresses of a name may be others by now.
        if not is_told(way, verdict.host) or way.parents[:1] in ((), (DIRECT,)):
            return None
        gone = verdict._replace(way=way._replace(parents=way.parents[:1]))
        found = bound.take(gone.key, _Anything()) if bound.holds(gone.key) else None
        own = found is not None
        if found is None and repeats:
            found = self._idle.take(self._key(gone), _Anything())
        elif found is None:
            found = self._idle.take_own(self._key(gone), _Anything(), bound)
        if found is None:
            return None
        stream, record.peer = found
        self._note(self._of(gone)[0], way, record)
        return stream, gone, own

    def put(self, verdict: Verdict, stream: Stream, peer: str, user: object) -> None:
        """Keeps a connection between two requests, which ``user`` has used, or closes it."""
        if verdict.way is None or not is_told(verdict.way, verdict.host):
            stream.close()
        else:
            self._idle.put(self._key(verdict), stream, peer, user)

    def _key(self, verdict: Verdict) -> Key:
        """The same for connections that may stand in for one another: to a parent that forwards
        requests, all of them."""
        parent, way = self._of(verdict)
        if parent.forwards(way, verdict.host):
            return f" {parent.name}", 0, verdict.source_address
        return verdict.key


def _full(parent: Parent) -> Failure:
    detail = f"parent {parent.name}: it has {parent.most} connections, which is the limit"
    return Failure("connection_limit_reached", detail, next_hop=parent.name)


def _all_down(way: Way) -> Failure:
    names = ", ".join(name for name in way.parents if name != DIRECT)
    return Failure("destination_unavailable", f"no parent can be reached: {names}", why=NO_WAY)
