"""What must hold of the PROXY protocol's header for any bytes: :func:`check_header` compares its
reader with another one, written from the text of the specification, and reads the bytes again as
they come one after the other."""

from __future__ import annotations

import ipaddress
import re

from oracle import Difference

from spliceproxy.front.proxy_header import SIGNATURE, V1, V2, V2_MOST, Fault, Header, read
from spliceproxy.relay._native import plain_proxy_header

_QUAD = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_V4 = rb"(?:%s\.){3}%s" % (_QUAD, _QUAD)
_PORT = rb"(?:0|[1-9][0-9]{0,4})"
_LINE = re.compile(
    rb"PROXY (?:UNKNOWN(?: [^\r\n]*)?"
    rb"|TCP4 (?P<four>%s) %s (?P<a>%s) (?P<b>%s)"
    rb"|TCP6 (?P<six>[0-9A-Fa-f:.]+) (?P<to>[0-9A-Fa-f:.]+) (?P<c>%s) (?P<d>%s))\r\n"
    % (_V4, _V4, _PORT, _PORT, _PORT, _PORT)
)


def check_header(data: bytes) -> str:
    """All of it; returns what the header is, "" for none."""
    whole = _read(data)
    if whole != (wanted := _expected(data)):
        raise Difference(f"the header of {data!r} is {whole}, and should be {wanted}")
    check_plain(data, whole)
    for n in range(len(data)):
        part = _read(data[:n])
        if part is None:
            continue
        if part != whole:
            raise Difference(f"{data!r} is {whole}, and its first {n} bytes are {part}")
        break
    return whole.kind if isinstance(whole, Header) else ""


def check_plain(data: bytes, whole: Header | str | None) -> None:
    """What the lane reads by itself is what Python reads."""
    found = plain_proxy_header(data)
    if found is None:
        short = isinstance(whole, Header) and (data[13], whole.size) in ((0x11, 28), (0x21, 52))
        if isinstance(whole, Header) and (whole.kind == V1 or (whole.kind == V2 and short)):
            raise Difference(f"{data!r} is plain, and the lane gives it back")
        return
    size, version, client = found
    if whole != Header(size, f"v{version}", client):
        raise Difference(f"{data!r} is {whole}, and for the lane {found}")


def _read(data: bytes) -> Header | str | None:
    """The header, None for the beginning of one, "fault" for anything else."""
    try:
        return read(data)
    except Fault:
        return "fault"


def _expected(data: bytes) -> Header | str | None:
    if data[:12] == SIGNATURE:
        return _binary(data)
    if SIGNATURE.startswith(data) or b"PROXY ".startswith(data):
        return None
    line, end, _ = data.partition(b"\n")
    if not data.startswith(b"PROXY ") or len(line + end) > 107 or (len(line) == 107 and not end):
        return "fault"
    if not end:
        return None
    found = _LINE.fullmatch(line + end)
    if found is None:
        return "fault"
    ports = [int(found[name]) for name in "abcd" if found[name] is not None]
    if any(port > 65535 for port in ports):
        return "fault"
    if found["four"]:
        return Header(found.end(), "v1", found["four"].decode())
    if not found["six"]:
        return Header(found.end(), "unknown", "")
    try:
        ipaddress.IPv6Address(found["to"].decode())
        client = ipaddress.IPv6Address(found["six"].decode())
    except ValueError:
        return "fault"
    return Header(found.end(), "v1", _text(client))


def _text(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """As glibc writes it, which keeps the quad of an IPv4-compatible address."""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    low = int(address)
    return f"::{ipaddress.IPv4Address(low)}" if 0xFFFF < low <= 0xFFFFFFFF else str(address)


def _binary(data: bytes) -> Header | str | None:
    if len(data) > 12 and data[12] not in b"\x20\x21":
        return "fault"
    if len(data) < 16:
        return None
    size = 16 + data[14] * 256 + data[15]
    least = 0 if data[12] == 0x20 else _least(data[13])
    if least < 0 or size > V2_MOST or size < 16 + least:
        return "fault"
    if len(data) < size:
        return None
    if data[12] == 0x20:
        return Header(size, "local", "")
    if not _vectors(data, 16 + least, size):
        return "fault"
    if least in (12, 36):
        client = data[16:20] if least == 12 else data[16:32]
        return Header(size, "v2", _text(ipaddress.ip_address(client)))
    return Header(size, "unknown", "")


def _least(family: int) -> int:
    """Bytes of the addresses; -1: the byte is reserved."""
    if family == 0:
        return 0
    return {1: 12, 2: 36, 3: 216}.get(family >> 4, -1) if family & 15 in (1, 2) else -1


def _vectors(data: bytes, at: int, size: int) -> bool:
    """Whether they are right: type, length, value of each, and a checksum that fits."""
    rest, sums = data[at:size], []
    while rest:
        n = 3 + int.from_bytes(rest[1:3], "big")
        if len(rest) < max(3, n):
            return False
        if rest[0] == 3:
            sums.append((size - len(rest) + 3, rest[3:n]))
        rest = rest[n:]
    if not sums:
        return True
    ((place, value),) = sums if len(sums) == 1 else [(0, b"")]
    zeroed = data[:place] + bytes(4) + data[place + 4 : size]
    return len(value) == 4 and _crc(zeroed) == int.from_bytes(value, "big")


def _crc(data: bytes) -> int:
    """CRC-32C by its polynomial (Castagnoli), a bit at a time."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
