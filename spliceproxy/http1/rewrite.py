"""Header rules of an intermediary: what of a head goes on to the next hop.

RFC 9110 section 7.6 (Connection, Via) and 7.8 (Upgrade). Fields keep their order and spelling;
those of one hop only are taken out, and ours are put behind the rest.
"""

from __future__ import annotations

import re

from spliceproxy.http1.authentication import challenges_bind
from spliceproxy.http1.fields import OWS, TOKEN, members
from spliceproxy.http1.framing import Body
from spliceproxy.http1.head import RequestHead, ResponseHead
from spliceproxy.http1.status_field import FIELD as PROXY_STATUS
from spliceproxy.http1.status_field import without_own
from spliceproxy.http1.target import DEFAULT_PORT

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
"""The answer to CONNECT, without fields of a body (RFC 9110 section 9.3.6)."""

# For one hop only (RFC 9110 section 7.6.1), or written anew. Upgrade is put back where
# it has an effect.
_HOP_BY_HOP = frozenset(
    b"connection proxy-connection keep-alive te transfer-encoding upgrade".split()
)

# RFC 9110 section 11.7: between a client and its proxy.
# HTTP2-Settings belongs to an Upgrade that goes no further.
REQUEST_DROPS = _HOP_BY_HOP | {b"proxy-authorization", b"http2-settings"}
RESPONSE_DROPS = _HOP_BY_HOP | {
    b"proxy-authenticate",
    b"proxy-authentication-info",
    b"proxy-support",  # RFC 4559 section 6: of one proxy; ours is written where it counts
}

_FORWARDED = frozenset({b"forwarded", b"x-forwarded-for"})

# An HTTP/1.0 client cannot be sent the 100 that it seems to wait for (RFC 9110 section
# 10.1.1).
_NOT_FROM_1_0 = frozenset({b"expect"})

# Connection cannot take these away: they frame, route or explain the message, or we act
# on them. Anything else that it names goes (RFC 9110 section 7.6.1).
_NOT_NOMINABLE = frozenset(
    b"""cache-control content-encoding content-length content-range content-type date
    expect host max-forwards trailer via""".split()
)


_PROTOCOL = re.compile(TOKEN + rb"(?:/" + TOKEN + rb")?").fullmatch

# In a tunnel to one of these come requests that no rule sees. An Upgrade to HTTP/2 is
# obsolete (RFC 9113 section 3.1), and for TLS a client asks a proxy by CONNECT (RFC 2817
# section 5.1).
_CARRIES_REQUESTS = re.compile(rb"(?:h2|h2c|h3|http|tls)(?:-[^/]*)?(?:/.*)?", re.I).fullmatch


def offered(head: RequestHead) -> list[bytes]:
    """The protocols to which the origin may switch: of those that the client asks for, all that
    are well-formed and carry no further requests."""
    value = head.upgrade
    if value is None:
        return []
    protocols = [protocol.strip(OWS) for protocol in value.split(b",")]
    return [p for p in protocols if _PROTOCOL(p) and not _CARRIES_REQUESTS(p)]


def may_switch(head: RequestHead, response: ResponseHead) -> bool:
    """Whether a 101 switches to protocols that were offered (RFC 9110 section 7.8); their
    versions are the origin's affair."""
    value = response.upgrade
    if value is None:
        return False
    allowed = {_protocol_name(protocol) for protocol in offered(head)}
    wanted = {_protocol_name(protocol) for protocol in members([value]) if protocol}
    return bool(wanted) and wanted <= allowed


def _protocol_name(protocol: bytes) -> bytes:
    return protocol.partition(b"/")[0].lower()


def origin_request(
    head: RequestHead, body: Body, via: bytes, forwarded: list[bytes] | None = None
) -> bytes:
    """The head for the origin, in origin form (RFC 9112 section 3.2.1).

    ``body`` is what :meth:`RequestHead.body` says, ``via`` our pseudonym,
    ``forwarded`` comes from :func:`chain.forwarded_lines`. Host is made from the target, in
    the place where it stood. Not for CONNECT.
    """
    path = head.raw_path or head.path.encode("ascii")
    lines = [b"%b %b HTTP/1.1" % (head.method.encode("ascii"), path)]
    host = host_field(head)
    if not head.values(b"host"):
        lines.append(b"Host: " + host)
    drops = REQUEST_DROPS
    if not head.minor:
        drops = drops | _NOT_FROM_1_0
    if forwarded is not None:
        drops = drops | _FORWARDED
    _copy(lines, head, head.fields, drops, body == Body.LENGTH, host)
    if forwarded:
        lines += forwarded
    if body == Body.CHUNKED:
        lines.append(b"Transfer-Encoding: chunked")
    options = []
    # TE says what we can pass on: trailers, and only to a client that can get them chunked.
    if head.minor and b"trailers" in members(head.values(b"te")):
        lines.append(b"TE: trailers")
        options.append(b"TE")
    protocols = offered(head)
    if protocols:
        lines.append(b"Upgrade: " + b", ".join(protocols))
        options.append(b"upgrade")
    return _finish(lines, options, head.minor, via)


def client_response(
    head: ResponseHead, body: Body, *, minor: int, close: bool, via: bytes, date: bytes
) -> bytes:
    """The head of a final response, or of a 101, for the client.

    ``body`` is how the body will be sent, ``minor`` the client's HTTP/1.minor, ``close``
    whether its connection ends behind the response, ``via`` our pseudonym, ``date`` an
    IMF-fixdate for a response without one. The version is always ours (RFC 9110 section
    2.5). A response without body keeps the Content-Length that it has for information
    (HEAD, 304), which a 1xx or 204 must not have (RFC 9110 section 8.6), and which means
    nothing beside a transfer coding.
    """
    lines = [b"HTTP/1.1 %d %b" % (head.status, head.reason)]
    informs = body == Body.NONE and head.status >= 200 and head.status != 204
    informs = informs and not head.codings
    _copy_response(lines, head, body == Body.LENGTH or informs, via)
    if body == Body.CHUNKED:
        lines.append(b"Transfer-Encoding: chunked")
    if head.status >= 200 and not head.values(b"date"):
        lines.append(b"Date: " + date)
    options = []
    # RFC 4559 section 6: without it a client must not use such a scheme through a proxy.
    if minor and challenges_bind(head):
        lines.append(b"Proxy-Support: Session-Based-Authentication")
        options.append(b"Proxy-Support")
    # 101 switches, 426 must say to what (RFC 9110 section 15.5.22).
    protocols = head.upgrade if head.status in (101, 426) else None
    if protocols:
        lines.append(b"Upgrade: " + protocols)
        options.append(b"upgrade")
    if close:
        options.append(b"close")
    elif not minor:
        options.append(b"keep-alive")
    return _finish(lines, options, head.minor, via)


def interim_response(head: ResponseHead, via: bytes) -> bytes:
    """The head of a 1xx other than 101, to be passed on to an HTTP/1.1 client (RFC 9110
    section 15.2)."""
    lines = [b"HTTP/1.1 %d %b" % (head.status, head.reason)]
    _copy_response(lines, head, False, via)
    return _finish(lines, [], head.minor, via)


def _copy_response(lines: list[bytes], head: ResponseHead, length: bool, via: bytes) -> None:
    fields = head.fields
    if head.values(PROXY_STATUS):
        fields = without_own(fields, via)
    _copy(lines, head, fields, RESPONSE_DROPS, length)


def _copy(
    lines: list[bytes],
    head: RequestHead | ResponseHead,
    fields: list[tuple[bytes, bytes]],
    drops: frozenset[bytes],
    length: bool,
    host: bytes | None = None,
) -> None:
    """Those of ``fields`` that go on: not ``drops``, not what Connection names, Content-Length
    if ``length``, Host with the value ``host``."""
    if head.options:
        drops = drops | (frozenset(head.options) - _NOT_NOMINABLE)
    for name, value in fields:
        key = name.lower()
        if key in drops:
            continue
        if key == b"content-length":
            if not length:
                continue
            length = False  # equal copies count as one
            if b"," in value:  # so does a list of them
                value = value.partition(b",")[0].rstrip(OWS)
            value = value.lstrip(b"0") or b"0"  # some readers take "010" as octal
        elif key == b"host" and host is not None:
            value = host
        lines.append(name + b": " + value)


def host_field(head: RequestHead) -> bytes:
    """The value of Host for the origin, made from the target."""
    host = f"[{head.host}]" if ":" in head.host else head.host
    if head.port and head.port != DEFAULT_PORT.get(head.scheme or "http"):
        host = f"{host}:{head.port}"
    return host.encode("ascii")


def _finish(lines: list[bytes], options: list[bytes], minor: int, via: bytes) -> bytes:
    """Adds Connection, and Via with the version received (RFC 9110 section 7.6.3), which
    may be left out with an empty pseudonym."""
    if options:
        lines.append(b"Connection: " + b", ".join(options))
    if via:
        lines.append(b"Via: 1.%d %b" % (minor, via))
    lines.append(b"\r\n")
    return b"\r\n".join(lines)
