"""The supervisor's side of the control channels.

It has a channel to each worker and to the admin process (:mod:`spliceproxy.admin.channel`), and
makes another between the two whenever one of them is new: each gets an end, with who is at the
other. A worker that has lost its place keeps that for as long as it drains. What people ask goes
there, and the supervisor has no part in it. Who may open no more descriptors gets none, and says
so: both are introduced again, after a pause that grows.

The supervisor waits for signals alone, so its ends raise SIGIO when a message comes (O_ASYNC,
fcntl(2)). It never waits for a peer: what a channel has no room for is kept, up to a limit, and
sent later.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from spliceproxy.admin import channel
from spliceproxy.admin.channel import Channel, Closed, Message, Troubled, close_all, pair
from spliceproxy.messages import log
from spliceproxy.processes.slot import Slot

AGAIN = 0.5
"""Seconds until what a channel had no room for is sent again."""

PAUSE_FIRST = 0.25
PAUSE_LAST = 10.0
"""Seconds until two are introduced again where that was in vain. They double between these."""

MOST = 64
"""Messages of one peer that are looked at before other things have their turn."""

KEPT = 64
"""Messages that wait for one peer. Beyond them the oldest is lost: the later one knows better."""


class Control:
    """Between ``workers`` and ``admin``, which is None where there is no admin process."""

    __slots__ = (
        "_admin", "_kept", "_look", "_more", "_pauses", "_unmet", "_workers", "leaving", "others",
    )  # fmt: skip

    def __init__(self, workers: Sequence[Slot], admin: Slot | None) -> None:
        self._workers = workers
        self._admin = admin
        # Workers without a place, which may have to say something.
        self.others: Sequence[Iterable[Slot]] = ()
        # Those of them that drain, and may be asked like any other.
        self.leaving: Iterable[Slot] = ()
        # By the row of a worker that has to be introduced yet: when, monotonic seconds.
        self._unmet: dict[int, float] = {}
        self._pauses: dict[int, float] = {}  # the last pause of each
        self._kept: dict[Slot, deque[Mapping[str, Any]]] = {}  # what waits for a peer
        self._more = False  # there are messages that nobody has looked at
        self._look = 0.0  # when they are looked at that could not be read, 0.0 for none

    @staticmethod
    def open() -> tuple[Channel, Channel]:
        """A new channel: the supervisor's end, and that of a child to come. OSError."""
        own, other = pair()
        try:
            raises_sigio(own.fileno())
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
        for slots in self.others:
            yield from slots
        if self._admin is not None:
            yield self._admin

    def has_admin(self, admin: Slot | None) -> None:
        """There is an admin process from here on, or none any more."""
        self._admin = admin
        if admin is None:
            self._unmet.clear()
            self._pauses.clear()

    # What is to be done later

    @property
    def due(self) -> float | None:
        """When :meth:`go_on` has something to do, monotonic seconds; None: it has not."""
        moments = list(self._unmet.values())
        if self._kept:
            moments.append(time.monotonic() + AGAIN)
        if self._look:
            moments.append(self._look)
        return min(moments, default=None)

    @property
    def more(self) -> bool:
        """Whether :meth:`hear` has to be called, also without a signal."""
        return self._more or (self._look > 0.0 and time.monotonic() >= self._look)

    def go_on(self) -> None:
        """Introduces those who do not know each other, and sends what waits, as far as there is
        room."""
        for slot in list(self._kept):
            self._send_kept(slot)
        slots = {slot.row: slot for slot in (*self._workers, *self.leaving)}
        now = time.monotonic()
        for row, moment in list(self._unmet.items()):
            if moment > now:
                continue
            if row not in slots or self._introduce(slots[row]):
                del self._unmet[row]
            else:
                self._postpone(row)

    # Introductions

    def begins(self, slot: Slot) -> None:
        """A process has begun there. What waited was for the one before."""
        self._kept.pop(slot, None)

    def is_new(self, slot: Slot) -> None:
        """A process has its place there: it has to meet the others."""
        if self._admin is None:
            return
        for one in (*self._workers, *self.leaving) if slot is self._admin else (slot,):
            self._unmet[one.row] = 0.0
            self._pauses.pop(one.row, None)
        self.go_on()

    def _postpone(self, row: int) -> None:
        pause = min(max(2 * self._pauses.get(row, 0.0), PAUSE_FIRST), PAUSE_LAST)
        self._pauses[row] = pause
        self._unmet[row] = time.monotonic() + pause

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
            told = {
                "meet": "worker",
                "index": worker.index,
                "row": worker.row,
                "pid": worker.pid,
                "leaves": worker not in self._workers,
            }
            return self._send(worker, {"meet": "admin"}, one) and self._send(admin, told, other)

    @staticmethod
    def _send(slot: Slot, message: Mapping[str, Any], *ends: Channel) -> bool:
        """Whether nothing is left to do."""
        if slot.channel is None:
            return True
        try:
            return slot.channel.send(message, [end.fileno() for end in ends])
        except Closed:
            return True  # it has ended, and its death will be seen
        except Troubled:
            return False
        except ValueError as error:
            _tell_too_long(slot, message, error)
            if "re" not in message:
                return True
            # Whoever has asked is not to wait for ever.
            short = {"re": message["re"], "error": "the answer is too long", "end": True}
            return Control._send(slot, short)

    # Messages

    def tell_admin(self, message: Mapping[str, Any]) -> None:
        """A message to the admin process, if there is one."""
        if self._admin is not None:
            self.tell(self._admin, message)

    def tell_workers(self, message: Mapping[str, Any]) -> None:
        """The same to every worker."""
        for slot in self._workers:
            self.tell(slot, message)

    def tell(self, slot: Slot, message: Mapping[str, Any]) -> None:
        """A message to one process, behind those that wait for it."""
        kept = self._kept.get(slot)
        if kept is None and self._send(slot, message):
            return
        if kept is None:
            log.warning("process %d does not read what it is told; it waits", slot.pid)
            kept = self._kept[slot] = deque(maxlen=KEPT)
        kept.append(message)

    def _send_kept(self, slot: Slot) -> None:
        kept = self._kept[slot]
        while kept and self._send(slot, kept[0]):
            kept.popleft()
        if not kept:
            del self._kept[slot]

    def order(self, slot: Slot, message: Mapping[str, Any], fds: Sequence[int]) -> bool:
        """A message with descriptors, which stay the caller's, too. False: it reads nothing just
        now, or something waits for it. Where it has ended, that will be seen."""
        if slot.channel is None:
            return True
        if slot in self._kept:
            self._send_kept(slot)
            if slot in self._kept:
                return False
        try:
            return slot.channel.send(message, fds)
        except Closed:
            return True
        except Troubled:
            return False
        except ValueError as error:
            _tell_too_long(slot, message, error)
            return False

    def hear(self) -> Iterator[tuple[Slot, Message]]:
        """What has been said to the supervisor. ``more``: there may be more than that."""
        self._more = False
        self._look = 0.0
        for slot in list(self._slots()):
            for _ in range(MOST):
                message = self._next(slot)
                if message is None:
                    break
                if "unmet" in message:
                    self._is_unmet(slot, message)
                elif "troubled" in message:
                    # The admin process has no row of its own, and its numbers would end with it.
                    channel.count(max(int(message["troubled"]), 0))
                else:
                    yield slot, message
            else:
                self._more = True

    def _is_unmet(self, slot: Slot, message: Message) -> None:
        """The other's end has not come along, so they are introduced again."""
        row = message.get("row") if slot is self._admin else slot.row
        slots = (*self._workers, *self.leaving)
        found = next((one for one in slots if one.row == row), None)
        if found is None:
            return
        if found.row not in self._pauses:
            log.error(
                "%s may open no more descriptors, so nobody can ask worker %d for now",
                slot.name,
                found.index,
            )
        self._postpone(found.row)

    def _next(self, slot: Slot) -> Message | None:
        if slot.channel is None:
            return None
        try:
            found = slot.channel.receive()
        except Closed:
            return None
        except Troubled:
            self._look = time.monotonic() + AGAIN
            return None
        if found is None:
            return None
        message, fds = found
        if "kept" in message:
            message["fds"] = fds
        else:
            close_all(fds)  # nobody has to send another one to the supervisor
        return message


def _tell_too_long(slot: Slot, message: Mapping[str, Any], error: ValueError) -> None:
    """A fault of the proxy's own, which ends nothing but that message."""
    log.error("%s is not told %s: %s", slot.name, ", ".join(message), error)


def raises_sigio(fd: int) -> None:
    """Something to be read from this descriptor raises SIGIO in this process. OSError."""
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
