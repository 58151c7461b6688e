"""A worker's part of a reload: it prepares another configuration, and begins to go by it.

The supervisor says so by its control channel (:mod:`spliceproxy.processes.reloading`):

    {"ask": "prepare", ...}   loads it, and answers whether it could; nothing has changed then
    {"ask": "switch", ...}    from the next line of code on it is in force
    {"ask": "forget"}         it will not be
    {"ask": "leave"}          the worker drains, for there will be fewer
    {"ask": "share"}          it accepts from the sockets of a worker that cannot start, too
    {"ask": "unshare", ...}   that worker serves
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spliceproxy.admin import level
from spliceproxy.admin.channel import Message, close_all
from spliceproxy.admin.settings import handed
from spliceproxy.messages import log, plain
from spliceproxy.processes.instance import Instance, Next
from spliceproxy.processes.keeping import Keeping
from spliceproxy.processes.listeners import inode

if TYPE_CHECKING:
    from spliceproxy.processes.judging_again import JudgingAgain

REASON_MOST = 4000
"""Characters of a reason that are told: a message has an end."""


class Reconfigured:
    """Of one worker. ``leave`` is called when it is to drain."""

    def __init__(
        self,
        instance: Instance,
        sockets: Sequence[socket.socket],
        keeping: Keeping,
        leave: Callable[[], None],
    ) -> None:
        self._instance = instance
        self._keeping = keeping
        self._leave = leave
        self._sockets = {inode(sock): sock for sock in sockets}
        self._coming: Next | None = None
        self._fresh: dict[int, socket.socket] = {}  # that came with it
        self._again: JudgingAgain | None = None

    def prepare(self, question: Message) -> Mapping[str, Any]:
        """``fds``: the configuration, and sockets that this worker does not have. ValueError where
        it cannot be in force."""
        self._drop()
        fds: list[int] = question["fds"]
        try:
            if len(fds) != 1 + question["sockets"]:
                raise ValueError("it may open no more descriptors")
            config = handed(fds[0])
            self._coming = self._instance.prepare(config, int(question["generation"]))
            for fd in fds[1:]:
                sock = socket.socket(fileno=os.dup(fd))
                self._fresh[inode(sock)] = sock
        except OSError as error:
            self._drop()
            raise ValueError(plain(error)) from error
        except ValueError as error:
            self._drop()
            if error.__cause__ is not None:  # of a module of --policy
                log.error("policy: %s", error, exc_info=error.__cause__)
            raise ValueError(str(error)[:REASON_MOST]) from error
        except BaseException:
            self._drop()
            raise
        finally:
            close_all(fds)
        return {"ready": True}

    def forget(self, question: Message) -> Mapping[str, Any]:
        """What was prepared is not wanted."""
        close_all(question["fds"])
        self._drop()
        return {}

    def switch(self, question: Message) -> Mapping[str, Any]:
        """``listen`` are the inodes of the sockets to accept from."""
        close_all(question["fds"])
        coming, self._coming = self._coming, None
        if coming is None:
            raise ValueError("nothing is prepared")
        before = self._instance.services.config
        self._sockets.update(self._fresh)
        self._fresh.clear()
        # One that drains already has closed them.
        wanted = () if self._instance.services.draining else question["listen"]
        self._sockets = {one: self._sockets[one] for one in wanted}
        try:
            self._instance.switch(coming, list(self._sockets.values()))
            if coming.config.log_level != before.log_level:
                level.set_to(coming.config.log_level)
            self._instance.trace()
        except BaseException:
            # A half of each would be neither: another worker begins with the whole of it.
            log.exception("the new configuration could not be taken on")
            os._exit(1)
        self._keeping.tell()
        if coming.config.reload_tunnels == "recheck":
            self._judge_again()
        return {"generation": coming.generation}

    def leave(self, question: Message) -> Mapping[str, Any]:
        """There are fewer workers from now on, and others have its queues."""
        close_all(question["fds"])
        self._leave()
        return {}

    def share(self, question: Message) -> Mapping[str, Any]:
        """``fds`` are sockets of a worker that cannot start."""
        for fd in question["fds"]:
            sock = socket.socket(fileno=fd)
            if self._is_leaving or inode(sock) in self._sockets:
                sock.close()
            else:
                self._sockets[inode(sock)] = sock
        self._listen()
        return {}

    def unshare(self, question: Message) -> Mapping[str, Any]:
        """``sockets`` are the inodes of those that others serve again."""
        close_all(question["fds"])
        for one in question["sockets"]:
            self._sockets.pop(one, None)
        self._listen()
        return {}

    @property
    def _is_leaving(self) -> bool:
        services = self._instance.services
        return services.draining or services.giver is not None

    def _listen(self) -> None:
        if not self._is_leaving:
            self._instance.listen(list(self._sockets.values()))

    async def finish(self) -> None:
        """The worker ends."""
        self._drop()
        if self._again is not None:
            await self._again.finish()

    def _judge_again(self) -> None:
        from spliceproxy.processes.judging_again import JudgingAgain

        if self._again is None:
            self._again = JudgingAgain(self._instance.services)
        self._again.begin()

    def _drop(self) -> None:
        coming, self._coming = self._coming, None
        for sock in self._fresh.values():
            sock.close()
        self._fresh.clear()
        if coming is not None:
            self._instance.drop(coming)
