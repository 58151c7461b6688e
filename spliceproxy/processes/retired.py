"""Policies that decide nothing more, while something goes on that they have decided.

They hear of the ends of that (``on_close``), and what they still wait for is waited for. A policy
of which nothing goes on is finished.
"""

from __future__ import annotations

import asyncio

from spliceproxy.forward.services import Services
from spliceproxy.front.server import Server
from spliceproxy.messages import log
from spliceproxy.observe.record import Record
from spliceproxy.policy.engine import Policy

LOOK = 5.0
"""Seconds between two looks at what goes on. One takes some microseconds for a thousand flows."""


class Retired:
    """Of one proxy."""

    def __init__(self, services: Services, server: Server) -> None:
        self._services = services
        self._server = server
        self._policies: dict[int, Policy] = {}  # by their generation
        self._timer: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def add(self, generation: int, policy: Policy) -> None:
        """One that has decided until now; the services have another."""
        self._policies[generation] = policy
        self._watch()
        if self._timer is None:
            self._timer = self._services.loop.call_later(LOOK, self._look)

    async def finish(self) -> None:
        """The proxy ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        policies, self._policies = self._policies, {}
        for policy in policies.values():
            await policy.finish(self._services.policy)
        if self._ending:
            await asyncio.wait(self._ending)

    def _watch(self) -> None:
        """Who is told of the ends."""
        services = self._services
        current = services.policy
        if any(policy.watches for policy in self._policies.values()):
            services.records.watch = self._closed
        else:
            services.records.watch = current.closed if current.watches else None

    def _closed(self, record: Record) -> None:
        policy = self._policies.get(record.generation, self._services.policy)
        if policy.watches:
            policy.closed(record)

    def _look(self) -> None:
        self._timer = None
        try:
            live = self._live()
            for generation in [one for one in self._policies if one not in live]:
                self._end(self._policies.pop(generation))
            self._watch()
        except Exception:
            log.exception("what a former configuration has decided could not be looked at")
        if self._policies:
            self._timer = self._services.loop.call_later(LOOK, self._look)

    def _live(self) -> set[int]:
        """The generations of which something goes on."""
        services = self._services
        services.tunnels = +services.tunnels  # those that are not 0
        found = set(services.tunnels)
        found.update(cycle.so_far[0].generation for cycle in self._server.cycles())
        if services.lane is not None:
            found |= services.lane.generations()
        return found

    def _end(self, policy: Policy) -> None:
        task = self._services.loop.create_task(policy.finish(self._services.policy))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
