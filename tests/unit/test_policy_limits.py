"""Which limits count a request, by what, and what makes no sense in them."""

from __future__ import annotations

import pytest

from spliceproxy.config import AuthConfig, LimitConfig
from spliceproxy.policy.limits import Matching, faults, network_of, numbers_of

GROUPS = {"ann": frozenset({"a", "b"}), "bob": frozenset({"b"})}


def counted(
    limits: list[LimitConfig], client: str = "192.0.2.7", user: str = "", host: str = "example.com"
) -> list[tuple[str, str]]:
    matching = Matching(limits, lambda name: GROUPS.get(name, frozenset()))
    found = matching.of(client, user, "GET", host, 443, "198.51.100.1")
    return [(limit.id, key) for limit, key in found]


def test_each_has_its_own_count() -> None:
    limits = [
        LimitConfig("c", by="client", prefix4=24),
        LimitConfig("u", by="user"),
        LimitConfig("g", by="group"),
        LimitConfig("d", by="destination"),
        LimitConfig("t"),
    ]
    assert counted(limits, user="ann", host="EXAMPLE.com") == [
        ("c", "192.0.2.0/24"),
        ("u", "ann"),
        ("g", "a"),
        ("g", "b"),
        ("d", "example.com:443"),
        ("t", ""),
    ]
    assert counted(limits[1:4], host="2001:DB8::1") == [
        ("u", "-"),
        ("g", "-"),
        ("d", "[2001:db8::1]:443"),
    ]


def test_conditions_choose() -> None:
    limits = [
        LimitConfig("host", hosts=(".example.com",)),
        LimitConfig("other", hosts=("example.org",)),
        LimitConfig("port", ports=("80",)),
        LimitConfig("client", clients=("192.0.2.0/24",)),
        LimitConfig("unix", clients=("unix",)),
        LimitConfig("group", groups=("b",)),
        LimitConfig("network", networks=("198.51.100.0/24",)),
        LimitConfig("method", methods=("CONNECT",)),
    ]
    assert [name for name, _ in counted(limits)] == ["host", "client", "network"]
    assert [name for name, _ in counted(limits, "", "bob")] == ["host", "unix", "group", "network"]


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("", "unix"),
        ("192.0.2.7", "192.0.2.0/28"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.0/28"),
    ],
)
def test_clients_of_a_network(address: str, network: str) -> None:
    assert network_of(address, 28, 64) == network


def test_bursts() -> None:
    second = 1_000_000_000
    slow = numbers_of(LimitConfig("", requests_per_second=0.5, new_tunnels_per_second=20))
    assert slow.intervals == (2 * second, second // 20)
    assert slow.rooms == (2 * second, second)
    fast = numbers_of(LimitConfig("", requests_per_second=1000, burst=5))
    assert fast.rooms == (5_000_000, 0)


@pytest.mark.parametrize(
    ("limit", "fault"),
    [
        (LimitConfig("x"), "it allows as much as comes"),
        (LimitConfig("x", connections=1, burst=2), "burst: it is about"),
        (LimitConfig("x", rate_in=5000, burst=2), "burst: it is about"),
        (
            LimitConfig("x", requests_per_second=1, new_tunnels_per_second=0.001, burst=10_000_000),
            "burst: 10000000 come back in more than 3000000000 s; allowed: at most 3000000",
        ),
        (
            LimitConfig("x", connections=1, prefix4=24),
            "prefix4: it is about clients; allowed: with",
        ),
        (LimitConfig("x", by="user", connections=1), "by: no setting makes any client a user"),
    ],
)
def test_what_makes_no_sense(limit: LimitConfig, fault: str) -> None:
    (found,) = faults(limit, AuthConfig())
    assert found.startswith(fault)


def test_sense() -> None:
    auth = AuthConfig(user=("ann", "secret"), groups={"a": ("ann",)})
    for by in ("client", "user", "group", "destination", "total"):
        assert not list(faults(LimitConfig("x", by=by, connections=1), auth))  # type: ignore[arg-type]
