"""From a host to the IP addresses to dial: literals, /etc/hosts and the DNS, cached.

Queries go through c-ares, run by the event loop: no name, however slow, holds up the loop or
another name. A look-up costs a future for each who waits, and no task.

Both families are asked for at once, each by a query of its own. If one has not come
RESOLUTION_DELAY after the other, those who wait go on with what is there (RFC 8305 section 3), and
:meth:`late` tells them when the look-up is over.

``resolv.conf`` is obeyed as by getaddrinfo(3), ``search`` and ``ndots`` included. In containers,
names such as "redis" and "redis.prod" exist only through them. A name with a trailing dot is
absolute.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from spliceproxy.errors import Failure
from spliceproxy.messages import log
from spliceproxy.relay import columns
from spliceproxy.seldom import Seldom
from spliceproxy.upstream import ares, search
from spliceproxy.upstream.addresses import literal
from spliceproxy.upstream.answers import FAMILIES, Answer, Cache, Part, answer_of, failed, part_of
from spliceproxy.upstream.channels import Channels
from spliceproxy.upstream.hosts import Hosts, is_localhost

if TYPE_CHECKING:
    from pycares import AddrInfoResult

RESOLUTION_DELAY = 0.05
"""Seconds to wait for the second family once the first has addresses (RFC 8305 section 3). IPv6
waits for IPv4, too: it is mostly there a moment earlier, and the race for a connection needs
both."""

LITERALS = 4096
"""Names without a query whose addresses are remembered: most are address literals."""

MAX_QUERIES = 8192
"""Names looked up at a time, 13 KiB each, most of it c-ares'. A look-up outlives the client that
asked for it, so the number of clients is no bound. c-ares cannot cancel one look-up of many."""

PATIENCE = 0.25
"""Seconds after which a name without an answer is asked for again, on a patient channel."""

LOOPBACK = ("::1", "127.0.0.1")

_NAME = re.compile(r"(?=.{1,253}\.?\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?\Z")
_ENDS_IN_NUMBER = re.compile(r"(?:\A|\.)(?:[0-9]+|0x[0-9a-f]*)\.?\Z")
_NO_NAME = "no valid host name"
_FAULT = "the look-up of a name has failed within the proxy"


class _Query:
    """One look-up. ``answer`` is there as soon as there is something to go on with, ``over`` when
    there is nothing more to wait for. ``parts`` belong to the candidate that is asked for.
    ``waiting`` are those who want the answer; ``whole``, if anybody wants it, is done with the
    look-up."""

    __slots__ = (
        "answer",
        "asked",
        "candidate",
        "candidates",
        "expires",
        "name",
        "over",
        "parts",
        "timer",
        "waiting",
        "whole",
    )

    def __init__(self, name: str, candidates: Iterator[str], expires: float) -> None:
        self.name = name
        self.candidate = ""
        self.candidates = candidates
        self.expires = expires  # by the loop's clock
        self.asked = {family: 0 for family in FAMILIES}  # that c-ares has not done with
        self.parts: dict[socket.AddressFamily, Part] = {}
        self.answer: Answer | None = None
        self.over = False
        self.waiting: list[asyncio.Future[Answer]] = []
        self.whole: asyncio.Future[None] | None = None
        self.timer: asyncio.TimerHandle | None = None  # until the second family is late

    def tell(self, answer: Answer) -> None:
        """Those who wait go on with this."""
        self.answer = answer
        for waiter in self.waiting:
            if not waiter.done():  # by the end of its task
                waiter.set_result(answer)
        self.waiting.clear()


class _Lookup:
    """One family of one candidate, on one channel."""

    __slots__ = ("candidate", "channel", "family", "query", "resolver")

    def __init__(
        self,
        resolver: Resolver,
        query: _Query,
        family: socket.AddressFamily,
        channel: ares.Channel,
    ) -> None:
        self.resolver = resolver
        self.query = query
        self.candidate = query.candidate
        self.family = family
        self.channel = channel

    def answered(self, result: AddrInfoResult | None, error: int | None) -> None:
        """c-ares calls this, and hears of no fault."""
        try:
            self.resolver.answered(self, part_of(result, error))
        except Exception as fault:  # noqa: BLE001 - it is told
            self.resolver.failed(self.query, fault)


class Resolver:
    """Resolves hosts for one event loop; create it inside that loop, and close it.

    ``timeout`` is the limit for one name in seconds. ``nameservers`` (``IP``, ``IP:PORT`` or
    ``[IPv6]:PORT``) replace those of resolv.conf. ``clock`` gives the seconds by which
    entries age; tests may set it. What is asked and kept is counted in ``row`` (relay.columns).
    """

    def __init__(
        self,
        timeout: float,
        *,
        nameservers: Sequence[str] | None = None,
        hosts_file: str = "/etc/hosts",
        row: memoryview | None = None,
    ) -> None:
        self.clock: Callable[[], float] = time.monotonic
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._hosts = Hosts(hosts_file)
        self._row = columns.private() if row is None else row
        self._cache = Cache()
        self._queries: dict[str, _Query] = {}  # begun longest ago first
        self._lookups: set[_Lookup] = set()  # that c-ares has not finished
        # When a candidate that has no answer by then is asked for again.
        self._impatient: deque[tuple[float, _Query, str]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        # By the clock of the moment: tests set it.
        self._channels = Channels(timeout, nameservers, lambda: self.clock())
        self._search: search.Search | None = None
        self._faults = Seldom(log)
        self._closed = False

    def cached(self, host: str) -> tuple[str, ...] | None:
        """The addresses of ``host`` if all are known without waiting, else None."""
        name = host.lower()
        now = self.clock()
        hosts = self._hosts
        if now >= hosts.check_at:
            hosts.look(now)
        addresses = hosts.names.get(name[:-1] if name[-1:] == "." else name)
        if addresses is not None:
            return addresses
        answer = self._cache.fresh(name, now) if name in self._cache else None
        return _unasked(name) if answer is None else answer.addresses or None

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
        answer = self._cache.fresh(name, self.clock())
        if answer is None:
            query = self._queries.get(name)
            if query is None:
                query = self._ask(name)
            answer = query.answer
            if answer is None:
                waiter: asyncio.Future[Answer] = self._loop.create_future()
                query.waiting.append(waiter)
                answer = await waiter
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
        if query is None:
            answer = self._cache.get(name)
            return answer.whole if answer is not None else None
        if query.answer is None:
            return None
        if query.whole is None:
            query.whole = self._loop.create_future()
        return query.whole

    def limit(self, timeout: float) -> None:
        """Another limit for each name from here on."""
        self._timeout = timeout
        self._channels.limit(timeout)

    async def close(self) -> None:
        """Ends every query (those who wait get ``dns_error``) and the channels."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for query in list(self._queries.values()):
            self._settle(query, failed(query.name, "the proxy is stopping"))
        channels = {lookup.channel for lookup in self._lookups}
        last = self._channels.last()
        for channel in channels | ({last} if last is not None else set()):
            await channel.close()

    # ---- one query -----------------------------------------------------------------------

    def _ask(self, name: str) -> _Query:
        """Starts the query for a name."""
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
        if self._search is None or self._channels.is_old():
            self._search = search.read()  # resolv.conf is followed, as c-ares does
        candidates = iter(self._search.candidates(name))
        query = _Query(name, candidates, self._loop.time() + self._timeout)
        self._next_candidate(query)
        self._queries[name] = query
        self._row[columns.LOOKUPS] += 1
        self._row[columns.NAMES_ASKED] = len(self._queries)
        if self._timer is None:
            self._timer = self._loop.call_later(ares.TICK, self._tick)
        return query

    def _next_candidate(self, query: _Query) -> bool:
        """Asks for both families of the next name that may be meant. False if there is none."""
        candidate = next(query.candidates, None)
        if candidate is None:
            return False
        channel = self._channels.usual()
        query.candidate, query.parts = candidate, {}
        for family in FAMILIES:
            query.asked[family] = 0
            self._look_up(query, family, channel)
        self._impatient.append((self._loop.time() + PATIENCE, query, candidate))
        return True

    def _look_up(self, query: _Query, family: socket.AddressFamily, channel: ares.Channel) -> None:
        lookup = _Lookup(self, query, family, channel)
        self._lookups.add(lookup)
        query.asked[family] += 1
        try:
            channel.ask(query.candidate, family, lookup.answered)
        except BaseException:
            query.asked[family] -= 1
            self._lookups.discard(lookup)
            raise

    def _tick(self) -> None:
        """Looks at what is late, and comes again while anybody waits."""
        self._timer = None
        try:
            self._look_at_late(self._loop.time())
        finally:
            if self._queries:
                self._timer = self._loop.call_later(ares.TICK, self._tick)
            else:
                self._impatient.clear()

    def _look_at_late(self, now: float) -> None:
        """Both lists are in the order of time. A fault is that of one look-up: what is behind it
        has its turn."""
        expired = []
        for query in self._queries.values():
            if query.expires > now:
                break
            expired.append(query)
        for query in expired:
            try:
                self._expired(query)
            except Exception as fault:  # noqa: BLE001 - it is told
                self.failed(query, fault)
        while self._impatient and self._impatient[0][0] <= now:
            _, query, candidate = self._impatient.popleft()
            if query.over or candidate != query.candidate:
                continue
            try:
                self._persist(query)
            except Exception as fault:  # noqa: BLE001 - it is told
                self._tell(fault)  # what was asked before may be answered yet

    def _tell(self, fault: Exception) -> None:
        self._faults.say("fault", logging.ERROR, _FAULT, error=fault)

    def failed(self, query: _Query, fault: Exception) -> None:
        """A fault of ours ends a look-up."""
        self._tell(fault)
        if not query.over:
            self._settle(query, failed(query.name, _FAULT, "proxy_internal_error"))

    def _persist(self, query: _Query) -> None:
        """A name is slow, or its packets are lost."""
        for family in FAMILIES:
            if family not in query.parts:
                self._look_up(query, family, self._channels.patient())

    def answered(self, lookup: _Lookup, part: Part) -> None:
        """c-ares is done with one family of a name."""
        query, family = lookup.query, lookup.family
        self._lookups.discard(lookup)
        if part.code != ares.ETIMEOUT:
            self._channels.heard(lookup.channel)
        if lookup.candidate != query.candidate:
            return
        query.asked[family] -= 1
        if family in query.parts or (part.code == ares.ETIMEOUT and query.asked[family]):
            return
        query.parts[family] = part
        if query.over:
            self._keep_late(query)
        elif len(query.parts) == len(FAMILIES):
            self._complete(query)
        elif part.addresses:
            query.timer = self._loop.call_later(RESOLUTION_DELAY, self._go_on, query)

    def _complete(self, query: _Query) -> None:
        """All is known of a candidate."""
        try:
            if self._is_elsewhere(query) and self._next_candidate(query):
                return
        except Failure as failure:
            self._settle(query, failed(query.name, failure.detail, failure.error, failure.why))
            return
        self._settle(query, answer_of(query.name, query.parts, self.clock()))

    def _is_elsewhere(self, query: _Query) -> bool:
        """Whether the name that was asked for is not there, so that another may be meant.

        A name without any data is there in one way only: as glibc, c-ares goes on behind
        it. A failing server says nothing about a name; but systemd-resolved fails for
        each name of one label.
        """
        codes = {part.code for part in query.parts.values()}
        allowed = {ares.ENOTFOUND, ares.ENODATA}
        if ares.ENOTFOUND in codes or query.candidate.count(".") == 1:
            allowed |= {ares.ESERVFAIL, ares.EREFUSED}
        return codes <= allowed

    def _go_on(self, query: _Query) -> None:
        """The second family is late: those who wait go on with the first."""
        if query.answer is None:
            query.tell(answer_of(query.name, query.parts, self.clock()))

    def _expired(self, query: _Query) -> None:
        """The limit is reached: what has come must suffice."""
        answer = answer_of(query.name, query.parts, self.clock())
        if not answer.addresses:
            detail = f"no answer within {self._timeout:g} s"
            answer = failed(query.name, detail, "dns_timeout")
        self._settle(query, answer)

    def _settle(self, query: _Query, answer: Answer) -> None:
        """Ends a query: keeps what it has found and tells those who wait."""
        if query.timer is not None:
            query.timer.cancel()
        query.over = True
        self._queries.pop(query.name, None)
        self._row[columns.NAMES_ASKED] = len(self._queries)
        first = query.answer
        try:
            if first is not None and query.whole is None:
                query.whole = self._loop.create_future()
            if not self._closed and (answer.addresses or answer.error == "dns_error"):
                if first is not None and first.addresses != answer.addresses:
                    answer = answer._replace(whole=query.whole)
                self._keep(query.name, answer, self.clock())
        finally:
            if first is None:
                query.tell(answer)
            if query.whole is not None:
                query.whole.set_result(None)

    def _keep_late(self, query: _Query) -> None:
        """Keeps what comes after the limit, unless a newer query has found more."""
        now = self.clock()
        answer = answer_of(query.name, query.parts, now)
        known = self._cache.fresh(query.name, now)
        newer = known.addresses if known is not None else ()
        if answer.addresses and set(newer) <= set(answer.addresses):
            self._keep(query.name, answer, now)

    def _keep(self, name: str, answer: Answer, now: float) -> None:
        self._cache.keep(name, answer, now)
        self._row[columns.NAMES_CACHED] = len(self._cache)


def unasked(name: str) -> tuple[str, ...] | None:
    """The addresses of a name (lower case) that needs no query: of an address literal, or of
    localhost (RFC 6761 section 6.3). None for any other name."""
    address = literal(name)
    if address is not None:
        return (address,)
    return LOOPBACK if is_localhost(name.removesuffix(".")) else None


_unasked = lru_cache(maxsize=LITERALS)(unasked)
