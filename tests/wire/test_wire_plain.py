"""The table in the lane (wire_plain): the relay has the clients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from relay.relay_rig import native_relay
from sanitizer import SANITIZED, quick
from test_wire import TABLE, cuts
from wire_alone import ALSO, must_be_alone
from wire_case import Case
from wire_plain import NotHere, PlainRig

EACH = {"c": 2, "o": 1}
"""Which of the cuts of a head are made: every second one of a client's. The relay hands over any
part of a request's head, and the other lane has them all."""

FEWER = 4 if SANITIZED else 1
"""The sanitizers look for reads beyond a buffer, not for a byte that is taken wrongly, and the
tests below take most of their time."""

ALONE = 135
"""Cases at least that the relay must serve without a word of Python."""


def _rig(name: str, *, asks: bool = False) -> Iterator[PlainRig]:
    native_relay()
    if name == "asyncio":
        loop = asyncio.new_event_loop()
    else:
        loop = pytest.importorskip("uvloop").new_event_loop()
    rig = PlainRig(loop, asks=asks)
    yield rig
    rig.close()


@pytest.fixture(scope="module", params=quick(["asyncio", "uvloop"], "uvloop"))
def rig(request: pytest.FixtureRequest) -> Iterator[PlainRig]:
    yield from _rig(request.param)


@pytest.fixture(scope="module")
def fast_rig() -> Iterator[PlainRig]:
    yield from _rig("uvloop")


@pytest.fixture(scope="module")
def asking_rig() -> Iterator[PlainRig]:
    yield from _rig("uvloop", asks=True)


def _cases(side: str = "") -> list[object]:
    return [pytest.param(case, id=case.name) for case in TABLE if not side or case.first(side)]


def _play(rig: PlainRig, case: Case) -> None:
    try:
        run = rig.run(case)
    except NotHere as why:
        pytest.skip(str(why))
    if must_be_alone(case):
        answered, given_back = run.alone
        assert not given_back, "a client was given back"
        assert answered or case.name in ALSO


@pytest.mark.parametrize("case", _cases())
def test_case(rig: PlainRig, case: Case) -> None:
    _play(rig, case)


@pytest.mark.parametrize("case", _cases())
def test_the_lane_asks(asking_rig: PlainRig, case: Case) -> None:
    """No request has been allowed before, and each is asked about."""
    _play(asking_rig, case)


def test_the_lane_has_its_share() -> None:
    assert sum(map(must_be_alone, TABLE)) >= ALONE


def test_a_case_that_is_served_alone_must_be(fast_rig: PlainRig) -> None:
    """Or it would leave the lane one day, and nobody would notice: wire_alone has to know it."""
    found = []
    for case in TABLE:
        with contextlib.suppress(NotHere):
            if not must_be_alone(case) and not fast_rig.run(case).alone[1]:
                found.append(case.name)
    assert not found


def _cut(rig: PlainRig, case: Case, side: str) -> None:
    for offset in cuts(case, side)[:: EACH[side] * FEWER]:
        try:
            rig.run(case, (side, (offset,)))
        except NotHere as why:
            pytest.skip(str(why))
        except AssertionError as error:
            raise AssertionError(f"cut at {offset}: {error}") from None


@pytest.mark.parametrize("case", _cases("o"))
def test_the_answer_cut_once(fast_rig: PlainRig, case: Case) -> None:
    _cut(fast_rig, case, "o")


@pytest.mark.parametrize("case", _cases("c"))
def test_the_request_cut_once(fast_rig: PlainRig, case: Case) -> None:
    _cut(fast_rig, case, "c")
