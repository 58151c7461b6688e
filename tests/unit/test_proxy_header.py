"""front/proxy_header.py: headers of the PROXY protocol, valid and not, however they are split."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spliceproxy.front.proxy_header import (
    CHECKSUM,
    LOCAL,
    MALFORMED,
    MISSING,
    SIGNATURE,
    TOO_LONG,
    UNKNOWN,
    V1,
    V1_MOST,
    V2,
    V2_MOST,
    Fault,
    Header,
    crc32c,
    read,
)

BEHIND = b"GET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n"


def v2(command: int, family: int, addresses: bytes = b"", vectors: bytes = b"") -> bytes:
    rest = addresses + vectors
    return SIGNATURE + struct.pack("!BBH", command, family, len(rest)) + rest


def four(client: str, ports: tuple[int, int] = (40000, 443)) -> bytes:
    return socket.inet_aton(client) + socket.inet_aton("192.0.2.1") + struct.pack("!HH", *ports)


def six(client: str) -> bytes:
    to = socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    return socket.inet_pton(socket.AF_INET6, client) + to + struct.pack("!HH", 1, 2)


def vector(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def summed(before: bytes, family: int, addresses: bytes, behind: bytes = b"") -> bytes:
    """With a right checksum between other vectors."""
    draft = v2(0x21, family, addresses, before + vector(3, bytes(4)) + behind)
    crc = crc32c(draft).to_bytes(4, "big")
    return v2(0x21, family, addresses, before + vector(3, crc) + behind)


UNIX = b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0")
LONGEST_LINE = b"PROXY UNKNOWN " + b"x" * (V1_MOST - 16) + b"\r\n"
LONGEST_SIX = b"PROXY TCP6 ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".replace(
    b"ffff:f...f:ffff", b":".join([b"ffff"] * 8)
)

VALID = {
    b"PROXY TCP4 198.51.100.22 203.0.113.7 35646 80\r\n": (V1, "198.51.100.22"),
    b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n": (V1, "255.255.255.255"),
    b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n": (V1, "0.0.0.0"),
    b"PROXY TCP6 2001:DB8::1 ::1 1 2\r\n": (V1, "2001:db8::1"),
    b"PROXY TCP6 ::ffff:192.0.2.5 ::ffff:192.0.2.1 1 2\r\n": (V1, "192.0.2.5"),
    b"PROXY TCP6 ::ffff:c000:205 ::1 1 2\r\n": (V1, "192.0.2.5"),
    LONGEST_SIX: (V1, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    b"PROXY UNKNOWN\r\n": (UNKNOWN, ""),
    b"PROXY UNKNOWN \r\n": (UNKNOWN, ""),
    b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n": (UNKNOWN, ""),
    LONGEST_LINE: (UNKNOWN, ""),
    v2(0x21, 0x11, four("10.1.2.3")): (V2, "10.1.2.3"),
    v2(0x21, 0x12, four("10.1.2.3")): (V2, "10.1.2.3"),
    v2(0x21, 0x21, six("2001:db8::5")): (V2, "2001:db8::5"),
    v2(0x21, 0x22, six("2001:db8::5")): (V2, "2001:db8::5"),
    v2(0x21, 0x21, six("::ffff:10.1.2.3")): (V2, "10.1.2.3"),
    v2(0x21, 0x31, UNIX): (UNKNOWN, ""),
    v2(0x21, 0x32, UNIX): (UNKNOWN, ""),
    v2(0x21, 0x00): (UNKNOWN, ""),
    v2(0x21, 0x00, b"", vector(4, b"")): (UNKNOWN, ""),
    v2(0x20, 0x00): (LOCAL, ""),
    v2(0x20, 0x11, four("10.1.2.3")): (LOCAL, ""),  # which does not count
    v2(0x20, 0xFF, b"anything"): (LOCAL, ""),
    v2(0x21, 0x11, four("10.1.2.3"), vector(4, b"") + vector(0xE5, b"x" * 300)): (V2, "10.1.2.3"),
    v2(0x21, 0x11, four("10.1.2.3"), vector(0x20, bytes(5))): (V2, "10.1.2.3"),
    summed(b"", 0x11, four("10.1.2.3")): (V2, "10.1.2.3"),
    summed(vector(5, b"id"), 0x21, six("2001:db8::5"), vector(4, b"\0")): (V2, "2001:db8::5"),
    summed(b"", 0x31, UNIX): (UNKNOWN, ""),
    v2(0x21, 0x11, four("10.1.2.3"), vector(4, bytes(V2_MOST - 31))): (V2, "10.1.2.3"),
}

FOUR = four("10.1.2.3")
INVALID = {
    b"GET / HTTP/1.1\r\n\r\n": MISSING,
    b"POST / HTTP/1.1\r\n\r\n": MISSING,  # it begins like the word PROXY
    b"PRO": None,
    b"\r\n\r\nGET / HTTP/1.1\r\n": MISSING,  # and this like version 2
    b"\x16\x03\x01": MISSING,  # TLS
    b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n": MISSING,
    b"PROXY\tTCP4 1.2.3.4 1.2.3.4 1 2\r\n": MISSING,
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n": MALFORMED,
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\r\n": MALFORMED,
    b"PROXY UNKNOWN\r \r\n": MALFORMED,
    b"PROXY \r\n": MALFORMED,
    b"PROXY UNKNOWNS\r\n": MALFORMED,
    b"PROXY TCP 1.2.3.4 1.2.3.4 1 2\r\n": MALFORMED,
    b"PROXY TCP4\r\n": MALFORMED,
    b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n": MALFORMED,
    b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n": MALFORMED,
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n": MALFORMED,
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n": MALFORMED,
    b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n": MALFORMED,
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n": MALFORMED,
    b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n": MALFORMED,
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 -2\r\n": MALFORMED,
    b"PROXY TCP4 1.2.3.4 1.2.3.4  2\r\n": MALFORMED,
    b"PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n": MALFORMED,
    b"PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n": MALFORMED,
    b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n": MALFORMED,
    b"PROXY TCP4 1.2.3.4 1.2.3.04 1 2\r\n": MALFORMED,
    b"PROXY TCP4 1.2.3.4\0 1.2.3.4 1 2\r\n": MALFORMED,
    b"PROXY TCP4 \xb2.2.3.4 1.2.3.4 1 2\r\n": MALFORMED,
    b"PROXY TCP4 ::1 ::1 1 2\r\n": MALFORMED,
    b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n": MALFORMED,
    b"PROXY TCP6 fe80::1%lo ::1 1 2\r\n": MALFORMED,
    b"PROXY TCP6 [::1] ::1 1 2\r\n": MALFORMED,
    b"PROXY TCP6 ::1 :::1 1 2\r\n": MALFORMED,
    LONGEST_LINE[:-2] + b"x\r\n": TOO_LONG,
    b"PROXY " + b"x" * 500: TOO_LONG,
    SIGNATURE + b"\x11\x11\x00\x00": MALFORMED,  # version 1 in the form of version 2
    SIGNATURE + b"\x22\x11\x00\x00": MALFORMED,  # neither LOCAL nor PROXY
    v2(0x21, 0x01): MALFORMED,
    v2(0x21, 0x10, FOUR): MALFORMED,
    v2(0x21, 0x13, FOUR): MALFORMED,
    v2(0x21, 0x41, FOUR): MALFORMED,
    v2(0x21, 0x11, FOUR[:-1]): MALFORMED,
    v2(0x21, 0x21, six("::1")[:-1]): MALFORMED,
    v2(0x21, 0x31, UNIX[:-1]): MALFORMED,
    v2(0x21, 0x11): MALFORMED,
    v2(0x21, 0x11, FOUR, b"\x04"): MALFORMED,
    v2(0x21, 0x11, FOUR, b"\x04\x00"): MALFORMED,
    v2(0x21, 0x11, FOUR, b"\x04\x00\x02x"): MALFORMED,
    v2(0x21, 0x11, FOUR, vector(4, b"") + b"\x05\xff\xff"): MALFORMED,
    v2(0x21, 0x11, FOUR, vector(3, bytes(3))): MALFORMED,
    v2(0x21, 0x11, FOUR, vector(3, bytes(4)) + vector(3, bytes(4))): MALFORMED,
    v2(0x21, 0x11, FOUR, vector(3, bytes(4))): CHECKSUM,
    summed(b"", 0x11, FOUR)[:-1] + b"\0": CHECKSUM,
    v2(0x21, 0x11, FOUR, vector(4, bytes(V2_MOST - 30))): TOO_LONG,
    SIGNATURE + b"\x20\x00\xff\xff": TOO_LONG,
}


def outcome(data: bytes) -> Header | str | None:
    try:
        return read(data)
    except Fault as fault:
        return fault.reason


@pytest.mark.parametrize("data", VALID, ids=lambda data: repr(data[:60]))
def test_a_valid_header(data: bytes) -> None:
    kind, client = VALID[data]
    assert read(data) == (len(data), kind, client)
    assert read(data + BEHIND) == (len(data), kind, client)
    for n in range(len(data)):
        assert read(data[:n]) is None, n


@pytest.mark.parametrize("data", INVALID, ids=lambda data: repr(data[:60]))
def test_an_invalid_header(data: bytes) -> None:
    assert outcome(data) == INVALID[data]
    parts = [outcome(data[:n]) for n in range(len(data))]
    said = [part for part in parts if part is not None]
    assert set(said) <= {INVALID[data]}
    if said:  # once it is known to be wrong, more bytes do not make it right
        assert parts[parts.index(said[0]) :] == said


def test_the_checksum_is_that_of_the_rfc() -> None:
    """RFC 3720 appendix B.4."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


@given(st.binary(max_size=64))
def test_any_flipped_bit_is_noticed(value: bytes) -> None:
    """Of a header with a checksum: it is refused, or is another kind of header altogether."""
    data = summed(vector(5, value), 0x11, FOUR)
    for at in range(16, len(data)):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        if data[at : at + 1] == b"\x03" or changed[at : at + 1] == b"\x03":
            continue  # it may be no checksum any more, or another one
        assert outcome(changed) in (CHECKSUM, MALFORMED), at
