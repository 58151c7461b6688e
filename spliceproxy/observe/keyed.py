"""What is counted by a key that is known only while the proxy runs: a network, a user, a
destination. It is bounded, and the entry that was not touched for longest goes first.

Each worker has a region of its own on the board, and is its only writer, so nobody takes a lock;
who wants to know a key asks all of them. A region outlives its worker: the one that takes the
worker's place goes on with it.

A region is a hash table of SETS sets with WAYS entries each. A key has its place in one set, by a
hash that is keyed with a secret of the board, so nobody can choose keys that fall together. An
entry is ENTRY bytes:

    0   8  odd while the key changes
    8   8  when it was last touched, in ms of CLOCK_MONOTONIC, which all processes share
    16  40 VALUES numbers, of what is up to its kind
    56  1  its kind; 0: the entry is free
    57  1  bytes of the key
    58  70 the key; of a longer one the first bytes, and a digest

So "oldest first" is exact within a set. An entry goes earlier than the oldest of all only where its
set is full.

Behind the entries is one more line, whose first number is 1 + that of the entry whose key is being
changed, 0 for none. So the worker after one that died there finds it without a look at all of them,
which would take memory for each.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple

ENTRY = 128
VALUES = 5
WAYS = 16
SETS = 256

PAGE = 4096
REGION = -(-(SETS * WAYS + 1) * ENTRY // PAGE) * PAGE
"""Bytes for each worker, whole pages. Memory is taken for what is used only."""

_WORDS = ENTRY // 8
_CHANGING = SETS * WAYS * _WORDS
_LAST = 1
_VALUE = 2
_KEY = 56
_MOST = ENTRY - _KEY - 2
_DIGEST = 8  # bytes; as text twice as many

TRIES = 16
"""How often a reader looks at an entry whose key changes meanwhile."""


class Kind(enum.IntEnum):
    """What a key is."""

    NETWORK = 1
    USER = 2
    DESTINATION = 3


class Entry(NamedTuple):
    """``last`` is in milliseconds of CLOCK_MONOTONIC."""

    key: str
    last: int
    values: tuple[int, ...]


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class Region:
    """That of one worker."""

    __slots__ = ("_bytes", "_secret", "_words")

    def __init__(self, memory: memoryview, secret: bytes) -> None:
        self._bytes = memory
        self._words = memory.cast("Q")
        self._secret = secret

    # ---- its worker --------------------------------------------------------------------

    def repair(self) -> None:
        """Frees the entry that the worker before was at when it died."""
        at = self._words[_CHANGING] - 1
        if at >= 0 and self._words[at * _WORDS] & 1:
            self._bytes[at * ENTRY + _KEY] = 0
            self._words[at * _WORDS] += 1
        if at >= 0:
            self._words[_CHANGING] = 0

    def add(self, kind: Kind, key: str, *values: int, now: int) -> None:
        """Adds to the values of a key, in their order, and touches it."""
        label = self._label(kind, key)
        at = self._find(label)
        if at < 0:
            at = self._make(label)
        start = at * _WORDS
        for place, value in enumerate(values, start + _VALUE):
            self._words[place] += value
        self._words[start + _LAST] = now

    def forget(self, kind: Kind, key: str) -> None:
        """The key is no longer of interest."""
        at = self._find(self._label(kind, key))
        if at >= 0:
            self._change(at, b"\0")

    def _make(self, label: bytes) -> int:
        """A free entry of its set, or that which was not touched for longest."""
        words, taken = self._words, self._bytes
        first = self._set_of(label)
        ways = range(first, first + WAYS)
        at = min(
            ways, key=lambda at: words[at * _WORDS + _LAST] if taken[at * ENTRY + _KEY] else -1
        )
        self._change(at, label)
        return at

    def _change(self, at: int, label: bytes) -> None:
        """An entry begins anew with this label, of which the first byte may be all."""
        words, start = self._words, at * _WORDS
        words[_CHANGING] = at + 1
        words[start] += 1
        for place in range(start + _VALUE, start + _VALUE + VALUES):
            words[place] = 0
        self._bytes[at * ENTRY + _KEY : at * ENTRY + _KEY + len(label)] = label
        words[start] += 1
        words[_CHANGING] = 0

    # ---- anybody -----------------------------------------------------------------------

    def get(self, kind: Kind, key: str) -> Entry | None:
        """What is known of a key; None where nothing is."""
        label = self._label(kind, key)
        at = self._find(label)
        found = self._read(at) if at >= 0 else None
        return found[1] if found is not None and found[0] == label else None

    def entries(self, kind: Kind) -> Iterator[Entry]:
        """All of a kind. A long key is cut: it is unique by a digest at its end."""
        for at in range(SETS * WAYS):
            if self._bytes[at * ENTRY + _KEY] == kind:
                found = self._read(at)
                if found is not None and found[0][0] == kind:
                    yield found[1]

    def _read(self, at: int) -> tuple[bytes, Entry] | None:
        """An entry and its label, as they were at one moment."""
        start = at * _WORDS
        for _ in range(TRIES):
            before = self._words[start]
            label = bytes(self._bytes[at * ENTRY + _KEY : at * ENTRY + ENTRY])
            last, *values = self._words[start + _LAST : start + _VALUE + VALUES]
            if not before & 1 and self._words[start] == before:
                text = label[2 : 2 + label[1]].decode("utf-8", "replace")
                return label, Entry(text, last, tuple(values))
        return None

    def _find(self, label: bytes) -> int:
        """The entry of a label, -1 if there is none."""
        first = self._set_of(label)
        for at in range(first, first + WAYS):
            if self._bytes[at * ENTRY + _KEY : at * ENTRY + ENTRY] == label:
                return at
        return -1

    def _label(self, kind: Kind, key: str) -> bytes:
        text = key.encode("utf-8", "surrogateescape")
        if len(text) > _MOST:
            text = text[: _MOST - 2 * _DIGEST] + self._digest(text).hex().encode()
        return (bytes([kind, len(text)]) + text).ljust(_MOST + 2, b"\0")

    def _set_of(self, label: bytes) -> int:
        return int.from_bytes(self._digest(label), "little") % SETS * WAYS

    def _digest(self, text: bytes) -> bytes:
        return blake2b(text, digest_size=_DIGEST, key=self._secret).digest()


class Keyed:
    """The regions of all workers."""

    __slots__ = ("_regions",)

    def __init__(self, memory: memoryview, workers: int, secret: bytes) -> None:
        self._regions = [
            Region(memory[at * REGION : (at + 1) * REGION], secret) for at in range(workers)
        ]

    def of(self, worker: int) -> Region:
        """A worker's, to be written to by that worker alone."""
        return self._regions[worker]

    def get(self, kind: Kind, key: str) -> Entry | None:
        """What all workers know of a key together; None where none does."""
        found = [entry for region in self._regions if (entry := region.get(kind, key)) is not None]
        return _sum(found) if found else None

    def entries(self, kind: Kind) -> list[Entry]:
        """The same for all keys of a kind."""
        by_key: dict[str, list[Entry]] = {}
        for region in self._regions:
            for entry in region.entries(kind):
                by_key.setdefault(entry.key, []).append(entry)
        return [_sum(found) for found in by_key.values()]


def _sum(found: list[Entry]) -> Entry:
    values = tuple(map(sum, zip(*(entry.values for entry in found), strict=True)))
    return Entry(found[0].key, max(entry.last for entry in found), values)
