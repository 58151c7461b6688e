"""A worker gives what it serves to another worker, which is to take its place.

Tunnels are looked for again and again (:mod:`spliceproxy.forward.moving`): some come to be while
others are given, and what cannot move just now may do so later. A client that is between two
requests, or has just got an answer, is given by its descriptor and what has been received from it.
What is left drains.

How the two agree is in :mod:`spliceproxy.processes.parcels`.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from spliceproxy.admin.channel import Closed, close_all
from spliceproxy.messages import log, plain
from spliceproxy.processes.parcels import RETRY_SECONDS, Line, Party
from spliceproxy.relay.handoff import Handoff

WINDOW = 64
"""Flows that are on their way. Each of them stands still until it has come."""

CONFIRM_SECONDS = 5.0
"""That the taker has to say that it has one of them; then this worker goes on with it."""

PASS_SECONDS = 0.05
"""Between two looks at what there is to be given."""

LATER_SECONDS = 1.0
"""Until what the taker had no descriptor or memory for is offered again."""

_NO_ROOM = {errno.ENOBUFS, errno.ETOOMANYREFS, errno.EMFILE, errno.ENOMEM}
"""Errnos of a message that may have room later: of buffers, and of descriptors on their way."""


class Frozen(Protocol):
    """As of forward.moving: what stands still, and is this worker's yet."""

    @property
    def fds(self) -> Sequence[int]: ...
    @property
    def state(self) -> bytes: ...


class Moving(Protocol):
    """Tunnels that can be given (forward.moving)."""

    def movable(self) -> list[int]: ...
    def freeze(self, ident: int) -> Frozen | None: ...
    def thaw(self, ident: int) -> None: ...
    def release(self, ident: int) -> None: ...


class Clients(Protocol):
    """Who has the clients (front.server)."""

    @property
    def connections(self) -> int: ...
    def move_to(self, giver: Giver) -> None: ...
    def offer(self) -> None: ...
    def keep(self, handoff: Handoff) -> None: ...
    def stay(self) -> None: ...


class _Given(NamedTuple):
    """What is on its way: a client, or the tunnel of this id."""

    sent: float
    ident: int
    client: Handoff | None


Report = Callable[[Mapping[str, Any]], None]


class Giver(Party):
    """Of one worker, to the taker at the other end of ``line``, which is this object's.

    ``report`` is told {"gave": COUNTS} when all that can move has been given for the first time,
    and {"kept": WHY} if the taker is gone or does not answer. Then nothing more is given, and this
    worker has what it had not let go of."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        line: Line,
        clients: Clients,
        moving: Moving,
        report: Report,
    ) -> None:
        super().__init__(loop, line)
        self._clients = clients
        self._moving = moving
        self._report = report
        self._idents = 0
        self._waiting: deque[Handoff] = deque()  # clients that have yet to be given
        self._flows: deque[int] = deque()  # tunnels of this pass, likewise
        self._refused: set[int] = set()  # tunnels that the taker does not want
        self._put_off: set[int] = set()  # that it may want later
        self._offer_at = 0.0  # when those are offered again, loop.time()
        self._back: socket.socket | None = None
        self._open: dict[int, _Given] = {}
        self._go: list[int] = []  # what the taker may serve, and has not been told of
        self._told = False
        self._clients_here = 0  # that wait, or are on their way
        self._empty = asyncio.Event()
        self.given = {"tunnels": 0, "clients": 0}

    @property
    def has_clients(self) -> bool:
        """Whether a client is on its way, which neither the front nor the taker has."""
        return self._clients_here > 0

    async def emptied(self) -> None:
        """Waits until no client is on its way."""
        while self._clients_here:
            self._empty.clear()
            await self._empty.wait()

    def start(self) -> None:
        """Begins to give."""
        super().start()
        self._clients.move_to(self)
        self._pass()

    def client(self, handoff: Handoff) -> None:
        """A client that may ask again is to be given; it is this object's."""
        if self.closed:
            self._clients.keep(handoff)
            return
        self._clients_here += 1
        self._waiting.append(handoff)
        self._later(0.0, self._fire)

    def end(self, why: str, back: socket.socket | None = None) -> None:
        """Gives nothing more: what is on its way stays here. By ``back``, which is this object's,
        the taker is to give back what it has. Idempotent."""
        if self._cease():
            self._back = back
            self._clients.stay()
            self._give_up(why)
        elif back is not None:
            back.close()

    def _give_up(self, why: str) -> None:
        """Nothing goes on here before the taker has been told: end of file alone would mean that
        it is to go on."""
        back = [] if self._back is None else [self._back.fileno()]
        try:
            if not (self._say_go() and self._sent({"abort": True}, b"", back)):
                self._loop.call_later(RETRY_SECONDS, self._give_up, why)
                return
        except Closed:
            pass  # the taker is gone, so it goes on with nothing
        self._line.close()
        if self._back is not None:
            self._back.close()
        for one in self._open.values():
            if one.client is None:
                self._safely(self._moving.thaw, one.ident)
            else:
                self._waiting.append(one.client)
        self._open.clear()
        while self._waiting:
            self._keep(self._waiting.popleft())
        self._report({"kept": why})

    # ---- giving ------------------------------------------------------------------------

    def _pass(self) -> None:
        """Looks at all there is."""
        if self._loop.time() >= self._offer_at:
            self._put_off.clear()
        self._safely(self._clients.offer)
        self._safely(self._look)
        self._turn()

    def _look(self) -> None:
        unwanted = self._refused | self._put_off
        self._flows.extend(one for one in self._moving.movable() if one not in unwanted)

    def _fire(self) -> None:
        self._timer = None
        if self._flows or self._waiting or self._open or self._go:
            self._turn()
        else:
            self._pass()

    def _turn(self) -> None:
        """Gives as much as may be on its way, and says what has come."""
        # Where this process itself has stood still the answers are there, and nobody has read them.
        if self._left() <= 0 and not self._heard():
            return
        if self._left() <= 0:
            self.end(f"the other worker has not confirmed a flow within {CONFIRM_SECONDS:g} s")
            return
        try:
            more = self._say_go() and self._fill()
        except Closed:
            self.end("the other worker is gone")
            return
        if not more:
            self._later(RETRY_SECONDS, self._fire)
            return
        if self._open:
            self._later(self._left(), self._fire)
            return
        if not self._told:
            self._told = True
            self._report({"gave": dict(self.given), "left": self._clients.connections})
        self._later(PASS_SECONDS, self._fire)

    def _left(self) -> float:
        """Seconds until the first of what is on its way has to be confirmed."""
        for given in self._open.values():
            return given.sent + CONFIRM_SECONDS - self._loop.time()
        return CONFIRM_SECONDS

    def _say_go(self) -> bool:
        if self._go:
            if not self._sent({"go": self._go}):
                return False
            self._go = []
        return True

    def _fill(self) -> bool:
        """False: there is no room just now."""
        while len(self._open) < WINDOW:
            if self._waiting:
                if not self._give_client(self._waiting[0]):
                    return False
                self._waiting.popleft()
            elif self._flows:
                if not self._give_flow(self._flows[0]):
                    return False
                self._flows.popleft()
            else:
                break
        return True

    def _give_client(self, client: Handoff) -> bool:
        head = {
            "client": self._idents,
            "address": client.address,
            "requests": client.requests,
            "via": client.via,
        }
        if not self._sent(head, client.buffer, [client.client]):
            return False
        self._note(0, client)
        return True

    def _give_flow(self, ident: int) -> bool:
        try:
            frozen = self._moving.freeze(ident)
        except Exception:
            log.exception("a tunnel stays in this worker")
            self._refused.add(ident)
            return True
        if frozen is None:  # it has ended, or cannot move just now
            return True
        sent = False
        try:
            sent = self._sent({"flow": self._idents}, frozen.state, frozen.fds)
        finally:
            if not sent:
                self._moving.thaw(ident)
        if sent:
            self._note(ident, None)
        return sent

    def _note(self, ident: int, client: Handoff | None) -> None:
        self._open[self._idents] = _Given(self._loop.time(), ident, client)
        self._idents += 1

    def _sent(self, head: Mapping[str, Any], data: bytes = b"", fds: Sequence[int] = ()) -> bool:
        try:
            return self._line.send(head, data, fds)
        except OSError as error:
            if error.errno in _NO_ROOM:
                return False
            raise Closed(plain(error)) from None

    # ---- what the taker says -----------------------------------------------------------

    def _read(self) -> None:
        if self._heard():
            self._turn()

    def _heard(self) -> bool:
        """Acts on all that there is; false: the taker is gone, and this has ended."""
        try:
            if self._line.hung_up:
                raise Closed("end of file")
            while (parcel := self._line.receive()) is not None:
                close_all(parcel.fds)
                for ident in parcel.head.get("ok", ()):
                    self._let_go(ident)
                if "no" in parcel.head:
                    self._take_back(parcel.head)
        except Closed:
            self.end("the other worker is gone")
            return False
        return True

    def _let_go(self, ident: int) -> None:
        """It is the taker's from here on."""
        given = self._open.pop(ident, None)
        if given is None:
            return
        self._go.append(ident)
        if given.client is not None:
            given.client.close()
            self.given["clients"] += 1
            self._count_off()
        else:
            self._safely(self._moving.release, given.ident)
            self.given["tunnels"] += 1

    def _take_back(self, said: Mapping[str, Any]) -> None:
        """The taker cannot go on with one."""
        given = self._open.pop(said["no"], None)
        if given is None:
            return
        if given.client is not None:
            self._keep(given.client)
            return
        if not self._offer_at and not self._refused:
            why = said.get("why", "")
            log.warning("a tunnel stays in this worker, for the other cannot take it: %s", why)
        if said.get("later"):
            self._put_off.add(given.ident)
            self._offer_at = self._loop.time() + LATER_SECONDS
        else:
            self._refused.add(given.ident)
        self._safely(self._moving.thaw, given.ident)

    def _keep(self, client: Handoff) -> None:
        self._safely(self._clients.keep, client)
        self._count_off()

    def _count_off(self) -> None:
        self._clients_here -= 1
        if not self._clients_here:
            self._empty.set()
