"""``/events``: what happens, as it happens (server-sent events, HTML Standard section 9.2).

Only while somebody listens do the workers tell. A listener has a bounded buffer: who stops reading
is cut off, and counted.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from spliceproxy.admin.http import Refusal, Request, Response, Table
from spliceproxy.messages import log

if TYPE_CHECKING:
    from spliceproxy.admin.desk import Desk

_REQUEST = (
    *("id", "status", "seconds", "client", "user", "method", "target", "peer"),
    *("rule", "why", "error", "where", "reason"),
)

FIELDS: Mapping[str, tuple[str, ...]] = {
    "denied": _REQUEST,
    "failed": _REQUEST,
    "killed": ("filters", "killed"),
    "worker": ("what", "index", "pid", "how"),
    "state": ("state",),
    "log-level": ("level", "before"),
    "reload": ("result", "reason", "generation", "who", "warnings", "seconds"),
    "lost": ("events",),
}
"""What each event has beside its ``time``, by its kind. docs/admin.md says what that is."""

KINDS = tuple(FIELDS)
"""What may happen."""

LISTENERS = 16
"""At the same time."""

BUFFER = 1000
"""Events that wait for a listener."""

BEAT_SECONDS = 15.0
"""Between two comments, by which both sides see that the other is there."""

BATCH = 64
"""Events that are sent at once."""


class Events:
    """Of one ``desk``. ``cut`` counts listeners that did not read."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._listeners: set[_Listener] = set()
        self.cut = 0

    def add_to(self, table: Table) -> None:
        table.add("/events", takes=("kinds",), GET=self.events)

    async def events(self, request: Request) -> Response:
        """``kinds``: those wanted, with commas between them."""
        kinds = [kind for kind in request.one("kinds").split(",") if kind]
        for kind in kinds:
            if kind not in KINDS:
                raise Refusal(400, f"kinds: {kind!r}; allowed: {', '.join(KINDS)}")
        if len(self._listeners) >= LISTENERS:
            raise Refusal(503, f"there are {LISTENERS} listeners already")
        return Response(
            body=self._stream(_Listener(frozenset(kinds or KINDS))),
            type="text/event-stream; charset=utf-8",
            endless=True,
            slow=self._cut,
        )

    @property
    def heard(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)

    def publish(self, kind: str, data: Mapping[str, Any]) -> None:
        """Tells all who want to know."""
        event = {"time": round(time.time(), 3), **data}
        for listener in self._listeners:
            if kind in listener.kinds:
                listener.put(kind, event)

    def _cut(self) -> None:
        self.cut += 1
        log.warning("a listener of /events does not read, and was cut off (%d so far)", self.cut)

    async def _stream(self, listener: _Listener) -> AsyncIterator[bytes]:
        self._listeners.add(listener)
        self._desk.listen(on=True)
        try:
            yield b": spliceproxy\n\n"
            while not listener.full:
                yield await listener.next()
            self._cut()
            raise ConnectionAbortedError
        finally:
            self._listeners.discard(listener)
            if not self._listeners:
                self._desk.listen(on=False)


class _Listener:
    def __init__(self, kinds: frozenset[str]) -> None:
        self.kinds = kinds
        self.full = False
        self._waiting: deque[tuple[str, Mapping[str, Any]]] = deque()
        self._more = asyncio.Event()

    def put(self, kind: str, event: Mapping[str, Any]) -> None:
        if len(self._waiting) >= BUFFER:
            self.full = True
        else:
            self._waiting.append((kind, event))
        self._more.set()

    async def next(self) -> bytes:
        """What there is to send; a comment, after a while without anything."""
        if not self._waiting:
            self._more.clear()
            try:
                await asyncio.wait_for(self._more.wait(), BEAT_SECONDS)
            except asyncio.TimeoutError:
                return b": all is quiet\n\n"
        lines: list[str] = []
        while self._waiting and len(lines) < BATCH:
            kind, event = self._waiting.popleft()
            lines.append(f"event: {kind}\ndata: {json.dumps(event)}\n\n")
        return "".join(lines).encode("ascii")
