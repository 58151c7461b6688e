"""What can go wrong with a request: one exception, and the status each fault maps to.

The ``error`` names are the Proxy Error Types of RFC 9209 section 2.3; statuses follow
its recommendations where spliceproxy has no reason to differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from errno import EMFILE, ENFILE, ENOBUFS, ENOMEM
from typing import Literal, Protocol

EXHAUSTED = frozenset({EMFILE, ENFILE, ENOBUFS, ENOMEM})
"""Errors of a process or machine that has no descriptors or no memory left."""

ErrorType = Literal[
    "dns_timeout",
    "dns_error",
    "destination_not_found",
    "destination_unavailable",
    "destination_ip_prohibited",
    "destination_ip_unroutable",
    "connection_refused",
    "connection_terminated",
    "connection_timeout",
    "connection_read_timeout",
    "connection_write_timeout",
    "connection_limit_reached",
    "http_response_incomplete",
    "http_protocol_error",
    "http_response_timeout",
    "http_response_header_size",
    "http_response_transfer_coding",
    "http_upgrade_failed",
    "http_request_error",
    "http_request_denied",
    "proxy_internal_response",
    "proxy_internal_error",
    "proxy_loop_detected",
]
"""The Proxy Error Types (RFC 9209 section 2.3) by which this proxy names a fault."""

STATUS: Mapping[ErrorType, int] = {
    "dns_timeout": 504,
    "dns_error": 502,
    "destination_not_found": 500,
    "destination_unavailable": 503,
    "destination_ip_prohibited": 403,
    "destination_ip_unroutable": 502,
    "connection_refused": 502,
    "connection_terminated": 502,
    "connection_timeout": 504,
    "connection_read_timeout": 504,
    "connection_write_timeout": 504,
    "connection_limit_reached": 503,
    "http_response_incomplete": 502,
    "http_protocol_error": 502,
    "http_response_timeout": 504,
    "http_response_header_size": 502,
    "http_response_transfer_coding": 502,
    "http_upgrade_failed": 502,
    "http_request_error": 400,
    "http_request_denied": 403,
    "proxy_internal_response": 503,
    "proxy_internal_error": 500,
    "proxy_loop_detected": 502,
}

WHY: Mapping[ErrorType, str] = {
    "dns_timeout": "no DNS answer within {lookup:g} s",
    "dns_error": "name not found",
    "destination_not_found": "server not found",
    "destination_unavailable": "no connection",
    "destination_ip_prohibited": "connection not permitted",
    "destination_ip_unroutable": "no route to the server",
    "connection_refused": "connection refused",
    "connection_terminated": "connection closed without an answer",
    "connection_timeout": "no connection within {dial:g} s",
    "connection_read_timeout": "no request within {head:g} s",
    "connection_write_timeout": "request not taken within {idle:g} s",
    "connection_limit_reached": "too many connections",
    "http_response_incomplete": "answer cut short",
    "http_protocol_error": "malformed answer",
    "http_response_timeout": "no answer within {idle:g} s",
    "http_response_header_size": "head of the answer too large",
    "http_response_transfer_coding": "unknown transfer coding",
    "http_upgrade_failed": "unexpected switch of protocols",
    "http_request_error": "malformed request",
    "http_request_denied": "denied",
    "proxy_internal_response": "the proxy has failed",
    "proxy_internal_error": "the proxy has failed",
    "proxy_loop_detected": "request leads back to this proxy",
}
"""What the reason phrase says for each error. Half of all clients show that phrase and nothing
else of an answer. So it must be short, and hold nothing that comes from a client or an origin."""


class Seconds(Protocol):
    """The limits that WHY names (``config.Timeouts``)."""

    @property
    def head(self) -> float: ...
    @property
    def dial(self) -> float: ...
    @property
    def lookup(self) -> float: ...
    @property
    def idle(self) -> float: ...


def reasons(limits: Seconds) -> Mapping[ErrorType, str]:
    """WHY with its numbers."""
    numbers = {name: getattr(limits, name) for name in ("head", "dial", "lookup", "idle")}
    return {error: text.format(**numbers) for error, text in WHY.items()}


NOTHING_LEFT = "no descriptors or memory left"
"""The reason phrase if it is the proxy's machine that has nothing left."""


class Failure(Exception):
    """A request that the proxy answers itself.

    ``error`` is the RFC 9209 type. ``detail`` is one short line for the client, without secrets;
    it may hold text from the request, so whoever writes it must escape it. ``status`` is the
    answer's, by default the one that the type maps to. ``why`` is for the reason phrase, instead
    of what WHY says for the type; it must be a constant. ``where`` is the ``address:port`` that
    has failed, for the log. ``next_hop`` is the name of the parent that it is about, and
    ``received`` the status of its answer, 0 for none (``next-hop`` and ``received-status`` of RFC
    9209).
    """

    def __init__(
        self,
        error: ErrorType,
        detail: str,
        status: int = 0,
        *,
        why: str = "",
        where: str = "",
        next_hop: str = "",
        received: int = 0,
    ) -> None:
        super().__init__(detail)
        self.error = error
        self.detail = detail
        self.status = status or STATUS[error]
        self.why = why
        self.where = where
        self.next_hop = next_hop
        self.received = received


class Denied(Failure):
    """A request that the policy does not allow. ``rule`` is the id to ask about, "" if there is
    none, and ``kind`` says of what. ``reason`` and ``advice`` are a sentence each, for a person.
    ``words`` are those that the settings give for this rule: they stand in for both, and go
    wherever the id goes. ``found`` is what was found of the name inside TLS (``relay.checking``),
    "" where that was not looked for. ``fields`` are the answer's further field lines, without
    CRLF."""

    kind = "rule"
    fields: tuple[bytes, ...] = ()

    def __init__(
        self,
        reason: str,
        rule: str = "",
        status: int = 403,
        *,
        advice: str = "If you need it, ask the administrator of this proxy.",
        error: ErrorType = "http_request_denied",
        words: str = "",
        found: str = "",
    ) -> None:
        detail = f"{self.kind} {rule}" if rule else reason
        super().__init__(error, f"{detail}: {words}" if words else detail, status)
        self.rule = rule
        self.reason = words or reason
        self.advice = "" if words else advice
        self.words = words
        self.found = found


def internal(error: Exception) -> Failure:
    """The answer to a request that was ended by a fault of our own, of whatever kind. The client
    is told nothing about the fault."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in EXHAUSTED):
        detail = "the proxy has no descriptors or memory left"
        return Failure("proxy_internal_error", detail, 503, why=NOTHING_LEFT)
    return Failure("proxy_internal_error", "the proxy has failed")


class PeerGone(Exception):
    """The other end of ``stream`` broke the connection. That is no fault of ours, nor of any
    other connection. ``errno`` is what its socket said. Every other OSError is our own fault."""

    def __init__(self, stream: object, errno: int) -> None:
        super().__init__(errno)
        self.stream = stream
        self.errno = errno


class ClientGone(Exception):
    """The client ended or broke its connection: there is nobody to answer. ``reason`` is
    for the log, one of the relay interface's reasons."""

    def __init__(self, reason: str = "client-reset") -> None:
        super().__init__(reason)
        self.reason = reason


class Killed(ClientGone):
    """An operator has ended the request. The client is there, and learns that it is cut short."""

    def __init__(self) -> None:
        super().__init__("killed")
