"""The syntax of field lines (RFC 9112 section 5): where a section ends, and what is in it.

The same rules serve the heads of both directions and the trailer section. Nothing is
repaired here: a bare CR or LF, a control, a folded line or a space before the colon is an
error, since two readers could take it in two ways. Of responses :mod:`lenient` cleans some.
"""

from __future__ import annotations

import re

from spliceproxy.http1.errors import HeadError, show

MAX_FIELDS = 256
"""Field lines in one section. Browsers send about 20; Apache httpd allows 100."""

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
"""``token`` of RFC 9110 section 5.6.2, as a pattern."""

OWS = b" \t"

# field-vchar, SP and HTAB of RFC 9110 section 5.5, with obs-text: a head without these
# holds nothing but CRLFs.
_TEXT = bytes(c for c in range(256) if c == 9 or 32 <= c < 127 or c >= 128)

_FAULT = re.compile(rb"[^\t\r\n\x20-\x7e\x80-\xff]|(?<!\r)\n|\r(?!\n)")

# Anchored by CRLF on both sides, so that a match can neither start nor end inside a
# line. OWS is stripped afterwards: a pattern for it could backtrack quadratically.
_LINES = re.compile(rb"\r\n(" + TOKEN + rb"):([\t\x20-\x7e\x80-\xff]*)(?=\r\n)").findall

_NAME = re.compile(TOKEN).fullmatch


def find_section_end(buffer: bytearray, start: int, limit: int, status: int) -> int:
    """Index just behind the first CRLFCRLF that ends within ``limit`` bytes, or -1.

    ``start`` bytes were searched by earlier calls; each byte is looked at once, but for
    a few at the seams. HeadError(status) for a control, a bare CR or a bare LF, whether
    or not the end is there yet.
    """
    end = buffer.find(b"\r\n\r\n", start - 3 if start > 3 else 0, limit)
    if end >= 0:
        end += 4
        stop = end
    else:
        stop = min(len(buffer), limit)
        if stop and buffer[stop - 1] == 13:
            stop -= 1  # its LF may still come
    if start and buffer[start - 1] == 13:
        start -= 1  # left over by the line above
    part = buffer[start:stop]
    if len(part.translate(None, _TEXT)) != 2 * part.count(b"\r\n"):
        raise HeadError(status, _byte_fault(part))
    return end


def parse_fields(section: bytes, status: int) -> list[tuple[bytes, bytes]]:
    """The field lines of a section: (name as spelled, value without outer whitespace).

    ``section`` is the whole of a head with its start-line, or CRLF and a trailer
    section, to the empty line at the end. HeadError(status) for a bad line; 431 (502 for
    a response) for more than MAX_FIELDS.
    """
    found: list[tuple[bytes, bytes]] = _LINES(section)
    # The CRLFs: behind the start-line, behind each field line, and the empty line.
    if section.count(b"\r\n") != len(found) + 2 or not section.endswith(b"\r\n\r\n"):
        raise HeadError(status, _line_fault(section))
    if len(found) > MAX_FIELDS:
        if status == 502:
            raise HeadError(502, f"more than {MAX_FIELDS} fields", "http_response_header_size")
        raise HeadError(431, f"more than {MAX_FIELDS} fields")
    if b"\t" in section:
        _check_codings(found, status)
    return [(name, value.strip(OWS)) for name, value in found]


def _check_codings(found: list[tuple[bytes, bytes]], status: int) -> None:
    """A tab behind a coding is whitespace to RFC 9110 and part of an unknown coding to some
    readers (llhttp 9), which then take another body."""
    for name, value in found:
        if b"\t" in value.rstrip(b" ")[-1:] and name.lower() == b"transfer-encoding":
            raise HeadError(status, "a tab behind a transfer coding")


def _byte_fault(part: bytes | bytearray) -> str:
    fault = _FAULT.search(part)
    byte = fault[0] if fault else b""
    if byte == b"\n":
        return "a line ends in a bare LF"
    if byte == b"\r":
        return "a CR without LF"
    return f"control character {show(byte)}"


def _line_fault(section: bytes) -> str:
    """What is wrong with a section that did not parse."""
    if _FAULT.search(section):
        return _byte_fault(section)
    lines = section.split(b"\r\n")[1:]
    if lines[-2:] != [b"", b""]:
        return "no empty line at the end"
    for line in lines[:-2]:
        name, colon, _ = line.partition(b":")
        if not line:
            return "an empty line before the end"
        if line[0] in OWS:
            return "a folded field line (obs-fold)"
        if not colon:
            return f"a field line without a colon: {show(line)}"
        if not name:
            return "a field line without a name"
        if name[-1] in OWS:
            return f"a space before the colon: {show(name)}"
        if not _NAME(name):
            return f"a bad field name: {show(name)}"
    return "a bad field line"


def members(values: list[bytes]) -> list[bytes]:
    """The elements of a list field in lower case, maybe with empty ones (RFC 9110 section
    5.6.1)."""
    return [member.strip(OWS) for member in b",".join(values).lower().split(b",")]
