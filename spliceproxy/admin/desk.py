"""What the handlers of the admin process share: whom it can ask, and what it has been told."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spliceproxy.admin import channel
from spliceproxy.admin.channel import Channel, Message, close_all
from spliceproxy.admin.events import Events
from spliceproxy.admin.links import Link, Refused, Unanswered, Worker
from spliceproxy.admin.settings import handed
from spliceproxy.admin.watch import Watch, miss
from spliceproxy.config import Config
from spliceproxy.kept import ANY, Kept, packed, written
from spliceproxy.messages import log
from spliceproxy.observe.board import Board

ANSWER_SECONDS = 1.0
"""For one answer, or a part of one, of a worker that answers otherwise."""


RELOADS = 20
"""That are remembered."""


class Desk:
    """Of the admin process. ``board`` is where all count. ``draining``: the proxy stops.
    ``workers`` are those that live, by their rows on the board, and ``reloads`` the last ones
    (processes.history). ``kept`` is what the files of the settings say. ``changed`` is told that
    the settings are others, and gets a socket if they have another address for it."""

    def __init__(
        self,
        config: Config,
        to_supervisor: Channel,
        board: Board,
        *,
        draining: bool,
        reloads: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.config = config
        self.kept = Kept()
        self._untold = False  # of what is kept
        self.reloads = deque(reloads, maxlen=RELOADS)
        self.changed: Callable[[socket.socket | None], None] = lambda _: None
        self.board = board
        self.draining = draining
        self.started = time.monotonic()
        self.workers: dict[int, Worker] = {}
        self.events = Events(self)
        self.publish = self.events.publish
        self.watch = Watch(self)
        self._pids: dict[int, int] = {}  # of the workers that were told of, by their index
        self._unmet: set[int] = set()  # rows of those that came without a descriptor
        self._counted = 0  # errors of channels that the supervisor knows of
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the supervisor has ended, or wants this process to."""
        self.left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when another program has taken over, with an admin process of its own."""
        self.supervisor = Link("the supervisor", to_supervisor, self._told, self._end)

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def _told(self, message: Message, fds: list[int]) -> None:
        """By the supervisor."""
        if message.get("meet") == "worker" and len(fds) == 1:
            self._meet(message, Channel.of(fds[0]))
            return
        if "settings" in message:
            self._reconfigure(fds, int(message["sockets"]))
            return
        close_all(fds)
        if message.get("meet") == "worker":
            self._unmet.add(int(message["row"]))
            self.settle()
        elif "reloaded" in message:
            self.reloads.append(message["reloaded"])
            self.publish("reload", dict(message["reloaded"]))
        elif message.get("state") == "draining":
            self.draining = True
            self.publish("state", {"state": "draining"})
        elif message.get("state") == "leaving":
            if not self.left.done():
                self.left.set_result(None)
        elif "gone" in message:
            self.watch.ended(message["gone"], left="left" in message)
            what = {"index": message["gone"], "pid": message["pid"], "how": message["how"]}
            self.publish("worker", {"what": "ended", **what})

    def _reconfigure(self, fds: list[int], sockets: int) -> None:
        """By the supervisor, which has found these settings to be right. So many ``sockets`` come
        with them."""
        sock = None
        try:
            if len(fds) != 1 + sockets:
                log.error("the admin process may open no more descriptors: another is started")
                self._end()  # and it begins with them
                return
            self.config = handed(fds[0])
            if len(fds) > 1:
                sock = socket.socket(fileno=os.dup(fds[1]))
            self.changed(sock)
        finally:
            close_all(fds)

    def listen(self, *, on: bool) -> None:
        """The workers tell what happens, or cease to."""
        for worker in list(self.workers.values()):
            if (why := self._listen(worker, on=on)) is not None:
                log.warning("whether events are wanted is told later: %s", why)

    @staticmethod
    def _listen(worker: Worker, *, on: bool) -> Unanswered | None:
        try:
            worker.link.tell({"ask": "events", "on": on})
        except Unanswered as error:
            return error
        worker.listens = on
        return None

    def settle(self) -> None:
        """Tells what could not be told before. To be called every now and then."""
        for worker in list(self.workers.values()):
            if worker.listens != self.events.heard:
                self._listen(worker, on=self.events.heard)
        try:
            if self._untold:
                self._tell_kept()
            while self._unmet:
                self.supervisor.tell({"unmet": "worker", "row": min(self._unmet)})
                self._unmet.discard(min(self._unmet))
            if channel.errors > self._counted:
                counted = channel.errors
                self.supervisor.tell({"troubled": counted - self._counted})
                self._counted = counted
        except Unanswered:
            pass  # the next time

    def keep(self, kept: Kept) -> None:
        """What files say is kept for an admin process that comes later, whatever they say then."""
        self.kept = kept
        kept.told = self._keep
        self._keep()

    def _keep(self) -> None:
        self._untold = bool(self.kept.read.followed)
        self.settle()

    def _tell_kept(self) -> None:
        """To the supervisor, which looks into none of it. Unanswered."""
        try:
            fd = written(packed({}, self.kept.read.followed))
        except OSError:
            return  # the next time
        try:
            self.supervisor.tell({"kept": "followed", "generation": ANY}, [fd])
            self._untold = False
        finally:
            os.close(fd)

    def _meet(self, message: Message, end: Channel) -> None:
        index, row, pid = (int(message[name]) for name in ("index", "row", "pid"))
        leaves = bool(message["leaves"])
        before = self.workers.pop(row, None)
        if before is not None:
            before.link.close()

        def ended() -> None:
            if self.workers.get(row) is worker:
                del self.workers[row]
                self.watch.ended(index)

        link = Link(f"worker {index} (pid {pid})", end, self._said, ended)
        worker = Worker(index, row, pid, link, leaves=leaves)
        if not leaves:
            for one in self.workers.values():
                one.leaves = one.leaves or one.index == index
        self.workers[row] = worker
        self.watch.met(worker)
        if not leaves and self._pids.get(index) != pid:
            self._pids[index] = pid
            self.publish("worker", {"what": "started", "index": index, "pid": pid, "how": ""})
        if self.events.heard:
            self._listen(worker, on=True)

    def _said(self, message: Message, fds: list[int]) -> None:
        """By a worker, without being asked."""
        close_all(fds)
        for event in message.get("events", ()):
            self.publish(event.pop("kind", "lost"), event)
        if message.get("lost"):
            self.publish("lost", {"events": message["lost"]})

    async def ask_all(
        self, name: str, seconds: float = ANSWER_SECONDS, **values: Any
    ) -> Mapping[int, Message | str]:
        """Each worker's answer by its index, or why there is none: also of those that do not run,
        or cannot be asked. That of one which drains counts where it is missing."""
        await self.watch.look()
        workers = self.watch.answering()
        silent = dict(self.watch.silent())
        answers = await asyncio.gather(
            *(self._ask(worker, name, seconds, values) for worker in workers)
        )
        found: dict[int, Message] = {}
        for worker, said in zip(workers, answers, strict=True):
            if isinstance(said, str):
                miss(silent, worker.index, said)
            else:
                found[worker.index] = said
        return {**found, **silent}

    async def _ask(
        self, worker: Worker, name: str, seconds: float, values: Mapping[str, Any]
    ) -> Message | str:
        try:
            return await worker.link.ask(name, seconds, **values)
        except (Unanswered, Refused) as error:
            return str(error)
        except Exception:
            log.exception("%s could not be asked", worker)
            return f"{worker} could not be asked"
