"""The table in the lane (wire_plain): the relay has the clients."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from relay.relay_rig import native_relay
from sanitizer import SANITIZED, quick
from test_wire import TABLE, offsets
from wire_case import Case
from wire_plain import NotHere, PlainRig, is_obvious

EACH = 7
"""A request's head is cut at every such byte: the relay hands over any part of a head, and
the other lane has them all."""

ANSWER_EACH = 3 if SANITIZED else 1
"""The same of the answer's head. The sanitizers look for reads beyond a buffer, not for a byte
that is taken wrongly, and the test below takes most of their time."""

OBVIOUS = 20
"""Cases at least that the relay must serve without a word of Python."""


def _rig(name: str) -> Iterator[PlainRig]:
    native_relay()
    if name == "asyncio":
        loop = asyncio.new_event_loop()
    else:
        loop = pytest.importorskip("uvloop").new_event_loop()
    rig = PlainRig(loop)
    yield rig
    rig.close()


@pytest.fixture(scope="module", params=quick(["asyncio", "uvloop"], "uvloop"))
def rig(request: pytest.FixtureRequest) -> Iterator[PlainRig]:
    yield from _rig(request.param)


@pytest.fixture(scope="module")
def fast_rig() -> Iterator[PlainRig]:
    yield from _rig("uvloop")


def _cases(side: str = "") -> list[object]:
    return [pytest.param(case, id=case.name) for case in TABLE if not side or case.first(side)]


@pytest.mark.parametrize("case", _cases())
def test_case(rig: PlainRig, case: Case) -> None:
    try:
        run = rig.run(case)
    except NotHere as why:
        pytest.skip(str(why))
    if is_obvious(case):
        served, handed = run.alone
        assert served > 0
        assert handed == 0


def test_the_relay_has_its_share() -> None:
    assert sum(map(is_obvious, TABLE)) >= OBVIOUS


def _cut(rig: PlainRig, case: Case, side: str) -> None:
    for offset in offsets(case, side)[:: EACH if side == "c" else ANSWER_EACH]:
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
