"""What a machine was lent of limits that hold over several of them: beside each entry of
``relay.meters``, in the same memory.

    one page     numbers of the store as a whole, STORE_NUMBERS
    asks         one byte for each entry: whether somebody waits for what the store says of it
    leases       SIZE bytes for each entry, as numbers

A *lease* is the part of a limit that this machine may use without asking anybody. It is a number of
connections, and so many of PARTS of each rate. The entry counts against that, and not against the
whole. Bytes are not lent: what other machines have moved is added to the entry's own number, and is
remembered here, so that each knows what is its own.

One worker asks the store for all (``forward.lending``). It alone writes, but for the bytes that ask
for its attention, and but for what somebody takes who has waited for too long.

The relay in C reads what was lent, and counts what was taken (``native/lane/meters.pxd``).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from hashlib import blake2b
from typing import NamedTuple

ENTRIES = 16_384
"""As of ``relay.meters``."""

PAGE = 4096
SIZE = 192

CONNECTIONS, INTERVAL, _, TAKEN, _, PART, _ = range(7)
"""Numbers of a lease: connections; of requests and of new tunnels, which stand behind them: after
how many ns there is one more, 0 for none at all; how many were let in; and the part of the rate."""

REFUSED = 7
"""Until when nothing more is asked for: of connections, requests and tunnels, in ns of
CLOCK_MONOTONIC."""

DAY, DAY_ELSEWHERE, HOUR, HOUR_ELSEWHERE = range(10, 14)
"""Bytes that other machines have moved in this day and hour, which the entry counts, too."""

NAME = 14
"""16 bytes by which the store knows the key of the entry: not the key itself."""

KNOWN, ANSWERED, ASKED = range(16, 19)
"""Whether the store has said anything of it, or whoever has waited has given up; how often its asks
were answered; and when bytes were last asked about, in ns of CLOCK_MONOTONIC."""

PARTS = 1 << 20
"""What a whole rate consists of."""

CONFIGURED, LAST, MACHINES, TRIPS, FAILURES, AWAY = range(6)
"""Numbers of the store: whether there is one; when it has answered last, in ns of CLOCK_MONOTONIC;
how many machines it knew then; round trips; those that failed; and since when it is away, Unix
time, 0 if it is not."""

FRESH = 2_500_000_000
"""ns: an answer of the store is followed by another one within this time, or it is away."""

_LEADER = 2  # the byte of the board's file that stands for whoever asks the store
_PRESENT = 16  # from here on one for each row: whoever counts in it shares these limits


def size_of() -> int:
    """Bytes of all of it."""
    return PAGE + ENTRIES + ENTRIES * SIZE


class State(NamedTuple):
    """Of the store: whether it answers, else since when it does not (Unix time, None where it has
    yet to be asked); how many machines share; and what it was asked, and how often in vain."""

    up: bool
    away_since: int | None
    machines: int
    round_trips: int
    failures: int


def words(up: bool, machines: int) -> str:
    """Of a State, for people."""
    if not up:
        return "the store of limits is away: this machine counts by itself"
    return f"shared by {machines} machine{'s' if machines != 1 else ''}"


class Leases:
    """Those of one board. ``fd`` is its file, -1 where nobody shares it."""

    __slots__ = ("_fd", "_leases", "asks", "at", "bell", "store")

    def __init__(self, memory: memoryview, fd: int) -> None:
        self._fd = fd
        self.at = PAGE + ENTRIES  # where they begin
        self.bell = -1  # an eventfd(2) by which others wake up whoever asks the store
        self.store = memory[:PAGE].cast("q")
        self.asks = memory[PAGE : PAGE + ENTRIES]
        self._leases = memory[PAGE + ENTRIES :]

    @property
    def used(self) -> bool:
        """Whether there is a store."""
        return bool(self.store[CONFIGURED])

    def numbers(self, at: int) -> memoryview:
        """Those of the lease of an entry."""
        return self._leases[at * SIZE : (at + 1) * SIZE].cast("q")

    def clear(self, at: int) -> None:
        """The entry is another's from now on."""
        if self.used:
            self._leases[at * SIZE : (at + 1) * SIZE] = bytes(SIZE)

    def expect(self, at: int, limit: str, key: str) -> memoryview:
        """The numbers of an entry, which counts this key of a limit."""
        numbers = self.numbers(at)
        if not numbers[NAME]:
            text = f"{limit}\x1f{key}".encode("utf-8", "surrogateescape")
            start = at * SIZE + 8 * NAME
            self._leases[start : start + 16] = blake2b(text, digest_size=16).digest()
        return numbers

    def name(self, at: int) -> str:
        """That of the key of an entry, "" where nobody has expected it."""
        start = at * SIZE + 8 * NAME
        name = bytes(self._leases[start : start + 16])
        return name.hex() if any(name) else ""

    @property
    def is_there(self) -> bool:
        """Whether the store answers, or has yet to be asked."""
        last = self.store[LAST]
        return not self.store[AWAY] and (not last or time.monotonic_ns() - last < FRESH)

    @property
    def state(self) -> State | None:
        """That of the store; None where there is none."""
        if not self.used:
            return None
        up, numbers = self.is_there and self.store[LAST] > 0, self.store
        return State(up, numbers[AWAY] or None, *(numbers[MACHINES : FAILURES + 1]))

    @property
    def machines(self) -> int:
        """How many share, as far as is known."""
        return max(1, self.store[MACHINES])

    # ---- who asks the store --------------------------------------------------------------

    def hang_bell(self) -> None:
        """For all processes that are forked from now on. OSError."""
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def ring(self) -> None:
        """Somebody waits for an answer of the store."""
        if self.bell >= 0:
            with contextlib.suppress(BlockingIOError):  # it has been rung often enough
                os.eventfd_write(self.bell, 1)

    def still(self) -> None:
        """It was heard."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.bell)

    def enter(self, row: int) -> None:
        """This process counts in a row, until it ends or leaves."""
        self.store[CONFIGURED] = 1
        self._lock(_PRESENT + row)

    def leave(self, row: int, rows: int) -> bool:
        """It does not any more; whether nobody else does. Of those that leave at the same time one
        at least is told so."""
        self._unlock(_PRESENT + row)
        last = self._lock(_PRESENT, rows)
        self._unlock(_PRESENT, rows)
        return last

    def lead(self) -> bool:
        """Whether this process is the one that asks the store, from now on until it ends."""
        return self._lock(_LEADER)

    def lead_no_more(self) -> None:
        """Another process may."""
        self._unlock(_LEADER)

    def _lock(self, byte: int, count: int = 1) -> bool:
        if self._fd < 0:
            return True
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, count, byte, os.SEEK_SET)
        except OSError:  # another process has it
            return False
        return True

    def _unlock(self, byte: int, count: int = 1) -> None:
        if self._fd >= 0:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, count, byte, os.SEEK_SET)


def even(whole: int, machines: int) -> int:
    """What each of so many machines may use of something without asking the others."""
    return max(1, whole // machines)
