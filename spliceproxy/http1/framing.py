"""Where a body ends: Content-Length, chunked, or the end of the connection.

RFC 9112 section 6 and 7.1. What could be read in two ways is refused in both directions. Of
requests nothing is repaired, but that equal copies of Content-Length count as one. What RFC
9112 says how to read is read so in responses, and then their connection is not used again
(:func:`is_sound`, ``ChunkedDecoder.sound``):

- a transfer coding wins over Content-Length (section 6.3 rule 3), also in HTTP/1.0 (6.1);
- ``identity`` was no coding (RFC 2616 section 3.6), a list of equal lengths is one (rule 5);
- 1xx, 204, 304 and what answers HEAD have no body, whatever their fields say (rule 1);
- a chunk's size may have blanks behind it (section 7.1.1 has them before extensions);
- framing fields among the trailers are dropped (RFC 9110 section 6.5.1).
"""

from __future__ import annotations

import enum
import re

from spliceproxy.http1.errors import HeadError, show
from spliceproxy.http1.fields import OWS, TOKEN, find_section_end, members, parse_fields
from spliceproxy.http1.head import RequestHead, ResponseHead
from spliceproxy.http1.lenient import fields_of, find_end

MAX_CHUNK_LINE = 1024
"""Bytes of a chunk's size with its extensions."""

MAX_CHUNKS = 1024
"""Chunks that one call decodes: about 2 ms of a processor."""

MAX_TRAILERS = 16 * 1024
"""Bytes of a trailer section with its empty line."""

LAST_CHUNK = b"0\r\n\r\n"
"""The end of a chunked body without trailers."""

_LENGTH_DIGITS = 18  # always fits a signed 64-bit integer
_CHUNK_MAX = (1 << 63) - 1  # off_t

_CODING = re.compile(TOKEN + rb"(?:[ \t]*;[^,]*)?").fullmatch

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
# request, controls the response or says how to process the content.
_NOT_IN_TRAILERS = frozenset(
    b"""age authorization cache-control connection content-encoding content-length
    content-range content-type cookie date expect expires forwarded host if-match
    if-modified-since if-none-match if-range if-unmodified-since keep-alive location
    max-forwards pragma proxy-authenticate proxy-authentication-info proxy-authorization
    proxy-connection range retry-after set-cookie te trailer transfer-encoding upgrade
    vary via www-authenticate""".split()
)


class Body(enum.IntEnum):
    """How a body is delimited."""

    NONE = 0  # there is none
    LENGTH = 1  # Content-Length bytes, maybe 0
    CHUNKED = 2
    CLOSE = 3  # until the connection ends; responses only


def request_body(head: RequestHead) -> tuple[Body, int]:
    """(kind, bytes if LENGTH else 0) of a request's body, RFC 9112 section 6.3.

    HeadError(400), or 501 for a coding other than chunked (section 6.1).
    """
    codings = head.values(b"transfer-encoding")
    lengths = head.values(b"content-length")
    if not codings and not lengths:
        return Body.NONE, 0
    kind, length = _request_framing(head.minor, codings, lengths)
    if head.method == "CONNECT":
        # RFC 9110 section 9.3.6: a CONNECT request has no content. What follows is the
        # tunnel's, so a body would be read in two ways.
        if kind != Body.LENGTH or length:
            raise HeadError(400, "CONNECT with a body")
        return Body.NONE, 0
    return kind, length


def response_body(head: ResponseHead, method: str) -> tuple[Body, int]:
    """(kind, bytes if LENGTH else 0) of the body of the response to ``method``, RFC 9112
    section 6.3. HeadError(502) for framing that can be read in two ways."""
    status = head.status
    if method == "CONNECT" and 200 <= status < 300:
        return Body.NONE, 0  # a tunnel; length fields are to be ignored (rule 2)
    if status < 200 or status == 204:
        return Body.NONE, 0
    codings = transfer_codings(head)
    lengths = head.values(b"content-length")
    length = _content_length(lengths, 502) if lengths and not codings else -1
    if method == "HEAD" or status == 304:
        return Body.NONE, 0
    if not codings:
        return (Body.CLOSE, 0) if length < 0 else (Body.LENGTH, length)
    if codings != [b"chunked"]:
        raise _coding_error(b",".join(head.values(b"transfer-encoding")), 502)
    return Body.CHUNKED, 0


def is_sound(head: ResponseHead) -> bool:
    """Whether a response's framing is as RFC 9112 has it. If not, its connection must not
    serve another request: where this message ends its sender may see otherwise."""
    codings = head.values(b"transfer-encoding")
    lengths = head.values(b"content-length")
    bodiless = head.status < 200 or head.status == 204
    if head.status < 200 and not head.minor:
        return False  # HTTP/1.0 has no interim responses (RFC 9110 section 15.2)
    if not codings:
        if bodiless:
            return not any(value.strip(b"0") for value in lengths)
        return b"," not in b"".join(lengths)
    one = len(codings) == 1 and codings[0].lower() == b"chunked"
    return one and head.minor == 1 and not lengths and not bodiless


def transfer_codings(head: ResponseHead) -> list[bytes]:
    """The transfer codings of a response, in order and lower case, without ``identity`` before
    them."""
    values = head.values(b"transfer-encoding")
    found = members(values) if values else []
    while found and found[0] == b"identity":
        del found[0]
    return found


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

    def __init__(self, status: int) -> None:
        self._status = status
        self._lenient = status == 502
        self._between = False  # the CRLF behind a chunk's payload is still to come
        self._searched = -1  # bytes of the trailer section looked at; -1: not there yet
        self.done = False
        self.good = b""  # the payload of the call that raised, before the fault
        self.paused = False  # there is more to take from the buffer: call again
        self.remaining = 0  # payload of the current chunk not yet seen
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


def _request_framing(minor: int, codings: list[bytes], lengths: list[bytes]) -> tuple[Body, int]:
    """RFC 9112 section 6.3, rules 3 to 5, for a request that has one of the fields."""
    if not codings:
        return Body.LENGTH, _content_length(lengths, 400)
    if lengths:
        raise HeadError(400, "Transfer-Encoding together with Content-Length")
    if not minor:
        raise HeadError(400, "Transfer-Encoding in an HTTP/1.0 message")
    if len(codings) != 1 or codings[0].lower() != b"chunked":
        raise _coding_error(b",".join(codings), 400)
    return Body.CHUNKED, 0


def _content_length(lengths: list[bytes], status: int) -> int:
    first = lengths[0]
    if status == 502 and b"," in b"".join(lengths):
        lengths = members(lengths)
        first = lengths[0]
    if not first.isdigit() or len(first) > _LENGTH_DIGITS:
        raise HeadError(status, f"a bad Content-Length: {show(first)}")
    if len(lengths) > 1 and any(other != first for other in lengths):
        raise HeadError(status, "more than one Content-Length, and they differ")
    return int(first)


def _coding_error(value: bytes, status: int) -> HeadError:
    """Why a Transfer-Encoding that is not ``chunked`` is refused. 501 only where the
    body's end is known and only its coding is not (RFC 9112 section 6.1)."""
    codings = [coding.strip(OWS).lower() for coding in value.split(b",")]
    plain = all(_CODING(coding) for coding in codings)
    if plain and codings[-1] == b"chunked" and codings.count(b"chunked") == 1:
        detail = f"a transfer coding other than chunked: {show(value)}"
        if status == 502:
            return HeadError(502, detail, "http_response_transfer_coding")
        return HeadError(501, detail)
    return HeadError(status, f"a Transfer-Encoding that does not end in one chunked: {show(value)}")
