"""From a host to the IP addresses to dial: literals, /etc/hosts and the DNS, cached.

Queries go through c-ares, run by the event loop: no name, however slow, holds up the loop or
another name. A look-up costs a future for each who waits, and no task.

Both families are asked for at once, each by a query of its own. If one has not come
RESOLUTION_DELAY after the other, those who wait go on with what is there (RFC 8305 section 3), and
:meth:`late` tells them when the look-up is over.

``resolv.conf`` is obeyed as by getaddrinfo(3), ``search`` and ``ndots`` included. In containers,
names such as "redis" and "redis.prod" exist only through them. A name with a trailing dot is
absolute.

Where servers are silent, an answer whose time is over may stand in for theirs (RFC 8767), for as
long as the settings say. Whoever asks judges its addresses as those of any other.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from spliceproxy.config import Config, NamesConfig
from spliceproxy.errors import Failure
from spliceproxy.messages import log
from spliceproxy.relay import columns
from spliceproxy.seldom import Seldom
from spliceproxy.upstream import ares, search
from spliceproxy.upstream.addresses import literal
from spliceproxy.upstream.answers import (
    Answer,
    Cache,
    Part,
    answer_of,
    failed,
    is_silent,
)
from spliceproxy.upstream.channels import Channels
from spliceproxy.upstream.hosts import Hosts, is_localhost
from spliceproxy.upstream.query import Lookup, Query
from spliceproxy.upstream.versions import ANY, BY_NAME

if TYPE_CHECKING:
    pass

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

STALE_PATIENCE = 1.8
"""Seconds after which those who wait get an old answer, while the look-up goes on (RFC 8767 section
5), or half of the limit for a name if that is less."""

LOOPBACK = ("::1", "127.0.0.1")

_NAME = re.compile(r"(?=.{1,253}\.?\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?\Z")
_ENDS_IN_NUMBER = re.compile(r"(?:\A|\.)(?:[0-9]+|0x[0-9a-f]*)\.?\Z")
_NO_NAME = "no valid host name"
_FAULT = "the look-up of a name has failed within the proxy"
_STALE = "no answer for %s; the one whose time is over for %.0f s is used"


def hosts_path(names: NamesConfig) -> str:
    """The file that is read for them."""
    return os.devnull if names.hosts is None else str(names.hosts)


class Resolver:
    """Resolves hosts for one event loop; create it inside that loop, and close it.

    ``timeout`` is the limit for one name in seconds. ``nameservers`` (``IP``, ``IP:PORT`` or
    ``[IPv6]:PORT``) replace those of resolv.conf. ``ip_version`` is one of
    upstream.versions.BY_NAME. For ``stale`` seconds behind its time an answer may stand in for
    none. ``clock`` gives the seconds by which entries age; tests may set it. What is asked and
    kept is counted in ``row`` (relay.columns).
    """

    def __init__(
        self,
        timeout: float,
        *,
        nameservers: Sequence[str] | None = None,
        hosts_file: str = "/etc/hosts",
        ip_version: str = "any",
        stale: float = 0.0,
        row: memoryview | None = None,
    ) -> None:
        self.clock: Callable[[], float] = time.monotonic
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._versions = BY_NAME[ip_version]
        self._hosts = Hosts(hosts_file, self._versions)
        self._row = columns.private() if row is None else row
        self._cache = Cache()
        self._cache.old = stale
        self._generation = 0
        self._queries: dict[str, Query] = {}  # begun longest ago first
        self._lookups: set[Lookup] = set()  # that c-ares has not finished
        # When a candidate that has no answer by then is asked for again.
        self._impatient: deque[tuple[float, Query, str]] = deque()
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
        if answer is not None:
            return answer.addresses or None
        known = _unasked(name)
        return known if known is None or self._versions is ANY else self._versions.of(known) or None

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
        if self._versions is not ANY and _unasked(name) is not None:
            detail = f"{host}: no {self._versions.words} address"
            raise Failure("dns_error", detail, why=f"only {self._versions.words} is used")
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

    def change(self, timeout: float, names: NamesConfig) -> None:
        """Other settings for each name from here on. What others have said is forgotten if others
        are asked, or for other addresses."""
        versions = BY_NAME[names.ip_version]
        hosts = Hosts(hosts_path(names), versions)
        if self._channels.change(timeout, names.servers or None) or versions != self._versions:
            self._cache = Cache()
            self._generation += 1
        self._timeout = timeout
        self._versions = versions
        self._hosts = hosts
        self._cache.old = names.stale

    @classmethod
    def of(cls, config: Config, row: memoryview | None = None) -> Resolver:
        """As the settings say."""
        names = config.names
        return cls(
            config.timeouts.lookup,
            nameservers=names.servers or None,
            hosts_file=hosts_path(names),
            ip_version=names.ip_version,
            stale=names.stale,
            row=row,
        )

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

    def _ask(self, name: str) -> Query:
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
        old = self._cache.stale(name, self.clock()) if self._cache.old else None
        query = Query(name, candidates, self._loop.time() + self._timeout, old, self._generation)
        if old is not None:
            patience = min(STALE_PATIENCE, self._timeout / 2)
            query.timer = self._loop.call_later(patience, self._use_old, query, old)
        self._next_candidate(query)
        self._queries[name] = query
        self._row[columns.LOOKUPS] += 1
        self._row[columns.NAMES_ASKED] = len(self._queries)
        if self._timer is None:
            self._timer = self._loop.call_later(ares.TICK, self._tick)
        return query

    def _next_candidate(self, query: Query) -> bool:
        """Asks for both families of the next name that may be meant. False if there is none."""
        candidate = next(query.candidates, None)
        if candidate is None:
            return False
        channel = self._channels.usual()
        query.candidate, query.parts = candidate, {}
        for family in self._versions.families:
            query.asked[family] = 0
            self._look_up(query, family, channel)
        self._impatient.append((self._loop.time() + PATIENCE, query, candidate))
        return True

    def _look_up(self, query: Query, family: socket.AddressFamily, channel: ares.Channel) -> None:
        lookup = Lookup(query, family, channel, self.answered, self.failed)
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

    def failed(self, query: Query, fault: Exception) -> None:
        """A fault of ours ends a look-up."""
        self._tell(fault)
        if not query.over:
            self._settle(query, failed(query.name, _FAULT, "proxy_internal_error"))

    def _persist(self, query: Query) -> None:
        """A name is slow, or its packets are lost."""
        for family in self._versions.families:
            if family not in query.parts:
                self._look_up(query, family, self._channels.patient())

    def answered(self, lookup: Lookup, part: Part) -> None:
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
        elif len(query.parts) >= len(self._versions.families):
            self._complete(query)
        elif part.addresses:
            if query.timer is not None:
                query.timer.cancel()
            query.timer = self._loop.call_later(RESOLUTION_DELAY, self._go_on, query)

    def _complete(self, query: Query) -> None:
        """All is known of a candidate."""
        try:
            if self._is_elsewhere(query) and self._next_candidate(query):
                return
        except Failure as failure:
            self._settle(query, failed(query.name, failure.detail, failure.error, failure.why))
            return
        self._settle(query, self._made_of(query))

    def _is_elsewhere(self, query: Query) -> bool:
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

    def _go_on(self, query: Query) -> None:
        """The second family is late: those who wait go on with the first."""
        if query.answer is None:
            query.tell(self._made_of(query))

    def _made_of(self, query: Query) -> Answer:
        return answer_of(query.name, query.parts, self.clock(), self._versions)

    def _expired(self, query: Query) -> None:
        """The limit is reached: what has come must suffice."""
        answer = self._made_of(query)
        if not answer.addresses:
            detail = f"no answer within {self._timeout:g} s"
            answer = failed(query.name, detail, "dns_timeout")
        self._settle(query, answer)

    def _settle(self, query: Query, answer: Answer) -> None:
        """Ends a query: keeps what it has found and tells those who wait."""
        if query.timer is not None:
            query.timer.cancel()
        query.over = True
        if answer.error is not None and query.old is not None:
            answer = self._instead(query, answer)
        self._queries.pop(query.name, None)
        self._row[columns.NAMES_ASKED] = len(self._queries)
        first = query.answer
        try:
            if first is not None and query.whole is None:
                query.whole = self._loop.create_future()
            if not self._closed and (answer.addresses or answer.error == "dns_error"):
                if first is not None and first.addresses != answer.addresses:
                    answer = answer._replace(whole=query.whole)
                self._keep(query, answer, self.clock())
        finally:
            if first is None:
                query.tell(answer)
            if query.whole is not None:
                query.whole.set_result(None)

    def _keep_late(self, query: Query) -> None:
        """Keeps what comes after the limit, unless a newer query has found more."""
        now = self.clock()
        answer = self._made_of(query)
        known = self._cache.fresh(query.name, now)
        newer = known.addresses if known is not None else ()
        if answer.addresses and (
            set(newer) <= set(answer.addresses) or (known is not None and known.old_since)
        ):
            self._keep(query, answer, now)

    def _use_old(self, query: Query, old: Answer) -> None:
        """Nobody has answered yet: those who wait go on with what was true a while ago."""
        if query.answer is None:
            self._tell_old(query.name, old)
            query.tell(old)

    def _instead(self, query: Query, answer: Answer) -> Answer:
        """What is kept of a look-up that has failed: its old answer, if those who know have not
        said that there is nothing."""
        old = self._cache.stale(query.name, self.clock())
        if old is None or self._closed or answer.error == "proxy_internal_error":
            return answer
        if not is_silent(query.parts, len(self._versions.families)):
            return answer
        if query.answer is None:
            self._tell_old(query.name, old)
        return old

    def _tell_old(self, name: str, old: Answer) -> None:
        self._row[columns.NAMES_STALE] += 1
        self._faults.say("stale", logging.WARNING, _STALE, name, self.clock() - old.old_since)

    def _keep(self, query: Query, answer: Answer, now: float) -> None:
        if query.generation == self._generation:
            self._cache.keep(query.name, answer, now)
        self._row[columns.NAMES_CACHED] = len(self._cache)


def unasked(name: str) -> tuple[str, ...] | None:
    """The addresses of a name (lower case) that needs no query: of an address literal, or of
    localhost (RFC 6761 section 6.3). None for any other name."""
    address = literal(name)
    if address is not None:
        return (address,)
    return LOOPBACK if is_localhost(name.removesuffix(".")) else None


_unasked = lru_cache(maxsize=LITERALS)(unasked)
