"""The alert rules and the dashboard: promtool(1) takes each expression, each alert is told when it
should be and not before, and each metric that they name is in ``/metrics`` of a running proxy."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from admin_rig import NewAdmin
from harness import need, wait_for

from spliceproxy.deploy import alerts, dashboard, yaml

prometheus = pytest.importorskip("prometheus_client.parser")

WHERE = {"job": "spliceproxy", "instance": "10.0.0.21:9810"}

Series = Mapping[str, str]
"""Values by a metric and its labels, as promtool writes them: ``0+5x20`` is 0, 5, 10, and so on,
with a minute between two."""


class Case(NamedTuple):
    """``told``: series with which the alert is told at ``at``; ``quiet``: with which it is not.
    ``labels`` are those of the alert, beside WHERE and its severity."""

    told: Series
    quiet: Series
    at: str = "30m"
    labels: Mapping[str, str] = {}


STEADY = "7x60"
BUSY = {'requests_total{method="GET",status="2xx"}': "0+600x60"}  # 10 in a second

CASES = {
    "SpliceproxyAbsent": Case({}, {'build_info{version="1"}': "1x60"}),
    "SpliceproxyWorkerDown": Case(
        {'worker_up{worker="1"}': "1x10 0x50", 'worker_up{worker="0"}': "1x60"},
        {'worker_up{worker="1"}': "1x29 0x50"},  # for a minute only
        labels={"worker": "1"},
    ),
    "SpliceproxyWorkersDie": Case(
        {"worker_deaths_total": "2x20 3x40"}, {"worker_deaths_total": STEADY}
    ),
    "SpliceproxyFailures": Case(
        {**BUSY, 'errors_total{error="connection_refused"}': "0+20x60",
         'requests_cut_total{by="origin"}': "0+10x60",
         'tunnels_ended_total{reason="origin-reset"}': "0+10x60"},
        {**BUSY, 'errors_total{error="http_request_denied"}': "0+300x60",
         'requests_cut_total{by="client"}': "0+300x60",
         'errors_total{error="connection_refused"}': "0+10x60",
         'requests_cut_total{by="origin"}': "0+5x60",
         'tunnels_ended_total{reason="origin-reset"}': "0+5x60"},
    ),
    "SpliceproxyClientsRefused": Case(
        {'errors_total{error="connection_limit_reached"}': "0+1x60"},
        {'errors_total{error="connection_limit_reached"}': STEADY,
         'errors_total{error="http_request_denied"}': "0+9x60"},
    ),
    "SpliceproxyDescriptors": Case(
        {'process_open_fds{process="0"}': "900x60", 'process_max_fds{process="0"}': "1000x60"},
        {'process_open_fds{process="0"}': "700x60", 'process_max_fds{process="0"}': "1000x60",
         'process_open_fds{process="1"}': "900x60", 'process_max_fds{process="1"}': "0x60"},
        labels={"process": "0"},
    ),
    "SpliceproxyBusy": Case(
        {'process_cpu_seconds_total{process="3"}': "0+58x60"},
        {'process_cpu_seconds_total{process="3"}': "0+50x60",
         'process_cpu_seconds_total{process="admin"}': "0+58x60"},
        labels={"process": "3"},
    ),
    "SpliceproxyNames": Case(
        {'errors_total{error="dns_timeout"}': "0+20x60", "lookups_total": "0+100x60"},
        {'errors_total{error="dns_timeout"}': "0+5x60", "lookups_total": "0+100x60",
         'errors_total{error="destination_not_found"}': "0+50x60"},
    ),
    "SpliceproxyDialsSlow": Case(
        {'dial_seconds_bucket{le="2.5"}': "0+80x60", 'dial_seconds_bucket{le="5"}': "0+100x60",
         'dial_seconds_bucket{le="+Inf"}': "0+100x60"},
        {'dial_seconds_bucket{le="2.5"}': "0+98x60", 'dial_seconds_bucket{le="5"}': "0+100x60",
         'dial_seconds_bucket{le="+Inf"}': "0+100x60"},
    ),
    "SpliceproxyDecisionsSlow": Case(
        {"questions_open": "1500x60"}, {"questions_open": "900x28 1500x1 900x30"}
    ),
    "SpliceproxyPolicyFails": Case(
        {"function_failures_total": "0x25 1x35"}, {"function_failures_total": "0x5 1x55"}
    ),
    "SpliceproxyReloadRefused": Case(
        {'reloads_total{result="refused"}': "0x25 1x35"},
        {'reloads_total{result="done"}': "0x25 1x35", 'reloads_total{result="refused"}': "1x60"},
        labels={"result": "refused"},
    ),
    "SpliceproxyGuessing": Case(
        {'authentication_failures_total{reason="wrong"}': "0+60x60",
         'authentication_failures_total{reason="throttled"}': "0+60x60"},
        {'authentication_failures_total{reason="missing"}': "0+600x60",
         'authentication_failures_total{reason="wrong"}': "0+10x60"},
    ),
    "SpliceproxyBalancerHeaders": Case(
        {'proxy_headers_total{result="missing"}': "0+1x60"},
        {'proxy_headers_total{result="v2"}': "0+600x60",
         'proxy_headers_total{result="closed"}': "0+60x60"},
    ),
    "SpliceproxyLinesLost": Case(
        {'log_lines_lost_total{log="access",cause="slow"}': "0x20 5x40"},
        {'log_lines_lost_total{log="access",cause="slow"}': STEADY},
        labels={"log": "access", "cause": "slow"},
    ),
    "SpliceproxyMemory": Case({"clients_lost_total": "0x20 1x40"}, {"clients_lost_total": STEADY}),
    "SpliceproxyPipesShort": Case(
        {"pipe_shortages_total": "0+90x60"}, {"pipe_shortages_total": "0+30x60"}
    ),
    "SpliceproxySlowEngine": Case(
        {'engine_info{engine="splice"}': "1x60"},
        {'engine_info{engine="native"}': "1x60"},
        labels={"engine": "splice"},
    ),
}  # fmt: skip


def promtool(*args: str | Path) -> None:
    done = subprocess.run(
        [need("promtool"), *args], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """The file of rules."""
    path = tmp_path / "alerts.yml"
    path.write_text(yaml.text(alerts.rules()))
    return path


def test_promtool_takes_the_rules(rules: Path) -> None:
    promtool("check", "rules", rules)


def test_each_alert_has_a_case() -> None:
    assert list(CASES) == [one.name for one in alerts.ALERTS]


def filled(text: str, labels: Mapping[str, str]) -> str:
    """A text of an annotation, as Prometheus makes it."""
    return re.sub(r"{{ \$labels\.(\w+) }}", lambda found: labels[found[1]], text)


def told(one: alerts.Alert, case: Case) -> list[dict[str, Any]]:
    """What promtool shall find."""
    labels = {**WHERE, **case.labels} if case.told else dict(case.labels)
    texts = {"summary": one.summary, "description": one.advice}
    return [
        {
            "exp_labels": {**labels, "severity": one.severity},
            "exp_annotations": {name: filled(text, labels) for name, text in texts.items()},
        }
    ]


def series(given: Series) -> list[dict[str, str]]:
    where = ",".join(f'{name}="{value}"' for name, value in WHERE.items())
    found = []
    for name, values in given.items():
        metric, _, labels = name.rstrip("}").partition("{")
        inside = f"{labels},{where}" if labels else where
        found.append({"series": f"spliceproxy_{metric}{{{inside}}}", "values": values})
    return found


def test_each_alert_is_told_when_it_should_be(rules: Path, tmp_path: Path) -> None:
    tests: list[dict[str, Any]] = []
    for one in alerts.ALERTS:
        case = CASES[one.name]
        for given, wanted in ((case.told, told(one, case)), (case.quiet, [])):
            tests.append(
                {
                    "name": f"{one.name}, {'told' if wanted else 'quiet'}",
                    "interval": "1m",
                    "input_series": series(given),
                    "alert_rule_test": [
                        {"eval_time": case.at, "alertname": one.name, "exp_alerts": wanted}
                    ],
                }
            )
    path = tmp_path / "tests.yml"
    path.write_text(
        yaml.text({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": tests})
    )
    promtool("test", "rules", path)


def test_a_wrong_case_is_found(rules: Path, tmp_path: Path) -> None:
    """That the test above can fail."""
    one = alerts.ALERTS[1]
    case = CASES[one.name]
    test = {
        "interval": "1m",
        "input_series": series(case.quiet),
        "alert_rule_test": [
            {"eval_time": case.at, "alertname": one.name, "exp_alerts": told(one, case)}
        ],
    }
    path = tmp_path / "tests.yml"
    path.write_text(
        yaml.text({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [test]})
    )
    with pytest.raises(AssertionError, match=one.name):
        promtool("test", "rules", path)


# ---- the dashboard ---------------------------------------------------------------------------


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = dashboard.dashboard()["panels"]
    return [one for one in found if one["type"] != "row"]


def expressions() -> list[str]:
    """Of the dashboard, with values for its variables."""
    return [
        target["expr"].replace("$job", ".*").replace("$instance", ".*").replace(
            dashboard.RATE, "5m"
        )
        for panel in panels()
        for target in panel["targets"]
    ]  # fmt: skip


def test_promtool_takes_each_expression_of_the_dashboard(tmp_path: Path) -> None:
    found = expressions()
    assert len(found) > 40
    assert not [one for one in found if "$" in one]
    made = [{"record": f"panel:{at}", "expr": one} for at, one in enumerate(found)]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.text({"groups": [{"name": "panels", "rules": made}]}))
    promtool("check", "rules", path)


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    made = json.loads(json.dumps(dashboard.dashboard()))
    numbers = [one["id"] for one in made["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in made["panels"]:
        place = panel["gridPos"]
        assert 0 <= place["x"] <= place["x"] + place["w"] <= dashboard.WIDTH
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    variables = {f"${one['name']}" for one in made["templating"]["list"]}
    used = set(re.findall(r"\$\w+", json.dumps([one["targets"] for one in panels()])))
    assert used - {dashboard.RATE} == variables - {"$source"}
    for panel in panels():
        for target in panel["targets"]:
            named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            by = re.search(r"by \(([\w, ]+)\)", target["expr"])
            grouped = set(by[1].split(", ")) if by else {"instance", "process"}
            assert named <= grouped, panel["title"]


# ---- what they name --------------------------------------------------------------------------


def named(expressions: Iterable[str]) -> dict[str, set[str]]:
    """The metrics of expressions, each with the labels that are asked for."""
    found: dict[str, set[str]] = {}
    for text in expressions:
        for name, condition in re.findall(r"(spliceproxy_\w+)(?:{([^}]*)})?", text):
            labels = set(re.findall(r'(\w+)(?:=|!=|=~|!~)"', condition))
            found.setdefault(name, set()).update(labels - WHERE.keys())
    return found


def test_each_metric_is_one_of_a_running_proxy(new_admin: NewAdmin) -> None:
    admin = new_admin()
    wait_for(
        lambda: 'engine_info{engine="native"}' in admin.ask("/metrics", token=None).text,
        "that it knows its engine",
    )
    seen: dict[str, set[str]] = {}
    text = admin.ask("/metrics", token=None).text
    for family in prometheus.text_string_to_metric_families(text):
        for sample in family.samples:
            seen.setdefault(sample.name, set()).update(sample.labels)
    found = named([*(one.expr for one in alerts.ALERTS), *expressions()])
    assert len(found) > 30
    for name, labels in found.items():
        assert name in seen, name
        assert labels <= seen[name], name
    scaled = "spliceproxy_tunnels"  # the autoscaler of docs/kubernetes.md goes by it
    assert scaled in seen


def test_each_value_of_a_label_is_one_that_there_is(new_admin: NewAdmin) -> None:
    """A pattern that matches nothing would make an alert that is never told."""
    admin = new_admin()
    text = admin.ask("/metrics", token=None).text
    values: dict[tuple[str, str], set[str]] = {}
    for family in prometheus.text_string_to_metric_families(text):
        for sample in family.samples:
            for label, value in sample.labels.items():
                values.setdefault((sample.name, label), set()).add(value)
    for expr in [*(one.expr for one in alerts.ALERTS), *expressions()]:
        for name, condition in re.findall(r"(spliceproxy_\w+){([^}]*)}", expr):
            for label, pattern in re.findall(r'(\w+)(?:=|!=|=~|!~)"([^"]*)"', condition):
                if label in WHERE or name.endswith("engine_info"):
                    continue
                for one in pattern.split("|"):
                    known = values[name, label]
                    assert any(re.fullmatch(one, value) for value in known), (name, label, one)
