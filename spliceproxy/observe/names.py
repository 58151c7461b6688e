"""The names of columns whose labels are known only while the proxy runs: ids of rules.

A name is a family and its label values. It gets the next column when it is first asked for, and
keeps it: names are only added. Any process may add one, under a lock on the board's file
(fcntl(2)), which the kernel takes from a process that dies. What finds no room, or has a text that
is no id, is counted as OTHER.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterable

from spliceproxy.relay.columns import DYNAMIC, FAMILIES, FIXED, OTHER

ENTRY = 96
"""Bytes of one: the texts with a US (0x1f) between them, and NULs behind."""

ROOM_FOR_FUNCTIONS = DYNAMIC // 2
"""Names beyond which one that a function of --policy has made up finds no room. The rules of the
configuration have the rest for themselves."""

TRIES = 100
PATIENT_TRIES = 10_000
TRY_SECONDS = 0.0001
"""How often the lock is tried for, where a request waits and where none does, and how far apart. It
is held for some microseconds, and for some milliseconds while rules are added."""

_SEPARATOR = "\x1f"
_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}").fullmatch


class Names:
    """Those of one board. ``memory`` has room for DYNAMIC entries, ``count`` is their number, and
    ``fd`` the file to lock, -1 if nobody shares it."""

    __slots__ = ("_columns", "_count", "_fd", "_known", "_memory", "_names")

    def __init__(self, memory: memoryview, count: memoryview, fd: int) -> None:
        self._memory = memory
        self._count = count
        self._fd = fd
        self._columns: dict[tuple[str, tuple[str, ...]], int] = {
            (family.name, values): family.first + at
            for family in FAMILIES.values()
            for at, values in enumerate(family.values)
        }
        self._names: tuple[tuple[str, tuple[str, ...]], ...] = ()
        self._known = 0  # of these, those among the columns

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self._count[0])

    def all(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Family and label values of each, in the order of the columns."""
        count = self.count
        if count > len(self._names):
            more = tuple(map(self._read, range(len(self._names), count)))
            self._names += more
        return self._names

    def column(self, family: str, *values: str, most: int = DYNAMIC) -> int:
        """The column of a name; where it is new, and there are ``most`` names already, or its last
        value is no id (up to 64 letters, digits, and . _ : -), that of OTHER."""
        key = family, values
        column = self._columns.get(key)
        if column is not None:
            return column
        other = self._columns[family, (*values[:-1], OTHER)]
        if not _ID(values[-1]):
            return other
        column = self._find(key)  # if another process has added it
        if column is not None:
            return column
        if self.count >= most or not self._lock(TRIES):
            return other  # if it is the lock, for this once
        try:
            return self._place(key, most) or other
        finally:
            self._unlock()

    def add(self, family: str, names: Iterable[tuple[str, ...]]) -> None:
        """Gives each of these label values its column, as far as there is room."""
        if self._lock(PATIENT_TRIES):
            try:
                for values in names:
                    if _ID(values[-1]):
                        self._place((family, values), DYNAMIC)
            finally:
                self._unlock()

    def _place(self, key: tuple[str, tuple[str, ...]], most: int) -> int | None:
        """Its column, under the lock; None where there is no room for it."""
        column = self._find(key)
        if column is None and self.count < most:
            column = self._add(key)
        return column

    def _find(self, key: tuple[str, tuple[str, ...]]) -> int | None:
        names = self.all()
        for at in range(self._known, len(names)):
            self._columns[names[at]] = FIXED + at
        self._known = len(names)
        return self._columns.get(key)

    def _add(self, key: tuple[str, tuple[str, ...]]) -> int:
        text = _SEPARATOR.join((key[0], *key[1])).encode("ascii")
        at = self.count
        # The number comes last: an entry that is half written is none.
        self._memory[at * ENTRY : (at + 1) * ENTRY] = text.ljust(ENTRY, b"\0")
        self._count[0] = at + 1
        self._columns[key] = FIXED + at
        return FIXED + at

    def _read(self, at: int) -> tuple[str, tuple[str, ...]]:
        text = bytes(self._memory[at * ENTRY : (at + 1) * ENTRY]).rstrip(b"\0").decode("ascii")
        family, *values = text.split(_SEPARATOR)
        return family, tuple(values)

    def _lock(self, tries: int) -> bool:
        if self._fd < 0:
            return True
        for _ in range(tries):
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0, os.SEEK_SET)
                return True
            except OSError:  # another process has it
                time.sleep(TRY_SECONDS)
        return False

    def _unlock(self) -> None:
        if self._fd >= 0:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, 0, os.SEEK_SET)
