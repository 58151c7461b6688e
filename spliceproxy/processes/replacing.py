"""A worker is replaced while it lives, and nobody's connection ends: ``spliceproxy ctl recycle``.

Another process is started for its place. When that is ready both meet: the old one accepts no more
and gives what can move (:mod:`spliceproxy.processes.giving`), while the new one accepts from the
same sockets. Then the old one drains, in the background. Whatever goes wrong before: the old one
serves on.

    STARTING ──ready──► GIVING ──gave──► the new one has the place, the old one drains
        │                 │
        └── dies, or takes too long: the old one keeps its place

From GIVING on the new one has connections, so it is not killed any more: where the old one keeps
its place the new one gives back what it has, and drains.
"""

from __future__ import annotations

import enum
import math
import os
import signal
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from spliceproxy.admin.channel import Message, pair
from spliceproxy.messages import log, plain
from spliceproxy.processes.children import Children
from spliceproxy.processes.orders import Orders, Tell
from spliceproxy.processes.slot import Slot
from spliceproxy.processes.state import State

READY_SECONDS = 60.0
"""That a worker has to be ready: it loads the policy, and whatever that needs."""

GIVE_SECONDS = 60.0
"""That a worker has to give all that can move."""

PAUSES = (0.25, 0.5, 1.0, 2.0)
"""Seconds until a worker is asked to give once more: it could not meet the other, or that has not
confirmed what has come. Meanwhile another may be started, and descriptors may be free again."""

Phase = enum.Enum("Phase", ["STARTING", "GIVING"])


@dataclass
class _Change:
    """That of one worker. When it is given up, and when the old one is asked once more, are
    time.monotonic()."""

    old: Slot
    new: Slot
    phase: Phase
    until: float
    tries: int = 0
    again: float = math.inf


@dataclass
class _Order:
    """What an operator has asked for. ``left`` are the workers that have yet to be replaced."""

    tell: Tell
    left: deque[Slot]
    done: list[Message] = field(default_factory=list)


class Replacing:
    """Of one supervisor."""

    def __init__(self, state: State, children: Children, orders: Orders) -> None:
        self._state = state
        self._children = children
        self._order: _Order | None = None
        self._change: _Change | None = None
        orders.by_name["recycle"] = self._recycle
        orders.saying("ready", self._ready)
        orders.saying("gave", self._gave)
        orders.saying("kept", self._kept)
        orders.saying("took", _forget)
        children.succeeded = self._is_succeeded

    # ---- what is asked -----------------------------------------------------------------

    def _recycle(self, message: Message, tell: Tell) -> Message | None:
        """Of one ``worker``, or of all, one behind the other."""
        there = {slot.index: slot for slot in self._children.workers}
        wanted = message.get("worker")
        refusal = self._refusal()
        if refusal:
            return {"error": refusal}
        if wanted is not None and wanted not in there:
            allowed = ", ".join(map(str, there))
            return {"error": f"worker: there is no {wanted!r}; allowed: {allowed}"}
        self._state.busy = "a worker is being replaced"
        self._order = _Order(tell, deque(there.values() if wanted is None else [there[wanted]]))
        self._next()
        return None

    def _refusal(self) -> str:
        """Why nothing can be replaced now; "" if it can."""
        if self._state.draining:
            return "the proxy drains"
        return self._state.busy

    # ---- times -------------------------------------------------------------------------

    def moments(self) -> Iterable[float]:
        """When it goes on, time.monotonic()."""
        return [] if self._change is None else [min(self._change.until, self._change.again)]

    def go_on(self) -> None:
        """Does what is due."""
        now = time.monotonic()
        change = self._change
        if change is None:
            return
        if self._state.draining:
            self._drain(change)
        elif now >= change.until:
            if change.phase is Phase.STARTING:
                self._fail(f"the new one was not ready within {READY_SECONDS:g} s")
            else:
                log.error("%s has not given all within %g s", change.old.name, GIVE_SECONDS)
                self._succeed(change, {})
        elif now >= change.again:
            change.again = math.inf
            self._meet(change)

    # ---- a change ----------------------------------------------------------------------

    def _next(self) -> None:
        """Begins with the next worker, or answers."""
        order = self._order
        assert order is not None
        if not order.left:
            self._order, self._state.busy = None, ""
            order.tell({"replaced": order.done})
            return
        old = order.left.popleft()
        drains = any(slot.index == old.index for slot in self._children.leaving)
        new = None
        if old.pid and not drains:
            new = self._children.start_successor(old, self._new_ended)
        if new is None:
            why = "another cannot be started"
            if drains or not old.pid:
                why = "the one before still drains" if drains else "it does not run"
            self._refuse(f"{old.name}: {why}")
        else:
            until = time.monotonic() + READY_SECONDS
            self._change = _Change(old, new, Phase.STARTING, until)

    def _refuse(self, why: str) -> None:
        order, self._order, self._state.busy = self._order, None, ""
        assert order is not None
        order.tell({"error": why, "replaced": order.done})

    def _fail(self, why: str) -> None:
        """The old one keeps its place."""
        change, self._change = self._change, None
        assert change is not None
        log.error("%s is not replaced: %s", change.old.name, why)
        if change.new.pid and change.phase is Phase.STARTING:
            os.kill(change.new.pid, signal.SIGKILL)
        elif change.new.pid:
            self._take_back(change)
        self._refuse(f"{change.old.name} is not replaced: {why}")

    def _take_back(self, change: _Change) -> None:
        """The new one gives back what it has, and drains what is left."""
        control = self._children.control
        try:
            one, other = pair()
        except OSError as error:
            log.error("what has moved to the other worker drains there: %s", plain(error))
        else:
            with one, other:
                if control.order(change.old, {"ask": "take"}, [one.fileno()]):
                    control.order(change.new, {"ask": "give"}, [other.fileno()])
        self._children.give_up(change.new)

    def _drain(self, change: _Change) -> None:
        """The proxy drains, and so do both."""
        if change.phase is Phase.STARTING:
            self._fail("the proxy drains")
            return
        self._change = None
        self._children.succeed(change.new)
        self._refuse("the proxy drains")

    def _ready(self, slot: Slot, message: Message) -> bool:
        change = self._change
        if change is None or slot is not change.new or change.phase is not Phase.STARTING:
            return False
        change.phase = Phase.GIVING
        change.until = time.monotonic() + GIVE_SECONDS
        self._meet(change)
        return True

    def _meet(self, change: _Change) -> None:
        """Both have an end of a pair; from here on the new one accepts."""
        change.tries += 1
        control = self._children.control
        try:
            one, other = pair()
        except OSError as error:
            self._try_again(change, f"they cannot meet: {plain(error)}")
            return
        with one, other:
            if not control.order(change.old, {"ask": "give"}, [other.fileno()]):
                self._try_again(change, "the old one does not read what it is told")
            elif control.order(change.new, {"ask": "take"}, [one.fileno()]):
                control.tell(change.new, {"ask": "serve"})
            # Else the old one finds its end closed, and says so.

    def _try_again(self, change: _Change, why: str) -> None:
        """Soon, unless that was the last time."""
        if change.tries <= len(PAUSES):
            change.again = time.monotonic() + PAUSES[change.tries - 1]
        else:
            self._fail(why)

    def _gave(self, slot: Slot, message: Message) -> bool:
        """The new one takes the place."""
        change = self._change
        if change is None or slot is not change.old:
            return False
        gave = message["gave"]
        log.info(
            "%s is replaced: pid %d by %d; tunnels moved: %d, clients moved: %d, connections left "
            "to drain: %d",
            change.old.name,
            change.old.pid,
            change.new.pid,
            gave["tunnels"],
            gave["clients"],
            message["left"],
        )
        self._succeed(change, {**gave, "left": message["left"]})
        return True

    def _succeed(self, change: _Change, moved: Message) -> None:
        """The new one has the place, and the old one drains."""
        self._change = None
        assert self._order is not None
        told = {"worker": change.old.index, "old": change.old.pid, "new": change.new.pid, **moved}
        self._children.succeed(change.new)
        self._order.done.append(told)
        self._next()

    def _kept(self, slot: Slot, message: Message) -> bool:
        """The old one could not give all; it serves on."""
        change = self._change
        if change is None or slot is not change.old or change.phase is not Phase.GIVING:
            return slot in self._children.leaving  # which has nothing more to give to
        self._try_again(change, str(message["kept"]))
        return True

    # ---- ends --------------------------------------------------------------------------

    def _new_ended(self, how: str) -> None:
        if self._change is not None:
            self._fail(f"the new one {how}")

    def _is_succeeded(self, slot: Slot) -> bool:
        """Whether the worker that has died in its place has a successor already."""
        change = self._change
        if change is None or change.old is not slot:
            return False
        if change.phase is Phase.STARTING:
            self._fail("it has died meanwhile")
            return False
        self._succeed(change, {})
        return True


def _forget(slot: Slot, message: Message) -> bool:
    """Nobody wants to know what it says."""
    return True
