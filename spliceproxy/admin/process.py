"""The admin process: it answers people, so that no worker has to.

The supervisor forks it, and starts another when it ends. It has no part in anybody's traffic. It
listens on a socket of the supervisor's, in which those wait who come while there is none. What it
does not know by itself it asks the workers, by a channel to each (:mod:`spliceproxy.admin.links`).
It ends with the supervisor, whose channel ends then, and stays while the workers drain.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spliceproxy.admin.access import Gate
from spliceproxy.admin.channel import Channel
from spliceproxy.admin.desk import Desk
from spliceproxy.admin.effective import Effective
from spliceproxy.admin.health import Health
from spliceproxy.admin.http import Table
from spliceproxy.admin.server import Server
from spliceproxy.admin.steering import Steering
from spliceproxy.admin.tunnels import Tunnels
from spliceproxy.admin.views import Views
from spliceproxy.config import Config
from spliceproxy.kept import Kept, Texts
from spliceproxy.messages import log
from spliceproxy.observe.board import Board

LAST_SECONDS = 0.8
SILENT_SECONDS = 0.5
"""How long it waits, before it ends, for those who have no answer yet, and for those who have
connected and asked nothing. The supervisor waits a little longer (children.LEAVE_SECONDS)."""

LOOK_SECONDS = 0.01
"""Between two looks whether it still has to wait."""

TITLE = "spliceproxy-adm"
"""What ps(1) shows of it as its command; the kernel keeps 15 characters (proc(5))."""


def run(
    config: Config,
    sock: socket.socket,
    channel: Channel,
    board: Board,
    *,
    draining: bool,
    reloads: Sequence[Mapping[str, Any]],
    kept: Texts,
) -> int:
    """The life of the admin process, which listens on ``sock``; returns its exit status.
    What is ``kept`` is what files said to the one before."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(TITLE)
    # asyncio's own loop: there is little to do, and all of it is asyncio's streams.
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(_tell)

    async def serve() -> None:
        desk = Desk(config, channel, board, draining=draining, reloads=reloads)
        await _serve(sock, desk, kept)

    loop.run_until_complete(serve())
    return 0


async def _serve(sock: socket.socket, desk: Desk, kept: Texts) -> None:
    server = Server(table_of(desk), _gate(desk, kept))
    place = _Place(desk, server)
    place.listen(sock)
    await asyncio.wait((desk.ended, desk.left), return_when=asyncio.FIRST_COMPLETED)
    # Whoever comes from here on waits for the next admin process, where there is one: also a
    # supervisor that was killed may have a successor, which has the same socket.
    place.leave()
    await _finish(server)


async def _finish(server: Server) -> None:
    """Until all have their answers. What has just been asked may be what has ended this process: a
    reload without an admin address."""
    begun = time.monotonic()
    server.leaves = True
    while server.busy:
        most = LAST_SECONDS if server.answering else SILENT_SECONDS
        if time.monotonic() - begun >= most:
            break
        await asyncio.sleep(LOOK_SECONDS)
    await server.close()


def _gate(desk: Desk, given: Texts) -> Gate:
    """For the settings that are in force. What the file of tokens says is kept for another admin
    process; what is ``given`` stands in where it says nothing of use. ValueError."""
    kept = Kept(given)
    gate = Gate(desk.config.admin, kept)
    desk.keep(kept)
    return gate


class _Place:
    """Where the admin process listens, and whom it lets in."""

    def __init__(self, desk: Desk, server: Server) -> None:
        self._desk = desk
        self._server = server
        self._sock: socket.socket | None = None
        self._accepting: asyncio.Future[None] | None = None
        self._moving: asyncio.Task[None] | None = None
        desk.changed = self._changed

    def listen(self, sock: socket.socket) -> None:
        """On this socket, which is its own from here on."""
        self._sock = sock
        self._accepting = asyncio.ensure_future(self._server.accept(sock))

    def leave(self) -> None:
        """Whoever connects from here on is for the process that comes next, which has the same
        socket."""
        if self._accepting is not None:
            self._accepting.cancel()

    async def _move(self, sock: socket.socket) -> None:
        """To another one."""
        before, accepting = self._sock, self._accepting
        self.leave()
        self.listen(sock)
        assert before is not None
        assert accepting is not None
        await asyncio.wait((accepting,))  # it looks at the socket until it has ended
        before.close()

    def _changed(self, sock: socket.socket | None) -> None:
        try:
            self._server.gate = _gate(self._desk, self._desk.kept.read)
        except ValueError as error:
            log.error("the admin process: %s; the tokens stay as they were", error)
        if sock is not None:
            self._moving = asyncio.ensure_future(self._move(sock))


def table_of(desk: Desk) -> Table:
    """All that people may ask for: each module adds its own paths."""
    table = Table()
    parts = (
        Health(desk),
        Effective(desk),
        Steering(desk),
        Tunnels(desk),
        Views(desk),
        desk.events,
    )
    for one in parts:
        one.add_to(table)
    return table


def _tell(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    error = context.get("exception")
    if not isinstance(error, OSError):  # a client that has left
        log.error("the admin process: %s", context["message"], exc_info=error)  # type: ignore[arg-type]
