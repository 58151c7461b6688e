"""The supervisor's side of the control channels: whom it introduces, and what it is told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest

from spliceproxy.admin import channel, watch
from spliceproxy.admin.channel import MAX_MESSAGE, Channel, close_all, pair
from spliceproxy.admin.desk import Desk
from spliceproxy.config import Config
from spliceproxy.observe.board import Board
from spliceproxy.processes.control import Control
from spliceproxy.processes.history import History
from spliceproxy.processes.slot import Slot
from spliceproxy.relay import columns

ADMIN = -1


class Place(Slot):
    """A slot with a process, and what that process hears."""

    def __init__(self, index: int, row: int | None = None) -> None:
        super().__init__(f"worker {index}", index, row)
        own, self.other = pair()
        self.begin(os.getpid(), own)

    def heard(self) -> list[dict[str, Any]]:
        found = []
        while (got := self.other.receive()) is not None:
            close_all(got[1])
            found.append(got[0])
        return found

    def close(self) -> None:
        self.end()
        self.other.close()


@pytest.fixture
def places() -> Iterator[list[Place]]:
    """A worker, the one that it has replaced, and the admin process."""
    found = [Place(0, 32), Place(0, 0), Place(ADMIN)]
    yield found
    for one in found:
        one.close()


def test_the_next_admin_process_meets_those_that_drain(places: list[Place]) -> None:
    worker, old, admin = places
    control = Control([worker], admin)
    control.leaving = {old: 0.0}
    control.others = (control.leaving,)
    control.is_new(admin)
    met = [(one["row"], one["index"], one["leaves"]) for one in admin.heard()]
    assert met == [(32, 0, False), (0, 0, True)]
    assert [one.heard() for one in (worker, old)] == [[{"meet": "admin"}]] * 2
    assert control.due is None
    # Without a descriptor each is introduced again, for itself.
    assert admin.other.send({"unmet": "worker", "row": 0})
    assert old.other.send({"unmet": "admin"})
    assert list(control.hear()) == []
    assert control.due is not None
    control.leaving, control.others = {}, ()  # it has ended meanwhile, and nobody waits for it
    control._unmet = dict.fromkeys(control._unmet, 0.0)
    control.go_on()
    assert control.due is None
    assert admin.heard() == []


def test_who_is_replaced_is_known_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PING_SECONDS", 60.0)  # nobody answers here

    async def main() -> None:
        supervisor, own = pair()
        board = Board.private()
        with supervisor:
            desk = Desk(Config(listen=()), own, board, draining=False)
            ends = []
            for row, leaves in ((0, False), (32, False), (33, True)):
                end, met = pair()
                ends.append(end)
                told = {"meet": "worker", "index": 0, "row": row, "pid": row, "leaves": leaves}
                supervisor.send(told, [met.fileno()])
                met.close()
                while row not in desk.workers:  # noqa: ASYNC110 (nobody tells)
                    await asyncio.sleep(0.001)
            known = desk.watch.answering()
            assert [(one.row, one.leaves) for one in known] == [(32, False), (0, True), (33, True)]
            assert [one.row for one in desk.watch.serving()] == [32]
            desk.workers[0].silent = "nothing"
            desk.workers[33].silent = "nothing at all"
            assert desk.watch.silent() == {0: "nothing; nothing at all"}
            assert desk.watch.ill() == {}
            ends[0].close()
            while 0 in desk.workers:  # noqa: ASYNC110 (nobody tells)
                await asyncio.sleep(0.001)
            assert set(desk.workers) == {32, 33}
            for end in ends:
                end.close()

    asyncio.run(main())


@pytest.mark.parametrize("fds", [0, 1])
def test_a_message_that_is_too_long_ends_nothing(
    places: list[Place], fds: int, caplog: pytest.LogCaptureFixture
) -> None:
    worker, _, admin = places
    control = Control([worker], admin)
    long = "x" * MAX_MESSAGE
    if fds:
        assert not control.order(worker, {"ask": long}, [0])
    control.tell_admin({"reloaded": {"warnings": [long]}})
    control.tell(admin, {"re": 7, "why": [long], "end": True})
    control.tell_admin({"state": "draining"})
    short = {"re": 7, "error": "the answer is too long", "end": True}
    assert admin.heard() == [short, {"state": "draining"}]
    assert len(caplog.records) == 2 + fds
    assert all("a message of 65" in one.message for one in caplog.records)


def test_what_is_remembered_of_a_reload_fits_into_a_message(places: list[Place]) -> None:
    """In JSON a character has up to twelve bytes."""
    admin = places[2]
    reload = History().add(2, "\U0001f600" * 9000, "ctl", ["\U0001f600" * 400] * 9, 1.0)
    assert [len(one) for one in reload["warnings"][:3]] == [400, 400, 200]
    assert reload["warnings"][3] == "and 6 more, in the messages of the proxy"
    assert admin.channel is not None
    assert admin.channel.send({**reload, "why": reload["warnings"]})


def test_errors_of_the_admin_process_are_counted_where_they_stay(
    places: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, _, admin = places
    monkeypatch.setattr(channel, "_told", {9})
    row = columns.private()

    async def main() -> None:
        channel.count_in(columns.private())  # as in the admin process
        desk = Desk(Config(listen=()), Channel.of(os.dup(admin.other.fileno())), Board.private(),
                    draining=False)  # fmt: skip
        for _ in range(3):
            with pytest.raises(channel.Troubled):
                admin.other.send({"here": 1}, [1 << 20])
            desk.settle()
            desk.settle()
        assert channel.errors == 3

    asyncio.run(main())
    channel.count_in(row)  # as in the supervisor
    control = Control([worker], admin)
    assert list(control.hear()) == []
    assert row[columns.CHANNEL_ERRORS] == 3
    channel.count_in(columns.private())
