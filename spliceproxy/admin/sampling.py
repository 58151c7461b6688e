"""What the board said every few seconds of the last hour: rates, latencies, and the history that
the page draws."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from spliceproxy.admin.exposition import Histogram
from spliceproxy.admin.metrics import histogram, labels_of, of_worker, quantile
from spliceproxy.admin.usage import Usage
from spliceproxy.observe.board import Reading
from spliceproxy.observe.outcome import OF_CUTS, OF_ERRORS, OF_TUNNELS, OUTCOMES, SUCCESSFUL

STEP = 2.0
"""Seconds between two samples."""

KEPT = 3600.0
"""Seconds for which they are kept."""

RATE = 10.0
"""Seconds over which rates are taken, and the CPU time of workers."""

LATENCY = 60.0
"""Seconds over which latencies are taken, and errors of the last minute counted."""

RATES = (
    "requests",
    "successful",
    "failed",
    "denied",
    "aborted",
    "connections",
    "bytes_from_clients",
    "bytes_to_clients",
)
"""The totals that have a rate, too."""

COLUMNS = (
    "time",
    *RATES,
    "tunnels",
    "open_connections",
    "time_to_first_byte_p50",
    "time_to_first_byte_p95",
    "dial_p50",
    "dial_p95",
)
"""Of the history: Unix time, rates per second, numbers of that moment, seconds."""


class Sample(NamedTuple):
    """What the board said at one moment."""

    moment: float  # time.monotonic()
    time: float  # Unix time
    totals: Mapping[str, int]
    errors: Mapping[str, int]
    dial: Histogram
    time_to_first_byte: Histogram
    tunnels: int
    connections: int
    requests: Sequence[int]  # of each worker
    usage: Mapping[int, Usage]  # by process


def sample(reading: Reading, usage: Mapping[int, Usage]) -> Sample:
    """What it says now."""
    found = reading.totals()
    return Sample(
        time.monotonic(),
        time.time(),
        totals_of(found),
        labels_of(found["errors"]),
        histogram(found["dial_seconds"]),
        histogram(found["time_to_first_byte_seconds"]),
        sum(found["tunnels"].values()),
        sum(found["connections"].values()),
        [of_worker(reading, at, "requests") for at in range(reading.workers)],
        usage,
    )


def totals_of(found: Mapping[str, Mapping[tuple[str, ...], int]]) -> dict[str, int]:
    """The totals that people ask for first. A tunnel that is open is a request without an
    outcome."""
    requests = sum(found["requests"].values())
    moved = found["bytes"]
    return {
        "requests": requests,
        **_outcomes(found, requests),
        "connections": sum(found["connections_begun"].values()),
        "tunnels": sum(found["tunnels_begun"].values()),
        "bytes_from_clients": sum(moved[way] for way in moved if way[0] == "in"),
        "bytes_to_clients": sum(moved[way] for way in moved if way[0] == "out"),
        "bytes_copied": sum(moved[way] for way in moved if way[1] == "copied"),
        "bytes_spliced": sum(moved[way] for way in moved if way[1] == "spliced"),
    }


def _outcomes(found: Mapping[str, Mapping[tuple[str, ...], int]], requests: int) -> dict[str, int]:
    """How many had each outcome. What is neither an error, nor ended early, nor became a tunnel
    was successful."""
    counted = dict.fromkeys(OUTCOMES, 0)
    early = 0
    for name, outcomes in (("errors", OF_ERRORS), ("requests_cut", OF_CUTS)):
        for (label,), number in found[name].items():
            counted[outcomes[label]] += number
            early += number
    for (reason,), number in found["tunnels_ended"].items():
        if reason in OF_TUNNELS:
            counted[OF_TUNNELS[reason]] += number
    begun = sum(found["tunnels_begun"].values())
    # What is counted at the same moment may be read before and after it.
    counted[SUCCESSFUL] += max(0, requests - begun - early)
    return counted


class Samples:
    """Those of the last hour."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[Sample] = deque()
        self._rows: deque[Sequence[float | None]] = deque()

    def add(self, one: Sample) -> None:
        """The next one."""
        before = self.before(one.moment - RATE)
        if before is not None:
            self._rows.append(self._row(before, one))
        self._samples.append(one)
        while self._samples[0].moment < one.moment - KEPT:
            self._samples.popleft()
        while self._rows and (self._rows[0][0] or 0.0) < one.time - KEPT:
            self._rows.popleft()

    def _row(self, before: Sample, one: Sample) -> Sequence[float | None]:
        rates = self.rates(self._samples[-1], one)
        times = [
            quantile(getattr(before, what), getattr(one, what), share)
            for what in ("time_to_first_byte", "dial")
            for share in (0.5, 0.95)
        ]
        return (
            round(one.time, 3),
            *(rates[name] for name in RATES),
            one.tunnels,
            one.connections,
            *(None if value is None else round(value.seconds, 6) for value in times),
        )

    @staticmethod
    def rates(before: Sample, now: Sample) -> dict[str, float]:
        """What was counted per second between the two."""
        seconds = max(now.moment - before.moment, 1e-3)
        return {
            name: round(max(0, now.totals[name] - before.totals[name]) / seconds, 3)
            for name in RATES
        }

    def before(self, moment: float) -> Sample | None:
        """The last sample up to a moment, or the first that there is; None without any."""
        found = None
        for one in reversed(self._samples):
            found = one
            if one.moment <= moment:
                break
        return found

    def history(self, since: float) -> dict[str, Any]:
        """The rows behind a moment (Unix time), the oldest first."""
        rows: list[Sequence[float | None]] = []
        for row in reversed(self._rows):
            if (row[0] or 0.0) <= since:
                break
            rows.append(row)
        rows.reverse()
        return {"step": STEP, "columns": COLUMNS, "rows": rows}
