"""socks/: messages of clients, read from what was received, and replies."""

from __future__ import annotations

import ipaddress
import itertools
import struct
from collections.abc import Callable
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spliceproxy.errors import STATUS, ErrorType
from spliceproxy.http1.errors import HeadError
from spliceproxy.socks import reading, replies
from spliceproxy.socks.reading import (
    MOST,
    AddressType,
    Greeting,
    Password,
    Request,
    greeting,
    password,
    request_4,
    request_5,
)

# Python 3.13 writes the last four bytes of such an address as IPv4.
MAPPED = str(ipaddress.IPv6Address("::ffff:127.0.0.1"))

Read = Callable[[bytes], Any]


def named(name: bytes, port: int = 443) -> bytes:
    return b"\x05\x01\x00\x03" + bytes((len(name),)) + name + struct.pack("!H", port)


def v4(address: bytes, rest: bytes = b"\0", port: int = 443) -> bytes:
    return b"\x04\x01" + struct.pack("!H", port) + address + rest


RIGHT: list[tuple[Read, bytes, Any]] = [
    (greeting, b"\x05\x01\x00", Greeting(3, b"\x00")),
    (greeting, b"\x05\xff" + bytes(255), Greeting(257, bytes(255))),
    (password, b"\x01\x01a\x01b", Password(5, b"a", b"b")),
    (password, b"\x01\x00\x00", Password(3, b"", b"")),
    (password, b"\x01\xff" + b"a" * 255 + b"\xff" + b"b" * 255,
     Password(513, b"a" * 255, b"b" * 255)),
    (request_5, named(b"Host"), Request(11, 1, "Host:443", "host", 443)),
    (request_5, named(b"a_b-c.test.", 1), Request(18, 1, "a_b-c.test.:1", "a_b-c.test.", 1)),
    (request_5, named(b"::1"), Request(10, 1, "[::1]:443", "::1", 443)),
    (request_5, named(b"[::1]"), Request(12, 1, "[::1]:443", "::1", 443)),
    (request_5, b"\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50",
     Request(10, 2, "127.0.0.1:80", "127.0.0.1", 80)),
    (request_5, b"\x05\x01\x00\x04" + bytes(15) + b"\x01\xff\xff",
     Request(22, 1, "[::1]:65535", "::1", 65535)),
    (request_5, b"\x05\x01\x00\x04" + bytes(10) + b"\xff\xff\x7f\x00\x00\x01\x00\x50",
     Request(22, 1, "[::ffff:127.0.0.1]:80", MAPPED, 80)),
    (request_4, v4(b"\x7f\0\0\1"), Request(9, 1, "127.0.0.1:443", "127.0.0.1", 443)),
    (request_4, v4(b"\x7f\0\0\1", b"ann\0"),
     Request(12, 1, "127.0.0.1:443", "127.0.0.1", 443, b"ann")),
    (request_4, v4(b"\0\0\0\x09", b"ann\0host\0"), Request(17, 1, "host:443", "host", 443, b"ann")),
    (request_4, v4(b"\0\0\0\0"), Request(9, 1, "0.0.0.0:443", "0.0.0.0", 443)),
    (request_4, v4(b"\0\0\0\1", b"u" * 255 + b"\0" + b"h" * 255 + b"\0"),
     Request(520, 1, "h" * 255 + ":443", "h" * 255, 443, b"u" * 255)),
]  # fmt: skip


@pytest.mark.parametrize(("read", "data", "wanted"), RIGHT)
def test_a_message(read: Read, data: bytes, wanted: Any) -> None:
    for end in range(len(data)):
        assert read(data[:end]) is None, end
    assert read(data) == wanted
    assert read(data + b"\x16\0\xff more") == wanted
    assert wanted.size == len(data) <= MOST


WRONG: list[tuple[Read, bytes, str]] = [
    (greeting, b"\x05\x00", "without a method"),
    (password, b"\x02", "no user name and password"),
    (password, b"\x05", "no user name and password"),
    (request_5, b"\x04", "no SOCKS5 request"),
    (request_5, b"\x05\x01\x00\x00", "address of the type 0"),
    (request_5, b"\x05\x01\x00\x02", "address of the type 2"),
    (request_5, named(b""), "no host"),
    (request_5, named(b"a\0b"), "a bad host"),
    (request_5, named(b"a b"), "a bad host"),
    (request_5, named(b"a%2eb"), "a percent sign"),
    (request_5, named(b"u@h"), "userinfo"),
    (request_5, named(b"h:1"), "a bad host"),
    (request_5, named(b"fe80::1%eth0"), "percent sign"),
    (request_5, named(b"\xff\xfe"), "a bad host"),
    (request_5, named(b"h", 0), "a port outside 1-65535"),
    (request_4, v4(b"\x7f\0\0\1", port=0), "a port outside 1-65535"),
    (request_4, v4(b"\x7f\0\0\1", b"u" * 256), "user has more than 255"),
    (request_4, v4(b"\0\0\0\1", b"\0" + b"h" * 256), "name has more than 255"),
    (request_4, v4(b"\0\0\0\1", b"\0\0"), "no host"),
]


@pytest.mark.parametrize(("read", "data", "why"), WRONG)
def test_what_is_none(read: Read, data: bytes, why: str) -> None:
    for end in range(len(data)):
        assert read(data[:end]) is None, end
    for more in (b"", b"\0 more"):
        with pytest.raises(HeadError, match=why) as raised:
            read(data + more)
        assert raised.value.status == 400
        assert raised.value.detail.isprintable()
        assert isinstance(raised.value, AddressType) == ("type" in why)


@given(st.sampled_from([greeting, password, request_5, request_4]), st.binary(max_size=600))
def test_any_bytes_however_they_are_split(read: Read, data: bytes) -> None:
    """Once there is an outcome, no further byte changes it; and there is one within the bound."""
    first = b"\x04" if read is request_4 else b"\x01" if read is password else b"\x05"
    data = first + data
    outcomes = []
    for end in range(1, len(data) + 1):
        try:
            found = read(data[:end])
        except HeadError as error:
            found = str(error)
        if found is not None:
            outcomes.append(found)
        else:
            assert not outcomes
            assert end < MOST
    assert all(one == two for one, two in itertools.pairwise(outcomes))


def test_a_reply_for_each_error() -> None:
    assert set(replies.REPLIES) == set(get_args(ErrorType)) == set(STATUS)
    for code in range(9):
        reply = replies.refused(5, code)
        assert (len(reply), reply[:4]) == (10, bytes((5, code, 0, 1)))
    assert all(1 <= code <= 6 for code in replies.REPLIES.values())
    assert replies.granted(5) == b"\x05\x00\x00\x01" + bytes(6)
    assert replies.granted(4) == b"\x00\x5a" + bytes(6)
    assert {replies.refused(4, code) for code in range(1, 9)} == {b"\x00\x5b" + bytes(6)}
    assert replies.method(reading.NO_METHOD) == b"\x05\xff"
