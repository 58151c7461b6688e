"""Addresses and hosts that most requests have are read by a shorter way, with the same result."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spliceproxy.policy.names import _spelled, canonical
from spliceproxy.policy.networks import (
    NetworkTable,
    canonical_address,
    is_quad,
    number_of,
    parse_address,
)


def outcome(call: Callable[[str], object], text: str) -> object:
    try:
        return call(text)
    except ValueError:
        return ValueError


ADDRESSES = st.one_of(
    st.ip_addresses().map(str),
    st.ip_addresses(v=6).map(lambda address: address.exploded.upper()),
    st.ip_addresses(v=4).map(lambda address: f"::ffff:{address}"),
    st.ip_addresses(v=6).map(lambda address: f"{address}%eth0"),
    st.ip_addresses(v=4).map(lambda address: f"{address}%eth0"),
    st.text(alphabet="0123456789abcdef.:%x\x00\u0661", max_size=24),
)


@given(ADDRESSES)
@example("01.2.3.4")
@example("1.2.3")
@example("1.2.3.4\x00")
@example("\u0661.2.3.4")
def test_the_number_of_an_address(text: str) -> None:
    def parsed(text: str) -> tuple[int, int]:
        address = parse_address(text)
        return address.version, int(address)

    assert outcome(number_of, text) == outcome(parsed, text)
    assert outcome(canonical_address, text) == outcome(lambda text: str(parse_address(text)), text)
    assert is_quad(text) == (outcome(ipaddress.IPv4Address, text) is not ValueError)


LABELS = st.text(alphabet="abz019-_xX.\u00fc%[]:", max_size=66)


@given(st.lists(LABELS, max_size=5).map(".".join) | ADDRESSES)
@example("a." * 126 + "a")
@example("a." * 127 + "a")
@example("a" * 64)
@example("a.0x1f")
@example("a.x0")
@example("0.0.0.0x1")
@example("a\n")
def test_the_spelling_of_a_host(host: str) -> None:
    assert outcome(canonical, host) == outcome(_spelled, host)


def test_a_table_says_what_is_wrong() -> None:
    table = NetworkTable([("10.0.0.0/8", 1), ("fe80::/10", 2)])
    assert [table.bits(text) for text in ("10.1.2.3", "::ffff:10.0.0.1", "fe80::1%eth0")] == [
        1,
        1,
        2,
    ]
    with pytest.raises(ValueError, match=r"does not appear to be"):
        table.bits("10.0.0")
