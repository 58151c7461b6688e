"""A load of every kind at once, whose peers notice each byte that is lost, repeated or changed,
each request that fails, and each connection that ends before its time. Clients and origins are on
one event loop, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from typing import Any, NamedTuple

from crowd_clients import (
    PATIENCE,
    Asking,
    Bodies,
    Busy,
    Client,
    Closing,
    Fleeting,
    Half,
    Idle,
    Slow,
    WebSocket,
)
from crowd_origin import Address, Origin, Stream, cancelled

from spliceproxy.processes.worker import new_loop


class Sizes(NamedTuple):
    """How many there are of each kind. ``pace``: seconds between two blocks of a busy tunnel."""

    busy: int = 200
    idle: int = 50
    half: int = 10
    websockets: int = 5
    slow: int = 2
    asking: int = 6
    closing: int = 3
    fleeting: int = 3
    bodies: int = 2
    pace: float = 0.25


ALL = Sizes()


class CrowdLoad:
    """``proxy`` is the address of the proxy. It is established when this returns. ``faults`` says
    what has gone wrong, by the kind of who has noticed it."""

    def __init__(self, proxy: Address, sizes: Sizes = ALL) -> None:
        self._proxy = proxy
        self.sizes = sizes
        self.faults: list[tuple[str, str]] = []
        self.answers = 0  # requests that were answered as they should be
        self.blocks = 0  # that have come back to busy tunnels
        self.longest = 0.0  # seconds that a request has waited for its answer
        self.origin = Origin()
        self._stop = asyncio.Event()
        self._loop, _ = new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self._call(self._begin())
        except BaseException:
            self.close()
            raise

    # ---- for the test's thread ---------------------------------------------------------

    def goes_on(self, seconds: float = 30.0) -> None:
        """Waits until every busy tunnel and everybody who asks has got something from now on, or
        has failed."""
        self._call(self._goes_on(seconds))

    def held(self) -> int:
        """Bytes that slow readers have yet to get."""
        return sum(one.sent - one.got for one in self._slow)

    def lost(self) -> Counter[str]:
        """How many faults there are of each kind."""
        return Counter(kind for kind, _ in self.faults)

    def finish(self) -> Counter[str]:
        """Ends all of it in order; says how many faults there have been of each kind."""
        try:
            self._call(self._end())
        finally:
            self.close()
        return self.lost()

    def end(self) -> None:
        """The same. AssertionError where anything has gone wrong."""
        assert not self.finish(), self.told()

    def told(self) -> str:
        """The faults, as far as somebody reads them."""
        return f"{self.lost()}: {self.faults[:5]}"

    def close(self) -> None:
        """Ends it at once. Idempotent."""
        if self._thread.is_alive():
            self._call(self._cancel())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(PATIENCE)
            self._loop.close()

    def __enter__(self) -> CrowdLoad:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(2 * PATIENCE)

    # ---- all of it ---------------------------------------------------------------------

    async def _begin(self) -> None:
        logging.getLogger("websockets").setLevel(logging.CRITICAL)
        await self.origin.start()
        sizes, there = self.sizes, self.origin.address
        self._busy = [Busy(self, there, number) for number in range(sizes.busy)]
        self._idle = [Idle(self, there, number) for number in range(sizes.idle)]
        self._half = [Half(self, there, number) for number in range(sizes.half)]
        self._slow = [Slow(self, there, number) for number in range(sizes.slow)]
        sockets = [
            WebSocket(self, self.origin.websockets, number) for number in range(sizes.websockets)
        ]
        self._all: list[Client] = [
            *self._busy, *self._idle, *self._half, *self._slow, *sockets,
            *(Asking(self, there, number) for number in range(sizes.asking)),
            *(Closing(self, there, number) for number in range(sizes.closing)),
            *(Fleeting(self, there, number) for number in range(sizes.fleeting)),
            *(Bodies(self, there, number) for number in range(sizes.bodies)),
        ]  # fmt: skip
        for at in range(0, len(self._all), 50):
            await asyncio.gather(*(one.open() for one in self._all[at : at + 50]))
        self._tasks = [asyncio.create_task(one.guarded()) for one in self._all]

    async def _goes_on(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        before = {one: one.progress for one in self._all if one.progress >= 0}
        while left := [one for one, was in before.items() if one.progress == was and one.lives]:
            if time.monotonic() > end:
                raise TimeoutError(f"{len(left)} stand still, such as {left[0].name}")
            await asyncio.sleep(0.01)

    async def _end(self) -> None:
        self._stop.set()
        self.origin.release.set()
        _, late = await asyncio.wait(self._tasks, timeout=PATIENCE)
        self.faults += [("late", str(one)) for one in late]

    async def _cancel(self) -> None:
        self._stop.set()
        await cancelled(getattr(self, "_tasks", []))
        for one in getattr(self, "_all", []):
            one.close()
        await self.origin.stop()

    # ---- for clients -------------------------------------------------------------------

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    async def pause(self, seconds: float) -> None:
        """So long, or until the end."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    async def connect(self, limit: int = 1 << 16, room: int = 0) -> Stream:
        """A connection to the proxy; ``room`` is that of its receive buffer."""
        sock = socket.socket()
        sock.setblocking(False)
        if room:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        try:
            await self._loop.sock_connect(sock, self._proxy)
            return Stream(*await asyncio.open_connection(sock=sock, limit=limit))
        except BaseException:
            sock.close()
            raise


@contextlib.contextmanager
def crowd(proxy: Address, sizes: Sizes = ALL) -> Iterator[CrowdLoad]:
    """A load that has ended without a fault when the block is left."""
    with CrowdLoad(proxy, sizes) as load:
        yield load
        load.end()
