"""What a SOCKS client is told: RFC 1928 sections 3 and 6, RFC 1929 section 2, and SOCKS.txt.

Each reply has a valid address, though it says nothing: clients fail at one that is missing. It is
0.0.0.0:0, also in the one that says yes. No client of CONNECT needs to know from where the proxy
has connected.
"""

from __future__ import annotations

from collections.abc import Mapping

from spliceproxy.errors import ErrorType
from spliceproxy.socks.reading import V4

GENERAL = 1
NOT_ALLOWED = 2
NETWORK_UNREACHABLE = 3
HOST_UNREACHABLE = 4
REFUSED = 5
TIMED_OUT = 6  # "TTL expired": the only code that speaks of time
NO_COMMAND = 7
NO_ADDRESS_TYPE = 8

REPLIES: Mapping[ErrorType, int] = {
    "dns_timeout": TIMED_OUT,
    "dns_error": HOST_UNREACHABLE,
    "destination_not_found": HOST_UNREACHABLE,
    "destination_unavailable": HOST_UNREACHABLE,
    "destination_ip_prohibited": NOT_ALLOWED,
    "destination_ip_unroutable": NETWORK_UNREACHABLE,
    "connection_refused": REFUSED,
    "connection_terminated": GENERAL,
    "connection_timeout": TIMED_OUT,
    "connection_read_timeout": TIMED_OUT,
    "connection_write_timeout": TIMED_OUT,
    "connection_limit_reached": GENERAL,
    "http_response_incomplete": GENERAL,
    "http_protocol_error": GENERAL,
    "http_response_timeout": TIMED_OUT,
    "http_response_header_size": GENERAL,
    "http_response_transfer_coding": GENERAL,
    "http_upgrade_failed": GENERAL,
    "http_request_error": GENERAL,
    "http_request_denied": NOT_ALLOWED,
    "proxy_internal_response": GENERAL,
    "proxy_internal_error": GENERAL,
    "proxy_loop_detected": NOT_ALLOWED,
}
"""By the Proxy Error Type (RFC 9209 section 2.3) that the log has."""

RIGHT = b"\x01\x00"  # the password
WRONG = b"\x01\x01"

_GRANTED_4 = 90
_REFUSED_4 = 91  # SOCKS4 has no code for what has failed


def method(number: int) -> bytes:
    """The choice of a method: ``NO_METHOD`` ends the connection."""
    return bytes((5, number))


def granted(version: int) -> bytes:
    """The tunnel is there."""
    return _reply_4(_GRANTED_4) if version == V4 else _reply_5(0)


def refused(version: int, code: int) -> bytes:
    """It is not, for this reason."""
    return _reply_4(_REFUSED_4) if version == V4 else _reply_5(code)


def _reply_5(code: int) -> bytes:
    return bytes((5, code, 0, 1)) + bytes(6)


def _reply_4(code: int) -> bytes:
    return bytes((0, code)) + bytes(6)
