"""``GET /stats.json``: what the proxy does and has done, as one value. docs/admin.md has the
schema, which only grows within a version.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from spliceproxy.admin.exposition import Histogram
from spliceproxy.admin.metrics import is_up, labels_of, of_worker, quantile
from spliceproxy.admin.sampling import LATENCY, RATE, Sample, Samples, totals_of
from spliceproxy.admin.tallies import Tallies
from spliceproxy.admin.watch import Silent, told_silent
from spliceproxy.observe.board import Reading, Values
from spliceproxy.observe.top import KINDS, MEASURES, SPANS
from spliceproxy.relay.leases import State
from spliceproxy.relay.meters import Count
from spliceproxy.version import __version__

Totals = Mapping[str, Values]

VERSION = 1
"""Of the schema."""

LIMITS = 100
"""Rows of what limits count."""

PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


class Moment(NamedTuple):
    """What the value is made from: the numbers of now, and the samples that it is compared with.
    ``since``: the history begins behind this moment (Unix time). ``silent`` are workers that have
    not answered, and ``ill`` those of them that are not just starting."""

    reading: Reading
    samples: Samples
    now: Sample
    tallies: Tallies
    since: float
    ill: Container[int]
    silent: Silent
    reloads: Iterable[Mapping[str, Any]]
    limits: Iterable[Count]
    store: State | None  # of limits

    @property
    def recent(self) -> Sample:
        """That since when rates are taken."""
        return self.samples.before(self.now.moment - RATE) or self.now

    @property
    def earlier(self) -> Sample:
        """That since when latencies are taken."""
        return self.samples.before(self.now.moment - LATENCY) or self.now


def stats(moment: Moment, *, started: float, draining: bool, engine: str) -> dict[str, Any]:
    """The whole value. ``started`` is Unix time."""
    found = moment.reading.totals()
    return {
        "version": VERSION,
        "time": round(time.time(), 3),
        "proxy": {
            "version": __version__,
            "engine": engine or None,
            "started": round(started, 3),
            "uptime": round(time.time() - started, 3),
            "generation": sum(found["generation"].values()),
            "draining": draining,
        },
        **_activity(moment, found),
        **_counted(moment, found),
        **_state(moment, found),
        **_lists(moment),
    }


def _activity(moment: Moment, found: Totals) -> dict[str, Any]:
    """How much there is to do, and how long it takes."""
    recent, earlier, now = moment.recent, moment.earlier, moment.now
    return {
        "rates": {
            "seconds": round(now.moment - recent.moment, 3),
            **moment.samples.rates(recent, now),
        },
        "live": {
            "tunnels": now.tunnels,
            "connections": now.connections,
            "questions": sum(found["questions_open"].values()),
            "origin_connections_idle": sum(found["origin_connections_idle"].values()),
        },
        "totals": totals_of(found),
        "latency": {
            "seconds": round(now.moment - earlier.moment, 3),
            "bounds": now.dial.bounds,
            "time_to_first_byte": _times(earlier.time_to_first_byte, now.time_to_first_byte),
            "dial": _times(earlier.dial, now.dial),
        },
    }


def _counted(moment: Moment, found: Totals) -> dict[str, Any]:
    """Requests, errors and ends by what they were."""
    return {
        "requests": [
            {"method": method, "status": status, "total": number}
            for (method, status), number in found["requests"].items()
            if number
        ],
        "errors": _errors(moment.earlier, moment.now),
        "dial_errors": _by_size("kind", labels_of(found["dial_errors"])),
        "requests_cut": _by_size("by", labels_of(found["requests_cut"])),
        "tunnels_ended": _by_size("reason", labels_of(found["tunnels_ended"])),
        "decisions": [
            {"action": action, "rule": rule, "total": number}
            for (action, rule), number in sorted(
                found["decisions"].items(), key=lambda item: -item[1]
            )
            if number
        ],
    }


def _state(moment: Moment, found: Totals) -> dict[str, Any]:
    """Of the processes."""
    reading, recent, now = moment.reading, moment.recent, moment.now
    return {
        "pipes": {
            "lent": found["pipes"]["lent",],
            "idle": found["pipes"]["idle",],
            "starved": sum(found["pipe_shortages"].values()),
            "fallbacks": sum(found["splice_fallbacks"].values()),
        },
        "lines_lost": sum(found["log_lines_lost"].values()),
        "log": {
            "made": sum(found["log_lines"].values()),
            "written": sum(found["log_lines_written"].values()),
            "lost": [
                {"log": log, "cause": cause, "total": number}
                for (log, cause), number in found["log_lines_lost"].items()
                if number
            ],
        },
        "worker_deaths": sum(found["worker_deaths"].values()),
        "workers": [_worker(reading, at, recent, now, moment.ill) for at in reading.present],
        **told_silent(moment.silent),
        "reloads": list(moment.reloads),
    }


def _lists(moment: Moment) -> dict[str, Any]:
    """What the workers keep beside the numbers, and the history."""
    tallies = moment.tallies
    return {
        "top": {span: _top(tallies, span) for span in SPANS},
        "limits": _limits(moment.limits),
        "limits_store": None if moment.store is None else moment.store._asdict(),
        "denials": tallies.denials[-100:],
        "failures": tallies.failures[:100],
        "history": moment.samples.history(moment.since),
    }


def _limits(counts: Iterable[Count]) -> list[dict[str, Any]]:
    """What limits count, the busiest first."""
    found = sorted(counts, key=lambda one: (-one.connections, -one.refused, one.limit, one.key))
    return [one._asdict() for one in found[:LIMITS]]


def _times(before: Histogram, now: Histogram) -> dict[str, Any]:
    """Percentiles, each with the bucket that it is in."""
    shown: dict[str, Any] = {"count": sum(now.counts) - sum(before.counts)}
    for name, share in PERCENTILES.items():
        found = quantile(before, now, share)
        shown[name] = None if found is None else round(found.seconds, 6)
        shown[f"{name}_bucket"] = None if found is None else [found.low, found.high]
    return shown


def _errors(before: Sample, now: Sample) -> list[dict[str, Any]]:
    rows = _by_size("kind", now.errors)
    for row in rows:
        row["minute"] = row["total"] - before.errors.get(row["kind"], 0)
    return rows


def _by_size(name: str, numbers: Mapping[str, int]) -> list[dict[str, Any]]:
    ordered = sorted(numbers.items(), key=lambda item: -item[1])
    return [{name: label, "total": number} for label, number in ordered]


def _worker(
    reading: Reading, at: int, before: Sample, now: Sample, ill: Container[int]
) -> dict[str, Any]:
    pid = of_worker(reading, at, "worker_pid")
    seconds = max(now.moment - before.moment, 1e-3)
    usage, earlier = now.usage.get(pid), before.usage.get(pid)
    requests = max(0, now.requests[at] - before.requests[at]) if earlier is not None else None
    started = of_worker(reading, at, "worker_started") / 1e6
    return {
        "index": at,
        "pid": pid or None,
        "up": is_up(reading, at, ill) and usage is not None,
        "draining": of_worker(reading, at, "worker_draining") > 0,
        "uptime": round(max(0.0, time.time() - started), 3) if pid else None,
        "tunnels": of_worker(reading, at, "tunnels"),
        "connections": of_worker(reading, at, "connections"),
        "requests_per_second": None if requests is None else round(requests / seconds, 3),
        "cpu_ratio": (
            round(max(0.0, usage.cpu - earlier.cpu) / seconds, 4) if usage and earlier else None
        ),
        "memory_bytes": usage.memory if usage else None,
        "descriptors": usage.descriptors if usage else None,
        "max_descriptors": usage.most_descriptors if usage else None,
    }


def _top(tallies: Tallies, span: str) -> dict[str, Any]:
    lists: dict[str, Any] = {"seconds": round(tallies.seconds.get(span, 0.0), 3)}
    for kind in KINDS:
        lists[kind] = {
            measure: _list(tallies.rankings[span, kind, measure], measure) for measure in MEASURES
        }
    return lists


def _list(ranking: Any, measure: str) -> dict[str, Any]:
    rows: Sequence[Any] = ranking.rows
    return {
        "floor": ranking.floor,
        "rows": [
            {
                "key": row.key,
                "error": row.error,
                "bytes": row.total if measure == "bytes" else row.received + row.sent,
                "requests": row.total if measure == "requests" else row.requests,
                "bytes_from_client": row.received,
                "bytes_to_client": row.sent,
            }
            for row in rows
        ],
    }
