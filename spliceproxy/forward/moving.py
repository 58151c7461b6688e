"""What lives in one process, and goes on in another, with all that is known of it.

:mod:`relay.moving` says in which steps that is. A tunnel's record goes along, so that the process
that sees its end writes the line, and tells ``on_close``. One that the lane has made is Python's
afterwards: it has the same bytes and ends, and the same line. A request of the lane that has been
sent goes on in the other process as one that the lane there has given back.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from spliceproxy.config import Address
from spliceproxy.forward import moving_facts as facts
from spliceproxy.forward import tunnel
from spliceproxy.forward.moving_requests import Running
from spliceproxy.forward.services import Services
from spliceproxy.observe.record import Record
from spliceproxy.relay import encoding
from spliceproxy.relay.encoding import TUNNEL, TUNNEL_DATA, Kind
from spliceproxy.relay.encoding_handoff import DATA, HANDOFF, handoff_of, of_handoff
from spliceproxy.relay.handoff import Handoff
from spliceproxy.relay.moving import FrozenExchange, FrozenTunnel, TunnelState

_TUNNEL = "tunnel"
_EXCHANGE = "exchange"

KINDS: Mapping[str, Kind] = {
    _TUNNEL: Kind(TUNNEL, facts.RECORD, TUNNEL_DATA),
    _EXCHANGE: Kind(HANDOFF, facts.KNOWN, DATA),
}


_REQUESTS = 1 << 64
"""The ids of requests that Python serves begin here, beyond those of the relay."""


class Frozen(NamedTuple):
    """What has to be brought to another process. ``fds`` are those of the client and of the origin,
    and both ends of each pipe with bytes in it; they stay this process's. ``state`` has at most
    ``relay.encoding.MOST`` bytes."""

    fds: tuple[int, ...]
    state: bytes


class Moving:
    """Of one worker. ``serve`` goes on with a client that another process has served. ``running``
    are the requests that Python serves just now, with their numbers. All is of the
    event loop's thread, and nothing is to be called while the relay makes a step."""

    def __init__(
        self,
        services: Services,
        serve: Callable[[Handoff], None],
        running: Callable[[], Iterable[tuple[int, Running]]] = tuple,
    ) -> None:
        self._services = services
        self._relay = services.relay
        self._serve = serve
        self._running = running
        self._requests: dict[int, Running] = {}  # by ids that are no others'
        self._frozen_requests: dict[int, Running] = {}
        # Tunnels that are frozen here: the record, None of the lane's; and whether it was adopted.
        self._tunnels: dict[int, tuple[Record | None, bool]] = {}
        # Requests that were adopted, by negative ids: those of the relay are not.
        self._exchanges: dict[int, Handoff] = {}
        self._idents = count(-1, -1)

    def movable(self) -> list[int]:
        """The ids of what could be frozen now. Each may have ended before it is."""
        self._requests = {_REQUESTS + number: one for number, one in self._running()}
        return [*self._relay.movable(), *self._requests]

    def freeze(self, ident: int) -> Frozen | None:
        """Stops it here. None: it has ended, or cannot move now. What it owns stays here until
        :meth:`release`."""
        if ident >= _REQUESTS:
            return self._freeze_request(ident)
        found = self._relay.freeze(ident)
        if found is None:
            return None
        try:
            state = encoding.encode(*self._said(found))
        except BaseException:
            self._relay.thaw(ident)
            raise
        if len(state) > encoding.MOST or self._stays(found):
            self._relay.thaw(ident)
            return None
        if isinstance(found, FrozenTunnel):
            record = tunnel.record_of(found.token)
            if record is not None and record.holding is not None:
                record.holding.account(_moved(found.state))  # what follows is another's to count
            self._tunnels[ident] = record, False
        return Frozen(found.fds, state)

    def _stays(self, found: FrozenTunnel | FrozenExchange) -> bool:
        """Whether something in this process is a part of a tunnel."""
        record = tunnel.record_of(found.token) if isinstance(found, FrozenTunnel) else None
        return record is not None and record.hop is not None and record.hop.stays

    def _freeze_request(self, ident: int) -> Frozen | None:
        one = self._requests.pop(ident, None)
        found = one.freeze() if one is not None else None
        if one is None or found is None:
            return None
        try:
            state, data = of_handoff(found.handoff)
            text = encoding.encode(_EXCHANGE, state, found.facts, data)
        except BaseException:
            one.thaw()
            raise
        if len(text) > encoding.MOST:
            one.thaw()
            return None
        self._frozen_requests[ident] = one
        return Frozen(found.fds, text)

    def _said(
        self, found: FrozenTunnel | FrozenExchange
    ) -> tuple[str, dict[str, Any], dict[str, Any], list[bytes]]:
        services = self._services
        allowed = services.counts.allowed
        if isinstance(found, FrozenExchange):
            state, data = of_handoff(found.handoff)
            known = facts.of_exchange(found, allowed, self._limits(found.lane.entries))
            return _EXCHANGE, state, known, data
        if found.lane is not None:
            summed = found.state if services.records.tally is not None else None
            record = facts.record_of_lane(found.lane, summed, allowed)
            entries = found.lane.entries
        else:
            record = tunnel.record_of(found.token) or Record("")
            meters = () if record.holding is None else record.holding.meters
            entries = tuple(meter.place.entry for meter in meters)
        state, data = encoding.of_tunnel(found.state)
        return _TUNNEL, state, facts.of_record(record, self._limits(entries)), data

    def _limits(self, entries: Sequence[int]) -> list[str]:
        """The ids of those that count in these entries. A function may have named some of them, so
        nobody could tell by the request alone."""
        limiting = self._services.limiting
        found = () if limiting is None else map(limiting.limits.at, entries)
        return list({limit.id: None for limit in found if limit is not None})

    def thaw(self, ident: int) -> None:
        """It goes on here."""
        if ident >= _REQUESTS:
            one = self._frozen_requests.pop(ident, None)
            if one is not None:
                one.thaw()
            return
        handoff = self._exchanges.pop(ident, None)
        if handoff is not None:
            self._serve(handoff)
            return
        record, adopted = self._tunnels.pop(ident, (None, False))
        if adopted and record is not None:
            self._services.tunnels[record.generation] += 1
            if record.route and self._services.asking.parents is not None:
                self._services.asking.parents.take_over(record)
            if self._services.lives is not None:
                self._services.lives.go_on(ident, record)
        self._relay.thaw(ident)

    def release(self, ident: int) -> None:
        """It goes on elsewhere, or is not taken over after all: our descriptors are closed, without
        any effect on the connections."""
        if ident >= _REQUESTS:
            one = self._frozen_requests.pop(ident, None)
            if one is not None:
                one.release()
            return
        handoff = self._exchanges.pop(ident, None)
        if handoff is not None:
            handoff.close()
            return
        record, adopted = self._tunnels.pop(ident, (None, False))
        if not adopted and record is not None:
            self._services.tunnels[record.generation] -= 1
            if record.hop is not None:
                record.hop.left()
            if record.holding is not None:
                record.holding.release()
            if self._services.lives is not None:
                self._services.lives.end(record)
        self._relay.release(ident)

    def adopt(self, state: bytes, fds: Sequence[int]) -> int:
        """What another process has frozen is frozen here, too; its id here. The descriptors are
        this process's from now on. Unmovable, OSError, MemoryError: they are still the
        caller's."""
        said = encoding.decode(state, KINDS)
        if said.kind == _EXCHANGE:
            handoff = handoff_of(said.state, said.data, fds)
            facts.decide(handoff, said.facts)
            ident = next(self._idents)
            self._exchanges[ident] = handoff
            self._skip(handoff.number)
            return ident
        record = facts.record_of(said.facts)
        record.listener = self._listener(fds[0])
        record.decision = self._services.counts.allowed.get(record.allowed_by, 0)
        ended = tunnel.token_of(self._services, record)
        state_of = encoding.tunnel_of(said.state, said.data)
        ident = self._relay.adopt(state_of, fds, ended)
        self._tunnels[ident] = record, True
        limiting = self._services.limiting
        if limiting is not None:
            holding = record.holding = limiting.holding({})
            limits = said.facts["limits"]
            limiting.go_on(record, record.method, record.peer, holding, limits)
            holding.counted = _moved(state_of)
        tunnel.pace(self._services, ident, record)
        self._skip(record.number)
        return ident

    def _listener(self, fd: int) -> Address | None:
        """Where the client of this connection has come in."""
        sock = socket.socket(fileno=fd)
        try:
            return self._services.listener(sock)
        finally:
            sock.detach()

    def _skip(self, number: int) -> None:
        """No later request has the number of one that has come from elsewhere."""
        self._services.records.skip(number)
        if self._services.lane is not None:
            self._services.lane.skip(number)


def _moved(state: TunnelState) -> int:
    """Bytes, both ways."""
    return sum(way.copied + way.spliced for way in (state.up, state.down))
