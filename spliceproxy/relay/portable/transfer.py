"""A transfer: exactly so many bytes one way, between two sockets that are only lent.

How it ends:

    its length has reached the target, or FIN where it has none    DONE
    FIN before its length                                          SOURCE_EOF
    a read fails                                                   SOURCE_ERROR
    a write fails, or the target is reset                          TARGET_ERROR
    the idle limit, with nothing pending                           IDLE
    the idle limit, with bytes that the target does not take       TARGET_IDLE
    cancel                                                         ABORTED

Both sockets go back to their owner each time: nothing is closed, and no FIN is passed on.
"""

from __future__ import annotations

import socket
from errno import EPIPE
from time import monotonic
from typing import TYPE_CHECKING

from spliceproxy.relay.interface import (
    ABORTED,
    DONE,
    IDLE,
    SOURCE_EOF,
    SOURCE_ERROR,
    TARGET_ERROR,
    TARGET_IDLE,
    TransferEnd,
)
from spliceproxy.relay.portable.crowd import widen
from spliceproxy.relay.portable.moves import BLOCKED, OVER, SOURCE_FAILED, TARGET_FAILED, Way
from spliceproxy.relay.portable.poller import ERR, GONE, IN, Leg
from spliceproxy.relay.portable.shared import Shared
from spliceproxy.relay.portable.waits import end_wait

if TYPE_CHECKING:
    from spliceproxy.relay.moving import FrozenTransfer


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
        *,
        to_client: bool,
    ) -> None:
        source, target = socks
        self.ident = ident
        self.due = 0.0
        self._shared = shared
        self._token = token
        self._way = way = Way(source, target, length, now, to_client=to_client)
        way.mode = mode
        self._source = Leg(self, source, way, None)
        self._target = Leg(self, target, None, way)

    def describe(self, now: float) -> str:
        """For :meth:`Relay.dump`."""
        return (
            f"{self.ident} transfer "
            f"fd={self._source.sock.fileno()},{self._target.sock.fileno()} "
            f"way({self._way.describe()}) rests={now - self._way.active:.3f} "
            f"due={self.due - now:.3f}"
        )

    def start(self, now: float) -> None:
        """Joins epoll; the target too, whose reset would else be seen by a write only."""
        self._shared.poller.add(self._source, self._target)
        self._shared.flows[self.ident] = self
        self._shared.count_flows()
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
        if self._way.narrow:
            widen(self._way)
        self._shared.poller.hand_back(self._source)
        self._shared.poller.hand_back(self._target)
        self._shared.mover.drop(self._way)
        if self._shared.flows.pop(self.ident, None) is None:
            del self._shared.frozen[self.ident]
        self._shared.count_flows()

    # ---- its owner gives it away (relay.moving) ----------------------------------------

    def freeze(self) -> FrozenTransfer:
        """Leaves epoll and the deadlines."""
        from spliceproxy.relay.moving import FrozenTransfer

        shared, way = self._shared, self._way
        end_wait(way, way, monotonic(), due=True, asked=True)
        for leg in (self._source, self._target):
            shared.poller.forget(leg)
        if way.pipe is not None:
            shared.mover.unpipe(way)
        shared.frozen[self.ident] = shared.flows.pop(self.ident)
        owed = bytes(way.held) if way.held is not None else b""
        waits = int(way.for_target * 1e3), int(way.for_source * 1e3)
        return FrozenTransfer(way.left, owed, way.copied, way.spliced, *waits)

    def thaw(self, now: float) -> None:
        """A frozen one goes on."""
        shared = self._shared
        shared.flows[self.ident] = shared.frozen.pop(self.ident)
        shared.deadlines.set(self, self.due)
        try:
            for leg in (self._source, self._target):
                shared.poller.restore(leg)
        except OSError as error:
            self._end(SOURCE_ERROR, error.errno or 0)

    def release(self) -> None:
        """It is over here, and nobody is told."""
        self.drop()

    def _end(self, reason: str, errno: int) -> None:
        way = self._way
        end_wait(way, way, monotonic(), due=True, asked=True)
        self._shared.ends[self.ident] = (
            self._token,
            TransferEnd(
                reason,
                errno,
                way.copied,
                way.spliced,
                int(way.for_target * 1e3),
                int(way.for_source * 1e3),
            ),
        )
        self.drop()

    def _serve(self, now: float, readable: bool) -> None:
        way = self._way
        end_wait(way, way, now, due=True, asked=True)
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
