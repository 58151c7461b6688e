"""Heads of HTTP/1 messages: found in a buffer, checked and taken apart (RFC 9112).

A head that two readers could read in two ways is refused. One of a request is never repaired;
what is mended in a response is said in :mod:`lenient`. The regular expressions look at a whole
head at once, and none can backtrack more than linearly.

A head answers once what everybody asks of it: how its body is framed, whether the connection
persists, and to what it wants to upgrade. It does so on first use and not in the parser, because a
client that may not use the proxy must learn that before it learns what is wrong with its body.
"""

from __future__ import annotations

import re
from collections.abc import KeysView
from dataclasses import dataclass, field

from spliceproxy.http1.errors import HeadError as HeadError
from spliceproxy.http1.errors import show
from spliceproxy.http1.fields import MAX_FIELDS as MAX_FIELDS
from spliceproxy.http1.fields import TOKEN, find_section_end, members, parse_fields
from spliceproxy.http1.framing import (
    Framing,
    is_sound,
    request_body,
    response_body,
    transfer_codings,
)
from spliceproxy.http1.lenient import clean, find_end
from spliceproxy.http1.target import escaped, split_authority, split_target

MAX_LINE = 16 * 1024
"""Bytes of a request-line or status-line, CRLF not counted: beyond it 414. RFC 9112
section 3 recommends at least 8000; nginx allows 8 KiB, Apache httpd 8190, Node.js 16 KiB."""

MAX_HEAD = 64 * 1024
"""Bytes of a whole head with its empty line: beyond it 431. squid's default is 64 KiB too."""

MAX_EMPTY = 64
"""Bytes of empty lines before a request. Old clients send one behind a body; a flood of
them would be work without an end."""

_CRLFS = re.compile(rb"(?:\r\n)+").match

_PREFACE = b"PRI * HTTP/2.0\r\n"  # RFC 9113 section 3.4

# RFC 3986 allows less in a target, but browsers send {}|^" and the like in queries, and many
# programs send UTF-8 as it is. No reader splits a line there.
_REQUEST_LINE = re.compile(
    rb"(" + TOKEN + rb") ([\x21-\x7e\x80-\xff]+) HTTP/([0-9])\.([0-9])\r\n"
).match

# RFC 9112 section 4 has a space behind the status even where no reason follows. Some
# origins leave it out; every client takes that, and it can be read in one way only.
_STATUS_LINE = re.compile(
    rb"HTTP/([0-9])\.([0-9]) ([1-9][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n"
).match


_CODING = b"transfer-encoding"
_LENGTH = b"content-length"


class _Fields:
    """Look-up by field name; ``fields`` must not be changed once the head is made."""

    __slots__ = ("_options",)

    minor: int
    fields: list[tuple[bytes, bytes]]
    _index: dict[bytes, list[bytes]]

    def __post_init__(self) -> None:
        self._options: list[bytes] | None = None
        index = self._index
        for name, value in self.fields:
            key = name.lower()
            if key in index:
                index[key].append(value)
            else:
                index[key] = [value]

    def values(self, name: bytes) -> list[bytes]:
        """The values of all fields of this name (lower case), in order."""
        return self._index.get(name, [])

    def names(self) -> KeysView[bytes]:
        """The names of all fields, in lower case."""
        return self._index.keys()

    def get(self, name: bytes) -> bytes | None:
        """The value of the first field of this name (lower case), None without one."""
        values = self._index.get(name)
        return values[0] if values else None

    @property
    def options(self) -> list[bytes]:
        """What the Connection field names, in lower case (RFC 9110 section 7.6.1); maybe with
        empty elements."""
        if self._options is None:
            values = self.values(b"connection")
            self._options = members(values) if values else []
        return self._options

    @property
    def upgrade(self) -> bytes | None:
        """The Upgrade value if it counts: Connection names it and the message is HTTP/1.1
        (RFC 9110 section 7.8)."""
        values = self.values(b"upgrade")
        if not values or not self.minor or b"upgrade" not in self.options:
            return None
        return b", ".join(values) or None


@dataclass(slots=True)
class RequestHead(_Fields):
    """A request's head (RFC 9112 section 3)."""

    method: str
    target: str  # as received, bytes beyond ASCII percent-encoded
    minor: int  # HTTP/1.minor: 0 or 1
    fields: list[tuple[bytes, bytes]]  # name as spelled, value without OWS
    form: str  # "authority", "absolute", "origin" or "asterisk"
    scheme: str  # lower case; "" unless absolute
    host: str  # lower case, IPv6 without brackets; "" if unknown
    port: int  # the scheme's default where none is given; 0 if unknown
    path: str  # path and query for the origin form, encoded as in target; "" for CONNECT
    raw_path: bytes = b""  # path as received, where that is another; for the origin
    _index: dict[bytes, list[bytes]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _body: Framing | None = field(default=None, init=False, repr=False, compare=False)

    def body(self) -> Framing:
        """How the body is framed (RFC 9112 section 6.3). HeadError(400), or 501 for a coding
        other than chunked (section 6.1)."""
        if self._body is None:
            codings, lengths = self.values(_CODING), self.values(_LENGTH)
            self._body = request_body(self.method, self.minor, codings, lengths)
        return self._body

    @property
    def persistent(self) -> bool:
        """Whether the client lets its connection be used again (RFC 9112 section 9.3).

        Never with HTTP/1.0: a proxy must not keep such a connection, since another proxy may
        have passed on a Connection field that it did not understand (appendix C.2.2).
        ``Proxy-Connection`` counts where there is no ``Connection``.
        """
        if not self.minor:
            return False
        if b"connection" in self._index:
            return b"close" not in self.options
        values = self.values(b"proxy-connection")
        return not values or b"close" not in members(values)


@dataclass(slots=True)
class ResponseHead(_Fields):
    """A response's head (RFC 9112 section 4)."""

    minor: int  # HTTP/1.minor: 0 or 1
    status: int  # 100 to 999
    reason: bytes
    fields: list[tuple[bytes, bytes]]  # name as spelled, value without OWS
    cleaned: bool = False  # it had to be: its connection is not to be used again
    _index: dict[bytes, list[bytes]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def body(self, method: str) -> Framing:
        """How the body is framed (RFC 9112 section 6.3) if the request has had this method:
        a response does not say it alone. HeadError(502) for framing that can be read in two
        ways."""
        codings, lengths = self.values(_CODING), self.values(_LENGTH)
        return response_body(method, self.status, codings, lengths)

    @property
    def codings(self) -> list[bytes]:
        """The transfer codings, in order and lower case, without ``identity`` before them."""
        return transfer_codings(self.values(_CODING))

    @property
    def sound(self) -> bool:
        """Whether all of it could be read strictly, and its framing is as RFC 9112 has it. If
        not, its connection must not serve another request: its sender may see another end."""
        codings, lengths = self.values(_CODING), self.values(_LENGTH)
        return not self.cleaned and is_sound(self.status, self.minor, codings, lengths)

    @property
    def persistent(self) -> bool:
        """Whether the origin lets its connection be used again (RFC 9112 section 9.3)."""
        options = self.options
        if self.minor:
            return b"close" not in options
        return b"keep-alive" in options and b"close" not in options


def skip_empty_lines(buffer: bytearray) -> int:
    """Takes the CRLFs away from the front, before a request (RFC 9112 section 2.2); returns
    their bytes, of which the caller allows MAX_EMPTY before one head.

    Call it before each :func:`find_head_end` of a head that has not begun; a CR alone is
    not a beginning, for its LF may come in the next segment. All CRLFs go, since a limit
    for one call would make the answer depend on how the bytes arrive.
    """
    found = _CRLFS(buffer)
    end = found.end() if found else 0
    if end:
        del buffer[:end]
    return end


def find_head_end(buffer: bytearray, start: int = 0, *, response: bool = False) -> int:
    """Index just behind the empty line that ends the head, -1 while it is not there.

    ``start`` is ``len(buffer)`` of the call before, for the same head; all calls together
    look at each byte once. Raises HeadError as soon as the head cannot become valid: 400
    for a control, bare CR, bare LF or another protocol, 414 and 431 for the size limits;
    all of them are 502 where ``response`` is true, and then only NUL counts as a control,
    and a bare LF ends a line.
    """
    if start < len(_PREFACE):
        _check_protocol(buffer, response)
    if response:
        end = find_end(buffer, start, MAX_HEAD)
    else:
        end = find_section_end(buffer, start, MAX_HEAD, 400)
    # The first line ends beyond its limit, seen in the one call that crosses it.
    reach = MAX_LINE + 2
    if start < reach <= len(buffer) and buffer.find(b"\n", 0, reach) < 0:
        detail = f"a first line longer than {MAX_LINE} bytes"
        raise _too_large(502 if response else 414, detail)
    if end < 0 and len(buffer) >= MAX_HEAD:
        raise _too_large(502 if response else 431, f"a head larger than {MAX_HEAD} bytes")
    return end


def parse_request(head: bytes) -> RequestHead:
    """Takes a whole request head apart, start-line to empty line.

    HeadError: 400 for bad syntax, target or Host, 431 for too many fields, 505 for
    another version of HTTP.
    """
    match = _REQUEST_LINE(head)
    if match is None:
        raise HeadError(400, _request_line_fault(head))
    method_bytes, target_bytes, major, minor_byte = match.groups()
    if major != b"1" or minor_byte > b"1":
        raise HeadError(505, "HTTP/1.1 and HTTP/1.0 are spoken here")
    fields = parse_fields(head, 400)
    method = method_bytes.decode("ascii")
    target = target_bytes.decode("ascii", "surrogateescape")
    minor = 1 if minor_byte == b"1" else 0
    form, scheme, host, port, path = split_target(method, target)
    request = RequestHead(method, target, minor, fields, form, scheme, host, port, path)
    if not target.isascii():
        # The path goes on as it is. Whoever else looks at it sees one spelling of it, the one
        # that clients should have sent (RFC 3986 section 2.1).
        request.raw_path = path.encode("ascii", "surrogateescape")
        request.target, request.path = escaped(target), escaped(path)
    _apply_host(request)
    return request


def parse_response(head: bytes) -> ResponseHead:
    """Takes a whole response head apart, cleaned where it has to be (:mod:`lenient`).
    HeadError(502) for what can be read in two ways."""
    try:
        return _parse_response(head)
    except HeadError:
        cleaned = clean(head)
        if cleaned == head:
            raise
    response = _parse_response(cleaned)
    response.cleaned = True
    return response


def _parse_response(head: bytes) -> ResponseHead:
    match = _STATUS_LINE(head)
    if match is None:
        raise HeadError(502, f"the origin sent a bad status-line: {show(_first_line(head))}")
    major, minor, status, reason = match.groups()
    if major != b"1":
        raise HeadError(502, "the origin speaks another version of HTTP")
    fields = parse_fields(head, 502)
    # A higher minor version is read as the highest that we speak (RFC 9110 section 2.5).
    return ResponseHead(0 if minor == b"0" else 1, int(status), reason or b"", fields)


def _apply_host(request: RequestHead) -> None:
    """RFC 9112 section 3.2: checks Host, and takes the server from it where the target
    names none. Where both name one the target wins (section 3.2.2). A CONNECT may do without:
    its target is all that Host would say, and lftp and links send none."""
    hosts = request.values(b"host")
    if not hosts:
        if request.minor == 1 and request.form != "authority":
            raise HeadError(400, "HTTP/1.1 without a Host field")
        return
    if len(hosts) > 1:
        raise HeadError(400, "more than one Host field")
    if not hosts[0]:
        return  # the target has no authority (RFC 9112 section 3.2): valid, but no help
    try:
        host, port = split_authority(hosts[0].decode("ascii"))
    except UnicodeDecodeError:
        raise HeadError(400, f"the Host field has a bad host: {show(hosts[0])}") from None
    except ValueError as error:
        raise HeadError(400, f"the Host field has {error}") from None
    if request.form in ("origin", "asterisk"):
        request.host = host
        request.port = port or 80


def _check_protocol(buffer: bytearray, response: bool) -> None:
    """Tells a peer of another protocol so, from its first bytes."""
    if buffer.startswith((b"\x16", b"\x15")):  # TLS handshake and alert, RFC 8446 section 5.1
        if response:
            raise HeadError(502, "the origin speaks TLS on this port")
        raise HeadError(400, "this is a plain HTTP proxy port: TLS was received")
    if buffer.startswith(_PREFACE) and not response:
        raise HeadError(400, "this is a plain HTTP proxy port: HTTP/2 was received")
    if buffer.startswith((b"\x04", b"\x05")) and not response:  # RFC 1928 section 3
        raise HeadError(400, "SOCKS was received behind something else")
    if buffer.startswith(b"\r\n"):
        raise HeadError(502 if response else 400, "an empty line before the first line")


def _too_large(status: int, detail: str) -> HeadError:
    return HeadError(status, detail, "http_response_header_size" if status == 502 else None)


def _first_line(head: bytes) -> bytes:
    return head.partition(b"\r\n")[0]


def _request_line_fault(head: bytes) -> str:
    line = _first_line(head)
    words = line.split(b" ")
    if len(words) == 2 and all(words):
        return "a request-line without a version (HTTP/0.9)"
    if len(words) != 3 or not all(words):
        return f"a request-line is METHOD SP TARGET SP VERSION: {show(line)}"
    if not re.fullmatch(TOKEN, words[0]):
        return f"a bad method: {show(words[0])}"
    if not re.fullmatch(rb"HTTP/[0-9]\.[0-9]", words[2]):
        return f"a bad version: {show(words[2])}"
    return f"the request-target holds more than visible ASCII: {show(words[1])}"
