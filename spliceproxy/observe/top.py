"""Who has moved the most bytes, and who has asked most often: destinations, clients and users.

There may be more of them than there is memory for. So each list is a *sketch* of SIZE counters
(Metwally, Agrawal and El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data
Streams", 2005, called Space-Saving). Where there is no counter left, a new key takes over the
smallest one with what it has counted. That can be too much by as much, which is the *error* of the
key, and never too little. The error is at most 1/SIZE of all that the sketch has counted, so
nobody with a larger share is left out. As long as there are no more keys than counters
every number is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heappop, heappush, heapreplace
from time import monotonic
from typing import NamedTuple

SIZE = 256
"""Counters of a sketch: an error of at most 0.4 % of all."""

WINDOW = 300.0
"""Seconds after which a new window begins. What is recent is the last whole window and the one
that goes on: five to ten minutes."""

KINDS = ("destinations", "clients", "users")
MEASURES = ("bytes", "requests")
SPANS = ("recent", "all")


class Row(NamedTuple):
    """One key of a list. ``total`` is bytes both ways, or requests: at most ``error`` too high.
    The rest was counted since the key has its counter: never too high, and exact without an
    error."""

    key: str
    total: int
    error: int
    requests: int
    received: int  # bytes from clients
    sent: int  # bytes to clients


class Ranking(NamedTuple):
    """The first keys of a list. Who is not in it has counted ``floor`` at most."""

    rows: Sequence[Row]
    floor: int


class _Counter:
    __slots__ = ("count", "error", "received", "requests", "sent")

    def __init__(self, count: int) -> None:
        self.count = self.error = count
        self.requests = self.received = self.sent = 0


class Sketch:
    """The counters of one list."""

    __slots__ = ("_counters", "_heap", "_size")

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._counters: dict[str, _Counter] = {}
        # A pair for each counter, with what it had when the pair was last looked at.
        self._heap: list[tuple[int, str]] = []

    def add(self, key: str, weight: int, requests: int, received: int, sent: int) -> None:
        """Counts ``weight`` for a key."""
        counter = self._counters.get(key)
        if counter is None:
            counter = _Counter(self.floor)
            if len(self._counters) == self._size:
                del self._counters[heappop(self._heap)[1]]
            self._counters[key] = counter
            heappush(self._heap, (counter.count, key))
        counter.count += weight
        counter.requests += requests
        counter.received += received
        counter.sent += sent

    def has_room_for(self, key: str) -> bool:
        """Whether nobody loses a counter for this key. What weighs nothing here, as the bytes of
        a tunnel where requests are counted, is not worth that."""
        return key in self._counters or len(self._counters) < self._size

    @property
    def floor(self) -> int:
        """What a key without a counter can have at most: 0 while there are counters left, else
        the smallest of them."""
        if len(self._counters) < self._size:
            return 0
        heap = self._heap
        while True:
            count, key = heap[0]
            now = self._counters[key].count
            if now == count:
                return count
            heapreplace(heap, (now, key))

    @classmethod
    def of(cls, ranking: Ranking, size: int = SIZE) -> Sketch:
        """One that goes on from a ranking of ``size`` rows at most."""
        sketch = cls(size)
        for row in ranking.rows:
            counter = _Counter(row.error)
            counter.count = row.total
            counter.requests, counter.received, counter.sent = row[3:]
            sketch._counters[row.key] = counter
        sketch._heap = [(row.total, row.key) for row in reversed(ranking.rows)]  # ascending
        return sketch

    def ranking(self) -> Ranking:
        """All of it, the largest first."""
        rows = [
            Row(key, c.count, c.error, c.requests, c.received, c.sent)
            for key, c in self._counters.items()
        ]
        rows.sort(key=_order)
        return Ranking(rows, self.floor)


def _order(row: Row) -> tuple[int, str]:
    return -row.total, row.key


def merged(rankings: Iterable[Ranking], most: int) -> Ranking:
    """One of several, of ``most`` rows at most. A key that one of them does not have may have
    counted its floor there: so much is added to its count, and to its error."""
    given = list(rankings)
    floors = sum(each.floor for each in given)
    found: dict[str, Row] = {}
    for rows, floor in given:
        for key, *numbers in rows:
            # What is there already has the floors of all but those that have had a row.
            before = found.get(key) or Row(key, floors, floors, 0, 0, 0)
            sums = [a + b for a, b in zip(before[1:], numbers, strict=True)]
            found[key] = Row(key, sums[0] - floor, sums[1] - floor, *sums[2:])
    rows = sorted(found.values(), key=_order)
    left = rows[most].total if len(rows) > most else 0
    return Ranking(rows[:most], max(floors, left))


Key = tuple[str, str]
"""A kind and a measure."""


class Tops:
    """All lists of one process, over all time and over the last minutes."""

    __slots__ = ("_all", "_before", "_before_since", "_begun", "_clock", "_now", "_since")

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._all = _sketches()  # of the windows that are over
        self._before = _sketches()  # of the last of them
        self._now = _sketches()
        self._begun = self._since = self._before_since = clock()

    def add(self, kind: str, key: str, requests: int, received: int, sent: int) -> None:
        """Counts for a key of one of KINDS. :meth:`turn` says when it was."""
        now = self._now
        now[kind, "bytes"].add(key, received + sent, requests, received, sent)
        asked = now[kind, "requests"]
        if requests or asked.has_room_for(key):
            asked.add(key, requests, requests, received, sent)

    def turn(self) -> None:
        """Begins a new window if it is time for it; to be called now and then."""
        moment = self._clock()
        if moment < self._since + WINDOW:
            return
        for key, sketch in self._now.items():
            both = merged([self._all[key].ranking(), sketch.ranking()], SIZE)
            self._all[key] = Sketch.of(both)
        # Behind a long rest the window that is over is not the one before this.
        rested = moment >= self._since + 2 * WINDOW
        self._before = _sketches() if rested else self._now
        self._before_since = moment if rested else self._since
        self._now = _sketches()
        self._since = moment

    def rankings(self, span: str, most: int) -> Mapping[Key, Ranking]:
        """Each list of one of SPANS, of ``most`` rows at most."""
        self.turn()
        earlier = self._all if span == "all" else self._before
        return {
            key: merged([sketch.ranking(), earlier[key].ranking()], most)
            for key, sketch in self._now.items()
        }

    def seconds(self, span: str) -> float:
        """How long the time is that a span looks back on."""
        now = self._clock()
        return now - (self._begun if span == "all" else max(self._before_since, self._begun))


def _sketches() -> dict[Key, Sketch]:
    return {(kind, measure): Sketch() for kind in KINDS for measure in MEASURES}
