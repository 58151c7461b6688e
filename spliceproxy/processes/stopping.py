"""How the supervisor stops: first balancers notice, then the workers drain, and in the end those
that are left are killed.

A first stop signal begins it, and a second one stops at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from spliceproxy.messages import log
from spliceproxy.processes import children as of_children
from spliceproxy.processes.child import UNUSABLE
from spliceproxy.processes.children import Children
from spliceproxy.processes.signals import name_of
from spliceproxy.processes.state import State

AGAIN = 0.25
"""Seconds after a stop signal within which another one counts as the same. timeout(1) sends one to
its child and one to the group."""


class Stopping:
    """Of one supervisor."""

    def __init__(self, state: State, children: Children) -> None:
        self._state = state
        self._children = children
        self._left = False  # another program has the sockets, and no signal has come since
        self._stop_at = 0.0  # when the workers drain, time.monotonic()
        self._again = 0.0  # from when on a stop signal is a second one
        self._deadline = 0.0  # when workers that still drain are killed

    def moments(self) -> Iterable[float]:
        """When it goes on, time.monotonic()."""
        if self._state.stopping:
            return [self._deadline]
        return [self._stop_at] if self._state.draining else []

    def go_on(self) -> None:
        """Does what is due."""
        state, now = self._state, time.monotonic()
        if state.draining and not state.stopping and now >= self._stop_at:
            self.stop()
        if state.stopping and not state.killed and now >= self._deadline and self._children.work:
            log.error("workers did not end in time: killing them")
            self.kill(1)

    def on_signal(self, number: int) -> None:
        """One of those that stop it."""
        if self._left:
            # Whoever stops a whole group of processes does not know that this one ends anyway.
            self._left = False
            self._again = time.monotonic() + AGAIN
            log.info("%s: it drains already", name_of(number))
        elif not self._state.draining:
            self.drain(name_of(number))
        elif time.monotonic() >= self._again:
            log.warning("%s: stopping at once", name_of(number))
            self.kill(128 + number)

    def drain(self, why: str) -> None:
        """Stops, but lets balancers notice before, and requests and tunnels end."""
        times = self._state.config.timeouts
        if times.drain_delay:
            log.info("%s: draining in %g s, for at most %g s", why, times.drain_delay, times.drain)
        else:
            log.info("%s: draining for at most %g s", why, times.drain)
        self._state.draining = True
        self._again = time.monotonic() + AGAIN
        self._stop_at = time.monotonic() + times.drain_delay
        self._children.control.tell_admin({"state": "draining"})

    def leave(self, why: str) -> None:
        """Another program has the sockets: drains what is left."""
        log.info("%s: draining for at most %g s", why, self._state.config.timeouts.drain)
        self._left = True
        self._state.listening.give_away()
        if self._state.asked is not None:
            self._state.asked.give_away()
        self.stop()

    def stop(self) -> None:
        """No new clients."""
        if not self._state.draining:
            self._again = time.monotonic() + AGAIN
        self._state.draining = self._state.stopping = True
        self._deadline = time.monotonic() + self._state.config.timeouts.drain + of_children.GRACE
        self._children.drain()

    def unusable(self) -> None:
        """One of the first workers cannot work with these settings."""
        self._state.fail(UNUSABLE)
        if not self._state.stopping:
            self.stop()

    def kill(self, status: int) -> None:
        """At once, and with this exit status."""
        self._state.stopping = self._state.killed = True
        self._state.status = status
        self._children.kill()
