"""How fast bytes may go, how many, and for how long: what lasts is looked at again and again.

A rate is shared by all that counts for the same limit and key, over all workers, by the kernel's
pacing (SO_MAX_PACING_RATE, socket(7)) of the socket that is written to: each connection has a
*cap*, and every TICK the caps are made anew from what was used of them. Who has used most of its
cap is *hungry*. The others are *light*: what they use is taken from the rate, and the hungry ones
share the rest. So a connection that says little takes no share from one that moves much, and each
may send as much as its part of the rate at once.

A connection in the lane has no cap before it has moved a few KiB (FREE of native/lane/pacing.pxd):
most never do, and cost nothing. The kernel is not exact, and whoever wakes up has a cap already. So
what is shared out is corrected by what has gone through in the last second.

The lane ends what has used up a budget by itself, in the turn in which it does. For what Python has
given to the relay, and what it serves, a budget is a rate, too, as it comes to its end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from spliceproxy.config import LimitConfig
from spliceproxy.net import tcp
from spliceproxy.relay.interface import LIMIT
from spliceproxy.relay.meters import Shares

if TYPE_CHECKING:
    from spliceproxy.forward.lane import Lane
    from spliceproxy.forward.limiting import Holding, Limiting
    from spliceproxy.net.stream import Stream
    from spliceproxy.observe.record import Holding as Held
    from spliceproxy.policy.limits import Meter
    from spliceproxy.relay.driver import RelayDriver
    from spliceproxy.relay.meters import Meters

TICK = 0.1
"""Seconds between two looks, where there are rates or budgets."""

SELDOM = 1.0
"""The same where only the life of tunnels is limited."""

PAUSE = 20
"""A look is followed by so many times as long without one, at least."""

HUNGRY = 0.7
"""The part of its cap that a connection has used which could use more."""

STEP = 0.03
"""A cap that would change by no more than this part stays."""

LEAST = 16_384
"""Bytes per second of a cap: less would hold up a head."""

SMOOTH = 0.2
"""The weight of a look in what has gone through of late."""

CORRECTION = (0.8, 1.1)
"""By how much what is shared out may differ from the rate."""

ENDED = 1.0
"""The part of what is left of a budget that may go in a second."""

ENDING = 4_000_000
"""Bytes per second of a budget that is nearly used up."""

FAST = 4_000_000_000
"""Bytes per second that no connection reaches: it needs no such cap, and a budget for which this is
not enough is far from its end."""

UP, DOWN = 0, 1


class Seen(NamedTuple):
    """What lasts, as of :meth:`Lane.watched`: ``entries`` are those that it counts for, ``up`` and
    ``down`` bytes so far; ``age`` is that of a tunnel, in seconds, and -1 for none. What is not
    ``due`` has moved so little that it is not paced. ``counted``: the lane counts them for budgets,
    turn by turn. ``rates``: bytes per second, up and down, that it alone may have; 0 for any
    number."""

    ident: int
    entries: tuple[int, ...]
    up: int
    down: int
    age: float
    due: bool = True
    counted: bool = False
    rates: tuple[int, int] = (0, 0)


class _Flow:
    """What is known of one from look to look."""

    __slots__ = ("caps", "counted", "entries", "hungry", "moved", "rates", "used")

    def __init__(self, seen: Seen) -> None:
        self.counted = seen.counted
        self.entries = seen.entries
        self.rates = seen.rates
        self.moved = [seen.up, seen.down]
        self.used = [0.0, 0.0]  # bytes per second since the last look
        self.caps = [0, 0]  # 0: any number
        self.hungry = [False, False]

    def look(self, seen: Seen, elapsed: float) -> None:
        self.entries = seen.entries
        for way, moved in ((UP, seen.up), (DOWN, seen.down)):
            self.used[way] = (moved - self.moved[way]) / elapsed
            self.moved[way] = moved
            cap = self.caps[way]
            self.hungry[way] = cap > 0 and self.used[way] >= HUNGRY * cap


class _Tunnel(NamedTuple):
    """One that the relay has got from Python, at the time ``began``."""

    holding: Held
    entries: tuple[int, ...]
    rates: tuple[int, int]
    began: float


class Request:
    """A request that is served in Python: its client's connection is paced, and that to its origin
    by whoever has it. What it moves is counted when it is over."""

    def __init__(self, stream: Stream, holding: Holding) -> None:
        self.stream = stream
        self.holding = holding

    def pace(self, up: int, down: int) -> None:
        self.holding.up = up
        if self.stream.fd >= 0:
            tcp.pace(self.stream.sock, down)


class Pacing:
    """Of one worker."""

    def __init__(
        self,
        limiting: Limiting,
        meters: Meters,
        row: int,
        relay: RelayDriver,
        lane: Lane | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._limiting: Limiting | None = limiting
        self._meters = meters
        self._shares = Shares(meters, row)
        self._relay = relay
        self._lane = lane
        self._loop = loop
        self._limits: dict[int, tuple[int, LimitConfig | None]] = {}  # by entry, with its tag
        self._flows: dict[int, _Flow] = {}
        # Of Python's: by ident, and by negative numbers.
        self._tunnels: dict[int, _Tunnel] = {}
        self._requests: dict[int, tuple[Request, tuple[int, ...], tuple[int, int]]] = {}
        self._through: dict[tuple[int, int], tuple[float, float]] = {}  # by entry and way
        self._last = loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._number = 0
        if lane is not None:
            lane.watch_by(self.begun)

    def change(self, limiting: Limiting | None) -> None:
        """Other limits are in force, or none of this kind."""
        self._limiting = limiting
        self._limits.clear()
        if limiting is not None and self._lane is not None and self._lane.watch_budgets():
            self.begun()  # what is there comes under them

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ---- what begins, and ends ---------------------------------------------------------

    def begun(self) -> None:
        """Something in the lane is to be looked at again and again, or to have a rate at once."""
        assert self._lane is not None
        self._first([Seen(*one, counted=True) for one in self._lane.grown()])

    def tunnel(self, ident: int, holding: Held, rates: tuple[int, int]) -> bool:
        """A tunnel that the relay has got from Python, which alone may have these ``rates``;
        whether it is looked at, for it may count for nothing that lasts."""
        entries = entries_of(holding.meters)
        if not entries:
            return False
        now = self._loop.time()
        self._tunnels[ident] = _Tunnel(holding, entries, rates, now)
        # One that has come from another process has moved something there.
        moved = _both_ways(self._relay.progress(ident))
        self._first([Seen(ident, entries, *moved, 0.0, rates=rates)])
        return True

    def request(
        self, stream: Stream, holding: Holding, rates: tuple[int, int]
    ) -> Callable[[], None] | None:
        """The same of a request that is served in Python; returns what to call when it is over,
        None if it is not looked at."""
        entries = entries_of(holding.meters)
        if not entries:
            return None
        self._number -= 1
        self._requests[self._number] = Request(stream, holding), entries, rates
        moved = stream.received, stream.sent
        self._first([Seen(self._number, entries, *moved, -1.0, rates=rates)])
        return partial(self._request_over, self._number)

    def _request_over(self, number: int) -> None:
        request, _, _ = self._requests.pop(number)
        self._flows.pop(number, None)
        request.pace(0, 0)

    def _first(self, seen: list[Seen]) -> None:
        """Each begins with its part of the rate."""
        for one in seen:
            flow = self._flows[one.ident] = _Flow(one)  # the lane has lifted what it had
            self._cap(one.ident, flow)
        if self._timer is None:
            self._last = self._loop.time()
            self._timer = self._loop.call_later(self._pause(0.0), self._look)

    # ---- a look ------------------------------------------------------------------------

    def _pause(self, took: float) -> float:
        often = self._limiting is not None and self._limiting.limits.paced
        return max(TICK if often else SELDOM, PAUSE * took)

    def _look(self) -> None:
        self._timer = None
        before = time.thread_time()
        done = False
        try:
            self.look(self._loop.time())
            done = True
        finally:
            if self._flows or not done:  # the lane says nothing while it takes us for looking
                pause = self._pause(time.thread_time() - before)
                self._timer = self._loop.call_later(pause, self._look)
            elif self._lane is not None:
                self._lane.rest()

    def look(self, now: float) -> None:
        """Makes all caps anew, and ends what has lasted long enough."""
        elapsed, self._last = max(now - self._last, 1e-3), now
        seen = {one.ident: one for one in self._seen()}
        for ident in [ident for ident in self._flows if ident not in seen]:
            del self._flows[ident]
        used: dict[int, list[_Flow]] = {}
        for ident, one in seen.items():
            flow = self._flows.get(ident)
            if flow is None:
                flow = self._flows[ident] = _Flow(one)
            flow.look(one, elapsed)
            for entry in one.entries:
                used.setdefault(entry, []).append(flow)
        for entry in self._shares.said - used.keys():
            self._shares.forget(entry)
        for entry, flows in used.items():
            self._say(entry, flows)
        for ident, one in seen.items():
            if not self._end(one) and one.due:
                self._cap(ident, self._flows[ident])

    def _seen(self) -> Iterator[Seen]:
        if self._lane is not None:
            for one in self._lane.watched():
                yield Seen(*one, counted=True)
        now = self._loop.time()
        for ident, (holding, entries, rates, began) in list(self._tunnels.items()):
            progress = self._relay.progress(ident)
            if progress is None:  # it has ended, or goes on elsewhere
                del self._tunnels[ident]
            else:
                up, down = _both_ways(progress)
                holding.account(up + down)
                yield Seen(ident, entries, up, down, now - began, rates=rates)
        for number, (request, entries, rates) in self._requests.items():
            up, down = request.stream.received, request.stream.sent
            yield Seen(number, entries, up, down, -1.0, rates=rates)

    def _say(self, entry: int, flows: list[_Flow]) -> None:
        """Tells all workers what this one has used."""
        for way in (UP, DOWN):
            light = sum(flow.used[way] for flow in flows if not flow.hungry[way])
            total = sum(flow.used[way] for flow in flows)
            hungry = sum(flow.hungry[way] for flow in flows)
            self._shares.say(entry, way, hungry, light, total)
            limit = self._limit(entry)
            rate = 0.0 if limit is None else self._rate(limit, entry, way, counted=True)
            if rate:
                self._correct(entry, way, rate)

    def _correct(self, entry: int, way: int, rate: float) -> None:
        hungry, _, total = self._shares.sums(entry, way)
        through, factor = self._through.get((entry, way), (rate, 1.0))
        through += SMOOTH * (total - through)
        if hungry:
            low, high = CORRECTION
            factor = min(high, max(low, factor * (rate / max(through, 1.0)) ** SMOOTH))
        self._through[entry, way] = through, factor

    def _limit(self, entry: int) -> LimitConfig | None:
        tag = self._meters.tag(entry)
        known, limit = self._limits.get(entry, (0, None))
        if known != tag:  # it may have been another's
            limit = None if self._limiting is None else self._limiting.limits.at(entry)
            self._limits[entry] = tag, limit
        return limit

    def _rate(self, limit: LimitConfig, entry: int, way: int, *, counted: bool) -> float:
        """Bytes per second that may go through, 0 for any number. ``counted``: the lane ends it by
        itself when a budget is used up. Of one that other machines share each has its part."""
        limits = None if self._limiting is None else self._limiting.limits
        rate = float((limit.rate_in if way == UP else limit.rate_out) or 0)
        lent = limits is not None and limits.lent
        left = None if counted and not lent else self._left(limit, entry)
        if left is not None:
            ending = max(ENDING, left * ENDED) / (1 if limits is None else limits.machines)
            if ending < FAST:
                rate = min(rate, ending) if rate else ending
        return rate

    def _cap(self, ident: int, flow: _Flow) -> None:
        caps = [self._cap_of(flow, way) for way in (UP, DOWN)]
        if all(
            cap == old or (cap and old and abs(cap - old) <= STEP * old)
            for cap, old in zip(caps, flow.caps, strict=True)
        ):
            return
        flow.caps = caps
        if ident < 0:
            self._requests[ident][0].pace(*caps)
        else:
            self._relay.pace(ident, *caps)

    def _cap_of(self, flow: _Flow, way: int) -> int:
        """The least of what its limits allow, and of its own rate; 0 for any number."""
        found = flow.rates[way]
        for entry in flow.entries:
            limit = self._limit(entry)
            rate = 0.0 if limit is None else self._rate(limit, entry, way, counted=flow.counted)
            if not rate:
                continue
            hungry, light, _ = self._shares.sums(entry, way)
            part = rate / max(1, self._shares.connections(entry))
            share = (rate - light) / max(1, hungry)
            share = min(max(share, part), rate)
            if not flow.hungry[way]:
                share = max(part, min(share, 2 * flow.used[way]))
            _, factor = self._through.get((entry, way), (0.0, 1.0))
            cap = max(LEAST, int(share * factor))
            found = min(found, cap) if found else cap
        return found if found < FAST else 0

    def _end(self, seen: Seen) -> bool:
        """Whether it has lasted long enough, or has used up a budget, and was ended."""
        for entry in seen.entries:
            limit = self._limit(entry)
            if limit is None:
                continue
            over = limit.tunnel_seconds is not None and seen.age >= limit.tunnel_seconds
            if over or self._left(limit, entry) == 0:
                return seen.ident >= 0 and self._relay.kill(seen.ident, LIMIT)
        return False

    def _left(self, limit: LimitConfig, entry: int) -> int | None:
        return None if self._limiting is None else self._limiting.limits.left(limit, entry)


def entries_of(meters: Sequence[Meter]) -> tuple[int, ...]:
    """Those that are looked at again and again."""
    return tuple(meter.place.entry for meter in meters if meter.numbers.lasts)


def _both_ways(progress: tuple[int, int, int, int, str] | None) -> tuple[int, int]:
    """Bytes up and down."""
    return (0, 0) if progress is None else (sum(progress[:2]), sum(progress[2:4]))
