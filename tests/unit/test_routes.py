"""Which way a request goes: the table of routes, the policy with routes, and explain."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from spliceproxy.config import (
    Address,
    AuthConfig,
    Config,
    ParentConfig,
    PolicyConfig,
    RouteConfig,
    RoutingConfig,
    RuleConfig,
    Url,
)
from spliceproxy.embed.explaining import as_text, explain
from spliceproxy.errors import Denied, Failure
from spliceproxy.policy.decision import Allow
from spliceproxy.policy.engine import Policy
from spliceproxy.policy.explain import _Head, _Notes
from spliceproxy.policy.functions import Functions
from spliceproxy.policy.judging import REPEAT
from spliceproxy.policy.networks import UNKNOWN_PLACE
from spliceproxy.policy.request import Request
from spliceproxy.policy.routes import RouteTable
from spliceproxy.policy.verdict import Verdict, Way

A, B = (Url("http", "parent.example", 3128), Url("socks5", "other.example", 1080))
WEB, MORE = Address(port=8888), Address(path="/run/x")
PLACES = {WEB: 1, MORE: 2}
PARENTS = {"a": ParentConfig(A), "b": ParentConfig(B)}


def place(
    *routes: RouteConfig,
    host: str = "x.test",
    port: int = 443,
    user: str = "",
    groups: frozenset[str] = frozenset(),
    at: int = 0,
) -> Any:
    found = RouteTable(routes, PLACES).find(host, port, user, groups, at, tunnel=True)
    return found.place if found.sure else "?"


@pytest.mark.parametrize(
    ("conditions", "asked", "matches"),
    [
        ({}, {}, True),
        ({"hosts": (".test",)}, {}, True),
        ({"hosts": (".tset",)}, {}, False),
        ({"ports": ("80", "400-500")}, {}, True),
        ({"ports": ("80",)}, {}, False),
        ({"users": ("ada",)}, {"user": "ada"}, True),
        ({"users": ("ada",)}, {}, False),
        ({"groups": ("ops",)}, {"user": "bob", "groups": frozenset({"ops", "all"})}, True),
        ({"groups": ("ops",)}, {"user": "ops"}, False),
        ({"users": ("ada",), "groups": ("ops",)}, {"groups": frozenset({"ops"})}, True),
        ({"listeners": (WEB,)}, {"at": 1}, True),
        ({"listeners": (WEB,)}, {"at": 2}, False),
        ({"listeners": (WEB,)}, {}, False),
        ({"listeners": (MORE, WEB)}, {"at": 2}, True),
        ({"listeners": (WEB,)}, {"at": UNKNOWN_PLACE}, True),
        ({"tunnels": True}, {}, True),
        ({"tunnels": False}, {}, False),
        ({"literals": ("10.0.0.0/8",)}, {"host": "10.1.2.3"}, True),
        ({"literals": ("10.0.0.0/8",)}, {"host": "11.1.2.3"}, False),
        ({"literals": ("10.0.0.0/8",)}, {}, False),
        ({"literals": ("fd00::/8",)}, {"host": "fd00::1"}, True),
    ],
)
def test_conditions(conditions: dict[str, Any], asked: dict[str, Any], matches: bool) -> None:
    assert place(RouteConfig(("a",), **conditions), **asked) == (0 if matches else -1)


def test_the_first_that_matches() -> None:
    routes = [RouteConfig(("a",), hosts=(f"{name}.test",)) for name in "xyx"]
    assert place(*routes) == 0
    assert place(*routes, host="y.test") == 1
    assert place(*routes, host="z.test") == -1


def test_who_is_refused_where_nobody_knows_where_it_came_in() -> None:
    """It may have come by another way: nobody is refused for that."""
    routes = RouteConfig(("refuse",), listeners=(WEB,)), RouteConfig(("a",))
    assert [place(*routes, at=at) for at in (1, 2, UNKNOWN_PLACE)] == [0, 1, 1]
    routes = RouteConfig(("a",), listeners=(WEB,)), RouteConfig(("refuse",))
    assert [place(*routes, at=at) for at in (1, 2, UNKNOWN_PLACE)] == [0, 1, 0]


def test_a_network_before_is_not_sure() -> None:
    ten = RouteConfig(("a",), networks=("10.0.0.0/8",))
    rest = RouteConfig(("b",))
    assert place(ten, rest) == "?"
    assert place(rest, ten) == 0
    table = RouteTable((ten, rest))
    for addresses, wanted in ((("192.0.2.1", "10.0.0.1"), 0), (("192.0.2.1",), 1)):
        assert table.settle("x.test", 443, "", addresses, tunnel=True).place == wanted


class Names:
    """Where names lead; ``asked`` are those that were looked up."""

    def __init__(self, zone: Mapping[str, tuple[str, ...]]) -> None:
        self.zone = zone
        self.asked: list[str] = []

    def cached(self, host: str) -> tuple[str, ...] | None:
        return (host,) if host[:1].isdigit() or ":" in host else None

    async def resolve(self, host: str) -> tuple[str, ...]:
        self.asked.append(host)
        if host not in self.zone:
            raise Failure("dns_error", f"{host}: no such name")
        return self.zone[host]


ZONE = {"x.test": ("192.0.2.1", "10.0.0.1"), "bad.test": ("169.254.169.254",)}


def decided(
    *routes: RouteConfig,
    host: str = "x.test",
    method: str = "CONNECT",
    own: bool = False,
    function: Any = None,
    auth: AuthConfig | None = None,
    **policy: Any,
) -> tuple[Verdict, list[str]]:
    """The verdict, and which names were looked up."""

    async def decide() -> tuple[Verdict, list[str]]:
        names = Names(ZONE)
        config = Config(
            listen=(),
            policy=PolicyConfig(**policy),
            routing=RoutingConfig(routes=routes, parents=PARENTS),
            auth=auth or AuthConfig(),
        )
        functions = None if function is None else Functions(authorize=function)
        made = Policy(config, names, functions)
        client = made.standing("127.0.0.1", None)
        request = Request("127.0.0.1", method=method, scheme="http", host=host, path="/")
        verdict = await made.decide(client, _Head(request), host, 443, _Notes("127.0.0.1"), own=own)
        return verdict, names.asked

    return asyncio.run(decide())


NAMED = Way(("a",), "in-order", True)


def test_a_parent_is_told_the_name_and_nobody_looks_it_up() -> None:
    for host in ("x.test", "none.test"):
        verdict, asked = decided(RouteConfig(("a",)), host=host)
        assert verdict[:6] == (host, 443, (), "", REPEAT, NAMED)
        assert asked == []


FROM = "192.0.2.9"


@pytest.mark.parametrize("to", [("direct",), ("a",), ("b",), ("a", "direct")])
@pytest.mark.parametrize("host", ["x.test", "192.0.2.7"])
@pytest.mark.parametrize("function", [None, lambda request: Allow()])
@pytest.mark.parametrize("network", [None, ("192.0.2.0/24",)])
def test_the_address_to_connect_from(
    to: tuple[str, ...], host: str, function: Any, network: Any
) -> None:
    route = RouteConfig(to, networks=network, source=FROM)
    verdict, _ = decided(route, host=host, function=function)
    assert verdict.source_address == FROM
    assert verdict.key[2] == FROM, "no connection of another route is used"
    without, _ = decided(RouteConfig(to, networks=network), host=host, function=function)
    assert without == verdict._replace(source_address="")


@pytest.mark.parametrize("to", [("direct",), ("a",), ("b",)])
def test_a_function_knows_better_where_to_connect_from(to: tuple[str, ...]) -> None:
    route = RouteConfig(to, source=FROM)
    verdict, _ = decided(route, function=lambda request: Allow(source_address="192.0.2.8"))
    assert verdict.source_address == "192.0.2.8"


def test_the_address_of_a_route_that_does_not_match() -> None:
    routes = RouteConfig(("direct",), hosts=("y.test",), source=FROM), RouteConfig(("direct",))
    assert decided(*routes)[0].source_address == ""
    assert decided(routes[0])[0].source_address == ""
    assert decided(RouteConfig(("direct",), source=FROM), own=True)[0].source_address == ""


def test_a_literal_is_told_as_it_is_and_checked() -> None:
    verdict, _ = decided(RouteConfig(("a",)), host="192.0.2.7")
    assert verdict.addresses == ("192.0.2.7",)
    assert verdict.way == Way(("a",), "in-order", False)
    with pytest.raises(Denied):
        decided(RouteConfig(("a",)), host="169.254.169.254")


def test_one_that_is_told_addresses() -> None:
    verdict, asked = decided(RouteConfig(("a", "b")))
    assert asked == ["x.test"]
    assert verdict.addresses == ("192.0.2.1", "10.0.0.1")
    assert verdict.way == Way(("a", "b"), "in-order", False)
    with pytest.raises(Denied):
        decided(RouteConfig(("b",)), host="bad.test")


def test_rules_about_addresses_need_them() -> None:
    no_ten = RuleConfig("ten", "deny", networks=("10.0.0.0/8",))
    verdict, asked = decided(RouteConfig(("a",)), rules=(no_ten,))
    assert (asked, verdict.addresses) == (["x.test"], ("192.0.2.1",))
    assert verdict.way == Way(("a",), "in-order", False)
    first = RuleConfig("first", "allow")
    verdict, asked = decided(RouteConfig(("a",)), rules=(first, no_ten))
    assert (asked, verdict.way) == ([], NAMED)


def test_routes_about_addresses_need_them() -> None:
    ten = RouteConfig(("direct",), networks=("10.0.0.0/8",))
    verdict, asked = decided(ten, RouteConfig(("a",)))
    assert (asked, verdict.way) == (["x.test"], None)
    assert verdict.addresses == ("192.0.2.1", "10.0.0.1")


@pytest.mark.parametrize("networks", [None, ("192.0.2.0/24",)])
def test_a_group_of_users(networks: Any) -> None:
    route = RouteConfig(("a",), groups=("ops",), networks=networks)
    for members, ways in ((("ada",), ("a",)), (("bob",), None)):
        auth = AuthConfig(networks={"127.0.0.0/8": "ada"}, groups={"ops": members})
        verdict, _ = decided(route, auth=auth)
        assert (verdict.way and verdict.way.parents) == ways


def test_direct_refuse_and_no_route() -> None:
    for routes in ([RouteConfig(("direct",))], [RouteConfig(("a",), hosts=("y.test",))]):
        verdict, asked = decided(*routes)
        assert (asked, verdict.way) == (["x.test"], None)
    with pytest.raises(Denied) as caught:
        decided(RouteConfig(("refuse",)))
    assert caught.value.rule == "route"


def test_the_default_backend_has_no_parent() -> None:
    verdict, asked = decided(RouteConfig(("a",)), own=True)
    assert (asked, verdict.way) == (["x.test"], None)


def test_a_function() -> None:
    verdict, asked = decided(RouteConfig(("a",)), function=lambda request: Allow())
    assert (asked, verdict.way) == ([], NAMED)
    there = lambda request: Allow(addresses=("192.0.2.9",))  # noqa: E731
    verdict, asked = decided(RouteConfig(("a",)), function=there)
    assert (asked, verdict.addresses) == ([], ("192.0.2.9",))
    assert verdict.way == Way(("a",), "in-order", False)


def test_keys_tell_ways_apart() -> None:
    keys = set()
    for way in (None, NAMED, Way(("b",), "in-order", True)):
        keys.add(Verdict("x.test", 443, (), "", 0.0, way).key)
    assert len(keys) == 3


def told(*routes: RouteConfig, host: str = "x.test") -> str:
    config = Config(listen=(), routing=RoutingConfig(routes=routes, parents=PARENTS))
    request = Request("127.0.0.1", method="CONNECT", host=host, addresses=("192.0.2.1",))
    return as_text(explain(config, request))


def test_explain() -> None:
    text = told(RouteConfig(("a", "direct"), hosts=("x.test",)))
    assert "route    yes  route 1: through a, direct, by its name, which the guard" in text
    assert text.endswith("allowed: would connect through a, direct by name")
    text = told(RouteConfig(("b",)))
    assert "route    yes  route 1: through b, by its address" in text
    assert text.endswith("allowed: would connect through b to 192.0.2.1")
    text = told(RouteConfig(("refuse",)))
    assert "=> route    no   route 1: nowhere" in text
    assert "refused with 403, rule route: The routes of this proxy lead nowhere" in text
    text = told(RouteConfig(("a",), hosts=("y.test",)))
    assert "route    yes  no route matches: straight to the origin" in text


def test_explain_by_a_listener() -> None:
    refused = RouteConfig(("refuse",), listeners=(WEB,))
    config = Config(listen=(WEB, MORE), routing=RoutingConfig(routes=(refused,), parents=PARENTS))
    request = Request("127.0.0.1", host="x.test", addresses=("192.0.2.1",))
    allowed = [explain(config, request, "", at).allowed for at in (None, WEB, MORE)]
    assert allowed == [True, False, True]
