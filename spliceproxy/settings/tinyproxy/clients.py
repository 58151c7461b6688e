"""Allow and Deny: which clients tinyproxy serves, as networks."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, collapse_addresses

Network = IPv4Network | IPv6Network

LOCALHOST = "localhost"

_MAPPED = IPv6Network("::ffff:0:0/96")


def networks(allow: bool, text: str) -> tuple[Network, ...] | None:
    """The networks of an Allow (else of a Deny); () for what tinyproxy ignores, None for a name.

    An IPv4 address may have any spelling that inet_aton(3) reads, as there: 10 is 0.0.0.10, and
    10/8 is 0.0.0.0/8.
    """
    if text.lower() == LOCALHOST:
        return _local() if allow else (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
    host, slash, digits = text.partition("/")
    host = host.partition("%")[0]
    try:
        first = int(IPv6Address(b"\0" * 10 + b"\xff\xff" + socket.inet_aton(host)))
        ahead = _MAPPED.prefixlen
    except OSError:
        try:
            first = int(IPv6Address(host))
            ahead = 0
        except ValueError:
            return () if slash or ":" in text else None
    if slash and not digits.isdecimal():  # a dotted mask, which an Upstream may have
        return None
    length = (int(digits) + ahead) % 2**64 if slash else 128
    if length > 128 or int(digits or 0) >= 2**64:
        return ()
    return (_unmapped(IPv6Network((first, length), strict=False)),)


def _local() -> tuple[Network, ...]:
    """The loopback addresses that localhost has here: /etc/hosts need not have ::1."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(LOCALHOST, None)}
    except OSError:
        found = set()
    return (IPv4Network("127.0.0.1"), *([IPv6Network("::1")] if "::1" in found else []))


def permitted(controls: Iterable[tuple[bool, Network]]) -> list[Network]:
    """The addresses for which the first control that holds them allows.

    tinyproxy keeps an IPv4 address as the IPv6 one that it is mapped to (RFC 4291 section
    2.5.5.2), so a network such as ::/0 holds all of IPv4.
    """
    seen: list[IPv6Network] = []
    found: list[IPv6Network] = []
    for allow, network in controls:
        one = _mapped(network)
        if allow:
            found.extend(_without(one, seen))
        seen.append(one)
    parts = list(collapse_addresses(found))
    if any(one != _MAPPED and one.supernet_of(_MAPPED) for one in parts):
        parts.append(_MAPPED)
    v4 = [one for one in map(_unmapped, parts) if isinstance(one, IPv4Network)]
    v6 = [one for one in map(_unmapped, parts) if isinstance(one, IPv6Network)]
    return [*collapse_addresses(v4), *v6]


def _mapped(network: Network) -> IPv6Network:
    if isinstance(network, IPv6Network):
        return network
    first = int(_MAPPED.network_address) + int(network.network_address)
    return IPv6Network((first, _MAPPED.prefixlen + network.prefixlen))


def _unmapped(network: IPv6Network) -> Network:
    if not network.subnet_of(_MAPPED):
        return network
    first = int(network.network_address) - int(_MAPPED.network_address)
    return IPv4Network((first, network.prefixlen - _MAPPED.prefixlen))


def _without(network: IPv6Network, holes: Iterable[IPv6Network]) -> list[IPv6Network]:
    parts = [network]
    for hole in holes:
        parts, before = [], parts
        for part in before:
            if part.subnet_of(hole):
                continue
            parts.extend(part.address_exclude(hole) if hole.subnet_of(part) else [part])
    return parts
