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
from spliceproxy.policy.decision import Allow, Deny
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
    ``places`` that they name. ``groups_of`` knows the groups of a user. RuleError; ValueError for
    too many places."""

    __slots__ = ("_by_address", "_groups_of", "_table", "places")

    places: Mapping[Address, int]

    def __init__(self, routing: RoutingConfig, groups_of: Callable[[str], frozenset[str]]) -> None:
        routes, parents = routing.all_routes, routing.all_parents
        self.places = places_of(routes)
        self._table = RouteTable(routes, self.places)
        self._groups_of = groups_of
        self._by_address = {name for name, parent in parents.items() if parent.by_address}

    def find(self, case: Case) -> Found:
        """The way of a request, as far as it is known without addresses."""
        user, tunnel = case.notes.user, case.head.method == "CONNECT"
        groups, place = self._groups_of(user), case.client.place
        return self._table.find(case.name, case.port, user, groups, place, tunnel=tunnel)

    def settle(self, case: Case, addresses: tuple[str, ...]) -> Found:
        """The way, with these addresses."""
        user, tunnel = case.notes.user, case.head.method == "CONNECT"
        where = case.name, case.port, user, addresses, self._groups_of(user), case.client.place
        return self._table.settle(*where, tunnel=tunnel)

    def by_name(self, route: RouteConfig) -> bool:
        """Whether the parents of a route are told names."""
        return self._by_address.isdisjoint(route.to)


class RoutedDestinations(Destinations):
    """As :class:`Destinations`, with the ways of ``routing``. The default backend is never reached
    by way of a parent."""

    __slots__ = ("_routing",)

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

    def of(self, case: Case, repeat: float) -> Verdict | Later:
        if case.own:
            return super().of(case, repeat)
        found = self._routing.find(case)
        if found.sure:
            if _is_straight(found.route):
                self._tell(found, by_name=False)
                return _from(found.route, super().of(case, repeat))
            if self._names_it(case, found.route):
                return self._by_name(case, found, repeat)
        return self._with_addresses(case, super().of(case, repeat))

    def _first(
        self, case: Case, request: Request, repeat: float, began: float, decision: Allow | Deny
    ) -> Verdict | Later:
        if case.own:
            return super()._first(case, request, repeat, began, decision)
        allow = allowed(decision, case.notes)
        found = self._routing.find(case)
        if found.sure and allow.addresses is None:
            if _is_straight(found.route):
                self._tell(found, by_name=False)
                return _from(found.route, super()._first(case, request, repeat, began, allow))
            if self._names_it(case, found.route) and not self._wants_addresses:
                left = max(0.0, repeat - (time.monotonic() - began)) if repeat else 0.0
                return self._by_name(case, found, left, allow.source_address)
        rest = super()._first(case, request, repeat, began, allow)
        return self._with_addresses(case, rest)

    # ---- the way ---------------------------------------------------------------------------

    def _names_it(self, case: Case, route: RouteConfig | None) -> bool:
        """Whether no address is needed for this route."""
        assert route is not None
        if route.to == (REFUSE,):
            return True
        if is_address(case.name) or case.selected is not None:
            return False
        return self._routing.by_name(route)

    def _by_name(self, case: Case, found: Found, repeat: float, source: str = "") -> Verdict:
        way = self._way(found, by_name=True)
        return _with_source(found.route, Verdict(case.host, case.port, (), source, repeat, way))

    def _with_addresses(self, case: Case, rest: Verdict | Later) -> Verdict | Later:
        """The same for addresses that are checked."""
        if isinstance(rest, Verdict):
            return self._settled(case, rest)
        return self._when_settled(case, rest)

    async def _when_settled(self, case: Case, rest: Awaitable[Verdict]) -> Verdict:
        return self._settled(case, await rest)

    def _settled(self, case: Case, verdict: Verdict) -> Verdict:
        found = self._routing.settle(case, verdict.addresses)
        if _is_straight(found.route):
            self._tell(found, by_name=False)
        else:
            verdict = verdict._replace(way=self._way(found, by_name=False))
        return _with_source(found.route, verdict)

    def _way(self, found: Found, *, by_name: bool) -> Way:
        """Denied where it leads nowhere."""
        self._tell(found, by_name=by_name)
        assert found.route is not None
        if found.route.to == (REFUSE,):
            raise refusals.no_way()
        return Way(found.route.to, found.route.pick, by_name)

    def _tell(self, found: Found, *, by_name: bool) -> None:
        if self._witness is not None:
            self._witness.routed(found.place, found.route, by_name=by_name)


def _is_straight(route: RouteConfig | None) -> bool:
    return route is None or route.to == (DIRECT,)


def _from(route: RouteConfig | None, rest: Verdict | Later) -> Verdict | Later:
    """The same from the address that the route names."""
    if route is None or not route.source:
        return rest
    return _with_source(route, rest) if isinstance(rest, Verdict) else _when_from(route, rest)


async def _when_from(route: RouteConfig, rest: Awaitable[Verdict]) -> Verdict:
    return _with_source(route, await rest)


def _with_source(route: RouteConfig | None, verdict: Verdict) -> Verdict:
    """What the function says takes precedence."""
    if route is None or not route.source or verdict.source_address:
        return verdict
    return verdict._replace(source_address=route.source)
