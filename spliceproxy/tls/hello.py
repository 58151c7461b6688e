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
_RECORDS = range(20, 25)  # change_cipher_spec to heartbeat (RFC 6520)
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


class _NotTls(Exception):
    """It is something else."""


def read(data: bytes) -> Hello | None:
    """What the first bytes of a client say, None while there are too few to know. Once there is
    an answer, more bytes do not change it."""
    return Flight().feed(data)


class Flight:
    """The same for bytes that come in pieces: none of them is read twice."""

    __slots__ = ("_header", "_left", "_message", "_size")

    def __init__(self) -> None:
        self._size = 0  # of all that has come
        self._header = b""  # of the record in work
        self._left = 0  # bytes of that to come behind its header
        self._message = bytearray()  # the first message of the handshake, out of its records

    def feed(self, data: bytes) -> Hello | None:
        """Behind what was fed before, and was not enough."""
        data = data[: MOST - self._size]
        self._size += len(data)
        try:
            message = self._gather(data)
            if message is not None:
                return _read_message(message)
        except _NotTls:
            return Hello(NOT_TLS)
        except _Wrong:
            return Hello(MALFORMED)
        return Hello(MALFORMED) if self._size >= MOST else None

    def _gather(self, data: bytes) -> bytes | None:
        """The body of the first message, None while not all of it is there."""
        at = 0
        while at < len(data):
            if not self._left:
                more = data[at : at + _RECORD_HEADER - len(self._header)]
                at += len(more)
                self._header += more
                self._look_at_header()
                continue
            part = data[at : at + self._left]
            at += len(part)
            self._left -= len(part)
            self._message += part
            size = _size_of(self._message)
            if size and len(self._message) >= size:
                return bytes(self._message[_HANDSHAKE_HEADER:size])
        return None

    def _look_at_header(self) -> None:
        """Of a record, as much as there is of it. What begins as another record of TLS is not what
        a client may say first, though some servers pass over warnings in front of a ClientHello."""
        header = self._header
        first = not self._message
        if first and (header[0] not in _RECORDS or header[1:2] not in (b"", b"\x03")):
            raise _NotTls
        if len(header) > 1 and (header[0] != _HANDSHAKE or header[1] != 3):
            raise _Wrong
        if len(header) < _RECORD_HEADER:
            return
        self._left = int.from_bytes(header[3:], "big")
        self._header = b""
        if not 0 < self._left <= _RECORD_MOST:
            raise _Wrong


def _size_of(message: bytearray) -> int:
    """Of a message that begins with these bytes, 0 while that is not known."""
    if message[0] != _CLIENT_HELLO:
        raise _Wrong
    if len(message) < _HANDSHAKE_HEADER:
        return 0
    size = _HANDSHAKE_HEADER + int.from_bytes(message[1:4], "big")
    if not _HANDSHAKE_HEADER < size <= MOST:
        raise _Wrong
    return size


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
