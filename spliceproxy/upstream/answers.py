"""What is known of names: made of what c-ares says of each family, and kept while it holds."""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from spliceproxy.errors import NOTHING_LEFT, ErrorType
from spliceproxy.upstream import ares
from spliceproxy.upstream.addresses import interleave, literal
from spliceproxy.upstream.channels import NO_DESCRIPTORS, is_exhausted
from spliceproxy.upstream.preference import prefers_ipv4
from spliceproxy.upstream.versions import ANY, Versions

if TYPE_CHECKING:
    from pycares import AddrInfoResult

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

MAX_ENTRIES = 100_000
"""Names kept, of 0.4 KiB each. Beyond that the name goes that was used longest ago."""

FORGOTTEN = 2
"""Names that go when one is stored, if their time is over and they were used longest ago. So the
number of names follows what is asked for, and nobody ever sweeps all of them."""

MAX_ADDRESSES = 16
"""Addresses kept for a name. If so many do not answer, the origin is dead. An answer with hundreds
would turn one request into hundreds of connection attempts."""

STALE_TTL = 30.0
"""Seconds for which an old answer is used without asking again, once a look-up has failed (RFC
8767 section 5)."""


class Answer(NamedTuple):
    """What is known of a name: addresses, or the failure to report."""

    expires: float
    addresses: tuple[str, ...]
    error: ErrorType | None
    detail: str
    why: str = ""  # for the reason phrase, "" for what the error has
    whole: asyncio.Future[None] | None = None  # done, if somebody may have gone on with less
    old_since: float = 0.0  # of one that stands in for none: when its own time was over


class Part(NamedTuple):
    """What c-ares says of one family of one name; ``code`` is its error, 0 for none."""

    addresses: tuple[str, ...]
    ttl: float
    code: int
    detail: str


class Cache(OrderedDict[str, Answer]):
    """Answers by name, the one that was used longest ago first. ``old`` is for how many seconds
    they are kept behind their time."""

    old = 0.0

    def fresh(self, name: str, now: float) -> Answer | None:
        """What still holds."""
        answer = self.get(name)
        if answer is None or answer.expires <= now:
            return None
        if 2 * len(self) > MAX_ENTRIES:  # before there is room for all
            self.move_to_end(name)
        return answer

    def stale(self, name: str, now: float) -> Answer | None:
        """Addresses whose time is over, but not for long, as an answer of now."""
        answer = self.get(name)
        if answer is None or not answer.addresses:
            return None
        since = answer.old_since or answer.expires
        end = since + self.old
        if now >= end:
            return None
        return Answer(min(now + STALE_TTL, end), answer.addresses, None, "", old_since=since)

    def keep(self, name: str, answer: Answer, now: float) -> None:
        """For as long as it holds, and there is room."""
        for _ in range(FORGOTTEN):
            oldest = next(iter(self), None)
            if oldest is None or self[oldest].expires + self.old > now:
                break
            del self[oldest]
        self[name] = answer
        self.move_to_end(name)
        if len(self) > MAX_ENTRIES:
            self.popitem(last=False)


def part_of(result: AddrInfoResult | None, error: int | None) -> Part:
    """Of what c-ares answers. That a family has no address may be kept for long, a failure may
    not."""
    if result is None:
        from pycares.errno import strerror

        code = error or ares.ESERVFAIL
        ttl = MAX_TTL if code in (ares.ENOTFOUND, ares.ENODATA) else HALF_TTL
        return Part((), ttl, code, str(strerror(code)))
    texts = (literal(node.addr[0].decode("ascii")) for node in result.nodes)
    addresses = tuple(text for text in texts if text is not None)
    if not addresses:
        return Part((), MAX_TTL, ares.ENODATA, "no address")
    ttl = min([node.ttl for node in result.nodes] + [cname.ttl for cname in result.cnames])
    return Part(addresses, ttl, 0, "")


def is_silent(parts: Mapping[socket.AddressFamily, Part], asked: int) -> bool:
    """Whether nobody who knows has said that a name has no address: servers are silent, or fail.
    ``asked`` families were asked for."""
    said = {ares.ENOTFOUND, ares.ENODATA}
    return len(parts) < asked or not said >= {part.code for part in parts.values()}


def answer_of(
    name: str,
    parts: Mapping[socket.AddressFamily, Part],
    now: float,
    versions: Versions = ANY,
) -> Answer:
    """What the parts that have come make together."""
    six, four = (
        parts[family].addresses if family in parts else ()
        for family in (socket.AF_INET6, socket.AF_INET)
    )
    if not six and not four:
        return failed(name, *_reason(parts), now=now)
    if versions.first is not None:
        both = versions.of(six + four)
    else:
        both = six + four if not (six and four and prefers_ipv4(six[0], four[0])) else four + six
    ttl = min(part.ttl for part in parts.values())
    if len(parts) < len(versions.families):
        ttl = min(ttl, HALF_TTL)
    expires = now + min(max(ttl, MIN_TTL), MAX_TTL)
    return Answer(expires, interleave(both)[:MAX_ADDRESSES], None, "")


def failed(
    name: str, detail: str, error: ErrorType = "dns_error", why: str = "", now: float = 0.0
) -> Answer:
    """An answer without an address."""
    return Answer(now + NEGATIVE_TTL, (), error, f"{name}: {detail}", why)


WHY = {
    ares.ENODATA: "name has no address",
    ares.ENOTFOUND: "name not found",
    ares.EREFUSED: "DNS server refuses",
    ares.ESERVFAIL: "DNS server has failed",
    ares.ETIMEOUT: "",  # with the number of the settings
}
"""What the reason phrase says, by c-ares' error: a person can correct a name."""


def _reason(parts: Mapping[socket.AddressFamily, Part]) -> tuple[str, ErrorType, str]:
    """The detail and the type of a failed look-up, and the reason. A server's fault says more
    than that there is nothing, and "no data" says more than "no name"."""
    order = (ares.ENOTFOUND, ares.ENODATA)
    worst = max(
        parts.values(),
        key=lambda part: order.index(part.code) if part.code in order else len(order),
        default=Part((), 0.0, ares.ENODATA, "no address"),
    )
    if worst.code == ares.ECONNREFUSED and is_exhausted():
        return NO_DESCRIPTORS, "connection_limit_reached", NOTHING_LEFT
    error: ErrorType = "dns_timeout" if worst.code == ares.ETIMEOUT else "dns_error"
    return worst.detail, error, WHY.get(worst.code, "DNS has failed")
