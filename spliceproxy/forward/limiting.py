"""How much may pass: each request counts for the limits that match it, once, whoever serves it.

The lane counts by itself what it repeats: a route has the limits of its requests. What does not fit
is asked about, and refused here. A client that is given back brings what it holds, and says whether
its request was counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from spliceproxy.forward.lane import Lane
from spliceproxy.policy.limits import (
    BYTES,
    CONNECTIONS,
    FITS,
    FOR_REQUEST,
    REQUESTS,
    SECOND,
    STALE,
    TUNNELS,
    Full,
    Limited,
    Limits,
    Meter,
)
from spliceproxy.policy.networks import taken_apart
from spliceproxy.relay.leases import CONNECTIONS as LENT
from spliceproxy.relay.leases import INTERVAL, TAKEN
from spliceproxy.relay.meters import REQUESTS as REQUEST_BUCKET
from spliceproxy.relay.meters import STALE as OLD
from spliceproxy.relay.meters import TUNNELS as TUNNEL_BUCKET
from spliceproxy.relay.meters import Counting
from spliceproxy.relay.questions import Question

if TYPE_CHECKING:
    from spliceproxy.forward.lending import Lending
    from spliceproxy.forward.pacing import Pacing

TRIES = 16
"""How often an entry is looked for that is another's whenever it was found."""

SOON = 1.0
"""Seconds until a client may try again where nobody knows when there is a place for it."""


class Counted(Protocol):
    """What is known of a request (``observe.record``)."""

    @property
    def client(self) -> str: ...
    @property
    def mark(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


class Unlent(Exception):
    """A request does not fit into what this machine was lent of a limit that others share. It may
    in a moment (:meth:`Lending.settle`). ``refusal`` makes what to raise where it does not; None
    where nobody has said yet what was lent."""

    def __init__(self, meter: Meter, refusal: Callable[[], Limited] | None) -> None:
        super().__init__(meter.limit.id)
        self.meter = meter
        self.refusal = refusal


class Holding:
    """Of one client: what counts as a connection for as long as somebody has this object. These
    are entries, and for how long each counts."""

    __slots__ = ("_counting", "counted", "held", "meters", "up")

    def __init__(self, counting: Counting, held: Mapping[int, int]) -> None:
        """What is ``held`` counts already."""
        self._counting = counting
        self.held = dict(held)
        self.meters: tuple[Meter, ...] = ()  # what the last request has counted for
        self.up = 0  # bytes per second that its origin may be sent, 0 for any number
        self.counted = 0  # bytes that budgets have counted of what goes on

    @property
    def watched(self) -> bool:
        """Whether what the request moves is looked at again and again."""
        return any(meter.numbers.lasts for meter in self.meters)

    def account(self, moved: int) -> None:
        """So many bytes have moved so far, both ways."""
        n, self.counted = moved - self.counted, moved
        for meter in self.meters:
            if n > 0 and any(meter.numbers.budgets):
                self._counting.move(meter.place.entry, n)

    def take(self, meter: Meter, most: int, *, anyway: bool = False) -> int:
        """0 if there is room for it in a limit, which allows so many and where it may be already;
        else as of :meth:`Counting.hold`. ``anyway``: whether there is room is not asked."""
        entry, tag = meter.place
        if entry in self.held:
            return 0
        unfit = self._counting.hold(entry, tag, 0 if anyway else most)
        if not unfit:
            self.held[entry] = meter.numbers.scope
        return unfit

    def drop(self, entry: int) -> None:
        del self.held[entry]
        self._counting.drop(entry)

    def request_over(self) -> None:
        """The next request of the same client may count for others."""
        for entry in [one for one, scope in self.held.items() if scope == FOR_REQUEST]:
            self.drop(entry)

    def release(self) -> None:
        """Nothing counts any more."""
        while self.held:
            self.drop(next(iter(self.held)))

    def given(self) -> None:
        """Somebody else has what it held."""
        self.held = {}

    def __del__(self) -> None:
        self.release()


class Limiting:
    """Of one worker, which counts by ``counting``. ``lending``: other machines share the limits.
    Then what counts raises Unlent, too, and is called by :meth:`Lending.settle`."""

    __slots__ = ("_counting", "lending", "limits", "pacing")

    def __init__(self, limits: Limits, counting: Counting, lending: Lending | None = None) -> None:
        self.limits = limits
        self.lending = lending
        self.pacing: Pacing | None = None  # where something is looked at again and again
        self._counting = counting

    def holding(self, held: Mapping[int, int]) -> Holding:
        """What a client holds."""
        return Holding(self._counting, held)

    def meters(
        self, known: Counted, method: str, address: str, named: Sequence[str] = ()
    ) -> tuple[Meter, ...]:
        """What a request counts for; a function may have ``named`` some of it."""
        client = known.mark + known.client
        where = known.host, known.port, address
        return self.limits.of(client, known.user, method, *where, named)

    def ask(self, lane: Lane, question: Question, address: str, named: Sequence[str] = ()) -> None:
        """Counts the request of a question of the lane's. Limited, Full."""
        method, (client, _) = question.method, taken_apart(question.name)
        for _ in range(TRIES):
            meters = self.limits.of(
                client, question.user, method, question.host, question.port, address, named
            )
            if self.lending is not None:
                self._expect(self.lending, meters)
            unfit = lane.admit(question, meters)
            if unfit is None:
                return
            which, why, wait = unfit
            if why != STALE:
                raise self._unfit(meters[which], why, wait)
        raise RuntimeError("the entries of limits change as fast as they are found")

    def count(
        self,
        known: Counted,
        method: str,
        address: str,
        holding: Holding,
        named: Sequence[str] = (),
    ) -> None:
        """Counts a request that is served here. Limited, Full."""
        for _ in range(TRIES):
            meters = self.meters(known, method, address, named)
            if self.lending is not None:
                self._expect(self.lending, meters)
            unfit = self._take(meters, method == "CONNECT", holding)
            if unfit is None:
                holding.meters = meters
                return
            meter, why, wait = unfit
            if why != STALE:
                raise self._unfit(meter, why, wait)
        raise RuntimeError("the entries of limits change as fast as they are found")

    def go_on(
        self,
        known: Counted,
        method: str,
        address: str,
        holding: Holding,
        named: Sequence[str] = (),
    ) -> None:
        """For a request that was counted elsewhere, and goes on here."""
        try:
            holding.meters = self.meters(known, method, address, named)
        except Full:
            return
        for meter in holding.meters:
            if meter.numbers.scope:
                holding.take(meter, 0, anyway=True)
                if self.lending is not None:
                    self.lending.tell(meter)

    def _expect(self, lending: Lending, meters: Sequence[Meter]) -> None:
        """Unlent where nobody has said yet what this machine may use of one of them. All of these
        are asked about together."""
        unknown = [meter for meter in meters if not lending.expect(meter)]
        for meter in unknown:
            lending.tell(meter)
        if unknown:
            raise Unlent(unknown[0], None)

    def _unfit(self, meter: Meter, why: int, wait: int) -> Exception:
        if self.lending is not None and self.lending.may_lend(meter, why):
            return Unlent(meter, partial(self._refused, meter, why, wait))
        return self._refused(meter, why, wait)

    def _refused(self, meter: Meter, why: int, wait: int) -> Limited:
        self._counting.refuse(meter.place.entry)
        return Limited(meter.limit, why, wait / SECOND if wait else SOON)

    def _take(
        self, meters: tuple[Meter, ...], tunnel: bool, holding: Holding
    ) -> tuple[Meter, int, int] | None:
        """As ``admit`` of native/lane/meters.pxd: all, or none."""
        before = set(holding.held)
        spent: list[tuple[Meter, int, int]] = []
        for meter in meters:
            why, wait = self._fits(meter, tunnel, holding, spent)
            if why == FITS:
                continue
            for one, bucket, interval in spent:
                self._counting.give_back(one.place.entry, bucket, interval)
                if one.numbers.lent:
                    self.limits.lease(one.place.entry)[TAKEN + bucket] -= 1
            for entry in [one for one in holding.held if one not in before]:
                holding.drop(entry)
            return meter, why, wait
        return None

    def _fits(
        self, meter: Meter, tunnel: bool, holding: Holding, spent: list[tuple[Meter, int, int]]
    ) -> tuple[int, int]:
        (entry, _), numbers, limit = meter
        if self.limits.left(limit, entry) == 0:
            return BYTES, self.limits.renewed(limit, entry)
        lease = self.limits.lease(entry) if numbers.lent else None
        why, wait = self._spend(meter, tunnel, lease, spent)
        if why != FITS:
            return why, wait
        most = numbers.most
        if most and lease is not None:
            most = min(most, lease[LENT])
            if not most and entry not in holding.held:
                return CONNECTIONS, 0
        unfit = holding.take(meter, most) if numbers.scope else 0
        if unfit:
            return (STALE, 0) if unfit == OLD else (CONNECTIONS, 0)
        return FITS, 0

    def _spend(
        self,
        meter: Meter,
        tunnel: bool,
        lease: memoryview | None,
        spent: list[tuple[Meter, int, int]],
    ) -> tuple[int, int]:
        """The part of it about rates. ``lease``: what this machine has of them."""
        (entry, tag), numbers, _ = meter
        for bucket, why in ((REQUEST_BUCKET, REQUESTS), (TUNNEL_BUCKET, TUNNELS)):
            interval = numbers.intervals[bucket]
            if not interval or (bucket == TUNNEL_BUCKET and not tunnel):
                continue
            if lease is not None:
                interval = lease[INTERVAL + bucket]
                if not interval:
                    return why, 0
            room = max(numbers.rooms[bucket], interval)
            wait = self._counting.spend(entry, tag, bucket, interval, room)
            if wait:
                return (STALE, 0) if wait == OLD else (why, wait)
            if lease is not None:
                lease[TAKEN + bucket] += 1
            spent.append((meter, bucket, interval))
        return FITS, 0
