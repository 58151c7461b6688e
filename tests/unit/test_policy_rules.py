"""Rules: what matches, which decides, and the same as one after the other would decide."""

from __future__ import annotations

import ipaddress
import re
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spliceproxy.config import CONDITIONS, RuleConfig
from spliceproxy.policy.conditions import RuleError
from spliceproxy.policy.listfile import FileList
from spliceproxy.policy.request import Request
from spliceproxy.policy.rules import Match, RuleSet
from spliceproxy.policy.times import parse_period

ASK = Request(client="10.0.0.7", user="ann", method="CONNECT", host="www.example.com", port=443)


def rule(action: str = "deny", **conditions: Any) -> RuleConfig:
    return RuleConfig(id="r", action=action, **conditions)  # type: ignore[arg-type]


def decides(conditions: dict[str, Any], **request: Any) -> bool:
    """Whether a rule with these conditions decides."""
    return RuleSet([rule(**conditions)]).decide(ASK._replace(**request)).rule == "r"


@pytest.mark.parametrize(
    ("conditions", "request_", "matches"),
    [
        ({}, {}, True),
        ({"clients": ("10.0.0.0/8",)}, {}, True),
        ({"clients": ("10.0.0.7",)}, {}, True),
        ({"clients": ("10.0.0.0/8",)}, {"client": "11.0.0.1"}, False),
        ({"clients": ("10.0.0.0/8",)}, {"client": ""}, False),
        ({"clients": ("unix",)}, {"client": ""}, True),
        ({"clients": ("unix",)}, {}, False),
        ({"clients": ("fe80::/10",)}, {"client": "fe80::1%eth0"}, True),
        ({"clients": ("192.168.0.0/16", "10.0.0.0/30")}, {}, False),
        ({"users": ("ann", "bob")}, {}, True),
        ({"users": ("bob",)}, {}, False),
        ({"users": ("bob",)}, {"user": ""}, False),
        ({"groups": ("staff",)}, {}, False),
        ({"groups": ("staff",)}, {"groups": frozenset({"staff", "x"})}, True),
        ({"users": ("bob",), "groups": ("staff",)}, {"groups": frozenset({"staff"})}, True),
        ({"methods": ("CONNECT",)}, {}, True),
        ({"methods": ("GET", "HEAD")}, {}, False),
        ({"methods": ("GET",)}, {"method": "get"}, False),
        ({"hosts": ("www.example.com",)}, {}, True),
        ({"hosts": ("example.com",)}, {}, False),
        ({"hosts": ("*.example.com",)}, {}, True),
        ({"hosts": ("*.example.com",)}, {"host": "a.b.example.com"}, True),
        ({"hosts": ("*.example.com",)}, {"host": "example.com"}, False),
        ({"hosts": ("*.example.com",)}, {"host": "notexample.com"}, False),
        ({"hosts": ("*.com",)}, {}, True),
        ({"hosts": (".example.com",)}, {}, True),
        ({"hosts": (".example.com",)}, {"host": "a.b.example.com"}, True),
        ({"hosts": (".example.com",)}, {"host": "example.com"}, True),
        ({"hosts": (".Example.COM.",)}, {"host": "EXAMPLE.com."}, True),
        ({"hosts": (".example.com",)}, {"host": "notexample.com"}, False),
        ({"hosts": (".example.com",)}, {"host": "example.com.evil.test"}, False),
        ({"hosts": (".example.com",)}, {"host": "com"}, False),
        ({"hosts": (".bücher.example",)}, {"host": "xn--bcher-kva.example"}, True),
        ({"groups": ("empty",)}, {"user": ""}, False),
        ({"users": ("bob",), "groups": ("empty",)}, {}, False),
        ({"hosts": ("WWW.Example.COM.",)}, {}, True),
        ({"hosts": ("www.example.com",)}, {"host": "WWW.EXAMPLE.com."}, True),
        ({"hosts": ("bücher.example",)}, {"host": "xn--bcher-kva.example"}, True),
        ({"hosts": ("*.bücher.example",)}, {"host": "a.xn--bcher-kva.example"}, True),
        ({"hosts": ("127.0.0.1",)}, {"host": "0x7f.1"}, True),
        ({"hosts": ("0x7f.1",)}, {"host": "[::ffff:127.0.0.1]"}, True),
        ({"hosts": ("[::1]",)}, {"host": "0:0::1"}, True),
        ({"hosts": ("/(www|api)[.]example[.]com/",)}, {}, True),
        ({"hosts": ("/WWW[.].*/",)}, {}, True),
        ({"hosts": ("/example/",)}, {}, False),
        ({"hosts": ("/www.example.com/",)}, {"host": "www.example.com.evil.test"}, False),
        ({"hosts": ("a.test", "/x/", "*.example.com")}, {}, True),
        ({"ports": ("443",)}, {}, True),
        ({"ports": ("80", "8000-8999")}, {}, False),
        ({"ports": ("8000-8999",)}, {"port": 8000}, True),
        ({"ports": ("8000-8999",)}, {"port": 8999}, True),
        ({"ports": ("8000-8999",)}, {"port": 9000}, False),
        ({"networks": ("192.0.2.0/24",)}, {"addresses": ("192.0.2.1",)}, True),
        ({"networks": ("192.0.2.0/24",)}, {"addresses": ("::ffff:192.0.2.1",)}, True),
        ({"networks": ("::ffff:192.0.2.0/120",)}, {"addresses": ("192.0.2.1",)}, True),
        ({"networks": ("192.0.2.0/24",)}, {"addresses": ("2001:db8::1",)}, False),
        ({"networks": ("2001:db8::/32",)}, {"addresses": ("2001:db8::1",)}, True),
        ({"networks": ("0.0.0.0/0",)}, {}, False),
        ({"users": ("*",)}, {}, True),
        ({"users": ("*",)}, {"user": ""}, False),
        ({"users": ("*",)}, {"user": "*"}, True),
        ({"not_users": ("*",)}, {}, False),
        ({"not_users": ("*",)}, {"user": ""}, True),
        ({"not_users": ("ann",)}, {}, False),
        ({"not_users": ("bob",)}, {}, True),
        ({"not_users": ("bob",)}, {"user": ""}, True),
        ({"users": ("*",), "not_users": ("ann",)}, {}, False),
        ({"users": ("*",), "not_users": ("ann",)}, {"user": "bob"}, True),
        ({"not_groups": ("staff",)}, {"groups": frozenset({"staff"})}, False),
        ({"not_groups": ("staff",)}, {}, True),
        ({"not_users": ("bob",), "not_groups": ("staff",)}, {"user": "bob"}, False),
        ({"not_clients": ("10.0.0.0/8",)}, {}, False),
        ({"not_clients": ("192.168.0.0/16",)}, {}, True),
        ({"not_clients": ("10.0.0.0/8",)}, {"client": ""}, True),
        ({"not_clients": ("unix",)}, {"client": ""}, False),
        ({"clients": ("10.0.0.0/8",), "not_clients": ("10.0.0.7",)}, {}, False),
        ({"clients": ("10.0.0.0/8",), "not_clients": ("10.0.0.8",)}, {}, True),
        ({"clients": ("11.0.0.0/8",), "not_clients": ("10.0.0.8",)}, {}, False),
        ({"not_methods": ("CONNECT",)}, {}, False),
        ({"not_methods": ("GET",)}, {}, True),
        ({"not_methods": ("GET",)}, {"method": "get"}, True),
        ({"methods": ("GET", "PUT"), "not_methods": ("PUT",)}, {"method": "PUT"}, False),
        ({"methods": ("GET", "PUT"), "not_methods": ("PUT",)}, {"method": "GET"}, True),
        ({"not_hosts": (".example.com",)}, {}, False),
        ({"not_hosts": ("example.com", "/a.*/")}, {}, True),
        ({"hosts": (".example.com",), "not_hosts": ("www.example.com",)}, {}, False),
        ({"hosts": (".example.com",), "not_hosts": ("*.www.example.com",)}, {}, True),
        ({"not_ports": ("400-500",)}, {}, False),
        ({"not_ports": ("80",)}, {}, True),
        ({"ports": ("400-500",), "not_ports": ("443",)}, {}, False),
        ({"not_networks": ("192.0.2.0/24",)}, {"addresses": ("192.0.2.1",)}, False),
        ({"not_networks": ("192.0.2.0/24",)}, {"addresses": ("192.0.3.1",)}, True),
        ({"not_networks": ("192.0.2.0/24",)}, {}, False),
        (
            {"networks": ("192.0.2.0/24",), "not_networks": ("192.0.2.1",)},
            {"addresses": ("192.0.2.1",)},
            False,
        ),
        ({"not_times": ("00:00-12:00", "12:00-24:00")}, {}, False),
        ({"hosts": (FileList("@x", ["b.test", ".example.com"]),)}, {}, True),
        ({"hosts": ("www.example.com", FileList("@x"))}, {}, True),
        ({"hosts": (FileList("@x"),)}, {}, False),
        ({"not_hosts": (FileList("@x"),)}, {}, True),
        ({"not_hosts": (FileList("@x", ["www.example.com"]),)}, {}, False),
        ({"clients": (FileList("@x", ["10.0.0.0/8"]),)}, {}, True),
        ({"clients": (FileList("@x"),)}, {}, False),
        (
            {"networks": ("10.0.0.1", FileList("@x", ["192.0.2.1"]))},
            {"addresses": ("192.0.2.1",)},
            True,
        ),
        ({"hosts": ("*.example.com",), "ports": ("80",)}, {}, False),
        ({"hosts": ("*.example.com",), "ports": ("443",), "users": ("ann",)}, {}, True),
    ],
)
def test_conditions(conditions: dict[str, Any], request_: dict[str, Any], matches: bool) -> None:
    assert decides(conditions, **request_) is matches


def test_the_first_decides() -> None:
    rules = [
        RuleConfig("a", "allow", hosts=("a.example.com",)),
        RuleConfig("", "deny", hosts=("*.example.com",)),
        RuleConfig("c", "allow"),
    ]
    policy = RuleSet(rules, "deny")
    assert policy.decide(ASK._replace(host="a.example.com")) == Match(True, "a")
    assert policy.decide(ASK._replace(host="b.example.com")) == Match(False, "2")
    assert policy.decide(ASK._replace(host="b.test")) == Match(True, "c")
    assert RuleSet(rules[:2], "deny").decide(ASK._replace(host="b.test")) == Match(False, "default")
    assert RuleSet([], "allow").decide(ASK) == Match(True, "default")


def test_report_only() -> None:
    rules = [
        RuleConfig("r1", "deny", hosts=("*.example.com",), report_only=True),
        RuleConfig("r2", "allow", report_only=True),
        RuleConfig("a", "allow", users=("ann",)),
        RuleConfig("r3", "deny", report_only=True),
    ]
    policy = RuleSet(rules, "deny")
    assert policy.decide(ASK) == Match(True, "a", ("r1",))
    assert policy.decide(ASK._replace(user="bob")) == Match(False, "default", ("r2",))


@pytest.mark.parametrize(
    ("rules", "default", "settled"),
    [
        ([{"action": "deny"}], "allow", Match(False, "1")),
        ([{"action": "deny", "networks": ("10.0.0.0/8",)}], "allow", None),
        ([{"action": "deny", "networks": ("10.0.0.0/8",)}], "deny", Match(False, "default")),
        ([{"action": "allow", "networks": ("10.0.0.0/8",)}], "deny", None),
        ([{"action": "deny", "not_networks": ("10.0.0.0/8",)}], "allow", None),
        ([{"action": "deny", "not_networks": ("0.0.0.0/0",)}], "deny", Match(False, "default")),
        (
            [{"action": "deny", "networks": ("10.0.0.0/8",)}, {"action": "deny"}],
            "allow",
            Match(False, "2"),
        ),
        (
            [{"action": "allow"}, {"action": "deny", "networks": ("10.0.0.0/8",)}],
            "deny",
            Match(True, "1"),
        ),
        (
            [
                {"action": "deny", "networks": ("10.0.0.0/8",), "report_only": True},
                {"action": "allow"},
            ],
            "deny",
            Match(True, "2"),
        ),
        (
            [{"action": "deny", "networks": ("10.0.0.0/8",), "ports": ("1",)}],
            "allow",
            Match(True, "default"),
        ),
    ],
)
def test_settled_without_an_address(
    rules: list[dict[str, Any]], default: str, settled: Match | None
) -> None:
    policy = RuleSet([RuleConfig(id="", **rule) for rule in rules], default)
    selected = policy.select(policy.of_client("10.0.0.7"), "", frozenset(), "GET", "a.test", 80)
    assert selected.settled == settled


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("clients", ("10.0.0.1/8",), "has host bits set"),
        ("clients", ("10.0.0",), "allowed: a network such as"),
        ("clients", ("example.com",), "allowed: a network such as"),
        ("networks", ("10.0.0.0/40",), "allowed: a network such as"),
        (
            "networks",
            ("fe80::1%eth0",),
            "a zone names one link of this machine.*; allowed: fe80::1",
        ),
        ("clients", ("fe80::%eth0/64",), "'fe80::%eth0/64': a zone names one link"),
        ("users", ("",), "empty name"),
        ("groups", ("",), "empty name"),
        ("methods", ("GET HEAD",), "allowed: a method such as GET"),
        ("hosts", ("",), "not a host name"),
        ("hosts", ("*",), 'every host is "/[.][*]/"'),
        ("hosts", ("a.*.test",), "allowed: a name"),
        ("hosts", ("*.",), "not a host name"),
        ("hosts", ("*.0.0.1",), "allowed: a name"),
        ("hosts", ("*example.com",), "allowed: a name"),
        ("hosts", ("http://a.test/",), r'a URL; write hosts = \["a.test"\], ports = \[80\]'),
        ("hosts", ("https://a.test",), r'a URL; write hosts = \["a.test"\], ports = \[443\]'),
        ("hosts", ("https://u:p@a.test:8443/x?y",), r'\["a.test"\], ports = \[8443\]'),
        ("hosts", ("a.test:443",), r'a port; write hosts = \["a.test"\], ports = \[443\]'),
        ("hosts", ("*.a.test:443",), r'a port; write hosts = \["\*.a.test"\], ports = \[443\]'),
        ("hosts", ("[::1]:443",), r'a port; write hosts = \["\[::1\]"\], ports = \[443\]'),
        ("hosts", ("a.test/path",), r'a path; write hosts = \["a.test"\];'),
        ("hosts", ("10.0.0.0/8",), "a network of destinations belongs in networks"),
        ("hosts", ("fe80::1%eth0",), "no address here has one: fe80::1"),
        ("hosts", (".",), "not a host name"),
        ("hosts", ("..a.test",), "not a host name"),
        ("hosts", (".0.0.1",), "an address has no names below it"),
        ("hosts", ("//",), "not a host name"),
        ("hosts", ("/(/",), "not a regular expression"),
        ("ports", ("0",), 'allowed: "443" or "8000-8999"'),
        ("ports", ("65536",), 'allowed: "443" or "8000-8999"'),
        ("ports", ("9-8",), 'allowed: "443" or "8000-8999"'),
        ("ports", ("http",), 'allowed: "443" or "8000-8999"'),
        ("times", ("Mon-Fri 8-18",), "allowed: days and hours"),
        ("status", 200, "200; allowed: a whole number from 400 to 599, not 407"),
        ("status", 407, "407; allowed: a whole number from 400 to 599, not 407"),
        ("status", 600, "600; allowed: a whole number from 400 to 599, not 407"),
        ("status", 403.5, "403.5; allowed: a whole number from 400 to 599, not 407"),
        ("reason", "x" * 201, "one line of at most 200 characters"),
        ("reason", "two\nlines", "one line of at most 200 characters"),
        ("reason", "\x1b[2J", "one line of at most 200 characters"),
        ("reason", " ", "one line of at most 200 characters"),
        ("reason", b"x", "one line of at most 200 characters"),
        ("id", "a b", "allowed: up to 64 letters"),
        ("id", "first", "another rule's already"),
        ("id", "default", "the answer of no rule"),
        ("action", "drop", "allowed: allow, deny"),
    ],
)
def test_mistakes_are_named(key: str, value: Any, text: str) -> None:
    rules = [RuleConfig("first", "deny"), replace(rule(), **{key: value})]
    with pytest.raises(RuleError, match=text) as caught:
        RuleSet(rules)
    assert (caught.value.index, caught.value.key) == (1, key)
    assert key in str(caught.value)


@pytest.mark.parametrize("default", ["Deny", "deny ", ""])
def test_a_default_is_allow_or_deny(default: str) -> None:
    """Another word would let everything through."""
    with pytest.raises(ValueError, match="allowed: allow, deny"):
        RuleSet((), default)


@pytest.mark.parametrize("key", CONDITIONS)
def test_a_condition_is_not_empty(key: str) -> None:
    """One that lists nothing matches nothing, and a rule without it matches everything: who
    writes it may mean either."""
    for nothing in ((), [], set(), map(str, ())):
        with pytest.raises(ValueError, match=f"rule r: {key}: is empty; leave it out, or name"):
            rule(**{key: nothing})
        with pytest.raises(ValueError, match=key):
            replace(rule(), **{key: nothing})
    with pytest.raises(TypeError, match=f"rule r: {key}: 'ann'; allowed: a tuple of texts"):
        rule(**{key: "ann"})  # not the letters of it
    assert getattr(rule(), key) is None


def test_the_status_of_a_denial() -> None:
    rules = [
        RuleConfig("gone", "deny", hosts=("a.test",), status=451),
        RuleConfig("rest", "deny"),
    ]
    policy = RuleSet(rules)
    assert policy.decide(ASK._replace(host="a.test")) == Match(False, "gone", (), 451)
    assert policy.decide(ASK._replace(host="b.test")).status == 403
    with pytest.raises(RuleError, match="status: only a rule that denies can have a status"):
        RuleSet([RuleConfig("a", "allow", status=451)])


def test_the_reason_of_a_denial() -> None:
    policy = RuleSet([RuleConfig("ask", "deny", hosts=("a.test",), reason="Ask us.")])
    assert policy.decide(ASK._replace(host="a.test")).reason == "Ask us."
    assert policy.decide(ASK._replace(host="b.test")).reason == ""
    with pytest.raises(RuleError, match="reason: only a rule that denies can have a reason"):
        RuleSet([RuleConfig("a", "allow", reason="Ask us.")])


# ---- times ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "day", "clock", "holds"),
    [
        ("Mon-Fri 08:00-18:00", 0, "08:00", True),
        ("Mon-Fri 08:00-18:00", 4, "17:59", True),
        ("Mon-Fri 08:00-18:00", 4, "18:00", False),
        ("Mon-Fri 08:00-18:00", 0, "07:59", False),
        ("Mon-Fri 08:00-18:00", 5, "12:00", False),
        ("sat,sun", 6, "23:59", True),
        ("sat,sun", 0, "00:00", False),
        ("Sat-Mon", 0, "00:00", True),
        ("Sat-Mon", 1, "00:00", False),
        ("Mon,Wed-Thu 10:00-24:00", 3, "23:59", True),
        ("22:00-06:00", 3, "23:00", True),
        ("22:00-06:00", 3, "05:59", True),
        ("22:00-06:00", 3, "06:00", False),
        ("Fri 22:00-06:00", 5, "03:00", True),  # the night that begins on Friday
        ("Fri 22:00-06:00", 4, "03:00", False),
        ("Sun 22:00-06:00", 0, "03:00", True),
    ],
)
def test_times(text: str, day: int, clock: str, holds: bool) -> None:
    hours, minutes = map(int, clock.split(":"))
    assert parse_period(text).holds(day, hours * 60 + minutes) is holds


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "Mo",
        "Mon-",
        "Mon Fri",
        "Mon-Fri08:00-18:00",
        "8:00-18:00",
        "25:00-26:00",
        "08:60-09:00",
        "08:00",
        "08:00-08:00",
        "24:00-01:00",
        "Xyz 08:00-09:00",
        "Mon-Tue-Wed",
    ],
)
def test_no_times(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: days and hours"):
        parse_period(text)


def test_the_clock_is_looked_at() -> None:
    policy = RuleSet([rule(times=("08:00-18:00",))])
    noon = time.mktime((2026, 3, 4, 12, 0, 30, 0, 0, -1))
    policy._timed.clock = lambda: noon
    assert policy.decide(ASK) == Match(False, "r")
    assert policy.repeat_for == 30.0
    policy._timed.clock = lambda: noon + 6 * 3600
    assert policy.decide(ASK) == Match(True, "default")
    assert RuleSet([rule()]).repeat_for == float("inf")


# ---- against the obvious way ---------------------------------------------------------------

HOSTS = ["a.test", "b.a.test", "c.b.a.test", "b.test", "10.0.0.1"]
NETWORKS = [
    "10.0.0.0/8",
    "10.0.0.0/30",
    "10.0.0.1",
    "192.0.2.0/24",
    "fd00::/8",
    "0.0.0.0/0",
    "::/0",
]
ADDRESSES = ["10.0.0.1", "10.9.9.9", "192.0.2.1", "fd00::1", "2001:db8::1"]
PATTERNS = [
    "a.test",
    ".a.test",
    ".b.a.test",
    "*.a.test",
    "*.test",
    "/b.*/",
    "/.*[.]b[.].*/",
    "10.0.0.1",
]


def some(values: list[str]) -> st.SearchStrategy[tuple[str, ...] | None]:
    return st.lists(st.sampled_from(values), max_size=2).map(lambda found: tuple(found) or None)


def seldom(values: list[str]) -> st.SearchStrategy[tuple[str, ...] | None]:
    return st.one_of(st.none(), st.none(), some(values))


RULES = st.lists(
    st.builds(
        RuleConfig,
        id=st.just(""),
        action=st.sampled_from(["allow", "deny"]),
        clients=some([*NETWORKS, "unix"]),
        users=some(["ann", "bob", "*"]),
        groups=some(["g", "h"]),
        methods=some(["GET", "CONNECT"]),
        hosts=some(PATTERNS),
        networks=some(NETWORKS),
        ports=some(["80", "443", "400-500"]),
        not_clients=seldom([*NETWORKS, "unix"]),
        not_users=seldom(["ann", "bob", "*"]),
        not_groups=seldom(["g", "h"]),
        not_methods=seldom(["GET", "CONNECT"]),
        not_hosts=seldom(PATTERNS),
        not_networks=seldom(NETWORKS),
        not_ports=seldom(["80", "443", "400-500"]),
        report_only=st.booleans(),
    ),
    max_size=12,
)
REQUESTS = st.builds(
    Request,
    client=st.sampled_from(["", *ADDRESSES]),
    user=st.sampled_from(["", "ann", "bob", "eve"]),
    groups=st.frozensets(st.sampled_from(["g", "h", "i"])),
    method=st.sampled_from(["GET", "CONNECT", "POST"]),
    host=st.sampled_from(HOSTS),
    port=st.sampled_from([80, 443, 450, 8080]),
    addresses=some(ADDRESSES),
)


def within(address: str, networks: tuple[str, ...]) -> bool:
    if not address:
        return "unix" in networks
    found = ipaddress.ip_address(address)
    return any(found in ipaddress.ip_network(n) for n in networks if n != "unix")


def names(pattern: str, host: str) -> bool:
    if pattern[0] == "/":
        return re.fullmatch(pattern[1:-1], host) is not None
    if pattern[0] == ".":
        return f".{host}".endswith(pattern)
    return host.endswith(pattern[1:]) if pattern[0] == "*" else host == pattern


def obvious(rules: list[RuleConfig], default: str, ask: Request) -> Match:
    """One rule after the other, one condition after the other."""

    def port(text: str) -> bool:
        first, _, last = text.partition("-")
        return int(first) <= ask.port <= int(last or first)

    def is_one(users: tuple[str, ...] | None, groups: tuple[str, ...] | None) -> bool:
        named = ask.user in (users or ()) or (bool(ask.user) and "*" in (users or ()))
        return named or bool(ask.groups & {*(groups or ())})

    def leads(networks: tuple[str, ...]) -> bool:
        return bool(ask.addresses) and within(ask.addresses[0], networks)

    def excepted(r: RuleConfig) -> bool:
        return (
            is_one(r.not_users, r.not_groups)
            or within(ask.client, r.not_clients or ())
            or ask.method in (r.not_methods or ())
            or any(names(pattern, ask.host) for pattern in r.not_hosts or ())
            or any(map(port, r.not_ports or ()))
            or (r.not_networks is not None and (not ask.addresses or leads(r.not_networks)))
        )

    def matches(r: RuleConfig) -> bool:
        """None: any."""
        nobody_named = r.users is None and r.groups is None
        return (
            not excepted(r)
            and (nobody_named or is_one(r.users, r.groups))
            and (r.clients is None or within(ask.client, r.clients))
            and (r.methods is None or ask.method in r.methods)
            and (r.hosts is None or any(names(pattern, ask.host) for pattern in r.hosts))
            and (r.ports is None or any(map(port, r.ports)))
            and (r.networks is None or leads(r.networks))
        )

    reports: list[tuple[str, bool]] = []
    allow, name = default == "allow", "default"
    for n, r in enumerate(rules, 1):
        if not matches(r):
            continue
        if r.report_only:
            reports.append((str(n), r.action == "allow"))
            continue
        allow, name = r.action == "allow", str(n)
        break
    return Match(allow, name, tuple(rule for rule, would in reports if would != allow))


@settings(max_examples=400, deadline=None)
@given(RULES, st.sampled_from(["allow", "deny"]), REQUESTS)
def test_as_one_after_the_other(rules: list[RuleConfig], default: str, ask: Request) -> None:
    policy = RuleSet(rules, default)
    expected = obvious(rules, default, ask)
    assert policy.decide(ask) == expected
    assert policy.decide(ask) == expected  # remembered
    matched = policy.of_client(ask.client)
    selected = policy.select(matched, ask.user, ask.groups, ask.method, ask.host, ask.port)
    settled = selected.settled
    if settled is not None and ask.addresses:
        assert settled.allow == expected.allow


@settings(max_examples=200, deadline=None)
@given(RULES, st.sampled_from(["allow", "deny"]), REQUESTS)
def test_whether_a_user_would_be_allowed(
    rules: list[RuleConfig], default: str, ask: Request
) -> None:
    """As if each user there may be were asked about."""
    groups = {"ann": frozenset({"g"}), "bob": frozenset({"g", "h"})}
    policy = RuleSet(rules, default)
    kinds = policy.kinds_of_users(lambda user: groups.get(user, frozenset()), ["bob", "ann"])
    addresses = ask.addresses or ("192.0.2.7",)
    found = policy.allows_one(
        kinds, policy.of_client(ask.client), ask.method, ask.host, ask.port, addresses
    )
    assert found == any(
        obvious(rules, default, ask._replace(user=user, groups=of, addresses=(address,))).allow
        for user, of in [*groups.items(), ("eve", frozenset())]
        for address in addresses
    )
    assert found <= policy.allows_one(
        kinds, policy.of_client(ask.client), ask.method, ask.host, ask.port, ()
    )
