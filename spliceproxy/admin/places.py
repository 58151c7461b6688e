"""The places at the admin address: who has one, and who makes room for another.

Health is asked for without a token, by what restarts the proxy where it gets no answer. So nobody
may keep it out. Where all places are taken, whoever is only waited for makes room: those first who
have their last answer, and then those who ask nothing, do not end what they ask, or do not read
what they have asked for without a token. What needs a token keeps its place, and may not take the
last ones. Others wait in the queue of the kernel meanwhile, where each has its turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

CONNECTIONS = 64
"""Places."""

OPEN = 16
"""Of these, those that are for what needs no token."""

PATIENCE = 0.05
"""Seconds for which nobody has to make room: who asks at once is answered."""


class Places:
    """Of one server. ``pressed``: somebody waits for a place, so nobody keeps one for longer than
    for an answer."""

    def __init__(self) -> None:
        self.pressed = False
        self._taken: set[asyncio.WriteTransport] = set()
        # Who is waited for, and since when (monotonic seconds): the first for longest.
        self._awaited: dict[asyncio.WriteTransport, float] = {}
        self._leaving: dict[asyncio.WriteTransport, None] = {}
        self._closed = 0  # requests that have given a token and have no answer yet
        self._news = asyncio.Event()

    @property
    def all(self) -> list[asyncio.WriteTransport]:
        """Those that have a place."""
        return list(self._taken)

    async def room(self) -> None:
        """Comes back when there is a place."""
        try:
            while len(self._taken) >= CONNECTIONS and not self._put_out():
                self.pressed = True
                self._news.clear()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._news.wait(), PATIENCE)
        finally:
            self.pressed = False

    def take(self, one: asyncio.WriteTransport) -> None:
        """It has a place from here on."""
        self._taken.add(one)
        self._awaited[one] = time.monotonic()

    def give_back(self, one: asyncio.WriteTransport) -> None:
        """It needs none any more. Idempotent."""
        self._taken.discard(one)
        self._awaited.pop(one, None)
        self._leaving.pop(one, None)
        self._news.set()

    def leaves(self, one: asyncio.WriteTransport) -> None:
        """It has its last answer."""
        if self._awaited.pop(one, None) is not None:
            self._leaving[one] = None
            self._news.set()

    @contextlib.contextmanager
    def kept(self, one: asyncio.WriteTransport) -> Iterator[None]:
        """It keeps its place: it is waited for by its client, and not the other way round."""
        self._awaited.pop(one, None)
        try:
            yield
        finally:
            if one in self._taken:
                self._awaited[one] = time.monotonic()

    @contextlib.contextmanager
    def kept_closed(self, one: asyncio.WriteTransport) -> Iterator[bool]:
        """The same for what needs a token, until its answer is sent. False: there are too many."""
        if self._closed >= CONNECTIONS - OPEN:
            yield False
            return
        self._closed += 1
        try:
            with self.kept(one):
                yield True
        finally:
            self._closed -= 1

    def _put_out(self) -> bool:
        """Whether somebody has made room."""
        one = next(iter(self._leaving), None)
        if one is None:
            one = next(iter(self._awaited), None)
            if one is None or self._awaited[one] > time.monotonic() - PATIENCE:
                return False
        self.give_back(one)
        one.abort()
        return True
