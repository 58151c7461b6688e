"""Clients of one group get one answer: what is decided about one may be repeated for another."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from spliceproxy.config import AuthConfig, Config, PolicyConfig, RuleConfig
from spliceproxy.errors import Denied
from spliceproxy.http1.head import parse_request
from spliceproxy.observe.record import Record
from spliceproxy.policy import Allow, Deny, Request
from spliceproxy.policy.engine import Policy
from spliceproxy.policy.functions import Functions
from spliceproxy.policy.standing import LONGEST, Standing
from spliceproxy.policy.verdict import Verdict
from spliceproxy.upstream.addresses import literal

ADDRESSES = (
    "",
    *(f"10.0.{net}.{host}" for net in range(3) for host in (1, 2, 200)),
    "127.0.0.1",
    "127.9.9.9",
    "::1",
    "192.0.2.1",
    "192.0.2.2",
    "203.0.113.9",
    "2001:db8::1",
    "2001:db8:0:1::1",
    "fe80::1",
)
NETWORKS = (
    "unix",
    "10.0.0.0/16",
    "10.0.1.0/24",
    "10.0.1.128/25",
    "127.0.0.0/8",
    "192.0.2.0/24",
    "192.0.2.2",
    "2001:db8::/32",
    "2001:db8:0:1::/64",
)
ZONE = {
    "a.test": ("192.0.2.1", "2001:db8::1"),
    "b.test": ("127.0.0.1",),
    "c.example": ("169.254.1.1", "198.51.100.1"),
}


class Names:
    def cached(self, host: str) -> tuple[str, ...] | None:
        found = literal(host)
        return (found,) if found else ZONE[host]

    async def resolve(self, host: str) -> tuple[str, ...]:
        raise AssertionError(host)


@dataclass(frozen=True)
class Asked:
    """A request without a client."""

    method: str
    host: str
    port: int
    own: bool


def some(values: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    """A condition of a rule."""
    return st.none() | st.lists(st.sampled_from(values), min_size=1, max_size=3).map(tuple)


RULES = st.lists(
    st.builds(
        RuleConfig,
        id=st.just(""),
        action=st.sampled_from(["allow", "deny"]),
        clients=some(NETWORKS),
        hosts=some(("a.test", "*.test", "c.example")),
        networks=some(("192.0.2.0/24", "2001:db8::/32", "127.0.0.0/8")),
        methods=some(("CONNECT", "GET")),
        ports=some(("443", "1-100")),
        report_only=st.booleans(),
    ),
    max_size=5,
).map(tuple)
POLICIES = st.builds(
    PolicyConfig,
    rules=RULES,
    default=st.sampled_from(["allow", "deny"]),
    clients=some(NETWORKS),
    guard=st.sampled_from(["on", "off", "private"]),
    guard_local=st.sampled_from(["loopback", "none"]),
    report_only=st.booleans(),
)
REQUESTS = st.builds(
    Asked,
    method=st.sampled_from(["CONNECT", "GET"]),
    host=st.sampled_from([*ZONE, "192.0.2.7"]),
    port=st.sampled_from([80, 443, 8080]),
    own=st.booleans(),
)


def answer(policy: Policy, address: str, asked: Asked) -> object:
    target = f"{asked.host}:{asked.port}"
    if asked.method != "CONNECT":
        target = f"http://{target}/"
    head = parse_request(f"{asked.method} {target} HTTP/1.1\r\nHost: {asked.host}\r\n\r\n".encode())
    standing = policy.standing(address, None)
    notes = Record(address, 0.0)
    try:
        decision = policy.decide(standing, head, head.host, head.port, notes, own=asked.own)
        return asyncio.run(decision)
    except Denied as denied:
        return str(denied), denied.rule, denied.reason, denied.status, denied.error


def check_alike(policy: Policy, one: str, other: str, asked: Asked) -> None:
    """Two clients of one group are one to the policy."""
    first, second = policy.standing(one, None), policy.standing(other, None)
    assume(first.group == second.group is not None)
    assert first == second
    assert answer(policy, one, asked) == answer(policy, other, asked)


PAIRS = st.lists(st.sampled_from(ADDRESSES), min_size=2, max_size=2, unique=True)


@settings(deadline=None)
@given(POLICIES, PAIRS, REQUESTS)
def test_clients_of_a_group_get_the_same_answer(
    config: PolicyConfig, pair: list[str], asked: Asked
) -> None:
    check_alike(Policy(Config(listen=(), policy=config), Names()), *pair, asked)


class OfTheAddress(Policy):
    """A policy in which a decision depends on what it should not know."""

    async def decide(self, client: Standing, *args: Any, **kwargs: Any) -> Verdict:
        verdict = await super().decide(client, *args, **kwargs)
        notes: Record = args[3]
        if notes.client.endswith(".200"):
            raise Denied("a leak")
        return verdict


def test_an_answer_that_depends_on_the_address_is_found() -> None:
    @settings(deadline=None, database=None, phases=[Phase.generate])
    @given(POLICIES, PAIRS, REQUESTS)
    def leak(config: PolicyConfig, pair: list[str], asked: Asked) -> None:
        check_alike(OfTheAddress(Config(listen=(), policy=config), Names()), *pair, asked)

    with pytest.raises(AssertionError):
        leak()


@given(st.lists(st.integers(min_value=0, max_value=1 << 160), max_size=20), st.data())
def test_a_group_is_of_one_standing(numbers: list[int], data: st.DataObject) -> None:
    """No value of it is taken for another, and it is as long as an address at most."""
    made: dict[str | None, Standing] = {}
    for matched in [*numbers, 0, 1, 0x10, 0x101]:
        for bits in range(8):
            yes = [bool(bits & 1 << n) for n in range(3)]
            address = data.draw(st.sampled_from(ADDRESSES))
            standing = Standing.of(address, *yes, matched, known=False)
            group = standing.group
            assert group is not None
            assert len(group) <= LONGEST
            if standing.address is None:
                assert made.setdefault(group, standing) == standing


def test_every_value_of_a_standing_is_in_the_group() -> None:
    """Whoever adds one need not think of the group: each changes it, or forbids one."""
    plain = Standing(False, False, False, 0)
    others = {"local": True, "admitted": True, "relayed": True, "matched": 5}
    others |= {"address": "10.0.0.1", "uid": 7, "place": 5}
    assert set(others) == set(Standing._fields)
    groups = [plain._replace(**{name: value}).group for name, value in others.items()]
    assert len({plain.group, *groups}) == 1 + len(groups)
    assert plain._replace(uid=0).group is None


@pytest.mark.parametrize("matched", [(1 << 151) - 1, 1 << 152, 1 << 400])
def test_what_is_too_long_for_a_group_is_keyed_by_the_address(matched: int) -> None:
    standing = Standing.of("10.0.0.1", True, True, True, matched, known=False)
    text = f"*1.1.1.{matched:x}"
    assert standing.group == (text if len(text) <= LONGEST else "10.0.0.1")


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "", "2001:db8:ffff:ffff:ffff:ffff:255.255.255.255"]
)
def test_users_and_functions_know_the_address(address: str) -> None:
    def authorize(request: Request) -> Allow | Deny:
        return Allow() if request.client == address else Deny("another")

    hooked = Policy(Config(listen=()), Names(), Functions(authorize))
    assert hooked.standing(address, None).address == address
    named = Config(listen=(), auth=AuthConfig(networks={"10.0.0.0/8": "ci"}))
    assert Policy(named, Names()).standing(address, None).address == address
    assert Policy(Config(listen=()), Names()).standing(address, None).address is None
