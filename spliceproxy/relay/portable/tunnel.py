"""A tunnel: bytes both ways between a client and an origin, until both have ended.

Side 0 is the client, side 1 the origin. Way 0 reads side 0 and writes side 1, way 1 the
other way round. A side is *dead* when a read or a write of its socket has failed, or when it
has left: closed its socket, which only Unix sockets tell. That is once and for all.

    OPEN ── FIN of one side ──► HALF ── FIN of the other ──► over
      │                          │
      └──── a side is dead ──────┴──► DRAIN ── all is sent ──► ACK ── all is acknowledged ──► over

    phase   what holds                                      limit without a byte
    OPEN    both sides may still send                       idle
    HALF    FIN of one side was passed on to the other,     half_close
            which may still send
    DRAIN   what the dead side had sent before goes to      half_close
            the living one, which is read no more
    ACK     the living side has been sent all of it         ACK_PATIENCE (net.tcp)

How a tunnel ends:

    FIN of both sides               DONE, both closed
    a side has left                 DONE, both closed, after ACK
    a side fails                    CLIENT_RESET or ORIGIN_RESET, both reset, after DRAIN and
                                    ACK. A reset that overtakes data would lose it, and a FIN
                                    would make a stream that was cut short look whole
    the other side fails, too       at once, both reset; named after the side that failed first,
                                    which is not one that has left
    idle or half_close is over      IDLE, HALF_CLOSE: both reset; in DRAIN as when a side fails
    abort, kill                     ABORTED, KILLED or POLICY, both reset
    what its client says first      TLS_NAME, both reset: while there is a gate (gate.py) nothing of
    is refused                      that goes on, and it has a time limit of its own

With a dead side a read of 0 is no FIN: after a reset the kernel says 0 as well.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from errno import EPIPE
from time import monotonic
from typing import TYPE_CHECKING

from spliceproxy.net import tcp
from spliceproxy.relay import columns
from spliceproxy.relay.checking import ADDRESS, LATE, MISMATCH, PASSED, REFUSED, NameCheck
from spliceproxy.relay.interface import (
    CLIENT_RESET,
    DONE,
    HALF_CLOSE,
    IDLE,
    ORIGIN_RESET,
    REASONS,
    TLS_NAME,
    FlowView,
    TunnelEnd,
)
from spliceproxy.relay.portable.gate import Gate
from spliceproxy.relay.portable.moves import BLOCKED, OVER, READY, SOURCE_FAILED, SPLICE, Way
from spliceproxy.relay.portable.pipes import Pipe
from spliceproxy.relay.portable.poller import ERR, GONE, HUP, IN, OUT, Leg
from spliceproxy.relay.portable.shared import Shared
from spliceproxy.relay.portable.waits import end_wait, silent_side, waits_of

if TYPE_CHECKING:
    from spliceproxy.relay.moving import FrozenTunnel, TunnelState

# Phases, in the order in which a tunnel goes through some of them.
OPEN = 0
HALF = 1
DRAIN = 2
ACK = 3

PHASES = ("open", "half", "drain", "ack")

# Which side is dead.
NOBODY = -1
CLIENT = 0
ORIGIN = 1
BOTH = 2

SIDES = ("client", "origin", "both")

RESETS = (CLIENT_RESET, ORIGIN_RESET)


class Tunnel:
    """Takes both sockets; they are closed when it has ended."""

    __slots__ = (
        "_dead",
        "_errno",
        "_flight",
        "_found",
        "_gate",
        "_legs",
        "_phase",
        "_queue",
        "_reason",
        "_shared",
        "_spoke",
        "_token",
        "_ways",
        "due",
        "ident",
    )

    def __init__(
        self,
        shared: Shared,
        ident: int,
        token: object,
        socks: tuple[socket.socket, socket.socket],
        early: tuple[bytes, bytes],
        now: float,
        check: NameCheck | None = None,
    ) -> None:
        client, origin = socks
        up = Way(client, origin, -1, now)
        down = Way(origin, client, -1, now, to_client=True)
        self._found = ADDRESS if check is not None and not check.name else ""
        self._flight = b""  # what was refused for the name in it
        self._gate = Gate(check) if check is not None and check.name else None
        if self._gate is None:
            up.hold(early[0])
        else:
            self._gate.data += early[0]  # until it starts
        down.hold(early[1])
        self.ident = ident
        self.due = 0.0
        self._shared = shared
        self._token = token
        self._ways = (up, down)
        self._legs = (Leg(self, client, up, down), Leg(self, origin, down, up))
        self._phase = OPEN
        self._dead = NOBODY
        self._spoke = CLIENT if early[0] else ORIGIN  # whose bytes were the last
        self._reason = DONE  # what a dead side will have ended it with
        self._errno = 0  # of the first failure
        self._queue: tcp.SendQueue | None = None  # of the living side, in ACK

    def describe(self, now: float) -> str:
        """For :meth:`Relay.dump`."""
        up, down = self._ways
        client, origin = (leg.sock.fileno() for leg in self._legs)
        dead = "" if self._dead == NOBODY else f" dead={SIDES[self._dead]} error={self._errno}"
        return (
            f"{self.ident} tunnel phase={PHASES[self._phase]} fd={client},{origin} "
            f"up({up.describe()}) down({down.describe()}) "
            f"rests={now - max(up.active, down.active):.3f} due={self.due - now:.3f}{dead}"
        )

    def view(self, now: float) -> FlowView:
        """For :meth:`Relay.flows`."""
        up, down = self._ways
        client, origin = (tcp.round_trip(leg.sock) for leg in self._legs)
        return FlowView(
            self.ident, 0, True, "tunnel", self._token, "", "", "", "", "", "", 0, 0.0,
            now - max(up.active, down.active), up.copied, up.spliced, down.copied, down.spliced,
            SPLICE in (up.mode, down.mode), client, origin,
        )  # fmt: skip

    def pace(self, up: int, down: int) -> None:
        """As interface.Relay.pace."""
        client, origin = (leg.sock for leg in self._legs)
        tcp.pace(origin, up)
        tcp.pace(client, down)

    def progress(self) -> tuple[int, int, int, int, str]:
        """As :meth:`Relay.progress`."""
        up, down = self._ways
        return up.copied, up.spliced, down.copied, down.spliced, self._found

    def start(self, now: float) -> None:
        """Joins epoll and sends the early data. OSError: it did neither."""
        self._shared.poller.add(*self._legs)
        self._shared.flows[self.ident] = self
        self._shared.tunnels += 1
        self._shared.row[columns.TUNNELS_BEGUN] += 1
        self._shared.count_flows()
        self._shared.deadlines.set(self, now + self._shared.options.idle)
        spoke = self._spoke
        for side in (CLIENT, ORIGIN):
            if self._ways[side].state == BLOCKED:
                self._serve(side, now, False)
        self._spoke = spoke  # the answer to CONNECT is none to the client's bytes
        if self._found:
            self._count_found(self._found, PASSED)
        if self._gate is not None and self._gate.data and self.ident in self._shared.flows:
            first = bytes(self._gate.data)
            self._gate.data.clear()
            self._hear(self._gate, first, now)

    def event(self, leg: Leg, mask: int, now: float) -> None:
        """Serves one epoll event: the flush before the read, for it frees a pipe."""
        side = CLIENT if leg is self._legs[CLIENT] else ORIGIN
        asked = leg.mask
        if not asked:
            if mask & GONE:
                self._unwanted(side, mask, now)
            return
        if asked & OUT and mask & ~IN:
            self._serve(1 - side, now, False)
        if asked & IN and mask & ~OUT and self._ways[side].state == READY:
            if side == CLIENT and self._gate is not None:
                self._look(self._gate, now)
            else:
                self._serve(side, now, mask & IN != 0)

    def wake(self, now: float) -> None:
        """The deadline has come."""
        if self._phase == ACK:
            self._await_ack(now)
            return
        options, gate = self._shared.options, self._gate
        if gate is not None and gate.since and self._phase <= HALF:
            when = gate.since + options.tls_name
            if when <= now:
                self._find(gate, LATE, now)
            else:
                self._shared.deadlines.set(self, when)
            return
        limit = options.idle if self._phase == OPEN else options.half_close
        when = max(self._ways[0].active, self._ways[1].active) + limit
        if when > now:
            self._shared.deadlines.set(self, when)
        elif self._phase == DRAIN:
            self.end(self._reason)
        else:
            self.end(IDLE if self._phase == OPEN else HALF_CLOSE)

    def end(self, reason: str) -> None:
        """Closes both sockets, with a reset unless it is DONE, and reports."""
        shared = self._shared
        up, down = self._ways
        report = TunnelEnd(
            reason,
            self._errno,
            up.copied,
            up.spliced,
            down.copied,
            down.spliced,
            tcp.info(self._legs[CLIENT].sock),
            tcp.info(self._legs[ORIGIN].sock),
            silent_side(self._ways, self._spoke) if reason in (IDLE, HALF_CLOSE) else "",
            waits_of(self._ways, monotonic(), self._spoke),
            self._found,
            self._flight,
        )
        for leg in self._legs:
            shared.poller.discard(leg, reset=reason != DONE)
        for way in self._ways:
            shared.mover.drop(way)
        del shared.flows[self.ident]
        shared.tunnels -= 1
        shared.row[columns.TUNNELS_ENDED + REASONS.index(reason) - 1] += 1
        shared.count_flows()
        shared.ends[self.ident] = (self._token, report)

    # ---- from one process to another (relay.moving) ------------------------------------

    def freeze(self) -> FrozenTunnel:
        """Leaves epoll and the deadlines."""
        from spliceproxy.relay.moving import FrozenTunnel, TunnelState
        from spliceproxy.relay.portable.moving import check_of, state_of

        shared, queue, dead = self._shared, self._queue, self._dead != NOBODY
        for leg in self._legs:
            shared.poller.forget(leg)
        del shared.flows[self.ident]
        shared.frozen[self.ident] = self
        fds = [leg.sock.fileno() for leg in self._legs]
        up, down = (state_of(way, shared.mover) for way in self._ways)
        for way in self._ways:
            if way.pipe is not None:
                fds += way.pipe.r, way.pipe.w
        state = TunnelState(
            up,
            down,
            self._dead,
            self._reason if dead else "",
            self._errno,
            self._spoke,
            False,
            queue.size if queue is not None else 0,
            int(queue.moved * 1e3) if queue is not None else 0,
            self._found,
            check_of(self._gate) if self._gate is not None else None,
        )
        return FrozenTunnel(tuple(fds), state, self._token, None)

    def take(self, state: TunnelState, pipes: Sequence[int]) -> None:
        """An empty tunnel becomes a frozen one of this state. OSError: it has not."""
        from spliceproxy.relay.portable.moving import gate_of, take_way

        shared, options = self._shared, self._shared.options
        opened = [Pipe.of(*pipes[at : at + 2]) for at in range(0, len(pipes), 2)]
        for way, one in zip(self._ways, (state.up, state.down), strict=True):
            take_way(way, one)
            if one.piped:
                shared.mover.take(way, opened.pop(0), one.piped)
        self._dead, self._errno, self._spoke = state.dead, state.errno, state.spoke
        self._reason = state.reason or DONE
        if state.dead != NOBODY:
            self._phase = DRAIN
        elif state.up.over or state.down.over:
            self._phase = HALF
        limit = options.idle if self._phase == OPEN else options.half_close
        self.due = max(way.active for way in self._ways) + limit
        self._found = state.found
        if state.check is not None:
            self._gate = gate_of(state.check)
            if self._gate.since and state.dead == NOBODY:
                self.due = self._gate.since + options.tls_name
        if state.acknowledged:
            sock = self._legs[1 - state.dead].sock
            self._queue = tcp.SendQueue(sock, min(state.acknowledged / 1e3, monotonic()))
            self._queue.size = state.unacknowledged
        if state.young:
            with contextlib.suppress(OSError):  # a Unix socket has no such options
                tcp.set_options(self._legs[ORIGIN].sock)
        shared.frozen[self.ident] = self
        shared.tunnels += 1
        shared.count_flows()

    def thaw(self, now: float) -> None:
        """A frozen one goes on."""
        shared = self._shared
        shared.flows[self.ident] = shared.frozen.pop(self.ident)
        shared.deadlines.set(self, self.due)
        for side in (CLIENT, ORIGIN):
            shared.mover.join(self._ways[side])
            try:
                shared.poller.restore(self._legs[side])
            except OSError as error:
                self._fail(side, error.errno or 0)
                self.end(self._reason)
                return
        self._settle(now)

    def release(self) -> None:
        """Another process has a frozen one: nothing happens to its connections."""
        shared = self._shared
        for way in self._ways:
            shared.mover.drop(way)
        for leg in self._legs:
            leg.sock.close()
        del shared.frozen[self.ident]
        shared.tunnels -= 1
        shared.count_flows()

    # ---- the name inside TLS -----------------------------------------------------------

    def _look(self, gate: Gate, now: float) -> None:
        """The client says something, and none of it may go on yet."""
        way = self._ways[CLIENT]
        end_wait(way, self._ways[ORIGIN], now, due=False, asked=self._spoke != CLIENT)
        try:
            first = way.source.recv(gate.MOST - len(gate.data))
        except BlockingIOError:
            return
        except OSError as error:
            self._gate, way.state = None, OVER
            self._fail(CLIENT, error.errno or 0)
            self._settle(now)
            return
        if first:
            self._hear(gate, first, now)
        else:
            self._find(gate, gate.end(), now)
            if self.ident in self._shared.flows and way.state == READY:
                self._serve(CLIENT, now, False)  # which finds the end again

    def _hear(self, gate: Gate, more: bytes, now: float) -> None:
        """So much more of what the client says first."""
        begun = gate.since > 0.0
        found = gate.hear(more, now)
        if found:
            self._find(gate, found, now)
        elif not begun:
            when = now + self._shared.options.tls_name
            if when < self.due:
                self._shared.deadlines.set(self, when)

    def _find(self, gate: Gate, found: str, now: float) -> None:
        """What was found of the name: what the client has said goes on, or it is over."""
        self._gate, self._found = None, found
        refused = gate.check.refuses(found)
        self._count_found(found, REFUSED if refused else PASSED)
        if refused:
            self._flight = bytes(gate.data[: gate.MOST]) if found == MISMATCH else b""
            self.end(TLS_NAME)
            return
        options = self._shared.options
        limit = options.idle if self._phase == OPEN else options.half_close
        self._shared.deadlines.set(self, now + limit)
        way = self._ways[CLIENT]
        way.hold(bytes(gate.data))
        if way.state == BLOCKED:
            self._serve(CLIENT, now, False)
        if way.state == BLOCKED and self.ident in self._shared.flows:
            self._settle(now)  # not all of it has gone on, which is nothing new to _serve

    def _count_found(self, found: str, action: str) -> None:
        self._shared.row[columns.FAMILIES["tls_names"].column(found, action)] += 1

    # ---- what an event leads to --------------------------------------------------------

    def _serve(self, side: int, now: float, readable: bool) -> None:
        """A turn of the way that reads this side."""
        way = self._ways[side]
        asked = self._spoke != side
        end_wait(way, self._ways[1 - side], now, due=False, asked=asked)
        before = way.copied + way.spliced
        state = self._shared.mover.turn(way, now, readable)
        if way.copied + way.spliced != before:
            self._spoke = side
        if state == way.state:
            return
        if state <= OVER:
            way.state = state
            if state == OVER and self._dead == NOBODY:
                self._pass_fin(side, now)
        elif state == SOURCE_FAILED:
            way.state = OVER
            self._fail(side, way.errno)
        else:
            self._fail(1 - side, way.errno)
        self._settle(now)

    def _pass_fin(self, side: int, now: float) -> None:
        way = self._ways[side]
        way.active = now
        try:
            way.target.shutdown(socket.SHUT_WR)
        except OSError as error:  # ENOTCONN: the other side is gone already
            self._fail(1 - side, error.errno or 0)

    def _fail(self, side: int, errno: int) -> None:
        """The side is dead by a failure."""
        if self._dead == side:
            return
        if self._reason == DONE:  # else the other has failed before, and is what ends it
            self._reason = RESETS[side]
            self._errno = errno
        self._bury(side)

    def _bury(self, side: int) -> None:
        """Nothing can be sent to this side any more, so the other is read no more."""
        self._dead = side if self._dead == NOBODY else BOTH
        self._shared.mover.drop(self._ways[1 - side])

    def _unwanted(self, side: int, mask: int, now: float) -> None:
        """EPOLLERR or EPOLLHUP of a socket of which nothing is wanted.

        SO_ERROR takes the error away, which is right only where no read is to come: it
        tells of a reset that came after the side's own FIN.
        """
        leg = self._legs[side]
        if mask & ERR and self._ways[side].state == OVER and side != self._dead:
            error = leg.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._fail(side, error or EPIPE)
            self._settle(now)
        elif mask & HUP and self._has_left(side):
            self._bury(side)
            self._settle(now)
        else:
            self._shared.poller.forget(leg)

    def _has_left(self, side: int) -> bool:
        """It has closed its socket, not only its own direction, and takes no more. Only Unix
        sockets tell: over TCP both are a FIN."""
        ours, others = self._ways[side], self._ways[1 - side]
        return self._dead == NOBODY and ours.state == OVER and others.state != OVER

    # ---- the phases --------------------------------------------------------------------

    def _settle(self, now: float) -> None:
        """After a way has changed its state: the next phase, and what epoll is asked."""
        up, down = self._ways
        if self._dead == BOTH:
            self.end(self._reason)
            return
        if self._dead != NOBODY:
            if self._ways[self._dead].state == OVER:
                self._enter(ACK, now)
                self._await_ack(now)
                return
            self._enter(DRAIN, now)
        elif up.state == OVER and down.state == OVER:
            self.end(DONE)
            return
        elif up.state == OVER or down.state == OVER:
            self._enter(HALF, now)
        for side in (CLIENT, ORIGIN):
            try:
                self._shared.poller.arm(self._legs[side])
            except OSError as error:
                self._fail(side, error.errno or 0)
                self.end(self._reason)
                return

    def _enter(self, phase: int, now: float) -> None:
        if self._phase == OPEN:  # the shorter limit holds from now
            when = now + self._shared.options.half_close
            if when < self.due:
                self._shared.deadlines.set(self, when)
        self._phase = phase

    def _await_ack(self, now: float) -> None:
        """Ends it once the living side has acknowledged all."""
        if self._queue is None:
            self._queue = tcp.SendQueue(self._legs[1 - self._dead].sock, now)
        if not self._queue.waits(now):
            self.end(self._reason)
            return
        for leg in self._legs:  # both ways are over: this only takes interest away
            self._shared.poller.arm(leg)
        self._shared.deadlines.set(self, now + tcp.ACK_POLL)
