"""The service manager hears what becomes of the proxy (sd_notify(3)), where one has started it.

    READY=1                          every worker serves
    RELOADING=1, MONOTONIC_USEC=N    settings are read anew; READY=1 behind it, also where they
                                     were refused: systemd waits for it
    STOPPING=1                       it drains
    EXTEND_TIMEOUT_USEC=N            and that takes so long: TimeoutStopSec may be shorter
    MAINPID=N                        another program has taken over, which the manager has to know
                                     before this one ends
    STATUS=...                       a sentence
    WATCHDOG=1                       every worker has answered

Only the main process says anything: a program that takes over does so when it has.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from spliceproxy.config import NOTIFY_VARIABLE
from spliceproxy.messages import log
from spliceproxy.processes import notify
from spliceproxy.processes.alive import Alive
from spliceproxy.processes.children import GRACE, LEAVE_SECONDS, Children
from spliceproxy.processes.orders import Orders
from spliceproxy.processes.reloading import Reloading
from spliceproxy.processes.state import State
from spliceproxy.relay import columns

AGAIN = 0.1
"""Seconds until a worker is asked again that has answered, but does not serve yet; and until what
found no room is sent again."""

STOP_SECONDS = 2 * LEAVE_SECONDS
"""What is left to be done when no worker is left to drain."""


class Service:
    """Of one supervisor. ``main``: this is the main process from the start."""

    def __init__(
        self,
        state: State,
        children: Children,
        orders: Orders,
        reloading: Reloading,
        sender: notify.Sender,
        *,
        main: bool,
    ) -> None:
        self._state = state
        self._children = children
        self._sender = sender
        self._alive = Alive(children, orders)
        self._main = main
        self._ready = self._stopping = self._reloading = False
        self._last = ""  # the last reload, in words
        self._said = ""  # the last sentence
        self._ask_at = 0.0  # when workers are asked next, time.monotonic()
        self._watchdog = 0.0  # seconds between two signs of life
        self._asked_at = 0.0  # when they were asked, 0.0 if the sign of life was given
        try:
            self._watchdog = notify.watchdog(os.environ) / 2
        except ValueError as error:
            log.warning("%s", error)
        children.forked.append(self._forked)
        reloading.begins.append(self._reload_begins)
        reloading.ended.append(self._reload_ended)

    # ---- what changes ------------------------------------------------------------------

    def become_main(self) -> None:
        """The program that was there before has left."""
        self._main = True

    def main_changes(self, pid: int) -> None:
        """Process ``pid`` is the main one from here on. The manager has to hear it from this one,
        for it listens to no other yet."""
        self._say(f"MAINPID={pid}", notify.status(f"process {pid} has taken over"))
        self._main = False

    def _reload_begins(self) -> None:
        if self._main and self._ready:
            self._reloading = True
            # One datagram: systemd compares the time with that of its signal.
            self._sender.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def _reload_ended(self, reason: str) -> None:
        self._last = (
            f"the last reload was refused: {reason}" if reason else "the last reload is in force"
        )
        if self._reloading:
            self._reloading = False
            self._said = self._sentence()
            self._say("READY=1", notify.status(self._said))

    def _forked(self) -> None:
        """In a child."""
        self._sender.close()
        for name in notify.VARIABLES:
            os.environ.pop(name, None)

    def _say(self, *lines: str) -> None:
        if self._main:
            self._sender.send(*lines)

    # ---- a part of the supervisor ------------------------------------------------------

    def moments(self) -> Iterable[float]:
        """When it goes on, time.monotonic()."""
        found = [time.monotonic() + AGAIN] if self._sender.waits else []
        if not self._main:
            return found
        if not self._ready:
            found.append(0.0 if self._alive.unasked else self._ask_at)
        elif self._watchdog:
            found.append(self._ask_at)
        return found

    def go_on(self) -> None:
        """Does what is due."""
        self._sender.flush()
        if not self._main:
            return
        if self._state.draining:
            self._stop()
        elif not self._ready:
            self._look_if_ready()
        if self._ready and self._watchdog:
            self._watch()
        if self._ready and not self._reloading:
            self._tell_status()

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = self._ready = True
            self._said = self._sentence()
            times = self._state.config.timeouts
            seconds = times.drain_delay + times.drain + GRACE + STOP_SECONDS
            extended = f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}"
            self._say("STOPPING=1", extended, notify.status(self._said))

    def _look_if_ready(self) -> None:
        workers, now = self._children.workers, time.monotonic()
        if all(self._serves(slot.row) and self._alive.answered(slot) for slot in workers):
            self._ready, self._ask_at = True, now
            self._said = self._sentence()
            self._say("READY=1", notify.status(self._said))
        elif now >= self._ask_at or self._alive.unasked:
            self._ask_at = now + AGAIN
            self._alive.ask()

    def _serves(self, row: int) -> bool:
        return bool(self._state.board.row(row)[columns.UP])

    def _watch(self) -> None:
        now = time.monotonic()
        if now >= self._ask_at:
            self._ask_at = now + self._watchdog
            self._asked_at = now
            self._alive.ask()
        elif self._alive.unasked:  # it has its place since then, and may be older than that
            self._alive.ask()
        if self._asked_at and (self._stopping or self._alive.all_since(self._asked_at)):
            self._asked_at = 0.0
            self._say("WATCHDOG=1")

    def _tell_status(self) -> None:
        sentence = self._sentence()
        if sentence != self._said:
            self._said = sentence
            self._say(notify.status(sentence))

    def _sentence(self) -> str:
        there = sum(bool(slot.pid) for slot in self._children.each_worker)
        workers = f"{there} worker{'' if there == 1 else 's'}"
        if self._state.draining:
            drain = self._state.config.timeouts.drain
            return f"draining for at most {drain:g} s: {workers}"
        last = f"; {self._last}" if self._last else ""
        return f"serving: {workers}, generation {self._state.generation}{last}"


def of_environment(
    state: State, children: Children, orders: Orders, reloading: Reloading, *, main: bool
) -> Service | None:
    """For the manager that the environment names; None if it cannot be told."""
    try:
        sender = notify.Sender(os.environ[NOTIFY_VARIABLE])
    except ValueError as error:
        log.warning("%s", error)
        return None
    return Service(state, children, orders, reloading, sender, main=main)
