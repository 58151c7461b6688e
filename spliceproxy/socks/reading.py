"""What a SOCKS client sends: RFC 1928 and 1929 for SOCKS5, and the notes of NEC and of Ying-Da Lee
(SOCKS.txt, SOCKS4A.txt) for SOCKS4 and 4a.

    SOCKS5:  greeting, password if the server wants one, request
    SOCKS4:  request

Each function reads one message from the front of what was received, and is None while some of it is
to come. HeadError for what is none, which is the same however the bytes are split. A message has a
bound, so nothing has to be kept beyond MOST bytes.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton  # all of socket is slow to load
from typing import NamedTuple

from spliceproxy.http1.errors import HeadError, show
from spliceproxy.http1.target import split_authority

V4 = 4
V5 = 5

NO_PASSWORD = 0
PASSWORD = 2  # RFC 1929
NO_METHOD = 0xFF  # none of those that were offered

CONNECT = 1
BIND = 2
UDP_ASSOCIATE = 3

MOST = 520
"""Bytes of the longest message: a SOCKS4a request."""

TEXT_MOST = 255
"""Bytes of a name, a user or a password. SOCKS5 has one byte for the length, and SOCKS4 no bound of
its own."""

_IPV4, _NAME, _IPV6 = 1, 3, 4
_ADDRESSES = {_IPV4: (4, AF_INET), _IPV6: (16, AF_INET6)}


class AddressType(HeadError):
    """A type of addresses that there is not (RFC 1928 section 5)."""


class Greeting(NamedTuple):
    """``size`` bytes, which offer these methods of authentication."""

    size: int
    methods: bytes


class Password(NamedTuple):
    """``size`` bytes, with a user and a password."""

    size: int
    user: bytes
    password: bytes


class Request(NamedTuple):
    """``size`` bytes. ``target`` is HOST:PORT as a CONNECT would have it, ``host`` and ``port`` are
    what that means. ``user`` is what SOCKS4 has of the client: a name that nothing proves."""

    size: int
    command: int
    target: str
    host: str
    port: int
    user: bytes = b""


def greeting(data: bytes) -> Greeting | None:
    """RFC 1928 section 3."""
    if len(data) < 2:
        return None
    size = 2 + data[1]
    if not data[1]:
        raise HeadError(400, "a SOCKS5 greeting without a method")
    return Greeting(size, data[2:size]) if len(data) >= size else None


def password(data: bytes) -> Password | None:
    """RFC 1929 section 2. Clients do send empty texts."""
    if data and data[0] != 1:
        raise HeadError(400, "no user name and password behind a SOCKS5 greeting that offers them")
    if len(data) < 2:
        return None
    end = 2 + data[1]
    if len(data) <= end:
        return None
    size = end + 1 + data[end]
    if len(data) < size:
        return None
    return Password(size, data[2:end], data[end + 1 : size])


def request_5(data: bytes) -> Request | None:
    """RFC 1928 section 4. AddressType, too."""
    if data and data[0] != V5:
        raise HeadError(400, "no SOCKS5 request behind the greeting")
    if len(data) < 4:
        return None
    kind = data[3]
    if kind == _NAME:
        if len(data) < 5:
            return None
        start, size = 5, data[4]
    elif kind in _ADDRESSES:
        start, size = 4, _ADDRESSES[kind][0]
    else:
        raise AddressType(400, f"a SOCKS5 request with an address of the type {kind}")
    end = start + size
    if len(data) < end + 2:
        return None
    host = data[start:end]
    name = _named(host) if kind == _NAME else inet_ntop(_ADDRESSES[kind][1], host)
    return _request(end + 2, data[1], name, data[end : end + 2], b"")


def request_4(data: bytes) -> Request | None:
    """SOCKS4, and 4a where the address is 0.0.0.x: a name is behind the user then."""
    if len(data) < 9:
        return None
    user = _text(data, 8, "user")
    if user is None:
        return None
    end = 8 + len(user) + 1
    if data[4:7] != b"\0\0\0" or not data[7]:
        return _request(end, data[1], inet_ntop(AF_INET, data[4:8]), data[2:4], user)
    name = _text(data, end, "name")
    if name is None:
        return None
    return _request(end + len(name) + 1, data[1], _named(name), data[2:4], user)


def _text(data: bytes, start: int, what: str) -> bytes | None:
    """A text that ends with a NUL, without that."""
    end = data.find(b"\0", start, start + TEXT_MOST + 1)
    if end >= 0:
        return data[start:end]
    if len(data) > start + TEXT_MOST:
        raise HeadError(400, f"a SOCKS4 request whose {what} has more than {TEXT_MOST} bytes")
    return None


def _named(name: bytes) -> str:
    """A name as it was sent. One that is an IPv6 address, which some send in this way, gets the
    brackets that an authority has."""
    text = name.decode("latin-1")
    if ":" in text:
        try:
            return inet_ntop(AF_INET6, inet_pton(AF_INET6, text))
        except (OSError, ValueError):
            pass
    return text


def _request(size: int, command: int, name: str, port: bytes, user: bytes) -> Request:
    written = f"[{name}]" if ":" in name and name[:1] != "[" else name
    target = f"{written}:{int.from_bytes(port, 'big')}"
    try:
        host, number = split_authority(target)
    except ValueError as error:
        raise HeadError(400, f"a SOCKS request with {error}") from None
    if not number:
        raise HeadError(400, f"a SOCKS request without a port: {show(target)}")
    return Request(size, command, target, host, number, user)
