"""By way of a SOCKS4 server that takes names (SOCKS4a)."""

from __future__ import annotations

import socket

from spliceproxy.errors import Failure
from spliceproxy.net.stream import Stream
from spliceproxy.upstream.addresses import literal
from spliceproxy.upstream.hop import Credentials, Refused, fault, say, take

_GRANTED = 0x5A


def connect_request(host: str, port: int) -> bytes:
    """The request for a connection, without a user. Failure for an address of IPv6, which it knows
    nothing of."""
    address = literal(host)
    if address is None:  # an address that is none, and the name behind the user
        return b"\x04\x01" + port.to_bytes(2, "big") + b"\0\0\0\1\0" + host.encode("ascii") + b"\0"
    if ":" in address:
        raise Refused("destination_ip_unroutable", "SOCKS4a leads to no address of IPv6")
    packed = socket.inet_pton(socket.AF_INET, address)
    return b"\x04\x01" + port.to_bytes(2, "big") + packed + b"\0"


async def ask(stream: Stream, host: str, port: int, credentials: Credentials, via: bytes) -> None:
    """As :func:`http_parent.ask`."""
    await say(stream, connect_request(host, port))
    reply = await take(stream, 8)
    if reply[0]:
        raise fault("http_protocol_error", f"a malformed reply: {reply[0]}")
    if reply[1] != _GRANTED:
        raise _refused(reply[1])


def _refused(code: int) -> Failure:
    detail = f"it makes no connection: reply {code}"
    return Refused("destination_unavailable", detail, 502, why="a parent proxy has refused it")
