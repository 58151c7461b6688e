"""A client that a balancer has brought is never on this machine, whatever its header says."""

from __future__ import annotations

import pytest

from spliceproxy.config import AuthConfig, Config, PolicyConfig, RuleConfig
from spliceproxy.policy.auth.identities import build
from spliceproxy.policy.auth.throttle import network_of
from spliceproxy.policy.clients import ClientNetworks, is_local
from spliceproxy.policy.engine import Policy
from spliceproxy.policy.networks import BROUGHT, UNNAMED, NetworkTable, bare, parsed
from spliceproxy.policy.standing import LONGEST, Standing

LOOPBACK = ["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1"]
OTHERS = ["10.0.0.1", "126.255.255.255", "128.0.0.0", "2001:db8::1", "::2", "::"]


def policy(**values: object) -> Policy:
    config = Config(listen=(), policy=PolicyConfig(**values))  # type: ignore[arg-type]
    return Policy(config, names=_Nobody())  # type: ignore[arg-type]


class _Nobody:
    pass


@pytest.mark.parametrize("address", LOOPBACK)
def test_loopback_is_that_of_another_machine(address: str) -> None:
    client = BROUGHT + address
    assert is_local(address)
    assert not is_local(client)
    within = ClientNetworks(["127.0.0.0/8", "::1", "127.0.0.1", "unix"])
    assert within.admit(address)
    assert not within.admit(client)
    for wider in (["0.0.0.0/0", "::/0"], ["126.0.0.0/7", "::/127"]):
        assert ClientNetworks(wider).admit(client)
    standing = policy(clients=("127.0.0.0/8", "::1")).standing(client, None)
    assert standing[:3] == (False, False, False)
    assert not policy().standing(client, None).relayed  # by default loopback may use it, others not
    assert policy().standing(address, None).local


@pytest.mark.parametrize("address", OTHERS)
def test_any_other_address_is_what_it_is(address: str) -> None:
    client = BROUGHT + address
    assert parsed(client) == parsed(address)
    assert bare(client) == address
    rule = RuleConfig(id="r", action="allow", clients=("10.0.0.0/8", "2001:db8::/32"))
    one, other = (policy(rules=(rule,)).standing(text, None) for text in (client, address))
    assert one == other


@pytest.mark.parametrize("address", [*LOOPBACK, *OTHERS, ""])
def test_a_client_of_whom_nothing_is_known(address: str) -> None:
    """It has the balancer's address and what that may do, but it is not on this machine."""
    client = UNNAMED + address
    assert bare(client) == address
    assert parsed(client) == parsed(address)
    assert NetworkTable([("unix", 1), ("127.0.0.0/8", 2)]).bits(client) == NetworkTable(
        [("unix", 1), ("127.0.0.0/8", 2)]
    ).bits(address)
    one, other = (policy().standing(text, None) for text in (client, address))
    assert not one.local
    assert one[1:4] == other[1:4]


def test_users_by_network_and_by_process() -> None:
    identities = build([("", "127.0.0.0/8", "near"), ("", "10.0.0.0/8", "far"), ("", "0", "root")])
    assert identities.of("127.0.0.1", -1) == "near"
    assert identities.of("~127.0.0.1", -1) == ""
    assert identities.of("~10.0.0.1", -1) == "far"
    assert identities.of("", 0) == "root"
    assert identities.of("=", 0) == ""
    assert identities.of("=127.0.0.1", -1) == "near"
    assert build([("", "0.0.0.0/0", "all")]).of("~127.0.0.1", -1) == "all"


def test_delays_are_of_the_address() -> None:
    assert network_of("~2001:db8::1") == network_of("2001:db8::2")
    assert network_of("~10.0.0.1") != network_of("~10.0.0.2")
    assert network_of("=") == network_of("=")


def test_a_decision_for_one_is_never_for_the_other() -> None:
    """The relay repeats a decision for all clients of a group."""
    users = Config(listen=(), auth=AuthConfig(user=("a", "b"), required=False))
    for config in (users, Config(listen=())):
        made = Policy(config, names=_Nobody())  # type: ignore[arg-type]
        for address in LOOPBACK:
            clients = (address, BROUGHT + address, UNNAMED + address)
            groups = [made.standing(client, None).group for client in clients]
            assert groups[0] not in groups[1:]
            assert all(group is not None and len(group) <= LONGEST for group in groups)
        assert made.standing("", None).group != made.standing(UNNAMED, None).group


def test_a_group_has_room_for_the_longest_address() -> None:
    address = ":".join(["ffff"] * 8)
    group = Standing(False, True, True, 0, BROUGHT + address).group
    assert group is not None
    assert len(group) <= LONGEST
