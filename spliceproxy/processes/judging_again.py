"""Tunnels that live are judged by a new configuration, and end where it says no.

As an operator's look at them, that is done a few at a time, so that nobody's bytes wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from spliceproxy.errors import Denied, Failure
from spliceproxy.forward.services import Services
from spliceproxy.forward.tunnel import record_of
from spliceproxy.http1.errors import HeadError
from spliceproxy.http1.target import split_target
from spliceproxy.messages import log
from spliceproxy.observe.record import Record
from spliceproxy.policy.engine import Policy
from spliceproxy.policy.networks import UNKNOWN_PLACE
from spliceproxy.relay.interface import POLICY, FlowView

LOOK = 16
"""Tunnels that are looked at before the event loop goes on."""

TOLD = 100
"""Tunnels whose end is told one by one; of the others their number is."""


class _Head:
    """What is left of a tunnel's request: no fields, and no credentials."""

    def __init__(self, method: str, scheme: str, host: str, port: int, path: str) -> None:
        self.method = method
        self.scheme = scheme
        self.host = host
        self.port = port
        self.path = path
        self.fields: Sequence[tuple[bytes, bytes]] = ()

    def values(self, name: bytes) -> Sequence[bytes]:
        return ()


class JudgingAgain:
    """Of one worker."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """The configuration is another."""
        if self._task is not None:  # what it has not looked at yet, the next one does
            self._task.cancel()
        self._task = self._services.loop.create_task(self._judge())

    async def finish(self) -> None:
        """The worker ends."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _judge(self) -> None:
        services = self._services
        generation, policy, ended = services.generation, services.policy, 0
        for views in services.relay.flows(LOOK):
            for view in views:
                if view.tunnel and _generation(view) < generation:
                    ended += await self._look(view, policy, told=ended < TOLD)
            await asyncio.sleep(0)
        if ended > TOLD:
            log.info("tunnels that the new settings do not allow, and were ended: %d", ended)

    async def _look(self, view: FlowView, policy: Policy, *, told: bool) -> bool:
        """Whether it was ended."""
        record = record_of(view.token)
        notes = record or _record(view)
        try:
            place = view.place if record is None else _place(record, policy)
            why = await self._why(notes, policy, place)
        except Exception:
            log.exception("a tunnel could not be judged again, and goes on")
            return False
        if why is None or not self._services.relay.kill(view.ident, POLICY):
            return False
        if told:
            log.info(
                "a tunnel was ended, for the new settings do not allow it (%s): client %s, "
                "user %s, %s, generation %d",
                why,
                notes.client or "unix",
                notes.user or "-",
                notes.target,
                _generation(view),
            )
        return True

    async def _why(self, record: Record, policy: Policy, place: int) -> str | None:
        """What the settings have against it, None for nothing."""
        try:
            _, scheme, host, port, path = split_target(record.method, record.target)
        except HeadError:
            return None
        backend, own = self._services.config.default_backend, not host
        if own:
            if backend is None:
                return None
            host, port = backend
        notes = Record(record.client, record.started)
        notes.method, notes.target = record.method, record.target
        notes.host, notes.port = host, port
        head = _Head(record.method, scheme, host, port, path)
        try:
            peer = "" if record.route else record.peer
            user, mark = record.user, record.mark
            await policy.recheck(user, head, notes, peer, own=own, mark=mark, place=place)
        except Denied as denied:
            return f"rule {denied.rule}" if denied.rule else denied.reason
        except Failure:  # of a function, which tells it: that is no answer
            return None
        return None


def _generation(view: FlowView) -> int:
    record = record_of(view.token)
    return view.generation if record is None else record.generation


def _place(record: Record, policy: Policy) -> int:
    """The number of where its client has come in."""
    if record.listener is None:
        return UNKNOWN_PLACE if policy.places else 0
    return policy.places.get(record.listener.where, 0)


def _record(view: FlowView) -> Record:
    """Of a tunnel of the lane."""
    record = Record(view.client, view.started)
    record.mark, record.via = view.via[:1], view.via[1:]
    record.method, record.target = view.method, view.target
    record.user, record.peer, record.route = view.user, view.peer, view.route
    return record
