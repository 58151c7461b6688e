"""The supervisor's side of the control channels.

It has a channel to each worker and to the admin process (:mod:`spliceproxy.admin.channel`), and
makes another between the two whenever one of them is new: each gets an end, with who is at the
other. What people ask goes there, and the supervisor has no part in it.

The supervisor waits for signals alone, so its ends raise SIGIO when a message comes (O_ASYNC,
fcntl(2)). It never waits for a peer: what a channel has no room for is tried again later.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from spliceproxy.admin.channel import Channel, Closed, Message, close_all, pair
from spliceproxy.messages import log
from spliceproxy.processes.slot import Slot

AGAIN = 0.5
"""Seconds until what a channel had no room for is sent again."""

MOST = 64
"""Messages of one peer that are looked at before other things have their turn."""


class Control:
    """Between ``workers`` and ``admin``, which is None where there is no admin process."""

    __slots__ = ("_admin", "_unmet", "_workers", "more")

    def __init__(self, workers: Sequence[Slot], admin: Slot | None) -> None:
        self._workers = workers
        self._admin = admin
        self._unmet: set[int] = set()  # indices of workers that have to be introduced yet
        self.more = False  # there are messages that nobody has looked at

    @staticmethod
    def open() -> tuple[Channel, Channel]:
        """A new channel: the supervisor's end, and that of a child to come. OSError."""
        own, other = pair()
        try:
            fd = own.fileno()
            fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
        except OSError:
            own.close()
            other.close()
            raise
        return own, other

    def close(self) -> None:
        """Closes every end of the supervisor's, in a child or at the end."""
        for slot in self._slots():
            slot.hang_up()

    def _slots(self) -> Iterator[Slot]:
        yield from self._workers
        if self._admin is not None:
            yield self._admin

    # Introductions

    def is_new(self, slot: Slot) -> None:
        """A process has begun there: it has to meet the others."""
        if self._admin is None:
            return
        if slot is self._admin:
            self._unmet.update(one.index for one in self._workers)
        else:
            self._unmet.add(slot.index)
        self.introduce()

    @property
    def waits(self) -> bool:
        """Whether :meth:`introduce` has to be called again."""
        return bool(self._unmet)

    def introduce(self) -> None:
        """Introduces those who do not know each other, as far as there is room."""
        for slot in self._workers:
            if slot.index in self._unmet and self._introduce(slot):
                self._unmet.discard(slot.index)

    def _introduce(self, worker: Slot) -> bool:
        """Whether nothing is left to do for that worker. Where one of both is dead, the next one
        is introduced."""
        admin = self._admin
        if admin is None or admin.channel is None or worker.channel is None:
            return True
        try:
            one, other = pair()
        except OSError:
            return False
        with one, other:
            # Who has an end without a partner finds it closed, and there will be another.
            told = {"meet": "worker", "index": worker.index, "pid": worker.pid}
            return self._send(worker, {"meet": "admin"}, one) and self._send(admin, told, other)

    @staticmethod
    def _send(slot: Slot, message: Mapping[str, Any], end: Channel) -> bool:
        if slot.channel is None:
            return False
        try:
            return slot.channel.send(message, [end.fileno()])
        except Closed:
            return True  # it has ended, and its death will be seen

    # Messages

    def tell_admin(self, message: Mapping[str, Any]) -> None:
        """A message to the admin process, if there is one that takes it."""
        if self._admin is not None and self._admin.channel is not None:
            self.tell(self._admin, message)

    def tell_workers(self, message: Mapping[str, Any]) -> None:
        """The same to every worker."""
        for slot in self._workers:
            self.tell(slot, message)

    @staticmethod
    def tell(slot: Slot, message: Mapping[str, Any]) -> None:
        """A message to one process. It is lost where that has ended, or reads nothing."""
        if slot.channel is None:
            return
        try:
            if not slot.channel.send(message):
                log.warning("process %d does not read what it is told", slot.pid)
        except Closed:
            pass

    def hear(self) -> Iterator[tuple[Slot, Message]]:
        """What has been said to the supervisor. ``more``: there may be more than that."""
        self.more = False
        for slot in self._slots():
            for _ in range(MOST):
                message = self._next(slot)
                if message is None:
                    break
                yield slot, message
            else:
                self.more = True

    @staticmethod
    def _next(slot: Slot) -> Message | None:
        if slot.channel is None:
            return None
        try:
            found = slot.channel.receive()
        except Closed:
            return None
        if found is None:
            return None
        close_all(found[1])  # nobody has to send one to the supervisor
        return found[0]
