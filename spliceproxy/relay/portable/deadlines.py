"""When a job must be looked at even if none of its sockets is ready.

A deadline is not moved when bytes move: it fires, and the job sets the next one from the
time of its last byte. So a byte costs nothing and a job has one entry at a time, but for
entries that an earlier deadline or the job's end made stale.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from typing import Protocol


class Timed(Protocol):
    """A job: ``due`` is its deadline, monotonic seconds."""

    ident: int
    due: float


class Deadlines:
    """A heap of (deadline, id); a deadline later than all others is added in O(1)."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []

    def set(self, job: Timed, when: float) -> None:
        """The job's deadline is ``when``; an earlier one is void."""
        job.due = when
        heappush(self._heap, (when, job.ident))

    def next(self, jobs: Mapping[int, Timed]) -> float | None:
        """The first deadline of ``jobs`` (all jobs by id), None if there is none."""
        heap = self._heap
        if len(heap) > 2 * len(jobs) + 64:
            heap[:] = [(job.due, ident) for ident, job in jobs.items()]
            heapify(heap)
        while heap:
            when, ident = heap[0]
            job = jobs.get(ident)
            if job is not None and job.due == when:
                return when
            heappop(heap)
        return None

    def pop(self) -> int:
        """Removes the deadline that :meth:`next` has returned; the id of its job."""
        return heappop(self._heap)[1]
