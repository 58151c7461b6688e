"""What became of a request or a tunnel: successful, failed, denied or aborted.

Everything that counts or lists failures takes it from here: the numbers, the list of what has
failed, the events. docs/monitoring.md has it as a table. What the proxy has answered with an error
is what that error is. For the rest it is who has ended it (:mod:`spliceproxy.observe.termination`);
the lane finds the same by ``is_failure`` of native/lane/sums.pxd.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from spliceproxy.errors import STATUS, ErrorType
from spliceproxy.relay import interface
from spliceproxy.relay.columns import ENDED_BY

if TYPE_CHECKING:
    from spliceproxy.observe.record import Record

SUCCESSFUL = "successful"
FAILED = "failed"
DENIED = "denied"
ABORTED = "aborted"  # by its client, by an operator, or when the proxy was stopped
OUTCOMES = (SUCCESSFUL, FAILED, DENIED, ABORTED)

DENIALS: frozenset[ErrorType] = frozenset({"http_request_denied", "destination_ip_prohibited"})
"""Errors that are a decision, and no failure."""

OF_ERRORS: Mapping[str, str] = {error: DENIED if error in DENIALS else FAILED for error in STATUS}

OF_LETTERS: Mapping[str, str] = {
    "-": SUCCESSFUL,
    "C": ABORTED,
    "K": ABORTED,
    "D": ABORTED,
    "L": ABORTED,
    "S": FAILED,
    "s": FAILED,
    "c": FAILED,
    "P": FAILED,
}
"""By the first letter of the termination, where there is no error."""

OF_CUTS: Mapping[str, str] = {by: OF_LETTERS[letter] for letter, by in ENDED_BY.items()}
"""The same by the words of the column."""

OF_TUNNELS: Mapping[str, str] = {
    interface.DONE: SUCCESSFUL,
    interface.CLIENT_RESET: ABORTED,
    interface.KILLED: ABORTED,
    interface.ABORTED: ABORTED,  # the proxy was stopped
    interface.POLICY: ABORTED,  # other settings do not allow it
    interface.TLS_NAME: DENIED,
    interface.LIMIT: ABORTED,
    interface.ORIGIN_RESET: FAILED,
    interface.IDLE: FAILED,
    interface.HALF_CLOSE: FAILED,
}
"""By the relay's reason. The others are of transfers, which are no tunnels."""


def outcome(record: Record) -> str:
    """Of a record that has ended: one of OUTCOMES."""
    if record.error:
        return OF_ERRORS[record.error]
    if record.reason == interface.POLICY:
        return ABORTED
    return OF_LETTERS[record.termination[0]]
