"""The two letters of an end: each error and each reason has one."""

from __future__ import annotations

from typing import get_args

import pytest

from spliceproxy.errors import ErrorType
from spliceproxy.observe.record import Record
from spliceproxy.observe.termination import letters
from spliceproxy.relay import interface

OF_ERRORS = {
    "P": {
        "http_request_error", "http_request_denied", "destination_ip_prohibited",
        "connection_limit_reached", "proxy_loop_detected", "proxy_internal_error",
        "proxy_internal_response",
    },
    "s": {
        "dns_timeout", "connection_timeout", "http_response_timeout", "connection_write_timeout",
    },
    "c": {"connection_read_timeout"},
    "S": {
        "dns_error", "destination_not_found", "destination_unavailable",
        "destination_ip_unroutable", "connection_refused", "connection_terminated",
        "http_response_incomplete", "http_protocol_error", "http_response_header_size",
        "http_response_transfer_coding", "http_upgrade_failed",
    },
}  # fmt: skip


@pytest.mark.parametrize("error", get_args(ErrorType))
def test_an_error_has_a_letter(error: ErrorType) -> None:
    (letter,) = [letter for letter, errors in OF_ERRORS.items() if error in errors]
    assert letters("", "Q", error, "") == letter + "Q"
    assert letters("", "H", error, interface.CLIENT_RESET) == letter + "H"  # it came first


@pytest.mark.parametrize("reason", interface.REASONS)
def test_a_reason_has_a_letter(reason: str) -> None:
    found = letters("", "D", "", reason)
    assert found == "--" if reason in ("", interface.DONE) else found[1] == "D"


def test_what_is_known_better_counts() -> None:
    assert letters("c", "D", "", interface.IDLE) == "cD"
    assert letters("D", "H", "", interface.ABORTED) == "DH"


def test_a_file_that_a_client_does_not_take() -> None:
    record = Record("192.0.2.1")
    record.stage, record.error = "D", "connection_write_timeout"
    assert record.termination == "cD"
    record.peer = "192.0.2.2"
    assert record.termination == "sD"
