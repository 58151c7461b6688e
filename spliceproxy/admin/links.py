"""The admin process's side of the control channels: it asks the workers and the supervisor."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from spliceproxy.admin.channel import Channel, Closed, Message, close_all

MOST_READ = 16
"""Messages of one link that are read before the event loop goes on."""


class Unanswered(Exception):
    """There is no answer; the text says of whom, and why."""


class Refused(Exception):
    """The answer is that the question makes no sense; the text says why."""


class Link:
    """A channel to ``name``. ``told`` gets each message that is no answer, with the descriptors
    that came along, which are its own; ``ended`` is called when the other end is closed."""

    def __init__(
        self,
        name: str,
        channel: Channel,
        told: Callable[[Message, list[int]], None],
        ended: Callable[[], None],
    ) -> None:
        self.name = name
        self._channel = channel
        self._told = told
        self._ended = ended
        self._idents = itertools.count(1)
        self._open: dict[int, asyncio.Queue[Message]] = {}
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(channel.fileno(), self._read)

    def close(self) -> None:
        """Whoever waits for an answer gets none. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._channel.fileno())
        self._channel.close()
        for queue in self._open.values():
            queue.put_nowait({"gone": True})
        self._ended()

    def tell(self, message: Mapping[str, Any]) -> None:
        """A message to which there is no answer. Unanswered."""
        if self._closed:
            raise Unanswered(f"{self.name} has ended")
        try:
            if self._channel.send(message):
                return
        except Closed:
            self.close()
            raise Unanswered(f"{self.name} has ended") from None
        raise Unanswered(f"{self.name} does not read what it is asked")

    async def ask(self, name: str, seconds: float, **values: Any) -> Message:
        """The answer, of one message, within so many seconds. Unanswered; Refused."""
        async for part in self.parts(name, seconds, **values):
            return part
        return {}

    async def parts(
        self, name: str, seconds: float, **values: Any
    ) -> AsyncGenerator[Message, None]:
        """The parts of an answer, each within so many seconds. Unanswered; Refused."""
        ident = next(self._idents)
        queue = self._open[ident] = asyncio.Queue()
        ended = False
        try:
            self.tell({"ask": name, "id": ident, **values})
            while not ended:
                try:
                    part = await asyncio.wait_for(queue.get(), seconds)
                except asyncio.TimeoutError:
                    raise Unanswered(f"{self.name} does not answer") from None
                ended = part.pop("end", False) or "gone" in part
                if "gone" in part:
                    raise Unanswered(f"{self.name} has ended")
                if "error" in part:
                    raise Refused(part["error"])
                part.pop("re", None)
                if part or ended:
                    yield part
                if not ended:
                    self.tell({"more": ident})
        finally:
            del self._open[ident]
            if not ended and not self._closed:
                try:
                    self.tell({"cancel": ident})
                except Unanswered:
                    pass  # then it sends a few more parts, which nobody looks at

    def _read(self) -> None:
        for _ in range(MOST_READ):
            try:
                found = self._channel.receive()
            except Closed:
                self.close()
                return
            if found is None:
                return
            message, fds = found
            if "re" not in message:
                self._told(message, fds)
                continue
            close_all(fds)
            queue = self._open.get(message["re"])
            if queue is not None:
                queue.put_nowait(message)


class Worker:
    """A worker that the admin process has met. ``seen`` is when it has answered last, 0.0 if it
    never has; ``met`` when it was introduced (monotonic seconds)."""

    __slots__ = ("index", "link", "met", "pid", "seen")

    def __init__(self, index: int, pid: int, link: Link) -> None:
        self.index = index
        self.pid = pid
        self.link = link
        self.met = time.monotonic()
        self.seen = 0.0

    def __str__(self) -> str:
        return f"worker {self.index} (pid {self.pid})"
