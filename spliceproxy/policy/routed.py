"""The last steps of a decision where requests may go by way of other proxies.

A parent that is told names needs no address, and none is looked up: inside of companies names often
lead nowhere. So the guard has nothing to check then, and the parent decides where the name leads.
What is written as an address is checked as ever. Where a rule, a route or a function needs to know
the addresses, the name is looked up, they are checked, and the parent is told an address.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping

from spliceproxy.config import DIRECT, REFUSE, Address, RouteConfig, RoutingConfig
from spliceproxy.policy import refusals
from spliceproxy.policy.decision import YES, Allow, Deny
from spliceproxy.policy.destination import Destinations, Later, allowed
from spliceproxy.policy.hook import Hook
from spliceproxy.policy.hosts import is_address
from spliceproxy.policy.judging import Case, Judge
from spliceproxy.policy.request import Request
from spliceproxy.policy.routes import Found, RouteTable, places_of
from spliceproxy.policy.verdict import Names, Verdict, Way
from spliceproxy.policy.witness import Witness


class Routing:
    """What is the same for all requests: the routes of the settings, and the numbers of the
    ``places`` that they name. ``groups_of`` knows the groups of a user. ``ways`` are those by way
    of parents that were found so far, by the place of their route, and ``unasked`` the places of
    those for which a name need not be looked up. ``named`` are those that a function may name, each
    with a place behind the routes. RuleError; ValueError for too many places."""

    __slots__ = (
        "_by_address",
        "_groups_of",
        "_of_any",
        "_table",
        "named",
        "places",
        "unasked",
        "ways",
    )

    places: Mapping[Address, int]

    def __init__(self, routing: RoutingConfig, groups_of: Callable[[str], frozenset[str]]) -> None:
        routes, parents = routing.all_routes, routing.all_parents
        self.places = places_of(routes)
        self._table = RouteTable(routes, self.places)
        self._of_any = self._table.of_any
        self._groups_of = groups_of
        self._by_address = {name for name, parent in parents.items() if parent.by_address}
        self.ways: dict[tuple[int, bool], Way] = {}
        own = [RouteConfig((name,)) for name in (*routing.parents, DIRECT)]
        self.named: Mapping[str, Found] = {
            route.to[0]: Found(number, route) for number, route in enumerate(own, len(routes))
        }
        self.unasked = frozenset(
            number
            for number, route in enumerate((*routes, *own))
            if route.to == (REFUSE,) or (route.to != (DIRECT,) and self.by_name(route))
        )

    def find(self, case: Case) -> Found:
        """The way of a request, as far as it is known without addresses."""
        user, tunnel = case.notes.user, case.head.method == "CONNECT"
        groups, place = self._groups_of(user) if user else _NONE, case.client.place
        if self._of_any is not None:
            return self._of_any(case.port, user, groups, place, tunnel)
        return self._table.find(case.name, case.port, user, groups, place, tunnel=tunnel)

    def settle(self, case: Case, addresses: tuple[str, ...]) -> Found:
        """The way, with these addresses."""
        user, tunnel = case.notes.user, case.head.method == "CONNECT"
        where = case.name, case.port, user, addresses, self._groups_of(user), case.client.place
        return self._table.settle(*where, tunnel=tunnel)

    def by_name(self, route: RouteConfig) -> bool:
        """Whether the parents of a route are told names."""
        return self._by_address.isdisjoint(route.to)

    def way(self, found: Found, *, by_name: bool) -> Way | None:
        """Where a route leads, None for straight there. Denied for nowhere."""
        route = found.route
        if route is None or route.to == (DIRECT,):
            return None
        if route.to == (REFUSE,):
            raise refusals.no_way()
        way = self.ways[found.place, by_name] = Way(route.to, route.pick, by_name)
        return way


_NONE: frozenset[str] = frozenset()


class RoutedDestinations(Destinations):
    """As :class:`Destinations`, with the ways of ``routing``. The default backend is never reached
    by way of a parent."""

    __slots__ = ("_routing", "_unasked", "_ways")

    def __init__(
        self,
        names: Names,
        judge: Judge,
        hook: Hook,
        witness: Witness | None,
        routing: Routing,
    ) -> None:
        super().__init__(names, judge, hook, witness)
        self._direct = False  # every answer of the hook comes to _first
        self._routing = routing
        self._ways, self._unasked = routing.ways, routing.unasked

    def of(self, case: Case, repeat: float) -> Verdict | Later:
        if case.own:
            return super().of(case, repeat)
        found = self._routing.find(case)
        if found.sure and found.place in self._unasked and self._names_it(case, found):
            return self._by_name(case, found, repeat)
        rest = super().of(case, repeat)
        if found.sure and type(rest) is Verdict:  # as below, in fewer calls
            return self._led(found, rest, by_name=False)
        return self._with_addresses(case, found, rest)

    def _first(
        self, case: Case, request: Request, repeat: float, began: float, decision: Allow | Deny
    ) -> Verdict | Later:
        if case.own:
            return super()._first(case, request, repeat, began, decision)
        allow = allowed(decision, case.notes)
        if allow.limits or allow.parent:
            self._check_named(allow)
        found = self._routing.named[allow.parent] if allow.parent else self._routing.find(case)
        free = allow.addresses is None and not self._wants_addresses
        if found.sure and free and self._names_it(case, found):
            left = max(0.0, repeat - (time.monotonic() - began)) if repeat else 0.0
            return self._by_name(case, found, left, allow)
        rest = super()._first(case, request, repeat, began, allow)
        return self._with_addresses(case, found, rest)

    # ---- the way ---------------------------------------------------------------------------

    def _names_it(self, case: Case, found: Found) -> bool:
        """Whether no address is needed for this route."""
        if found.place not in self._unasked:
            return False
        if found.route is not None and found.route.to == (REFUSE,):
            return True
        return case.selected is None and not is_address(case.name)

    def _by_name(self, case: Case, found: Found, repeat: float, said: Allow = YES) -> Verdict:
        verdict = Verdict(case.host, case.port, (), said.source_address, repeat, None, said)
        return self._led(found, verdict, by_name=True)

    def _with_addresses(self, case: Case, found: Found, rest: Verdict | Later) -> Verdict | Later:
        """The same for addresses that are checked."""
        if isinstance(rest, Verdict):
            return self._settled(case, found, rest)
        return self._when_settled(case, found, rest)

    async def _when_settled(self, case: Case, found: Found, rest: Awaitable[Verdict]) -> Verdict:
        return self._settled(case, found, await rest)

    def _settled(self, case: Case, found: Found, verdict: Verdict) -> Verdict:
        if verdict.said.parent:
            found = self._routing.named[verdict.said.parent]
        elif not found.sure:
            found = self._routing.settle(case, verdict.addresses)
        return self._led(found, verdict, by_name=False)

    def _led(self, found: Found, verdict: Verdict, *, by_name: bool) -> Verdict:
        """With the way, and from the address that the route names, unless the function has named
        one. Denied where it leads nowhere."""
        route = found.route
        if self._witness is not None:
            self._witness.routed(found.place, route, by_name=by_name)
        host, port, addresses, source, repeat, _, said, check = verdict
        if route is not None and not source:
            source = route.source
        way = self._ways.get((found.place, by_name))
        if way is None:
            way = self._routing.way(found, by_name=by_name)
        return _new(Verdict, (host, port, addresses, source, repeat, way, said, check))


_new = tuple.__new__  # of a NamedTuple, without the call of its own __new__
