"""The answer to a request that failed before it went anywhere, and what its record says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from spliceproxy.errors import Denied, ErrorType, Failure
from spliceproxy.http1.errors import HeadError
from spliceproxy.observe.counts import Counts
from spliceproxy.observe.record import Record
from spliceproxy.policy.auth import Unauthenticated
from spliceproxy.site.pages import Denial, error_page


class Head(Protocol):
    """What the form of an answer depends on."""

    @property
    def method(self) -> str: ...
    def values(self, name: bytes) -> Sequence[bytes]: ...


def challenge(error: Failure | HeadError) -> tuple[bytes, ...]:
    """The field lines that ask for a password; none where the error is another."""
    return error.fields if isinstance(error, Unauthenticated) else ()


def note_refusal(record: Record, error: Failure | HeadError, counts: Counts) -> None:
    """The request is answered with this."""
    record.status = error.status
    record.decision = counts.refusal(error) or record.decision
    record.blame(error.error, error.where if isinstance(error, Failure) else "")
    if isinstance(error, Denied):
        record.rule, record.why, record.words = error.rule, error.reason, error.words
        record.tls_name = error.found
    else:
        record.detail = error.detail


def refusal(
    error: Failure | HeadError,
    head: Head | None,
    reasons: Mapping[ErrorType, str],
    *,
    minor: int,
    close: bool,
    date: bytes,
) -> bytes:
    """The whole answer. ``head`` is None where the request had none; ``reasons`` are those of
    :func:`spliceproxy.errors.reasons`, and the rest as of :func:`site.pages.error_page`."""
    return error_page(
        error.status,
        error.error,
        error.detail,
        minor=minor,
        close=close,
        head_only=head is not None and head.method == "HEAD",
        date=date,
        extra=error.fields if isinstance(error, Denied) else challenge(error),
        denial=_denial(head, error) if isinstance(error, Denied) else None,
        why=_why(error, reasons),
        next_hop=error.next_hop if isinstance(error, Failure) else "",
        received=error.received if isinstance(error, Failure) else 0,
    )


def _why(error: Failure | HeadError, reasons: Mapping[ErrorType, str]) -> str:
    """For the reason phrase. The statuses of most bad heads say it by themselves."""
    if isinstance(error, Failure):
        return error.why or reasons[error.error]
    return reasons[error.error] if error.status in (400, 502) else ""


def _denial(head: Head | None, denied: Denied) -> Denial:
    """The page for a denial in the form that the client prefers."""
    accept = head.values(b"accept") if head is not None else []
    told = denied.rule, denied.reason, denied.advice, accept, denied.words, denied.kind
    return Denial(*told)
