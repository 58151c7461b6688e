"""What origins send that is not as it should be, and yet can be read in one way only: read so,
and written as it should have been.

A proxy cannot choose its origins, and what every client reads should not fail here. So the
head of a response, and the trailer section of one, may have

- lines that end in LF alone (RFC 9112 section 2.2), and empty lines before the status-line;
- blanks before the colon of a field, which a proxy has to remove (section 5.1);
- a field that goes on in the next line: the fold becomes a space (section 5.2);
- control characters in a value or a reason, which become spaces (RFC 9110 section 5.5).

What two readers could take in two ways stays an error: NUL and bare CR, a fold before the
first field or of nothing but blanks, a fold or a control character in a field that frames the
message. Nothing of this holds for requests. What framing may be odd is said in :mod:`framing`.

Strict reading comes first; what is here runs only where that has failed. A connection on which
something had to be read so is not used for another request.
"""

from __future__ import annotations

import re

from spliceproxy.http1.errors import HeadError, show
from spliceproxy.http1.fields import OWS, TOKEN, find_section_end, parse_fields

_EMPTY_LINES = re.compile(rb"(?:\r?\n)+").match

_TWO_WAYS = re.compile(rb"\0|\r(?!\n)")

_split_lines = re.compile(rb"\r?\n").split

_FIELD_LINE = re.compile(rb"(" + TOKEN + rb")[\t ]*:(.*)", re.DOTALL).fullmatch

_FRAMING = (b"content-length", b"transfer-encoding")

_CONTROLS = bytes(c for c in (*range(1, 32), 127) if c not in b"\t\r\n")
_BLANKED = bytes.maketrans(_CONTROLS, b" " * len(_CONTROLS))

_BEFORE_REASON = len(b"HTTP/1.1 200 ")


def skip_lines(buffer: bytearray) -> int:
    """Takes the empty lines away from the front, before a response; returns their bytes. As
    :func:`head.skip_empty_lines`, a CR alone is left: it begins nothing."""
    found = _EMPTY_LINES(buffer)
    end = found.end() if found else 0
    if end:
        del buffer[:end]
    return end


def find_end(buffer: bytearray, start: int, limit: int) -> int:
    """As :func:`fields.find_section_end`, of a section of a response: index just behind the
    first empty line that ends within ``limit`` bytes, or -1. HeadError(502) for NUL and a
    bare CR."""
    if not start:
        try:
            return find_section_end(buffer, 0, limit, 502)
        except HeadError:
            pass  # what strict reading refuses may be what is read leniently: look again below
    end = buffer.find(b"\n\r\n", max(start - 2, 0), limit)
    end += 3 if end >= 0 else 0
    short = buffer.find(b"\n\n", max(start - 1, 0), limit if end < 0 else end)
    if short >= 0:
        end = short + 2
    stop = min(len(buffer), limit) if end < 0 else end
    if stop and buffer[stop - 1] == 13:
        stop -= 1  # its LF may still come
    if start and buffer[start - 1] == 13:
        start -= 1  # left over by the line above
    fault = _TWO_WAYS.search(buffer, start, stop)
    if fault is not None:
        detail = f"control character {show(fault[0])}" if fault[0] == b"\0" else "a CR without LF"
        raise HeadError(502, detail)
    return end


def fields_of(section: bytes) -> tuple[list[tuple[bytes, bytes]], bool]:
    """As :func:`fields.parse_fields`, and whether the section had to be cleaned."""
    try:
        return parse_fields(section, 502), False
    except HeadError:
        cleaned = clean(section)
        if cleaned == section:
            raise
        return parse_fields(cleaned, 502), True


def clean(section: bytes) -> bytes:
    """The head of a response, or CRLF and its trailer section, as it should have been sent;
    what cannot be cleaned is left for the strict reading to complain of. HeadError(502) for a
    fold that can be read in two ways."""
    if _TWO_WAYS.search(section):
        return section
    first, *lines = _split_lines(section)
    cleaned = [first[:_BEFORE_REASON] + first[_BEFORE_REASON:].translate(_BLANKED)]
    name = b""  # of the field that a fold would go on with
    for line in lines[:-2]:
        if line[:1] in (b" ", b"\t"):
            more = _unfolded(line, name)
            cleaned[-1] = cleaned[-1].rstrip(OWS)
            cleaned.append(b" " + more)
            continue
        field = _FIELD_LINE(line)
        if field is not None:
            name = field[1].lower()
            value = field[2] if name in _FRAMING else field[2].translate(_BLANKED)
            line = field[1] + b":" + value
        cleaned.append(b"\r\n" + line)
    return b"".join(cleaned) + b"\r\n\r\n"


def _unfolded(line: bytes, name: bytes) -> bytes:
    """What a folded line adds to the field ``name``."""
    more = line.translate(_BLANKED).strip(OWS)
    if not name:
        raise HeadError(502, "a folded line before the first field")
    if not more:
        raise HeadError(502, "a line of nothing but blanks")
    if name in _FRAMING:
        raise HeadError(502, f"a folded {name.decode('ascii').title()}")
    return more
