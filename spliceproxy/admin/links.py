"""The admin process's side of the control channels: it asks the workers and the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from spliceproxy.admin.channel import Channel, Closed, Message, Troubled, close_all
from spliceproxy.admin.reader import Reader


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
        self._reader = Reader(asyncio.get_running_loop(), channel, self._heard, self.close)
        self._reader.start()

    def close(self) -> None:
        """Whoever waits for an answer gets none. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._reader.stop()
        self._channel.close()
        for queue in self._open.values():
            queue.put_nowait({"gone": True})
        self._ended()

    def tell(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """A message to which there is no answer; the descriptors stay the caller's, too.
        Unanswered."""
        if self._closed:
            raise Unanswered(f"{self.name} has ended")
        try:
            self._send(message, fds)
        except Closed:
            self.close()
            raise Unanswered(f"{self.name} has ended") from None

    def _send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Closed. Unanswered."""
        try:
            if self._channel.send(message, fds):
                return
        except Troubled as error:
            raise Unanswered(f"{self.name} cannot be asked: {error}") from None
        raise Unanswered(f"{self.name} does not read what it is asked")

    async def ask(self, name: str, seconds: float | None, **values: Any) -> Message:
        """The answer, of one message, within so many seconds; None: whenever it comes. Unanswered;
        Refused."""
        async for part in self.parts(name, seconds, **values):
            return part
        return {}

    async def parts(
        self, name: str, seconds: float | None, **values: Any
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
                    self._want(ident)
        finally:
            del self._open[ident]
            if not ended and not self._closed:
                try:
                    self.tell({"cancel": ident})
                except Unanswered:
                    pass  # then it sends a few more parts, which nobody looks at

    def _want(self, ident: int) -> None:
        """One more part may be sent. Unanswered. Where the other has ended, what it has said before
        is still to be read, and behind that its end."""
        if not self._closed:
            with contextlib.suppress(Closed):
                self._send({"more": ident})

    def _heard(self, message: Message, fds: list[int]) -> None:
        if "re" not in message:
            self._told(message, fds)
            return
        close_all(fds)
        queue = self._open.get(message["re"])
        if queue is not None:
            queue.put_nowait(message)


class Worker:
    """A process of the worker ``index`` that the admin process has met. ``row`` is its own on the
    board. ``leaves``: another has its place, or is to have none, and it drains. ``met`` is when it
    was introduced (monotonic seconds); ``silent`` why it cannot be asked now, "" while it
    answers."""

    __slots__ = ("index", "leaves", "link", "listens", "met", "pid", "ping", "row", "silent")

    def __init__(self, index: int, row: int, pid: int, link: Link, *, leaves: bool) -> None:
        self.index = index
        self.row = row
        self.pid = pid
        self.leaves = leaves
        self.link = link
        self.met = time.monotonic()
        self.silent = ""
        self.ping: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ping.set_result(None)  # of the watch: it is not done while it has not answered that
        self.listens = False  # it tells of events

    def __str__(self) -> str:
        return f"worker {self.index} (pid {self.pid})"
