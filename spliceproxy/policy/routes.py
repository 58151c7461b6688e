"""Which way a request goes: routes in order, of which the first that matches is taken.

As with access rules, a set of routes is an int (:mod:`policy.conditions`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from spliceproxy.config import REFUSE, Address, RouteConfig, RuleConfig
from spliceproxy.policy import conditions
from spliceproxy.policy.hosts import is_address
from spliceproxy.policy.networks import PLACES, UNKNOWN_PLACE

_NONE: frozenset[str] = frozenset()

NOWHERE: Mapping[Address, int] = MappingProxyType({})
"""No place has a number."""


class Found(NamedTuple):
    """``place`` is that of the route in the list, -1 where none matches; ``route`` is it. Not
    ``sure``: a route before it depends on the destination's addresses."""

    place: int
    route: RouteConfig | None
    sure: bool = True


class RouteTable:
    """Routes in order. ``places`` are the numbers of the addresses that they name. ``of_any`` is as
    :meth:`find` without a host, and None where a route looks at that. RuleError."""

    __slots__ = (
        "_any_address",
        "_any_literal",
        "_found",
        "_hosts",
        "_literals",
        "_networks",
        "_others",
        "_routes",
        "of_any",
    )

    of_any: Callable[[int, str, frozenset[str], int, bool], Found] | None

    def __init__(
        self, routes: Sequence[RouteConfig], places: Mapping[Address, int] = NOWHERE
    ) -> None:
        self._routes = tuple(routes)
        # What rules and routes have in common is looked up in the same way.
        rules = [
            RuleConfig(
                f"{number}",
                "allow",
                hosts=route.hosts,
                networks=route.networks,
                ports=route.ports,
                users=route.users,
                groups=route.groups,
            )
            for number, route in enumerate(routes, 1)
        ]
        literals = [
            RuleConfig(f"{number}", "allow", networks=route.literals)
            for number, route in enumerate(routes, 1)
        ]
        # Hosts are many, so where no route looks at them none is looked up.
        hosts, named = conditions.hosts(rules), any(route.hosts is not None for route in routes)
        self._hosts = hosts if named else None
        self._networks = conditions.Networks(rules, "networks")
        found = conditions.Networks(literals, "networks")
        self._literals = found if any(route.literals is not None for route in routes) else None
        self._any_address = self._networks.any
        self._any_literal = found.any
        self._others = lru_cache(maxsize=conditions.CACHED)(_others(rules, routes, places))
        self._found = lru_cache(maxsize=conditions.CACHED)(self._first)
        self.of_any = None
        if self._hosts is None and self._literals is None:
            self.of_any = lru_cache(maxsize=conditions.CACHED)(self._of_any)

    def _of_any(
        self, port: int, user: str, groups: frozenset[str], place: int, tunnel: bool
    ) -> Found:
        return self.find("", port, user, groups, place, tunnel=tunnel)

    def find(
        self,
        host: str,
        port: int,
        user: str,
        groups: frozenset[str] = _NONE,
        place: int = 0,
        *,
        tunnel: bool,
    ) -> Found:
        """The route for a canonical host and a user in these groups who has come in at this place,
        as far as that is known without the host's addresses."""
        selected = self._others(port, user, groups, place, tunnel)
        if self._hosts is not None or self._literals is not None:
            selected &= self._of_host(host)
        return self._found(selected & self._any_address, selected & ~self._any_address)

    def settle(
        self,
        host: str,
        port: int,
        user: str,
        addresses: Sequence[str],
        groups: frozenset[str] = _NONE,
        place: int = 0,
        *,
        tunnel: bool,
    ) -> Found:
        """The route, where the host has these addresses: a network matches if one is in it."""
        selected = self._others(port, user, groups, place, tunnel) & self._of_host(host)
        within = self._any_address
        for address in addresses:
            within |= self._networks.bits(address)
        return self._found(selected & within, 0)

    def _of_host(self, host: str) -> int:
        selected = -1 if self._hosts is None else self._hosts(host)
        if self._literals is not None:
            literal = self._literals.bits(host) if is_address(host) else 0
            selected &= literal | self._any_literal
        return selected

    def _first(self, matching: int, unsure: int) -> Found:
        first = matching & -matching
        before = unsure & (first - 1 if first else -1)
        place = first.bit_length() - 1
        return Found(place, self._routes[place] if first else None, not before)


def places_of(routes: Sequence[RouteConfig]) -> Mapping[Address, int]:
    """Numbers for the addresses that routes name. ValueError for too many."""
    named = dict.fromkeys(one for route in routes for one in route.listeners or ())
    if len(named) > PLACES:
        raise ValueError(f"routes name {len(named)} listeners; allowed: at most {PLACES}")
    return {one: number for number, one in enumerate(named, 1)}


def _others(
    rules: Sequence[RuleConfig], routes: Sequence[RouteConfig], places: Mapping[Address, int]
) -> Callable[[int, str, frozenset[str], int, bool], int]:
    """The routes that match but for the host."""
    ports, users = conditions.ports(rules), conditions.users(rules)
    listeners = _by_place(routes, places)
    anywhere = sum(1 << n for n, route in enumerate(routes) if route.listeners is None)
    kinds = {
        tunnel: sum(1 << n for n, route in enumerate(routes) if route.tunnels in (None, tunnel))
        for tunnel in (False, True)
    }

    def bits(port: int, user: str, groups: frozenset[str], place: int, tunnel: bool) -> int:
        came_in = anywhere | listeners.get(place, 0)
        return ports(port) & users(user, groups) & came_in & kinds[tunnel]

    return bits


def _by_place(routes: Sequence[RouteConfig], places: Mapping[Address, int]) -> dict[int, int]:
    """The routes that name each place. Where that is not known any more, nobody is refused for
    it."""
    found = {UNKNOWN_PLACE: 0}
    for n, route in enumerate(routes):
        for one in route.listeners or ():
            number = places.get(one, UNKNOWN_PLACE)
            found[number] = found.get(number, 0) | 1 << n
        if route.listeners and route.to != (REFUSE,):
            found[UNKNOWN_PLACE] |= 1 << n
    return found
