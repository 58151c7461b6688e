"""The Markdown page of a run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import goals, plots, ratios, tables
from .measures import MEASURES, Figures, Measure
from .ours import BEFORE, OURS
from .proxies import KINDS
from .settings import STEPS

VARIABLES = ("DURATION", "ROUNDS", "CONC", "WORKERS", "PEERS", "ONLY")


def command(environ: Mapping[str, str]) -> str:
    """What to type for this run again."""
    chosen = [f'{name}="{environ[name]}"' for name in VARIABLES if environ.get(name)]
    return " ".join([*chosen, "bash perf/bench.sh"])


def brief(measure: Measure, figures: Figures) -> str:
    """One measurement in a line."""
    if "held" in figures:
        return f"{tables.number(figures['held'])} MiB held for each"
    rate = f"{tables.number(figures['rate'])} {measure.rate}"
    return f"{rate}, {tables.number(figures['cpu'])} {measure.cpu}"


def medians(samples: Mapping[str, Mapping[str, list[Figures]]]) -> dict[str, dict[str, Figures]]:
    """By measure and proxy."""
    return {
        measure: {name: tables.median(found) for name, found in by_name.items()}
        for measure, by_name in samples.items()
    }


def start_times(starts: Mapping[str, list[float]]) -> dict[str, float]:
    """Median seconds to the first answer."""
    return {name: statistics.median(found) for name, found in starts.items()}


def write(results: dict[str, Any], folder: Path) -> str:
    """Draws the plots, writes ``bench.md``; returns its text."""
    pictures = plots.draw(results, folder)
    text = "\n".join(
        [
            f"## Goals: CPU time by that of others\n\n{goals.table(results)}",
            _before(results["samples"]),
            _counted(results["samples"]),
            _tables(results),
            _sweep(results["sweep"]),
            _idle(results["idle"]),
            _stalled(results["medians"].get("stalled", {})),
            _start(results["start"]),
            _list("Wrong answers: the run has failed", results["wrong"]),
            _list("Measurements that a peer failed", results["failed"]),
            _list("Left out", results["skipped"]),
            _machine(results),
        ]
    )
    shown = "\n".join(f"![{name}]({name})\n" for name in pictures)
    folder.joinpath("bench.md").write_text(f"# Results\n\n{text}\n{shown}")
    return text


def _tables(results: dict[str, Any]) -> str:
    found = results["medians"]
    present = {name for figures in found.values() for name in figures}
    names = [OURS, *sorted(present - {OURS})]
    settings = results["settings"]
    parts = [f"Rounds: {settings['rounds']}; medians. Workers: {settings['workers']}.\n"]
    for key, title in (
        ("cpu", "CPU time of the proxy"),
        ("rate", "Throughput"),
        ("p99", "99th percentile, ms"),
    ):
        parts.append(f"## {title}\n\n{tables.by_proxy(MEASURES, found, names, key)}")
    parts.append(f"## Cores used while spliceproxy was measured\n\n"
                 f"{tables.parties(MEASURES, found, OURS)}")  # fmt: skip
    return "\n".join(parts)


def _before(samples: Mapping[str, Mapping[str, list[Figures]]]) -> str:
    rows = []
    for measure in MEASURES:
        found = samples.get(measure.name, {})
        ratio = ratios.paired(found.get(OURS, []), found.get(BEFORE, []))
        if ratio:
            both = (tables.median(found[name])["cpu"] for name in (BEFORE, OURS))
            rows.append([measure.what, *map(tables.number, both), measure.cpu, str(ratio)])
    if not rows:
        return ""
    text = (
        "The last column is the median of the rounds' ratios, with the interval that holds 90 %\n"
    )
    text += "of a bootstrap's medians.\n\n"
    head = ["CPU time", "before", "now", "unit", "now by before"]
    return f"## The other build of spliceproxy\n\n{text}{tables.markdown(head, rows)}"


def _counted(samples: Mapping[str, Mapping[str, list[Figures]]]) -> str:
    """What the functions have counted, beside the answers that the load programs have."""
    rows = []
    for name, kind in KINDS.items():
        reports = [
            figures["report"]
            for by_name in samples.values()
            for figures in by_name.get(name, [])
            if kind.counts
        ]
        if reports:
            units = sum(r.get("requests", r.get("finished", 0)) for r in reports)
            sums = [sum(r["counted"].get(what, 0) for r in reports) for what in ("calls", "ends")]
            rows.append([name, f"{units:,}", *(f"{n:,}" if n else "-" for n in sums)])
    if not rows:
        return ""
    text = "What was under way when the time was over is in the counts of the functions only.\n\n"
    head = ["", "answers", "calls of the function", "calls of on_close"]
    return f"## What the functions have counted\n\n{text}{tables.markdown(head, rows)}"


def _sweep(sweep: dict[str, dict[str, Figures]]) -> str:
    if not sweep:
        return ""
    rows = []
    for name, steps in sweep.items():
        cells = []
        for step in STEPS:
            figures = steps.get(str(step), {})
            rate, p99, cpu = (tables.number(figures.get(k)) for k in ("rate", "p99", "cpu"))
            cells.append(f"{rate} ({p99}, {cpu})" if figures else "-")
        rows.append([name, *cells])
    head = ["clients at once", *(f"{step:,}" for step in STEPS)]
    title = "## GET 330 B: requests a second (p99 in ms, CPU µs a request)"
    return f"{title}\n\n{tables.markdown(head, rows)}"


def _idle(idle: dict[str, Figures]) -> str:
    if not idle:
        return ""
    rows = []
    for name, figures in idle.items():
        echo = figures["p99"]
        cells = [figures["points"][-1][0], figures["bytes"] / 1024, figures["descriptors"]]
        rows.append([name, *map(tables.number, [*cells, figures["idle_cpu"] * 100, echo])])
    head = ["idle tunnels", "number", "KiB each", "descriptors each", "CPU %", "echo p99 ms"]
    return f"## Idle tunnels, 1 % of them active at the end\n\n{tables.markdown(head, rows)}"


def _stalled(found: Mapping[str, Figures]) -> str:
    if not found:
        return ""
    keys = ("unread", "unsent", "piped", "held")
    rows = [
        [name, *(tables.number(figures[key]) for key in keys)] for name, figures in found.items()
    ]
    head = ["MiB for each", "received, not read", "not acknowledged", "in pipes", "together"]
    title = "## Downloads that their clients have stopped reading: what the proxy holds"
    return f"{title}\n\n{tables.markdown(head, rows)}"


def _start(starts: dict[str, float]) -> str:
    rows = [[name, tables.number(round(s * 1e3))] for name, s in starts.items() if s]
    return f"## From start to the first answer\n\n{tables.markdown(['', 'ms'], rows)}"


def _list(title: str, texts: list[str]) -> str:
    if not texts:
        return ""
    return f"## {title}\n\n" + "".join(f"- {text}\n" for text in texts)


def _machine(results: dict[str, Any]) -> str:
    lines = [f"- {name}: `{text}`\n" for name, text in results["machine"].items()]
    return "## Measured on\n\n" + "".join(lines)
