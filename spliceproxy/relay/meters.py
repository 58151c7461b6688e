"""What limits count: one entry for each value of what a limit counts by, in memory that all
processes share (``observe.board``).

    one page     how many entries were ever made
    tags         one number for each entry: of which limit and key it is, 0 for none
    entries      SIZE bytes and one number of 32 bits for each row of the board

An entry:

    0   8   when its bucket of requests is full again, in ns of CLOCK_MONOTONIC
    8   8   the same of new tunnels
    16  8   requests that were refused for it
    24  8   a day, in days of Unix time
    32  8   bytes in that day
    40  8   an hour, in hours of Unix time
    48  8   bytes in that hour
    64  128 bytes of its key, and the key: the id of the limit, a US (0x1f), and what it counts by
    192     connections that count for it, a number for each row of the board; and behind them what
            was said of those that may move so many bytes a second (:class:`Shares`)

Behind all of them is what this machine was lent of limits that others share (``relay.leases``).

A bucket is one number (ITU-T I.371, the "generic cell rate algorithm"): each request puts off by
its share of a second when the bucket is full again, and one that would put that off for too long is
refused. So one exchange of a number is all that a request costs, whichever worker it comes to. Of
connections each worker counts its own, so that those of one that has died can be taken away, and
who lets one in sums them up before and behind its own.

A tag is made from the limit and the key by a hash with a secret of the board: nobody can choose
keys that fall together. An entry is found in one of the WAYS places that its tag gives it. Where
all of them are in use, it takes one of which nothing is to be remembered: no connection, and full
buckets. Who has found an entry may use it for as long as its tag is the same.

The relay in C does the same (``native/lane/meters.pxd``). :class:`Portable` is for engines in
Python: it takes a lock, so either all workers use it, or none.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import NamedTuple, Protocol

from spliceproxy.relay import leases
from spliceproxy.relay.leases import ENTRIES, Leases

WAYS = 16

PAGE = 4096
SIZE = 192

REQUESTS, TUNNELS, REFUSED, DAY, DAY_BYTES, HOUR, HOUR_BYTES = range(7)
"""Numbers of an entry."""

HOUR_SECONDS = 3600
DAY_SECONDS = 86400

SAID = 6
"""Numbers that a row says of what moves: three for each way."""

STALE = -1
"""Instead of a time: the entry is another's by now."""

FULL = 1
"""There is no room for one more connection."""

_KEY = 64
_KEY_MOST = SIZE - _KEY - 1
_SEPARATOR = "\x1f"
_DIGEST = 8  # bytes
_LONG_DIGEST = 16  # likewise
_LOCKED = 1  # the byte of the board's file that stands for all entries

TRIES = 10_000
TRY_SECONDS = 0.0001
"""How often the lock is tried for, and how far apart. It is held for some microseconds."""


class Place(NamedTuple):
    """Of an entry, and its tag when that was found."""

    entry: int
    tag: int


class Count(NamedTuple):
    """What one entry says: of ``limit``, and of the ``key`` that it counts by."""

    limit: str
    key: str
    connections: int
    refused: int
    bytes_today: int = 0
    bytes_this_hour: int = 0


class Counting(Protocol):
    """What one worker does with entries. The compiled relay has another one."""

    def spend(self, entry: int, tag: int, bucket: int, interval: int, room: int) -> int:
        """Takes a request, or a tunnel, from a bucket, which holds ``room`` ns and gets one back
        each ``interval``. 0, or after how many ns there will be one; STALE."""

    def give_back(self, entry: int, bucket: int, interval: int) -> None:
        """What was taken is not used."""

    def hold(self, entry: int, tag: int, most: int) -> int:
        """One more connection counts, unless there are ``most`` (0: any number): 0, FULL or
        STALE."""

    def drop(self, entry: int) -> None:
        """It does not any more. Nothing happens where none counts."""

    def move(self, entry: int, n: int) -> None:
        """So many bytes have moved."""

    def refuse(self, entry: int) -> None:
        """A request was refused."""

    def swap(self, entry: int, number: int, seen: int, wanted: int) -> bool:
        """Sets a number of an entry, if it is still what was ``seen``."""


def size_of(rows: int) -> int:
    """Bytes of all of it, for so many rows."""
    return leases_at(rows) + leases.size_of()


def leases_at(rows: int) -> int:
    """Where what was lent begins."""
    return PAGE + 8 * ENTRIES + ENTRIES * entry_of(rows)


def entry_of(rows: int) -> int:
    """Bytes of one entry."""
    return SIZE + -(-4 * rows * (1 + SAID) // 64) * 64


class Meters:
    """The entries of a board with so many ``rows``. ``fd`` is its file, -1 where nobody shares
    it."""

    __slots__ = ("_bytes", "_fd", "_made", "_size", "_tags", "leases", "memory", "rows", "secret")

    def __init__(self, memory: memoryview, rows: int, secret: bytes, fd: int) -> None:
        self.memory = memory
        self.rows = rows
        self.secret = secret
        self._fd = fd
        self._size = entry_of(rows)
        self._made = memory[:8].cast("Q")
        self._tags = memory[PAGE : PAGE + 8 * ENTRIES].cast("Q")
        self._bytes = memory[PAGE + 8 * ENTRIES : leases_at(rows)]
        self.leases = Leases(memory[leases_at(rows) :], fd)

    def portable(self, row: int) -> Portable:
        """What the worker of this row does with them without the compiled relay."""
        return Portable(self, row)

    # ---- places ------------------------------------------------------------------------

    def place(self, limit: str, key: str) -> Place | None:
        """That of a key of a limit, made where there is none; None where there is no room."""
        tag = self._tag(limit, key)
        first = tag // 2 % (ENTRIES // WAYS) * WAYS
        places = range(first, first + WAYS)
        for at in places:
            if self._tags[at] == tag:
                return Place(at, tag)
        with self.locked():
            for at in places:  # another worker may have made it
                if self._tags[at] == tag:
                    return Place(at, tag)
            for at in sorted(places, key=lambda at: self._tags[at] != 0):
                if self._free(at):
                    self._make(at, tag, limit, key)
                    return Place(at, tag)
        return None

    def _free(self, at: int) -> bool:
        """Takes its place from an entry, if nothing is to be remembered of it."""
        tag = self._tags[at]
        if not tag:
            return True
        self._tags[at] = 0  # from here on nobody begins to use it
        now = time.monotonic_ns()
        numbers = self.numbers(at)
        held, used = any(self.held(at)), any(self.used(at))
        if held or used or max(numbers[REQUESTS], numbers[TUNNELS]) > now:
            self._tags[at] = tag
            return False
        return True

    def _make(self, at: int, tag: int, limit: str, key: str) -> None:
        text = _name_of(limit, key)
        start = at * self._size
        self._bytes[start : start + self._size] = bytes(self._size)
        self._bytes[start + _KEY] = len(text)
        self._bytes[start + _KEY + 1 : start + _KEY + 1 + len(text)] = text
        self.leases.clear(at)
        self._made[0] += 1
        self._tags[at] = tag

    def _tag(self, limit: str, key: str) -> int:
        name = _name_of(limit, key)
        digest = blake2b(name, digest_size=_DIGEST, key=self.secret).digest()
        return int.from_bytes(digest, "little") | 1

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other process makes an entry meanwhile."""
        if self._fd < 0:
            yield
            return
        for _ in range(TRIES):
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _LOCKED, os.SEEK_SET)
                break
            except OSError:  # another process has it
                time.sleep(TRY_SECONDS)
        else:
            raise TimeoutError("the counts of limits are locked by a process that does not go on")
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, _LOCKED, os.SEEK_SET)

    # ---- numbers -----------------------------------------------------------------------

    def tag(self, at: int) -> int:
        """That of an entry, 0 for none."""
        return int(self._tags[at])

    def numbers(self, at: int) -> memoryview:
        """Those of an entry."""
        start = at * self._size
        return self._bytes[start : start + _KEY].cast("Q")

    def held(self, at: int) -> memoryview:
        """Connections that count for an entry, by the rows of those who count them."""
        start = at * self._size + SIZE
        return self._bytes[start : start + 4 * self.rows].cast("I")

    def used(self, at: int) -> tuple[int, int]:
        """Bytes of an entry in this day, and in this hour."""
        numbers, now = self.numbers(at), int(time.time())
        day = numbers[DAY_BYTES] if numbers[DAY] == now // DAY_SECONDS else 0
        hour = numbers[HOUR_BYTES] if numbers[HOUR] == now // HOUR_SECONDS else 0
        return day, hour

    def said(self, at: int) -> memoryview:
        """What rows have said of an entry: SAID times the numbers of all rows."""
        start = at * self._size + SIZE + 4 * self.rows
        return self._bytes[start : start + 4 * self.rows * SAID].cast("I")

    def label(self, at: int) -> tuple[str, str]:
        """The limit and the key of an entry."""
        start = at * self._size + _KEY
        text = bytes(self._bytes[start + 1 : start + 1 + self._bytes[start]])
        limit, _, key = text.decode("utf-8", "replace").partition(_SEPARATOR)
        return limit, key

    def clear(self, row: int) -> None:
        """Who counted in this row has ended, with all of its connections."""
        if not self._made[0]:
            return
        for at, tag in enumerate(self._tags):
            if tag:
                self.held(at)[row] = 0
                said = self.said(at)
                for number in range(SAID):
                    said[number * self.rows + row] = 0

    def budgets(self) -> Iterator[Budget]:
        """What was used in this day and hour."""
        if not self._made[0]:
            return
        for at, tag in enumerate(self._tags):
            if tag:
                numbers, used = self.numbers(at), self.used(at)
                for number, n in ((DAY, used[0]), (HOUR, used[1])):
                    if n:
                        yield Budget(*self.label(at), number, numbers[number], n)

    def inherit(self, budget: Budget, new: int) -> None:
        """So much was used as another program knows, of which it has not told the ``new`` part
        before."""
        place = self.place(budget.limit, budget.key)
        if place is None or budget.number not in (DAY, HOUR):
            return
        with self.locked():
            numbers = self.numbers(place.entry)
            if numbers[budget.number] < budget.period:
                numbers[budget.number], numbers[budget.number + 1] = budget.period, 0
            if numbers[budget.number] != budget.period:
                return
            lease = self.leases.numbers(place.entry)
            at = leases.DAY if budget.number == DAY else leases.HOUR
            elsewhere = lease[at + 1] if lease[at] == budget.period else 0
            if self.leases.used:  # both hear what the other has used from the store, too
                own = numbers[budget.number + 1] - elsewhere
                new = max(0, budget.used - own - elsewhere)
            numbers[budget.number + 1] += new
            lease[at : at + 2] = _pair(budget.period, elsewhere + new)

    def counts(self) -> Iterator[Count]:
        """What all entries say that are in use."""
        if not self._made[0]:
            return
        for at, tag in enumerate(self._tags):
            if not tag:
                continue
            label = self.label(at)
            found = sum(self.held(at)), self.numbers(at)[REFUSED], *self.used(at)
            if self._tags[at] == tag:
                yield Count(*label, *found)


def _name_of(limit: str, key: str) -> bytes:
    """What an entry is known by, also to another program. Of one that is too long the end is a
    digest of all of it."""
    name = f"{limit}{_SEPARATOR}{key}".encode("utf-8", "surrogateescape")
    if len(name) <= _KEY_MOST:
        return name
    digest = blake2b(name, digest_size=_LONG_DIGEST).hexdigest()
    begin = name[: _KEY_MOST - 2 * _LONG_DIGEST - 1].decode("utf-8", "ignore").encode()
    return b"%b~%b" % (begin, digest.encode())


def _pair(*numbers: int) -> memoryview:
    return memoryview(struct.pack("qq", *numbers)).cast("q")


class Budget(NamedTuple):
    """What was used of one, in the ``period`` that a ``number`` of an entry is about, DAY or
    HOUR."""

    limit: str
    key: str
    number: int
    period: int
    used: int


class Portable:
    """As of :class:`Counting`, under the lock."""

    __slots__ = ("_meters", "_row")

    def __init__(self, meters: Meters, row: int) -> None:
        self._meters = meters
        self._row = row

    def spend(self, entry: int, tag: int, bucket: int, interval: int, room: int) -> int:
        now = time.monotonic_ns()
        with self._meters.locked():
            if self._meters.tag(entry) != tag:
                return STALE
            numbers = self._meters.numbers(entry)
            full = max(numbers[bucket], now) + interval
            if full - now > room:
                return full - now - room
            numbers[bucket] = full
        return 0

    def give_back(self, entry: int, bucket: int, interval: int) -> None:
        with self._meters.locked():
            self._meters.numbers(entry)[bucket] -= interval

    def hold(self, entry: int, tag: int, most: int) -> int:
        with self._meters.locked():
            if self._meters.tag(entry) != tag:
                return STALE
            held = self._meters.held(entry)
            if most and sum(held) >= most:
                return FULL
            held[self._row] += 1
        return 0

    def drop(self, entry: int) -> None:
        held = self._meters.held(entry)
        held[self._row] = max(0, held[self._row] - 1)

    def move(self, entry: int, n: int) -> None:
        now = int(time.time())
        with self._meters.locked():
            numbers = self._meters.numbers(entry)
            for number, period in ((DAY, now // DAY_SECONDS), (HOUR, now // HOUR_SECONDS)):
                if numbers[number] != period:
                    numbers[number], numbers[number + 1] = period, 0
                numbers[number + 1] += n

    def refuse(self, entry: int) -> None:
        with self._meters.locked():
            self._meters.numbers(entry)[REFUSED] += 1

    def swap(self, entry: int, number: int, seen: int, wanted: int) -> bool:
        with self._meters.locked():
            numbers = self._meters.numbers(entry)
            if numbers[number] != seen:
                return False
            numbers[number] = wanted
        return True


class Shares:
    """What the worker of a row says of connections that may move so many bytes a second together,
    and what all have said. Of each entry, for both ways (0: from the client): how many are hungry,
    and kB per second of those that are not, and of all."""

    __slots__ = ("_meters", "_row", "said")

    def __init__(self, meters: Meters, row: int) -> None:
        self._meters = meters
        self._row = row
        self.said: set[int] = set()  # entries of which something was said

    def say(self, entry: int, way: int, hungry: int, light: float, total: float) -> None:
        """``light`` and ``total`` are bytes per second."""
        said, rows = self._meters.said(entry), self._meters.rows
        for at, number in enumerate((hungry, int(light) // 1000, int(total) // 1000)):
            said[(3 * way + at) * rows + self._row] = min(max(number, 0), 2**32 - 1)
        self.said.add(entry)

    def forget(self, entry: int) -> None:
        """Nothing here counts for it any more."""
        for way in (0, 1):
            self.say(entry, way, 0, 0.0, 0.0)
        self.said.discard(entry)

    def sums(self, entry: int, way: int) -> tuple[int, float, float]:
        """As of :meth:`say`, of all rows."""
        said, rows = self._meters.said(entry), self._meters.rows
        hungry, light, total = (
            sum(said[(3 * way + at) * rows : (3 * way + at + 1) * rows]) for at in range(3)
        )
        return hungry, light * 1e3, total * 1e3

    def connections(self, entry: int) -> int:
        """That count for it, of all rows."""
        return sum(self._meters.held(entry))
