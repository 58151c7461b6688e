"""The metrics that are made of the board: their page has them all, their names are in the
convention, and quantiles are within their bucket."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path

import pytest

from spliceproxy.admin.exposition import Family, Histogram
from spliceproxy.admin.metrics import Process, families, of_worker, quantile
from spliceproxy.admin.usage import usage
from spliceproxy.observe.board import Board
from spliceproxy.relay.columns import FAMILIES, PID, STARTED, UP
from spliceproxy.relay.leases import State
from spliceproxy.relay.meters import Count

REQUESTS = FAMILIES["requests"].first
TUNNELS = FAMILIES["tunnels"].first
PAGE = Path(__file__).parents[2] / "docs" / "monitoring.md"
SUFFIXES = {"counter": "_total", "info": "_info"}


def found() -> list[Family]:
    own = usage(os.getpid())
    assert own is not None
    reading = Board.private().read()
    store = State(up=True, away_since=None, machines=2, round_trips=3, failures=0)
    processes, limits = [Process("admin", os.getpid(), own)], [Count("some", "key", 1, 2)]
    return list(families(reading, processes, engine="native", limits=limits, store=store))


def test_the_page_has_each_metric_with_its_labels() -> None:
    if not PAGE.exists():
        pytest.skip("not in a source tree")
    _, _, table = PAGE.read_text().partition("| metric | labels |")
    table, _, _ = table.partition("\n\n")
    written = {
        name: set(re.findall("`(.*?)`", labels))
        for name, labels in re.findall(r"^\| `(\w+)`[^|]*\|([^|]*)\|", table, re.M)
    }
    for family in found():
        name = family.name.removeprefix("spliceproxy_") + SUFFIXES.get(family.kind, "")
        labels = set(family.samples[0][0]) if family.samples else set()
        assert written.pop(name, None) == labels, name
    assert written == {}


def test_what_a_worker_has_counted_is_of_one_process() -> None:
    """Whichever row of the board it has: what another one has counted goes when that has ended."""
    board = Board.create(1)
    rows = {11: board.row(0), 12: board.row(board.room)}
    seen: dict[int, list[int]] = {}

    def look() -> None:
        reading = board.read()
        pid = of_worker(reading, 0, "worker_pid")
        seen.setdefault(pid, []).append(of_worker(reading, 0, "requests"))
        assert of_worker(reading, 0, "tunnels") == sum(rows[pid][TUNNELS] for pid in rows)

    for turn in range(3):  # each is replaced by the other, in the end
        old, new = (11, 12) if turn % 2 == 0 else (12, 11)
        rows[old][PID], rows[old][UP], rows[old][STARTED] = old, 1, turn + 1
        rows[old][REQUESTS] += 1000
        rows[old][TUNNELS] = 5
        look()
        rows[new][PID], rows[new][STARTED] = new, turn + 2
        look()
        rows[new][UP], rows[new][TUNNELS] = 1, 7
        rows[new][REQUESTS] += 1
        look()
        if turn == 1:  # it does not take over
            board.fold(0 if new == 11 else board.room)
            look()
            rows[new][PID], rows[new][STARTED], rows[new][UP] = new, turn + 2, 1
        rows[old][UP] = 0
        look()
        board.fold(0 if old == 11 else board.room)
        look()
        for numbers in seen.values():
            assert numbers == sorted(numbers), seen
        seen.clear()


def test_names_are_in_the_convention() -> None:
    names = [family.name for family in found()]
    assert len(names) == len(set(names))
    for family in found():
        assert re.fullmatch("spliceproxy(_[a-z]+)+", family.name)
        assert family.help.endswith(".")
        assert not family.name.endswith(("_total", "_info", "_sum", "_count", "_bucket"))
        if family.kind == "histogram":
            assert family.name.endswith("_seconds")


def test_what_a_process_uses_is_what_it_says_itself() -> None:
    own = usage(os.getpid())
    assert own is not None
    assert own.descriptors == len(os.listdir("/proc/self/fd")) - 1
    assert 1e6 < own.memory < 1e11
    assert own.most_descriptors == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert own.threads >= 1
    assert usage(2**22 + 1) is None


@pytest.mark.parametrize(
    ("counts", "share", "found"),
    [
        ((0, 0, 0), 0.5, None),
        ((10, 0, 0), 0.5, (0.5, 0.0, 1.0)),
        ((10, 10, 0), 0.5, (1.0, 0.0, 1.0)),
        ((10, 10, 0), 0.75, (1.5, 1.0, 2.0)),
        ((0, 0, 5), 0.5, (2.0, 2.0, None)),  # beyond the last bound
        ((1, 0, 9), 0.05, (0.5, 0.0, 1.0)),
    ],
)
def test_quantiles(
    counts: tuple[int, ...], share: float, found: tuple[float, float, float | None] | None
) -> None:
    before = Histogram((1.0, 2.0), (1, 2, 3), 0.0)
    after = Histogram((1.0, 2.0), [a + b for a, b in zip(before.counts, counts, strict=True)], 0.0)
    assert quantile(before, after, share) == found
