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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spliceproxy.admin.access import Gate
from spliceproxy.admin.channel import Channel
from spliceproxy.admin.desk import Desk
from spliceproxy.admin.effective import Effective
from spliceproxy.admin.health import Health
from spliceproxy.admin.http import Server, Table
from spliceproxy.admin.steering import Steering
from spliceproxy.admin.tunnels import Tunnels
from spliceproxy.admin.views import Views
from spliceproxy.config import Config
from spliceproxy.messages import log
from spliceproxy.observe.board import Board

LAST_SECONDS = 0.5
LAST_LOOKS = 50
"""How long, and how often, it looks whether all have their answers before it ends."""

TITLE = "spliceproxy-adm"
"""What ps(1) shows of it as its command; the kernel keeps 15 characters (proc(5))."""


def run(
    config: Config,
    sock: socket.socket,
    channel: Channel,
    board: Board,
    *,
    draining: bool,
    reloads: Sequence[Mapping[str, Any]] = (),
) -> int:
    """The life of the admin process, which listens on ``sock``; returns its exit status."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(TITLE)
    # asyncio's own loop: there is little to do, and all of it is asyncio's streams.
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(_tell)
    loop.run_until_complete(
        _serve(sock, config, channel, board, draining=draining, reloads=reloads)
    )
    return 0


async def _serve(
    sock: socket.socket,
    config: Config,
    channel: Channel,
    board: Board,
    *,
    draining: bool,
    reloads: Sequence[Mapping[str, Any]],
) -> None:
    desk = Desk(config, channel, board, draining=draining, reloads=reloads)
    server = Server(table_of(desk), Gate(config.admin))
    place = _Place(desk, server)
    await place.listen(sock)
    await asyncio.wait((desk.ended, desk.left), return_when=asyncio.FIRST_COMPLETED)
    if desk.left.done():
        place.leave()
    # What has just been asked may be what has ended it: a reload without an admin address.
    for _ in range(LAST_LOOKS):
        if not server.busy:
            break
        await asyncio.sleep(LAST_SECONDS / LAST_LOOKS)


class _Place:
    """Where the admin process listens, and whom it lets in."""

    def __init__(self, desk: Desk, server: Server) -> None:
        self._desk = desk
        self._server = server
        self._listening: asyncio.AbstractServer | None = None
        self._sock: socket.socket | None = None
        self._moving: asyncio.Task[None] | None = None
        desk.changed = self._changed

    async def listen(self, sock: socket.socket) -> None:
        """On this socket, and no other."""
        start = asyncio.start_unix_server if sock.family == socket.AF_UNIX else asyncio.start_server
        before, self._listening = self._listening, await start(self._server.serve, sock=sock)
        self._sock = sock
        if before is not None:
            before.close()

    def leave(self) -> None:
        """Whoever connects from here on is for the process that comes next, which has the same
        socket. To close what listens here would remove the file of a Unix socket."""
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())

    def _changed(self, sock: socket.socket | None) -> None:
        try:
            self._server.gate = Gate(self._desk.config.admin)
        except ValueError as error:
            log.error("the admin process: %s; the tokens stay as they were", error)
        if sock is not None:
            self._moving = asyncio.ensure_future(self.listen(sock))


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
