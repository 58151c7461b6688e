"""What a worker tells of requests while an operator listens: those that it has denied, and those
that it has answered with an error.

Both get their answer from Python, also where the lane has read them. What the lane serves to its
end is not told, nor is what was cut short behind an answer's head: the list of failures has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spliceproxy.admin.worker import EVENT_TEXT, Replies
from spliceproxy.observe.native_line import without_query
from spliceproxy.observe.outcome import outcome
from spliceproxy.observe.record import Record
from spliceproxy.observe.records import Records


def tell(records: Records, replies: Replies, query: Callable[[], bool]) -> None:
    """Tells of ``records`` by ``replies``, while somebody listens. Not ``query()``: of a target's
    query its question mark alone is told."""

    def see(record: Record) -> None:
        if record.error:
            replies.tell(event(record, query=query()))

    def listened(wanted: bool) -> None:
        records.listener = see if wanted else None

    replies.listened.append(listened)


def event(record: Record, *, query: bool = True) -> dict[str, Any]:
    """A record as an event."""
    target, why = record.target, record.why or record.detail
    if not query:
        target = without_query(target)
        why = record.why or record.error  # the other may quote it
    texts = {
        "client": record.client or "unix",
        "user": record.user,
        "method": record.method,
        "target": target,
        "peer": record.peer,
        "rule": record.rule,
        "why": why,
        "error": record.error,
        "where": record.failed,
        "reason": record.reason,
    }
    return {
        "kind": outcome(record),
        "id": record.id,
        "status": record.status,
        "seconds": round(record.seconds, 6),
        **{name: text[:EVENT_TEXT] for name, text in texts.items()},
    }
