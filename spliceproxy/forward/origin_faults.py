"""Says why an origin's answer is refused or cut short, once a minute for each kind and origin.

The client is told in the answer, if none has begun; whoever runs the proxy looks here.
"""

from __future__ import annotations

import logging

from spliceproxy.errors import ErrorType, Failure
from spliceproxy.forward.body import SourceFailed
from spliceproxy.http1.errors import HeadError
from spliceproxy.observe.record import Record
from spliceproxy.relay.interface import IDLE, SOURCE_EOF, SOURCE_ERROR
from spliceproxy.seldom import Seldom

_CUT = {
    SOURCE_EOF: "the origin closed the connection before the end of the body",
    SOURCE_ERROR: "the origin reset the connection before the end of the body",
    IDLE: "the body stalled",
}

_OF_ANSWERS: frozenset[ErrorType] = frozenset(
    {"connection_terminated", "http_response_incomplete", "http_upgrade_failed"}
)
"""Faults (RFC 9209) that are an origin's, of those which are not its head's or its body's."""


def tell(answers: Seldom, record: Record, error: Exception, *, begun: bool) -> None:
    """``error`` is what came of the request of ``record``; ``begun``: the client has a part of
    the answer. What is no fault of the answer is not told."""
    if isinstance(error, HeadError) or (isinstance(error, Failure) and error.error in _OF_ANSWERS):
        why = error.detail
    elif isinstance(error, SourceFailed):
        why = _CUT.get(error.reason, error.reason)
    else:
        return
    answers.say(
        (why.partition(":")[0], record.host, record.port),
        logging.INFO,
        "an answer of %s (%s) was %s: %s",
        record.destination,
        record.peer,
        "cut short" if begun else "refused",
        why,
    )
