"""What a request says of the proxies on its way: Via, Max-Forwards, Forwarded.

RFC 9110 sections 7.6.2 and 7.6.3, RFC 7239, and the de facto X-Forwarded-For.
"""

from __future__ import annotations

from dataclasses import replace

from spliceproxy.http1.errors import HeadError, show
from spliceproxy.http1.fields import OWS
from spliceproxy.http1.head import RequestHead

FORWARDED_MODES = ("transparent", "on", "off", "delete")
"""What to do with Forwarded and X-Forwarded-For, in squid's words: nothing; add the
client's address; add "unknown"; take both fields away."""

_SECRET = frozenset({b"authorization", b"proxy-authorization", b"cookie", b"cookie2"})
"""Not to be shown in the answer to TRACE (RFC 9110 section 9.3.8)."""


def has_passed(head: RequestHead, pseudonym: bytes) -> bool:
    """Whether Via says that this request has been here before."""
    values = head.values(b"via")
    if not values:
        return False
    wanted = pseudonym.lower()
    for member in b",".join(values).lower().split(b","):
        words = member.split(None, 2)  # protocol, received-by, comment
        if len(words) > 1 and words[1] == wanted:
            return True
    return False


def forwards_left(head: RequestHead) -> int | None:
    """Max-Forwards of a TRACE or OPTIONS request, None where it says nothing. At 0 the
    request is to be answered here. HeadError(400) for anything but one number."""
    values = head.values(b"max-forwards") if head.method in ("TRACE", "OPTIONS") else []
    if not values:
        return None
    if len(values) > 1 or not values[0].isdigit() or len(values[0]) > 9:
        raise HeadError(400, f"a bad Max-Forwards: {show(b', '.join(values))}")
    return int(values[0])


def one_less_forward(head: RequestHead, left: int) -> RequestHead:
    """The head with Max-Forwards counted down from ``left``."""
    fields = [
        (name, b"%d" % (left - 1) if name.lower() == b"max-forwards" else value)
        for name, value in head.fields
    ]
    return replace(head, fields=fields)


def forwarded_lines(head: RequestHead, mode: str, client: str) -> list[bytes] | None:
    """The Forwarded and X-Forwarded-For field lines to send instead of those received, as
    ``mode`` says (FORWARDED_MODES); None for those received. ``client`` is an IP address,
    "" where there is none (a Unix socket).

    They are not subject to the request's Connection field: a client must not be able to
    take away what we say of it.
    """
    if mode == "transparent":
        return None
    if mode == "delete":
        return []
    shown = client if mode == "on" and client else "unknown"
    node = f'"[{shown}]"' if ":" in shown else shown
    nominated = head.options
    lines = []
    for name, element in ((b"Forwarded", f"for={node}"), (b"X-Forwarded-For", shown)):
        key = name.lower()
        received = [] if key in nominated else [v for v in head.values(key) if v.strip(OWS + b",")]
        lines.append(name + b": " + b", ".join([*received, element.encode("ascii")]))
    return lines


def trace_body(head: RequestHead) -> bytes:
    """The request as it was received, without secrets: the content of a message/http
    answer to TRACE."""
    lines = [f"{head.method} {head.target} HTTP/1.{head.minor}".encode("ascii")]
    lines += [name + b": " + value for name, value in head.fields if name.lower() not in _SECRET]
    return b"\r\n".join(lines) + b"\r\n\r\n"
