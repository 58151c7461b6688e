"""Limits: which of them count a request, and by what."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from spliceproxy.config import AuthConfig, LimitConfig
from spliceproxy.errors import Denied
from spliceproxy.policy.names import canonical
from spliceproxy.policy.networks import bare, number_of
from spliceproxy.policy.rules import RuleSet
from spliceproxy.relay.meters import DAY_SECONDS, HOUR_SECONDS, Meters, Place

MOST = 64
"""Limits that may count one request, those of each of its groups by themselves."""

NOBODY = "-"
"""Stands for the user, and for the group, of requests that have none. No name is empty; one that is
the same counts together with them."""

UNIX = "unix"
"""Stands for the address of clients of Unix sockets."""

CACHED = 4096
"""Addresses of clients whose network is remembered."""

SECOND = 1_000_000_000
"""In ns."""

REST = 3_000_000_000
"""Seconds after which a burst is there again at the latest. In ns they fit into 63 bits."""

FOR_NOTHING, FOR_CLIENT, FOR_REQUEST = range(3)
"""For how long a request counts as a connection: not at all, until its client's connection closes,
or until it is over, as a tunnel maybe (``native/lane/types.pxd`` has the same)."""

FITS, STALE, CONNECTIONS, REQUESTS, TUNNELS, BYTES = range(6)
"""What a request did not fit into; STALE: its entry is another's by now
(``native/lane/meters.pxd`` has the same)."""

_WORDS = {
    CONNECTIONS: ("connections at a time", "connections"),
    REQUESTS: ("requests in a second", "requests_per_second"),
    TUNNELS: ("new tunnels in a second", "new_tunnels_per_second"),
}
_OTHERS = {
    "rate_in": "bytes in a second from clients",
    "rate_out": "bytes in a second to clients",
    "bytes_per_day": "bytes in a day",
    "bytes_per_hour": "bytes in an hour",
    "tunnel_seconds": "seconds for a tunnel",
}

_CONDITIONS = "clients", "users", "groups"


class Numbers(NamedTuple):
    """What a limit allows. ``most``: connections, 0 for any number; ``scope``: one of FOR_NOTHING
    and its like. Of requests, and of new tunnels: after how many ns there is another one, 0 for any
    number, and ns for as many as may come at once. ``budgets``: bytes in a day and in an hour, 0
    for any number. ``watched``: what counts for it is looked at again and again, for a rate or for
    its life; of a budget the lane keeps the account by itself, unless it is ``lent``: other
    machines share it, by a store. ``paced``: that may come to a rate."""

    most: int
    scope: int
    intervals: tuple[int, int]
    rooms: tuple[int, int]
    budgets: tuple[int, int]
    watched: bool
    paced: bool
    lent: bool = False

    @property
    def lasts(self) -> bool:
        """Whether what Python serves, or has given to the relay, is looked at again and again."""
        return self.watched or any(self.budgets)


class Meter(NamedTuple):
    """A limit that counts a request, and where."""

    place: Place
    numbers: Numbers
    limit: LimitConfig


class Limited(Denied):
    """A request that does not fit into a limit. ``wait``: after so many seconds it may."""

    kind = "limit"

    def __init__(self, limit: LimitConfig, why: int, wait: float) -> None:
        whose = "" if limit.by == "total" else f" for each {limit.by}"
        if why == BYTES:
            keys = "bytes_per_day", "bytes_per_hour"
            words = " and ".join(
                counted(getattr(limit, key), _OTHERS[key])
                for key in keys
                if getattr(limit, key) is not None
            )
            more = "they are used up"
        else:
            name, key = _WORDS[why]
            words, more = counted(getattr(limit, key), name), "this is one more"
        super().__init__(
            f"This proxy allows {words}{whose}, and {more}.",
            limit.id,
            429,
            advice="Try it again later, or ask the administrator of this proxy for more.",
        )
        self.fields = (b"Retry-After: %d" % max(1, math.ceil(wait)),)


class Full(Denied):
    """There is no room to count a request for a limit."""

    kind = "limit"

    def __init__(self, limit: LimitConfig) -> None:
        super().__init__(
            f"This proxy has no room to count one more {limit.by}.",
            limit.id,
            503,
            advice="Try it again later.",
        )


def counted(number: float, words: str) -> str:
    """``words`` are for more than one."""
    return f"{number:.15g} {words.replace('s ', ' ', 1) if number == 1 else words}"


def allowance(limit: LimitConfig) -> str:
    """What it allows, in words."""
    words = {**{key: words for words, key in _WORDS.values()}, **_OTHERS}
    given = {key: getattr(limit, key) for key in words}
    return ", ".join(
        counted(value, words[key]) for key, value in given.items() if value is not None
    )


def numbers_of(limit: LimitConfig, *, lent: bool = False) -> Numbers:
    rates = limit.requests_per_second, limit.new_tunnels_per_second
    intervals = [0 if rate is None else max(1, round(SECOND / rate)) for rate in rates]
    bursts = [limit.burst or max(1, int(rate or 0)) for rate in rates]
    scope = FOR_NOTHING
    if limit.connections is not None or is_watched(limit):
        scope = FOR_REQUEST if limit.by == "destination" else FOR_CLIENT
    budgets = limit.bytes_per_day or 0, limit.bytes_per_hour or 0
    paced = (limit.rate_in, limit.rate_out) != (None, None) or (lent and any(budgets))
    return Numbers(
        limit.connections or 0,
        scope,
        (intervals[0], intervals[1]),
        (intervals[0] * bursts[0], intervals[1] * bursts[1]),
        budgets,
        paced or limit.tunnel_seconds is not None,
        paced,
        lent,
    )


def is_watched(limit: LimitConfig) -> bool:
    """Whether what counts for it has to be looked at again and again."""
    return any(getattr(limit, key) is not None for key in _OTHERS)


def is_paced(limit: LimitConfig) -> bool:
    """Whether it is to be looked at often."""
    return is_watched(limit) and any(
        getattr(limit, key) is not None for key in _OTHERS if key != "tunnel_seconds"
    )


def faults(limit: LimitConfig, auth: AuthConfig) -> Iterator[str]:
    """What makes no sense in it."""
    rates = limit.requests_per_second, limit.new_tunnels_per_second
    if limit.connections is None and rates == (None, None) and not is_watched(limit):
        keys = [key for _, key in _WORDS.values()] + list(_OTHERS)
        allowed = ", ".join(key.replace("_", "-") for key in keys)
        yield f"it allows as much as comes; allowed: with one of {allowed}"
    if limit.burst is not None and rates == (None, None):
        yield "burst: it is about requests-per-second and new-tunnels-per-second; allowed: with one"
    most = int(min((rate for rate in rates if rate is not None), default=0) * REST)
    if most and limit.burst is not None and limit.burst > most:
        yield f"burst: {limit.burst} come back in more than {REST} s; allowed: at most {most}"
    if limit.by != "client" and (limit.prefix4, limit.prefix6) != (32, 64):
        key = "prefix4" if limit.prefix4 != 32 else "prefix6"
        yield f'{key}: it is about clients; allowed: with by = "client"'
    if limit.by in ("user", "group") and not auth.names_users:
        yield (
            f'by: no setting makes any client a user; allowed: "{limit.by}" with auth, htpasswd, '
            "auth-networks, auth-peers or auth-file"
        )
    if limit.by == "group" and not auth.groups:
        yield 'by: there is no table groups; allowed: "group" with one'


def sees_clients(limits: Sequence[LimitConfig]) -> bool:
    """Whether a decision depends on the client's address."""
    return any(one.by == "client" or one.clients or one.not_clients for one in limits)


class Matching:
    """Which of some limits count a request. ``groups_of`` tells the groups of a user."""

    def __init__(
        self, limits: Sequence[LimitConfig], groups_of: Callable[[str], frozenset[str]]
    ) -> None:
        self._rules = RuleSet([limit for limit in limits if not limit.only_named])
        self._limits = {limit.id: limit for limit in limits}
        self._groups_of = groups_of
        self._network = lru_cache(maxsize=CACHED)(network_of)

    @property
    def repeat_for(self) -> float:
        """Seconds for which the same limits count the same requests."""
        return self._rules.repeat_for

    def of(
        self,
        client: str,
        user: str,
        method: str,
        host: str,
        port: int,
        address: str,
        named: Sequence[str] = (),
    ) -> Iterator[tuple[LimitConfig, str]]:
        """Each limit, with what it counts the request by. ``client`` may have a mark in front of
        it; ``address`` is the first that may be dialled, "" where a parent is told the name. Those
        that a function has ``named`` count it, too."""
        groups = self._groups_of(user)
        name = canonical(host)
        rules = self._rules
        selection = rules.select(rules.of_client(client), user, groups, method, name, port)
        matching = selection.names(address)
        for ident in (*matching, *(one for one in named if one not in matching)):
            limit = self._limits.get(ident)
            if limit is None:  # it was named when there was another configuration
                continue
            if limit.by == "group":
                for group in sorted(groups) or (NOBODY,):
                    yield limit, group
            elif limit.by == "client":
                yield limit, self._network(bare(client), limit.prefix4, limit.prefix6)
            elif limit.by == "user":
                yield limit, user or NOBODY
            elif limit.by == "destination":
                yield limit, f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
            else:
                yield limit, ""


class Limits:
    """Those of one configuration, which count in the entries of ``meters``."""

    def __init__(
        self,
        limits: Sequence[LimitConfig],
        meters: Meters,
        groups_of: Callable[[str], frozenset[str]],
        *,
        lent: bool = False,
    ) -> None:
        """``lent``: other machines share them."""
        self._matching = Matching(limits, groups_of)
        self._numbers = {limit.id: numbers_of(limit, lent=lent) for limit in limits}
        self._limits = {limit.id: limit for limit in limits}
        self._meters = meters
        self.lent = lent
        self.watched = any(map(is_watched, limits))
        self.paced = any(map(is_paced, limits))

    @property
    def repeat_for(self) -> float:
        """As of :class:`Matching`."""
        return self._matching.repeat_for

    def of(
        self,
        client: str,
        user: str,
        method: str,
        host: str,
        port: int,
        address: str,
        named: Sequence[str] = (),
    ) -> tuple[Meter, ...]:
        """What a request counts for, as of :meth:`Matching.of`. Full."""
        found: list[Meter] = []
        for limit, key in self._matching.of(client, user, method, host, port, address, named):
            place = self._meters.place(limit.id, key)
            if place is None or len(found) == MOST:
                raise Full(limit)
            if self.lent:
                self._meters.leases.expect(place.entry, limit.id, key)
            found.append(Meter(place, self._numbers[limit.id], limit))
        return tuple(found)

    def named(self, ident: str) -> tuple[LimitConfig, Numbers] | None:
        """The limit with this id; None where there is none any more."""
        limit = self._limits.get(ident)
        return None if limit is None else (limit, self._numbers[ident])

    def at(self, entry: int) -> LimitConfig | None:
        """The limit that an entry counts for; None where there is none any more."""
        return self._limits.get(self._meters.label(entry)[0])

    def lease(self, entry: int) -> memoryview:
        """What this machine was lent of an entry (``relay.leases``)."""
        return self._meters.leases.numbers(entry)

    @property
    def machines(self) -> int:
        """How many share."""
        return self._meters.leases.machines if self.lent else 1

    def left(self, limit: LimitConfig, entry: int) -> int | None:
        """Bytes that are left of its budgets; None where it has none."""
        budgets = limit.bytes_per_day, limit.bytes_per_hour
        if budgets == (None, None):
            return None
        used = self._meters.used(entry)
        return max(0, min(most - n for most, n in zip(budgets, used, strict=True) if most))

    def renewed(self, limit: LimitConfig, entry: int) -> int:
        """After how many ns there are bytes again, where none are left."""
        day, _ = self._meters.used(entry)
        whole_day = limit.bytes_per_day is not None and day >= limit.bytes_per_day
        period = DAY_SECONDS if whole_day else HOUR_SECONDS
        return int(period - time.time() % period) * SECOND or 1


def network_of(address: str, prefix4: int, prefix6: int) -> str:
    """The network of a client's address, which counts as one client."""
    if not address:
        return UNIX
    version, number = number_of(address)
    bits, prefix = (32, prefix4) if version == 4 else (128, prefix6)
    if prefix == bits:
        return address
    from ipaddress import IPv4Network, IPv6Network

    first = number >> (bits - prefix) << (bits - prefix)
    return str((IPv4Network if version == 4 else IPv6Network)((first, prefix)))
