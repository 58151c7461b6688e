"""Whose try is checked next: a line for each network, so that nobody waits for another's guesses.

A network without a success in the last TRUSTED seconds has one try checked at a time, so that
each try knows how the one before it ended. A network with a success has PARALLEL. Two tries of
one name are never checked at the same time. Other tries stand in line for at most PATIENCE
seconds: at most LINE of a network, and NAME_LINE of one name. Further tries are told to come
later (:class:`Later`). The next try from the line is the first one that may be checked now
(:mod:`spliceproxy.policy.auth.throttle`), so a try that must wait does not hold up those behind it.

So a network that guesses occupies one thread at most, however many connections it has, and its
line delays nobody else. Networks with a success have a thread that the others cannot take
(:mod:`spliceproxy.policy.auth.hashing`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from spliceproxy.policy.auth.cache import SECONDS
from spliceproxy.policy.auth.hashing import Full
from spliceproxy.policy.auth.throttle import LAST_DELAY, NETWORKS, SOON, Throttle

PARALLEL = 2
"""Tries of a network with a success that are checked at the same time."""

TRUSTED = 2 * SECONDS
"""Seconds for which a network counts as one with a success. Its users are checked again within
half of that time."""

PATIENCE = 10.0
"""Seconds that a try may stand in line. If it can be seen that a try would wait longer, it is
told so at once."""

LINE = 256
"""Tries of one network that may stand in line: an office that starts in the morning."""

NAME_LINE = 8
"""Tries of one name of them: not even eight can be checked within PATIENCE if they fail."""

TOTAL = 4096
"""Tries of all networks without a success that may stand in line."""


class Later(Exception):
    """There are too many tries before this one; ``seconds`` after which to come again."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = max(1.0, seconds)


@dataclass(eq=False, slots=True)
class _Waiter:
    name: bytes
    turn: asyncio.Future[None]
    until: float


@dataclass(slots=True)
class _Line:
    checking: set[bytes] = field(default_factory=set)  # names
    waiting: list[_Waiter] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None


class Turns:
    """Each try calls :meth:`take` (or :meth:`take_now`) and, if that returns (true),
    :meth:`release`. ``delayed``: whether a network's failures count at all."""

    def __init__(
        self, throttle: Throttle, clock: Callable[[], float], delayed: Callable[[str], bool]
    ) -> None:
        self._throttle = throttle
        self._clock = clock
        self._delayed = delayed
        self._lines: dict[str, _Line] = {}
        self._right: OrderedDict[str, float] = OrderedDict()  # time of the last success
        self._total = 0  # in line, of networks without a success

    def take_now(self, network: str, name: bytes) -> bool:
        """A turn, if there is one at once and nobody in line may have it."""
        line = self._lines.setdefault(network, _Line())
        now = self._clock()
        if (
            self._room(network, line)
            and not self._wait(network, line, name, now)
            and self._next(network, line, now) is None
        ):
            line.checking.add(name)
            return True
        self._tidy(network, line)
        return False

    async def take(self, network: str, name: bytes) -> None:
        """Waits for a turn; Later, Full."""
        if self.take_now(network, name):
            return
        line = self._lines.get(network) or _Line()
        now = self._clock()
        self._check_room(network, line, name, now)
        self._lines[network] = line  # who is sent away leaves none behind
        waiter = _Waiter(name, asyncio.get_running_loop().create_future(), now + PATIENCE)
        stranger = not self.trusts(network)
        self._total += stranger
        line.waiting.append(waiter)
        self._advance(network, line)
        try:
            await waiter.turn
        except BaseException:
            if waiter in line.waiting:
                line.waiting.remove(waiter)
                self._tidy(network, line)
            elif waiter.turn.done() and not waiter.turn.cancelled() and not waiter.turn.exception():
                self.release(network, name)
            raise
        finally:
            self._total -= stranger

    def release(self, network: str, name: bytes, *, right: bool = False) -> None:
        """The check is over; what failed has been told to the throttle before."""
        line = self._lines[network]
        line.checking.discard(name)
        if right:
            self.succeeded(network)
        self._advance(network, line)

    def succeeded(self, network: str) -> None:
        """Somebody of a network was right, also without a turn."""
        self._right[network] = self._clock()
        self._right.move_to_end(network)
        if len(self._right) > NETWORKS:
            self._right.popitem(last=False)

    def trusts(self, network: str) -> bool:
        """Whether it is a network with a success."""
        right = self._right.get(network)
        return right is not None and self._clock() - right <= TRUSTED

    def close(self) -> None:
        """No more turns are given."""
        for line in self._lines.values():
            if line.timer is not None:
                line.timer.cancel()
                line.timer = None

    # ---- who may go ------------------------------------------------------------------------

    def _room(self, network: str, line: _Line) -> bool:
        """Whether one more try of a network may be checked."""
        if not line.checking:
            return True
        many = not self._delayed(network) or self.trusts(network)
        return len(line.checking) < (PARALLEL if many else 1)

    def _wait(self, network: str, line: _Line, name: bytes, now: float) -> float:
        """Seconds until a try may be checked as far as that is known: LAST_DELAY where one of
        the same name is being checked."""
        if name in line.checking:
            return LAST_DELAY
        if not self._delayed(network):
            return 0.0
        return self._throttle.wait(network, name, now, checking=len(line.checking))

    def _next(self, network: str, line: _Line, now: float) -> _Waiter | None:
        """Who of a line may go first, None if nobody may yet."""
        for waiter in line.waiting:
            if not waiter.turn.done() and not self._wait(network, line, waiter.name, now):
                return waiter
        return None

    def _check_room(self, network: str, line: _Line, name: bytes, now: float) -> None:
        """Later, Full: where a try need not stand in line."""
        same = sum(waiter.name == name for waiter in line.waiting) + (name in line.checking)
        seconds = 0.0
        if self._delayed(network):
            seconds = self._throttle.wait(
                network, name, now, checking=len(line.checking), before=same
            )
            if self._throttle.exhausted(network, now):
                seconds += len(line.waiting) * LAST_DELAY
        limit = LINE if self._delayed(network) else TOTAL
        if seconds > PATIENCE or len(line.waiting) >= limit or same > NAME_LINE:
            raise Later(seconds - PATIENCE)
        if self._total >= TOTAL and not self.trusts(network):
            raise Full

    def _advance(self, network: str, line: _Line) -> None:
        """Gives turns to those who may go, and sends away who has waited too long."""
        now = self._clock()
        line.waiting[:] = [one for one in line.waiting if not one.turn.done()]  # who has left
        while self._room(network, line):
            first = self._next(network, line, now)
            if first is None:
                break
            line.waiting.remove(first)
            line.checking.add(first.name)
            first.turn.set_result(None)
        for waiter in [one for one in line.waiting if one.until <= now + SOON]:
            line.waiting.remove(waiter)
            waiter.turn.set_exception(Later(self._wait(network, line, waiter.name, now)))
        self._tidy(network, line)

    def _tidy(self, network: str, line: _Line) -> None:
        """Sets the time of the next look, and forgets a line in which nobody is."""
        if line.timer is not None:
            line.timer.cancel()
            line.timer = None
        if not line.waiting:
            if not line.checking:
                self._lines.pop(network, None)
            return
        now = self._clock()
        moments = [line.waiting[0].until - now]
        if self._room(network, line):
            moments += [self._wait(network, line, one.name, now) for one in line.waiting]
        loop = asyncio.get_running_loop()
        line.timer = loop.call_later(max(SOON, min(moments)), self._advance, network, line)
