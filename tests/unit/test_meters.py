"""What limits count: places, buckets and connections, in C and in Python, and by many processes at
once."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable

import pytest

from spliceproxy.observe.board import Board
from spliceproxy.processes.succession import Inherited, counters
from spliceproxy.relay import meters
from spliceproxy.relay.choice import choose
from spliceproxy.relay.interface import RelayOptions
from spliceproxy.relay.meters import FULL, STALE, Count, Counting, Meters

HOUR = 3600 * 1_000_000_000

New = Callable[[Meters, int], Counting]


def of_engine(name: str) -> New:
    def make(counted: Meters, row: int) -> Counting:
        relay, _ = choose(name, RelayOptions(idle=10.0, half_close=10.0))
        try:
            return relay.counting(counted, row)
        finally:
            relay.close()

    return make


@pytest.fixture(params=["native", "copy"])
def new(request: pytest.FixtureRequest) -> New:
    return of_engine(request.param)


def test_what_is_forgotten_is_not_counted_down(new: New) -> None:
    counted = Board.private().meters
    counting = new(counted, 0)
    place = counted.place("id", "key")
    assert place is not None
    assert counting.hold(*place, 0) == 0
    counted.clear(0)
    counting.drop(place.entry)
    assert not any(counted.held(place.entry))
    assert counting.hold(*place, 1) == 0


def test_a_bucket_gives_what_it_holds(new: New) -> None:
    counted = Board.private().meters
    counting = new(counted, 0)
    place = counted.place("id", "key")
    assert place is not None
    spend = (*place, meters.REQUESTS, HOUR, 3 * HOUR)
    assert [counting.spend(*spend) for _ in range(3)] == [0, 0, 0]
    wait = counting.spend(*spend)
    assert HOUR - 60e9 < wait <= HOUR
    assert counting.spend(*place, meters.TUNNELS, HOUR, HOUR) == 0
    counting.give_back(place.entry, meters.REQUESTS, HOUR)
    assert counting.spend(*spend) == 0
    assert counting.spend(*spend) > 0


def test_a_bucket_fills_with_time(new: New) -> None:
    counted = Board.private().meters
    counting = new(counted, 0)
    place = counted.place("id", "")
    assert place is not None
    assert counting.spend(*place, meters.REQUESTS, 1_000_000, 1_000_000) == 0
    end = time.monotonic() + 20
    while counting.spend(*place, meters.REQUESTS, 1_000_000, 1_000_000):
        assert time.monotonic() < end


def test_connections_of_all_rows_are_one_sum(new: New) -> None:
    counted = Board.create(2).meters
    one, two = new(counted, 0), new(counted, 1)
    place = counted.place("id", "key")
    assert place is not None
    assert [one.hold(*place, 3), two.hold(*place, 3), one.hold(*place, 3)] == [0, 0, 0]
    assert [one.hold(*place, 3), two.hold(*place, 3)] == [FULL, FULL]
    assert two.hold(*place, 0) == 0
    one.drop(place.entry)
    assert list(counted.held(place.entry))[:2] == [1, 2]
    counted.clear(1)
    one.refuse(place.entry)
    assert list(counted.counts()) == [Count("id", "key", 1, 1)]


def test_budgets_are_of_their_period(new: New) -> None:
    board = Board.create(1)
    counted = board.meters
    counting = new(counted, 0)
    place = counted.place("id", "key")
    assert place is not None
    counting.move(place.entry, 1000)
    counting.move(place.entry, 500)
    day, hour = counted.used(place.entry)
    assert {day, hour} <= {500, 1500}  # but for midnight
    counted.numbers(place.entry)[meters.HOUR] -= 1
    assert counted.used(place.entry) == (day, 0)
    counting.move(place.entry, 7)
    assert counted.used(place.entry) == (day + 7, 7)

    other = Board.create(1)
    inherited = Inherited(other)
    for _ in range(2):
        for part in counters(board):
            inherited.add(part)
    found = other.meters.place("id", "key")
    assert found is not None
    assert other.meters.used(found.entry) == (day + 7, 7)


def test_what_is_heard_from_a_store_is_not_inherited_again() -> None:
    """Two programs that share limits hear of each other while one takes over from the other."""
    boards = Board.create(1), Board.create(1)
    boards[1].meters.leases.enter(0)
    places = [board.meters.place("id", "key") for board in boards]
    inherited = Inherited(boards[1])

    def move(which: int, n: int) -> None:
        place = places[which]
        assert place is not None
        of_engine("copy")(boards[which].meters, 0).move(place.entry, n)

    def used() -> int:
        for part in counters(boards[0]):
            inherited.add(part)
        assert places[1] is not None
        return boards[1].meters.used(places[1].entry)[0]

    move(0, 1000)
    assert used() == 1000
    move(1, 50)
    move(0, 50)  # it has heard of these
    assert used() == 1050
    move(0, 7)
    assert used() == 1057


@pytest.mark.parametrize("shift", [0, 1, 2, 3])
@pytest.mark.parametrize("character", ["y", "é", "\N{GRINNING FACE}"])
def test_budgets_of_long_keys_are_inherited(character: str, shift: int) -> None:
    """Another program knows an entry by its name alone."""
    key = "x" * shift + 150 * character
    board, other = Board.create(1), Board.create(1)
    for one, used in ((key, 1000), (key + "z", 7)):
        place = board.meters.place("id", one)
        assert place is not None
        of_engine("copy")(board.meters, 0).move(place.entry, used)
    inherited = Inherited(other)
    for part in counters(board):
        inherited.add(part)
    found = [other.meters.place("id", one) for one in (key, key + "z")]
    assert [other.meters.used(one.entry)[0] for one in found if one] == [1000, 7]
    assert {count.key[:20] for count in other.meters.counts()} == {key[:20]}


def test_a_place_is_found_again_by_everybody() -> None:
    board = Board.create(1)
    other = Board.attach(os.dup(board.fd))
    keys = [(limit, key) for limit in ("a", "b") for key in ("", "x", "y" * 300, "y" * 299 + "z")]
    places = [board.meters.place(*key) for key in keys]
    assert len(set(places)) == len(keys)
    assert [other.meters.place(*key) for key in keys] == places


def test_what_is_to_be_remembered_keeps_its_place(new: New) -> None:
    """Those that share a set: of one that is held, one that has spent, and others."""
    counted = Board.private().meters
    counting = new(counted, 0)
    first = counted.place("id", "0")
    assert first is not None
    group = first.entry // meters.WAYS
    keys = (str(n) for n in itertools.count(1))

    def another() -> meters.Place | None:
        for key in keys:
            if counted._tag("id", key) // 2 % (meters.ENTRIES // meters.WAYS) == group:
                return counted.place("id", key)
        raise AssertionError

    places = [first]
    while len(places) < meters.WAYS:
        place = another()
        assert place is not None
        places.append(place)
    assert {place.entry for place in places} == set(
        range(group * meters.WAYS, (group + 1) * meters.WAYS)
    )
    for place in places[1:]:
        assert counting.hold(*place, 0) == 0
    assert counting.spend(*first, meters.REQUESTS, HOUR, HOUR) == 0
    assert another() is None
    counting.drop(places[5].entry)
    taken = another()
    assert taken is not None
    assert taken.entry == places[5].entry
    assert counting.hold(*places[5], 0) == STALE
    assert counting.spend(*places[5], meters.REQUESTS, 1, 1) == STALE
    assert not any(counted.held(taken.entry))


@pytest.mark.parametrize("engine", ["native", "copy"])
def test_processes_count_together(engine: str) -> None:
    """Each of four takes what it can get of 1,000, and holds what it can get of 100."""
    board = Board.create(4)
    place = board.meters.place("id", "key")
    assert place is not None
    ready, go = os.pipe()
    found, tell = os.pipe()
    pids = []
    for row in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                os.close(go)
                counting = of_engine(engine)(board.meters, row)
                os.read(ready, 1)
                spent = sum(
                    not counting.spend(*place, meters.REQUESTS, HOUR, 1000 * HOUR)
                    for _ in range(600)
                )
                held = sum(not counting.hold(*place, 100) for _ in range(60))
                os.write(tell, f"{spent} {held}\n".encode())
            finally:
                os._exit(0)
        pids.append(pid)
    os.close(ready)
    os.close(go)
    for pid in pids:
        os.waitpid(pid, 0)
    os.close(tell)
    rows = [line.split() for line in os.read(found, 4096).decode().splitlines()]
    assert len(rows) == 4
    assert sum(int(spent) for spent, _ in rows) == 1000
    assert sum(int(held) for _, held in rows) == 100
    assert sum(board.meters.held(place.entry)) == 100
    os.close(found)
