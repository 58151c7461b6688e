"""Addresses of clients and destinations, as squid reads them, as networks."""

from __future__ import annotations

import ipaddress
import re
import socket
from bisect import bisect_right
from collections.abc import Iterable

from spliceproxy.policy.listfile import FileList

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

ALL = ("0.0.0.0/0", "::/0")

_ALL = (
    "all",
    "0/0",
    "0.0.0.0/0",
    "0.0.0.0/0.0.0.0",
    "0.0.0.0-255.255.255.255",
    "0.0.0.0-0.0.0.0/0",
)
"""What squid takes for ``all``, of both versions of IP."""

_FORM = re.compile(r"([^-/]+)(?:-([^-/]+))?(?:/([^-/]+))?").fullmatch


def networks(value: str) -> tuple[tuple[str, ...], bool]:
    """The networks of a value, and whether it is a name that has been looked up. ValueError for
    what squid does not start with, and for what nobody is sure of."""
    if value in _ALL:
        return ALL, False
    if value == "ipv4":
        return ("0.0.0.0/0",), False
    match = _FORM(value)
    if match is None:
        raise ValueError("no address, range or network")
    first = _address(match[1])
    if first is None:
        if match[2] or match[3] or not re.fullmatch(r"[A-Za-z0-9._-]*[A-Za-z_-]", match[1]):
            raise ValueError("no address, range or network")
        return _looked_up(match[1]), True
    last = _address(match[2]) if match[2] else first
    if last is None or type(last) is not type(first):
        raise ValueError("no range of addresses")
    length = first.max_prefixlen if match[3] is None else _length(match[3], first)
    return _range(first, last, length), False


def _address(text: str) -> Address | None:
    """Four numbers, or IPv6; squid reads fewer numbers in its own way."""
    try:
        return ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def _length(text: str, address: Address) -> int:
    """Bits of the network: as a number, or for IPv4 as a mask."""
    if text.isdecimal() and int(text) <= address.max_prefixlen:
        return int(text)
    try:
        # A mask of hosts would be taken, too.
        if "." in text and address.version == 4 and (text[0] in "12" or text == "0.0.0.0"):
            return ipaddress.ip_network(f"0.0.0.0/{text}").prefixlen
    except ValueError:
        pass
    raise ValueError(f"{text} is no mask of a network")


def _range(first: Address, last: Address, length: int) -> tuple[str, ...]:
    """From the network of the first address to that of the last."""
    bits = first.max_prefixlen - length
    start = int(first) >> bits << bits
    end = int(last) | (1 << bits) - 1
    if start > end:
        raise ValueError("it ends before it begins")
    kind = type(first)
    return tuple(map(str, ipaddress.summarize_address_range(kind(start), kind(end))))


def _looked_up(name: str) -> tuple[str, ...]:
    """The addresses that a name has now: squid asks once, at its start."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
    except OSError as error:
        raise ValueError(f"this name has no address here ({error.strerror})") from None
    return tuple(sorted(str(ipaddress.ip_network(str(one).partition("%")[0])) for one in found))


def is_plain(listed: FileList) -> bool:
    """Whether each of its values means the same in squid and here."""
    return all(networks(value)[0] == (str(ipaddress.ip_network(value)),) for value in listed.values)


class Kept:
    """The networks that squid keeps of an acl, value by value. What holds one that stands before it
    is ignored; only what is within one is no loss."""

    def __init__(self) -> None:
        self._begins: dict[int, list[int]] = {4: [], 6: []}
        self._ends: dict[int, list[int]] = {4: [], 6: []}

    def add(self, value: str, found: Iterable[str]) -> None:
        """ValueError for a value that squid would ignore, though it is more."""
        networks = [ipaddress.ip_network(one) for one in found]
        for version in (4, 6):
            within = [one for one in networks if one.version == version]
            if within:
                first, last = int(within[0][0]), int(within[-1][-1])
                self._add(value, self._begins[version], self._ends[version], first, last)

    @staticmethod
    def _add(value: str, begins: list[int], ends: list[int], first: int, last: int) -> None:
        place = bisect_right(begins, first)
        if place and last <= ends[place - 1]:
            return
        overlaps = (place and first <= ends[place - 1]) or (
            place < len(begins) and begins[place] <= last
        )
        if overlaps:
            raise ValueError(f"{value} holds what stands before it, and squid ignores it then")
        begins.insert(place, first)
        ends.insert(place, last)
