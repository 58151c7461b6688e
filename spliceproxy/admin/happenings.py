"""What a worker tells of requests while an operator listens: those that it has denied, and those
that have failed.

Both get their answer from Python, also where the lane has read them. What the lane serves to its
end is not told.
"""

from __future__ import annotations

from typing import Any

from spliceproxy.admin.worker import EVENT_TEXT, Replies
from spliceproxy.observe.record import Record
from spliceproxy.observe.records import Records


def tell(records: Records, replies: Replies) -> None:
    """Tells of ``records`` by ``replies``, while somebody listens."""

    def see(record: Record) -> None:
        if record.rule or record.error:
            replies.tell(event(record))

    def listened(wanted: bool) -> None:
        records.listener = see if wanted else None

    replies.listened.append(listened)


def event(record: Record) -> dict[str, Any]:
    """A record as an event."""
    texts = {
        "client": record.client or "unix",
        "user": record.user,
        "method": record.method,
        "target": record.target,
        "peer": record.peer,
        "rule": record.rule,
        "why": record.why,
        "error": record.error,
        "where": record.failed,
        "reason": record.reason,
    }
    return {
        "kind": "denied" if record.rule else "failed",
        "id": record.id,
        "status": record.status,
        "seconds": round(record.seconds, 6),
        **{name: text[:EVENT_TEXT] for name, text in texts.items()},
    }
