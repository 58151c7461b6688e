"""A worker's part when it takes the place of another, or another takes its.

It is told so by the control channel. The descriptors are the ends of a pair of sockets, by which
two workers agree (:mod:`spliceproxy.processes.parcels`).

    {"ask": "serve"}                    accept clients: a worker that was started to take a place
                                        waits for this, and has said {"ready": true}
    {"ask": "take"} and a descriptor    take what another worker gives at its other end
    {"ask": "give"} and a descriptor    accept no more, and give what can move to the worker at its
                                        other end; {"gave": ...} or {"kept": WHY} is said of it.
                                        "dropped" are inodes of sockets that only this one has
    {"ask": "stay"}                     give nothing more, and serve on. With "back" the other
                                        worker gives back what it has got, for it will end
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from spliceproxy.admin.channel import Message, close_all
from spliceproxy.admin.worker import Replies
from spliceproxy.messages import log, plain
from spliceproxy.processes.instance import Instance

if TYPE_CHECKING:
    import socket

    from spliceproxy.processes.giving import Giver
    from spliceproxy.processes.taking import Taker


class Moves:
    """Of one worker. ``serve`` is done when it is told so; ``leaves``: it drains."""

    def __init__(self, instance: Instance, replies: Replies) -> None:
        loop = instance.services.loop
        self._instance = instance
        self._replies = replies
        self._giver: Giver | None = None
        self._takers: set[Taker] = set()
        self.serve: asyncio.Future[None] = loop.create_future()
        self.leaves = False
        replies.order("serve", self._serve)
        replies.order("stay", self._stay)
        replies.order("give", self._give)
        replies.order("take", self._take)

    def _serve(self, order: Message) -> Mapping[str, Any]:
        if not self.serve.done():
            self.serve.set_result(None)
        return {}

    def _give(self, order: Message) -> Mapping[str, Any]:
        """Another worker is to take what this one serves."""
        before, self._giver = self._giver, None
        if before is not None:
            before.end("another worker takes its place")
        fds: list[int] = order["fds"]
        if len(fds) != 1:
            close_all(fds)
            self._instance.services.origins.close_idle()  # or there is none at the next try either
            self._replies.report({"kept": "there was no free descriptor for the other worker"})
            return {}
        from spliceproxy.processes.giving import Giver
        from spliceproxy.processes.parcels import Line

        instance = self._instance
        instance.server.keep_queues(order.get("dropped", ()))
        giver = self._giver = Giver(
            instance.services.loop,
            Line.of(fds[0]),
            instance.server,
            instance.moving,
            lambda report: self._gave(giver, report),
        )
        giver.start()
        return {}

    def _stay(self, order: Message) -> Mapping[str, Any]:
        if self._giver is None or self._giver.closed:
            return {}
        back = self._way_back() if order.get("back") and not self.leaves else None
        self._giver.end("the other worker takes no place", back)
        return {}

    def _way_back(self) -> socket.socket | None:
        """This worker takes what is given at the other end; None where it cannot."""
        from spliceproxy.processes.parcels import pair

        try:
            own, other = pair()
        except OSError as error:
            log.error("what has moved to the other worker stays there: %s", plain(error))
            return None
        self._take({"fds": [own.detach()]})
        return other

    def _gave(self, giver: Giver, report: Mapping[str, Any]) -> None:
        if giver is not self._giver:  # another has its place
            return
        self._replies.report(report)
        if "kept" in report and not self.leaves:
            log.warning("this worker serves on: %s", report["kept"])
            self._instance.server.resume()

    def _take(self, order: Message) -> Mapping[str, Any]:
        """This worker is to take what another one serves."""
        fds: list[int] = order["fds"]
        if len(fds) != 1:
            close_all(fds)  # who is at the other end sees that
            return {}
        from spliceproxy.processes.parcels import Line
        from spliceproxy.processes.taking import Taker

        instance = self._instance
        taker = Taker(
            instance.services.loop, Line.of(fds[0]), instance.server, instance.moving, self._took
        )
        self._takers.add(taker)
        taker.start()
        return {}

    def _took(self, taker: Taker) -> None:
        self._takers.discard(taker)
        self._replies.report({"took": dict(taker.taken)})
        if taker.back < 0:
            return
        if not self._instance.server.connections:
            close_all([taker.back])
            return
        log.info("what this worker has taken is given back")
        self._give({"fds": [taker.back]})
