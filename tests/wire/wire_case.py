"""What a case of the wire suite is made of: steps of peers, exact bytes, shorthands.

Text stands for bytes with every "\\n" sent as CRLF; ``bytes`` are sent as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from spliceproxy.errors import Failure
from spliceproxy.site.pages import HOW_TO_CONFIGURE

Text = str | bytes

_HEAD_END = re.compile(rb"\n\r?\n").search

DATE = "Date: Tue, 15 Nov 1994 08:12:31 GMT"
"""The origin's."""

OUR_DATE = "Date: Sun, 06 Nov 1994 08:49:37 GMT"
"""What the proxy's clock says."""

VIA = "Via: 1.1 spliceproxy"

ASK = "GET http://o/ HTTP/1.1\nHost: o\n\n"
ASKED = f"GET / HTTP/1.1\nHost: o\n{VIA}\n\n"
"""A plain request, and what the origin gets of it."""

OK = f"HTTP/1.1 200 OK\n{DATE}\nContent-Length: 2\n\nok"
OK_GOT = f"HTTP/1.1 200 OK\n{DATE}\nContent-Length: 2\n{VIA}\n\nok"
OK_LAST = f"HTTP/1.1 200 OK\n{DATE}\nContent-Length: 2\nConnection: close\n{VIA}\n\nok"
"""A plain response; what the client gets of it; the same where its connection ends."""

HEAD = f"HTTP/1.1 200 OK\n{DATE}\n"
"""The beginning of a response."""

ASK_10 = ASK.replace("HTTP/1.1", "HTTP/1.0")
ASKED_10 = ASKED.replace("Via: 1.1", "Via: 1.0")

POST = "POST http://o/ HTTP/1.1\nHost: o\n"
POSTED = "POST / HTTP/1.1\nHost: o\n"
"""The beginning of a request with a body, and of what the origin gets of it."""

BIG = bytes(range(256)) * 1024
"""256 KiB: more than a buffer, so that the relay has a part."""

PROBE = "OPTIONS * HTTP/1.1\nHost: p\n\n"
PROBED = (
    f"HTTP/1.1 200 OK\n{OUR_DATE}\n"
    "Allow: GET, HEAD, POST, PUT, DELETE, PATCH, CONNECT, OPTIONS, TRACE\n"
    "Content-Length: 0\n\n"
)
"""A request that the proxy answers by itself: the connection is open, and in step."""

ESTABLISHED = "HTTP/1.1 200 Connection established\n\n"


def wire(text: Text) -> bytes:
    """The bytes that a text stands for."""
    return text if isinstance(text, bytes) else text.replace("\n", "\r\n").encode("latin-1")


class Step(NamedTuple):
    """``peer`` is c, c2, ... (clients) or o, o2, ... (connections to origins, in the order
    in which the proxy made them); ``verb`` is a method of ``wire_rig.Run``."""

    peer: str
    verb: str
    data: Any = None


class Peer:
    """Makes the steps of one peer."""

    def __init__(self, name: str) -> None:
        self._name = name

    def sends(self, text: Text) -> Step:
        """In one segment, if it is not cut."""
        return Step(self._name, "sends", wire(text))

    def sends_late(self, text: Text) -> Step:
        """In the moment in which the proxy next takes a connection out of the pool."""
        return Step(self._name, "sends_late", wire(text))

    def gets(self, text: Text) -> Step:
        """Exactly these bytes next; what follows is the next step's affair."""
        return Step(self._name, "gets", wire(text))

    def gets_chunked(self, head: Text, payload: bytes, trailers: Text = "") -> Step:
        """A head, and ``payload`` in chunks of whatever size."""
        return Step(self._name, "gets_chunked", (wire(head), payload, wire(trailers)))

    def ends(self) -> Step:
        """Sends FIN, and can still receive."""
        return Step(self._name, "ends")

    def resets(self) -> Step:
        """Sends RST. Only where the proxy has read all that was sent before."""
        return Step(self._name, "resets")

    def sees_fin(self) -> Step:
        """The proxy has ended the connection in order, with nothing before that."""
        return Step(self._name, "sees_fin")

    def sees_reset(self) -> Step:
        """The proxy has reset the connection, with nothing before that."""
        return Step(self._name, "sees_reset")

    def closed(self) -> Step:
        """FIN or RST, with nothing before that: how a connection to an origin is given up."""
        return Step(self._name, "closed")

    def probed(self) -> Step:
        """The client's connection is open and the next answer is to the next request."""
        return Step(self._name, "probed")

    def waits(self) -> Step:
        """The limit of the time that the proxy waits for this peer's next byte passes."""
        return Step(self._name, "waits")

    def dialled(self) -> Step:
        """The proxy has begun to connect (for ``dial="waits"``)."""
        return Step(self._name, "dialled")

    def consumed(self) -> Step:
        """The proxy has read everything that the peer has sent."""
        return Step(self._name, "consumed")


C, C2 = Peer("c"), Peer("c2")
O, O2, O3 = Peer("o"), Peer("o2"), Peer("o3")  # noqa: E741

Log = tuple[int, str, str]
"""Of a record: status, error, reason."""

FINE: Log = (200, "", "")


@dataclass(frozen=True)
class Case:
    """One conversation. After ``steps`` each client that has not seen its connection's end
    is probed, each origin's connection that has not ended must be in the pool, and no
    byte, task or descriptor may be left."""

    name: str
    source: str  # the section that says so; "design" for a choice of this proxy
    steps: Sequence[Step]
    log: Sequence[Log] | None = None  # in order; None: not looked at
    dials: Sequence[tuple[str, int]] | None = None  # in order; None: not looked at
    config: dict[str, Any] = field(default_factory=dict)
    dial: Failure | str = ""  # how dialling fails; "waits": it never ends
    own: Sequence[tuple[str, int]] = ()  # addresses that the proxy listens on
    refuse: bool = False
    draining: bool = False
    everywhere: bool = False  # the outcome is the same where what follows the head is cut

    def first(self, peer: str) -> bytes:
        """What a peer sends first, b"" if nothing."""
        return next((s.data for s in self.steps if s.peer == peer and s.verb == "sends"), b"")

    def cut_size(self, peer: str) -> int:
        """Bytes of the first head that a peer sends, of all it sends where none ends or the
        case may be cut everywhere."""
        return self._head_size(peer) or len(self.first(peer))

    def is_cut_in_head(self, peer: str) -> bool:
        """Whether what is cut (``cut_size``) is a head with its end."""
        return self._head_size(peer) > 0

    def _head_size(self, peer: str) -> int:
        end = None if self.everywhere else _HEAD_END(self.first(peer))
        return 0 if end is None else end.end()


def page(
    status: int,
    phrase: str,
    error: str,
    detail: str,
    *,
    close: bool = True,
    body: bool = True,
    extra: str = "",
    why: str | None = None,
) -> bytes:
    """An error page of the proxy's (RFC 9209 Proxy-Status). ``why`` goes into the reason phrase,
    by default what WHY has for the detail or the error."""
    if why is None:
        known = WHY.get(detail) or WHY[error]
        why = known if status not in (414, 431, 501, 505) else ""
    shown = f"{phrase}: {why}" if why else phrase
    text = f"{status} {phrase}\n{detail}\n".encode()
    quoted = detail.partition("\n")[0].replace("\\", "\\\\").replace('"', '\\"')
    head = (
        f"HTTP/1.1 {status} {shown}\n{OUR_DATE}\nContent-Type: text/plain; charset=utf-8\n"
        f"Content-Length: {len(text)}\nCache-Control: no-store\n"
        f'Proxy-Status: spliceproxy; error={error}; details="{quoted}"\n{extra}'
        f"{'Connection: close' if close else ''}"
    )
    return wire(head.rstrip("\n") + "\n\n") + (text if body else b"")


WHY = {
    "connection_limit_reached": "too many connections",
    "connection_read_timeout": "the body stalled",
    "connection_refused": "connection refused",
    "connection_terminated": "connection closed without an answer",
    "connection_timeout": "no connection within 9 s",
    "connection_write_timeout": "request not taken within 3600 s",
    "destination_ip_prohibited": "connection not permitted",
    "destination_ip_unroutable": "no route to the server",
    "destination_not_found": "server not found",
    "destination_unavailable": "no connection",
    "dns_error": "name not found",
    "dns_timeout": "no DNS answer within 4 s",
    "http_protocol_error": "malformed answer",
    "http_request_error": "malformed request",
    "http_response_header_size": "head of the answer too large",
    "http_response_incomplete": "answer cut short",
    "http_response_timeout": "no answer within 3600 s",
    "http_response_transfer_coding": "unknown transfer coding",
    "http_upgrade_failed": "unexpected switch of protocols",
    "proxy_internal_error": "the proxy has failed",
    "proxy_loop_detected": "request leads back to this proxy",
    HOW_TO_CONFIGURE: "this is a proxy",
    "cannot forward https: use CONNECT for it": "use CONNECT for https",
    "no request head within the time limit": "no request within 30 s",
    "the origin reset the connection": "connection reset",
}

PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
    501: "Not Implemented",
    502: "Bad Gateway",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}


def forward(
    name: str,
    source: str,
    sent: Text,
    received: Text,
    *,
    got: Text = OK_GOT,
    last: bool = False,
    **more: Any,
) -> Case:
    """A request that is passed on; ``last``: the client's connection ends behind it."""
    end = [C.gets(OK_LAST), C.sees_fin()] if last else [C.gets(got)]
    more.setdefault("log", [FINE])
    return Case(name, source, [C.sends(sent), O.gets(received), O.sends(OK), *end], **more)


def reject(
    name: str,
    source: str,
    sent: Text,
    detail: str,
    *,
    status: int = 400,
    error: str = "http_request_error",
    keep: bool = False,
    **more: Any,
) -> Case:
    """A request that the proxy answers with an error, and that no origin gets."""
    answer = page(status, PHRASES[status], error, detail, close=not keep)
    end = [] if keep else [C.sees_fin()]
    steps = [C.sends(sent), C.gets(answer), *end]
    return Case(name, source, steps, log=[(status, error, "")], dials=[], **more)


def respond(
    name: str,
    source: str,
    sent: Text,
    got: Text,
    *after: Step,
    ask: Text = ASK,
    asked: Text = ASKED,
    **more: Any,
) -> Case:
    """A response that is passed on; ``after`` says what becomes of the connections."""
    steps = [C.sends(ask), O.gets(asked), O.sends(sent), C.gets(got), *after]
    return Case(name, source, steps, **more)


def bad_response(
    name: str,
    source: str,
    sent: Text,
    detail: str,
    *,
    error: str = "http_protocol_error",
    status: int = 502,
    **more: Any,
) -> Case:
    """A response that is not passed on: 502, and the client's connection goes on."""
    answer = page(status, PHRASES[status], error, detail, close=False)
    steps = [C.sends(ASK), O.gets(ASKED), O.sends(sent), C.gets(answer), O.closed()]
    return Case(name, source, steps, log=[(status, error, "")], **more)


def unique(cases: Sequence[Case]) -> Iterator[Case]:
    """The cases, if each has a name of its own."""
    seen: set[str] = set()
    for case in cases:
        if case.name in seen:
            raise ValueError(f"two cases are called {case.name}")
        seen.add(case.name)
        yield case
