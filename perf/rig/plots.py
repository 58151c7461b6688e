"""The plots of a run, as PNG files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .measures import Figures
from .origins import PAGES
from .proxies import DIRECT, OURS

Medians = dict[str, dict[str, Figures]]
Line = list[tuple[float, float]]

COLOURS = ("#4477aa", "#ee6677", "#228833", "#aa3377", "#ccbb44", "#66ccee", "#996633", "#444488")
MARKERS = "sD^vPX<>"


def draw(results: dict[str, Any], folder: Path) -> list[str]:
    """Writes what there are figures for; the names of the files."""
    medians: Medians = results["medians"]
    done = []
    sweep = _sweep(results["sweep"], "rate")
    done += _lines(
        folder / "throughput.png",
        sweep,
        "GET 330 B, every byte compared (spliceproxy: one worker for each CPU)",
        ("keep-alive clients at once", "requests a second"),
        log_y=False,
    )
    done += _lines(
        folder / "latency.png",
        _sweep(results["sweep"], "p99"),
        "99th percentile of GET 330 B, as fast as the clients can",
        ("keep-alive clients at once", "ms"),
    )
    done += _lines(
        folder / "cpu_per_gb.png",
        _by_payload(medians),
        "CPU time of the proxy for a GB of forwarded answers",
        ("bytes of an answer", "CPU seconds for a GB"),
    )
    done += _lines(
        folder / "idle_memory.png",
        _memory(results["idle"]),
        "Memory of idle tunnels (PSS, above what it was before)",
        ("idle tunnels", "MiB"),
    )
    done += _bars(
        folder / "cpu_per_request.png",
        {n: f["cpu"] for n, f in medians.get("wrk-forward-small", {}).items() if n != DIRECT},
        "CPU time of the proxy for a forwarded GET of 330 B",
        "microseconds",
    )
    return done


def _sweep(sweep: dict[str, dict[str, Figures]], key: str) -> dict[str, Line]:
    return {
        name: [(float(n), f[key]) for n, f in steps.items() if f.get(key)]
        for name, steps in sweep.items()
    }


def _by_payload(medians: Medians) -> dict[str, Line]:
    lines: dict[str, Line] = {}
    for page, size in PAGES.items():
        figures = medians.get(f"wrk-forward-{page.partition('.')[0]}", {})
        for name, figure in figures.items():
            if name == DIRECT:
                continue
            scale = 1.0 if size >= 100_000 else 1e3 / size  # µs a request to s a GB
            lines.setdefault(name, []).append((size, figure["cpu"] * scale))
    return lines


def _memory(idle: dict[str, Figures]) -> dict[str, Line]:
    return {
        name: [(n, size / (1 << 20)) for n, size in figures["points"] if size > 0]
        for name, figures in idle.items()
        if name != DIRECT and "points" in figures
    }


def _figure(title: str) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), dpi=110, layout="constrained")
    axes.set_title(title, fontsize=11)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _style(names: Sequence[str]) -> Callable[[str], dict[str, Any]]:
    """Ours in black and thick, no proxy dashed, a colour and a marker for each other."""
    others = [name for name in sorted(names) if name not in (OURS, DIRECT)]

    def of(name: str) -> dict[str, Any]:
        if name == OURS:
            return {"color": "black", "linewidth": 2.6, "marker": "o", "zorder": 5}
        if name == DIRECT:
            return {"color": "0.5", "linestyle": "--", "marker": "."}
        i = others.index(name) % len(COLOURS)
        return {"color": COLOURS[i], "marker": MARKERS[i]}

    return of


def _plain(value: float, _: int) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _short(value: float, _: int) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def _lines(
    path: Path,
    lines: dict[str, Line],
    title: str,
    labels: tuple[str, str],
    log_y: bool = True,
) -> list[str]:
    lines = {name: line for name, line in lines.items() if line}
    if not lines:
        return []
    figure, axes = _figure(title)
    style = _style(list(lines))
    # The legend in the order of the lines' ends.
    for name, line in sorted(lines.items(), key=lambda item: -item[1][-1][1]):
        axes.plot(*zip(*line, strict=True), label=name, **style(name))
    axes.set_xscale("log")
    axes.set_xticks(sorted({x for line in lines.values() for x, _ in line}))
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(_size if "bytes" in labels[0] else _short)
    if log_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(_plain)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.grid(True, color="0.9")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path)
    return [path.name]


def _size(value: float, _: int) -> str:
    if value < 1024:
        return f"{value:.0f} B"
    return f"{value / 1024:.0f} KiB" if value < 1 << 20 else f"{value / (1 << 20):.0f} MiB"


def _bars(path: Path, values: dict[str, float], title: str, label: str) -> list[str]:
    if not values:
        return []
    figure, axes = _figure(title)
    names = sorted(values, key=lambda name: -values[name])
    colours = ["black" if name == OURS else "0.65" for name in names]
    bars = axes.barh(names, [values[name] for name in names], color=colours)
    axes.bar_label(bars, fmt="%.0f", padding=4)
    axes.set_xlabel(label)  # not logarithmic: the length of a bar counts from zero
    axes.margins(x=0.1)
    figure.savefig(path)
    return [path.name]
