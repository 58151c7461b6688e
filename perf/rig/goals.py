"""The project's goals for speed, beside what a run came to."""

from __future__ import annotations

from typing import Any

from . import tables
from .proxies import C_LOOP, KINDS, OURS

_CPU = (  # what, goal, measure, proxy to divide by
    ("A: GET 330 B, kept alive", "1.0 x haproxy", "wrk-forward-small", "haproxy"),
    ("A2: GET 330 B, a new connection each", "1.0 x haproxy", "close-small", "haproxy"),
    ("B: GET 128 KiB", "1.0 x haproxy", "wrk-forward-128k", "haproxy"),
    ("B: GET 1 MiB", "1.0 x haproxy", "wrk-forward-1m", "haproxy"),
    ("C: CONNECT set-up", "1.0 x haproxy's relay", "setup", "haproxy"),
    ("C: CONNECT set-up", "0.5 x any with CONNECT", "setup", ""),
    ("C: CONNECT set-up", "- (a C loop)", "setup", C_LOOP),
    ("D: 1 tunnel, down", "1.0 x haproxy", "bulk-down-1", "haproxy"),
    ("D: 1 tunnel, down", "1.1 x a C loop", "bulk-down-1", C_LOOP),
    ("D: 16 tunnels, down", "1.0 x haproxy", "bulk-down-16", "haproxy"),
    ("D: 16 tunnels, down", "1.1 x a C loop", "bulk-down-16", C_LOOP),
    ("D: 16 tunnels, up", "1.0 x haproxy", "bulk-up-16", "haproxy"),
    ("D: 16 tunnels, up", "1.1 x a C loop", "bulk-up-16", C_LOOP),
    ("E: ping-pong, 1 tunnel", "1.0 x nginx stream", "pingpong-1", "nginx-stream"),
    ("E: ping-pong, 1 tunnel", "- (a C loop)", "pingpong-1", C_LOOP),
    ("E: ping-pong, 100 tunnels", "1.0 x nginx stream", "pingpong-100", "nginx-stream"),
    ("E: ping-pong, 100 tunnels", "- (haproxy)", "pingpong-100", "haproxy"),
    ("E: ping-pong, 100 tunnels", "- (a C loop)", "pingpong-100", C_LOOP),
)


def table(results: dict[str, Any]) -> str:
    """Markdown: CPU time by the peer's, then what has a number of its own."""
    rows = [(*row[:2], _ratio(results["medians"], *row[2:])) for row in _CPU]
    idle = results["idle"].get(OURS)
    if idle:
        text = f"{idle['bytes'] / 1024:.2f} KiB, {idle['descriptors']:.2f} descriptors, "
        text += f"{idle['idle_cpu'] * 100:.1f} % CPU"
        rows.append((f"F: {idle['points'][-1][0]:,} idle tunnels", "1 KiB each, 2, 0", text))
    for clients in ("10000", "15000"):
        step = results["sweep"].get(OURS, {}).get(clients)
        text = f"{step['rate']:,.0f} req/s, {step['p99'] / 1e3:.1f} s" if step else "-"
        rows.append((f"G: {int(clients):,} clients", "10,000 req/s, p99 < 2 s", text))
    start = results["start"].get(OURS)
    rows.append(("I: start to first answer", "150 ms", f"{start * 1e3:.0f} ms" if start else "-"))
    return tables.markdown(["", "goal", "this run"], rows)


def _ratio(medians: dict[str, dict[str, Any]], measure: str, name: str) -> str:
    """Ours by that of ``name``, or of the best peer that ends CONNECT itself."""
    cpu = {n: figures["cpu"] for n, figures in medians.get(measure, {}).items()}
    if not name:
        real = [n for n in cpu if not n.startswith(OURS) and n != C_LOOP and not KINDS[n].relay]
        name = min(real, key=lambda n: cpu[n], default="")
    if not cpu.get(name) or not cpu.get(OURS):
        return "-"
    ours, theirs = (_unit(measure, cpu[n]) for n in (OURS, name))
    return f"{cpu[OURS] / cpu[name]:.2f} ({ours} against {theirs}, {name})"


def _unit(measure: str, value: float) -> str:
    big = measure.startswith("bulk") or measure.endswith(("128k", "1m"))
    return f"{tables.number(value)} {'s/GB' if big else 'µs'}"
