"""A dashboard for Grafana, over the metrics of ``GET /metrics``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from spliceproxy.deploy.alerts import failures
from spliceproxy.observe.outcome import DENIED, OF_ERRORS

RATE = "$__rate_interval"  # of Grafana: four scrapes at least
HERE = 'job=~"$job",instance=~"$instance"'
"""The proxies that are chosen at the top."""

WIDTH, HEIGHT = 24, 8
"""Of Grafana's grid: its columns, and the rows of a panel."""


class Panel(NamedTuple):
    """``curves``: pairs of an expression and the legend, in which labels stand in braces."""

    title: str
    unit: str
    curves: Sequence[tuple[str, str]]
    text: str = ""
    stack: bool = False


class Section(NamedTuple):
    title: str
    panels: Sequence[Panel]
    kind: str = "timeseries"


def _now(name: str, more: str = "") -> str:
    return f"sum(spliceproxy_{name}{{{HERE}{more}}})"


def _rate(name: str, by: str = "", more: str = "") -> str:
    grouped = f" by ({by}) " if by else ""
    return f"sum{grouped}(rate(spliceproxy_{name}_total{{{HERE}{more}}}[{RATE}]))"


def _quantiles(name: str) -> list[tuple[str, str]]:
    return [
        (
            f"histogram_quantile({share}, sum by (le) "
            f"(rate(spliceproxy_{name}_seconds_bucket{{{HERE}}}[{RATE}])))",
            words,
        )
        for share, words in ((0.5, "half"), (0.95, "95 %"), (0.99, "99 %"))
    ]


_DENIED = "|".join(error for error, what in OF_ERRORS.items() if what == DENIED)
_FAILED = failures(f"{HERE},", RATE)
_REQUESTS = _rate("requests")

SECTIONS = (
    Section(
        "Now",
        [
            Panel("Proxies", "none", [(_now("build_info"), "")]),
            Panel(
                "Workers that do not answer",
                "none",
                [(f"sum(spliceproxy_worker_up{{{HERE}}} == bool 0)", "")],
            ),
            Panel("Tunnels", "short", [(_now("tunnels"), "")]),
            Panel(
                "Connections", "short", [(_now("connections"), "")], "Of clients, without tunnels."
            ),
            Panel("Requests", "reqps", [(_REQUESTS, "")]),
            Panel("Failed", "percentunit", [(f"({_FAILED}) / {_REQUESTS}", "")]),
        ],
        "stat",
    ),
    Section(
        "Traffic",
        [
            Panel(
                "Requests by status", "reqps", [(_rate("requests", "status"), "{{status}}")],
                "A tunnel counts when it begins. none: the client was sent no status.", True,
            ),
            Panel("Requests by method", "reqps", [(_rate("requests", "method"), "{{method}}")], "",
                  True),
            Panel(
                "What becomes of them",
                "reqps",
                [
                    (_FAILED, "failed"),
                    (_rate("errors", more=f',error=~"{_DENIED}"'), "denied"),
                    (_rate("requests_cut", more=',by="client"'), "broken off by the client"),
                ],
                "docs/monitoring.md says what counts as what.",
            ),
            Panel(
                "Bytes",
                "Bps",
                [(_rate("bytes", "direction, path"), "{{direction}}, {{path}}")],
                "in: from clients; out: to clients. spliced: moved by the kernel.",
                True,
            ),
            Panel(
                "Tunnels by proxy",
                "short",
                [(f"sum by (instance) (spliceproxy_tunnels{{{HERE}}})", "{{instance}}")],
            ),
            Panel(
                "Tunnels that begin and end",
                "ops",
                [
                    (_rate("tunnels_begun"), "begin"),
                    (_rate("tunnels_ended", "reason"), "{{reason}}"),
                ],
            ),
            Panel(
                "Connections of clients",
                "short",
                [
                    (f"sum by (by) (spliceproxy_connections{{{HERE}}})", "served in {{by}}"),
                    (_now("questions_open"), "wait for a decision"),
                ],
                "Without tunnels.",
            ),
            Panel(
                "New connections",
                "ops",
                [
                    (_rate("connections_begun"), "of clients"),
                    (_rate("dials"), "to origins"),
                    (_rate("origin_reuses"), "to origins, used again"),
                ],
            ),
        ],
    ),
    Section(
        "Time",
        [
            Panel(
                "Until the first byte of an answer", "s", _quantiles("time_to_first_byte"),
                "From the whole head of a request.",
            ),
            Panel(
                "Until an origin is connected to", "s", _quantiles("dial"),
                "With the look-up of its name.",
            ),
        ],
    ),
    Section(
        "What fails",
        [
            Panel(
                "Answers of the proxy by error", "reqps", [(_rate("errors", "error"), "{{error}}")],
                "Proxy Error Types of RFC 9209.",
            ),
            Panel("Dials that fail", "ops", [(_rate("dial_errors", "error"), "{{error}}")]),
            Panel(
                "Requests ended early, by whom", "reqps", [(_rate("requests_cut", "by"), "{{by}}")]
            ),
            Panel(
                "PROXY headers", "ops", [(_rate("proxy_headers", "result"), "{{result}}")],
                "Where a balancer is in front.",
            ),
        ],
    ),
    Section(
        "Policy",
        [
            Panel(
                "Decisions by rule", "reqps",
                [(f"topk(20, {_rate('decisions', 'action, rule')})", "{{action}} {{rule}}")],
            ),
            Panel(
                "Without right credentials", "reqps",
                [(_rate("authentication_failures", "reason"), "{{reason}}")],
            ),
            Panel(
                "Functions of --policy",
                "ops",
                [
                    (_rate("function_failures"), "authorize has failed"),
                    (_rate("on_close_dropped"), "on_close was not called"),
                ],
            ),
            Panel(
                "Settings",
                "short",
                [
                    (
                        f"max by (instance) (spliceproxy_generation{{{HERE}}})",
                        "generation at {{instance}}",
                    ),
                    (
                        f"sum by (result) (increase(spliceproxy_reloads_total{{{HERE}}}[{RATE}]))",
                        "reloads: {{result}}",
                    ),
                ],
            ),
        ],
    ),
    Section(
        "Inside",
        [
            Panel(
                "Served in C", "percentunit",
                [
                    (f"{_rate('lane_requests')} / {_REQUESTS}", "requests in the lane"),
                    (
                        f"{_rate('route_hits')} / ({_rate('route_hits')} + {_rate('questions')})",
                        "decisions repeated",
                    ),
                ],
            ),
            Panel("Given back to Python", "ops", [(_rate("given_back", "cause"), "{{cause}}")]),
            Panel(
                "Names",
                "short",
                [
                    (_rate("lookups"), "look-ups in a second"),
                    (_now("names_cached"), "kept"),
                    (_now("names_asked"), "asked for now"),
                ],
            ),
            Panel(
                "Pipes",
                "short",
                [
                    (f"sum by (state) (spliceproxy_pipes{{{HERE}}})", "{{state}}"),
                    (_rate("pipe_shortages"), "missing, in a second"),
                    (_rate("splice_fallbacks"), "splicing given up, in a second"),
                ],
            ),
            Panel(
                "Lines of the log",
                "ops",
                [
                    (_rate("log_lines_written"), "written"),
                    (_rate("log_lines_lost", "log, cause"), "{{log}} lost: {{cause}}"),
                ],
            ),
            Panel(
                "Idle connections to origins", "short",
                [(_now("origin_connections_idle"), "kept between two requests")],
            ),
        ],
    ),
    Section(
        "Processes",
        [
            Panel(
                "CPU time", "percentunit",
                [(
                    f"rate(spliceproxy_process_cpu_seconds_total{{{HERE}}}[{RATE}])",
                    "{{instance}} {{process}}",
                )],
                "100 % is one processor.",
            ),
            Panel(
                "Memory", "bytes",
                [(f"spliceproxy_process_resident_memory_bytes{{{HERE}}}",
                  "{{instance}} {{process}}")],
                "With what processes share.",
            ),
            Panel(
                "Descriptors", "short",
                [(f"spliceproxy_process_open_fds{{{HERE}}}", "{{instance}} {{process}}")],
            ),
            Panel(
                "Workers",
                "short",
                [
                    (f"sum by (instance) (spliceproxy_worker_up{{{HERE}}})", "{{instance}}"),
                    (
                        "sum by (instance) "
                        f"(increase(spliceproxy_worker_deaths_total{{{HERE}}}[{RATE}]))",
                        "died at {{instance}}",
                    ),
                ],
            ),
        ],
    ),
)  # fmt: skip


def dashboard() -> dict[str, Any]:
    """As Grafana imports it."""
    return {
        "uid": "spliceproxy",
        "title": "spliceproxy",
        "tags": ["proxy"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": list(_variables())},
        "panels": list(_panels()),
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    queries = {
        "job": "label_values(spliceproxy_build_info, job)",
        "instance": 'label_values(spliceproxy_build_info{job=~"$job"}, instance)',
    }
    for name, query in queries.items():
        yield {
            "name": name,
            "label": name,
            "type": "query",
            "datasource": {"type": "prometheus", "uid": "${source}"},
            "query": {"query": query, "refId": name},
            "refresh": 2,  # when the range of time changes
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        }


def _panels() -> Iterator[dict[str, Any]]:
    top = 0
    number = 1
    for section in SECTIONS:
        yield {
            "id": number,
            "type": "row",
            "title": section.title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1},
        }
        top += 1
        number += 1
        in_a_line = len(section.panels) if section.kind == "stat" else 2
        width, height = WIDTH // in_a_line, 4 if section.kind == "stat" else HEIGHT
        for at, panel in enumerate(section.panels):
            line, column = divmod(at, in_a_line)
            place = {"x": column * width, "y": top + line * height, "w": width, "h": height}
            yield _panel(panel, section.kind, number, place)
            number += 1
        top += -(-len(section.panels) // in_a_line) * height


def _panel(panel: Panel, kind: str, number: int, place: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${source}"}
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    options: dict[str, Any] = {}
    if kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}}
    else:
        options = {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
        if panel.stack:
            defaults["custom"] = {"stacking": {"mode": "normal"}, "fillOpacity": 20}
    return {
        "id": number,
        "type": kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": source,
                "expr": expr,
                "legendFormat": legend or "__auto",
            }
            for at, (expr, legend) in enumerate(panel.curves)
        ],
    }
