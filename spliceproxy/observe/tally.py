"""What one worker can say of all that is over: who has moved the most, what was denied last, and
what has failed in the last hour, and where.

All of it is bounded. It is kept only where somebody may ask for it (``--admin``). The relay adds up
by itself what it serves alone (native/lane/sums.pxd), and its sums are taken every few seconds, a
few at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from spliceproxy.http1.target import split_authority
from spliceproxy.observe.native_line import without_query
from spliceproxy.observe.outcome import DENIED, FAILED, outcome
from spliceproxy.observe.record import Record, endpoint
from spliceproxy.observe.top import Key, Ranking, Tops
from spliceproxy.relay.lane import Made, Sum

DENIALS = 100
"""The last ones that are kept."""

FAILURES = 256
"""Kinds and places of failures that are kept: the one that has not happened for longest goes."""

SLICE = 300.0
SLICES = 12
"""Failures are counted in twelve parts of an hour, of 300 seconds each."""

TAKE_SECONDS = 5.0
"""What tunnels have moved is added up this often."""

BATCH = 256
"""Sums that are added up at once: half a millisecond of the event loop."""


class Denial(NamedTuple):
    """A request that was denied. ``time`` is Unix time."""

    time: float
    client: str
    user: str
    method: str
    target: str
    rule: str
    reason: str


class Failure:
    """What has failed in one way at one place."""

    __slots__ = ("address", "client", "counts", "kind", "last", "slice", "total", "where")

    def __init__(self, kind: str, where: str) -> None:
        self.kind = kind  # an error type of RFC 9209, or the relay's reason
        self.where = where  # host:port
        self.address = ""  # that was dialled last
        self.client = ""  # of the last request
        self.last = 0.0  # Unix time
        self.total = 0
        self.counts = [0] * SLICES
        self.slice = 0

    def add(self, moment: float, count: int) -> None:
        """So many more, the last of them at this Unix time."""
        self._turn(moment)
        self.counts[self.slice % SLICES] += count
        self.total += count

    def in_hour(self, moment: float) -> int:
        """How many in the last hour; of its oldest five minutes some may be left out."""
        self._turn(moment)
        return sum(self.counts)

    def _turn(self, moment: float) -> None:
        now = int(moment // SLICE)
        for each in range(max(self.slice + 1, now - SLICES + 1), now + 1):
            self.counts[each % SLICES] = 0
        self.slice = max(self.slice, now)


class Tally:
    """Of one worker; all calls are of its event loop's thread. Not ``query``: of a target's query
    its question mark alone is kept."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, query: bool = True) -> None:
        self._loop = loop
        self.query = query
        self._tops = Tops()
        self._denials: deque[Denial] = deque(maxlen=DENIALS)
        self._failures: OrderedDict[tuple[str, str], Failure] = OrderedDict()
        self._sums: Made | None = None
        self._waiting: deque[Sum] = deque()
        self._missed = 0
        self._slot = -1  # of the relay, from where on tunnels are to be added up; -1: none
        self._step: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None

    def follow(self, sums: Made) -> None:
        """Takes the sums of the relay as well; once."""
        self._sums = sums
        self._begin()

    def stop(self) -> None:
        """Nothing is added up from now on."""
        for handle in (self._timer, self._step):
            if handle is not None:
                handle.cancel()
        self._sums = self._timer = self._step = None

    # ---- what is counted ---------------------------------------------------------------

    def see(self, record: Record) -> None:
        """A record that has ended, of a request that the relay has not added up."""
        what = outcome(record)
        where = record.destination if record.host else ""
        requests, received, sent = 1, record.bytes_in, record.bytes_out
        if record.summed is not None:
            requests, received, sent = 0, received - record.summed[0], sent - record.summed[1]
        if where and what != DENIED:
            self._add("destinations", where, requests, received, sent)
        self._add("clients", record.client or "unix", requests, received, sent)
        if record.user:
            self._add("users", record.user, requests, received, sent)
        if what == DENIED:
            self._deny(record)
        elif what == FAILED:
            failure = self._failure(record.error or record.reason, where, record.ended_at, 1)
            failure.client = record.client
            failure.address = record.failed or record.peer

    def _deny(self, record: Record) -> None:
        self._denials.append(
            Denial(
                record.ended_at,
                record.client,
                record.user,
                record.method,
                record.target if self.query else without_query(record.target),
                record.rule,
                record.why or record.detail,  # that says which credentials were wanted
            )
        )

    def _add(self, kind: str, key: str, requests: int, received: int, sent: int) -> None:
        self._tops.add(kind, key, requests, received, sent)

    def _failure(self, kind: str, where: str, moment: float, count: int) -> Failure:
        failure = self._failures.get((kind, where))
        if failure is None:
            failure = self._failures[kind, where] = Failure(kind, where)
            if len(self._failures) > FAILURES:
                self._failures.popitem(last=False)
        self._failures.move_to_end((kind, where))
        failure.add(moment, count)
        failure.last = max(failure.last, moment)
        return failure

    # ---- what the relay has added up ---------------------------------------------------

    def hurry(self) -> None:
        """The relay has many sums."""
        if self._step is None:
            self._step = self._loop.call_soon(self._go_on)

    def _begin(self) -> None:
        """Looks at every tunnel, and begins anew after a while."""
        self._timer = self._loop.call_later(TAKE_SECONDS, self._begin)
        self._slot = max(self._slot, 0)
        self.hurry()

    def _go_on(self) -> None:
        """One step: tunnels in some slots, and some sums."""
        self._step = None
        if self._sums is None:
            return
        if not self._waiting:
            if self._slot >= 0:
                self._slot = self._sums.sum_live(self._slot)
            found, missed = self._sums.take_sums()
            self._missed += missed
            self._waiting.extend(found)
            self._tops.turn()
        for _ in range(min(BATCH, len(self._waiting))):
            self._take(self._waiting.popleft())
        if self._waiting or self._slot >= 0:
            self.hurry()

    def _take(self, one: Sum) -> None:
        if one.kind == "failures":
            failure = self._failure(one.reason, place(one.key), one.last, one.requests)
            failure.client, failure.address = one.client, one.peer
            return
        key = one.key.decode("utf-8", "backslashreplace")
        if one.kind == "destinations":
            key = place(one.key)
        elif one.kind == "clients":
            key = key or "unix"
        self._add(one.kind, key, one.requests, one.received, one.sent)

    # ---- what is asked -----------------------------------------------------------------

    def catch_up(self) -> Iterator[None]:
        """Ends when all is added up that has moved so far; each value is a turn of the event
        loop that it takes."""
        if self._sums is not None:
            self._slot = max(self._slot, 0)
            self.hurry()
        while self._step is not None:
            yield

    @property
    def missed(self) -> int:
        """Sums of the relay that found no room."""
        return self._missed

    def rankings(self, span: str, most: int) -> tuple[float, Mapping[Key, Ranking]]:
        """The lists over one of ``top.SPANS``, and how many seconds that is."""
        return self._tops.seconds(span), self._tops.rankings(span, most)

    def denials(self) -> Sequence[Denial]:
        """The last ones, the oldest first."""
        return list(self._denials)

    def failures(self) -> Sequence[Failure]:
        """Those of the last hour, the last one first."""
        now = time.time()
        return [one for one in reversed(self._failures.values()) if one.in_hour(now)]


@lru_cache(maxsize=4096)
def place(key: bytes) -> str:
    """``host:port`` of a key of the relay's: the target of a CONNECT, or what
    ``forward.lane.origin_key`` has made."""
    text = key.decode("latin-1")
    port, _, rest = text.partition(" ")
    if not rest:
        try:
            return endpoint(*split_authority(text))
        except ValueError:  # cut short
            return text.lower()
    return endpoint(rest.partition(" ")[2], int(port))
