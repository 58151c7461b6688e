"""Medians and Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from .measures import Figures, Measure


def median(samples: Sequence[Figures]) -> Figures:
    """Of each figure that is a number; nothing for no samples."""
    found: Figures = {}
    for key in samples[0] if samples else ():
        values = [s[key] for s in samples if isinstance(s.get(key), (int, float))]
        if values:
            found[key] = statistics.median(values)
    return found


def number(value: Any) -> str:
    """Three digits that count; a dash for nothing."""
    if not isinstance(value, (int, float)):
        return "-"
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def by_proxy(
    measures: Sequence[Measure],
    medians: dict[str, dict[str, Figures]],
    names: Sequence[str],
    key: str,
) -> str:
    """A row for each measure, a column for each proxy, of the figure ``key``."""
    rows = []
    for measure in measures:
        figures = medians.get(measure.name, {})
        if not any(key in figures.get(name, {}) for name in names):
            continue
        unit = {"cpu": f", {measure.cpu}", "rate": f", {measure.rate}", "p99": ""}[key]
        cells = [number(figures.get(name, {}).get(key)) for name in names]
        rows.append([f"{measure.what}{unit}", *cells])
    return markdown(["", *names], rows)


def parties(measures: Sequence[Measure], medians: dict[str, dict[str, Figures]], name: str) -> str:
    """Who used how many cores while this proxy was measured."""
    rows = []
    for measure in measures:
        figures = medians.get(measure.name, {}).get(name)
        if not figures or "load" not in figures:
            continue
        scale = 1.0 if measure.cpu.startswith("s/") else 1e-6
        own = figures["cpu"] * figures["rate"] * scale
        used = [number(round(figures[key], 2)) for key in ("load", "origin", "others")]
        rows.append([measure.what, number(round(own, 2)), *used])
    return markdown(["", "proxy", "load", "origin", "others"], rows)
