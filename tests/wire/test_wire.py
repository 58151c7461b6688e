"""Every case of the table as it stands, and with the heads of both sides cut."""

from __future__ import annotations

import asyncio
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import wire_bodies
import wire_bound
import wire_case
import wire_client_faults
import wire_connections
import wire_expect
import wire_faults
import wire_fields
import wire_lenient
import wire_pool
import wire_refusals
import wire_requests
import wire_responses
import wire_socks
import wire_status
import wire_tunnels
import wire_upgrades
from wire_case import Case, unique
from wire_rig import Rig

TOPICS = (
    wire_requests,
    wire_fields,
    wire_bodies,
    wire_expect,
    wire_responses,
    wire_lenient,
    wire_refusals,
    wire_status,
    wire_connections,
    wire_pool,
    wire_bound,
    wire_faults,
    wire_client_faults,
    wire_tunnels,
    wire_socks,
    wire_upgrades,
)
TABLE = list(unique([case for topic in TOPICS for case in topic.CASES]))

MOST = 1000
"""Bytes of a head that is cut everywhere; a larger one is cut at EDGE bytes of each end, and
at every STRIDE bytes between them."""

EDGE = 50
STRIDE = 997

HEAVY = 100_000
"""Bytes that a case moves from which its heads are cut at every TENTH byte only."""

TENTH = 10

FIFTH = 5

SIDES = {"c": "client", "o": "origin"}


def _sides() -> list[object]:
    """Each case with every side that sends something in it."""
    return [
        pytest.param(case, side, id=f"{case.name}-{name}")
        for case in TABLE
        for side, name in SIDES.items()
        if case.first(side)
    ]


def offsets(case: Case, side: str) -> list[int]:
    """Where to cut what a side sends first; the last cut is behind it."""
    size = case.cut_size(side)
    if sum(len(step.data) for step in case.steps if step.verb == "sends") > HEAVY:
        return [*range(1, size, TENTH), size]
    if size <= MOST:
        return list(range(1, size + 1))
    ends = {*range(1, EDGE), *range(size - EDGE, size + 1)}
    return sorted(ends | set(range(EDGE, size, STRIDE)))


def _cut_of(case: Case, side: str) -> tuple[str, bytes]:
    return side, case.first(side)[: case.cut_size(side)]


def _sharing() -> dict[tuple[str, bytes], list[str]]:
    """By a head, the names of the cases in which that side sends it."""
    found: dict[tuple[str, bytes], list[str]] = {}
    for case in TABLE:
        for side in SIDES:
            found.setdefault(_cut_of(case, side), []).append(case.name)
    return found


SHARING = _sharing()


def cuts(case: Case, side: str) -> list[int]:
    """Where the head of a side is cut once, of :func:`offsets`. Before all of a head is there, its
    readers look only at its first byte, where its lines end, and for bytes that it may not have.
    All cuts beside these are made, and every fifth of those between two letters; cases with the
    same head share them. Each case is cut around the head's end."""
    found = offsets(case, side)
    if not case.is_cut_in_head(side) or found[-1] > MOST:
        return found
    text = case.first(side).decode("latin-1")
    names = SHARING[_cut_of(case, side)]
    turn = names.index(case.name)
    chosen = [
        at for at in found if at == 1 or at % FIFTH == 0 or not text[at - 1 : at + 1].isprintable()
    ]
    return sorted({*chosen[turn :: len(names)], *found[-2:]})


def _rig(name: str) -> Iterator[Rig]:
    if name == "asyncio":
        loop = asyncio.new_event_loop()
    else:
        loop = pytest.importorskip("uvloop").new_event_loop()
    rig = Rig(loop)
    yield rig
    rig.close()


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    yield from _rig(request.param)


@pytest.fixture(scope="module")
def fast_rig() -> Iterator[Rig]:
    """On the loop that costs least: what runs thousands of times."""
    yield from _rig("uvloop")


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in TABLE])
def test_case(rig: Rig, case: Case) -> None:
    rig.run(case)


def test_the_case_in_the_readme(rig: Rig) -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    (shown,) = re.findall(r"^    Case\($.*?^    \)$", text, re.M | re.S)
    rig.run(eval(textwrap.dedent(shown), vars(wire_case)))


@pytest.mark.parametrize(("case", "side"), _sides())
def test_byte_by_byte(rig: Rig, case: Case, side: str) -> None:
    rig.run(case, (side, offsets(case, side)))


@pytest.mark.parametrize(("case", "side"), _sides())
def test_cut_once(fast_rig: Rig, case: Case, side: str) -> None:
    """Within the head, and behind it."""
    for offset in cuts(case, side):
        try:
            fast_rig.run(case, (side, (offset,)))
        except AssertionError as error:
            raise AssertionError(f"cut at {offset}: {error}") from None
