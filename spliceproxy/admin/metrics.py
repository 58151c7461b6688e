"""The metrics of ``GET /metrics``, made from what the board says and from /proc.

The families are those of the table of columns (:mod:`spliceproxy.relay.columns`), summed over all
workers, dead ones included. So a counter never goes back. What belongs to one worker has its number
as a label, and begins anew with its process. No label has a value that a client chooses.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from spliceproxy.admin.exposition import Family, Histogram, Kind, Known, Labels, Value
from spliceproxy.admin.usage import Usage, started_at
from spliceproxy.observe.board import Reading, Values
from spliceproxy.relay import columns
from spliceproxy.relay.leases import State
from spliceproxy.relay.meters import Count
from spliceproxy.version import __version__

PREFIX = "spliceproxy_"

_SKIPPED = ("worker_up",)
"""What is told of each worker by itself."""


class Process(NamedTuple):
    """A process of the proxy: ``name`` is the number of a worker, ``supervisor`` or ``admin``."""

    name: str
    pid: int
    usage: Usage


def families(
    reading: Reading,
    processes: Iterable[Process],
    *,
    engine: str,
    ill: Container[int] = (),
    limits: Iterable[Count] = (),
    store: State | None = None,
) -> Iterator[Family]:
    """All of them, in their order. ``ill`` are workers that do not answer, ``limits`` what limits
    count, and ``store`` is where machines share that."""
    totals = reading.totals()
    yield Family(
        PREFIX + "build", "info", "The version of the proxy.", [({"version": __version__}, 1)]
    )
    # No worker has said it yet where it is "".
    known: list[tuple[Labels, Value]] = [({"engine": engine}, 1)] if engine else []
    yield Family(PREFIX + "engine", "info", "What moves the bytes.", known)
    for name, family in columns.FAMILIES.items():
        if name in totals and name not in _SKIPPED:
            yield _family(family, totals[name])
    yield from _limits(limits)
    if store is not None:
        yield from _store(store)
    yield from _workers(reading, ill)
    yield from _processes(list(processes))


def _family(family: columns.Family, values: Values) -> Family:
    name = PREFIX + family.name
    if family.kind == columns.HISTOGRAM:
        return Family(name, "histogram", family.help, [({}, histogram(values))])
    kind: Kind = "counter" if family.kind == columns.COUNTER else "gauge"
    names = family.labels
    samples = [(_labels(names, labels), number) for labels, number in values.items()]
    return Family(name, kind, family.help, samples)


@lru_cache(maxsize=8192)
def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> Labels:
    return Known(zip(names, values, strict=True))


def histogram(values: Values) -> Histogram:
    """That of a family of the board's, whose times are microseconds, in seconds."""
    *counts, total = values.values()
    return Histogram([bound / 1e6 for bound in columns.BOUNDS], counts, total / 1e6)


def _limits(counts: Iterable[Count]) -> Iterator[Family]:
    """Of each limit, all that it counts by together: what that is is for a client to choose."""
    found: dict[str, int] = {}
    for one in counts:
        found[one.limit] = found.get(one.limit, 0) + one.connections
    yield Family(
        PREFIX + "limit_connections",
        "gauge",
        "Connections that count for a limit.",
        [({"limit": limit}, number) for limit, number in sorted(found.items())],
    )


def _store(store: State) -> Iterator[Family]:
    """Of the store in which machines share limits."""
    numbers: list[tuple[str, Kind, str, int]] = [
        ("up", "gauge", "Whether the store of limits answers.", int(store.up)),
        ("machines", "gauge", "Machines that share limits, this one included.", store.machines),
        ("round_trips", "counter", "Round trips to the store of limits.", store.round_trips),
        ("failures", "counter", "Of these, those that have failed.", store.failures),
    ]
    for name, kind, help, number in numbers:
        yield Family(f"{PREFIX}limits_store_{name}", kind, help, [({}, number)])


def _workers(reading: Reading, ill: Container[int]) -> Iterator[Family]:
    """What is worth to be known of each worker: whether one is sick, and how even their load is."""

    def of(name: str) -> list[tuple[Labels, Value]]:
        return [
            ({"worker": str(index)}, of_worker(reading, index, name)) for index in reading.present
        ]

    yield Family(
        PREFIX + "worker_up",
        "gauge",
        "Whether the worker serves or drains, and answers.",
        [({"worker": str(one)}, int(is_up(reading, one, ill))) for one in reading.present],
    )
    yield Family(
        PREFIX + "worker_draining",
        "gauge",
        "Whether the worker takes no new clients any more, and drains what it has.",
        of("worker_draining"),
    )
    yield Family(
        PREFIX + "worker_tunnels", "gauge", "Tunnels of the worker that are open.", of("tunnels")
    )
    yield Family(
        PREFIX + "worker_connections",
        "gauge",
        "Connections of clients with the worker, tunnels not counted.",
        of("connections"),
    )
    yield Family(
        PREFIX + "worker_requests",
        "counter",
        "Requests of the worker that are over, since it was started.",
        of("requests"),
    )


def is_up(reading: Reading, index: int, ill: Container[int]) -> bool:
    """Whether a worker serves or drains, as far as it says, and does not keep silent."""
    return of_worker(reading, index, "worker_up") > 0 and index not in ill


def of_worker(reading: Reading, index: int, name: str) -> int:
    """The sum of a family of the table, of one worker: what is there now of all of its processes,
    and what was counted of the one that has the place, as its process id and its age are. For
    another process's numbers go when that ends, and what is counted never does."""
    family = columns.FAMILIES[name]
    counted = family.kind in (columns.COUNTER, columns.HISTOGRAM)
    row = reading.processes[index] if counted else reading.rows[index + 1]
    return sum(row[family.first : family.first + len(family.values)])


def _processes(processes: list[Process]) -> Iterator[Family]:
    def of(what: str) -> list[tuple[Labels, Value]]:
        return [({"process": one.name}, getattr(one.usage, what)) for one in processes]

    yield Family(
        PREFIX + "process_cpu_seconds",
        "counter",
        "CPU time of each process, user and system, since it was started.",
        of("cpu"),
    )
    yield Family(
        PREFIX + "process_resident_memory_bytes",
        "gauge",
        "Memory of each process, with what processes share.",
        of("memory"),
    )
    yield Family(
        PREFIX + "process_open_fds", "gauge", "Descriptors that are open.", of("descriptors")
    )
    yield Family(
        PREFIX + "process_max_fds",
        "gauge",
        "Descriptors that a process may have; 0 for any number.",
        of("most_descriptors"),
    )
    yield Family(PREFIX + "process_threads", "gauge", "Threads of each process.", of("threads"))
    yield Family(
        PREFIX + "process_start_time_seconds",
        "gauge",
        "When the process was started, in Unix time.",
        [({"process": one.name}, round(started_at(one.usage), 2)) for one in processes],
    )


class Quantile(NamedTuple):
    """About so many ``seconds``, and for certain more than ``low`` and at most ``high``, which is
    None beyond the last bound."""

    seconds: float
    low: float
    high: float | None


def quantile(before: Histogram, after: Histogram, share: float) -> Quantile | None:
    """What this share of the values is below that came between the two; None without one. It is
    as exact as the buckets are: within one, values are taken to lie evenly."""
    counts = [b - a for a, b in zip(before.counts, after.counts, strict=True)]
    wanted = share * sum(counts)
    if wanted <= 0:
        return None
    low = 0.0
    for bound, count in zip(after.bounds, counts, strict=False):
        if count >= wanted:
            return Quantile(low + (bound - low) * wanted / count, low, bound)
        wanted -= count
        low = bound
    return Quantile(low, low, None)


def labels_of(values: Mapping[tuple[str, ...], int]) -> dict[str, int]:
    """Those of a family with one label, which are not 0."""
    return {label: number for (label,), number in values.items() if number}
