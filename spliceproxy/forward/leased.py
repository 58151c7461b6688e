"""What a machine was lent of one limit for one key: how much it has, what it lacks, and what
becomes of the entry when that changes.

A rate is lent in parts. Less of it means that requests come back more slowly, and that fewer may
come at once. What has been used up stays used up: whoever gets a larger part gets no request with
it that others may have used.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from spliceproxy.forward.store import PREFIX, Asked, Spent
from spliceproxy.policy.limits import Numbers
from spliceproxy.relay import meters as entries
from spliceproxy.relay.leases import (
    CONNECTIONS,
    DAY,
    HOUR,
    INTERVAL,
    PART,
    PARTS,
    TAKEN,
    even,
)
from spliceproxy.relay.meters import DAY_SECONDS, HOUR_SECONDS, Counting, Meters

KINDS = CONNECTION, REQUEST, TUNNEL = range(3)
"""What is lent. Of the last two, less one, are buckets of an entry."""

_LETTERS = "crt"

MORE = 4
"""Who has its even part and lacks more asks for so much of the whole at a time: one fourth."""

IDLE = 8
"""Of what is not used, whoever is asked for it keeps one eighth."""

SPARE = 1.25
"""What is used of a rate comes and goes: so much more than that is kept."""


class Period(NamedTuple):
    """Of bytes: the number of an entry, that of a lease, seconds, and the letter of the store."""

    entry: int
    lease: int
    seconds: int
    letter: str


PERIODS = (
    Period(entries.DAY, DAY, DAY_SECONDS, "d"),
    Period(entries.HOUR, HOUR, HOUR_SECONDS, "h"),
)


class Leased:
    """The entry ``at`` for as long as it has this tag; ``name`` is that of its key in the store."""

    __slots__ = ("_counting", "_meters", "_seen", "at", "lease", "limit", "name", "numbers", "tag",
                 "told", "used")  # fmt: skip

    def __init__(self, meters: Meters, counting: Counting, at: int, numbers: Numbers) -> None:
        self._meters = meters
        self._counting = counting
        self.at = at
        self.tag = meters.tag(at)
        self.limit = meters.label(at)[0]
        self.name = meters.leases.name(at)
        self.lease = meters.leases.numbers(at)
        self.numbers = numbers
        self.told = [-1, -1]  # bytes, as the store knows them
        self.used = [0.0, 0.0]  # of each rate, as a part of the whole
        self._seen = [(0, 0), (0, 0)]  # ns, and what was let in until then

    @property
    def is_same(self) -> bool:
        """Whether the entry is still that of this key."""
        return self._meters.tag(self.at) == self.tag

    @property
    def key_name(self) -> str:
        """What is the same in all keys of the store that are about it."""
        return f"{self.limit}:{self.name}"

    def key(self, kind: int) -> str:
        return f"{PREFIX}{_LETTERS[kind]}:{self.limit}:{self.name}"

    # ---- what is lent ------------------------------------------------------------------

    def whole(self, kind: int) -> int:
        """All that there is, 0 where the limit is about something else."""
        if kind == CONNECTION:
            return self.numbers.most
        return PARTS if self.numbers.intervals[kind - 1] else 0

    def lent(self, kind: int) -> int:
        return int(self.lease[CONNECTIONS if kind == CONNECTION else PART + kind - 1])

    def has(self, kind: int) -> int:
        """What the store is told of it. Connections that have moved here from another process
        count, whether there was room for them or not."""
        return max(self.lent(kind), self.held) if kind == CONNECTION else self.lent(kind)

    @property
    def held(self) -> int:
        """Connections that count here."""
        return sum(self._meters.held(self.at))

    def lacks(self, kind: int) -> bool:
        """Whether no more fits into what was lent."""
        if kind == CONNECTION:
            return self.held >= self.lent(kind)
        interval, room = self._bucket(kind - 1)
        full = self._meters.numbers(self.at)[kind - 1]
        return not interval or full - time.monotonic_ns() > room - interval

    def wants(self, kind: int, machines: int, *, first: bool) -> Asked:
        """What is to be asked for: as much as others may have without asking; and more where that
        is not enough. ``first``: nobody has asked for this entry yet."""
        whole, has = self.whole(kind), self.has(kind)
        part = even(whole, machines)
        wants = has
        if first:
            wants = max(has, part)
        elif self.lacks(kind):
            wants = part if has < part else max(has, min(whole, has + max(1, whole // MORE)))
        return Asked(self.key(kind), whole, has, wants)

    def get(self, kind: int, gets: int, fresh: int = 0) -> None:
        """So much is lent from now on. Nobody has had ``fresh`` of it before."""
        if kind == CONNECTION:
            self.lease[CONNECTIONS] = gets
        else:
            self._get_part(kind - 1, gets, fresh)

    def _bucket(self, bucket: int) -> tuple[int, int]:
        """After how many ns there is one more here, and ns for as many as may come at once."""
        interval = int(self.lease[INTERVAL + bucket])
        return interval, max(self.numbers.rooms[bucket], interval)

    def _get_part(self, bucket: int, part: int, fresh: int) -> None:
        before, room = self._bucket(bucket)
        whole = self.numbers.intervals[bucket]
        more = fresh / PARTS * self.numbers.rooms[bucket] / whole  # requests that may come at once
        interval = whole * PARTS // part if part > 0 else 0
        if before == interval:
            self.lease[PART + bucket] = part
            return
        if not interval or interval > before > 0:  # less, from now on
            self.lease[INTERVAL + bucket] = interval
        new_room = max(self.numbers.rooms[bucket], interval)
        while interval:
            seen, now = self._meters.numbers(self.at)[bucket], time.monotonic_ns()
            left = more
            if before:
                left += (room - max(0, seen - now)) / before
            backlog = max(0, int(new_room - max(left, 0.0 if before else 1.0) * interval))
            if self._counting.swap(self.at, bucket, seen, now + backlog):
                break
        self.lease[INTERVAL + bucket] = interval
        self.lease[PART + bucket] = part

    # ---- what is given back ------------------------------------------------------------

    def look(self, now: int) -> None:
        """Sees how much of the rates is used."""
        for bucket, interval in enumerate(self.numbers.intervals):
            if interval:
                before, taken = self._seen[bucket]
                seen = int(self.lease[TAKEN + bucket])
                used = (seen - taken) * interval / max(now - before, 1) if before else 0.0
                self.used[bucket] = max(used, self.used[bucket] / 2)
                self._seen[bucket] = now, seen

    def give(self, kind: int, machines: int, *, asked: bool) -> bool:
        """Gives back what is more than the even part and not used; and where others have ``asked``
        for it, what is not used of that, and what is more than it of a rate. Whether that is
        anything."""
        has, part = self.lent(kind), even(self.whole(kind), machines)
        if kind == CONNECTION:
            used = self.held
            keeps = used + (has - used) // IDLE if asked else max(used, part)
        else:
            used = int(self.used[kind - 1] * SPARE * PARTS)
            keeps = max(used, part // IDLE if asked else part)
            if asked:
                keeps = min(keeps, part)
        if keeps >= has:
            return False
        self.get(kind, keeps)
        if kind == CONNECTION and self.held > keeps:  # somebody was faster
            self.lease[CONNECTIONS] = has
            return False
        return True

    # ---- bytes -------------------------------------------------------------------------

    def moved(self, which: int, wall: int) -> int:
        """Bytes that this machine has moved in one of PERIODS."""
        period = PERIODS[which]
        numbers, number = self._meters.numbers(self.at), wall // period.seconds
        if numbers[period.entry] != number:
            return 0
        elsewhere = self.lease[period.lease + 1] if self.lease[period.lease] == number else 0
        return max(0, int(numbers[period.entry + 1]) - elsewhere)

    def spent(self, which: int, wall: int) -> Spent:
        period = PERIODS[which]
        key = f"{PREFIX}{period.letter}:{wall // period.seconds}:{self.limit}:{self.name}"
        return Spent(key, self.moved(which, wall), 2 * period.seconds)

    def hear(self, which: int, wall: int, own: int, total: int) -> None:
        """All machines have moved so many bytes, ``own`` of them this one."""
        period = PERIODS[which]
        number = wall // period.seconds
        self._begin(period.entry, number)
        before = int(self.lease[period.lease + 1]) if self.lease[period.lease] == number else 0
        elsewhere = max(before, total - own)  # a store that has forgotten some is not believed
        self.lease[period.lease + 1] = elsewhere
        self.lease[period.lease] = number
        self._add(period.entry + 1, elsewhere - before)
        self.told[which] = own

    def _begin(self, number: int, period: int) -> None:
        """Bytes of another period are forgotten."""
        seen, numbers = self._meters.numbers(self.at)[number], self._meters.numbers(self.at)
        before = int(numbers[number + 1])
        if seen != period and self._counting.swap(self.at, number, seen, period):
            self._add(number + 1, -before)

    def _add(self, number: int, n: int) -> None:
        while n:
            seen = int(self._meters.numbers(self.at)[number])
            if self._counting.swap(self.at, number, seen, max(0, seen + n)):
                return


def kind_and_name(key: str) -> tuple[int, str]:
    """Of what a key of the store is about."""
    letter, _, name = key.removeprefix(PREFIX).partition(":")
    return _LETTERS.index(letter), name
