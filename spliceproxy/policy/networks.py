"""IP networks: parsed, and many of them looked up at once."""

from __future__ import annotations

import ipaddress
from _socket import AF_INET, AF_INET6, inet_pton  # all of socket is slow to load
from collections.abc import Callable, Iterable
from functools import lru_cache

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

UNIX = "unix"
"""In a list of client networks: the clients of Unix sockets."""

BROUGHT = "~"
"""In front of the address of a client that a balancer has named, in a header of the PROXY protocol.
Loopback there is that of another machine, and no network within it names the client."""

UNNAMED = "="
"""In front of a balancer's own address, where it does not say whom it has brought."""

MARKS = (BROUGHT, UNNAMED)
"""Of clients behind a balancer, none of whom is on this machine."""

PLACES = 0xFFE
"""Addresses to listen on that can be told apart."""

UNKNOWN_PLACE = 0xFFF
"""Stands for any of these: where a client has come in is not known any more."""

CACHED = 4096
"""Addresses whose place in a table is remembered."""

_V4_MAPPED = bytes(10) + b"\xff\xff"
_MAPPED = 96  # prefix length of ::ffff:0:0/96 (RFC 4291 section 2.5.5.2)


def parse_address(text: str) -> Address:
    """An IP address. An IPv4-mapped IPv6 address becomes the IPv4 address that the kernel would
    dial; a zone is left out. ValueError."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address
    return address


def number_of(text: str) -> tuple[int, int]:
    """The version of an IP address, and its bits as a number: those of :func:`parse_address`, in a
    tenth of the time. ValueError."""
    try:
        if ":" not in text:
            return 4, int.from_bytes(inet_pton(AF_INET, text), "big")
        packed = inet_pton(AF_INET6, text.partition("%")[0])
    except (OSError, ValueError):
        address = parse_address(text)  # says what is wrong
        return address.version, int(address)
    if packed.startswith(_V4_MAPPED):
        return 4, int.from_bytes(packed[12:], "big")
    return 6, int.from_bytes(packed, "big")


Place = tuple[int, int] | None
"""An address as :func:`number_of` returns it; None: the client of a Unix socket. Loopback on
another machine has a version that is _FAR behind its own."""

_FAR = 10
_LOOPBACK = {4: (127, 24), 6: (1, 0)}
"""By version: the first bits of loopback, and how many bits to shift away."""


def parsed(text: str) -> Place:
    """The same of a client's address, "" for a Unix socket; one of MARKS may be in front of it.
    ValueError."""
    address = bare(text)
    if not address:
        return None
    if text[0] != BROUGHT:
        return number_of(address)
    version, number = number_of(address)
    first, shift = _LOOPBACK[version]
    return (version + _FAR if number >> shift == first else version), number


def may_hold(version: int, shift: int, place: tuple[int, int]) -> bool:
    """Whether a network of this version, with so many bits for hosts, may name a client there."""
    if place[0] == version:
        return True
    return place[0] == version + _FAR and shift > _LOOPBACK[version][1]


@lru_cache(maxsize=CACHED)
def bare(client: str) -> str:
    """The address of a client, without a mark."""
    return client[1:] if client[:1] in MARKS else client


def named(client: str, place: int) -> str:
    """A client, which a mark may be in front of, as decisions have it that depend on where it has
    come in: by the number of that ``place``, 0 where they do not."""
    return f"@{place:03x}{client}" if place else client


def taken_apart(name: str) -> tuple[str, int]:
    """The other way round: a client and its place."""
    return (name[4:], int(name[1:4], 16)) if name[:1] == "@" else (name, 0)


def canonical_address(text: str) -> str:
    """The same address as text, in one spelling. ValueError."""
    if is_quad(text):
        return text
    return str(parse_address(text))


def is_quad(text: str) -> bool:
    """Whether it is an IPv4 address of four decimal numbers without leading zeros."""
    if not "0" <= text[-1:] <= "9":  # most hosts are names: they are spared the exception
        return False
    try:
        inet_pton(AF_INET, text)
    except (OSError, ValueError):  # ValueError: not ASCII, or a zero byte
        return False
    return True


def parse_network(text: str) -> Network:
    """A network in CIDR notation, or one address; none with a zone, for it would stand for the
    same addresses on every link. ValueError says what is allowed."""
    address, zone, _ = text.partition("%")
    if zone:
        raise ValueError(
            f"{text!r}: a zone names one link of this machine, and a network stands for every "
            f"link; allowed: {address}"
        )
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{error}; allowed: a network such as 10.0.0.0/8 or fd00::/8") from None
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= _MAPPED:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((int(mapped), network.prefixlen - _MAPPED))
    return network


class NetworkTable:
    """Networks, each with a set of bits. A look-up returns the union of the sets of all networks
    that contain an address. It costs more only with more different prefix lengths."""

    __slots__ = ("_tables", "_unix", "bits")

    bits: Callable[[str], int]
    """The bits of an address as text, remembered; those of the name UNIX for ""."""

    def __init__(self, networks: Iterable[tuple[str, int]]) -> None:
        """``networks``: text, or UNIX, and bits. ValueError for any other text."""
        unix = 0
        # By version: network's first bits -> bits, by how many bits to shift away.
        tables: dict[int, dict[int, dict[int, int]]] = {4: {}, 6: {}}
        for text, bits in networks:
            if text == UNIX:
                unix |= bits
                continue
            network = parse_network(text)
            shift = network.max_prefixlen - network.prefixlen
            table = tables[network.version].setdefault(shift, {})
            first = int(network.network_address) >> shift
            table[first] = table.get(first, 0) | bits
        self._unix = unix
        self._tables = {version: tuple(found.items()) for version, found in tables.items()}
        for version, (_, within) in _LOOPBACK.items():
            self._tables[version + _FAR] = tuple(
                one
                for one in self._tables[version]
                if one[0] > within  # as may_hold has it
            )

        self.bits = lru_cache(maxsize=CACHED)(lambda text: self.bits_at(parsed(text)))

    def bits_at(self, place: Place) -> int:
        """The bits of an address that is parsed already, not remembered."""
        return self._unix if place is None else self.bits_of(*place)

    def bits_of(self, version: int, number: int) -> int:
        """The bits of an address as :func:`number_of` returns it, not remembered."""
        found = 0
        for shift, table in self._tables[version]:
            found |= table.get(number >> shift, 0)
        return found
