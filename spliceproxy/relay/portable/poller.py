"""The epoll instance of a portable engine: which socket waits for what.

Only EPOLLIN and EPOLLOUT are asked for, level-triggered. EPOLLRDHUP would fire without end
while the way that reads the socket is blocked. EPOLLERR and EPOLLHUP cannot be masked: a socket
that reports them while nothing of it is wanted leaves epoll until something is.
"""

from __future__ import annotations

import os
import select
import socket
from typing import Protocol

from spliceproxy.net import tcp
from spliceproxy.relay.portable.moves import BLOCKED, READY, Way

IN = select.EPOLLIN
OUT = select.EPOLLOUT
ERR = select.EPOLLERR
HUP = select.EPOLLHUP
GONE = select.EPOLLERR | select.EPOLLHUP


class Flow(Protocol):
    """A tunnel or a transfer: whose a leg is. ``due`` is its deadline, monotonic seconds."""

    ident: int
    due: float

    def event(self, leg: Leg, mask: int, now: float) -> None:
        """Serves one epoll event of one of its legs."""

    def wake(self, now: float) -> None:
        """Its deadline has come."""

    def describe(self, now: float) -> str:
        """A line for :meth:`Relay.dump`, without its end."""


class Leg:
    """A socket of a flow: the way that reads it, the way that writes it.

    ``entry`` is the descriptor in epoll, -1 for none; ``mask`` what is asked of it.
    """

    __slots__ = ("entry", "flow", "mask", "reads", "sock", "writes")

    def __init__(self, flow: Flow, sock: socket.socket, reads: Way | None, writes: Way | None):
        self.flow = flow
        self.sock = sock
        self.reads = reads
        self.writes = writes
        self.entry = -1
        self.mask = 0

    def wants(self) -> int:
        """The mask that the two ways call for."""
        mask = IN if self.reads is not None and self.reads.state == READY else 0
        if self.writes is not None and self.writes.state == BLOCKED:
            mask |= OUT
        return mask


class Poller:
    """Legs in one epoll. Descriptors to close are kept open until :meth:`reap`, so that
    no number is used again while events of the same batch still name it."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._legs: dict[int, Leg] = {}
        self._closing: list[socket.socket | int] = []

    def fileno(self) -> int:
        """The epoll descriptor."""
        return self._epoll.fileno()

    def wait(self, most: int) -> list[tuple[int, int]]:
        """At most ``most`` events that are ready now, as (descriptor, mask)."""
        return self._epoll.poll(0, most)

    def leg(self, entry: int) -> Leg | None:
        """Whose descriptor this is; None if it left epoll in this batch."""
        return self._legs.get(entry)

    def add(self, *legs: Leg) -> None:
        """Puts legs into epoll. OSError: epoll cannot take one of them, and the loan of every
        socket has ended."""
        try:
            for leg in legs:
                self._register(leg)
        except OSError:
            for leg in legs:
                self.hand_back(leg)
            raise

    def restore(self, leg: Leg) -> None:
        """Puts a leg into epoll again that was taken out, also where nothing of it is wanted.
        OSError: it is not there."""
        self._register(leg)

    def _register(self, leg: Leg) -> None:
        mask = leg.wants()
        fd = leg.sock.fileno()
        try:
            self._epoll.register(fd, mask)
        except FileExistsError:  # the other direction of this socket is in a second transfer
            fd = os.dup(fd)
            try:
                self._epoll.register(fd, mask)
            except OSError:
                os.close(fd)
                raise
        leg.entry = fd
        leg.mask = mask
        self._legs[fd] = leg

    def arm(self, leg: Leg) -> None:
        """Asks epoll for what the leg wants now. OSError as in :meth:`add`."""
        mask = leg.wants()
        if leg.entry < 0:
            if mask:
                self.add(leg)
        elif mask != leg.mask:
            self._epoll.modify(leg.entry, mask)
            leg.mask = mask

    def forget(self, leg: Leg) -> None:
        """Takes a leg out of epoll, if it is there."""
        if leg.entry < 0:
            return
        self._epoll.unregister(leg.entry)
        del self._legs[leg.entry]
        if leg.entry != leg.sock.fileno():
            self._closing.append(leg.entry)
        leg.entry = -1
        leg.mask = 0

    def discard(self, leg: Leg, reset: bool) -> None:
        """Closes the leg's socket, with RST where ``reset``."""
        if reset:
            tcp.reset_on_close(leg.sock)
        self.forget(leg)
        self._closing.append(leg.sock)

    def hand_back(self, leg: Leg) -> None:
        """Ends the loan of the leg's socket."""
        self.forget(leg)
        leg.sock.detach()

    def reap(self) -> None:
        """Closes what is to be closed."""
        for item in self._closing:
            if isinstance(item, int):
                os.close(item)
            else:
                item.close()
        self._closing.clear()

    def close(self) -> None:
        """Closes epoll; the legs must be gone."""
        self._epoll.close()
