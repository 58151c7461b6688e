"""Workers that accept the clients of one that cannot start: the supervisor's part.

The kernel gives each worker its share of the clients, whether it runs or not. One that has died is
replaced at once, and those in its queues wait that long. But where the next one dies young, too,
the others get its listening sockets, and accept from them until there is one that serves.

    {"ask": "share"} and sockets                accept from these as well
    {"ask": "unshare", "sockets": [INODE]}      and from these no more
    {"serves": true}                            a worker whose sockets others have begins to serve
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from spliceproxy.admin.channel import MAX_FDS, Message
from spliceproxy.messages import log
from spliceproxy.processes.children import Children
from spliceproxy.processes.control import AGAIN
from spliceproxy.processes.listeners import inode
from spliceproxy.processes.orders import Orders
from spliceproxy.processes.slot import Slot
from spliceproxy.processes.state import State


class Sharing:
    """Of one supervisor, and a part of it."""

    def __init__(self, state: State, children: Children, orders: Orders) -> None:
        self._state = state
        self._children = children
        # Workers that cannot start, and the processes that accept for each.
        self._shared: dict[Slot, set[int]] = {}
        self._due = 0.0  # when somebody is told again who had no room for it, 0.0 for nobody
        children.gone.append(self._gone)
        children.is_shared = self._shared.__contains__
        orders.saying("serves", self._serves)

    def moments(self) -> Iterable[float]:
        """When it goes on, time.monotonic()."""
        return [self._due] if self._due else []

    def again(self, why: str = "") -> None:
        """The workers go by other settings, and accept from the sockets in these alone."""
        for told in self._shared.values():
            told.clear()

    def go_on(self) -> None:
        """Tells those who do not know."""
        self._due = 0.0
        if not self._shared or self._children.waiting or self._state.stopping:
            return
        workers = self._children.workers
        for slot, told in list(self._shared.items()):
            if slot not in workers:
                del self._shared[slot]
                continue
            for other in workers:
                if other.pid and other.pid not in told and other not in self._shared:
                    self._share(slot, other, told)

    def _gone(self, slot: Slot) -> None:
        """A worker has ended: its place has to wait if those before died young, too."""
        if slot in self._children.workers and slot.due > time.monotonic():
            if slot not in self._shared and len(self._children.workers) > 1:
                log.warning(
                    "%s has died again: the others accept its clients until it serves", slot.name
                )
            self._shared[slot] = set()

    def _share(self, slot: Slot, other: Slot, told: set[int]) -> None:
        alone = self._state.listening.alone(self._children.workers.index(slot))
        fds = [sock.fileno() for sock in alone]
        order = self._children.control.order
        if all(
            order(other, {"ask": "share"}, fds[at : at + MAX_FDS])
            for at in range(0, len(fds), MAX_FDS)
        ):
            told.add(other.pid)
        else:
            self._due = time.monotonic() + AGAIN

    def _serves(self, slot: Slot, message: Message) -> bool:
        told = self._shared.pop(slot, None)
        if told is not None and slot in self._children.workers:
            alone = self._state.listening.alone(self._children.workers.index(slot))
            said = {"ask": "unshare", "sockets": [inode(sock) for sock in alone]}
            for other in self._children.workers:
                if other.pid in told:
                    self._children.control.tell(other, said)
        return True
