"""By way of a SOCKS5 server (RFC 1928), with a password (RFC 1929) or without."""

from __future__ import annotations

import socket

from spliceproxy.errors import ErrorType
from spliceproxy.net.stream import Stream
from spliceproxy.upstream.addresses import literal
from spliceproxy.upstream.hop import Credentials, Refused, Unauthorized, fault, say, take

_NO_AUTH, _PASSWORD = 0, 2

_REPLIES: dict[int, tuple[ErrorType, int, str]] = {
    1: ("destination_unavailable", 502, "general failure"),
    2: ("destination_unavailable", 403, "not allowed by its rules"),
    3: ("destination_ip_unroutable", 502, "network unreachable"),
    4: ("destination_unavailable", 502, "host unreachable"),
    5: ("connection_refused", 502, "connection refused"),
    6: ("connection_timeout", 504, "TTL expired"),
    7: ("destination_unavailable", 502, "command not supported"),
    8: ("destination_unavailable", 502, "address type not supported"),
}
"""What its reply stands for in our answer."""

_LENGTHS = {1: 4, 4: 16}


def connect_request(host: str, port: int) -> bytes:
    """The request for a connection: to an address as such, to anything else as a name."""
    address = literal(host)
    if address is None:
        name = host.encode("ascii")
        where = bytes([3, len(name)]) + name
    elif ":" in address:
        where = b"\x04" + socket.inet_pton(socket.AF_INET6, address)
    else:
        where = b"\x01" + socket.inet_pton(socket.AF_INET, address)
    return b"\x05\x01\x00" + where + port.to_bytes(2, "big")


async def ask(stream: Stream, host: str, port: int, credentials: Credentials, via: bytes) -> None:
    """As :func:`http_parent.ask`."""
    methods = bytes([_NO_AUTH] if credentials is None else [_NO_AUTH, _PASSWORD])
    await say(stream, bytes([5, len(methods)]) + methods)
    version, method = await take(stream, 2)
    if version != 5:
        raise fault("http_protocol_error", f"it speaks no SOCKS5: version {version}")
    if method == 0xFF:
        raise Unauthorized("it wants credentials, or others than we have")
    if method not in methods:
        raise fault("http_protocol_error", f"it chose a method that was not offered: {method}")
    if method == _PASSWORD and credentials is not None:
        await _authenticate(stream, *credentials)
    await say(stream, connect_request(host, port))
    version, reply, _, kind = await take(stream, 4)
    if version != 5:
        raise fault("http_protocol_error", f"a malformed reply: version {version}")
    if reply:
        error, status, words = _REPLIES.get(
            reply, ("destination_unavailable", 502, f"reply {reply}")
        )
        detail = f"it makes no connection: {words}"
        raise Refused(error, detail, status, why="a parent proxy has refused it")
    length = (await take(stream, 1))[0] if kind == 3 else _LENGTHS.get(kind, -1)
    if length < 0:
        raise fault("http_protocol_error", f"a malformed reply: address type {kind}")
    await take(stream, length + 2)  # the address that it connects from means nothing to us


async def _authenticate(stream: Stream, user: str, password: str) -> None:
    name, secret = user.encode(), password.encode()
    await say(stream, bytes([1, len(name)]) + name + bytes([len(secret)]) + secret)
    _, status = await take(stream, 2)
    if status:
        raise Unauthorized("it does not take our credentials")
