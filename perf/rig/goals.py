"""The project's goals for speed, beside what a run came to."""

from __future__ import annotations

from typing import Any, NamedTuple

from . import ratios, tables
from .kinds import Kind
from .measures import MEASURES, SMALL
from .ours import OURS, is_ours
from .proxies import C_LOOP, KINDS


class Goal(NamedTuple):
    """CPU time of ``of`` in ``measure`` by that of ``by``, "" for the best peer that ends
    CONNECT itself; in ``by_measure``, where that is another one."""

    what: str
    goal: str
    measure: str
    by: str
    of: str = OURS
    by_measure: str = ""


_GET = f"wrk-forward-{SMALL.partition('.')[0]}"


def _more(name: str, goal: str, measure: str = _GET) -> Goal:
    """What something more for each request costs."""
    kind = KINDS[f"{OURS}+{name}"]
    letter = "A" if measure == _GET else "C"
    return Goal(f"{letter}, with {kind.more}", goal, measure, OURS, kind.name)


GOALS = (
    Goal("A: GET 330 B, kept alive", "1.0 x haproxy", _GET, "haproxy"),
    _more("function", "1.5 x A"),
    _more("async", "2.0 x A"),
    _more("on_close", "1.5 x A"),
    _more("log", "1.1 x A"),
    _more("auth", "-"),
    _more("rules", "-"),
    Goal("A, 1,000 hosts by turns", "1.5 x A", "wrk-many-small", OURS, by_measure=_GET),
    Goal(
        "A, the same, 800 a second",
        "1.5 x that of one host",
        "paced-many-small",
        OURS,
        by_measure="paced-small",
    ),
    Goal("A, the same, 800 a second", "- (haproxy)", "paced-many-small", "haproxy"),
    Goal("A2: GET 330 B, a new connection each", "1.0 x haproxy", "close-small", "haproxy"),
    Goal("B: GET 128 KiB", "1.0 x haproxy", "wrk-forward-128k", "haproxy"),
    Goal("B: GET 1 MiB", "1.0 x haproxy", "wrk-forward-1m", "haproxy"),
    Goal("C: CONNECT set-up", "1.0 x haproxy's relay", "setup", "haproxy"),
    Goal("C: CONNECT set-up", "0.5 x any with CONNECT", "setup", ""),
    Goal("C: CONNECT set-up", "- (nginx 1.31)", "setup", "nginx-tunnel"),
    Goal("C: CONNECT set-up", "- (a C loop)", "setup", C_LOOP),
    _more("function", "1.25 x C", "setup"),
    Goal("C, with a function", "1.0 x tinyproxy", "setup", "tinyproxy", f"{OURS}+function"),
    Goal("C, 20,000 hosts by turns", "1.25 x C", "setup-many", OURS, by_measure="setup"),
    Goal("C, 20,000 hosts by turns", "1.0 x nginx 1.31", "setup-many", "nginx-tunnel"),
    Goal("D: 1 tunnel, down", "1.0 x haproxy", "bulk-down-1", "haproxy"),
    Goal("D: 1 tunnel, down", "1.1 x a C loop", "bulk-down-1", C_LOOP),
    Goal("D: 16 tunnels, down", "1.0 x haproxy", "bulk-down-16", "haproxy"),
    Goal("D: 16 tunnels, down", "1.1 x a C loop", "bulk-down-16", C_LOOP),
    Goal("D: 16 tunnels, up", "1.0 x haproxy", "bulk-up-16", "haproxy"),
    Goal("D: 16 tunnels, up", "1.1 x a C loop", "bulk-up-16", C_LOOP),
    Goal("E: ping-pong, 1 tunnel", "1.0 x nginx stream", "pingpong-1", "nginx-stream"),
    Goal("E: ping-pong, 1 tunnel", "- (a C loop)", "pingpong-1", C_LOOP),
    Goal("E: ping-pong, 100 tunnels", "1.0 x nginx stream", "pingpong-100", "nginx-stream"),
    Goal("E: ping-pong, 100 tunnels", "- (haproxy)", "pingpong-100", "haproxy"),
    Goal("E: ping-pong, 100 tunnels", "- (a C loop)", "pingpong-100", C_LOOP),
    Goal("P: POST 1 KiB", "1.0 x haproxy", "post-1k", "haproxy"),
    Goal("P: POST 128 KiB", "1.0 x haproxy", "post-128k", "haproxy"),
)

_UNITS = {measure.name: measure.cpu.partition("/")[0] for measure in MEASURES}


def table(results: dict[str, Any]) -> str:
    """Markdown: CPU time by the other's, then what has a number of its own. With three rounds
    or more a ratio has the interval of ``ratios.paired``."""
    rows = [(goal.what, goal.goal, _ratio(results, goal)) for goal in GOALS]
    idle = results["idle"].get(OURS)
    if idle:
        text = f"{idle['bytes'] / 1024:.2f} KiB, {idle['descriptors']:.2f} descriptors, "
        text += f"{idle['idle_cpu'] * 100:.1f} % CPU"
        rows.append((f"F: {idle['points'][-1][0]:,} idle tunnels", "1 KiB each, 2, 0", text))
    function = f"{OURS}+function"
    for name, clients in ((OURS, "10000"), (OURS, "15000"), (function, "15000")):
        step = results["sweep"].get(name, {}).get(clients)
        text = f"{step['rate']:,.0f} req/s, {step['p99'] / 1e3:.1f} s" if step else "-"
        what = f"G: {int(clients):,} clients{', with a function' if name == function else ''}"
        rows.append((what, "10,000 req/s, p99 < 2 s", text))
    stalled = results["medians"].get("stalled", {}).get(OURS)
    text = f"{tables.number(stalled['held'])} MiB" if stalled else "-"
    rows.append(("S: held for a download that nobody reads", "1.0 MiB", text))
    start = results["start"].get(OURS)
    rows.append(("I: start to first answer", "120 ms", f"{start * 1e3:.0f} ms" if start else "-"))
    return tables.markdown(["", "goal", "this run"], [row for row in rows if row[2] != "-"])


def _ratio(results: dict[str, Any], goal: Goal) -> str:
    samples, medians = results["samples"], results["medians"]
    by_measure = goal.by_measure or goal.measure
    by = goal.by or _best(medians.get(by_measure, {}))
    ours = samples.get(goal.measure, {}).get(goal.of, [])
    ratio = ratios.paired(ours, samples.get(by_measure, {}).get(by, []))
    if ratio is None:
        return "-"
    figures = (
        f"{tables.number(medians[measure][name]['cpu'])} {_UNITS[measure]}"
        for measure, name in ((goal.measure, goal.of), (by_measure, by))
    )
    return f"{ratio} ({' against '.join(figures)}{'' if by == OURS else f', {by}'})"


def _best(medians: dict[str, dict[str, Any]]) -> str:
    def ends_connect(kind: Kind) -> bool:
        return not is_ours(kind) and kind.name != C_LOOP and not kind.relay

    real = [name for name in medians if ends_connect(KINDS[name])]
    return min(real, key=lambda name: float(medians[name]["cpu"]), default="")
