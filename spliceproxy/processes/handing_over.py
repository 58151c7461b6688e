"""The workers of the program that runs give to those of the new one
(:mod:`spliceproxy.processes.upgrade`), and which sockets they listen on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from spliceproxy.admin.channel import Message, pair
from spliceproxy.config import Address
from spliceproxy.messages import log, plain
from spliceproxy.processes.children import Children
from spliceproxy.processes.listeners import inode
from spliceproxy.processes.replacing import PAUSES
from spliceproxy.processes.slot import Slot
from spliceproxy.processes.state import State

if TYPE_CHECKING:
    import socket


class Place(NamedTuple):
    """An address that is listened on: as in the settings, and as it is; its sockets, and whether
    they were given by systemd."""

    admin: bool
    asked: Address
    bound: Address
    queues: list[socket.socket]
    given: bool

    def told(self) -> Message:
        """As the new program is told of it."""
        asked = self.asked
        return {
            "host": asked.host, "port": asked.port, "path": asked.path, "name": asked.name,
            "bound": self.bound.port, "queues": len(self.queues), "given": self.given,
            "admin": self.admin,
        }  # fmt: skip


def places(state: State) -> list[Place]:
    """Those of the workers, and then that of the admin process."""
    found = [Place(False, *one) for one in state.listening.each()]
    if state.asked is not None:
        found += [Place(True, *one) for one in state.asked.each()]
    return found


@dataclass
class _Giver:
    """A worker that has not given all yet: how often it was asked, and when it is asked once more,
    time.monotonic()."""

    tries: int = 0
    again: float = math.inf


class HandingOver:
    """Of one upgrade. ``say`` tells the new program something, and returns whether there is still
    an upgrade; ``wanted`` are the numbers of the places that it listens on. ``done`` is called when
    every worker has given what can move. ``moved`` says how much that was."""

    def __init__(
        self,
        state: State,
        children: Children,
        say: Callable[[Message, Iterable[int]], bool],
        wanted: Collection[int],
        done: Callable[[], None],
    ) -> None:
        self._children = children
        self._listening = state.listening
        self._say = say
        self._done = done
        self._dropped = {
            sock
            for number, place in enumerate(places(state))
            if not place.admin and number not in wanted
            for sock in place.queues
        }
        self._giving: dict[Slot, _Giver] = {}
        self.moved = {"tunnels": 0, "clients": 0, "left": 0}

    def start(self) -> None:
        """Each begins to give."""
        self._giving = {slot: _Giver() for slot in self._children.workers if slot.pid}
        if not self._giving:
            self._done()
            return
        for slot in list(self._giving):
            if not self._meet(slot):
                return

    def moments(self) -> Iterable[float]:
        """When it goes on, time.monotonic()."""
        return [giver.again for giver in self._giving.values()]

    def go_on(self) -> None:
        """Does what is due."""
        now = time.monotonic()
        for slot, giver in list(self._giving.items()):
            if now >= giver.again:
                giver.again = math.inf
                if not self._meet(slot):
                    return

    def gave(self, slot: Slot, message: Message) -> bool:
        """A worker has given what can move; whether that is of this upgrade."""
        if slot not in self._giving:
            return False
        for name, number in (*message["gave"].items(), ("left", message["left"])):
            self.moved[name] = self.moved.get(name, 0) + int(number)
        self._ready(slot)
        return True

    def kept(self, slot: Slot, message: Message) -> bool:
        """A worker could not give all; likewise."""
        if slot not in self._giving:
            return False
        self._try_again(slot, str(message["kept"]))
        return True

    def gone(self, slot: Slot) -> None:
        """A worker has died: there is nothing more of it."""
        if slot in self._giving:
            self._ready(slot)

    def give_up(self, seconds: float) -> None:
        """Nobody is waited for any longer than that."""
        for slot in self._giving:
            log.warning("upgrade: %s has not given all within %g s", slot.name, seconds)
        self._giving.clear()
        self._done()

    def _ready(self, slot: Slot) -> None:
        del self._giving[slot]
        if not self._giving:
            self._done()

    def _try_again(self, slot: Slot, why: str) -> None:
        """Soon, unless that was the last time."""
        giver = self._giving[slot]
        if giver.tries <= len(PAUSES):
            giver.again = time.monotonic() + PAUSES[giver.tries - 1]
            return
        log.warning("upgrade: %s could not give all: %s", slot.name, why)
        self._ready(slot)

    def _meet(self, slot: Slot) -> bool:
        """It and a worker of the new program have an end of a pair each, another one at each try.
        False: there is no upgrade any more."""
        giver = self._giving[slot]
        giver.tries += 1
        try:
            one, other = pair()
        except OSError as error:
            self._try_again(slot, f"it cannot meet another: {plain(error)}")
            return True
        with one, other:
            if not self._say({"giver": slot.index + giver.tries - 1}, [one.fileno()]):
                return False
            # Who waits in a queue that the new program does not have is this one's.
            its = self._listening.of(self._children.workers.index(slot))
            dropped = [inode(sock) for sock in its if sock in self._dropped]
            order = {"ask": "give", "dropped": dropped}
            if not self._children.control.order(slot, order, [other.fileno()]):
                self._try_again(slot, "it does not read what it is told")
        return True
