"""Which messages are plain: those that the relay may pass on by itself, byte for byte as
:mod:`http1.rewrite` would.

The tables say what becomes of a field, in the words of the relay; a field that is in
neither goes on as it is. What has a rule in :mod:`http1.rewrite` and none here makes a message
that is not plain, and so does whatever frames a request's body but one Content-Length, or chunks.
"""

from __future__ import annotations

from spliceproxy.http1.authentication import SESSION_FIELDS, request_binds
from spliceproxy.http1.head import RequestHead
from spliceproxy.http1.rewrite import REQUEST_DROPS, RESPONSE_DROPS
from spliceproxy.http1.status_field import FIELD as PROXY_STATUS

_NOT_PLAIN = "not plain"

METHOD_MAX = 32
"""Bytes of a plain method (METHOD_MAX of native/http/plain.pxd)."""

REQUEST_RULES: dict[bytes, str] = dict.fromkeys(sorted(REQUEST_DROPS), _NOT_PLAIN) | {
    b"authorization": "authorization",
    b"connection": "connection",
    b"close": _NOT_PLAIN,  # Connection: close may name it
    b"content-length": "length",
    b"host": "host",
    b"keep-alive": "drop",
    b"max-forwards": _NOT_PLAIN,  # of OPTIONS and TRACE it is counted down
    b"proxy-authorization": "credentials",
    b"proxy-connection": "proxy-connection",
    b"transfer-encoding": "coding",
    b"via": "via",
}

RESPONSE_RULES: dict[bytes, str] = dict.fromkeys(sorted(RESPONSE_DROPS), _NOT_PLAIN) | {
    b"close": _NOT_PLAIN,
    b"connection": "connection",
    b"content-length": "length",
    b"content-type": "type",
    b"date": "date",
    b"keep-alive": "drop",
    b"proxy-connection": "drop",
    b"transfer-encoding": "coding",
    b"www-authenticate": _NOT_PLAIN,
    PROXY_STATUS: _NOT_PLAIN,
    **dict.fromkeys(sorted(SESSION_FIELDS), _NOT_PLAIN),
}

_REFUSED = frozenset(name for name, rule in REQUEST_RULES.items() if rule == _NOT_PLAIN)


def is_plain(head: RequestHead) -> bool:
    """Whether requests like this one may be plain: a hint, the relay looks at each."""
    return (
        head.minor == 1
        and not head.raw_path
        and len(head.method) <= METHOD_MAX
        and head.names().isdisjoint(_REFUSED)
        and not request_binds(head)
    )


def written_authority(head: RequestHead) -> bytes:
    """The authority as the client wrote it, by which the relay finds a route; b"" where
    such a request is not plain. For an absolute or an authority form, or the origin form."""
    if head.form == "authority":
        return head.target.encode("ascii")
    if head.form == "origin":
        return head.get(b"host") or b""
    if not head.target.startswith("http://"):
        return b""
    authority, slash, _ = head.target[7:].partition("/")
    return authority.encode("ascii") if slash and "?" not in authority else b""
