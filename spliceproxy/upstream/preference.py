"""Which family of a name's addresses is tried first (RFC 6724 section 6).

c-ares sorts the addresses of one family. This module compares the first of each family. As in
getaddrinfo(3), the source address of each tells whether it can be reached at all. A source with
another label, such as a private one for a public destination, tells that it likely cannot.
"""

from __future__ import annotations

import socket
from ipaddress import IPv6Address, IPv6Network, ip_address

_POLICY = [
    # prefix, precedence, label: RFC 6724 section 2.1, longest prefix first
    (IPv6Network("::1/128"), 50, 0),
    (IPv6Network("::ffff:0:0/96"), 35, 4),
    (IPv6Network("::/96"), 1, 3),
    (IPv6Network("2001::/32"), 5, 5),
    (IPv6Network("2002::/16"), 30, 2),
    (IPv6Network("3ffe::/16"), 1, 12),
    (IPv6Network("fec0::/10"), 1, 11),
    (IPv6Network("fc00::/7"), 3, 13),
    (IPv6Network("::/0"), 40, 1),
]


def prefers_ipv4(six: str, four: str) -> bool:
    """Whether ``four`` is to be tried before ``six``. Sends nothing."""
    return _score(four, source_of(four)) > _score(six, source_of(six))


def source_of(address: str) -> str | None:
    """The address that this machine would dial from, None where it has no route."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((address, 1))  # of UDP: no packet leaves
            return str(sock.getsockname()[0])
    except OSError:
        return None


def _score(address: str, source: str | None) -> tuple[bool, bool, bool, int, bool]:
    """The rank by rules 1, 2, 5, 6 and 8; the greater one is preferred."""
    if source is None:
        return False, False, False, 0, False
    precedence, label = _entry(address)
    near = _is_near(address)
    same_label = label == _entry(source)[1]
    return True, near == _is_near(source), same_label, precedence, near


def _entry(address: str) -> tuple[int, int]:
    """Precedence and label."""
    parsed = ip_address(address)
    mapped = parsed if parsed.version == 6 else IPv6Address(f"::ffff:{parsed}")
    return next((precedence, label) for net, precedence, label in _POLICY if mapped in net)


def _is_near(address: str) -> bool:
    """Whether its scope is this machine or its link (RFC 6724 sections 3.1 and 3.2)."""
    parsed = ip_address(address.partition("%")[0])
    return parsed.is_loopback or parsed.is_link_local
