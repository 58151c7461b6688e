"""One channel of c-ares, run by the event loop.

The loop watches the sockets of c-ares and tells it the time. c-ares could do that on a thread of
its own; then each answer would wait for Python's lock and wake the loop, which costs more than
all the rest of a look-up.

pycares is loaded with the first channel: most of what starts asks for no name at first.
"""

from __future__ import annotations

import asyncio
import socket
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pycares import AddrInfoResult

# Of ares.h: they are part of its ABI. tests/unit/test_resolver.py compares them.
ENODATA = 1
ESERVFAIL = 3
ENOTFOUND = 4
EREFUSED = 6
ECONNREFUSED = 11
ETIMEOUT = 12
_SOCKET_BAD = -1

TICK = 0.05
"""Seconds between two looks at the time while a question is open. c-ares counts in hundreds of
milliseconds. One timer that ticks costs less than one for each question."""

Answered = Callable[["AddrInfoResult | None", int | None], None]
"""Gets the addresses, or an error of ares.h."""


def load() -> None:
    """Loads what the first channel would."""
    import pycares.errno  # noqa: F401


class Channel:
    """Create it inside the event loop. ``timeout`` is that of a try in seconds; ``nameservers``
    (None: those of resolv.conf) are ``IP``, ``IP:PORT`` or ``[IPv6]:PORT``. ValueError for others,
    and where c-ares cannot begin."""

    __slots__ = ("__weakref__", "_ares", "_asking", "_loop", "_open", "_timer", "_watched")

    def __init__(self, timeout: float, tries: int, nameservers: Sequence[str] | None) -> None:
        from pycares import AresError
        from pycares import Channel as Ares

        self._loop = asyncio.get_running_loop()
        self._open = 0  # questions
        self._asking = False
        self._timer: asyncio.TimerHandle | None = None
        self._watched: dict[int, tuple[bool, bool]] | None = {}  # None: it is closed
        # No `lookups`, nor any other text: pycares (5.2) hands c-ares memory that it has freed. So
        # c-ares looks into /etc/hosts, too, but no name there has a dot at its end, and all that
        # are asked for have.
        changed = partial(_watch, weakref.ref(self))
        try:
            self._ares = Ares(timeout=timeout, tries=tries, sock_state_cb=changed)
            if nameservers:
                self._ares.servers = list(nameservers)
        except AresError as error:
            raise ValueError(str(error.args[-1])) from error

    def ask(self, name: str, family: socket.AddressFamily, answered: Answered) -> None:
        """Asks for the addresses of one family of an absolute name. ``answered`` is called later,
        once, and never within this call. Until then the channel lives on."""
        if self._timer is None:
            self._timer = self._loop.call_later(TICK, self._tick)
        self._asking = True
        try:
            self._ares.getaddrinfo(
                name,
                None,
                family=family,
                type=socket.SOCK_STREAM,
                callback=partial(self._answered, answered),
            )
        finally:
            self._asking = False
        self._open += 1  # where it raises nothing is open

    def _answered(
        self, answered: Answered, result: AddrInfoResult | None, error: int | None
    ) -> None:
        self._open -= 1
        if self._asking:  # c-ares knows the answer, or cannot ask
            self._loop.call_soon(answered, result, error)
        else:
            answered(result, error)

    def _tick(self) -> None:
        self._timer = None
        if not self._open and not self._watched:
            return
        try:
            self._ares.process_fd(_SOCKET_BAD, _SOCKET_BAD)  # what is late is asked again, or fails
        finally:
            if self._open or self._watched:
                self._timer = self._loop.call_later(TICK, self._tick)

    # The loop holds the channel while it watches a socket: c-ares asks servers that have failed
    # before once more, behind a question that is answered, and closes that socket later.

    def _read(self, fd: int) -> None:
        self._ares.process_read_fd(fd)

    def _write(self, fd: int) -> None:
        self._ares.process_write_fd(fd)

    def watch(self, fd: int, reads: bool, writes: bool) -> None:
        """c-ares waits for this descriptor, or does no more, because it closes it."""
        if self._watched is None:  # it is closed on a thread of pycares
            return
        read, write = self._watched.pop(fd, (False, False))
        if reads != read:
            if reads:
                self._loop.add_reader(fd, self._read, fd)
            else:
                self._loop.remove_reader(fd)
        if writes != write:
            if writes:
                self._loop.add_writer(fd, self._write, fd)
            else:
                self._loop.remove_writer(fd)
        if reads or writes:
            self._watched[fd] = reads, writes

    async def close(self) -> None:
        """Ends it: what was asked is answered with an error before this returns. Idempotent."""
        if self._watched is None:
            return
        self._ares.cancel()
        for fd in list(self._watched):
            self.watch(fd, False, False)
        self._watched = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._ares.close()


def _watch(channel: Callable[[], Channel | None], fd: int, reads: bool, writes: bool) -> None:
    """A channel that nobody holds any more is closed by pycares, on a thread of its own. It has no
    question then, and so no socket."""
    found = channel()
    if found is not None:
        found.watch(fd, bool(reads), bool(writes))
