"""What one program tells another that takes over: who it is, and what it has counted."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from typing import cast

import pytest

from spliceproxy.admin.channel import Closed
from spliceproxy.config import Address
from spliceproxy.observe.board import Board
from spliceproxy.processes import left as of_left
from spliceproxy.processes import succession
from spliceproxy.processes.left import Left
from spliceproxy.processes.parcels import Line
from spliceproxy.processes.reopening import Reopening
from spliceproxy.processes.succession import Inherited, Predecessor, Refused, counters
from spliceproxy.relay import columns


class Running(Line):
    """That of the program that runs; ``told`` is what the environment says."""

    __slots__ = ("told",)

    def __init__(self) -> None:
        one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        super().__init__(one)
        self.told = f"{two.detach()}:nonce"

    def heard(self) -> dict[str, object]:
        parcel = self.receive()
        assert parcel is not None
        return dict(parcel.head)


@pytest.fixture
def running() -> Iterator[Running]:
    line = Running()
    yield line
    line.close()


def welcome(**more: object) -> dict[str, object]:
    return {"welcome": 1, "version": "0", "serial": 7, "generation": 3, "places": [], **more}


def test_it_says_who_it_is_and_gets_what_there_is(running: Running) -> None:
    place = {"host": "h", "port": 0, "path": "", "bound": 81, "queues": 2, "admin": False}
    running.send(welcome(places=[place, {**place, "admin": True}]))
    found = Predecessor.of(running.told)
    found.greet()
    assert running.heard() == {
        "hello": succession.PROTOCOL, "nonce": "nonce", "version": succession.__version__,
    }  # fmt: skip
    assert (found.serial, found.generation) == (7, 3)
    assert found.places(admin=False) == [(0, Address("h", 0), 81)]
    assert found.places(admin=True) == [(1, Address("h", 0), 81)]
    with socket.socket() as one, socket.socket() as two:
        running.send({"queues": 0}, b"", [one.fileno()])
        running.send({"queues": 0}, b"", [two.fileno()])
        queues = found.queues(0)
        assert running.heard() == {"want": 0}
        inodes = [os.fstat(sock.fileno()).st_ino for sock in (one, two)]
    assert [os.fstat(sock.fileno()).st_ino for sock in queues] == inodes
    for sock in queues:
        sock.close()
    found.line.close()


@pytest.mark.parametrize("told", ["", "x:y", "-1:n", "99999:n", "0"])
def test_nonsense_in_the_environment(told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        succession.begin(told)
    assert error.value.code == 1
    assert "only a proxy that runs can set it" in capsys.readouterr().err


def test_one_that_refuses_says_why(running: Running) -> None:
    running.send({"cancelled": "of another protocol"})
    found = Predecessor.of(running.told)
    with pytest.raises(Refused, match="of another protocol"):
        found.greet()
    found.line.close()


def test_one_that_does_not_answer(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(succession, "ANSWER_SECONDS", 0.05)
    found = Predecessor.of(running.told)
    with pytest.raises(Refused, match=r"does not answer within 0\.05 s"):
        found.greet()
    found.line.close()


def test_one_that_is_gone(running: Running) -> None:
    found = Predecessor.of(running.told)
    running.close()
    with pytest.raises(Refused, match="is gone"):
        found.greet()
    found.line.close()


def test_what_is_said_before_the_end_is_the_reason(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    found = Predecessor.of(running.told)

    def read_settings() -> None:
        with found.noting():
            print("workers: 'many'; allowed: a number", file=sys.stderr)
            sys.exit(2)

    with pytest.raises(SystemExit):
        read_settings()
    assert running.heard() == {"refused": "workers: 'many'; allowed: a number"}
    assert capsys.readouterr().err == "workers: 'many'; allowed: a number\n"
    found.line.close()


# ---- counters ------------------------------------------------------------------------------


def tell(old: Board, inherited: Inherited) -> None:
    for part in counters(old):
        inherited.add(part)


def test_counters_go_on_by_their_names() -> None:
    old, new = Board.private(), Board.private()
    inherited = Inherited(new)
    row = old.row(0)
    row[columns.request_column("GET", 200)] = 5
    rule = old.names.column("decisions", columns.ALLOW, "rule-7")
    row[rule] = 3
    columns.observe(row, columns.DIAL_SECONDS, 900)
    row[columns.UP] = 1  # of now: it is not counted on
    other = new.names.column("decisions", columns.DENY, "before")
    new.row(0)[columns.request_column("GET", 200)] = 1
    new.row(0)[other] = 1
    tell(old, inherited)
    tell(old, inherited)  # the same once more
    found = new.totals()
    assert found["requests"]["GET", "2xx"] == 6
    assert found["decisions"][columns.ALLOW, "rule-7"] == 3
    assert found["decisions"][columns.DENY, "before"] == 1
    assert sum(found["dial_seconds"].values()) == 1 + 900
    assert found["worker_up"][()] == 0
    row[columns.request_column("GET", 200)] += 2
    tell(old, inherited)
    assert new.totals()["requests"]["GET", "2xx"] == 8


@pytest.mark.parametrize(
    "one",
    [
        ["unknown", [], 1],
        ["requests", ["GET"], 1],
        ["requests", ["GET", "9xx"], 1],
        ["worker_up", [], 1],
        ["dial_seconds", ["0.07"], 1],
        ["decisions", ["allow", "no id at all"], 1],
    ],
)
def test_what_another_version_counts_otherwise_is_left_out(one: list[object]) -> None:
    new = Board.private()
    Inherited(new).add([one])
    found = {name: sum(values.values()) for name, values in new.totals().items()}
    allowed = {"decisions", "requests"}  # what is new there is counted as "other"
    assert {name for name, number in found.items() if number} <= allowed


class Narrow:
    """A program that has left, of ``old``, and a line to the one that counts on, in which there is
    room for a few messages. ``is_main``: that one was told so."""

    def __init__(self, old: Board) -> None:
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        self.new = Board.private()
        self.is_main = False
        self._inherited = Inherited(self.new)
        self._line = Line(other)
        self.left = Left(old, cast("Reopening", None), 1, Line(one))

    def read(self) -> None:
        """All that there is to be read."""
        while (parcel := self._line.receive()) is not None:
            self._inherited.add(parcel.head.get("counts", []))
            self.is_main = self.is_main or "done" in parcel.head

    def close(self) -> None:
        self.left.close()
        self._line.close()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Board:
    """A board with so many counters that there is no room for all at once."""
    monkeypatch.setattr(succession, "PART", 4)
    monkeypatch.setattr(of_left, "AGAIN_SECONDS", 0.0)
    board = Board.private()
    for column in columns.KEPT:
        board.row(0)[column] = column + 1
    return board


def test_it_is_the_main_one_when_it_knows_all_counters(counted: Board) -> None:
    with closing(Narrow(counted)) as narrow:
        for _ in range(len(columns.KEPT)):
            narrow.left.go_on()
            narrow.read()
            if narrow.is_main:
                break
        assert narrow.is_main
        assert list(narrow.new.base[: columns.FIXED]) == list(counted.row(0)[: columns.FIXED])


def test_the_last_counters_wait_for_a_reader(
    counted: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Narrow(counted)) as narrow:
        narrow.left.go_on()  # a few of them are said
        counted.row(0)[columns.KEPT[0]] += 1
        monkeypatch.setattr(time, "sleep", lambda seconds: narrow.read())
        narrow.left.last_words()
        with pytest.raises(Closed):
            narrow.read()
        assert list(narrow.new.base[: columns.FIXED]) == list(counted.row(0)[: columns.FIXED])
