"""Where a body ends: Content-Length, chunked, or the end of the connection.

RFC 9112 section 6. What could be read in two ways is refused in both directions. A request is
never repaired, except that equal copies of Content-Length count as one. A response is read as
RFC 9112 says even where it is odd; its connection is not used again then (:func:`is_sound`):

- a transfer coding wins over Content-Length (section 6.3 rule 3), also in HTTP/1.0 (6.1);
- ``identity`` was no coding (RFC 2616 section 3.6), a list of equal lengths is one (rule 5);
- 1xx, 204, 304 and what answers HEAD have no body, whatever their fields say (rule 1).

The functions take the parts of a head that count, so that the heads of :mod:`head` can ask them.
"""

from __future__ import annotations

import enum
import re

from spliceproxy.http1.errors import HeadError, show
from spliceproxy.http1.fields import OWS, TOKEN, members

_LENGTH_DIGITS = 18  # always fits a signed 64-bit integer

_CODING = re.compile(TOKEN + rb"(?:[ \t]*;[^,]*)?").fullmatch


class Body(enum.IntEnum):
    """How a body is delimited."""

    NONE = 0  # there is none
    LENGTH = 1  # Content-Length bytes, maybe 0
    CHUNKED = 2
    CLOSE = 3  # until the connection ends; responses only


Framing = tuple[Body, int]
"""How a body is delimited, and its bytes if that is LENGTH, else 0."""


def request_body(method: str, minor: int, codings: list[bytes], lengths: list[bytes]) -> Framing:
    """Of a request to HTTP/1.``minor``, with these values of Transfer-Encoding and
    Content-Length (RFC 9112 section 6.3).

    HeadError(400), or 501 for a coding other than chunked (section 6.1).
    """
    if not codings and not lengths:
        return Body.NONE, 0
    kind, length = _request_framing(minor, codings, lengths)
    if method == "CONNECT":
        # RFC 9110 section 9.3.6: a CONNECT request has no content. What follows is the
        # tunnel's, so a body would be read in two ways.
        if kind != Body.LENGTH or length:
            raise HeadError(400, "CONNECT with a body")
        return Body.NONE, 0
    return kind, length


def response_body(method: str, status: int, codings: list[bytes], lengths: list[bytes]) -> Framing:
    """Of the response to a request with ``method``, with these values of Transfer-Encoding and
    Content-Length (RFC 9112 section 6.3). HeadError(502) for framing that can be read in two
    ways."""
    if method == "CONNECT" and 200 <= status < 300:
        return Body.NONE, 0  # a tunnel; length fields are to be ignored (rule 2)
    if status < 200 or status == 204:
        return Body.NONE, 0
    names = transfer_codings(codings)
    length = _content_length(lengths, 502) if lengths and not names else -1
    if method == "HEAD" or status == 304:
        return Body.NONE, 0
    if not names:
        return (Body.CLOSE, 0) if length < 0 else (Body.LENGTH, length)
    if names != [b"chunked"]:
        raise _coding_error(b",".join(codings), 502)
    return Body.CHUNKED, 0


def is_sound(status: int, minor: int, codings: list[bytes], lengths: list[bytes]) -> bool:
    """Whether a response's framing is as RFC 9112 has it. If not, its connection must not
    serve another request: where this message ends its sender may see otherwise."""
    bodiless = status < 200 or status == 204
    if status < 200 and not minor:
        return False  # HTTP/1.0 has no interim responses (RFC 9110 section 15.2)
    if not codings:
        if bodiless:
            return all(value and not value.strip(b"0") for value in lengths)
        return b"," not in b"".join(lengths)
    one = len(codings) == 1 and codings[0].lower() == b"chunked"
    return one and minor == 1 and not lengths and not bodiless


def transfer_codings(values: list[bytes]) -> list[bytes]:
    """The transfer codings of a response, in order and lower case, without ``identity`` before
    them."""
    found = members(values) if values else []
    while found and found[0] == b"identity":
        del found[0]
    return found


def _request_framing(minor: int, codings: list[bytes], lengths: list[bytes]) -> Framing:
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
