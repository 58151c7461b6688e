"""The connection to an origin that belongs to one client's connection, between two requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container

from spliceproxy.net.stream import Stream
from spliceproxy.upstream.pool import Key


class BoundOrigin:
    """At most one connection, on which the origin has been told who its client is (RFC 4559
    section 6): nobody else may use it. One that says anything while idle, FIN included, or
    is idle for ``seconds``, is closed, and ``ended`` is called."""

    __slots__ = ("_ended", "_held", "_loop", "_seconds", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, ended: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._ended: Callable[[], None] | None = ended
        self._held: tuple[Key, Stream, str] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __bool__(self) -> bool:
        """Whether there is one."""
        return self._held is not None

    def take(self, key: Key, addresses: Container[str]) -> tuple[Stream, str] | None:
        """The connection and its peer's address, for a request to ``key`` that may go to
        ``addresses``; if it leads anywhere else, or its origin has just said something, it
        is closed."""
        if self._held is None:
            return None
        held, stream, peer = self._held
        if held != key or peer not in addresses:
            self._drop()
            return None
        stream.unwatch()
        if not stream.is_quiet():
            self._drop()
            return None
        self._let_go()
        return stream, peer

    def put(self, key: Key, stream: Stream, peer: str) -> None:
        """Takes over a connection between two messages; closes the one that it has."""
        self._drop()
        if stream.buffer:
            stream.close()
            return
        self._held = key, stream, peer
        self._timer = self._loop.call_later(self._seconds, self._end)
        stream.watch(self._end, quiet=True)

    def close(self) -> None:
        """Closes the connection, if there is one, and refers to its user no more: ``ended`` is
        not called."""
        self._drop()
        self._ended = None

    def _drop(self) -> None:
        if self._held is not None:
            stream = self._held[1]
            self._let_go()
            stream.close()

    def _let_go(self) -> None:
        self._held = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        self._drop()
        if self._ended is not None:
            self._ended()
