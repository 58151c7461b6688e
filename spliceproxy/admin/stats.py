"""``GET /stats.json``: what the proxy does and has done, as one value. docs/admin.md has the
schema, which only grows within a version.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from spliceproxy.admin.metrics import is_up, labels_of, of_worker, quantile
from spliceproxy.admin.sampling import LATENCY, RATE, Sample, Samples, totals_of
from spliceproxy.admin.tallies import Tallies
from spliceproxy.admin.watch import Silent, told_silent
from spliceproxy.observe.board import Reading
from spliceproxy.observe.top import KINDS, MEASURES, SPANS
from spliceproxy.version import __version__

VERSION = 1
"""Of the schema."""


def stats(
    reading: Reading,
    samples: Samples,
    now: Sample,
    tallies: Tallies,
    *,
    ill: Container[int],
    silent: Silent,
    started: float,
    draining: bool,
    engine: str,
    since: float,
    reloads: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """The whole value. ``silent`` are workers that have not answered; ``ill`` are those of them
    that are not just starting; ``started`` is Unix time; the history begins behind ``since``."""
    found = reading.totals()
    recent = samples.before(now.moment - RATE) or now
    earlier = samples.before(now.moment - LATENCY) or now
    rates = samples.rates(recent, now)
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
        "rates": {"seconds": round(now.moment - recent.moment, 3), **rates},
        "live": {
            "tunnels": now.tunnels,
            "connections": now.connections,
            "questions": sum(found["questions_open"].values()),
            "origin_connections_idle": sum(found["origin_connections_idle"].values()),
        },
        "totals": totals_of(found),
        "requests": [
            {"method": method, "status": status, "total": number}
            for (method, status), number in found["requests"].items()
            if number
        ],
        "latency": {
            "seconds": round(now.moment - earlier.moment, 3),
            "first_byte": _times(earlier, now, "first_byte"),
            "dial": _times(earlier, now, "dial"),
        },
        "errors": _errors(earlier, now),
        "dial_errors": _by_size("kind", labels_of(found["dial_errors"])),
        "tunnels_ended": _by_size("reason", labels_of(found["tunnels_ended"])),
        "decisions": [
            {"action": action, "rule": rule, "total": number}
            for (action, rule), number in sorted(
                found["decisions"].items(), key=lambda item: -item[1]
            )
            if number
        ],
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
        "workers": [_worker(reading, at, recent, now, ill) for at in reading.present],
        **told_silent(silent),
        "top": {span: _top(tallies, span) for span in SPANS},
        "denials": tallies.denials[-100:],
        "failures": tallies.failures[:100],
        "reloads": list(reloads),
        "history": samples.history(since),
    }


def _times(before: Sample, now: Sample, what: str) -> dict[str, Any]:
    a, b = getattr(before, what), getattr(now, what)
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    return {
        "count": sum(b.counts) - sum(a.counts),
        **{name: quantile(a, b, share) for name, share in shares.items()},
    }


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
    requests = now.requests[at] - before.requests[at] if earlier is not None else None
    started = of_worker(reading, at, "worker_started") / 1e6
    return {
        "index": at,
        "pid": pid or None,
        "up": is_up(reading, at, ill) and usage is not None,
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
