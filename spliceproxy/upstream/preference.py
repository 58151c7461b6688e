"""Which family of a name's addresses is tried first (RFC 6724 section 6).

c-ares sorts the addresses of one family. This module compares the first of each family. As in
getaddrinfo(3), the source address of each tells whether it can be reached at all. A source with
another label, such as a private one for a public destination, tells that it likely cannot.
"""

from __future__ import annotations

import socket

from spliceproxy.policy.networks import number_of

_POLICY = [
    # bits behind the prefix, prefix, precedence, label: RFC 6724 section 2.1, longest first
    (0, 1, 50, 0),  # ::1/128
    (32, 0xFFFF, 35, 4),  # ::ffff:0:0/96
    (32, 0, 1, 3),  # ::/96
    (96, 0x20010000, 5, 5),  # 2001::/32
    (112, 0x2002, 30, 2),  # 2002::/16
    (112, 0x3FFE, 1, 12),  # 3ffe::/16
    (118, 0xFEC0 >> 6, 1, 11),  # fec0::/10
    (121, 0xFC00 >> 9, 3, 13),  # fc00::/7
    (128, 0, 40, 1),  # ::/0
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
    parsed, source_parsed = number_of(address), number_of(source)
    precedence, label = _entry(*parsed)
    near = _is_near(*parsed)
    same_label = label == _entry(*source_parsed)[1]
    return True, near == _is_near(*source_parsed), same_label, precedence, near


def _entry(version: int, number: int) -> tuple[int, int]:
    """Precedence and label."""
    if version == 4:
        number |= 0xFFFF << 32
    return next(
        (precedence, label)
        for shift, prefix, precedence, label in _POLICY
        if number >> shift == prefix
    )


def _is_near(version: int, number: int) -> bool:
    """Whether its scope is this machine or its link (RFC 6724 sections 3.1 and 3.2)."""
    if version == 4:
        return number >> 24 == 127 or number >> 16 == 0xA9FE  # 169.254.0.0/16
    return number == 1 or number >> 118 == 0xFE80 >> 6
