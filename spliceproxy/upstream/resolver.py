"""From a host to the IP addresses to dial: literals, /etc/hosts and the DNS, cached.

Queries go through c-ares (by aiodns), which works on a thread of its own and hands each
answer to the event loop: no name, however slow, holds up the loop or another name.

Both families are asked for at once, each by a query of its own. If one has not come
RESOLUTION_DELAY after the other, those who wait go on with what is there (RFC 8305 section 3), and
:meth:`late` tells them when the look-up is over.

``resolv.conf`` is obeyed as by getaddrinfo(3), ``search`` and ``ndots`` included. In containers,
names such as "redis" and "redis.prod" exist only through them. A name with a trailing dot is
absolute.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import aiodns
import pycares
from aiodns.error import (
    ARES_ECONNREFUSED,
    ARES_ENODATA,
    ARES_ENOTFOUND,
    ARES_EREFUSED,
    ARES_ESERVFAIL,
    ARES_ETIMEOUT,
    DNSError,
)

from spliceproxy.errors import NOTHING_LEFT, ErrorType, Failure
from spliceproxy.upstream import search
from spliceproxy.upstream.addresses import interleave, literal
from spliceproxy.upstream.channels import Channels, is_exhausted
from spliceproxy.upstream.hosts import Hosts, is_localhost
from spliceproxy.upstream.preference import prefers_ipv4

MIN_TTL = 2.0
"""Seconds an answer is kept at least. A TTL of 0 means one transaction (RFC 1035 section
3.2.1); a page and its parts are one, and each would otherwise wait for a query."""

MAX_TTL = 300.0
"""Seconds an answer is kept at most: a record that says "a day" is not worth a day of dialling
an origin that has moved, and one query per name in five minutes costs nothing."""

NEGATIVE_TTL = 3.0
"""Seconds a failure is kept. It shields the name server from a client that retries in a loop, and
is short enough that a name that was just made is found (RFC 2308 allows hours)."""

HALF_TTL = 30.0
"""Seconds an answer is kept at most if its other family failed: the next look-up may get both."""

RESOLUTION_DELAY = 0.05
"""Seconds to wait for the second family once the first has addresses (RFC 8305 section 3). IPv6
waits for IPv4, too: it is mostly there a moment earlier, and the race for a connection needs
both."""

MAX_ENTRIES = 8192
"""Names kept, which take a few MiB. Beyond that the name that was stored longest ago goes. With
TTLs of at most MAX_TTL that is nearly the one that expires next."""

MAX_ADDRESSES = 16
"""Addresses kept for a name. If so many do not answer, the origin is dead. An answer with hundreds
would turn one request into hundreds of connection attempts."""

MAX_QUERIES = 8192
"""Names looked up at a time, 13 KiB each, most of it c-ares'. A look-up outlives the client that
asked for it, so the number of clients is no bound. c-ares cannot cancel one look-up of many."""

PATIENCE = 0.25
"""Seconds after which a name without an answer is asked for again, on a patient channel."""

FAMILIES = (socket.AF_INET6, socket.AF_INET)  # AAAA first, as RFC 8305 section 3 wants it

LOOPBACK = ("::1", "127.0.0.1")

_NAME = re.compile(r"(?=.{1,253}\.?\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?\Z")
_ENDS_IN_NUMBER = re.compile(r"(?:\A|\.)(?:[0-9]+|0x[0-9a-f]*)\.?\Z")


class _Answer(NamedTuple):
    """What is known of a name: addresses, or the failure to report."""

    expires: float
    addresses: tuple[str, ...]
    error: ErrorType | None
    detail: str
    why: str = ""  # for the reason phrase, "" for what the error has
    whole: asyncio.Future[None] | None = None  # done, if somebody may have gone on with less


class _Part(NamedTuple):
    """What c-ares says of one family of one name; ``code`` is its error, 0 for none."""

    addresses: tuple[str, ...]
    ttl: float
    code: int
    detail: str


class _Query:
    """One look-up. ``first`` is set as soon as there is something to go on with, ``whole`` when
    there is nothing more to wait for. ``parts`` belong to the candidate that is asked for."""

    __slots__ = (
        "asked",
        "candidate",
        "candidates",
        "first",
        "name",
        "parts",
        "timers",
        "whole",
    )

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self.name = name
        self.candidate = ""
        self.candidates: Iterator[str] = iter(())
        self.asked = dict.fromkeys(FAMILIES, 0)  # questions that c-ares has not done with
        self.parts: dict[socket.AddressFamily, _Part] = {}
        self.first: asyncio.Future[_Answer] = loop.create_future()
        self.whole: asyncio.Future[None] = loop.create_future()
        self.timers: list[asyncio.TimerHandle] = []


class Resolver:
    """Resolves hosts for one event loop; create it inside that loop, and close it.

    ``timeout`` is the limit for one name in seconds. ``nameservers`` (``IP``, ``IP:PORT`` or
    ``[IPv6]:PORT``) replace those of resolv.conf. ``clock`` gives the seconds by which
    entries age; tests may set it.
    """

    def __init__(
        self,
        timeout: float,
        *,
        nameservers: Sequence[str] | None = None,
        hosts_file: str = "/etc/hosts",
    ) -> None:
        self.clock: Callable[[], float] = time.monotonic
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._hosts = Hosts(hosts_file)
        self._cache: dict[str, _Answer] = {}
        self._queries: dict[str, _Query] = {}
        # Every look-up that c-ares has not finished, with its channel, which must live on.
        self._lookups: dict[asyncio.Future[pycares.AddrInfoResult], aiodns.DNSResolver] = {}
        # By the clock of the moment: tests set it.
        self._channels = Channels(timeout, nameservers, lambda: self.clock())
        self._search = search.read()
        self._closed = False

    def cached(self, host: str) -> tuple[str, ...] | None:
        """The addresses of ``host`` if all are known without waiting, else None."""
        name = host.lower()
        now = self.clock()
        addresses = self._hosts.get(name[:-1] if name[-1:] == "." else name, now)
        if addresses is not None:
            return addresses
        answer = self._cache.get(name)
        if answer is not None and answer.expires > now:
            return answer.addresses or None
        return unasked(name)

    async def resolve(self, host: str) -> tuple[str, ...]:
        """The addresses of ``host`` in the order to try; never empty. Those of one family
        where the other is late (:meth:`late`).

        The order is that of RFC 6724, families by turns (RFC 8305 section 4). Failure:
        ``dns_timeout``, ``connection_limit_reached`` beyond MAX_QUERIES or without descriptors,
        or ``dns_error`` for a name that is none, has no address, or whose name servers fail. All
        who ask for a name at once share one query; it goes on, and its answer is kept, when
        those who asked are cancelled.
        """
        addresses = self.cached(host)
        if addresses is not None:
            return addresses
        name = host.lower()
        answer = self._cache.get(name)
        if answer is None or answer.expires <= self.clock():
            query = self._queries.get(name)
            if query is None:
                query = self._ask(name)
            answer = await asyncio.shield(query.first)
        if answer.error is not None:
            raise Failure(answer.error, answer.detail, why=answer.why)
        return answer.addresses

    def late(self, host: str) -> asyncio.Future[None] | None:
        """If a look-up has given the addresses of one family only, a future that is done when
        the look-up is over, whether the other family has come or not. It must not be cancelled.
        A future that is done already is for a caller of :meth:`resolve` who may have gone on
        with less."""
        name = host.lower()
        query = self._queries.get(name)
        if query is not None:
            return query.whole if query.first.done() else None
        answer = self._cache.get(name)
        return answer.whole if answer is not None else None

    async def close(self) -> None:
        """Ends every query (those who wait get ``dns_error``) and the c-ares threads."""
        self._closed = True
        for query in list(self._queries.values()):
            self._settle(query, _failed(query.name, "the proxy is stopping"))
        for channel in {self._channels.last(), *self._lookups.values()}:
            await channel.close()
        if self._lookups:  # cancelled: their callbacks are already on the loop
            await asyncio.wait(self._lookups, timeout=1.0)

    # ---- one query -----------------------------------------------------------------------

    def _ask(self, name: str) -> _Query:
        """Starts the query for a name; its futures never have an exception."""
        if self._closed:
            raise Failure("dns_error", f"{name}: the proxy is stopping")
        if not _NAME.match(name):
            raise Failure("dns_error", f"{name}: not a host name", why=_NO_NAME)
        if _ENDS_IN_NUMBER.search(name):
            # What inet_aton(3) and some resolvers take for an address.
            detail = f"{name}: neither an IP address nor a host name"
            raise Failure("dns_error", detail, why=_NO_NAME)
        if len(self._queries) >= MAX_QUERIES:
            detail = f"{name}: too many names are being looked up"
            raise Failure("connection_limit_reached", detail, why="too many look-ups")
        if self._channels.is_old():
            self._search = search.read()  # resolv.conf is followed, as c-ares does
        query = _Query(name, self._loop)
        query.candidates = iter(self._search.candidates(name))
        self._queries[name] = query
        query.timers.append(self._loop.call_later(self._timeout, self._expired, query))
        self._next_candidate(query)
        return query

    def _next_candidate(self, query: _Query) -> bool:
        """Asks for both families of the next name that may be meant. False if there is none."""
        candidate = next(query.candidates, None)
        if candidate is None:
            return False
        query.candidate, query.parts = candidate, {}
        query.asked = dict.fromkeys(FAMILIES, 0)
        channel = self._channels.usual()
        for family in FAMILIES:
            self._look_up(query, family, channel)
        query.timers.append(self._loop.call_later(PATIENCE, self._persist, query, candidate))
        return True

    def _look_up(
        self, query: _Query, family: socket.AddressFamily, channel: aiodns.DNSResolver
    ) -> None:
        query.asked[family] += 1
        lookup = channel.getaddrinfo(query.candidate, family, type=socket.SOCK_STREAM)
        self._lookups[lookup] = channel
        lookup.add_done_callback(partial(self._answered, query, query.candidate, family))

    def _persist(self, query: _Query, candidate: str) -> None:
        """A name is slow, or its packets are lost."""
        if candidate != query.candidate:
            return
        for family in FAMILIES:
            if family not in query.parts:
                self._look_up(query, family, self._channels.patient())

    def _answered(
        self,
        query: _Query,
        candidate: str,
        family: socket.AddressFamily,
        lookup: asyncio.Future[pycares.AddrInfoResult],
    ) -> None:
        """c-ares is done with one family of a name."""
        channel = self._lookups.pop(lookup)
        error = lookup.exception()
        part = _part(lookup.result()) if error is None else _fault(error)
        if part.code != ARES_ETIMEOUT:
            self._channels.heard(channel)
        if candidate != query.candidate:
            return
        query.asked[family] -= 1
        if family in query.parts or (part.code == ARES_ETIMEOUT and query.asked[family]):
            return
        query.parts[family] = part
        if query.whole.done():
            self._keep_late(query)
        elif len(query.parts) == len(FAMILIES):
            if self._is_elsewhere(query) and self._next_candidate(query):
                return
            self._settle(query, self._answer(query))
        elif part.addresses:
            query.timers.append(self._loop.call_later(RESOLUTION_DELAY, self._go_on, query))

    def _is_elsewhere(self, query: _Query) -> bool:
        """Whether the name that was asked for is not there, so that another may be meant.

        A name without any data is there in one way only: as glibc, c-ares goes on behind
        it. A failing server says nothing about a name; but systemd-resolved fails for
        each name of one label.
        """
        codes = {part.code for part in query.parts.values()}
        allowed = {ARES_ENOTFOUND, ARES_ENODATA}
        if ARES_ENOTFOUND in codes or query.candidate.count(".") == 1:
            allowed |= {ARES_ESERVFAIL, ARES_EREFUSED}
        return codes <= allowed

    def _go_on(self, query: _Query) -> None:
        """The second family is late: those who wait go on with the first."""
        if not query.first.done():
            query.first.set_result(self._answer(query))

    def _expired(self, query: _Query) -> None:
        """The limit is reached: what has come must suffice."""
        answer = self._answer(query)
        if not answer.addresses:
            detail = f"no answer within {self._timeout:g} s"
            answer = _failed(query.name, detail, "dns_timeout")
        self._settle(query, answer)

    def _settle(self, query: _Query, answer: _Answer) -> None:
        """Ends a query: keeps what it has found and tells those who wait."""
        for timer in query.timers:
            timer.cancel()
        del self._queries[query.name]
        if not self._closed and (answer.addresses or answer.error == "dns_error"):
            if query.first.done() and query.first.result().addresses != answer.addresses:
                answer = answer._replace(whole=query.whole)
            self._keep(query.name, answer)
        if not query.first.done():
            query.first.set_result(answer)
        query.whole.set_result(None)

    def _answer(self, query: _Query) -> _Answer:
        """What the parts that have come make together."""
        parts = query.parts
        six, four = (
            parts[family].addresses if family in parts else ()
            for family in (socket.AF_INET6, socket.AF_INET)
        )
        if not six and not four:
            return _failed(query.name, *_reason(parts), now=self.clock())
        both = six + four if not (six and four and prefers_ipv4(six[0], four[0])) else four + six
        ttl = min(part.ttl for part in parts.values())
        if len(parts) < len(FAMILIES):
            ttl = min(ttl, HALF_TTL)
        expires = self.clock() + min(max(ttl, MIN_TTL), MAX_TTL)
        return _Answer(expires, interleave(both)[:MAX_ADDRESSES], None, "")

    def _keep_late(self, query: _Query) -> None:
        """Keeps what comes after the limit, unless a newer query has found more."""
        answer = self._answer(query)
        known = self._cache.get(query.name)
        newer = known.addresses if known is not None and known.expires > self.clock() else ()
        if answer.addresses and set(newer) <= set(answer.addresses):
            self._keep(query.name, answer)

    def _keep(self, name: str, answer: _Answer) -> None:
        self._cache.pop(name, None)  # a name that is stored again goes to the end
        if len(self._cache) >= MAX_ENTRIES:
            del self._cache[next(iter(self._cache))]
        self._cache[name] = answer


def unasked(name: str) -> tuple[str, ...] | None:
    """The addresses of a name (lower case) that needs no query: of an address literal, or of
    localhost (RFC 6761 section 6.3). None for any other name."""
    address = literal(name)
    if address is not None:
        return (address,)
    return LOOPBACK if is_localhost(name.removesuffix(".")) else None


def _part(result: pycares.AddrInfoResult) -> _Part:
    texts = (literal(node.addr[0].decode("ascii")) for node in result.nodes)
    addresses = tuple(text for text in texts if text is not None)
    if not addresses:
        return _Part((), MAX_TTL, ARES_ENODATA, "no address")
    ttl = min([node.ttl for node in result.nodes] + [cname.ttl for cname in result.cnames])
    return _Part(addresses, ttl, 0, "")


def _fault(error: BaseException) -> _Part:
    """A family without an address. That it has none may be kept for long, a failure may not."""
    code, text = error.args if isinstance(error, DNSError) else (ARES_ESERVFAIL, error)
    ttl = MAX_TTL if code in (ARES_ENOTFOUND, ARES_ENODATA) else HALF_TTL
    return _Part((), ttl, code, str(text))


def _failed(
    name: str, detail: str, error: ErrorType = "dns_error", why: str = "", now: float = 0.0
) -> _Answer:
    return _Answer(now + NEGATIVE_TTL, (), error, f"{name}: {detail}", why)


_NO_NAME = "no valid host name"

_WHY = {
    ARES_ENODATA: "name has no address",
    ARES_ENOTFOUND: "name not found",
    ARES_EREFUSED: "DNS server refuses",
    ARES_ESERVFAIL: "DNS server has failed",
    ARES_ETIMEOUT: "",  # with the number of the settings
}
"""What the reason phrase says, by c-ares' error: a person can correct a name."""


def _reason(parts: Mapping[socket.AddressFamily, _Part]) -> tuple[str, ErrorType, str]:
    """The detail and the type of a failed look-up, and the reason. A server's fault says more
    than that there is nothing, and "no data" says more than "no name"."""
    order = (ARES_ENOTFOUND, ARES_ENODATA)
    worst = max(
        parts.values(),
        key=lambda part: order.index(part.code) if part.code in order else len(order),
        default=_Part((), 0.0, ARES_ENODATA, "no address"),
    )
    if worst.code == ARES_ECONNREFUSED and is_exhausted():
        return "no descriptors left to ask", "connection_limit_reached", NOTHING_LEFT
    error: ErrorType = "dns_timeout" if worst.code == ARES_ETIMEOUT else "dns_error"
    return worst.detail, error, _WHY.get(worst.code, "DNS has failed")
