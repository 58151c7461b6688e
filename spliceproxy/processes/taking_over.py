"""This program takes over from another: its supervisor's part, from the start of its workers until
it is the main process (:mod:`spliceproxy.processes.succession` has the messages)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable

from spliceproxy.admin.channel import Closed, Message, close_all
from spliceproxy.messages import log
from spliceproxy.processes.child import UNUSABLE
from spliceproxy.processes.children import Children
from spliceproxy.processes.control import raises_sigio
from spliceproxy.processes.listeners import ListenError
from spliceproxy.processes.orders import Orders
from spliceproxy.processes.parcels import Nonsense
from spliceproxy.processes.reopening import Reopening
from spliceproxy.processes.slot import Slot
from spliceproxy.processes.state import State
from spliceproxy.processes.stopping import Stopping
from spliceproxy.processes.succession import Inherited, Predecessor
from spliceproxy.relay import columns


class TakingOver:
    """Of one supervisor. ``main`` is called when this is the main process."""

    def __init__(
        self,
        state: State,
        children: Children,
        orders: Orders,
        stopping: Stopping,
        reopening: Reopening,
        predecessor: Predecessor,
        main: Callable[[], None],
    ) -> None:
        self._state = state
        self._children = children
        self._stopping = stopping
        self._reopening = reopening
        self._predecessor = predecessor
        self._line = predecessor.line
        self._main = main
        self._inherited = Inherited(state.board)
        self._ready: set[int] = set()  # processes of workers that wait
        self._told = self._serves = self._is_main = self._closed = False
        state.busy = "this program has not taken over yet"
        children.waiting, children.admin_wanted = True, False
        children.serial = predecessor.serial
        state.generation = predecessor.generation + 1
        state.board.base[columns.GENERATION] = state.generation
        raises_sigio(self._line.fileno())
        children.forked.append(self._line.close)  # or the other would not see our end
        orders.heard.append(self._hear)
        orders.saying("ready", self._on_ready)
        for key in ("took", "gave", "kept"):  # also where the program that runs goes on
            orders.saying(key, lambda slot, message: False)
        reopening.others.append(self._reopen)
        self._due = 0.0

    def moments(self) -> Iterable[float]:
        """When it goes on, time.monotonic()."""
        return [self._due] if self._due < math.inf else []

    def go_on(self) -> None:
        """Does what is due."""
        if self._due == 0.0:  # what came before this process was told of messages
            self._due = math.inf
            self._hear()
        if self._state.draining and not self._closed and not self._is_main:
            self._refuse()

    def _refuse(self) -> None:
        why = "it was told to stop"
        if self._state.status == UNUSABLE:
            why = "a worker cannot work with its settings; its messages say why"
        self._predecessor.refuse(why)
        self._close()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._line.close()

    def _on_ready(self, slot: Slot, message: Message) -> bool:
        if self._serves:
            return False
        self._ready.add(slot.pid)
        if not self._told and all(one.pid in self._ready for one in self._children.workers):
            self._told = True
            if self._closed:
                self._serve()
                self._become_main()
            else:
                self._say({"ready": len(self._children.workers)})
        return True

    def _say(self, message: Message) -> None:
        try:
            self._line.send(message)
        except (Closed, OSError):
            pass  # its end is seen where it is read

    # ---- what the other says -----------------------------------------------------------

    def _hear(self) -> None:
        while not self._closed:
            try:
                parcel = self._line.receive()
            except Nonsense:
                log.error("the program that runs said what nobody understands")
                continue
            except Closed:
                self._alone()
                return
            if parcel is None:
                return
            self._on_message(dict(parcel.head), parcel.fds)

    def _on_message(self, message: Message, fds: list[int]) -> None:
        if "giver" in message:
            self._introduce(int(message["giver"]), fds)
        close_all(fds)
        if "go" in message:
            self._serve()
        elif "reopen" in message:
            self._reopening.do()
        elif "counts" in message:
            self._inherited.add(message["counts"])
        elif "done" in message:
            self._become_main()
        elif "cancelled" in message:
            self._close()
            log.error("the program that runs goes on: %s", message["cancelled"])
            if not self._state.stopping:
                self._state.fail(1)
                self._stopping.stop()

    def _introduce(self, index: int, fds: list[int]) -> None:
        """Who gives meets the worker that takes."""
        workers = self._children.workers
        if not self._children.control.order(workers[index % len(workers)], {"ask": "take"}, fds):
            log.warning("a worker does not read what it is told")

    def _reopen(self) -> None:
        """The log is opened anew, also by what drains behind this program: nobody else tells it."""
        if self._is_main and not self._closed:
            self._say({"reopen": True})

    def _alone(self) -> None:
        """The other has ended: without a word, if this is not the main process yet."""
        self._close()
        if self._is_main or self._state.draining:
            return
        log.error("the program that ran before has ended, and this one goes on")
        if self._told:
            self._serve()
            self._become_main()

    def _serve(self) -> None:
        """The workers accept clients."""
        if not self._serves:
            try:
                self._state.listening.open()
            except ListenError as error:
                log.error("%s", error)
                if not self._closed:  # who says that it is not wanted
                    self._predecessor.refuse(str(error))
                    return
            self._serves = True
            self._children.waiting = False
            self._children.control.tell_workers({"ask": "serve"})

    def _become_main(self) -> None:
        if not self._is_main:
            self._is_main = True
            self._state.busy = ""
            self._children.admin_wanted = True
            for one in (self._state.listening, self._state.asked):
                if one is not None:
                    one.claim()
            log.info("this program has taken over, as process %d", os.getpid())
            self._main()
