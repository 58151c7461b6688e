"""How a request or tunnel has ended, in two letters after HAProxy's: who has ended it, and where it
was. docs/log.md has them as a table. The lane finds the same by native/lane/facts.pxd.
"""

from __future__ import annotations

from collections.abc import Mapping

from spliceproxy.errors import ErrorType
from spliceproxy.relay import interface

NORMAL = "--"

# Who.
CLIENT = "C"
ORIGIN = "S"
CLIENT_LIMIT = "c"  # a time limit, for the client did nothing
ORIGIN_LIMIT = "s"
POLICY = "P"  # the policy, another limit, or a fault of the proxy's own
KILLED = "K"
LIMITED = "L"
DRAINED = "D"

# Where.
HEAD = "R"  # the request's head
QUESTION = "Q"  # may it go there, and what are the addresses
CONNECT = "C"
ANSWER = "H"  # waiting for the head of the answer, while the body of the request is sent
DATA = "D"  # the answer, or the tunnel

_OF_ERRORS: Mapping[ErrorType, str] = {
    "http_request_error": POLICY,
    "http_request_denied": POLICY,
    "destination_ip_prohibited": POLICY,
    "connection_limit_reached": POLICY,
    "proxy_loop_detected": POLICY,
    "proxy_internal_error": POLICY,
    "proxy_internal_response": POLICY,
    "dns_timeout": ORIGIN_LIMIT,
    "connection_timeout": ORIGIN_LIMIT,
    "http_response_timeout": ORIGIN_LIMIT,
    "connection_write_timeout": ORIGIN_LIMIT,
    "connection_read_timeout": CLIENT_LIMIT,
}
"""The others are the origin's."""

_OF_REASONS = {
    "": "",
    interface.DONE: "",
    interface.CLIENT_RESET: CLIENT,
    interface.ORIGIN_RESET: ORIGIN,
    interface.SOURCE_EOF: ORIGIN,
    interface.SOURCE_ERROR: ORIGIN,
    interface.TARGET_ERROR: CLIENT,
    interface.IDLE: ORIGIN_LIMIT,
    interface.TARGET_IDLE: CLIENT_LIMIT,
    interface.HALF_CLOSE: CLIENT_LIMIT,
    interface.ABORTED: POLICY,
    interface.KILLED: KILLED,
    interface.POLICY: POLICY,
    interface.TLS_NAME: POLICY,
    interface.LIMIT: LIMITED,
}
"""Where the record does not say it: ``by`` is set where a reason alone could be either's."""


def letters(by: str, stage: str, error: ErrorType | str, reason: str) -> str:
    """``by`` is who has ended it, "" for whom the ``error`` or the ``reason`` is about. Whatever
    came first counts: an error is what a request was answered with, or cut short for."""
    if not by and error:
        by = _OF_ERRORS.get(error, ORIGIN)  # type: ignore[call-overload]
    if not by:
        by = _OF_REASONS[reason]
    return by + stage if by else NORMAL
