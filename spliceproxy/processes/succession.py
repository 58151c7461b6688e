"""The program that takes over from another (:mod:`spliceproxy.processes.upgrade`).

It inherits one end of a pair of SOCK_SEQPACKET sockets, whose number is in an environment variable
with a nonce. Messages are those of :mod:`spliceproxy.processes.parcels`.

    this one                                    the one that runs
    {"hello": PROTOCOL, "nonce": ...}   ───►    knows it by its process (SCM_CREDENTIALS) and the
                                        ◄───    nonce: {"welcome": PID, "places": [...], ...}
    loads its configuration, then for each address that it listens on
    {"want": 0}                         ───►
                                        ◄───    {"queues": 0} and its sockets
    starts its workers, which wait
    {"ready": WORKERS}                  ───►
                                        ◄───    {"go": true}: they accept clients
                                        ◄───    {"giver": 0} and the end of a pair, for a worker:
                                                at the other is who gives to it
                                        ◄───    {"counts": [...]}: what was counted there
                                        ◄───    {"done": true}: this is the main process now
    {"reopen": true}                    ───►    the access log was rotated: whoever is the main
                                        ◄───    process, and so is told by SIGUSR1, tells the other
    {"refused": WHY}, or its end        ───►    goes on as if nothing had been
                                        ◄───    {"cancelled": WHY}: nobody wants this one

Where the other ends without a word this one goes on alone.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from spliceproxy.admin.channel import Closed, Message, close_all
from spliceproxy.config import UPGRADE_VARIABLE, Address
from spliceproxy.observe.board import Board, Unreadable
from spliceproxy.processes.parcels import Line
from spliceproxy.relay.columns import COUNTER, FAMILIES, HISTOGRAM
from spliceproxy.relay.meters import Budget
from spliceproxy.version import __version__

PROTOCOL = 1
"""Of both programs: another one is refused."""

ANSWER_SECONDS = 30.0
"""That the program which runs has for an answer."""

REASON_MOST = 2000
"""Characters of a reason that are told."""

PART = 100
"""Counters of one message."""


class Refused(Exception):
    """The program that runs does not hand over; the text says why."""


class Predecessor:
    """The program that runs, as this one sees it until it has its sockets."""

    def __init__(self, line: Line, nonce: str) -> None:
        self.line = line
        self._nonce = nonce
        self._welcome: Message = {}

    @classmethod
    def of(cls, told: str) -> Predecessor:
        """That of the environment variable. Refused: it is nonsense."""
        fd, _, nonce = told.partition(":")
        try:
            line = Line.of(int(fd))
            os.set_inheritable(line.fileno(), False)
        except (OSError, ValueError):
            raise Refused(f"{UPGRADE_VARIABLE}: only a proxy that runs can set it") from None
        return cls(line, nonce)

    @property
    def serial(self) -> int:
        return int(self._welcome["serial"])

    @property
    def generation(self) -> int:
        return int(self._welcome["generation"])

    def greet(self) -> None:
        """Refused."""
        self._say({"hello": PROTOCOL, "nonce": self._nonce, "version": __version__})
        self._welcome, _ = self._answer("welcome")

    def places(self, *, admin: bool) -> list[tuple[int, Address, int]]:
        """The addresses that it listens on, as in its settings: a number, the address, and the
        port that it has."""
        return [
            (
                number,
                Address(one["host"], one["port"], one["path"], name=one.get("name", "")),
                one["bound"],
            )
            for number, one in enumerate(self._welcome["places"])
            if one["admin"] == admin
        ]

    def is_given(self, number: int) -> bool:
        """Whether systemd has opened the sockets of one of them."""
        return bool(self._welcome["places"][number].get("given"))

    def queues(self, number: int) -> list[socket.socket]:
        """The sockets of one of them. Refused."""
        self._say({"want": number})
        found: list[socket.socket] = []
        while len(found) < self._welcome["places"][number]["queues"]:
            _, fds = self._answer("queues")
            if not fds:
                raise Refused("no free descriptor for the listening sockets")
            found += [socket.socket(fileno=fd) for fd in fds]
        return found

    def refuse(self, why: str) -> None:
        """This program cannot take over."""
        with contextlib.suppress(Refused):
            self._say({"refused": why[:REASON_MOST]})

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """What is said on standard error before the program leaves is why it refuses."""
        said = io.StringIO()
        before = sys.stderr
        sys.stderr = said
        try:
            yield
        except SystemExit as error:
            if error.code:
                self.refuse("; ".join(said.getvalue().splitlines()) or f"status {error.code}")
            raise
        finally:
            sys.stderr = before
            before.write(said.getvalue())
            before.flush()

    def _say(self, message: Message) -> None:
        try:
            if not self.line.send(message):
                raise Refused("the program that runs does not read")
        except (Closed, OSError):
            raise Refused("the program that runs is gone") from None

    def _answer(self, name: str) -> tuple[Message, list[int]]:
        """The next message, which is this one. Refused."""
        end = time.monotonic() + ANSWER_SECONDS
        while (left := end - time.monotonic()) > 0:
            poll = select.poll()
            poll.register(self.line.fileno(), select.POLLIN)
            if not poll.poll(left * 1000):
                break
            try:
                parcel = self.line.receive()
            except Closed:
                raise Refused("the program that runs is gone") from None
            if parcel is None:
                continue
            if name in parcel.head:
                return dict(parcel.head), parcel.fds
            close_all(parcel.fds)
            raise Refused(str(parcel.head.get("cancelled", f"it says {list(parcel.head)}")))
        raise Refused(f"the program that runs does not answer within {ANSWER_SECONDS:g} s")


def begin(told: str) -> Predecessor:
    """The program that runs, as it says by the environment; SystemExit where this one cannot take
    over from it."""
    try:
        found = Predecessor.of(told)
        found.greet()
    except Refused as error:
        print(f"spliceproxy: it cannot take over: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    return found


def counters(board: Board) -> Iterator[list[Any]]:
    """What only grows, by name, in parts: another version may have other columns."""
    try:
        totals = board.totals()
    except Unreadable:
        return
    part: list[Any] = []
    for name, numbers in totals.items():
        if FAMILIES[name].kind in (COUNTER, HISTOGRAM):
            part += [[name, list(values), number] for values, number in numbers.items() if number]
        while len(part) >= PART:
            yield part[:PART]
            del part[:PART]
    for limit, key, number, period, used in board.meters.budgets():
        part.append([BUDGETS, [limit, key, str(number), str(period)], used])
        if len(part) == PART:
            yield part
            part = []
    if part:
        yield part


BUDGETS = "limit_budgets"
"""Stands for the name of a family, where it is said what was used of budgets."""


class Inherited:
    """What another program has counted, added to the ``board`` of this one."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._known: dict[tuple[str, tuple[str, ...]], int] = {}

    def add(self, part: Iterable[Sequence[Any]]) -> None:
        """The numbers are those since its start: what is new of them is added."""
        for name, values, number in part:
            key = str(name), tuple(map(str, values))
            more = max(0, number - self._known.get(key, 0))
            if key[0] == BUDGETS:
                self._use(key[1], number, more)
            else:
                column = self._column(*key)
                if column is None:
                    continue
                self._board.base[column] += more
            self._known[key] = max(number, self._known.get(key, 0))

    def _use(self, values: tuple[str, ...], used: int, more: int) -> None:
        """What another program has used of a budget."""
        try:
            limit, key, number, period = values
            self._board.meters.inherit(Budget(limit, key, int(number), int(period), used), more)
        except (ValueError, TimeoutError):  # of another version; or who has the lock does not go on
            return

    def _column(self, name: str, values: tuple[str, ...]) -> int | None:
        family = FAMILIES.get(name)
        if family is None or family.kind not in (COUNTER, HISTOGRAM):
            return None
        if len(values) != len(family.labels) and values not in family.values:
            return None
        if values in family.values:
            return family.column(*values)
        if family.kind == HISTOGRAM or not values:
            return None
        try:
            return self._board.names.column(name, *values)
        except (KeyError, ValueError):  # no family whose labels become known later
            return None
