"""The board: rows of several processes in one mapping, their names, and what readers see."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from spliceproxy.observe.board import _FOLDS, Board, Unreadable
from spliceproxy.observe.names import ROOM_FOR_FUNCTIONS
from spliceproxy.relay import columns
from spliceproxy.relay.columns import (
    ALLOW,
    BOUNDS,
    COUNTER,
    DENY,
    DYNAMIC,
    FAMILIES,
    FIXED,
    OTHER,
    WIDTH,
)

Totals = dict[str, dict[tuple[str, ...], int]]


@contextlib.contextmanager
def child(work: Callable[[], None]) -> Iterator[int]:
    """A process that does this, and is ended at the end of the block; its id."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def in_a_child(work: Callable[[], None]) -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def count(row: memoryview, column: int, n: int = 1) -> None:
    row[column] += n


def counters(totals: Totals) -> dict[tuple[str, tuple[str, ...]], int]:
    """Those that may never go back."""
    return {
        (name, values): number
        for name, numbers in totals.items()
        if FAMILIES[name].kind in (COUNTER, columns.HISTOGRAM)
        for values, number in numbers.items()
    }


# ---- the table -----------------------------------------------------------------------------


def test_each_column_has_one_place() -> None:
    places = [family.first + at for family in FAMILIES.values() for at in range(len(family.values))]
    assert places == list(range(FIXED))
    assert WIDTH * 8 % 128 == 0
    assert FIXED + DYNAMIC <= WIDTH
    for family in FAMILIES.values():
        assert all(len(values) == len(family.labels) for values in family.values)
        assert len(set(family.values)) == len(family.values)
        assert family.column(*family.values[-1]) == family.first + len(family.values) - 1


@pytest.mark.parametrize(
    ("method", "status", "values"),
    [
        ("GET", 200, ("GET", "2xx")),
        ("CONNECT", 0, ("CONNECT", "none")),
        ("OPTIONS", 599, ("OPTIONS", "5xx")),
        ("PROPFIND", 101, ("other", "1xx")),
        ("", 400, ("other", "4xx")),
        ("GET", 999, ("GET", "other")),
    ],
)
def test_a_request_has_its_column(method: str, status: int, values: tuple[str, ...]) -> None:
    assert columns.request_column(method, status) == FAMILIES["requests"].column(*values)


def test_a_time_is_in_the_bucket_that_ends_at_or_above_it() -> None:
    row = columns.private()
    times = [0, BOUNDS[0], BOUNDS[0] + 1, BOUNDS[-1], BOUNDS[-1] + 1]
    for time in times:
        columns.observe(row, columns.DIAL_SECONDS, time)
    family = FAMILIES["dial_seconds"]
    found = {values[0]: row[family.first + at] for at, values in enumerate(family.values)}
    assert {key: n for key, n in found.items() if n} == {
        "0.0005": 2,
        "0.001": 1,
        "10": 1,
        "+Inf": 1,
        "sum": sum(times),
    }


# ---- rows ----------------------------------------------------------------------------------


def test_both_rows_of_a_worker_are_read_as_one() -> None:
    board = Board.create(2)
    column = FAMILIES["tunnels"].first
    before, after = board.row(1), board.row(board.room + 1)
    for row, pid, started, number in ((before, 11, 100, 4), (after, 12, 200, 3)):
        row[columns.PID], row[columns.STARTED], row[columns.UP] = pid, started, 1
        row[column] = number
    reading = board.read()
    assert reading.workers == 2
    found = reading.worker(1)
    assert found["tunnels"][()] == 7
    assert found["worker_pid"][()] == 11  # the one before serves yet
    assert found["worker_started"][()] == 100
    assert found["worker_up"][()] == 1
    assert reading.worker(0)["tunnels"][()] == 0
    before[columns.UP] = 0
    assert board.process(1)[columns.PID] == 12
    found = board.read().worker(1)
    assert found["tunnels"][()] == 7
    assert found["worker_pid"][()] == 12
    assert found["worker_started"][()] == 200
    board.fold(1)  # that which was replaced has ended
    assert board.read().worker(1)["worker_pid"][()] == 12
    assert board.read().worker(1)["tunnels"][()] == 3
    assert board.process(1)[columns.PID] == 12
    board.fold(board.room + 1)
    assert board.read().worker(1)["worker_pid"][()] == 0


def test_rows_of_several_processes_are_summed() -> None:
    board = Board.create(2)

    def work(index: int) -> None:
        row = board.row(index)
        count(row, columns.TUNNELS_BEGUN, 10 + index)
        count(row, columns.TUNNELS, 1)
        count(row, columns.PID, os.getpid())

    for index in range(2):
        in_a_child(lambda index=index: work(index))  # type: ignore[misc]
    reading = board.read()
    totals = reading.totals()
    assert totals["tunnels_begun"][()] == 21
    assert totals["tunnels"][()] == 2
    assert "worker_pid" not in totals
    assert reading.workers == 2
    assert reading.worker(1)["tunnels_begun"][()] == 11
    assert reading.worker(1)["worker_pid"][()] != os.getpid()


def test_a_board_is_found_by_its_descriptor() -> None:
    board = Board.create(3)
    board.row(2)[columns.LOOKUPS] = 2**64 - 1
    column = board.names.column("decisions", DENY, "ads")
    board.row(0)[column] += 7
    other = Board.attach(os.dup(board.fd))
    assert other.workers == 3
    assert other.totals() == board.totals()
    assert other.totals()["decisions"][DENY, "ads"] == 7
    other.row(1)[columns.TUNNELS] = 5
    assert board.read().worker(1)["tunnels"][()] == 5


def test_what_is_no_board_is_refused() -> None:
    fd = os.memfd_create("other")
    with pytest.raises(ValueError, match="too small"):
        Board.attach(fd)
    os.ftruncate(fd, 1 << 20)
    with pytest.raises(ValueError, match="not a board"):
        Board.attach(fd)
    os.pwrite(fd, b"splboard", 0)
    with pytest.raises(ValueError, match="another version"):
        Board.attach(fd)
    os.close(fd)


def test_nobody_can_shrink_a_board() -> None:
    board = Board.create(1)
    with pytest.raises(PermissionError):
        os.ftruncate(board.fd, 0)


def test_a_private_board_counts_likewise() -> None:
    board = Board.private()
    board.row(0)[board.names.column("decisions", ALLOW, "office")] += 1
    assert board.totals()["decisions"][ALLOW, "office"] == 1


def test_a_dead_workers_numbers_stay_and_its_gauges_go() -> None:
    board = Board.create(1)
    ids = board.names.column("decisions", DENY, "ads")
    for start in (1, 2):
        row = board.row(0)
        count(row, columns.IN_SPLICED, 1000)
        count(row, columns.DIAL_SECONDS + 3)
        count(row, ids, 5)
        count(row, columns.TUNNELS, 9)
        count(row, columns.UP)
        board.fold(0)
        assert not any(board.row(0))
        totals = board.totals()
        assert totals["bytes"]["in", "spliced"] == 1000 * start
        assert totals["dial_seconds"]["0.005",] == start
        assert totals["decisions"][DENY, "ads"] == 5 * start
        assert totals["tunnels"][()] == totals["worker_up"][()] == 0


def test_no_counter_is_seen_going_back_while_rows_are_folded() -> None:
    board = Board.create(2)
    watched = [columns.TUNNELS_BEGUN, columns.IN_COPIED, columns.FIRST_BYTE_SECONDS]

    def work() -> None:
        rows = [board.row(0), board.row(1)]
        while True:
            for _ in range(1000):
                for row in rows:
                    for column in watched:
                        row[column] += 1
            board.fold(0)
            board.fold(1)

    before = counters(board.totals())
    folds = 0
    with child(work):
        while folds < 300:
            now = counters(board.totals())
            for key, number in before.items():
                assert now[key] >= number, key
            folds += now != before
            before = now
    assert before["tunnels_begun", ()] > 1000


def test_a_fold_that_never_ends_is_an_error_for_who_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spliceproxy.observe.board.TRY_SECONDS", 0)
    board = Board.create(1)
    board._head[_FOLDS] += 1
    with pytest.raises(Unreadable):
        board.read()


# ---- names ---------------------------------------------------------------------------------


def test_names_are_the_same_for_all_processes_and_never_renumbered() -> None:
    board = Board.create(2)
    first = board.names.column("decisions", DENY, "ads")

    def work() -> None:
        assert board.names.column("decisions", DENY, "other-process") == first + 1
        assert board.names.column("decisions", DENY, "ads") == first

    in_a_child(work)
    assert board.names.column("decisions", ALLOW, "ads") == first + 2
    assert board.names.column("decisions", DENY, "other-process") == first + 1
    assert board.names.all() == (
        ("decisions", (DENY, "ads")),
        ("decisions", (DENY, "other-process")),
        ("decisions", (ALLOW, "ads")),
    )


def test_processes_that_add_names_at_once_add_each_once() -> None:
    board = Board.create(4)

    def work(index: int) -> None:
        for n in range(200):
            board.row(index)[board.names.column("decisions", DENY, f"rule-{n}")] += 1

    pids = []
    for index in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                work(index)
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    decisions = board.totals()["decisions"]
    lost = decisions[DENY, OTHER]  # whoever did not get the lock in time
    assert len(board.names.all()) == len(set(board.names.all())) == 200
    assert sum(decisions.values()) == 800
    assert lost <= 80


def test_a_name_beyond_the_room_is_another() -> None:
    board = Board.create(1)
    row = board.row(0)
    for n in range(DYNAMIC + 76):
        row[board.names.column("decisions", DENY, f"rule-{n}")] += 1
    decisions = board.totals()["decisions"]
    assert decisions[DENY, f"rule-{DYNAMIC - 1}"] == 1
    assert decisions[DENY, OTHER] == 76
    assert (DENY, f"rule-{DYNAMIC}") not in decisions
    assert sum(decisions.values()) == DYNAMIC + 76


def test_where_there_is_no_room_nobody_takes_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board.create(1)
    board.names.add("decisions", [(DENY, f"rule-{n}") for n in range(DYNAMIC - 1)])
    other = Board.attach(os.dup(board.fd)).names
    assert board.names.column("decisions", DENY, "last") == FIXED + DYNAMIC - 1

    def lock(*_: object) -> None:
        raise AssertionError("a lock")

    monkeypatch.setattr(fcntl, "lockf", lock)
    none = FAMILIES["decisions"].column(DENY, OTHER)
    assert board.names.column("decisions", DENY, "beyond") == none
    assert other.column("decisions", DENY, "beyond") == none
    assert other.column("decisions", DENY, "last") == FIXED + DYNAMIC - 1  # which it did not know
    assert other.column("decisions", DENY, "made-up", most=ROOM_FOR_FUNCTIONS) == none


def test_functions_leave_room_for_rules() -> None:
    board = Board.create(1)
    name = board.names.column
    for n in range(DYNAMIC):
        name("decisions", DENY, f"made-up-{n}", most=ROOM_FOR_FUNCTIONS)
    assert board.names.count == ROOM_FOR_FUNCTIONS
    assert name("decisions", DENY, "rule") == FIXED + ROOM_FOR_FUNCTIONS


@pytest.mark.parametrize("text", ["", "a b", "x" * 65, "é", "a\x1fb", 'a"b\n'])
def test_a_text_that_is_no_id_is_another(text: str) -> None:
    board = Board.create(1)
    other = FAMILIES["decisions"].column(DENY, OTHER)
    assert board.names.column("decisions", DENY, text) == other
    assert board.names.count == 0


def test_who_dies_with_the_lock_holds_up_nobody() -> None:
    board = Board.create(1)

    def work() -> None:
        fcntl.lockf(board.fd, fcntl.LOCK_EX, 1)
        os.write(told, b".")
        signal.pause()

    ready, told = os.pipe()
    with child(work) as pid:
        assert os.read(ready, 1) == b"."
        other = FAMILIES["decisions"].column(DENY, OTHER)
        assert board.names.column("decisions", DENY, "ads") == other  # it waits for nobody
        os.kill(pid, signal.SIGKILL)
    assert board.names.column("decisions", DENY, "ads") == FIXED
    os.close(ready)
    os.close(told)
