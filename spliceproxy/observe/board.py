"""The board: what all processes of the proxy count, in one mapping that they share.

    one page     what the rest looks like; how often rows were folded; how many names there are;
                 which workers there are to be
    names        of the columns behind those of the table (observe.names)
    row 0        the base: what workers that have ended have counted, and the supervisor's own
    row 1, 2...  of each worker (relay.columns); there is room for more workers than there are. Then
                 as many again
    meters       what limits count (relay.meters)

The supervisor makes it before its first fork (memfd_create(2): a program that takes over can be
given the descriptor). Each row has one writer, who adds plainly and asks nobody. Whoever reads sees
each number whole, but not all of them at the same moment. A worker has two rows: who takes its
place while it still serves counts in the other one, and readers see both as one.

When a worker has ended, the supervisor adds its row to the base and clears it (:meth:`Board.fold`).
A reader who sees a half of that would see counters go back. So the number of folds is odd while
one is made, and who reads looks at it before and behind.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import sys
import time
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from spliceproxy.observe.names import ENTRY, Names
from spliceproxy.relay.columns import (
    DRAINING,
    DYNAMIC,
    FAMILIES,
    FIXED,
    KEPT,
    PID,
    STARTED,
    UP,
    WIDTH,
    WORKER,
)
from spliceproxy.relay.meters import Meters, size_of

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it since Python 3.11

Values = Mapping[tuple[str, ...], int]
"""Numbers by label values."""

MAGIC = b"splboard"
VERSION = 4

ROWS = 2
"""Rows of each worker."""

_HEAD = struct.Struct("=8sIIIII")  # magic, version, workers, fixed, dynamic, table
_PAGE = 4096
_FOLDS = 8  # as a number of the first page
_NAMES = 9
_USED = 10
_SECRET = slice(128, 144)  # bytes of the first page
_EXPECTED = 256  # from here on one byte for each worker: whether there is to be one

_ROW = 8 * WIDTH
_AT_NAMES = _PAGE
_AT_ROWS = _AT_NAMES + DYNAMIC * ENTRY

ROOM = 32
"""Workers that there is room for at least: a reload may want more of them. What is not used takes
no memory."""

TRIES = 100
TRY_SECONDS = 0.001
"""How often, and how far apart, a reader looks whether a fold is over. One takes 0.2 ms."""

# fcntl(2); Python has them since 3.8, typeshed not for every platform.
_SEALS = 0x1 | 0x2 | 0x4  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW


class Unreadable(Exception):
    """A fold has not ended: whoever was at it has died."""


@dataclass(frozen=True)
class Reading:
    """What was on the board at one moment. ``rows`` are the base's, and one of each worker, with
    what both of its processes have counted where one takes the place of another. ``processes`` are
    the rows of those that have the places. ``names`` are the labels of the columns behind those of
    the table. Workers that are ``expected`` are to be there."""

    rows: tuple[memoryview, ...]
    processes: tuple[memoryview, ...]
    names: tuple[tuple[str, tuple[str, ...]], ...]
    expected: frozenset[int]

    def totals(self) -> Mapping[str, Mapping[tuple[str, ...], int]]:
        """The sum of all rows, by family and label values. What is said of one worker only is not
        among it."""
        return self._totals

    @cached_property
    def _totals(self) -> Mapping[str, Mapping[tuple[str, ...], int]]:
        found = self._named(_sums(self.rows))
        for name in [name for name in found if FAMILIES[name].kind == WORKER]:
            del found[name]
        return found

    def worker(self, index: int) -> dict[str, dict[tuple[str, ...], int]]:
        """The same of one worker, the first is 0, and all of its processes."""
        return self._named(self.rows[index + 1])

    @property
    def workers(self) -> int:
        return len(self.rows) - 1

    @property
    def present(self) -> list[int]:
        """Workers that there are to be, and those that have yet to end."""
        return [at for at in range(self.workers) if at in self.expected or self.rows[at + 1][PID]]

    def _named(self, row: Sequence[int]) -> dict[str, dict[tuple[str, ...], int]]:
        found = {
            family.name: dict(zip(family.values, row[family.first :], strict=False))
            for family in FAMILIES.values()
        }
        for at, (name, values) in enumerate(self.names):
            found[name][values] = row[FIXED + at]
        return found


class Board:
    """Make one by :meth:`create`, :meth:`attach` or :meth:`private`. ``fd`` is its descriptor, -1
    for one that nobody shares. It is open for as long as the process runs. There is ``room`` for
    so many workers."""

    def __init__(self, memory: memoryview, fd: int, workers: int) -> None:
        self.fd = fd
        self.room = workers
        self._head = memory[:_PAGE].cast("Q")
        self._rows = memory[_AT_ROWS : _AT_ROWS + _ROW * (ROWS * workers + 1)]
        self._numbers = self._rows.cast("Q")
        self._expected = memory[_EXPECTED : _EXPECTED + workers]
        meters = memory[_at_meters(workers) : _size(workers)]
        self.meters = Meters(meters, ROWS * workers, bytes(memory[_SECRET]), fd)
        self.names = Names(memory[_AT_NAMES:_AT_ROWS], self._head[_NAMES : _NAMES + 1], fd)

    @property
    def workers(self) -> int:
        """Rows of workers that are in use."""
        return int(self._head[_USED])

    @property
    def expected(self) -> list[int]:
        """The workers that there are to be."""
        return [at for at, is_expected in enumerate(self._expected) if is_expected]

    def use(self, expected: Collection[int], leaving: Collection[int] = ()) -> None:
        """There are to be these workers from here on; of those that are ``leaving`` the rows are in
        use until they have ended. The supervisor alone may call it."""
        for at in range(self.room):
            self._expected[at] = at in expected
        self._head[_USED] = max((*expected, *leaving)) + 1

    @classmethod
    def create(cls, used: int) -> Self:
        """An empty board, which processes that are forked share. OSError."""
        workers = max(ROOM, 2 * used)
        fd = os.memfd_create("spliceproxy-board", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, _size(workers))
            # Nobody can shrink it, and so kill us by SIGBUS, who is given the descriptor.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            memory = memoryview(mmap.mmap(fd, _size(workers)))
        except BaseException:
            os.close(fd)
            raise
        _HEAD.pack_into(memory, 0, MAGIC, VERSION, workers, FIXED, DYNAMIC, _table())
        memory[_SECRET] = os.urandom(16)
        board = cls(memory, fd, workers)
        board.use(range(used))
        return board

    @classmethod
    def attach(cls, fd: int) -> Self:
        """The board of this descriptor, which it owns from now on. ValueError if it is none, or
        that of another version of this program."""
        size = os.fstat(fd).st_size
        if size < _AT_ROWS:
            raise ValueError("not a board: it is too small")
        memory = memoryview(mmap.mmap(fd, size))
        magic, version, workers, *rest = _HEAD.unpack_from(memory)
        if magic != MAGIC:
            raise ValueError("not a board")
        if version != VERSION or rest != [FIXED, DYNAMIC, _table()] or size < _size(workers):
            raise ValueError("the board of another version")
        return cls(memory, fd, workers)

    @classmethod
    def private(cls) -> Self:
        """One that nobody shares, for one worker."""
        memory = memoryview(bytearray(_size(1)))
        memory[_SECRET] = os.urandom(16)
        board = cls(memory, -1, 1)
        board.use(range(1))
        return board

    # ---- who counts ----------------------------------------------------------------------

    def row(self, number: int) -> memoryview:
        """That of a worker, the first is 0: to be written to by that worker alone. Its other row is
        ``room`` behind it."""
        start = WIDTH * (number + 1)
        return self._numbers[start : start + WIDTH]

    @property
    def base(self) -> memoryview:
        """The supervisor's."""
        return self._numbers[:WIDTH]

    def fold(self, number: int) -> None:
        """The worker of this row has ended: what it has counted stays in the base, and its row is
        empty. The supervisor alone may call it."""
        base, row = self.base, self.row(number)
        self._head[_FOLDS] += 1
        for column in (*KEPT, *range(FIXED, FIXED + self.names.count)):
            if row[column]:
                base[column] += row[column]
        row[:] = _EMPTY
        self._head[_FOLDS] += 1
        self.meters.clear(number)

    # ---- who reads -----------------------------------------------------------------------

    def read(self) -> Reading:
        """All numbers. Unreadable."""
        for _ in range(TRIES):
            before = self._head[_FOLDS]
            if not before & 1:
                # Names first: a column has one before it has a number.
                names = self.names.all()
                size = _ROW * (self.workers + 1)
                copy = memoryview(bytes(self._rows[:size])).cast("Q")
                start = _ROW * (self.room + 1)
                others = memoryview(bytes(self._rows[start : start + size - _ROW])).cast("Q")
                if self._head[_FOLDS] == before:
                    pairs = list(_pairs(copy[WIDTH:], others))
                    rows = copy[:WIDTH], *(_both(*pair) for pair in pairs)
                    processes = tuple(_in_place(*pair) for pair in pairs)
                    return Reading(rows, processes, names, frozenset(self.expected))
            time.sleep(TRY_SECONDS)
        raise Unreadable

    def totals(self) -> Mapping[str, Mapping[tuple[str, ...], int]]:
        """As of :meth:`Reading.totals`. Unreadable."""
        return self.read().totals()

    def process(self, index: int) -> memoryview:
        """The row of the process that has the place of this worker, as it is now."""
        return _in_place(self.row(index), self.row(index + self.room))


def _pairs(rows: memoryview, others: memoryview) -> Iterator[tuple[memoryview, memoryview]]:
    for at in range(0, len(rows), WIDTH):
        yield rows[at : at + WIDTH], others[at : at + WIDTH]


def _in_place(one: memoryview, other: memoryview) -> memoryview:
    """Which of both rows of a worker is that of the process that has the place: the one before
    keeps it for as long as it serves, for it may turn out that nobody takes it over."""
    earlier, later = (one, other) if one[STARTED] < other[STARTED] else (other, one)
    return earlier if earlier[UP] and not earlier[DRAINING] else later


def _both(one: memoryview, other: memoryview) -> memoryview:
    """What both rows of a worker's say. What is of one process is that of the one in place."""
    if not other[STARTED]:
        return one
    if not one[STARTED]:
        return other
    process = _in_place(one, other)
    sums = memoryview(bytearray(_ROW)).cast("Q")
    for at, numbers in enumerate(zip(one, other, strict=True)):
        sums[at] = sum(numbers)
    for at in (PID, STARTED, DRAINING):
        sums[at] = process[at]
    sums[UP] = max(one[UP], other[UP])
    return sums


_EMPTY = memoryview(bytes(_ROW)).cast("Q")

_LARGE = int.from_bytes(b"\xff\0\0\0\0\0\0\0" * WIDTH, "big")


def _sums(rows: Sequence[memoryview]) -> Sequence[int]:
    """The sum of all rows, number by number. Each row is added as one large number, which takes a
    tenth of the time. That is right while no sum needs more than 64 bits: so up to 256 rows of
    numbers below 2 ** 56."""
    whole = [int.from_bytes(row, "little") for row in rows]
    if sys.byteorder == "big" or len(rows) > 256 or any(one & _LARGE for one in whole):
        return list(map(sum, zip(*rows, strict=True)))
    return memoryview(sum(whole).to_bytes(_ROW, "little")).cast("Q")


def _at_meters(workers: int) -> int:
    return -(-(_AT_ROWS + _ROW * (ROWS * workers + 1)) // _PAGE) * _PAGE


def _size(workers: int) -> int:
    return _at_meters(workers) + size_of(ROWS * workers)


def _table() -> int:
    """Another one for any other table of columns."""
    text = repr([(family.name, family.labels, family.values) for family in FAMILIES.values()])
    return zlib.crc32(text.encode())
