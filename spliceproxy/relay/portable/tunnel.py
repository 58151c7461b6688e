"""The two things that an engine does with a pair of sockets: a tunnel and a transfer.

Side 0 is the client, side 1 the origin; way 0 reads side 0 and writes side 1. A read or
write error on a side makes it *dead*, once and for all: what it had sent is still drained
and flushed to the other side, and when that is acknowledged the other side is reset. With
a dead side a read of 0 is no FIN, for after a reset the kernel says 0 as well.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from errno import EPIPE

from spliceproxy.relay.interface import (
    ABORTED,
    ACK_PATIENCE,
    ACK_POLL,
    CLIENT_RESET,
    DONE,
    HALF_CLOSE,
    IDLE,
    ORIGIN_RESET,
    SOURCE_EOF,
    SOURCE_ERROR,
    TARGET_ERROR,
    TARGET_IDLE,
    RelayOptions,
    TransferEnd,
    TunnelEnd,
)
from spliceproxy.relay.portable.deadlines import Deadlines
from spliceproxy.relay.portable.moves import (
    BLOCKED,
    OVER,
    READY,
    SOURCE_FAILED,
    TARGET_FAILED,
    Copier,
    Way,
)
from spliceproxy.relay.portable.poller import ERR, GONE, HUP, IN, OUT, Leg, Poller, tcp_info

NOBODY = -1
RESETS = (CLIENT_RESET, ORIGIN_RESET)


class Shared:
    """What the jobs of one engine have in common."""

    __slots__ = ("deadlines", "ends", "jobs", "mover", "options", "poller", "tunnels")

    def __init__(self, options: RelayOptions, mover: Copier) -> None:
        self.options = options
        self.mover = mover
        self.poller = Poller()
        self.deadlines = Deadlines()
        self.jobs: dict[int, Tunnel | Transfer] = {}
        self.tunnels = 0  # of the jobs
        self.ends: dict[int, tuple[object, TunnelEnd | TransferEnd]] = {}


class Tunnel:
    """Bytes both ways until both sides have ended."""

    __slots__ = (
        "_both_dead",
        "_dead",
        "_errno",
        "_half_closed",
        "_left",
        "_legs",
        "_queue",
        "_queue_moved",
        "_shared",
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
    ) -> None:
        client, origin = socks
        up = Way(client, origin, -1, now)
        down = Way(origin, client, -1, now)
        up.hold(early[0])
        down.hold(early[1])
        self.ident = ident
        self.due = 0.0
        self._half_closed = False
        self._shared = shared
        self._token = token
        self._ways = (up, down)
        self._legs = (Leg(self, client, up, down), Leg(self, origin, down, up))
        self._dead = NOBODY
        self._both_dead = False
        self._left = False  # the dead side has closed its socket, and nothing was lost
        self._errno = 0  # of the first error
        self._queue = -1  # bytes that the side to be reset has not acknowledged, -1: not waiting
        self._queue_moved = 0.0

    def start(self, now: float) -> None:
        """Joins epoll and sends the early data. OSError: it did neither."""
        poller = self._shared.poller
        try:
            for leg in self._legs:
                poller.add(leg)
        except OSError:
            for leg in self._legs:
                poller.hand_back(leg)
            raise
        self._shared.jobs[self.ident] = self
        self._shared.tunnels += 1
        self._shared.deadlines.set(self, now + self._shared.options.idle)
        for side in (0, 1):
            if self._ways[side].state == BLOCKED:
                self._serve(side, now, False)

    def event(self, leg: Leg, mask: int, now: float) -> None:
        """Serves one epoll event: the flush before the read, for it frees a pipe."""
        side = 0 if leg is self._legs[0] else 1
        asked = leg.mask
        if not asked:
            if mask & GONE:
                self._unwanted(side, mask, now)
            return
        if asked & OUT and mask & ~IN:
            self._serve(1 - side, now, False)
        if asked & IN and mask & ~OUT and self._ways[side].state == READY:
            self._serve(side, now, mask & IN != 0)

    def wake(self, now: float) -> None:
        """The deadline has come."""
        if self._queue >= 0:
            self._await_acks(now)
            return
        options = self._shared.options
        limited = self._half_closed or self._dead != NOBODY
        limit = options.half_close if limited else options.idle
        when = max(self._ways[0].active, self._ways[1].active) + limit
        if when > now:
            self._shared.deadlines.set(self, when)
        elif self._dead != NOBODY:
            self._end_dead()
        else:
            self.end(HALF_CLOSE if limited else IDLE, True)

    def end(self, reason: str, reset: bool) -> None:
        """Closes both sockets and reports."""
        shared = self._shared
        up, down = self._ways
        report = TunnelEnd(
            reason,
            self._errno,
            up.copied,
            up.spliced,
            down.copied,
            down.spliced,
            tcp_info(self._legs[0].sock),
            tcp_info(self._legs[1].sock),
        )
        for leg in self._legs:
            shared.poller.discard(leg, reset)
        for way in self._ways:
            shared.mover.drop(way)
        del shared.jobs[self.ident]
        shared.tunnels -= 1
        shared.ends[self.ident] = (self._token, report)

    def _serve(self, side: int, now: float, readable: bool) -> None:
        way = self._ways[side]
        state = self._shared.mover.turn(way, now, readable)
        if state == way.state:
            return
        if state <= OVER:
            way.state = state
            if state == OVER and self._dead == NOBODY:
                self._pass_fin(side, now)
        elif state == SOURCE_FAILED:
            way.state = OVER
            self._fault(side, way.errno)
        else:
            self._fault(1 - side, way.errno)
        self._settle(now)

    def _pass_fin(self, side: int, now: float) -> None:
        way = self._ways[side]
        way.active = now
        try:
            way.target.shutdown(socket.SHUT_WR)
        except OSError as error:  # ENOTCONN: the other side is gone already
            self._fault(1 - side, error.errno or 0)

    def _fault(self, side: int, errno: int) -> None:
        """The side is dead: nothing can be sent to it, so the other is read no more."""
        if self._dead == NOBODY:
            self._dead = side
            self._errno = errno
        elif self._dead != side:
            self._both_dead = True
        self._shared.mover.drop(self._ways[1 - side])

    def _unwanted(self, side: int, mask: int, now: float) -> None:
        """EPOLLERR or EPOLLHUP of a socket of which nothing is wanted.

        SO_ERROR takes the error away, which is right only where no read is to come: it
        tells of a reset that came after the side's own FIN.
        """
        leg = self._legs[side]
        if mask & ERR and self._ways[side].state == OVER and side != self._dead:
            error = leg.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._fault(side, error or EPIPE)
            self._settle(now)
        elif mask & HUP and self._has_left(side):
            self._left = True
            self._fault(side, 0)
            self._settle(now)
        else:
            self._shared.poller.forget(leg)

    def _has_left(self, side: int) -> bool:
        """It has closed its socket, not only its own direction, and takes no more. Only Unix
        sockets tell: over TCP both are a FIN."""
        up, down = self._ways[side], self._ways[1 - side]
        return self._dead == NOBODY and up.state == OVER and down.state != OVER

    def _settle(self, now: float) -> None:
        """After a way has changed its state: the tunnel's, and what epoll is asked."""
        up, down = self._ways
        if self._dead != NOBODY:
            if self._both_dead:
                self._end_dead()
                return
            if self._ways[self._dead].state == OVER:
                self._await_acks(now)
                return
            self._limit(now)
        elif up.state == OVER and down.state == OVER:
            self.end(DONE, False)
            return
        elif up.state == OVER or down.state == OVER:
            self._limit(now)
        for side in (0, 1):
            try:
                self._shared.poller.arm(self._legs[side])
            except OSError as error:
                self._dead = side
                self._errno = error.errno or 0
                self._end_dead()
                return

    def _limit(self, now: float) -> None:
        """One side has ended: from now the shorter limit holds."""
        if not self._half_closed:
            self._half_closed = True
            when = now + self._shared.options.half_close
            if when < self.due:
                self._shared.deadlines.set(self, when)

    def _await_acks(self, now: float) -> None:
        """Resets the living side once it has acknowledged all: RST overtakes data."""
        side = 1 - self._dead
        leg = self._legs[side]
        queue = unsent(leg.sock)
        if queue != self._queue:
            self._queue = queue
            self._queue_moved = now
        if queue == 0 or now - self._queue_moved >= ACK_PATIENCE:
            self._end_dead()
            return
        for one in self._legs:  # both ways are over: this only takes interest away
            self._shared.poller.arm(one)
        self._shared.deadlines.set(self, now + ACK_POLL)

    def _end_dead(self) -> None:
        if self._left and not self._both_dead:
            self.end(DONE, False)
        else:
            self.end(RESETS[self._dead], True)


class Transfer:
    """Exactly ``length`` bytes (-1: until FIN) one way, on lent sockets."""

    __slots__ = ("_shared", "_source", "_target", "_token", "_way", "due", "ident")

    def __init__(
        self,
        shared: Shared,
        ident: int,
        token: object,
        socks: tuple[socket.socket, socket.socket],
        length: int,
        mode: int,
        now: float,
    ) -> None:
        source, target = socks
        self.ident = ident
        self.due = 0.0
        self._shared = shared
        self._token = token
        self._way = way = Way(source, target, length, now)
        way.mode = mode
        self._source = Leg(self, source, way, None)
        self._target = Leg(self, target, None, way)

    def start(self, now: float) -> None:
        """Joins epoll; the target too, whose reset would else be seen by a write only."""
        poller = self._shared.poller
        try:
            poller.add(self._source)
            poller.add(self._target)
        except OSError:
            poller.hand_back(self._source)
            poller.hand_back(self._target)
            raise
        self._shared.jobs[self.ident] = self
        if self._way.left == 0:
            self._end(DONE, 0)
        else:
            self._shared.deadlines.set(self, now + self._shared.options.idle)

    def event(self, leg: Leg, mask: int, now: float) -> None:
        """Serves one epoll event."""
        if leg.mask:
            self._serve(now, mask & IN != 0)
        elif leg is self._target and mask & ERR:
            error = leg.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._end(TARGET_ERROR, error or EPIPE)
        elif mask & GONE:
            self._shared.poller.forget(leg)

    def wake(self, now: float) -> None:
        """The deadline has come."""
        when = self._way.active + self._shared.options.idle
        if when > now:
            self._shared.deadlines.set(self, when)
        else:
            self._end(TARGET_IDLE if self._way.state == BLOCKED else IDLE, 0)

    def abort(self) -> None:
        """Ends it here; what is in flight is lost."""
        self._end(ABORTED, 0)

    def drop(self) -> None:
        """Gives both sockets back and loses what is in flight."""
        self._shared.poller.hand_back(self._source)
        self._shared.poller.hand_back(self._target)
        self._shared.mover.drop(self._way)
        del self._shared.jobs[self.ident]

    def _end(self, reason: str, errno: int) -> None:
        way = self._way
        self._shared.ends[self.ident] = (
            self._token,
            TransferEnd(reason, errno, way.copied, way.spliced),
        )
        self.drop()

    def _serve(self, now: float, readable: bool) -> None:
        way = self._way
        state = self._shared.mover.turn(way, now, readable)
        if state == way.state:
            return
        if state == OVER:
            self._end(DONE if way.left <= 0 else SOURCE_EOF, 0)
        elif state == SOURCE_FAILED:
            self._end(SOURCE_ERROR, way.errno)
        elif state == TARGET_FAILED:
            self._end(TARGET_ERROR, way.errno)
        else:
            way.state = state
            for leg, reason in ((self._source, SOURCE_ERROR), (self._target, TARGET_ERROR)):
                try:
                    self._shared.poller.arm(leg)
                except OSError as error:
                    self._end(reason, error.errno or 0)
                    return


def unsent(sock: socket.socket) -> int:
    """Bytes that the peer has not acknowledged (SIOCOUTQ, tcp(7) and unix(7))."""
    answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    return int(struct.unpack("i", answer)[0])
