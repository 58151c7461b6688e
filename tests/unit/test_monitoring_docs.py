"""docs/monitoring.md, docs/log.md and docs/admin.md say of numbers, events and times what the code
does."""

from __future__ import annotations

import re
from pathlib import Path

from spliceproxy.admin.events import FIELDS
from spliceproxy.deploy.alerts import ALERTS
from spliceproxy.observe.accesslog import FLUSH_SECONDS
from spliceproxy.observe.outcome import OF_CUTS, OF_ERRORS, OF_LETTERS, OF_TUNNELS, OUTCOMES
from spliceproxy.observe.termination import _OF_ERRORS, _OF_REASONS
from spliceproxy.relay.columns import BOUNDS, ENDED_BY, FAMILIES

DOCS = Path(__file__).parents[2] / "docs"


def section(page: str, heading: str) -> str:
    """What stands below a heading."""
    _, _, rest = (DOCS / page).read_text().partition(f"\n## {heading}\n")
    assert rest, heading
    return rest.partition("\n## ")[0]


def rows(text: str, head: str) -> list[list[str]]:
    """The cells of the rows of the table with this heading."""
    _, _, rest = text.partition(f"{head}\n")
    assert rest, head
    lines = rest.partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_what_counts_as_failed() -> None:
    found: dict[str, dict[str, str]] = {}
    table = rows(
        section("monitoring.md", "What counts as failed?"),
        "| metric | label | what has happened | outcome |",
    )
    for metric, labels, _, outcome in table:
        assert outcome in OUTCOMES
        for label in names(labels):
            of_metric = found.setdefault(*names(metric), {})
            assert label not in of_metric
            of_metric[label] = outcome
    assert found == {
        "errors_total": OF_ERRORS,
        "requests_cut_total": OF_CUTS,
        "tunnels_ended_total": OF_TUNNELS,
    }


def test_the_query_for_all_that_failed() -> None:
    text = section("monitoring.md", "What counts as failed?")
    wanted = {
        "errors": {name for name, what in OF_ERRORS.items() if what == "denied"},
        "requests_cut": {name for name, what in OF_CUTS.items() if what == "failed"},
        "tunnels_ended": {name for name, what in OF_TUNNELS.items() if what == "failed"},
    }
    for name, labels in wanted.items():
        (label,) = FAMILIES[name].labels
        (sign, given) = re.findall(rf'{name}_total{{{label}(!?=?~)"([^"]*)"}}', text)[0]
        assert sign == ("!~" if name == "errors" else "=~")
        assert set(given.split("|")) == labels


def test_each_end_has_an_outcome() -> None:
    """Whoever adds a letter, an error or a reason has to say what it counts as."""
    assert set(OF_LETTERS) == {"-", *ENDED_BY}
    assert set(_OF_ERRORS.values()) | set(filter(None, _OF_REASONS.values())) <= set(ENDED_BY)
    reasons = {values[0] for values in FAMILIES["tunnels_ended"].values}
    of_transfers = {"source-error", "target-error", "source-eof", "target-idle-timeout"}
    assert reasons - of_transfers == set(OF_TUNNELS)


def test_the_bounds_of_the_buckets() -> None:
    text = section("monitoring.md", "How exact are the percentiles?").replace("\n", " ")
    given = re.search(r"upper bounds (.*?) ms, (.*?) s\.", text)
    assert given is not None
    milliseconds, seconds = (re.findall(r"[0-9.]+", each) for each in given.groups())
    found = [float(each) * 1e3 for each in milliseconds] + [float(each) * 1e6 for each in seconds]
    assert found == list(BOUNDS)


def test_the_table_of_alerts() -> None:
    text = section("monitoring.md", "Is there a dashboard, and what should wake me?")
    found = [(*names(row[0]), row[1]) for row in rows(text, "| alert | severity | when |")]
    assert found == [(one.name, one.severity) for one in ALERTS]


def test_the_table_of_events() -> None:
    text = section("admin.md", "What happens just now?")
    assert [names(row[0])[0] for row in rows(text, "| kind | what has happened |")] == list(FIELDS)
    found: dict[str, tuple[str, ...]] = {}
    kinds: list[str] = []
    for kind, fields, _ in rows(text, "| kind | field | what it is |"):
        kinds = names(kind) or kinds
        for each in kinds:
            found[each] = (*found.get(each, ()), *names(fields))
    assert {kind: set(fields) for kind, fields in found.items()} == {
        kind: set(fields) for kind, fields in FIELDS.items()
    }


def test_how_late_a_line_is_written() -> None:
    assert f"up to {FLUSH_SECONDS:g} s after" in (DOCS / "log.md").read_text()
