"""Which workers there is room for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from spliceproxy.observe.board import Board
from spliceproxy.processes.children import Children
from spliceproxy.processes.slot import Slot


def children_of(workers: int) -> Any:
    board = Board.create(workers)
    state: Any = SimpleNamespace(config=SimpleNamespace(workers=workers), asked=None, board=board)
    return Children(state, lambda *_: 0, set(), lambda: None)


def test_those_that_were_replaced_need_no_room_of_their_own() -> None:
    children = children_of(20)
    room = children._state.board.room
    assert room == 40
    children.leaving = {Slot(f"worker {n}", n, n + room): 0.0 for n in range(20)}
    assert children.has_room(20)  # all were replaced, and drain
    assert children.has_room(40)
    assert not children.has_room(41)


def test_those_that_leave_have_a_place_until_they_have_ended() -> None:
    children = children_of(20)
    children.leaving = {Slot(f"worker {n}", n): 0.0 for n in range(20, 35)}
    assert children.has_room(25)
    assert not children.has_room(26)
    children.leaving.clear()
    assert children.has_room(40)
