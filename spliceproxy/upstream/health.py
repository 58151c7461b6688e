"""Whether a parent can be reached: it is put aside after some failures, and tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from spliceproxy.errors import Failure
from spliceproxy.messages import log

FAILURES = 3
"""Failures in a row after which a parent is put aside. Only those count that are its own: it cannot
be connected to, TLS fails, or it does not take our credentials. So no client can put it aside for
others by what it asks for."""

FIRST, LONGEST = 1.0, 10.0
"""Seconds until a parent that was put aside is tried again: twice as long each time."""


class Health:
    """Of one parent. ``try_it`` connects to it and closes again, or raises Failure; ``count`` is
    told "failed", "down" and "up". ``granted`` says how many tunnels it has granted so far: those
    that the relay has asked for are not told one by one."""

    __slots__ = (
        "_count",
        "_delay",
        "_failures",
        "_finished",
        "_granted",
        "_loop",
        "_name",
        "_seen",
        "_task",
        "_try_it",
        "down",
        "unproven",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        try_it: Callable[[], Awaitable[None]],
        count: Callable[[str], None],
        granted: Callable[[], int] = int,
    ) -> None:
        self._loop = loop
        self._name = name
        self._try_it = try_it
        self._count = count
        self._granted = granted
        self._seen = granted()
        self._failures = 0
        self._delay = FIRST
        self._task: asyncio.Task[None] | None = None
        self._finished = False
        self.unproven = False  # it answers, and no request has come through since
        self.down = False

    def worked(self) -> None:
        """A request has come through."""
        self._failures, self._delay = 0, FIRST
        if self.down or self.unproven:
            self._rise("the parent %s is there again", proven=True)

    def failed(self, failure: Failure) -> None:
        """It is at fault."""
        self._count("failed")
        granted = self._granted()
        if granted != self._seen:  # since the last failure: it is none of a row
            self._seen = granted
            self._failures, self._delay = 0, FIRST
        self._failures += 1
        if self.down or self._failures < FAILURES or self._finished:
            return
        self.down = True
        self._count("down")
        log.warning(
            "the parent %s is put aside: %s; it is tried again in %g s",
            self._name,
            failure.detail,
            self._delay,
        )
        self._task = self._loop.create_task(self._look())

    def finish(self) -> None:
        """Nobody is interested any more, whatever becomes of those who are at it."""
        self._finished = True
        if self._task is not None:
            self._task.cancel()

    async def _look(self) -> None:
        while self.down:
            await asyncio.sleep(self._delay)
            self._delay = min(2 * self._delay, LONGEST)
            try:
                await self._try_it()
            except Failure as failure:
                log.debug("the parent %s is still down: %s", self._name, failure.detail)
            except Exception:
                log.exception("the parent %s could not be tried again", self._name)
            else:
                # That it answers says little: the next failure puts it aside again.
                self._failures = FAILURES - 1
                if self.down:
                    self._rise("the parent %s can be connected to: requests try it", proven=False)

    def _rise(self, text: str, *, proven: bool) -> None:
        self.unproven = not proven
        if self.down:
            self.down = False
            self._count("up")
        log.info(text, self._name)
