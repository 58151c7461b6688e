"""Who asks the store for a whole machine: one of its workers, all the time.

What others wait for is asked for at once, all of it together. Where the store has too little of it
the machines that have some hear of that, and it is asked once more a moment later. Every BEAT the
store hears that this machine lives, what it has moved, and what it gives back. So the round trips
are a few in a second, however many requests there are.

While the store is away, what was lent holds until it is believed to be dead there (TTL). From then
on each machine has its even part of everything. When it is back it hears what this machine has.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from spliceproxy.forward.leased import CONNECTION, KINDS, PERIODS, Leased, kind_and_name
from spliceproxy.forward.store import TTL, Asked, Beaten, Gone, Spent, Store
from spliceproxy.messages import log
from spliceproxy.policy.limits import Limits
from spliceproxy.relay.leases import (
    ANSWERED,
    ASKED,
    AWAY,
    ENTRIES,
    FAILURES,
    KNOWN,
    LAST,
    MACHINES,
    REFUSED,
    TRIPS,
    even,
)
from spliceproxy.relay.meters import Counting, Meters

BEAT = 0.25
"""Seconds between two words to the store, where nobody waits for one."""

TICK = 0.01
"""Seconds after which the store is asked once more for what it did not have."""

LOOKS = 1000
"""Entries of which a beat sees what has changed. The others have their turn at the next ones."""

AGAIN = 0.1
"""Seconds for which nothing is asked for again that the store did not have."""

RENEWED = 600.0
"""Seconds after which the store hears again what is lent and does not change, long before it
forgets it (``store.KEPT``)."""

MOST = 4096
"""Of what is asked for at once."""

RELEASED = 3 * ENTRIES
"""Keys of which the store has yet to hear that nobody uses them here any more. Where there are more
the oldest are forgotten: whoever lacks something of them recalls it."""

SECOND = 1_000_000_000


class _Question(NamedTuple):
    """What is asked of the store: of a kind of lease, or where it is ``spent`` of one of
    PERIODS."""

    of: Leased
    which: int
    asked: Asked | None = None
    spent: Spent | None = None
    wall: int = 0  # when it was spent, Unix time


class Leading:
    """Of one worker, while it asks for all. ``where`` is the store, for messages; ``wake`` is
    called when there is something to ask."""

    def __init__(
        self,
        meters: Meters,
        counting: Counting,
        limits: Limits,
        store: Store,
        where: str,
        wake: Callable[[], None],
    ) -> None:
        self._meters = meters
        self._leases = meters.leases
        self._counting = counting
        self._limits = limits
        self._store = store
        self._where = where
        self._kept: dict[int, Leased] = {}  # by entry
        self._by_name: dict[str, Leased] = {}
        self._round: list[int] = []  # entries that have yet to be looked at
        self._released: list[tuple[str, Asked]] = []  # by name: of entries that are others' by now
        self._recalled: set[str] = set()  # keys of which others lack something
        self._listening: asyncio.Task[None] | None = None
        self._wake = wake
        # Entries of which the store has had too little, and those asked for once more.
        self._unmet: set[int] = set()
        self._second: set[int] = set()
        self._again: set[int] = set()  # entries of which the store has to be told anew
        self._born = ""
        self._before = self._leases.store[MACHINES]  # when the store was another one
        self._alone = False  # it was away for so long that nothing is lent any more
        self._beat = 0.0
        self._renew = time.monotonic() + RENEWED
        for at in range(len(self._leases.asks)):  # of whoever has done this before
            if self._meters.tag(at) and self._leases.name(at) and self._know(at):
                self._again.add(at)

    def change(self, limits: Limits) -> None:
        """Other limits are in force."""
        self._limits = limits
        for one in self._kept.values():
            named = limits.named(one.limit)
            if named is not None:
                one.numbers = named[1]
                for kind in KINDS[1:]:
                    if one.whole(kind):
                        one.get(kind, one.lent(kind))

    @property
    def rests(self) -> float:
        """Seconds until the next turn, if nobody wakes it up."""
        return TICK if self._unmet else max(TICK, self._beat - time.monotonic())

    # ---- a turn ------------------------------------------------------------------------

    async def turn(self) -> bool:
        """Asks the store what is to be asked by now. Whether there is more to ask at once."""
        now, flagged = time.monotonic(), self._flagged()
        beat = now >= self._beat
        if not (beat or flagged or self._recalled or self._again):
            return False
        if self._leases.store[AWAY]:
            self._again.update(at for at in flagged if self._know(at))
            self._answer(flagged)
            flagged = []
            if not (beat and await self._reach()):
                return False
            self._again.update(self._kept)  # it may have forgotten all
        self._second, self._unmet = self._unmet.intersection(flagged), set()
        questions = self._questions(flagged, beat=beat)
        if await self._ask(questions, beat=beat):
            for at in flagged:
                if at in self._kept and self._kept[at].is_same:
                    self._kept[at].lease[KNOWN] = 1
        self._answer([at for at in flagged if at not in self._unmet])
        for at in self._unmet:  # others give back what they do not use
            self._leases.asks[at] = 1
        if beat:
            self._beat = time.monotonic() + BEAT
            self._listen()
        return bool(self._recalled or self._again) and not self._leases.store[AWAY]

    async def _reach(self) -> bool:
        """Whether the store is back."""
        self._beat = time.monotonic() + BEAT
        self._leases.store[TRIPS] += 1
        try:
            await self._store.reach()
        except Gone as error:
            self._fail(str(error))
            return False
        if self._alone:
            self._forget()
        return True

    def _listen(self) -> None:
        if self._leases.store[AWAY] or (self._listening and not self._listening.done()):
            return
        loop = asyncio.get_running_loop()
        self._listening = loop.create_task(self._store.listen(self._recall))

    def _recall(self, key: str) -> None:
        self._recalled.add(key)
        self._wake()

    def _flagged(self) -> list[int]:
        """Entries for which somebody waits."""
        asks = bytes(self._leases.asks)
        found: list[int] = []
        at = asks.find(1)
        while at >= 0 and len(found) < MOST:
            self._leases.asks[at] = 0
            found.append(at)
            at = asks.find(1, at + 1)
        return found

    def _answer(self, flagged: Iterable[int]) -> None:
        for at in flagged:
            self._leases.numbers(at)[ANSWERED] += 1

    def _know(self, at: int) -> Leased | None:
        """An entry; None where no limit is in force that it could be of."""
        one = self._kept.get(at)
        if one is not None and one.is_same:
            return one
        if one is not None:
            self._release(one)
        named = self._limits.named(self._meters.label(at)[0])
        if named is None or not self._leases.name(at):
            return None
        one = self._kept[at] = Leased(self._meters, self._counting, at, named[1])
        self._by_name[one.key_name] = one
        return one

    def _release(self, one: Leased) -> None:
        """Its entry is another's, or its limit is in force no more."""
        del self._kept[one.at]
        self._again.discard(one.at)
        if self._by_name.get(one.key_name) is one:
            del self._by_name[one.key_name]
        self._released += [
            (one.key_name, Asked(one.key(kind), 1, 0, 0)) for kind in KINDS if one.whole(kind)
        ]
        del self._released[:-RELEASED]

    # ---- what is asked -----------------------------------------------------------------

    def _questions(self, flagged: Iterable[int], *, beat: bool) -> list[_Question]:
        found: list[_Question] = []
        wall = int(time.time())
        for at in flagged:
            one = self._know(at)
            if one is not None:
                found += self._of_flagged(one, wall)
        recalled, self._recalled = self._recalled, set()
        if recalled:
            found += self._of_recalled(recalled)
        back = bool(self._leases.store[AWAY])  # nobody is to see a half of what is here
        again = [
            self._again.pop() for _ in range(len(self._again) if back else MOST) if self._again
        ]
        for one in [self._kept[at] for at in again if at in self._kept]:
            found += [
                _Question(one, kind, Asked(one.key(kind), one.whole(kind), *2 * (one.has(kind),)))
                for kind in KINDS
                if one.whole(kind) and one.has(kind)
            ]
            found += self._spent(one, wall)
        if beat:
            found += self._of_beat(wall)
        return found

    def _of_flagged(self, one: Leased, wall: int) -> list[_Question]:
        first, machines = not one.lease[KNOWN], self._leases.machines
        found = []
        for kind in KINDS:
            if one.whole(kind):
                asked = one.wants(kind, machines, first=first)
                if asked.wants > asked.has or first:
                    found.append(_Question(one, kind, asked))
        return found + self._spent(one, wall)

    def _spent(self, one: Leased, wall: int, *, changed: bool = False) -> list[_Question]:
        """``changed``: only what the store does not know."""
        return [
            _Question(one, which, spent=one.spent(which, wall), wall=wall)
            for which in range(len(PERIODS))
            if one.numbers.budgets[which]
            and not (changed and one.moved(which, wall) == max(0, one.told[which]))
        ]

    def _of_recalled(self, recalled: set[str]) -> list[_Question]:
        """Others want what was lent here."""
        found: list[_Question] = []
        for key in recalled:
            kind, name = kind_and_name(key)
            one = self._by_name.get(name)
            if one is None or not one.is_same:
                self._released.append((name, Asked(key, 1, 0, 0)))
            elif one.whole(kind):
                found += self._given(one, kind, asked=True)
        return found

    def _given(self, one: Leased, kind: int, *, asked: bool) -> list[_Question]:
        if not one.give(kind, self._leases.machines, asked=asked):
            return []
        keeps = one.lent(kind)
        return [_Question(one, kind, Asked(one.key(kind), one.whole(kind), keeps, keeps))]

    def _of_beat(self, wall: int) -> list[_Question]:
        """What has changed since the last look."""
        found: list[_Question] = []
        now = time.monotonic_ns()
        self._round = self._round or list(self._kept)
        looks, self._round = self._round[:LOOKS], self._round[LOOKS:]
        for one in [self._kept[at] for at in looks if at in self._kept]:
            if not one.is_same or self._limits.named(one.limit) is None:
                self._release(one)
                continue
            one.look(now)
            if not self._leases.store[AWAY]:
                for kind in KINDS:
                    if one.whole(kind) and one.lent(kind):
                        found += self._given(one, kind, asked=False)
            found += self._spent(one, wall, changed=True)
        if time.monotonic() > self._renew:
            self._renew = time.monotonic() + RENEWED
            self._again.update(self._kept)
        return found

    # ---- what is answered --------------------------------------------------------------

    async def _ask(self, questions: list[_Question], *, beat: bool) -> bool:
        """Whether the store has answered, or there was nothing to ask."""
        lends = [one for one in questions if one.asked is not None]
        spends = [one for one in questions if one.spent is not None]
        names, self._released = self._released[:MOST], self._released[MOST:]
        released = [one for name, one in names if name not in self._by_name]
        asked = [one.asked for one in lends if one.asked is not None] + released
        spent = [one.spent for one in spends if one.spent is not None]
        if not (asked or spent or beat):
            return True
        numbers = self._leases.store
        numbers[TRIPS] += 1
        try:
            said = await self._store.ask(asked, spent, beat=beat, before=self._before)
        except Gone as error:
            self._released = names + self._released
            self._again.update(question.of.at for question in questions)
            self._fail(str(error))
            return False
        numbers[LAST] = time.monotonic_ns()
        for question, lent in zip(lends, said.lent, strict=False):
            self._get(question, *lent)
        for question, total in zip(spends, said.moved, strict=True):
            if question.of.is_same and question.spent is not None:
                question.of.hear(question.which, question.wall, question.spent.bytes, total)
        for question in questions:
            if question.of.is_same:
                question.of.lease[ASKED] = time.monotonic_ns()
        if said.beat is not None:
            self._hear(said.beat)
        return True

    def _get(self, question: _Question, gets: int, others: int, fresh: int) -> None:
        one, kind, asked = question.of, question.which, question.asked
        if not one.is_same or asked is None:
            return
        one.get(kind, gets, fresh)
        if gets >= asked.wants or not one.lacks(kind):
            return
        if others and one.at not in self._second:
            self._unmet.add(one.at)
        else:
            one.lease[REFUSED + kind] = time.monotonic_ns() + int(AGAIN * SECOND)

    def _hear(self, beat: Beaten) -> None:
        """What the store says of the machines."""
        numbers = self._leases.store
        if beat.born != self._born:
            self._before = numbers[MACHINES]
        if self._born and not numbers[AWAY] and (beat.born != self._born or not beat.known):
            self._again.update(self._kept)
        numbers[MACHINES] = beat.machines
        self._born, self._alone = beat.born, False
        if numbers[AWAY]:
            gone = time.time() - numbers[AWAY]
            numbers[AWAY] = 0
            log.warning(
                "limits-store %s: it is back after %.0f s, and limits count across machines again",
                self._where,
                gone,
            )

    def _fail(self, why: str) -> None:
        numbers = self._leases.store
        numbers[FAILURES] += 1
        if self._listening is not None:
            self._listening.cancel()  # its connection may be a dead one
        if not numbers[AWAY]:
            numbers[AWAY] = int(time.time())
            log.warning(
                "limits-store %s: it is away (%s); limits count on this machine alone until it is "
                "back",
                self._where,
                why,
            )
        if not self._alone and time.monotonic_ns() - numbers[LAST] > TTL * SECOND:
            self._alone = True
            for one in self._kept.values():
                for kind in KINDS:
                    if one.is_same and one.whole(kind):
                        one.get(kind, even(one.whole(kind), self._leases.machines))

    def _forget(self) -> None:
        """What this machine has allowed itself was lent by nobody: what it has in use counts."""
        self._alone = False
        for one in self._kept.values():
            if one.is_same and one.whole(CONNECTION):
                one.get(CONNECTION, 0)
                one.get(CONNECTION, one.held)

    async def finish(self, *, last: bool) -> None:
        """This worker asks no more. ``last``: nobody here does."""
        wall = int(time.time())
        questions = [
            question for one in self._kept.values() if one.is_same
            for question in self._spent(one, wall, changed=True)
        ]  # fmt: skip
        await self._ask(questions, beat=False)
        if last and not self._leases.store[AWAY]:
            try:
                await self._store.leave()
            except Gone as error:
                self._fail(str(error))
        await self.close()

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait((self._listening,))
        await self._store.close()
