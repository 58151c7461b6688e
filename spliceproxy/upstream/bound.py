"""The connection to an origin that belongs to one client's connection, between two requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container

from spliceproxy.net.stream import Stream
from spliceproxy.upstream.pool import Key


class BoundOrigin:
    """At most one connection. On it the origin has been told who its client is (RFC 4559
    section 6), so nobody else may use it. If the origin sends anything while it is idle, a FIN
    included, or if it is idle for ``seconds``, it is closed and ``ended`` is called."""

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

    def holds(self, key: Key) -> bool:
        """Whether there is one for this key."""
        return self._held is not None and self._held[0] == key

    def take(self, key: Key, addresses: Container[str]) -> tuple[Stream, str] | None:
        """The connection and its peer's address, for a request to ``key`` that may go to
        ``addresses``. If the connection leads anywhere else, or if its origin has just sent
        something, it is closed and the answer is None."""
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
        """Keeps a connection that is between two messages, and closes the one kept before."""
        self._drop()
        if stream.buffer:
            stream.close()
            return
        self._held = key, stream, peer
        self._timer = self._loop.call_later(self._seconds, self._end)
        stream.watch(self._end, quiet=True)

    def close(self) -> None:
        """Closes the connection, if there is one, and forgets ``ended``, which is not called."""
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
