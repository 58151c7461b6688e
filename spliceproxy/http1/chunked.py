"""The chunked transfer coding (RFC 9112 section 7.1): reads it, and writes it.

A request is never repaired. A response is read as RFC 9112 says even where it is odd; its
connection is not used again then (``ChunkedDecoder.sound``):

- a chunk's size may have blanks behind it (section 7.1.1 has them before extensions);
- framing fields among the trailers are dropped (RFC 9110 section 6.5.1);
- the trailer section is cleaned as a response's head is (:mod:`lenient`).
"""

from __future__ import annotations

import re

from spliceproxy.http1.errors import HeadError, show
from spliceproxy.http1.fields import find_section_end, parse_fields
from spliceproxy.http1.lenient import fields_of, find_end
from spliceproxy.http1.rewrite import REQUEST_DROPS, RESPONSE_DROPS

MAX_CHUNK_LINE = 1024
"""Bytes of a chunk's size with its extensions."""

MAX_CHUNKS = 1024
"""Chunks that one call decodes: about 2 ms of a processor."""

MAX_TRAILERS = 16 * 1024
"""Bytes of a trailer section with its empty line."""

LAST_CHUNK = b"0\r\n\r\n"
"""The end of a chunked body without trailers."""

_CHUNK_MAX = (1 << 63) - 1  # off_t


_CHUNK_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n"  # chunk-ext not looked into
).match
_PADDED_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]+\r\n").match
_CHUNK_LINE_START = re.compile(
    rb"[0-9A-Fa-f]{1,16}(?:[ \t]*|[ \t]*;[\t\x20-\x7e\x80-\xff]*)\r?"
).fullmatch

# A reader that merges trailers into the head would see another message.
_FRAMES_OR_ROUTES = frozenset({b"transfer-encoding", b"content-length", b"host"})

# RFC 9110 section 6.5.1: no field that frames, routes, authenticates, modifies the
# request, controls the response or says how to process the content. And what is not
# forwarded in a head is not forwarded behind a body.
_NOT_IN_TRAILERS = (
    REQUEST_DROPS
    | RESPONSE_DROPS
    | frozenset(
        b"""age authorization cache-control connection content-encoding content-length
        content-range content-type cookie date expect expires forwarded host if-match
        if-modified-since if-none-match if-range if-unmodified-since keep-alive location
        max-forwards pragma proxy-authenticate proxy-authentication-info proxy-authorization
        proxy-connection range retry-after set-cookie te trailer transfer-encoding upgrade
        vary via www-authenticate""".split()
    )
)


def chunk_head(size: int) -> bytes:
    """What goes before ``size`` (> 0) bytes of payload; CRLF goes behind them."""
    return b"%x\r\n" % size


def chunk(data: bytes) -> bytes:
    """One chunk; nothing for no data, since an empty chunk would be the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def last_chunk(trailers: list[tuple[bytes, bytes]]) -> bytes:
    """The end of a chunked body, with those trailers that RFC 9110 section 6.5.1 allows."""
    lines = [
        b"%b: %b\r\n" % (name, value)
        for name, value in trailers
        if name.lower() not in _NOT_IN_TRAILERS
    ]
    return b"0\r\n%b\r\n" % b"".join(lines) if lines else LAST_CHUNK


class ChunkedDecoder:
    """Reads one chunked body (RFC 9112 section 7.1), in as many parts as it comes.

    ``status`` is for the HeadError that bad input raises: 400 for a request's body, 502
    for a response's, which is read as the head of this module says. After an error the decoder
    and the buffer are of no more use.
    """

    __slots__ = (
        "_between",
        "_lenient",
        "_searched",
        "_status",
        "done",
        "good",
        "paused",
        "remaining",
        "sound",
        "trailers",
    )

    def __init__(self, status: int, rest: int = -1) -> None:
        """``rest`` bytes of a chunk's payload come first, and with 0 the CRLF behind it; -1: the
        body begins, or a chunk; -2: there is no more."""
        self._status = status
        self._lenient = status == 502
        self._between = rest == 0  # the CRLF behind a chunk's payload is still to come
        self._searched = -1  # bytes of the trailer section looked at; -1: not there yet
        self.done = rest == -2
        self.good = b""  # the payload of the call that raised, before the fault
        self.paused = False  # there is more to take from the buffer: call again
        self.remaining = max(rest, 0)  # payload of the current chunk not yet seen
        self.sound = True  # nothing had to be read leniently
        self.trailers: list[tuple[bytes, bytes]] = []

    def decode(self, buffer: bytearray) -> bytes:
        """Takes all it can from the front of ``buffer``; returns the payload.

        Never takes a byte behind the message. After MAX_CHUNKS chunks it stops, ``paused``,
        so that a body of tiny chunks does not hold up others. Where a chunk goes on beyond
        the buffer, the buffer is empty afterwards and ``remaining`` says how much is to come.
        """
        if self.done:
            return b""
        payload: list[bytearray] = []
        try:
            self._decode(buffer, payload)
        except HeadError:
            self.good = b"".join(payload)
            raise
        return b"".join(payload)

    def _decode(self, buffer: bytearray, payload: list[bytearray]) -> None:
        at = 0
        size = len(buffer)
        chunks = 0
        self.paused = False
        while at < size and self._searched < 0:
            if self.remaining:
                end = min(at + self.remaining, size)
                payload.append(buffer[at:end])
                self.remaining -= end - at
                self._between = not self.remaining
                at = end
            elif chunks == MAX_CHUNKS:
                self.paused = True
                break
            else:
                chunks += not self._between
                behind = self._end_payload(buffer, at) if self._between else self._begin(buffer, at)
                if behind < 0:
                    break
                at = behind
        del buffer[:at]
        if self._searched >= 0:
            self._take_trailers(buffer)

    @property
    def rest(self) -> int | None:
        """As of the argument of that name: another one goes on from there, with the same buffer.
        None within a trailer section."""
        if self.done:
            return -2
        if self._searched >= 0:
            return None
        return self.remaining if self.remaining or self._between else -1

    def skip(self, n: int) -> None:
        """``n`` bytes of payload of the current chunk went another way."""
        if not 0 <= n <= self.remaining:
            raise ValueError(f"skip({n}) with {self.remaining} bytes of payload to come")
        if n:
            self.remaining -= n
            self._between = not self.remaining

    def _end_payload(self, buffer: bytearray, at: int) -> int:
        """Index behind the CRLF that ends a payload, -1 if it is not there."""
        if buffer.startswith(b"\r\n", at):
            self._between = False
            return at + 2
        if len(buffer) - at == 1 and buffer[at] == 13:
            return -1
        shown = show(buffer[at : at + 2])
        raise HeadError(self._status, f"a chunk longer than its size says: {shown}")

    def _begin(self, buffer: bytearray, at: int) -> int:
        """Index behind the line with a chunk's size, -1 if it is not there."""
        match = _CHUNK_LINE(buffer, at, at + MAX_CHUNK_LINE + 2)
        if match is None and self._lenient:
            match = _PADDED_CHUNK_LINE(buffer, at, at + MAX_CHUNK_LINE + 2)
            self.sound = self.sound and match is None
        if match is None:
            part = buffer[at : at + MAX_CHUNK_LINE + 2]
            if not _CHUNK_LINE_START(part):
                line = part.partition(b"\r\n")[0]
                raise HeadError(self._status, f"a bad chunk size: {show(line)}")
            if len(part) > MAX_CHUNK_LINE + 1:
                raise HeadError(self._status, f"a chunk line longer than {MAX_CHUNK_LINE} bytes")
            return -1
        self.remaining = int(match[1], 16)
        if self.remaining > _CHUNK_MAX:
            raise HeadError(self._status, f"a chunk size beyond 2^63: {show(match[1])}")
        if not self.remaining:
            self._searched = 0
        return match.end()

    def _take_trailers(self, buffer: bytearray) -> None:
        """RFC 9112 section 7.1.2; the buffer begins with the trailer section."""
        empty = 2 if buffer.startswith(b"\r\n") else 0
        if not empty and self._lenient and buffer.startswith(b"\n"):
            empty = 1
            self.sound = False
        if empty:
            del buffer[:empty]
            self.done = True
            return
        if self._lenient:
            end = find_end(buffer, self._searched, MAX_TRAILERS)
        else:
            end = find_section_end(buffer, self._searched, MAX_TRAILERS, self._status)
        if end < 0:
            if len(buffer) >= MAX_TRAILERS:
                detail = f"a trailer section larger than {MAX_TRAILERS} bytes"
                raise HeadError(self._status, detail)
            self._searched = len(buffer)
            return
        self.trailers = self._parse_trailers(b"\r\n" + bytes(buffer[:end]))
        del buffer[:end]
        self.done = True

    def _parse_trailers(self, section: bytes) -> list[tuple[bytes, bytes]]:
        if self._lenient:
            trailers, cleaned = fields_of(section)
            good = [field for field in trailers if field[0].lower() not in _FRAMES_OR_ROUTES]
            self.sound = self.sound and not cleaned and len(good) == len(trailers)
            return good
        trailers = parse_fields(section, self._status)
        for name, _ in trailers:
            if name.lower() in _FRAMES_OR_ROUTES:
                raise HeadError(self._status, f"a trailer field {show(name)}")
        return trailers
