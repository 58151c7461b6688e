"""Reads a control channel as messages come: the same for who asks and who answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from spliceproxy.admin.channel import Channel, Closed, Message, Troubled

MOST_READ = 16
"""Messages of one channel that are read before the event loop goes on."""

PAUSE = 0.1
"""Seconds until a channel is looked at again that the kernel could not read."""


class Reader:
    """``take`` gets each message with its descriptors, which are its own; ``ended`` is called when
    the other end is closed. Both may :meth:`stop` it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        channel: Channel,
        take: Callable[[Message, list[int]], None],
        ended: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._channel = channel
        self._take = take
        self._ended = ended
        self._on = False
        self._pause: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins to read."""
        self._pause = None
        self._on = True
        self._loop.add_reader(self._channel.fileno(), self._read)

    def stop(self) -> None:
        """Before the channel is closed. Idempotent."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._on:
            self._on = False
            self._loop.remove_reader(self._channel.fileno())

    def _read(self) -> None:
        for _ in range(MOST_READ):
            try:
                found = self._channel.receive()
            except Closed:
                self._ended()
                return
            except Troubled:
                self.stop()
                self._pause = self._loop.call_later(PAUSE, self.start)
                return
            if found is None:
                return
            self._take(*found)
            if not self._on:
                return
