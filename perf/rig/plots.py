"""The plots of a run, as PNG files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .measures import Figures
from .origins import PAGES
from .ours import BEFORE, OURS
from .proxies import DIRECT, KINDS

Medians = dict[str, dict[str, Figures]]
Line = list[tuple[float, float]]

COLOURS = ("#4477aa", "#ee6677", "#228833", "#aa3377", "#ccbb44", "#66ccee", "#996633", "#444488")
MARKERS = "sD^vPX<>"
DECIDING = [(name, name) for name in ("haproxy", "nginx-tunnel", "tinyproxy", "squid")]


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
        [("GET 330 B, kept alive", _cpu(medians, "wrk-forward-small", ()))],
        "CPU time of the proxy for a forwarded GET of 330 B",
    )
    more = [(KINDS[name].more, name) for name in KINDS if KINDS[name].more]
    done += _bars(
        folder / "cpu_by_decision.png",
        [
            (title, _cpu(medians, measure, [("nothing more", OURS), *more, *DECIDING]))
            for title, measure in (
                ("GET 330 B, kept alive", "wrk-forward-small"),
                ("GET 330 B, a new connection", "close-small"),
                ("CONNECT, 32 bytes, close", "setup"),
            )
        ],
        "CPU time of the proxy by what spliceproxy does for each request, beside others",
    )
    return done


def _cpu(
    medians: Medians, measure: str, chosen: Sequence[tuple[str, str]]
) -> list[tuple[str, str, float]]:
    """Label, proxy and µs: those of ``chosen`` in its order, or all without settings."""
    found = medians.get(measure, {})
    if not chosen:
        names = [name for name in found if name != DIRECT and not KINDS[name].more]
        chosen = [(name, name) for name in sorted(names, key=lambda name: found[name]["cpu"])]
    return [(label, name, found[name]["cpu"]) for label, name in chosen if name in found]


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


def _figure(title: str, panels: int = 1) -> tuple[Any, list[Any]]:
    """On white, so that it can be read on a dark page too."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = 1 if panels < 4 else 2
    columns = -(-panels // rows)
    size = (8 if columns == 1 else 4.6 * columns, 5 if rows == 1 else 8)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=size, dpi=110, layout="constrained", squeeze=False
    )
    figure.suptitle(title, fontsize=11)
    for at in axes.flat:
        for side in ("top", "right"):
            at.spines[side].set_visible(False)
    return figure, list(axes.flat)


def _style(names: Sequence[str]) -> Callable[[str], dict[str, Any]]:
    """Ours in black and thick, no proxy dashed, a colour and a marker for each other."""
    others = [name for name in sorted(names) if name not in (OURS, BEFORE, DIRECT)]

    def of(name: str) -> dict[str, Any]:
        if name == OURS:
            return {"color": "black", "linewidth": 2.6, "marker": "o", "zorder": 5}
        if name == BEFORE:
            return {"color": "black", "linestyle": ":", "marker": "o"}
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
    figure, [axes] = _figure(title)
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


def by_number(path: Path, panels: list[tuple[str, dict[str, Line]]], title: str) -> list[str]:
    """A panel for each title, of µs by a number; both from the same zero."""
    panels = [(name, lines) for name, lines in panels if lines]
    if not panels:
        return []
    figure, axes = _figure(title, len(panels))
    style = _style(sorted({name for _, lines in panels for name in lines}))
    for at, (name, lines) in zip(axes, panels, strict=False):
        for kind, line in lines.items():
            at.plot(*zip(*line, strict=True), label=kind, **style(kind))
        at.set_xscale("log")
        at.set_xticks(sorted({x for line in lines.values() for x, _ in line}))
        at.minorticks_off()
        at.xaxis.set_major_formatter(_short)
        at.set_ylim(bottom=0)
        at.set_xlabel("number, by turns")
        at.set_ylabel("microseconds")
        at.set_title(name, fontsize=10)
        at.grid(True, color="0.9")
        at.legend(frameon=False, fontsize=9)
    for at in axes[len(panels) :]:
        at.remove()
    figure.savefig(path)
    return [path.name]


def _bars(
    path: Path, panels: list[tuple[str, list[tuple[str, str, float]]]], title: str
) -> list[str]:
    """A panel for each title: bars of ``_cpu``, spliceproxy's in black, from the top down."""
    panels = [(name, bars) for name, bars in panels if bars]
    if not panels:
        return []
    figure, axes = _figure(title, len(panels))
    for at, (name, bars) in zip(axes, panels, strict=True):
        labels = [label for label, _, _ in bars]
        colours = ["black" if kind.startswith(OURS) else "0.65" for _, kind, _ in bars]
        drawn = at.barh(labels, [value for _, _, value in bars], color=colours)
        at.bar_label(drawn, fmt="%.0f", padding=4)
        at.set_xlabel("microseconds")  # not logarithmic: the length of a bar counts from zero
        at.margins(x=0.15)
        at.invert_yaxis()
        if len(panels) > 1:
            at.set_title(name, fontsize=10)
    figure.savefig(path)
    return [path.name]
