"""When a flow must be looked at even if none of its sockets is ready.

A deadline is not moved when bytes move: it fires, and the flow sets the next one from the
time of its last byte. So a byte costs nothing and a flow has one entry at a time, but for
entries that an earlier deadline or the flow's end made stale.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from typing import Protocol


class Timed(Protocol):
    """A flow: ``due`` is its deadline, monotonic seconds."""

    ident: int
    due: float


class Deadlines:
    """A heap of (deadline, id); a deadline later than all others is added in O(1)."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []

    def set(self, flow: Timed, when: float) -> None:
        """The flow's deadline is ``when``; an earlier one is void."""
        flow.due = when
        heappush(self._heap, (when, flow.ident))

    def next(self, flows: Mapping[int, Timed]) -> float | None:
        """The first deadline of ``flows`` (all of them by id), None if there is none."""
        heap = self._heap
        if len(heap) > 2 * len(flows) + 64:
            heap[:] = [(flow.due, ident) for ident, flow in flows.items()]
            heapify(heap)
        while heap:
            when, ident = heap[0]
            flow = flows.get(ident)
            if flow is not None and flow.due == when:
                return when
            heappop(heap)
        return None

    def pop(self) -> int:
        """Removes the deadline that :meth:`next` has returned; the id of its flow."""
        return heappop(self._heap)[1]
