"""Runs a relay on an event loop and hands its ends to those who wait for them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import copy_context
from time import monotonic
from typing import TYPE_CHECKING

from spliceproxy.messages import log
from spliceproxy.net.deadline import TICK
from spliceproxy.relay.checking import NameCheck
from spliceproxy.relay.handoff import Handoff
from spliceproxy.relay.interface import KILLED, FlowView, Relay, TransferEnd, TunnelEnd

if TYPE_CHECKING:
    from spliceproxy.relay.meters import Counting, Meters
    from spliceproxy.relay.moving import FrozenExchange, FrozenTransfer, FrozenTunnel, TunnelState

TRIES = 100
"""How often what needs memory is tried, TRY_SECONDS apart, before the driver is stuck. Below
257, so that counting them needs no memory."""

TRY_SECONDS = 0.001

NO_MEMORY = (MemoryError, SystemError)
"""What the want of memory raises; SystemError is what sys.exc_info() makes of a MemoryError. Made
once: where they are named in an "except" the pair itself needs memory."""


class RelayDriver:
    """Steps a relay when the loop says that it is readable, and when a timer says so.

    A step calls whoever is to be told or asked. So it is made by the loop, never within a task
    and never with the context variables of one: what is asked belongs to no other request.

    ``on_stuck`` is called where there is no memory to say what has ended: whoever waits for
    that would wait for ever. All methods belong to the loop's thread.
    """

    def __init__(self, relay: Relay, loop: asyncio.AbstractEventLoop) -> None:
        self._relay = relay
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0  # monotonic seconds
        self._context = copy_context()  # of a step that the loop makes by our order
        self._transfers: set[asyncio.Future[TransferEnd]] = set()
        self._waiters: list[asyncio.Future[None]] = []
        self._closed = False
        self._starved = False  # and said so
        self.on_stuck: Callable[[], None] | None = None
        loop.add_reader(relay.fileno(), relay.reader(self._report, self._stuck))

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it belongs to."""
        return self._loop

    @property
    def engine(self) -> str:
        """The name of the relay's engine."""
        return self._relay.engine

    @property
    def tunnels(self) -> int:
        """Tunnels that have not been reported as ended."""
        return self._relay.tunnels

    def tunnel(
        self,
        client: int,
        origin: int,
        to_origin: bytes,
        to_client: bytes,
        done: Callable[[TunnelEnd], None],
        check: NameCheck | None = None,
    ) -> int:
        """Starts a tunnel (interface.Relay.tunnel); ``done`` is called once, when it ends.

        OSError: both descriptors are still the caller's and ``done`` is never called.
        """
        self._check_open()
        ident = self._relay.tunnel(client, origin, to_origin, to_client, done, check)
        self._arm()
        return ident

    async def transfer(
        self,
        source: int,
        target: int,
        length: int,
        cancelled: Callable[[TransferEnd], None] | None = None,
        *,
        to_client: bool = False,
        begun: Callable[[int], None] | None = None,
    ) -> TransferEnd:
        """Moves ``length`` bytes (interface.Relay.transfer) and waits for the end. If it is
        cancelled, ``cancelled`` is told how far it came. ``begun`` is told by which id the relay
        knows it.

        When it returns or raises, both descriptors are the caller's alone again. A transfer
        that was cancelled has lost the bytes in flight: its sockets are of no more use.
        """
        self._check_open()
        future: asyncio.Future[TransferEnd] = self._loop.create_future()
        self._transfers.add(future)
        ident: int | None = None
        try:
            ident = self._relay.transfer(source, target, length, future, to_client)
            if begun is not None:
                begun(ident)
            self._arm()
            return await future
        finally:
            self._transfers.discard(future)
            if ident is not None and (future.cancelled() or not future.done()):
                end = self._relay.cancel(ident)
                if end is not None and cancelled is not None:
                    cancelled(end)

    def progress(self, ident: int) -> tuple[int, int, int, int, str] | None:
        """How far a tunnel has come (interface.Relay.progress)."""
        return None if self._closed else self._relay.progress(ident)

    def abort_all(self) -> None:
        """Resets every tunnel; their ends are reported soon."""
        if not self._closed:
            self._relay.abort_all()
            self._arm()

    async def drained(self) -> None:
        """Waits until there is no tunnel, and no client in the lane."""
        while self._relay.tunnels or self._relay.clients:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter

    def flows(self, most: int) -> Iterator[list[FlowView]]:
        """What lives, in lists that are made one at a time (interface.Relay.flows)."""
        return iter(()) if self._closed else self._relay.flows(most)

    def counting(self, meters: Meters, row: int) -> Counting:
        """What counts for limits (interface.Relay.counting)."""
        return self._relay.counting(meters, row)

    def pace(self, ident: int, up: int, down: int) -> bool:
        """As interface.Relay.pace."""
        return not self._closed and self._relay.pace(ident, up, down)

    def limits(self, idle: float, half_close: float, tls_name: float) -> None:
        """Other time limits (interface.Relay.limits)."""
        if not self._closed:
            self._relay.limits(idle, half_close, tls_name)
            self._arm()

    def kill(self, ident: int, reason: str = KILLED) -> bool:
        """Ends what somebody has seen (interface.Relay.kill); its end is reported soon."""
        killed = not self._closed and self._relay.kill(ident, reason)
        if killed:
            self._arm()
        return killed

    # ---- tunnels that move (relay.moving) ----------------------------------------------

    def movable(self) -> list[int]:
        """As of :meth:`interface.Relay.movable`."""
        return [] if self._closed else self._relay.movable()

    def freeze(self, ident: int) -> FrozenTunnel | FrozenExchange | None:
        """As of :meth:`interface.Relay.freeze`."""
        return None if self._closed else self._relay.freeze(ident)

    def freeze_transfer(self, ident: int) -> FrozenTransfer | None:
        """As of :meth:`interface.Relay.freeze_transfer`."""
        return None if self._closed else self._relay.freeze_transfer(ident)

    def thaw(self, ident: int) -> None:
        """As of :meth:`interface.Relay.thaw`."""
        if not self._closed and self._relay.thaw(ident):
            self._arm()

    def release(self, ident: int) -> None:
        """As of :meth:`interface.Relay.release`."""
        if not self._closed and self._relay.release(ident):
            self._tell_drained()

    def adopt(
        self, state: TunnelState, fds: Sequence[int], done: Callable[[TunnelEnd], None]
    ) -> int:
        """As of :meth:`interface.Relay.adopt`; ``done`` is called once, when it ends here."""
        self._check_open()
        return self._relay.adopt(state, fds, done)

    def dump(self, most: int) -> str:
        """What the relay has (interface.Relay.dump)."""
        return self._relay.dump(most)

    def close(self) -> None:
        """Resets every tunnel and reports it, cancels every transfer, closes the relay."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._relay.fileno())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._relay.abort_all()
        try:
            self._dispatch(self._relay.step())
        finally:
            for future in self._transfers:
                future.cancel()
            self._relay.close()

    def _check_open(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "the relay is closed")

    async def step(self) -> None:
        """Lets the loop make a step, and waits for that."""
        made: asyncio.Future[None] = self._loop.create_future()

        def make() -> None:
            try:
                if not self._closed:
                    self._step()
            finally:
                if not made.done():
                    made.set_result(None)

        self._loop.call_soon(make, context=self._context)
        await made

    def _step(self) -> None:
        """Serves what is ready, and hands out what has ended."""
        try:
            ends = self._relay.step()
        except MemoryError:
            self._stuck()
            return
        except BaseException:  # of what was asked; the next step says what else there is
            if not self._closed:
                self._arm()
            raise
        self._report(ends)

    def _stuck(self) -> None:
        if self.on_stuck is not None:
            self.on_stuck()
        with contextlib.suppress(MemoryError):
            log.error("no memory to say what has ended")
            self._set_timer()  # the relay says it again

    def _report(self, ends: list[tuple[object, object]]) -> None:
        """After a step."""
        try:
            if ends:
                self._dispatch(ends)
        finally:
            if not self._closed:  # by a ``done``
                self._arm()
            if self._waiters:
                self._tell_drained()

    def _tell_drained(self) -> None:
        """Wakes those who wait for that, if there is nothing left."""
        if self._relay.tunnels or self._relay.clients:
            return
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def _fire(self) -> None:
        self._timer = None
        self._step()
        if not self._starved and (turns := self._relay.stats().pipe_starved):
            self._starved = True
            log.warning(
                "no pipe is left in the quota of this user (pipe-user-pages-soft in pipe(7)): "
                "bytes without a pipe are copied, which costs more; %d turns so far",
                turns,
            )

    def wake(self) -> None:
        """To be called when the relay was given something past this driver, by its lane: it
        may have an end to report, or a time limit to watch."""
        if not self._closed:
            self._arm()

    def _arm(self) -> None:
        """:meth:`_set_timer`, and no MemoryError: the relay has what it was given."""
        left = TRIES  # not a range(), which needs memory
        while left:
            try:
                self._set_timer()
                return
            except MemoryError:
                left -= 1
                time.sleep(TRY_SECONDS)
        self._stuck()

    def _set_timer(self) -> None:
        """Sees to it that the timer fires no later than the relay's next wake-up.

        A timer that fires too early is left alone: that costs a step, and a new timer more.
        """
        wake = self._relay.next_wake()
        if wake is None:
            return
        if wake > 0.0:
            wake += TICK
        at = monotonic() + wake
        if self._timer is not None:
            if self._timer_at <= at + TICK:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(wake, self._fire, context=self._context)

    def _dispatch(self, ends: Iterable[tuple[object, object]]) -> None:
        """Tells each token of its end. The relay has forgotten them: none may be lost."""
        each: Iterator[tuple[object, object]] | None = None
        left = TRIES
        while each is None:
            try:
                each = iter(ends)  # all the memory that the loop below needs by itself
            except MemoryError:
                left -= 1
                if not left:
                    self._stuck()
                    return
                time.sleep(TRY_SECONDS)
        for said in each:
            # Unpacking it would need an iterator, as long as this code is not warm.
            token, end = said[0], said[1]
            try:
                if not isinstance(token, asyncio.Future):
                    token(end)  # type: ignore[operator]
                elif not token.done():
                    token.set_result(end)
            except Exception:  # noqa: BLE001 - it is logged
                self._lost(token, end)
            except BaseException:  # it ends the loop; what is left may be waited for even so
                self._dispatch(each)
                raise

    def _lost(self, token: object, end: object) -> None:
        """Nobody has taken what the relay had to say. Called while the exception is handled. It
        closes what came along, which needs no memory, and never fails for want of memory:
        there are other ends to hand out."""
        try:
            if isinstance(end, Handoff):
                end.close()
            log.exception("what the relay had to say was lost")
        except NO_MEMORY:
            pass
        if isinstance(token, asyncio.Future):
            self._stuck()  # its waiter is not woken any more
