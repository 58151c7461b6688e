"""The guard and the client networks: which addresses are what."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spliceproxy.policy.clients import NEAR, ClientNetworks, is_local
from spliceproxy.policy.guard import Guard, embedded

PUBLIC = ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "192.0.1.1", "2606:4700::1111"]


@pytest.mark.parametrize(
    ("address", "local", "remote", "private"),
    [  # whether it is denied to clients here, to clients elsewhere, and in private mode
        *((address, False, False, False) for address in PUBLIC),
        ("127.0.0.1", False, True, True),
        ("127.9.9.9", False, True, True),
        ("::1", False, True, True),
        ("0.0.0.0", False, True, True),
        ("::", False, True, True),
        ("::ffff:127.0.0.1", False, True, True),
        ("64:ff9b::7f00:1", False, True, True),
        ("64:ff9b:1::127.0.0.1", False, True, True),
        ("64:ff9b:1:7f00:0:100::", False, True, True),
        ("64:ff9b:1:7f::1:0:0", False, True, True),
        ("64:ff9b:1:0:7f:0:100:0", False, True, True),
        ("2002:7f00:1::", False, True, True),
        ("169.254.169.254", True, True, True),
        ("fe80::1", True, True, True),
        ("fd00:ec2::254", True, True, True),
        ("100.100.100.200", True, True, True),
        ("192.0.0.192", True, True, True),
        ("168.63.129.16", True, True, True),
        ("64:ff9b::a9fe:a9fe", True, True, True),
        ("::ffff:0:a9fe:a9fe", True, True, True),
        ("2002:a9fe:a9fe::1", True, True, True),
        ("2001:0:a9fe:a9fe::", True, True, True),
        ("2001:0:1:1:0:0:5601:5601", True, True, True),
        ("2606:4700::5efe:a9fe:a9fe", True, True, True),
        ("10.0.0.1", False, False, True),
        ("192.168.0.1", False, False, True),
        ("100.64.0.1", False, False, True),
        ("fd00::1", False, False, True),
        ("64:ff9b::8.8.8.8", False, False, True),
        ("64:ff9b:1::8.8.8.8", False, False, True),
        ("2002:808:808::", False, False, True),
        ("2001:0:808:808::", False, False, True),
        ("224.0.0.1", False, False, True),
        ("255.255.255.255", False, False, True),
        ("ff02::1", False, False, True),
        ("4000::1", False, False, True),
        ("2001:db8::1", False, False, True),
        ("192.0.2.1", False, False, True),
    ],
)
def test_modes(address: str, local: bool, remote: bool, private: bool) -> None:
    assert bool(Guard("on").fault(address, True)) is local
    assert bool(Guard("on").fault(address, False)) is remote
    assert bool(Guard("private").fault(address, True)) is private
    assert bool(Guard("private").fault(address, False)) is private
    assert Guard("off").fault(address, False) == ""


@settings(max_examples=2000, deadline=None)
@given(st.ip_addresses())
def test_private_mode_leaves_public_addresses(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """Whatever Python, too, does not take for a public unicast address is denied."""
    if not Guard("private").fault(str(address), True):
        assert address.is_global
        assert not address.is_multicast


def test_allow_and_deny() -> None:
    guard = Guard(
        "private", allow=["10.0.0.0/8", "169.254.169.254"], deny=["10.1.0.0/16", "1.1.1.1"]
    )
    assert guard.fault("10.2.0.1", True) == ""
    assert guard.fault("169.254.169.254", True) == ""
    assert guard.fault("169.254.169.253", True) == "link-local"
    assert guard.fault("10.1.0.1", True) == "denied"
    assert guard.fault("::ffff:10.1.0.1", True) == "denied"
    assert guard.fault("1.1.1.1", True) == "denied"
    assert Guard("off", deny=["1.1.1.0/24"]).fault("1.1.1.1", True) == "denied"
    assert Guard("off", deny=["1.1.1.0/24"]).fault("64:ff9b::1.1.1.1", True).startswith("denied")


def test_an_address_in_another_is_judged_by_itself() -> None:
    """As on an IPv6-only network, where NAT64 is allowed for the public part of IPv4."""
    guard = Guard("private", allow=["64:ff9b::/96"])
    assert guard.fault("64:ff9b::8.8.8.8", True) == ""
    assert guard.fault("64:ff9b::10.0.0.1", True) == "private (within an IPv6 address)"
    guard = Guard("private", allow=["64:ff9b::/96", "10.0.0.0/8"])
    assert guard.fault("64:ff9b::10.0.0.1", True) == ""


def test_check_keeps_the_order() -> None:
    guard = Guard("on")
    addresses = ("::1", "10.0.0.1", "127.0.0.1", "1.1.1.1")
    assert guard.check(addresses, False) == (("10.0.0.1", "1.1.1.1"), "loopback")
    assert guard.check(addresses, True) == (addresses, "")
    assert guard.check(("169.254.0.1",), True) == ((), "link-local")


@pytest.mark.parametrize(
    ("mode", "allow", "deny", "text"),
    [
        ("maybe", (), (), "allowed: on, private, off"),
        ("on", ("10.0.0.1/8",), (), "host bits set"),
        ("on", (), ("example.com",), "allowed: a network such as"),
    ],
)
def test_mistakes(mode: str, allow: tuple[str, ...], deny: tuple[str, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Guard(mode, allow, deny)


@given(st.ip_addresses(v=4))
def test_nat64_of_every_prefix_length(address: ipaddress.IPv4Address) -> None:
    """RFC 6052 section 2.2, for the lengths that fit into 64:ff9b:1::/48."""
    if int(address) >> 24 == 0:
        return
    v4 = address.packed
    prefix = ipaddress.IPv6Address("64:ff9b:1::").packed
    forms = [
        prefix[:6] + v4[:2] + b"\0" + v4[2:] + bytes(5),
        prefix[:7] + v4[:1] + b"\0" + v4[1:] + bytes(4),
        prefix[:8] + b"\0" + v4 + bytes(3),
        prefix[:12] + v4,
    ]
    for form in forms:
        assert address in embedded(ipaddress.IPv6Address(form))


def test_clients() -> None:
    near = ClientNetworks(NEAR)
    for address in ("", "127.0.0.1", "::1", "10.1.1.1", "192.168.1.1", "fd00::1", "fe80::1%eth0"):
        assert near.admit(address), address
    for address in (*PUBLIC, "192.0.2.7", "172.15.0.1", "2001:db8::1"):
        assert not near.admit(address), address
    some = ClientNetworks(["192.0.2.0/24", "2001:db8::/32"])
    assert some.admit("192.0.2.7")
    assert some.admit("2001:db8::7")
    assert not some.admit("127.0.0.1")
    assert not some.admit("")
    with pytest.raises(ValueError, match="allowed: a network such as"):
        ClientNetworks(["everybody"])


def test_local() -> None:
    assert all(map(is_local, ("", "127.0.0.1", "127.0.0.2", "::1")))
    assert not any(map(is_local, ("10.0.0.1", "::2", "0.0.0.0", "fe80::1%lo")))
