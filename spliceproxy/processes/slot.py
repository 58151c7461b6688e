"""The place of a child of the supervisor's: who runs there, and when the next one starts."""

from __future__ import annotations

import time
from typing import NamedTuple

from spliceproxy.admin.channel import Channel
from spliceproxy.kept import Texts, nothing

BACKOFF_FIRST = 0.1
BACKOFF_LAST = 10.0
"""Seconds from a child's death to the next start. There are none the first time. While it dies
young, they double between these two."""


class Place(NamedTuple):
    """What a worker is told of itself: which one it is, whose queues it has among those of all
    workers, its row on the board, how many processes there were before it, and whether it
    ``waits`` until it is told to serve. ``again``: there was one before it in this place.
    ``shared``: others accept its clients until it says that it serves. ``kept`` is what files said
    that it goes by."""

    worker: int
    queue: int
    row: int
    serial: int
    waits: bool
    again: bool = False
    shared: bool = False
    kept: Texts = nothing()


class Slot:
    """Of a worker, or of the admin process. ``pid`` is the process that runs there, 0 for none;
    ``channel`` the supervisor's end of the control channel to it. ``row`` is where it counts.
    ``renewed``: its end is wanted, and another is to follow."""

    __slots__ = (
        "channel", "delay", "due", "index", "name", "pid", "renewed", "row", "started", "starts",
    )  # fmt: skip

    def __init__(self, name: str, index: int, row: int | None = None) -> None:
        self.name = name
        self.index = index
        self.row = index if row is None else row
        self.pid = 0
        self.channel: Channel | None = None
        self.renewed = False
        self.starts = 0
        self.started = 0.0
        self.due = 0.0  # when the next one starts, time.monotonic()
        self.delay = 0.0  # what the next young death will cost

    def begin(self, pid: int, channel: Channel) -> None:
        """A process runs here from now on."""
        self.pid = pid
        self.channel = channel
        self.starts += 1
        self.started = time.monotonic()

    def end(self) -> None:
        """It runs no more."""
        self.pid = 0
        self.hang_up()

    def hang_up(self) -> None:
        """Closes the channel. Idempotent."""
        channel, self.channel = self.channel, None
        if channel is not None:
            channel.close()

    def postpone(self) -> float:
        """Sets the next start; returns the seconds until then."""
        wait = self.delay
        self.due = time.monotonic() + wait
        self.delay = min(max(2 * wait, BACKOFF_FIRST), BACKOFF_LAST)
        return wait
