"""Which workers answer, as the supervisor sees it: each is asked for a sign of life.

A worker has one such question at most. One that was stopped answers when it goes on.
"""

from __future__ import annotations

import time

from spliceproxy.admin.channel import Message
from spliceproxy.processes.children import Children
from spliceproxy.processes.orders import Orders
from spliceproxy.processes.slot import Slot

STARTING_SECONDS = 10.0
"""That a worker has until its first answer, before that is a fault."""


class Alive:
    """Of one supervisor."""

    def __init__(self, children: Children, orders: Orders) -> None:
        self._children = children
        self._number = 0
        self._open: dict[int, str] = {}  # by process id, the question that has no answer yet
        self._answered: dict[int, float] = {}  # by process id, when it has last, time.monotonic()
        orders.saying("re", self._hear)

    @property
    def unasked(self) -> bool:
        """Whether there is a worker that was never asked."""
        return any(slot.pid and not self._knows(slot) for slot in self._children.workers)

    def ask(self) -> None:
        """Each worker that owes no answer."""
        there = {slot.pid for slot in self._children.workers}
        for known in (self._open, self._answered):
            for pid in known.keys() - there:
                del known[pid]
        for slot in self._children.workers:
            if slot.pid and slot.pid not in self._open:
                self._number += 1
                ident = f"alive {self._number}"
                question = {"ask": "ping", "id": ident}
                if self._children.control.order(slot, question, []):
                    self._open[slot.pid] = ident

    def answered(self, slot: Slot) -> float:
        """When it has answered last, time.monotonic(); 0.0 if it never has."""
        return self._answered.get(slot.pid, 0.0) if slot.pid else 0.0

    def all_since(self, moment: float) -> bool:
        """Whether all have answered since then, time.monotonic(). One that is started in the place
        of another has STARTING_SECONDS for its first answer."""
        now = time.monotonic()
        for slot in self._children.workers:
            if self.answered(slot) >= moment:
                continue
            if self.answered(slot) or now >= slot.started + STARTING_SECONDS:
                return False
        return True

    def _knows(self, slot: Slot) -> bool:
        return slot.pid in self._open or slot.pid in self._answered

    def _hear(self, slot: Slot, message: Message) -> bool:
        if self._open.get(slot.pid) != message["re"]:
            return str(message["re"]).startswith("alive ")  # of one that is there no more
        del self._open[slot.pid]
        self._answered[slot.pid] = time.monotonic()
        return True
