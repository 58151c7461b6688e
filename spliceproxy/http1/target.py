"""The request-target and the Host field: which server and which path are meant.

RFC 9112 section 3.2 for the four forms, RFC 3986 section 3.2.2 for the host. Stricter
than RFC 3986 on purpose: no userinfo (RFC 9110 section 4.2.4), no percent-encoding in a
host (resolvers would not agree on it), no zone of an IPv6 address, no IPvFuture. A path is
taken as it is, also where it is not ASCII.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

from spliceproxy.http1.errors import HeadError, show

DEFAULT_PORT = {"http": 80, "https": 443}

_HOST_MAX = 255

_AUTHORITY = re.compile(
    r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9\-._~!$&'()*+,;=]{1,255}))(?:(:)([0-9]{0,5}))?"
).fullmatch

_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")

_ABSOLUTE = re.compile(r"([A-Za-z][A-Za-z0-9+\-.]*)://([^/?#]*)([^#]*)").fullmatch


@lru_cache(maxsize=4096)
def split_authority(authority: str) -> tuple[str, int]:
    """``uri-host [":" port]`` as (host, port).

    The host is in lower case, an IPv6 address in its shortest form without brackets; the
    port is 0 where there is none (also for "host:", RFC 3986 section 3.2.3). ValueError
    says what is wrong. Failures are not cached, so the cache holds short texts only.
    """
    match = _AUTHORITY(authority)
    if match is None:
        raise ValueError(_authority_fault(authority))
    literal, name, _, digits = match.groups()
    port = 0
    if digits:
        port = int(digits)
        if not 0 < port < 65536:
            raise ValueError(f"a port outside 1-65535: {show(authority)}")
    if name:
        return name.lower(), port
    try:
        return str(ipaddress.IPv6Address(literal)), port
    except ValueError:
        raise ValueError(f"a bad IPv6 address: {show(authority)}") from None


def split_target(method: str, target: str) -> tuple[str, str, str, int, str]:
    """(form, scheme, host, port, path) of a request-target, as in ``RequestHead``.

    Host and port are "" and 0 for the origin and the asterisk form: the Host field has
    them. HeadError(400) for a target that has no valid form for its method.
    """
    if method == "CONNECT":
        host, port = _connect_target(target)
        return "authority", "", host, port, ""
    if target.startswith("/"):
        if "#" in target:
            raise HeadError(400, f"a fragment in the request-target: {show(target)}")
        return "origin", "", "", 0, target
    if target == "*":
        if method != "OPTIONS":
            raise HeadError(400, "the request-target * is for OPTIONS only")
        return "asterisk", "", "", 0, "*"
    return _absolute_target(method, target)


def escaped(text: str) -> str:
    """Text with what is not ASCII percent-encoded, as the bytes that it came from (RFC 3986
    section 2.1): UTF-8, or any byte as a lone surrogate of ``surrogateescape``."""
    return _NOT_ASCII.sub(_percent, text)


def _percent(match: re.Match[str]) -> str:
    return "".join([f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape")])


def _connect_target(target: str) -> tuple[str, int]:
    """RFC 9110 section 9.3.6: a host and a port, both there."""
    try:
        host, port = split_authority(target)
    except ValueError as error:
        raise HeadError(400, f"CONNECT takes HOST:PORT: {error}") from None
    if not port:
        raise HeadError(400, f"CONNECT without a port: {show(target)}")
    return host, port


def _absolute_target(method: str, target: str) -> tuple[str, str, str, int, str]:
    match = _ABSOLUTE(target)
    if match is None:
        what = "a fragment in" if "#" in target else "not a URL or path:"
        raise HeadError(400, f"{what} the request-target {show(target)}")
    scheme, authority, rest = match.groups()
    scheme = scheme.lower()
    try:
        host, port = split_authority(authority)
    except ValueError as error:
        raise HeadError(400, f"the request-target has {error}") from None
    if not rest:
        # RFC 9112 section 3.2.4: OPTIONS without path and query is for the server itself.
        rest = "*" if method == "OPTIONS" else "/"
    elif rest[0] == "?":
        rest = "/" + rest
    return "absolute", scheme, host, port or DEFAULT_PORT.get(scheme, 0), rest


def _authority_fault(authority: str) -> str:
    """What is wrong with an authority that did not match."""
    host, colon, port = authority.rpartition(":")
    if not colon or host.startswith("[") != host.endswith("]"):
        host, port = authority, ""
    if "@" in authority:
        return "userinfo before the host"
    if not host:
        return "no host"
    if "%" in host:
        return f"a percent sign in the host: {show(authority)}"
    if (port and not port.isdecimal()) or len(port) > 5:
        return f"a bad port: {show(authority)}"
    if len(host) > _HOST_MAX:
        return f"a host name longer than {_HOST_MAX} characters"
    return f"a bad host: {show(authority)}"
