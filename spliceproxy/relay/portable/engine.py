"""The engines in plain Python: one that copies, and one that splices with os.splice."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from time import monotonic
from typing import TYPE_CHECKING

from spliceproxy.relay import columns
from spliceproxy.relay.checking import NameCheck
from spliceproxy.relay.interface import (
    ABORTED,
    CHUNK,
    KILLED,
    SPLICE_MIN,
    STEP_SECONDS,
    FlowView,
    RelayOptions,
    RelayStats,
    TransferEnd,
    TunnelEnd,
)
from spliceproxy.relay.lane import LaneOptions, LaneOwner
from spliceproxy.relay.portable.moves import COPY, SPLICE, Copier, Splicer
from spliceproxy.relay.portable.pipes import PipePool
from spliceproxy.relay.portable.shared import Shared
from spliceproxy.relay.portable.transfer import Transfer
from spliceproxy.relay.portable.tunnel import Tunnel

if TYPE_CHECKING:
    from spliceproxy.relay.meters import Meters, Portable
    from spliceproxy.relay.moving import FrozenTransfer, FrozenTunnel, TunnelState

BATCH = 32  # events of one epoll_wait
DEADLINES_PER_STEP = 256


class CopyRelay:
    """Moves all bytes with recv(2) and send(2). See interface.Relay for the methods."""

    engine = "copy"

    def __init__(self, options: RelayOptions) -> None:
        self._row = columns.private() if options.row is None else options.row
        self._shared = Shared(options, self._mover(options), self._row)
        self._idents = count(1)
        self._closed = False

    def _mover(self, options: RelayOptions) -> Copier:
        return Copier(self._row)

    def lane(self, options: LaneOptions, owner: LaneOwner) -> None:
        return None

    def counting(self, meters: Meters, row: int) -> Portable:
        return meters.portable(row)

    def fileno(self) -> int:
        return self._shared.poller.fileno()

    def tunnel(
        self,
        client: int,
        origin: int,
        to_origin: bytes,
        to_client: bytes,
        token: object,
        check: NameCheck | None = None,
    ) -> int:
        now = monotonic()
        socks = _adopt(client, origin)
        early, ident = (to_origin, to_client), next(self._idents)
        flow = Tunnel(self._shared, ident, token, socks, early, now, check)
        flow.start(now)
        self._shared.poller.reap()
        return flow.ident

    def transfer(
        self, source: int, target: int, length: int, token: object, to_client: bool = False
    ) -> int:
        if length < -1:
            raise ValueError(f"length {length}: not a number of bytes or -1")
        now = monotonic()
        socks = _adopt(source, target)
        mode = SPLICE if length >= SPLICE_MIN else COPY
        flow = Transfer(
            self._shared, next(self._idents), token, socks, length, mode, now, to_client=to_client
        )
        flow.start(now)
        self._shared.poller.reap()
        return flow.ident

    def cancel(self, ident: int) -> TransferEnd | None:
        flow = self._shared.flows.get(ident) or self._shared.frozen.get(ident)
        if isinstance(flow, Transfer):
            flow.abort()
            self._shared.poller.reap()
        end = self._shared.ends.get(ident, (None, None))[1]
        if not isinstance(end, TransferEnd):
            return None
        del self._shared.ends[ident]
        return end

    def abort(self, ident: int) -> None:
        flow = self._shared.flows.get(ident)
        if isinstance(flow, Tunnel):
            flow.end(ABORTED)
            self._shared.poller.reap()

    def progress(self, ident: int) -> tuple[int, int, int, int, str] | None:
        flow = self._tunnel(ident)
        return None if flow is None else flow.progress()

    def _tunnel(self, ident: int) -> Tunnel | None:
        """The tunnel with this id, frozen or not."""
        flow = self._shared.flows.get(ident) or self._shared.frozen.get(ident)
        return flow if isinstance(flow, Tunnel) else None

    def limits(self, idle: float, half_close: float, tls_name: float) -> None:
        self._shared.options = self._shared.options._replace(
            idle=idle, half_close=half_close, tls_name=tls_name
        )
        now = monotonic()
        for flow in self._shared.flows.values():
            self._shared.deadlines.set(flow, now)  # it is looked at, and sets the next one

    def kill(self, ident: int, reason: str = KILLED) -> bool:
        flow = self._shared.flows.get(ident)
        if not isinstance(flow, Tunnel):
            return False
        flow.end(reason)
        self._shared.poller.reap()
        return True

    def flows(self, most: int) -> Iterator[list[FlowView]]:
        shared = self._shared
        idents = iter(list(shared.flows))
        while some := list(islice(idents, most)):
            now = monotonic()
            tunnels = [flow for one in some if isinstance(flow := shared.flows.get(one), Tunnel)]
            yield [flow.view(now) for flow in tunnels]

    def pace(self, ident: int, up: int, down: int) -> bool:
        flow = self._tunnel(ident)
        if flow is not None:
            flow.pace(up, down)
        return flow is not None

    def abort_all(self) -> None:
        for flow in list(self._shared.flows.values()):
            if isinstance(flow, Tunnel):
                flow.end(ABORTED)
        self._shared.poller.reap()

    def movable(self) -> list[int]:
        flows = self._shared.flows
        return [ident for ident, flow in flows.items() if isinstance(flow, Tunnel)]

    def freeze(self, ident: int) -> FrozenTunnel | None:
        flow = self._shared.flows.get(ident)
        return flow.freeze() if isinstance(flow, Tunnel) else None

    def freeze_transfer(self, ident: int) -> FrozenTransfer | None:
        flow = self._shared.flows.get(ident)
        return flow.freeze() if isinstance(flow, Transfer) else None

    def thaw(self, ident: int) -> bool:
        flow = self._shared.frozen.get(ident)
        if not isinstance(flow, (Tunnel, Transfer)):
            return False
        flow.thaw(monotonic())
        self._shared.poller.reap()
        return True

    def release(self, ident: int) -> bool:
        flow = self._shared.frozen.get(ident)
        if not isinstance(flow, (Tunnel, Transfer)):
            return False
        flow.release()
        return True

    def adopt(self, state: TunnelState, fds: Sequence[int], token: object) -> int:
        from spliceproxy.relay.moving import check, check_descriptors

        check(state)
        check_descriptors(state, fds)
        socks = _adopt(fds[0], fds[1])
        flow = Tunnel(self._shared, next(self._idents), token, socks, (b"", b""), monotonic())
        try:
            flow.take(state, fds[2:])
        except BaseException:
            for sock in socks:
                sock.detach()
            raise
        return flow.ident

    @property
    def tunnels(self) -> int:
        shared = self._shared
        ended = sum(isinstance(end, TunnelEnd) for _, end in shared.ends.values())
        return shared.tunnels + ended

    @property
    def clients(self) -> int:
        return 0

    def step(self) -> list[tuple[object, object]]:
        shared = self._shared
        row = self._row
        row[columns.RELAY_STEPS] += 1
        if not self._closed:
            start = now = monotonic()
            self._wake_due(now)
            mover = shared.mover
            while True:
                before = mover.moved
                events = shared.poller.wait(BATCH)
                row[columns.RELAY_EVENTS] += len(events)
                for entry, mask in events:
                    leg = shared.poller.leg(entry)
                    if leg is not None:
                        leg.flow.event(leg, mask, now)
                shared.poller.reap()
                now = monotonic()
                if now - start >= STEP_SECONDS:
                    break
                # A batch that is not full was all there was; but by the time that much
                # has been moved there is more.
                if len(events) < BATCH and mover.moved - before < CHUNK:
                    break
        if not shared.ends:
            return []
        ends: list[tuple[object, object]] = list(shared.ends.values())
        shared.ends.clear()
        return ends

    def reader(
        self, report: Callable[[list[tuple[object, object]]], None], stuck: Callable[[], None]
    ) -> Callable[[], None]:
        def read() -> None:
            try:
                ends = self.step()
            except MemoryError:
                stuck()
                return
            report(ends)

        return read

    def next_wake(self) -> float | None:
        if self._shared.ends:
            return 0.0
        when = self._due()
        return None if when is None else max(0.0, when - monotonic())

    def stats(self) -> RelayStats:
        shared, row = self._shared, self._row
        return RelayStats(
            tunnels=shared.tunnels,
            transfers=shared.transfers,
            pipes_lent=0,
            pipes_idle=0,
            copied=row[columns.IN_COPIED] + row[columns.OUT_COPIED],
            spliced=row[columns.IN_SPLICED] + row[columns.OUT_SPLICED],
            pipe_starved=row[columns.PIPE_STARVED],
            splice_fallbacks=row[columns.SPLICE_FALLBACKS],
            urgent_stalls=row[columns.URGENT],
            events=row[columns.RELAY_EVENTS],
            steps=row[columns.RELAY_STEPS],
        )

    def dump(self, most: int) -> str:
        now = monotonic()
        flows = self._shared.flows
        stats = self.stats()
        lines = [
            f"{self.engine}: tunnels={stats.tunnels} transfers={stats.transfers} "
            f"ended={len(self._shared.ends)} pipes={stats.pipes_lent}+{stats.pipes_idle} "
            f"copied={stats.copied} spliced={stats.spliced} events={stats.events} "
            f"steps={stats.steps}"
        ]
        lines += (flow.describe(now) for flow in islice(flows.values(), most))
        if len(flows) > most:
            lines.append(f"... {len(flows) - most} more")
        return "\n".join(lines) + "\n"

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for flow in list(self._shared.flows.values()):
            if isinstance(flow, Tunnel):
                flow.end(ABORTED)
            elif isinstance(flow, Transfer):
                flow.drop()
        for ident in list(self._shared.frozen):
            self.release(ident)
        self._shared.poller.reap()
        self._shared.poller.close()

    def _due(self) -> float | None:
        return self._shared.deadlines.next(self._shared.flows)

    def _wake_due(self, now: float) -> None:
        shared = self._shared
        for _ in range(DEADLINES_PER_STEP):
            when = shared.deadlines.next(shared.flows)
            if when is None or when > now:
                break
            shared.flows[shared.deadlines.pop()].wake(now)


class SpliceRelay(CopyRelay):
    """Copies small messages and splices bulk data. See interface.Relay for the methods."""

    engine = "splice"

    def _mover(self, options: RelayOptions) -> Copier:
        self._pool = PipePool(options.max_pipes, options.shares)
        return Splicer(self._row, self._pool)

    def stats(self) -> RelayStats:
        return super().stats()._replace(pipes_lent=self._pool.lent, pipes_idle=self._pool.idle)

    def close(self) -> None:
        super().close()
        self._pool.close()

    def _due(self) -> float | None:
        first = super()._due()
        sweep = self._pool.due()
        if first is None or sweep is None:
            return sweep if first is None else first
        return min(first, sweep)

    def _wake_due(self, now: float) -> None:
        super()._wake_due(now)
        self._pool.sweep(now)


def _adopt(first: int, second: int) -> tuple[socket.socket, socket.socket]:
    """Socket objects for two descriptors. OSError (not a socket): neither was touched."""
    one = socket.socket(fileno=first)
    try:
        return one, socket.socket(fileno=second)
    except OSError:
        one.detach()
        raise
