"""From a host to the IP addresses to dial: literals, /etc/hosts and the DNS, cached.

Queries go through c-ares (by aiodns), which works on a thread of its own and hands each
answer to the event loop: no name, however slow, holds up the loop or another name.

``resolv.conf`` is obeyed as getaddrinfo(3) does, ``search`` and ``ndots`` included: in
containers "redis" and "redis.prod" are names that exist only so. A name with a trailing dot
is absolute.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import aiodns
import pycares
from aiodns.error import ARES_ETIMEOUT, DNSError

from spliceproxy.errors import Failure
from spliceproxy.upstream.addresses import interleave, literal
from spliceproxy.upstream.hosts import Hosts, is_localhost

MIN_TTL = 2.0
"""Seconds an answer is kept at least. A TTL of 0 means one transaction (RFC 1035 section
3.2.1); a page and its parts are one, and each would otherwise wait for a query."""

MAX_TTL = 300.0
"""Seconds an answer is kept at most: a record that says "a day" is not worth a day of dialling
an origin that has moved, and one query per name in five minutes costs nothing."""

NEGATIVE_TTL = 3.0
"""Seconds a failure is kept: shields the name server from a client that retries in a loop,
short enough that a name which has just been made is found (RFC 2308 allows hours)."""

MAX_ENTRIES = 8192
"""Names kept, a few MiB. Beyond it the one stored longest ago goes, which with TTLs of at
most MAX_TTL is nearly the one that expires next."""

MAX_ADDRESSES = 16
"""Addresses kept per name: so many that do not answer are a dead origin, and an answer with
hundreds would turn one request into hundreds of connection attempts."""

CHANNEL_AGE = 30.0
CHANNEL_LOOKUPS = 4096
"""Seconds and look-ups after which the next look-up gets a new c-ares channel. c-ares has a
cache of its own that aiodns cannot switch off: it has no size limit, and it keeps an answer
without records for an hour whatever its SOA says. A channel costs 0.2 ms."""

QUERY_SHARE = 5
QUERY_TRIES = 3
QUERY_TIMEOUT = 2.0
"""A server has a fifth of the limit, at most QUERY_TIMEOUT seconds (c-ares' default), to
answer before the next one is asked; c-ares doubles it from round to round. So a lost packet
and a dead server, or two, leave time for an answer within the limit."""

LOOPBACK = ("::1", "127.0.0.1")

_NAME = re.compile(r"(?=.{1,253}\.?\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?\Z")
_ENDS_IN_NUMBER = re.compile(r"(?:\A|\.)(?:[0-9]+|0x[0-9a-f]*)\.?\Z")


class _Answer(NamedTuple):
    """What is known of a name; without addresses, the failure to report."""

    expires: float
    addresses: tuple[str, ...]
    error: str
    detail: str


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
        self._nameservers = nameservers
        self._hosts = Hosts(hosts_file)
        self._cache: dict[str, _Answer] = {}
        self._queries: dict[str, asyncio.Future[_Answer]] = {}
        # Every look-up that c-ares has not finished, with its channel, which must live on.
        self._lookups: dict[asyncio.Future[pycares.AddrInfoResult], aiodns.DNSResolver] = {}
        self._channel = self._new_channel()
        self._closed = False

    def cached(self, host: str) -> tuple[str, ...] | None:
        """The addresses of ``host`` if they are known without waiting, else None."""
        name = host.lower()
        now = self.clock()
        addresses = self._hosts.get(name[:-1] if name[-1:] == "." else name, now)
        if addresses is not None:
            return addresses
        answer = self._cache.get(name)
        if answer is not None and answer.expires > now:
            return answer.addresses or None
        address = literal(name)
        if address is not None:
            return (address,)
        return LOOPBACK if is_localhost(name.removesuffix(".")) else None

    async def resolve(self, host: str) -> tuple[str, ...]:
        """The addresses of ``host`` in the order to try; never empty.

        The order is that of RFC 6724 as c-ares finds it, families by turns (RFC 8305
        section 4). Failure: ``dns_timeout``, or ``dns_error`` for a name that is none, has no
        address, or whose name servers fail. All who ask for a name at once share one query;
        it goes on, and its answer is kept, when those who asked are cancelled.
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
            answer = await asyncio.shield(query)
        if not answer.addresses:
            raise Failure(answer.error, answer.detail)
        return answer.addresses

    async def close(self) -> None:
        """Ends every query (those who wait get ``dns_error``) and the c-ares threads."""
        self._closed = True
        for name, query in self._queries.items():
            query.set_result(_failed(name, "the proxy is stopping"))
        self._queries.clear()
        for channel in {self._channel, *self._lookups.values()}:
            await channel.close()
        if self._lookups:  # cancelled: their callbacks are already on the loop
            await asyncio.wait(self._lookups, timeout=1.0)

    def _ask(self, name: str) -> asyncio.Future[_Answer]:
        """Starts the query for a name; its future never has an exception."""
        if self._closed:
            raise Failure("dns_error", f"{name}: the proxy is stopping")
        if not _NAME.match(name):
            raise Failure("dns_error", f"{name}: not a host name")
        if _ENDS_IN_NUMBER.search(name):
            # What inet_aton(3) and some resolvers take for an address.
            raise Failure("dns_error", f"{name}: neither an IP address nor a host name")
        now = self.clock()
        if now >= self._channel_until or self._channel_lookups >= CHANNEL_LOOKUPS:
            # The old channel closes itself when its last look-up is done.
            self._channel = self._new_channel()
        self._channel_lookups += 1
        query: asyncio.Future[_Answer] = self._loop.create_future()
        self._queries[name] = query
        timer = self._loop.call_later(self._timeout, self._expired, name, query)
        lookup = self._channel.getaddrinfo(name, type=socket.SOCK_STREAM)
        self._lookups[lookup] = self._channel
        lookup.add_done_callback(partial(self._answered, name, query, timer))
        return query

    def _answered(
        self,
        name: str,
        query: asyncio.Future[_Answer],
        timer: asyncio.TimerHandle,
        lookup: asyncio.Future[pycares.AddrInfoResult],
    ) -> None:
        """c-ares is done with a name: keeps what it found and tells those who wait."""
        timer.cancel()
        del self._lookups[lookup]
        error = lookup.exception()
        answer = (
            _found(name, lookup.result(), self.clock())
            if error is None
            else _failed(name, *_reason(error), now=self.clock())
        )
        late = query.done()  # timed out; a newer query may have found more than a failure
        if answer.addresses or (answer.error == "dns_error" and not late):
            self._keep(name, answer)
        if not late:
            del self._queries[name]
            query.set_result(answer)

    def _expired(self, name: str, query: asyncio.Future[_Answer]) -> None:
        if not query.done():
            del self._queries[name]
            detail = f"no answer within {self._timeout:g} s"
            query.set_result(_failed(name, detail, "dns_timeout"))

    def _keep(self, name: str, answer: _Answer) -> None:
        self._cache.pop(name, None)  # a name that is stored again goes to the end
        if len(self._cache) >= MAX_ENTRIES:
            del self._cache[next(iter(self._cache))]
        self._cache[name] = answer

    def _new_channel(self) -> aiodns.DNSResolver:
        self._channel_until = self.clock() + CHANNEL_AGE
        self._channel_lookups = 0
        try:
            return aiodns.DNSResolver(
                nameservers=self._nameservers,
                loop=self._loop,
                timeout=min(self._timeout / QUERY_SHARE, QUERY_TIMEOUT),
                tries=QUERY_TRIES,
                # No `lookups`, nor any other text: pycares (5.2) hands c-ares memory that it
                # has freed. So c-ares looks into /etc/hosts, too, behind us.
            )
        except pycares.AresError as error:
            servers = ", ".join(self._nameservers or ("of resolv.conf",))
            raise ValueError(f"name servers {servers}: {error.args[-1]}") from error


def _found(name: str, result: pycares.AddrInfoResult, now: float) -> _Answer:
    """The answer that c-ares' result is."""
    texts = (literal(node.addr[0].decode("ascii")) for node in result.nodes)
    addresses = interleave(text for text in texts if text is not None)[:MAX_ADDRESSES]
    if not addresses:
        return _failed(name, "no address", now=now)
    ttl = min([node.ttl for node in result.nodes] + [cname.ttl for cname in result.cnames])
    return _Answer(now + min(max(ttl, MIN_TTL), MAX_TTL), addresses, "", "")


def _failed(name: str, detail: str, error: str = "dns_error", now: float = 0.0) -> _Answer:
    return _Answer(now + NEGATIVE_TTL, (), error, f"{name}: {detail}")


def _reason(error: BaseException) -> tuple[str, str]:
    """The detail and the type of a failed look-up."""
    if not isinstance(error, DNSError):
        return str(error), "dns_error"
    code, text = error.args
    return str(text), "dns_timeout" if code == ARES_ETIMEOUT else "dns_error"
