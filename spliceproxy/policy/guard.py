"""The guard against server-side request forgery: which addresses are never dialled.

It checks addresses, not names, and exactly those addresses that are dialled. Each mode denies:

``on``       link-local addresses and cloud metadata services; for clients that are not
             on this machine, loopback too.
``private``  everything that is not a public address, loopback included, for every client.
``off``      nothing but the ranges of ``deny``.

A range of ``deny`` wins over one of ``allow``, and that over the lists here. An IPv6
address that carries an IPv4 one (NAT64, 6to4, Teredo...) may be dialled only if both may.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import SupportsInt

from spliceproxy.policy.networks import NetworkTable, number_of

MODES = ("on", "private", "off")

CACHED = 8192
"""Answers of the resolver whose verdict is remembered."""

_LOOPBACK = {
    "127.0.0.0/8": "loopback",
    "::1/128": "loopback",
    # connect(2) to the unspecified address reaches this machine.
    "0.0.0.0/8": "unspecified",
    "::/128": "unspecified",
}

_LINK = {
    "169.254.0.0/16": "link-local",
    "fe80::/10": "link-local",
}

_METADATA = {
    # Those that are not link-local.
    "fd00:ec2::/32": "cloud metadata",  # AWS
    "fd20:ce::254/128": "cloud metadata",  # Google Cloud
    "fd00:42::42/128": "cloud metadata",  # Scaleway
    "100.100.100.200/32": "cloud metadata",  # Alibaba Cloud
    "192.0.0.192/32": "cloud metadata",  # Oracle Cloud
    "168.63.129.16/32": "cloud metadata",  # Azure's WireServer, a public address
}

# The IANA registries of special-purpose addresses (RFC 6890), less what is globally
# reachable, and multicast.
_SPECIAL = {
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "shared (carrier-grade NAT)",
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "reserved",
    "192.0.2.0/24": "documentation",
    "192.88.99.0/24": "6to4",
    "192.168.0.0/16": "private",
    "198.18.0.0/15": "benchmarking",
    "198.51.100.0/24": "documentation",
    "203.0.113.0/24": "documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved",
    "64:ff9b::/96": "NAT64",
    "64:ff9b:1::/48": "NAT64",
    "2001::/32": "Teredo",
    "2001::/23": "reserved",
    "2001:db8::/32": "documentation",
    "2002::/16": "6to4",
    "3fff::/20": "documentation",
    "fc00::/7": "private",
    "fec0::/10": "site-local",
    "ff00::/8": "multicast",
}

# The first bits of networks, as numbers.
_GLOBAL = 0b001  # 2000::/3, all that IANA has given out so far
_EMBEDDED_96 = {
    0x0064FF9B << 64,  # 64:ff9b::/96, NAT64 (RFC 6052)
    0,  # ::/96, IPv4-compatible (RFC 4291)
    0xFFFF0000,  # ::ffff:0:0:0/96, IPv4-translated (RFC 2765)
}
_NAT64_LOCAL = 0x0064FF9B0001  # 64:ff9b:1::/48 (RFC 8215)
_SIXTOFOUR = 0x2002  # 2002::/16 (RFC 3056)
_TEREDO = 0x20010000  # 2001::/32 (RFC 4380)
_ISATAP = (0x00005EFE, 0x02005EFE)  # RFC 5214


Check = Callable[[tuple[str, ...], bool], tuple[tuple[str, ...], str]]


class Guard:
    """``mode`` is one of MODES; ``allow`` and ``deny`` are networks. ValueError for others."""

    __slots__ = ("_allow", "_deny", "_kinds", "_mode", "check")

    check: Check
    """Takes addresses, and whether the client is on this machine. Returns the addresses that may
    be dialled, in the same order, and why the first of the others may not ("" if there is none).
    Answers are cached."""

    def __init__(
        self, mode: str = "on", allow: Iterable[str] = (), deny: Iterable[str] = ()
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"guard {mode!r}; allowed: {', '.join(MODES)}")
        self._mode = mode
        more = (_HERE, _ELSEWHERE) if mode == "private" else ()
        # For clients elsewhere, and for those on this machine.
        kinds: tuple[tuple[_Kinds, ...], ...] = ((_ALWAYS, *(more or (_HERE,))), (_ALWAYS, *more))
        self._kinds = kinds
        self._allow = NetworkTable((text, 1) for text in allow)
        self._deny = NetworkTable((text, 1) for text in deny)
        self.check = lru_cache(maxsize=CACHED)(self._check)

    def _check(self, addresses: tuple[str, ...], local: bool) -> tuple[tuple[str, ...], str]:
        allowed: list[str] = []
        first = ""
        for address in addresses:
            fault = self.fault(address, local)
            if not fault:
                allowed.append(address)
            first = first or fault
        return tuple(allowed), first

    def fault(self, address: str, local: bool) -> str:
        """What kind of address it is if it may not be dialled, else ""."""
        version, number = number_of(address)
        fault = self._fault(version, number, local)
        if not fault and version == 6:
            for inner in embedded(number):
                fault = self._fault(4, int(inner), local)
                if fault:
                    return f"{fault} (within an IPv6 address)"
        return fault

    def _fault(self, version: int, number: int, local: bool) -> str:
        if self._deny.bits_of(version, number):
            return "denied"
        if self._mode == "off" or self._allow.bits_of(version, number):
            return ""
        for table, names in self._kinds[local]:
            bits = table.bits_of(version, number)
            if bits:
                return names[(bits & -bits).bit_length() - 1]
        if self._mode == "private" and version == 6 and number >> 125 != _GLOBAL:
            return "reserved"
        return ""


def embedded(address: SupportsInt) -> Iterator[ipaddress.IPv4Address]:
    """The IPv4 addresses that an IPv6 address (or its number) may lead to, or be taken for."""
    number = int(address)
    if number >> 32 in _EMBEDDED_96 and number > 1:
        yield ipaddress.IPv4Address(number & 0xFFFFFFFF)
    if number >> 80 == _NAT64_LOCAL:
        # The prefix within it is the operator's choice: each place of RFC 6052 section 2.2,
        # for prefixes of 96, 64, 56 and 48 bits. What is no address there begins with zeros.
        places = (
            number & 0xFFFFFFFF,
            number >> 24 & 0xFFFFFFFF,
            (number >> 64 & 0xFF) << 24 | number >> 32 & 0xFFFFFF,
            (number >> 64 & 0xFFFF) << 16 | number >> 40 & 0xFFFF,
        )
        yield from (ipaddress.IPv4Address(place) for place in places if place >> 24)
    if number >> 112 == _SIXTOFOUR:
        yield ipaddress.IPv4Address(number >> 80 & 0xFFFFFFFF)
    if number >> 96 == _TEREDO:
        yield ipaddress.IPv4Address(number >> 64 & 0xFFFFFFFF)  # the server
        yield ipaddress.IPv4Address(~number & 0xFFFFFFFF)  # the client
    if number >> 32 & 0xFFFFFFFF in _ISATAP:
        yield ipaddress.IPv4Address(number & 0xFFFFFFFF)


_Kinds = tuple[NetworkTable, tuple[str, ...]]


def _table(*lists: dict[str, str]) -> _Kinds:
    """The networks of some lists, each with a bit of its own, and the kind for each bit."""
    kinds = {network: kind for group in lists for network, kind in group.items()}
    table = NetworkTable((network, 1 << n) for n, network in enumerate(kinds))
    return table, tuple(kinds.values())


_ALWAYS = _table(_LINK, _METADATA)
_HERE = _table(_LOOPBACK)
_ELSEWHERE = _table(_SPECIAL)
