"""The header of the PROXY protocol, versions 1 and 2, by which a balancer says who its client is.

Functions of bytes. The source is HAProxy's doc/proxy-protocol.txt, whose sections are named here. A
header is never guessed: a connection has one, all of it right, or :func:`read` raises Fault.
"""

from __future__ import annotations

import struct
from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton  # all of socket is slow to load
from functools import lru_cache
from typing import NamedTuple

V1 = "v1"
V2 = "v2"
LOCAL = "local"  # the balancer has connected for itself, or does not say for whom
UNKNOWN = "unknown"  # a client of whom the header says nothing

MISSING = "missing"  # it does not begin like a header
MALFORMED = "malformed"
TOO_LONG = "too_long"
CHECKSUM = "checksum"

V1_MOST = 107
"""Bytes of a line with its CRLF (section 2.1)."""

V2_MOST = 16 * 1024
"""Bytes of a header of version 2, which could have 64 KiB. Those of real senders have less than
300, or a few thousand with a client's certificate in them. HAProxy itself has room for as many."""

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_WORD = b"PROXY "
_FIXED = 16  # bytes in front of the addresses (section 2.2)
_SIZES = {0x00: 0, 0x11: 12, 0x12: 12, 0x21: 36, 0x22: 36, 0x31: 216, 0x32: 216}
"""Bytes of the addresses, by family and transport; others are reserved."""

_CRC32C = 0x03  # PP2_TYPE_CRC32C (section 2.2.3)
_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, IPv4 on a socket for both families
_FAMILIES = {b"TCP4": AF_INET, b"TCP6": AF_INET6}


class Header(NamedTuple):
    """``size`` bytes, of a ``kind``: V1, V2, LOCAL or UNKNOWN. ``client`` is the IP address of the
    client, "" where the connection's own peer counts: for LOCAL and UNKNOWN."""

    size: int
    kind: str
    client: str


class Fault(Exception):
    """What was received is no header. ``reason``: MISSING, MALFORMED, TOO_LONG or CHECKSUM."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def read(data: bytes) -> Header | None:
    """The header at the beginning of what was received; None while some of it is to come. Fault,
    which is the same however the bytes are split."""
    if data.startswith(SIGNATURE):
        return _version_2(data)
    if data.startswith(_WORD):
        return _version_1(data)
    if SIGNATURE.startswith(data) or _WORD.startswith(data):
        return None
    raise Fault(MISSING, "it does not begin with one")


def _version_1(data: bytes) -> Header | None:
    end = data.find(b"\n", 0, V1_MOST)
    if end < 0:
        if len(data) < V1_MOST:
            return None
        raise Fault(TOO_LONG, f"a line of more than {V1_MOST} bytes")
    line = data[len(_WORD) : end]
    if not line.endswith(b"\r") or line.count(b"\r") > 1:
        raise Fault(MALFORMED, "a line that does not end with CRLF")
    words = line[:-1].split(b" ")
    size = end + 1
    if words[0] == b"UNKNOWN":  # the rest of the line says nothing
        return Header(size, UNKNOWN, "")
    family = _FAMILIES.get(words[0])
    if family is None:
        raise Fault(MALFORMED, "neither TCP4, TCP6 nor UNKNOWN")
    if len(words) != 5:
        raise Fault(MALFORMED, "not two addresses and two ports")
    client = _address_of(words[1], family)
    _address_of(words[2], family)
    if not (_is_port(words[3]) and _is_port(words[4])):
        raise Fault(MALFORMED, "a port that is none")
    return Header(size, V1, _text(client, family))


def _address_of(word: bytes, family: int) -> bytes:
    """An address as the kernel has it. Numbers of IPv4 have no leading zeros: some would read
    them as octal."""
    try:
        return inet_pton(family, word.decode("ascii"))
    except (OSError, ValueError):
        raise Fault(MALFORMED, "an address that is none") from None


def _is_port(word: bytes) -> bool:
    """Whether it is a number from 0 to 65535, without leading zeros."""
    digits = 0 < len(word) <= 5 and word.isdigit() and (word[:1] != b"0" or len(word) == 1)
    return digits and int(word) <= 65535


def _version_2(data: bytes) -> Header | None:
    if len(data) > 12 and data[12] not in (0x20, 0x21):
        raise Fault(MALFORMED, "neither LOCAL nor PROXY of version 2")
    if len(data) < _FIXED:
        return None
    local = data[12] == 0x20  # and then it has no addresses that count
    size = _FIXED + int.from_bytes(data[14:16], "big")
    addresses = 0 if local else _SIZES.get(data[13], -1)
    if addresses < 0:
        raise Fault(MALFORMED, "a reserved family of addresses")
    if size < _FIXED + addresses:
        raise Fault(MALFORMED, "no room for its addresses")
    if size > V2_MOST:
        raise Fault(TOO_LONG, f"more than {V2_MOST} bytes")
    if len(data) < size:
        return None
    if local:
        return Header(size, LOCAL, "")
    _check_vectors(data[:size], _FIXED + addresses)
    return _named(data, size, addresses)


def _named(data: bytes, size: int, addresses: int) -> Header:
    """A header that has so many bytes of addresses, of which the client's are the first."""
    if addresses == _SIZES[0x11]:
        return Header(size, V2, _text(data[16:20], AF_INET))
    if addresses == _SIZES[0x21]:
        return Header(size, V2, _text(data[16:32], AF_INET6))
    return Header(size, UNKNOWN, "")


def _text(packed: bytes, family: int) -> str:
    """The address as the rest of the proxy writes it."""
    if family == AF_INET6 and packed.startswith(_MAPPED):
        return inet_ntop(AF_INET, packed[12:])
    return inet_ntop(family, packed)


def _check_vectors(header: bytes, at: int) -> None:
    """The TLVs behind the addresses: each must end where the next begins, and the last with the
    header. What they say is passed over, but for a checksum (section 2.2.3)."""
    checksum = -1
    while at < len(header):
        if at + 3 > len(header):
            raise Fault(MALFORMED, "a TLV without a length")
        kind, size = struct.unpack_from("!BH", header, at)
        at += 3
        if at + size > len(header):
            raise Fault(MALFORMED, "a TLV that ends behind the header")
        if kind == _CRC32C:
            if size != 4 or checksum >= 0:
                raise Fault(MALFORMED, "a checksum of other than four bytes, or two of them")
            checksum = at
        at += size
    if checksum >= 0:
        wanted = int.from_bytes(header[checksum : checksum + 4], "big")
        if crc32c(header[:checksum] + bytes(4) + header[checksum + 4 :]) != wanted:
            raise Fault(CHECKSUM, "a wrong checksum")


def crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720 appendix B.4)."""
    table = _table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


@lru_cache(maxsize=1)
def _table() -> tuple[int, ...]:
    """The remainder of each byte, made when the first checksum comes."""
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = (crc >> 1) ^ 0x82F63B78 if crc & 1 else crc >> 1
        table.append(crc)
    return tuple(table)
