"""What a proxy loads when it already serves.

c-ares and the tables for names that are not ASCII take a tenth of the time of a start, and most
first requests need neither. Who needs one at once loads it at once. All are loaded soon, because
later there may be no descriptor for it, or the files may be of another version.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable, Sequence

from spliceproxy.messages import log
from spliceproxy.policy import names
from spliceproxy.site import pages
from spliceproxy.upstream import ares
from spliceproxy.upstream.channels import is_exhausted

AFTER = 0.1
"""Seconds between the start and the first of it, and between two of it. The event loop stands still
for some milliseconds each time."""

AGAIN = 1.0
"""Seconds until it is tried again where there was no descriptor, or no memory."""


def _load_reloads() -> None:
    from spliceproxy.processes import judging_again, reconfigured, retired  # noqa: F401


def _load_moving() -> None:
    """What gives all to another worker. Later its files may be of another version."""
    from spliceproxy.forward import moving  # noqa: F401
    from spliceproxy.processes import giving, taking  # noqa: F401

    if "spliceproxy.relay.portable.engine" in sys.modules:
        from spliceproxy.relay.portable import moving as ways  # noqa: F401


def _load_socks() -> None:
    from spliceproxy.front import forwards, redirected, socks, spoken  # noqa: F401


LOADS: Sequence[Callable[[], None]] = (
    ares.load,
    names.load,
    pages.load,
    _load_socks,
    _load_reloads,
    _load_moving,
)


class Rest:
    """Of one event loop."""

    __slots__ = ("_left", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._left = list(LOADS)
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """A proxy serves."""
        self._timer = self._loop.call_later(AFTER, self._load)

    def stop(self) -> None:
        """It ends. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _load(self) -> None:
        load, again = self._left[0], AFTER
        try:
            load()
        except (ImportError, MemoryError, OSError) as error:
            if isinstance(error, MemoryError) or is_exhausted():
                importlib.invalidate_caches()  # a folder that could not be read passes for empty
                again = AGAIN
            else:
                log.error("cannot load what is needed later: %s", error)
                self._left.remove(load)
        else:
            self._left.remove(load)
        self._timer = self._loop.call_later(again, self._load) if self._left else None
