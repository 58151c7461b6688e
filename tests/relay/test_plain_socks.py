"""Requests of SOCKS that the relay reads by itself (native/lane/socks.pxd), held against
socks/reading.py, which reads all of them."""

from __future__ import annotations

import re
import socket

from hypothesis import given, settings
from hypothesis import strategies as st
from relay_rig import native_relay

from spliceproxy.http1.errors import HeadError
from spliceproxy.socks.reading import CONNECT, Request, request_4, request_5

native_relay()

from spliceproxy.relay._native import plain_socks  # noqa: E402 - where there is one

NAME = re.compile(rb"[A-Za-z0-9._-]+")

hosts = st.one_of(
    st.binary(min_size=4, max_size=4).map(lambda raw: (1, raw)),
    st.binary(min_size=16, max_size=16).map(lambda raw: (4, raw)),
    st.sampled_from([b"::1", b"\0" * 10 + b"\xff\xff\x7f\0\0\1"]).map(lambda raw: (4, raw[:16])),
    st.from_regex(NAME, fullmatch=True).map(lambda raw: (3, raw[:255])),
    st.binary(max_size=255).map(lambda raw: (3, raw)),
)
texts = st.binary(max_size=300)


@st.composite
def requests_5(draw: st.DrawFn) -> bytes:
    kind, raw = draw(hosts)
    host = bytes((len(raw),)) + raw if kind == 3 else raw
    port = draw(st.integers(0, 65535)).to_bytes(2, "big")
    command = draw(st.sampled_from([1, 1, 1, 2, 3, 9]))
    return bytes((5, command, draw(st.integers(0, 1)), kind)) + host + port + draw(texts)


@st.composite
def requests_4(draw: st.DrawFn) -> bytes:
    kind, raw = draw(hosts)
    port = draw(st.integers(0, 65535)).to_bytes(2, "big")
    user = draw(st.binary(max_size=260))
    address = raw[:4] if kind == 1 else b"\0\0\0" + raw[:1].ljust(1, b"\1")
    rest = b"" if kind == 1 else raw + b"\0"
    return b"\4\1" + port + address + user + b"\0" + rest + draw(texts)


def check(data: bytes) -> None:
    found = plain_socks(data)
    whole: Request | None = None
    try:
        whole = request_4(data) if data[:1] == b"\4" else request_5(data)
    except HeadError:
        assert found is None, data
    if found is not None:
        assert whole is not None
        assert (whole.size, whole.target) == found
        assert whole.command == CONNECT
    elif whole is not None and whole.command == CONNECT:
        name = whole.target.rpartition(":")[0].encode()
        assert not NAME.fullmatch(name), f"{data!r} is plain, and the relay gives it back"


@settings(max_examples=300)
@given(st.one_of(requests_5(), requests_4()))
def test_a_request(data: bytes) -> None:
    check(data)


@settings(max_examples=100)
@given(st.one_of(requests_5(), requests_4()), st.integers(0, 700))
def test_a_part_of_one(data: bytes, end: int) -> None:
    check(data[:end])


@settings(max_examples=100)
@given(st.sampled_from([b"\4", b"\5", b"\5\1\0\3", b"\4\1"]), texts)
def test_any_bytes(first: bytes, data: bytes) -> None:
    check(first + data)


def test_addresses_are_written_as_everywhere() -> None:
    raw = socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    assert plain_socks(b"\5\1\0\4" + raw + b"\1\xbb") == (22, "[2001:db8::1]:443")
    assert plain_socks(b"\5\1\0\1\x7f\0\0\1\0\x50more") == (10, "127.0.0.1:80")
    assert plain_socks(b"\5\1\0\3\4Host\0\x50") == (11, "Host:80")
    assert plain_socks(b"\4\1\0\x50\0\0\0\1ann\0host\0") == (17, "host:80")


def test_every_number_of_an_address() -> None:
    for number in range(256):
        for at in range(4):
            raw = bytearray(b"\x0a\x63\x64\xff")
            raw[at] = number
            written = ".".join(map(str, raw))
            assert plain_socks(b"\5\1\0\1" + raw + b"\1\xbb") == (10, f"{written}:443")
