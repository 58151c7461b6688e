"""What the benchmark computes: ratios, queues, goals, and what it counts and asks for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from spliceproxy import load_config

PERF = Path(__file__).parents[2] / "perf"
if not PERF.is_dir():
    pytest.skip("not in a source tree", allow_module_level=True)
# Not for longer than that: perf/relay.py would stand before tests/relay.
sys.path.insert(0, str(PERF))
try:
    from rig import goals, kinds, load, ours, proxies, ratios, settings, stalled
finally:
    sys.path.remove(str(PERF))


def rounds(*costs: float, first: int = 0) -> list[dict[str, Any]]:
    return [{"round": first + n, "cpu": cost} for n, cost in enumerate(costs)]


def test_ratios_are_of_the_same_round() -> None:
    # The second round had a slow machine, for both: the medians alone would say 1.5.
    ratio = ratios.paired(rounds(20.0, 60.0, 30.0), rounds(10.0, 30.0, 15.0))
    assert ratio == (2.0, 2.0, 2.0, 3)
    missing = ratios.paired(rounds(30.0, 30.0, first=1), rounds(10.0, 15.0))
    assert missing == (2.0, 2.0, 2.0, 1)
    assert ratios.paired(rounds(1.0), rounds(1.0, first=1)) is None
    assert ratios.paired([], rounds(1.0)) is None


def test_the_interval_holds_the_median_and_leaves_the_outlier() -> None:
    costs = [9.0, 9.5, 10.0, 10.5, 11.0, 10.2, 9.8, 9.9, 10.1, 40.0]
    ratio = ratios.paired(rounds(*costs), rounds(*[10.0] * len(costs)))
    assert ratio is not None
    assert ratio.median == pytest.approx(1.005)
    assert 0.95 <= ratio.low <= ratio.median <= ratio.high <= 1.1
    assert ratio == ratios.paired(rounds(*costs), rounds(*[10.0] * len(costs)))


def test_an_interval_is_told_from_three_rounds_on() -> None:
    assert str(ratios.Ratio(1.234, 1.0, 1.5, 2)) == "1.23"
    assert str(ratios.Ratio(1.234, 1.0, 1.5, 3)) == "1.23 [1.00, 1.50]"


TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0100007F:0BB8 0200007F:C350 01 00000100:00000007 01:00000014 00000000     0        0 2
   2: 0100007F:D431 0100007F:2329 01 00000009:00001000 00:00000000 00000000     0        0 3
   3: 0100007F:2329 0100007F:D431 01 00400000:00000000 01:00000014 00000000     0        0 4
   4: 0200007F:C350 0100007F:0BB8 01 00000000:00200000 00:00000000 00000000     0        0 5
"""


def test_queues_are_those_of_the_proxy() -> None:
    # Port 3000 is the proxy's, 9001 the origin's; what these have queued is not counted.
    assert stalled.queues(TCP.splitlines(), {3000}, 9001) == (0x1000, 0x100)


def results(**medians: dict[str, float]) -> dict[str, Any]:
    named = {name.replace("_", "-"): found for name, found in medians.items()}
    return {
        "samples": {m: {n: rounds(cpu) for n, cpu in by.items()} for m, by in named.items()},
        "medians": {m: {n: {"cpu": cpu} for n, cpu in by.items()} for m, by in named.items()},
        "idle": {},
        "sweep": {},
        "start": {ours.OURS: 0.118},
    }


def test_goals_divide_by_the_named_or_by_the_best_that_ends_connect() -> None:
    setup = {"spliceproxy": 90.0, "haproxy": 60.0, "squid": 240.0, "tinyproxy": 150.0,
             "spliceproxy+function": 99.0, "c-loop": 50.0}  # fmt: skip
    text = goals.table(results(setup=setup, setup_many={"spliceproxy": 108.0}))
    lines = {"; ".join(line.split(" | ")[:2]): line for line in text.splitlines()}
    any_connect = lines["| C: CONNECT set-up; 0.5 x any with CONNECT"]
    assert "0.60 (90 µs against 150 µs, tinyproxy)" in any_connect
    assert "1.10 (99 µs against 90 µs)" in lines["| C, with a function; 1.25 x C"]
    assert "1.20 (108 µs against 90 µs)" in lines["| C, 20,000 hosts by turns; 1.25 x C"]
    assert "| 118 ms |" in lines["| I: start to first answer; 120 ms"]
    assert "POST" not in text  # not measured


@pytest.mark.parametrize(
    ("counted", "right"), [(100, True), (104, True), (99, False), (105, False)]
)
def test_what_a_function_counts_must_be_the_answers(counted: int, right: bool) -> None:
    report = {"counted": {"calls": counted}}
    if right:
        load.check_counts(report, 100, 4)
        return
    with pytest.raises(load.Wrong, match=f"100 answers, but the function has counted {counted}"):
        load.check_counts(report, 100, 4)


def test_only_what_is_named_is_measured() -> None:
    environ = {"ONLY": "setup* idle", "PEERS": "", "ROUNDS": "2"}
    chosen = settings.read(environ)
    assert [chosen.wants(name) for name in ("setup", "setup-many", "idle")] == [True] * 3
    assert not chosen.wants("sweep")
    assert settings.read({"PEERS": ""}).wants("sweep")


def test_a_variable_names_a_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NGINX_131", raising=False)
    assert proxies.KINDS["nginx-tunnel"].missing()
    monkeypatch.setenv("NGINX_131", sys.executable)
    assert kinds.find("nginx-1.31") == sys.executable
    monkeypatch.setenv("NGINX_131", "/nowhere/nginx")
    with pytest.raises(SystemExit):
        kinds.find("nginx-1.31")
    assert "NGINX_131: '/nowhere/nginx' is no program" in capsys.readouterr().err


def test_the_rules_are_as_many_as_told_and_of_every_kind(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(ours.rules(1000))
    made = load_config(str(path)).policy.rules
    assert len({rule.id for rule in made}) == len(made) == 1000
    for condition in ("hosts", "clients", "ports", "methods", "networks"):
        assert any(getattr(rule, condition) for rule in made)
