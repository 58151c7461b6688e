"""What a worker says of its tunnels and of the requests that it serves, and how it ends them.

A part of an answer looks at LOOK flows at most, and each is made at a turn of the event loop of its
own (:mod:`spliceproxy.admin.worker`). So nobody's bytes wait longer than for one part, however many
flows there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from spliceproxy.admin.channel import Message
from spliceproxy.admin.filters import Filter
from spliceproxy.admin.parts import in_parts
from spliceproxy.errors import Killed
from spliceproxy.forward.services import Services
from spliceproxy.forward.tunnel import record_of
from spliceproxy.front.http1 import Connection
from spliceproxy.front.server import Server
from spliceproxy.http1.errors import HeadError
from spliceproxy.http1.target import split_target
from spliceproxy.messages import log
from spliceproxy.observe.native_line import without_query
from spliceproxy.observe.record import Record, ident
from spliceproxy.relay.interface import FlowView

LOOK = 16
"""Flows that are looked at for one part of an answer."""

TEXT = 1024
"""Characters of a text that are shown."""

TAGS = 16
"""Tags that are shown."""

TAGS_MOST = 8 << 10
"""Bytes of JSON that they have at most, so that each flow fits into a part."""

Flow = dict[str, Any]


class Flows:
    """Of the ``worker`` with this number."""

    def __init__(self, services: Services, server: Server, worker: int) -> None:
        self._services = services
        self._server = server
        self._worker = worker
        self._rules: dict[int, str] = {}  # by the column in which it is counted: what has allowed

    # ---- what is asked -----------------------------------------------------------------

    def tunnels(self, question: Message) -> Iterator[Message]:
        """Those that match ``filters``, a few at a time. ValueError."""
        return _packed(self._each(Filter(question.get("filters", {}))))

    def kill(self, question: Message) -> Iterator[Message]:
        """Ends those that match ``filters``, of which there is one at least; says which.
        ValueError."""
        filters = question.get("filters")
        if not filters:
            raise ValueError("without a filter nothing is ended")
        return self._kill(Filter(filters), filters)

    def _kill(self, wanted: Filter, filters: object) -> Iterator[Message]:
        total = 0
        for found in self._each(wanted):
            killed = [flow["id"] for flow, end in found if end()]
            total += len(killed)
            yield {"killed": killed} if killed else {}
        if total:
            what = "1 tunnel or request" if total == 1 else f"{total} tunnels and requests"
            log.info("an operator has ended %s: %s", what, _words(filters))

    # ---- all of them -------------------------------------------------------------------

    def _each(self, wanted: Filter) -> Iterator[list[tuple[Flow, Any]]]:
        """Those that match, each with what ends it."""
        relay = self._services.relay
        for views in relay.flows(LOOK):
            yield [
                (flow, lambda ident=view.ident: relay.kill(ident))
                for view in views
                if wanted.matches(flow := self._of_view(view))
            ]
        found: list[tuple[Flow, Any]] = []
        for number, connection in enumerate(self._server.requests(), 1):
            shown = self._of_connection(connection)
            if shown is not None and wanted.matches(shown):
                found.append((shown, lambda one=connection: _end(one)))
            if number % LOOK == 0:
                yield found
                found = []
        yield found

    def _of_view(self, view: FlowView) -> Flow:
        record = record_of(view.token)
        head = 0
        if record is not None:
            flow = self._of_record(record)
            head = record.bytes_in
        else:
            flow = self._of_texts(view)
        flow.update(
            kind="tunnel" if view.tunnel else "request",
            state=view.phase,
            idle=round(view.rests, 3),
            in_copied=head + view.up_copied,
            in_spliced=view.up_spliced,
            out_copied=view.down_copied,
            out_spliced=view.down_spliced,
            path="spliced" if view.splices else "copied",
            client_rtt_us=view.client_rtt if view.client_rtt >= 0 else None,
            origin_rtt_us=view.origin_rtt if view.origin_rtt >= 0 else None,
        )
        return flow

    def _of_connection(self, connection: Connection) -> Flow | None:
        cycle = connection.request
        if cycle is None:  # it has ended meanwhile
            return None
        record, received, sent = cycle.so_far
        flow = self._of_record(record)
        flow.update(
            kind="request",
            state="served by Python",
            idle=None,
            in_copied=received,
            in_spliced=0,
            out_copied=sent,
            out_spliced=0,
            path="copied",
            client_rtt_us=None,
            origin_rtt_us=None,
        )
        return flow

    def _of_record(self, record: Record) -> Flow:
        return {
            **self._named(record.number, record.started),
            "client": record.client or "unix",
            "via": record.via or None,
            "user": record.user[:TEXT],
            "method": record.method[:TEXT],
            **self._to(record.method, record.target),
            "peer": record.peer,
            "rule": record.rule or record.allowed_by,
            "tags": _shown(record.tags),
            "generation": record.generation,
        }

    def _of_texts(self, view: FlowView) -> Flow:
        return {
            **self._named(view.number, view.started),
            "client": view.client or "unix",
            "via": view.via[1:] or None,  # behind the mark
            "user": view.user,
            "method": view.method[:TEXT],
            **self._to(view.method, view.target),
            "peer": view.peer,
            "rule": self._rule(view.decision),
            "tags": _shown(_tags(view)),
            "generation": view.generation,
        }

    def _rule(self, column: int) -> str:
        allowed = self._services.counts.allowed
        if len(self._rules) + 1 < len(allowed):  # all but that of no rule
            self._rules = {found: rule for rule, found in allowed.items() if rule}
        return self._rules.get(column, "")

    def _named(self, number: int, started: float) -> Flow:
        return {"id": ident(number), "worker": self._worker, "started": started}

    def _to(self, method: str, target: str) -> Flow:
        try:
            _, _, host, port, _ = split_target(method, target)
        except HeadError:
            host, port = "", 0
        if not self._services.config.log_query:
            target = without_query(target)
        return {"target": target[:TEXT], "host": host, "port": port}


def _packed(found: Iterator[list[tuple[Flow, Any]]]) -> Iterator[Message]:
    """Each list as a part, or as several if it is too large for one."""
    for some in found:
        if some:
            yield from in_parts("flows", (flow for flow, _ in some))
        else:
            yield {}  # it was looked for, and others have their turn


def _end(connection: Connection) -> bool:
    if connection.request is None or connection.cause is not None:
        return False
    connection.abort(Killed())
    return True


def _shown(tags: Mapping[str, str]) -> dict[str, str]:
    """Those that there is room for, in their order: an escape in JSON has six bytes."""
    import json

    shown = {}
    room = TAGS_MOST
    for name, value in list(tags.items())[:TAGS]:
        text = str(value)[:TEXT]
        room -= len(json.dumps(name[:TEXT])) + len(json.dumps(text))
        if room < 0:
            break
        shown[name[:TEXT]] = text
    return shown


def _tags(view: FlowView) -> Mapping[str, str]:
    """Of a request of the lane: those of its note, or of its token, if it has either."""
    if view.note:
        import json

        tags: Mapping[str, str] = json.loads(f"{{{view.note}}}").get("tags", {})
        return tags
    return getattr(view.token, "tags", {})


def _words(filters: object) -> str:
    if not isinstance(filters, dict):
        return ""
    return ", ".join(f"{name}={value}" for name, values in filters.items() for value in values)
