"""What the handlers of the admin process share: whom it can ask, and what it has been told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from spliceproxy.admin.channel import Channel, Message, close_all
from spliceproxy.admin.events import Events
from spliceproxy.admin.links import Link, Refused, Unanswered, Worker
from spliceproxy.config import Config
from spliceproxy.messages import log
from spliceproxy.observe.board import Board

ANSWER_SECONDS = 5.0
"""For one answer, or a part of one, of a worker or the supervisor."""


class Desk:
    """Of the admin process. ``board`` is where all count. ``draining``: the proxy stops.
    ``workers`` are those that live, by their index."""

    def __init__(self, config: Config, channel: Channel, board: Board, *, draining: bool) -> None:
        self.config = config
        self.board = board
        self.draining = draining
        self.started = time.monotonic()
        self.workers: dict[int, Worker] = {}
        self.events = Events(self)
        self.publish = self.events.publish
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the supervisor has ended, or wants this process to."""
        self.supervisor = Link("the supervisor", channel, self._told, self._end)

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def _told(self, message: Message, fds: list[int]) -> None:
        """By the supervisor."""
        if message.get("meet") == "worker" and len(fds) == 1:
            self._meet(int(message["index"]), int(message["pid"]), Channel.of(fds[0]))
            return
        close_all(fds)
        if message.get("state") == "draining":
            self.draining = True
            self.publish("state", {"state": "draining"})
        elif "gone" in message:
            what = {"index": message["gone"], "pid": message["pid"], "how": message["how"]}
            self.publish("worker", {"what": "ended", **what})

    def listen(self, *, on: bool) -> None:
        """The workers tell what happens, or cease to."""
        for worker in list(self.workers.values()):
            self._listen(worker, on=on)

    def _listen(self, worker: Worker, *, on: bool) -> None:
        try:
            worker.link.tell({"ask": "events", "on": on})
        except Unanswered as error:
            log.warning("no events: %s", error)

    def _meet(self, index: int, pid: int, channel: Channel) -> None:
        before = self.workers.pop(index, None)
        if before is not None:
            before.link.close()

        def ended() -> None:
            if self.workers.get(index) is worker:
                del self.workers[index]

        link = Link(f"worker {index} (pid {pid})", channel, self._said, ended)
        worker = Worker(index, pid, link)
        self.workers[index] = worker
        self.publish("worker", {"what": "started", "index": index, "pid": pid})
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
        """Each worker's answer by its index, or why there is none."""
        workers = list(self.workers.values())
        answers = await asyncio.gather(
            *(self._ask(worker, name, seconds, values) for worker in workers)
        )
        return {worker.index: one for worker, one in zip(workers, answers, strict=True)}

    async def _ask(
        self, worker: Worker, name: str, seconds: float, values: Mapping[str, Any]
    ) -> Message | str:
        try:
            answer = await worker.link.ask(name, seconds, **values)
        except (Unanswered, Refused) as error:
            return str(error)
        except Exception:
            log.exception("%s could not be asked", worker)
            return f"{worker} could not be asked"
        worker.seen = time.monotonic()
        return answer
