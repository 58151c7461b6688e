"""The sketches of observe/top.py, held against exact sums."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spliceproxy.observe.top import KINDS, SIZE, WINDOW, Ranking, Row, Sketch, Tops, merged

EVENTS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 1000)), max_size=300)


def exact(events: list[tuple[int, int]]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for key, weight in events:
        sums[str(key)] += weight
    return sums


def sketch_of(events: list[tuple[int, int]], size: int) -> Sketch:
    sketch = Sketch(size)
    for key, weight in events:
        sketch.add(str(key), weight, 1, weight, 0)
    return sketch


def hold(ranking: Ranking, sums: Counter[str]) -> None:
    """What is promised of a ranking."""
    named = {row.key for row in ranking.rows}
    for row in ranking.rows:
        assert row.total - row.error <= sums[row.key] <= row.total
        assert row.received <= sums[row.key]
        assert row.received >= sums[row.key] - row.error
    assert all(weight <= ranking.floor for key, weight in sums.items() if key not in named)
    counts = [row.total for row in ranking.rows]
    assert counts == sorted(counts, reverse=True)


@given(EVENTS, st.integers(1, 12))
def test_a_count_is_never_too_low_nor_too_high_by_more_than_its_error(
    events: list[tuple[int, int]], size: int
) -> None:
    ranking = sketch_of(events, size).ranking()
    sums = exact(events)
    hold(ranking, sums)
    assert all(row.error <= sum(sums.values()) / size for row in ranking.rows)
    assert len(ranking.rows) <= size


@given(EVENTS)
def test_it_is_exact_while_there_are_counters_left(events: list[tuple[int, int]]) -> None:
    ranking = sketch_of(events, 31).ranking()
    assert {row.key: row.total for row in ranking.rows} == dict(exact(events))
    assert ranking.floor == 0
    assert not any(row.error for row in ranking.rows)


@given(st.lists(EVENTS, max_size=4), st.integers(1, 12), st.integers(1, 40))
def test_several_make_one_that_promises_the_same(
    parts: list[list[tuple[int, int]]], size: int, most: int
) -> None:
    ranking = merged([sketch_of(part, size).ranking() for part in parts], most)
    hold(ranking, exact([event for part in parts for event in part]))
    assert len(ranking.rows) <= most


@given(EVENTS, EVENTS, st.integers(1, 12))
def test_one_goes_on_from_a_ranking(
    before: list[tuple[int, int]], after: list[tuple[int, int]], size: int
) -> None:
    sketch = Sketch.of(sketch_of(before, size).ranking(), size)
    for key, weight in after:
        sketch.add(str(key), weight, 1, weight, 0)
    hold(sketch.ranking(), exact(before + after))


@settings(max_examples=30)
@given(st.lists(EVENTS, min_size=1, max_size=5))
def test_windows_that_are_over_are_part_of_all(windows: list[list[tuple[int, int]]]) -> None:
    now = 0.0
    tops = Tops(lambda: now)
    for events in windows:
        for key, weight in events:
            tops.add("users", str(key), 1, weight, 0)
        now += WINDOW
        tops.turn()
    found = tops.rankings("all", 50)["users", "bytes"]
    sums = exact([event for events in windows for event in events])
    assert {row.key: row.total for row in found.rows if row.total} == {
        key: weight for key, weight in sums.items() if weight
    }
    hold(tops.rankings("recent", 50)["users", "bytes"], exact(windows[-1]))


def test_what_is_recent_is_five_to_ten_minutes() -> None:
    now = 1000.0
    tops = Tops(lambda: now)
    tops.add("clients", "old", 1, 10, 5)
    now += WINDOW
    tops.turn()
    tops.add("clients", "new", 2, 1, 0)
    rows = tops.rankings("recent", 9)["clients", "bytes"].rows
    assert rows == [Row("old", 15, 0, 1, 10, 5), Row("new", 1, 0, 2, 1, 0)]
    assert tops.seconds("recent") == WINDOW
    now += WINDOW
    assert [row.key for row in tops.rankings("recent", 9)["clients", "requests"].rows] == ["new"]
    assert tops.seconds("all") == 2 * WINDOW
    now += 2 * WINDOW  # a long rest: the last window is not the one before this
    assert tops.rankings("recent", 9)["clients", "bytes"].rows == []
    assert tops.seconds("recent") == 0.0
    assert len(tops.rankings("all", 9)["clients", "bytes"].rows) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_of_a_tunnel_that_lives_are_no_further_request(kind: str) -> None:
    now = 0.0
    tops = Tops(lambda: now)
    tops.add(kind, "a", 1, 10, 10)
    tops.add(kind, "a", 0, 10, 10)
    now += WINDOW
    tops.turn()
    tops.add(kind, "a", 0, 10, 10)
    for measure, total in (("requests", 1), ("bytes", 60)):
        assert tops.rankings("all", 9)[kind, measure].rows == [Row("a", total, 0, 1, 30, 30)]


def test_bytes_of_a_tunnel_take_no_counter_from_who_has_asked() -> None:
    tops = Tops()
    for number in range(SIZE):
        tops.add("clients", str(number), 1, 1, 1)
    tops.add("clients", "late", 0, 10, 10)
    asked = tops.rankings("all", SIZE)["clients", "requests"].rows
    assert {row.key for row in asked} == {str(number) for number in range(SIZE)}
