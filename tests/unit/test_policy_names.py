# ruff: noqa: RUF001 - letters that look like others are what it is about
"""One spelling for each host."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spliceproxy.policy.names import canonical, is_number


@pytest.mark.parametrize(
    ("host", "same"),
    [
        ("example.com", "example.com"),
        ("EXAMPLE.Com.", "example.com"),
        ("localhost.", "localhost"),
        ("_dmarc.a-b.test", "_dmarc.a-b.test"),
        ("1e100.net", "1e100.net"),
        ("0xa.example", "0xa.example"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("127.0.1", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0X7F.0X1", "127.0.0.1"),
        ("0177.0.0.01", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0", "0.0.0.0"),
        ("0x", "0.0.0.0"),
        ("169.254.43518", "169.254.169.254"),
        ("10.65535", "10.0.255.255"),
        ("[::1]", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("[2001:DB8:0:0::0001]", "2001:db8::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("[::FFFF:7F00:1]", "127.0.0.1"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.Example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("faß.de", "xn--fa-hia.de"),
        ("１２７.０.０.１", "127.0.0.1"),
        ("127。0。0。1", "127.0.0.1"),
        ("ⓛocalhost", "localhost"),
        ("exam\u00adple.com", "example.com"),
    ],
)
def test_same_host(host: str, same: str) -> None:
    assert canonical(host) == same


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "a..b",
        "a.test..",
        "08.1",
        "0x7g.1",
        "1.2.3.4.5",
        "256.0.0.1",
        "127.0.0.256",
        "1.16777216",
        "4294967296",
        "a.1",
        "9" * 70,
        "[::1%lo]",
        "fe80::1%eth0",
        "[::1",
        "[127.0.0.1]",
        "a b",
        "a/b",
        "a@b",
        "a%2eb",
        "a~b",
        "x" * 64 + ".test",
        "a." * 127 + "ab",
        "é" * 64 + ".test",
        "\ud800.test",
        "a\u202eb.test",
    ],
)
def test_no_host(host: str) -> None:
    with pytest.raises(ValueError, match=r"host|IPv"):
        canonical(host)


@given(
    st.from_regex(
        r"(0x[0-9a-f]{0,9}|0[0-7]{0,12}|[0-9]{1,11})(\.(0x[0-9a-f]{0,9}|[0-9]{1,9})){0,3}\.?",
        fullmatch=True,
    )
)
def test_odd_ipv4_is_read_as_the_c_library_does(text: str) -> None:
    """Or refused: no reader may find an address where we find another, or none."""
    try:
        libc = socket.inet_ntoa(socket.inet_aton(text))
    except OSError:
        libc = ""
    try:
        ours = canonical(text)
    except ValueError:
        ours = ""
    if libc:
        assert ours == libc


@pytest.mark.parametrize("host", ["0", "0x", "127.1", "0X7F.1.", "1.2.3.4.5", "9" * 70, "08.1"])
def test_a_number(host: str) -> None:
    assert is_number(host)


@pytest.mark.parametrize("host", ["", "a", "a.1", "0x7g", "1.a", "1e3", "::1", "127.0.0.1.nip.io"])
def test_no_number(host: str) -> None:
    assert not is_number(host)


@given(st.ip_addresses())
def test_addresses_keep_their_meaning(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    mapped = getattr(address, "ipv4_mapped", None)
    assert canonical(str(address)) == str(mapped or address)


@given(st.text(min_size=1, max_size=40))
def test_canonical_is_a_fixed_point(text: str) -> None:
    try:
        once = canonical(text)
    except ValueError:
        return
    assert canonical(once) == once
    assert once.isascii()
    assert once == once.lower()
