"""Which workers answer, so that nobody waits for those that do not, and everybody is told of them.

Each worker is asked for a sign of life every few seconds, and whenever an answer is to be made of
what all of them say. It has one such question at most, and as much time as it likes: a worker that
was stopped answers when it goes on, and is one that answers from then on. So one that is known to
be silent costs nobody any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from spliceproxy.admin.links import Refused, Unanswered, Worker
from spliceproxy.admin.shared import Shared
from spliceproxy.messages import log
from spliceproxy.relay.columns import PID, UP

if TYPE_CHECKING:
    from spliceproxy.admin.desk import Desk

LOOK_SECONDS = 0.05
"""Between the beginnings of two looks: whoever asks more often shares one. So those who may ask
without a token cost the workers little, however many they are."""

PING_SECONDS = 0.8
"""That a worker has to answer. The probes of Kubernetes wait for a second by default."""

TURNS = 4
"""Of the event loop, from an answer that is there to a worker that is known to answer."""

STARTING_SECONDS = 10.0
"""That a new worker has until its first answer, before that is a fault."""

STEP = 2.0
"""Seconds between two looks, where nobody asks."""

Silent = Mapping[int, str]
"""By the index of a worker: why it does not answer."""


def told_silent(silent: Silent) -> dict[str, Any]:
    """How an answer names those that are not in it: their indices, and a line for each."""
    return {"silent": sorted(silent), "why": [silent[index] for index in sorted(silent)]}


def miss(silent: dict[int, str], index: int, why: str) -> None:
    """Nor does that one answer, which may have the index of another."""
    silent[index] = f"{silent[index]}; {why}" if index in silent else why


class Watch:
    """Of one ``desk``, all of whose workers are there soon after the start."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._started = time.monotonic()
        # By index: when it has answered last.
        self._answered = dict.fromkeys(desk.board.expected, self._started)
        self._awaited = set(self._answered)  # never met, and nothing is known of their ends
        self._news = asyncio.Event()
        self._looking = Shared(self._look, LOOK_SECONDS)
        self._going_on = asyncio.ensure_future(self._go_on())

    # ---- what the desk tells -----------------------------------------------------------

    def met(self, worker: Worker) -> None:
        """It is there from now on."""
        if self._has_place(worker):
            self._awaited.discard(worker.index)
        self._ping(worker)
        self._news.set()

    def ended(self, index: int, *, left: bool = False) -> None:
        """It is not there any more. ``left``: it was not to be."""
        self._awaited.discard(index)
        if left:
            self._answered.pop(index, None)
        self._news.set()

    # ---- what others ask ---------------------------------------------------------------

    async def look(self) -> None:
        """Comes back when each worker has answered, or is known to be silent: soon, and after
        PING_SECONDS at most. Those who ask at the same time share one look, which begins a moment
        after the last one."""
        await self._looking.get()

    def silent(self) -> Silent:
        """Those that do not answer, as far as is known now; also those that drain, and have no
        place any more."""
        found = dict(self._silent())
        for worker in self._desk.workers.values():
            if worker.silent and not self._has_place(worker):
                miss(found, worker.index, worker.silent)
        return found

    def ill(self) -> Silent:
        """Of these, those that have a place, and are not just starting."""
        return {index: why for index, why in self._silent() if not self._starts(index)}

    def answering(self) -> list[Worker]:
        """The others, in their order, and behind each those that it has replaced."""
        workers = sorted(self._desk.workers.values(), key=lambda one: (one.index, one.leaves))
        return [one for one in workers if not one.silent]

    def serving(self) -> list[Worker]:
        """Of these, those that have a place."""
        return [one for one in self.answering() if self._has_place(one)]

    # ---- how it knows ------------------------------------------------------------------

    def _has_place(self, worker: Worker) -> bool:
        return not worker.leaves and worker.index in self._desk.board.expected

    def _in_place(self) -> dict[int, Worker]:
        """By their indices."""
        return {one.index: one for one in self._desk.workers.values() if self._has_place(one)}

    def _silent(self) -> Iterator[tuple[int, str]]:
        workers = self._in_place()
        for index in self._desk.board.expected:
            worker = workers.get(index)
            if worker is None:
                pid = self._desk.board.process(index)[PID]
                if pid:
                    yield index, f"worker {index} (pid {pid}) cannot be asked yet"
                elif not self._desk.draining:  # else it has ended as it should
                    yield index, f"worker {index} does not run"
            elif worker.silent:
                yield index, worker.silent

    def _starts(self, index: int) -> bool:
        """Whether a silent one may need more time."""
        answered = self._answered.setdefault(index, time.monotonic())
        if time.monotonic() > answered + STARTING_SECONDS:
            return False
        worker = self._in_place().get(index)
        return worker is None or not (self._desk.board.process(index)[UP] or answered > worker.met)

    async def _go_on(self) -> None:
        while True:
            try:
                await self.look()
                self._desk.settle()
            except Exception:
                log.exception("the workers could not be looked at")
            await asyncio.sleep(STEP)

    async def _look(self) -> None:
        begun = time.monotonic()
        for worker in list(self._desk.workers.values()):
            self._ping(worker)
        while self._is_worth_a_wait() and (left := begun + PING_SECONDS - time.monotonic()) > 0:
            self._news.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), left)
        for _ in range(TURNS):  # what has come is read first, also where there is much else to do
            await asyncio.sleep(0)
        for worker in list(self._desk.workers.values()):
            if not worker.ping.done():
                worker.silent = worker.silent or f"{worker} does not answer"

    def _is_worth_a_wait(self) -> bool:
        if self._awaited and time.monotonic() < self._started + STARTING_SECONDS:
            return True
        return any(not (one.silent or one.ping.done()) for one in self._desk.workers.values())

    def _ping(self, worker: Worker) -> None:
        if worker.ping.done():
            worker.ping = asyncio.ensure_future(self._pinged(worker))

    async def _pinged(self, worker: Worker) -> None:
        try:
            await worker.link.ask("ping", None)
        except Refused:
            pass  # it answers
        except Unanswered as error:
            worker.silent = str(error)
            self._news.set()
            return
        worker.silent = ""
        if self._has_place(worker):
            self._answered[worker.index] = time.monotonic()
        self._news.set()
