"""Idle connections to origins, kept for the next request to the same place."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Container
from functools import partial
from typing import Protocol

from spliceproxy.net.stream import Stream

Key = tuple[str, int, str]
"""Host, port, and the address dialled from ("": any)."""

MAX_IDLE = 10.0
"""Seconds an idle connection is kept: below the keep-alive time of most servers (nginx 75 s,
HAProxy 10 s or more; Apache's 5 s and Node's 5 s are shorter), so that few are taken just
as the origin closes them."""

PER_ORIGIN = 512
MOST = 16_384
"""Most idle connections, for one origin and in all: see :func:`most_idle`."""


OWN_SECONDS = 5.0
"""How long a client that has used a connection may send on it what cannot be sent again, unless
another has used it since (OWN_MS of native/lane/origins.pxd). An origin seldom closes so soon."""


def most_idle() -> int:
    """How many idle connections this process may have. Each costs a descriptor: of these most are
    left to clients."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST if soft == resource.RLIM_INFINITY else min(MOST, soft // 4)


_Entry = tuple[Stream, str, float, object]
"""The connection, its peer, until when it is kept, and who used it last."""


class Pool(Protocol):
    """Where idle connections are kept."""

    def __len__(self) -> int: ...
    def take(self, key: Key, addresses: Container[str]) -> tuple[Stream, str] | None: ...
    def take_own(
        self, key: Key, addresses: Container[str], user: object
    ) -> tuple[Stream, str] | None: ...
    def put(self, key: Key, stream: Stream, peer: str, user: object) -> None: ...
    def close(self) -> None: ...


class IdlePool:
    """Last in, first out for each origin. If an origin sends anything on an idle connection, a
    FIN included, the connection is closed at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._idle: dict[Key, list[_Entry]] = {}
        self._most = most_idle()
        self._keys: dict[Stream, Key] = {}  # of all of them, the one unused for longest first
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._keys)

    def take(self, key: Key, addresses: Container[str]) -> tuple[Stream, str] | None:
        """Of the connections to one of ``addresses`` the one that was used last, and its peer's
        address. One whose origin has just sent something is closed and not returned: that may
        be a 408 before it closes, which would pass for the answer to the next request."""
        stack = self._idle.get(key, [])
        at = len(stack)
        while at:
            at -= 1
            if stack[at][1] not in addresses:
                continue
            taken = self._take_out(key, at)
            if taken is not None:
                return taken
        return None

    def take_own(
        self, key: Key, addresses: Container[str], user: object
    ) -> tuple[Stream, str] | None:
        """The same, but only the connection that ``user`` was the last to use, at most
        OWN_SECONDS ago."""
        since = self._loop.time() - OWN_SECONDS
        stack = self._idle.get(key, [])
        for at in range(len(stack) - 1, -1, -1):
            _, peer, until, last = stack[at]
            if until - MAX_IDLE < since:
                break
            if last is user:
                return self._take_out(key, at) if peer in addresses else None
        return None

    def _take_out(self, key: Key, at: int) -> tuple[Stream, str] | None:
        stack = self._idle[key]
        stream, peer, _, _ = stack.pop(at)
        del self._keys[stream]
        if not stack:
            del self._idle[key]
        stream.unwatch()
        if stream.is_quiet():
            return stream, peer
        stream.close()
        return None

    def put(self, key: Key, stream: Stream, peer: str, user: object = None) -> None:
        """Keeps a connection that is between two messages, and that ``user`` has used. If there
        is no room, the one that has not been used for longest is closed: its origin, too, will
        close that first."""
        if stream.buffer:
            stream.close()
            return
        stack = self._idle.get(key, [])
        if len(stack) >= PER_ORIGIN:
            self._close_one(stack[0][0])
        elif len(self._keys) >= self._most:
            self._close_one(next(iter(self._keys)))
        entry = stream, peer, self._loop.time() + MAX_IDLE, user
        self._idle.setdefault(key, []).append(entry)
        self._keys[stream] = key
        stream.watch(partial(self._close_one, stream), quiet=True)
        if self._timer is None:
            self._timer = self._loop.call_later(MAX_IDLE, self._sweep)

    def _close_one(self, stream: Stream) -> None:
        self._drop(self._keys[stream], lambda entry: entry[0] is stream)

    def _drop(self, key: Key, doomed: Callable[[_Entry], bool]) -> None:
        stack = self._idle.get(key, [])
        keep = []
        for entry in stack:
            if doomed(entry):
                entry[0].close()
                del self._keys[entry[0]]
            else:
                keep.append(entry)
        if keep:
            self._idle[key] = keep
        else:
            self._idle.pop(key, None)

    def _sweep(self) -> None:
        self._timer = None
        now = self._loop.time()
        try:
            for key in list(self._idle):
                self._drop(key, lambda entry: entry[2] <= now)
        finally:
            if self._idle:
                self._timer = self._loop.call_later(1.0, self._sweep)

    def close(self) -> None:
        """Closes every idle connection."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for key in list(self._idle):
            self._drop(key, lambda entry: True)
