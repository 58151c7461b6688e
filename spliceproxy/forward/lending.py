"""Limits that several machines share: what a worker does where this machine has too little.

What was lent is used without asking (``relay.leases``). A request that does not fit into it waits
until the store was asked for more, together with all others that do: some milliseconds as a rule,
and never longer than WAIT. One that is the first of its key waits likewise. Where the store is away
nobody waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from spliceproxy.config import PolicyConfig
from spliceproxy.forward.leading import Leading
from spliceproxy.forward.leased import KINDS, Leased
from spliceproxy.forward.limiting import Unlent
from spliceproxy.forward.store import TIMEOUT, Store
from spliceproxy.messages import log
from spliceproxy.policy.limits import BYTES, CONNECTIONS, REQUESTS, TUNNELS, Limits, Meter
from spliceproxy.relay.leases import (
    ANSWERED,
    ASKED,
    KNOWN,
    PART,
    PARTS,
    REFUSED,
    even,
)
from spliceproxy.relay.leases import (
    CONNECTIONS as LENT,
)
from spliceproxy.relay.meters import Counting, Meters

WAIT = 0.25
"""Seconds that a request waits for the store at most."""

POLL = 0.003
"""Seconds between two looks at an answer that another worker will have got."""

FAULTY = 10.0
"""Seconds until the store is asked again after a fault of this proxy's own."""

SEEK = 0.2
"""Seconds after which a worker looks whether another still asks the store."""

OLD, NEAR = 1_000_000_000, 50_000_000
"""ns: bytes that other machines have moved are asked for again after that time, and where a budget
is near its end."""

ENDING = 16_000_000
"""Bytes that are left then."""

_KINDS = {CONNECTIONS: 0, REQUESTS: 1, TUNNELS: 2}

_T = TypeVar("_T")


class Lending:
    """Of one worker, which counts in this row."""

    def __init__(
        self, meters: Meters, counting: Counting, limits: Limits, policy: PolicyConfig, row: int
    ) -> None:
        self._meters = meters
        self._leases = meters.leases
        self._counting = counting
        self._limits = limits
        self._policy = policy
        self._row = row
        self._waiting: dict[int, tuple[int, asyncio.Future[None]]] = {}  # by entry, with its answer
        self._poll: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._leading: Leading | None = None
        self._stopping: asyncio.Future[None] = self._loop.create_future()
        self._leases.enter(row)
        self._task = self._loop.create_task(self._run())

    def change(self, limits: Limits) -> None:
        """Other limits are in force."""
        self._limits = limits
        if self._leading is not None:
            self._leading.change(limits)

    # ---- a request ---------------------------------------------------------------------

    def expect(self, meter: Meter) -> bool:
        """Whether something is known of this limit for this key. What is old is asked for again."""
        lease, numbers = self._leases.numbers(meter.place.entry), meter.numbers
        if not lease[KNOWN]:
            return not (numbers.most or any(numbers.intervals) or any(numbers.budgets))
        left = self._limits.left(meter.limit, meter.place.entry)
        if left is not None:
            old = NEAR if left < ENDING else OLD
            if time.monotonic_ns() - lease[ASKED] > old:
                self._want(meter.place.entry, at_once=left < ENDING)
        return True

    def tell(self, meter: Meter) -> None:
        """Something counts that nobody was asked about."""
        self._want(meter.place.entry)

    def _want(self, at: int, *, at_once: bool = False) -> None:
        """The store is to be asked about an entry."""
        self._leases.asks[at] = 1
        if at_once and self._leading is not None:
            self._wake.set()
        elif at_once:
            self._leases.ring()

    def may_lend(self, meter: Meter, why: int) -> bool:
        """Whether the store may have more of what a request did not fit into."""
        if why == BYTES or not self._leases.is_there:
            return False
        kind, lease = _KINDS[why], self._leases.numbers(meter.place.entry)
        lent, whole = lease[LENT], meter.numbers.most
        if kind:
            lent, whole = lease[PART + kind - 1], PARTS
        return lent < whole and time.monotonic_ns() > lease[REFUSED + kind]

    async def settle(self, count: Callable[[], _T]) -> _T:
        """Does ``count`` until it does not raise Unlent, for as long as a request may wait. Of what
        the store has said nothing by then this machine takes some."""
        until = self._loop.time() + WAIT
        while True:
            try:
                return count()
            except Unlent as lacking:
                if lacking.refusal is not None and self._loop.time() >= until:
                    raise lacking.refusal() from None
                await self._lend(lacking.meter, until)

    async def _lend(self, meter: Meter, until: float) -> None:
        """Waits for an answer of the store."""
        at, tag = meter.place
        lease = self._leases.numbers(at)
        if self._leases.is_there:
            self._want(at, at_once=True)
            answer = self._waiting[at][1] if at in self._waiting else None
            if answer is None:
                answer = self._loop.create_future()
                self._waiting[at] = lease[ANSWERED], answer
                self._look_soon()
            await asyncio.wait((answer,), timeout=max(0.0, until - self._loop.time()))
        if self._meters.tag(at) == tag and not lease[KNOWN]:
            if not self._leases.is_there:
                self._take(meter, even_part=True)
            elif self._loop.time() >= until:
                self._take(meter, even_part=False)

    def _take(self, meter: Meter, *, even_part: bool) -> None:
        """Nobody says what others have: this machine takes its even part, or one connection."""
        one = Leased(self._meters, self._counting, meter.place.entry, meter.numbers)
        for kind in KINDS:
            whole = one.whole(kind)
            if whole and not one.lent(kind):
                part = even(whole, self._leases.machines)
                one.get(kind, part if even_part or kind else 1, part if even_part else 0)
        one.lease[KNOWN] = 1
        self._want(meter.place.entry)  # it is told when it is there

    def _look_soon(self) -> None:
        if self._poll is None:
            self._poll = self._loop.call_later(POLL, self._look)

    def _look(self) -> None:
        """Wakes up who has its answer."""
        if self._poll is not None:
            self._poll.cancel()
            self._poll = None
        there = self._leases.is_there
        for at, (seen, answer) in list(self._waiting.items()):
            if self._leases.numbers(at)[ANSWERED] != seen or not there:
                del self._waiting[at]
                answer.set_result(None)
        if self._waiting:
            self._look_soon()

    # ---- who asks the store ------------------------------------------------------------

    async def _run(self) -> None:
        while not self._stopping.done():
            try:
                await self._run_once()
            except Exception:
                log.exception("limits-store %s: a fault of this proxy", self._policy.limits_store)
                leading, self._leading = self._leading, None
                if leading is not None:
                    await _close(leading)
                await asyncio.wait((self._stopping,), timeout=FAULTY)
            await self._rest(SEEK if self._leading is None else self._leading.rests)

    async def _run_once(self) -> None:
        if self._leading is None and self._leases.lead():
            self._leading = self._lead()
        while self._leading is not None and await self._leading.turn():
            pass
        self._look()

    def _lead(self) -> Leading:
        if self._leases.bell >= 0:
            self._loop.add_reader(self._leases.bell, self._rung)
        store = Store(self._policy, self._machine)
        known = self._meters, self._counting, self._limits, store
        return Leading(*known, self._policy.limits_store, self._wake.set)

    def _rung(self) -> None:
        self._leases.still()
        self._wake.set()

    async def _rest(self, seconds: float) -> None:
        timer = self._loop.call_later(seconds, self._wake.set)
        await self._wake.wait()
        timer.cancel()
        self._wake.clear()

    @property
    def _machine(self) -> str:
        """What the store calls this machine: another name for each start of the proxy."""
        from hashlib import blake2b

        return blake2b(self._meters.secret, digest_size=8, person=b"limits-store").hexdigest()

    async def finish(self) -> None:
        """The worker ends, and nothing counts any more."""
        self._stopping.set_result(None)
        self._wake.set()
        await self._task
        last = self._leases.leave(self._row, self._meters.rows)
        until = self._loop.time() + TIMEOUT
        while last and self._leading is None and self._loop.time() < until:
            if self._leases.lead():
                self._leading = self._lead()
            else:  # whoever does is about to end
                await asyncio.sleep(POLL)
        if self._leading is not None:
            if self._leases.bell >= 0:
                self._loop.remove_reader(self._leases.bell)
            await self._leading.finish(last=last)
            self._leases.lead_no_more()


async def _close(leading: Leading) -> None:
    """Whatever comes of it: another one is to ask the store."""
    try:
        await leading.close()
    except Exception:
        log.exception("limits-store: a connection could not be closed")
