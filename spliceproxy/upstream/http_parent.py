"""By way of an HTTP proxy: a tunnel by CONNECT (RFC 9110 section 9.3.6), and how a request is
written that it forwards (RFC 9112 section 3.2.2)."""

from __future__ import annotations

from base64 import b64encode

from spliceproxy.errors import ErrorType
from spliceproxy.http1.errors import HeadError
from spliceproxy.http1.head import RequestHead, ResponseHead, find_head_end, parse_response
from spliceproxy.http1.rewrite import host_field
from spliceproxy.net.stream import Stream
from spliceproxy.upstream.hop import Credentials, Refused, Unauthorized, fault, more, say

INTERIM = 16
"""Interim responses that a parent may send before its answer to CONNECT."""

_PASSED_ON = frozenset({403, 404, 429, 500, 502, 503, 504})
"""Statuses of a parent's refusal that mean the same in our answer; others become 502."""

_ERRORS: dict[int, ErrorType] = {504: "connection_timeout"}


def authorization(credentials: Credentials) -> bytes:
    """The field line for the parent (RFC 7617), b"" without credentials."""
    if credentials is None:
        return b""
    return b"Proxy-Authorization: Basic " + b64encode(":".join(credentials).encode()) + b"\r\n"


def connect_request(host: str, port: int, credentials: Credentials, via: bytes) -> bytes:
    """The head that asks for a tunnel. ``via`` is the value of Via, b"" for none."""
    return connect_to(host, port, own_fields(credentials, via))


def connect_to(host: str, port: int, rest: bytes) -> bytes:
    """The same with :func:`own_fields`."""
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n".encode("ascii") + rest


def own_fields(credentials: Credentials, via: bytes) -> bytes:
    """What is the same for every destination, and the end of the head."""
    said = b"Via: " + via + b"\r\n" if via else b""
    return said + authorization(credentials) + b"\r\n"


async def ask(stream: Stream, host: str, port: int, credentials: Credentials, via: bytes) -> None:
    """Makes the connection to the parent a tunnel. Raises as :func:`hear`."""
    await say(stream, connect_request(host, port, credentials, via))
    await hear(stream)


async def hear(stream: Stream) -> None:
    """Waits until the parent that was asked has said yes. What comes behind its answer is the other
    end's, and stays in the buffer. Refused, Unauthorized, or another Failure."""
    for _ in range(INTERIM):
        response = await _answer(stream)
        if 200 <= response.status < 300:
            return  # fields of a body mean nothing there
        if response.status >= 300 or response.status == 101:
            check(response)
            raise refused(response)
    raise fault("http_protocol_error", "it sends interim responses without an end")


async def _answer(stream: Stream) -> ResponseHead:
    searched = 0
    try:
        while True:
            if len(stream.buffer) > searched:
                end = find_head_end(stream.buffer, searched, response=True)
                if end >= 0:
                    break
                searched = len(stream.buffer)
            await more(stream)
        head = bytes(stream.buffer[:end])
        del stream.buffer[:end]
        return parse_response(head)
    except HeadError as error:
        raise fault("http_protocol_error", f"a malformed answer: {error.detail}") from error


def check(response: ResponseHead) -> None:
    """Unauthorized for a 407: it is for us, and the client must not answer it."""
    if response.status == 407:
        raise Unauthorized("it does not take our credentials, or wants some (407)", 407)


def refused(response: ResponseHead) -> Refused:
    """Why there is no tunnel. What a proxy says in Proxy-Status (RFC 9209) goes on as words."""
    status = response.status
    reason = response.reason.decode("latin-1").strip()
    detail = f"it refuses the tunnel: {status} {reason}".rstrip()
    said = b", ".join(response.values(b"proxy-status")).decode("latin-1")
    if said:
        detail = f"{detail}; {said}"
    error = _ERRORS.get(status, "destination_unavailable")
    shown = status if status in _PASSED_ON else 502
    return Refused(error, detail, shown, why="a parent proxy has refused it", received=status)


def forwarded(head: RequestHead, written: bytes, credentials: Credentials) -> bytes:
    """A head in origin form as the parent is sent it: in absolute form, with our credentials."""
    line, _, rest = written.partition(b"\r\n")
    method, path, version = line.split(b" ")
    target = b"http://" + host_field(head) + (b"" if path == b"*" else path)
    lines = rest[:-2]  # but the empty line
    return b"%b %b %b\r\n%b%b\r\n" % (method, target, version, lines, authorization(credentials))
