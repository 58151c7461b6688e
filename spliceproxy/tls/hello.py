"""The name in the first flight of a TLS client (RFC 8446 section 4.1.2, RFC 6066 section 3).

A ClientHello may be spread over several records and any number of segments, and with a key share
of post-quantum cryptography it is. It is read as a server would read it: what a server would not
take is MALFORMED, so that nobody else can see another name in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

MOST = 16384
"""Bytes that are looked at: a ClientHello of which more is needed is MALFORMED. Those of browsers
have 2 KiB."""

NAMED = "named"
NO_NAME = "no-name"
ECH = "ech"  # there may be another name inside, encrypted: this is the outer one (RFC 9849)
NOT_TLS = "not-tls"
MALFORMED = "malformed"

_HANDSHAKE = 22  # ContentType, RFC 8446 section 5.1
_CLIENT_HELLO = 1  # HandshakeType
_SERVER_NAME = 0  # ExtensionType
_ENCRYPTED_HELLO = 0xFE0D
_HOST_NAME = 0  # NameType, RFC 6066 section 3

_RECORD_HEADER = 5
_RECORD_MOST = 16384
_HANDSHAKE_HEADER = 4

_NAME = re.compile(rb"(?!\.)[A-Za-z0-9._-]{1,253}\.?")


class Hello(NamedTuple):
    """``name`` is in lower case and without a dot at the end, "" where there is none."""

    outcome: str
    name: str = ""


class _Wrong(Exception):
    """It is no ClientHello that a server would take."""


def read(data: bytes) -> Hello | None:
    """What the first bytes of a client say, None while there are too few to know. Once there is
    an answer, more bytes do not change it."""
    if (data[:1] and data[0] != _HANDSHAKE) or (data[1:2] and data[1] != 3):
        return Hello(NOT_TLS)
    try:
        message = _message(data[:MOST])
        if message is None:
            return Hello(MALFORMED) if len(data) >= MOST else None
        return _read_message(message)
    except _Wrong:
        return Hello(MALFORMED)


def _message(data: bytes) -> bytes | None:
    """The body of the first handshake message, out of its records; None while not all of it is
    there."""
    found = bytearray()
    at = 0
    while True:
        wanted = _HANDSHAKE_HEADER
        if len(found) >= _HANDSHAKE_HEADER:
            wanted += int.from_bytes(found[1:4], "big")
        if (found and found[0] != _CLIENT_HELLO) or wanted > MOST:
            raise _Wrong
        if len(found) >= wanted > _HANDSHAKE_HEADER:
            return bytes(found[_HANDSHAKE_HEADER:wanted])
        if len(found) >= wanted:
            raise _Wrong  # a message of nothing
        header = data[at : at + _RECORD_HEADER]
        if header[:1] not in (b"", bytes((_HANDSHAKE,))) or header[1:2] not in (b"", b"\x03"):
            raise _Wrong
        if len(header) < _RECORD_HEADER:
            return None
        size = int.from_bytes(header[3:], "big")
        if not 0 < size <= _RECORD_MOST:
            raise _Wrong
        at += _RECORD_HEADER
        part = data[at : at + size]
        found += part
        at += size
        if len(part) < size and len(found) < _end_of(found):
            return None


def _end_of(found: bytearray) -> int:
    """Where the message ends that begins with these bytes, as far as that is known."""
    if len(found) < _HANDSHAKE_HEADER:
        return _HANDSHAKE_HEADER
    return _HANDSHAKE_HEADER + int.from_bytes(found[1:4], "big")


class _Reader:
    """Takes from the front of bytes. _Wrong where there are too few."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        if len(found) < count:
            raise _Wrong
        self._at += count
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """Bytes with their count in front, which has ``size`` bytes."""
        return self.take(self.number(size))


def _read_message(message: bytes) -> Hello:
    reader = _Reader(message)
    reader.take(2 + 32)  # version, random
    session = reader.vector(1)
    suites = reader.vector(2)
    methods = reader.vector(1)
    if len(session) > 32 or not suites or len(suites) % 2 or not methods:
        raise _Wrong
    found = dict[int, bytes]()
    if reader:  # before TLS 1.3 there may be no extensions at all
        for kind, body in _extensions(reader.vector(2)):
            if kind in found:
                raise _Wrong
            found[kind] = body
        if reader:
            raise _Wrong
    name = _name(found[_SERVER_NAME]) if _SERVER_NAME in found else ""
    if _ENCRYPTED_HELLO in found:
        return Hello(ECH, name)
    return Hello(NAMED, name) if name else Hello(NO_NAME)


def _extensions(data: bytes) -> Iterator[tuple[int, bytes]]:
    reader = _Reader(data)
    while reader:
        yield reader.number(2), reader.vector(2)


def _name(extension: bytes) -> str:
    """The one host name."""
    reader = _Reader(extension)
    names = _Reader(reader.vector(2))
    kind, name = names.number(1), names.vector(2)
    if reader or names or kind != _HOST_NAME or not _NAME.fullmatch(name):
        raise _Wrong
    return name.decode("ascii").lower().removesuffix(".")
