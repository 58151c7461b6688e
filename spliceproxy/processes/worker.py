"""One worker process: its loop, engine and services, from start to drained."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from spliceproxy.admin import happenings, level, tally_parts
from spliceproxy.admin.channel import Channel, Message
from spliceproxy.admin.flows import Flows
from spliceproxy.admin.worker import Parts, Replies
from spliceproxy.config import Config
from spliceproxy.kept import Kept
from spliceproxy.messages import log, plain
from spliceproxy.observe.board import Board
from spliceproxy.observe.counts import Counts
from spliceproxy.observe.trace import is_traced
from spliceproxy.policy.engine import Policy
from spliceproxy.policy.functions import HookError
from spliceproxy.processes.dumps import Dumps
from spliceproxy.processes.instance import Instance
from spliceproxy.processes.keeping import Keeping
from spliceproxy.processes.moves import Moves
from spliceproxy.processes.signals import UNUSED, tell_unused
from spliceproxy.processes.slot import Place
from spliceproxy.relay import columns
from spliceproxy.relay.choice import EngineError, choose
from spliceproxy.relay.interface import Relay, RelayOptions
from spliceproxy.upstream.resolver import Resolver

if TYPE_CHECKING:
    from spliceproxy.processes.reconfigured import Reconfigured

UNUSABLE = 2
"""Exit status for settings that cannot work here (child.UNUSABLE)."""


class _Unusable(Exception):
    """Settings that cannot work here; a line for each mistake."""


def new_loop() -> tuple[asyncio.AbstractEventLoop, str]:
    """uvloop's event loop where it can be imported, else asyncio's; and its name."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop(), "asyncio"
    return uvloop.new_event_loop(), "uvloop"


def load() -> None:
    """Loads what workers would otherwise load when they first need it. So they share its memory
    and need no descriptors for it."""
    import tokenize  # noqa: F401 - linecache takes it for the lines of a traceback

    with contextlib.suppress(ImportError):
        import uvloop  # noqa: F401
    for encoding in ("ascii", "latin-1", "utf-8"):
        codecs.lookup(encoding)


def run(
    config: Config,
    sockets: Sequence[socket.socket],
    lifeline: int,
    place: Place,
    board: Board,
    control: Channel,
) -> int:
    """The life of a worker; returns its exit status. End of file on ``lifeline`` means that the
    supervisor wants it to drain, or is dead. ``control`` is where it is asked."""
    row, index = board.row(place.row), place.worker
    row[columns.PID] = os.getpid()
    row[columns.STARTED] = time.time_ns() // 1000
    board.meters.clear(place.row)
    generation = board.base[columns.GENERATION]
    try:
        relay, why = choose(config.engine, RelayOptions.of(config, row))
    except EngineError as error:
        if index == 0 or place.again:
            log.error("--engine: %s", error)
        return UNUSABLE
    loop, name = new_loop()
    ready = f"engine {why}; event loop {name}" if index == 0 else ""
    if ready and is_traced():
        ready += "; requests are traced, so each goes through Python, which is slower"
    if config.engine == "auto" and relay.engine != "native" and index == 0:
        log.warning(
            "the native engine cannot be used, so the proxy is slower; install it again with a C "
            "compiler and Python's headers"
        )
    try:
        loop.run_until_complete(
            _work(config, sockets, lifeline, control, relay, ready, board, place, generation)
        )
        return 0
    except _Unusable as error:
        if index == 0 or place.again:
            start = "policy: " if isinstance(error.__cause__, HookError) else ""
            for problem in str(error).split("\n"):
                log.error("%s%s", start, problem)
        return UNUSABLE
    except (OSError, MemoryError) as error:
        log.error("the worker failed: %s", plain(error))
        return 1
    finally:
        loop.close()


async def _work(
    config: Config,
    sockets: Sequence[socket.socket],
    lifeline: int,
    control: Channel,
    relay: Relay,
    ready: str,
    board: Board,
    place: Place,
    generation: int,
) -> None:
    """``ready`` is logged when clients are accepted."""
    loop = asyncio.get_running_loop()
    counts = Counts.of(board, place.row)
    resolver = Resolver.of(config, counts.row)
    try:
        kept = Kept(place.kept)
        policy = Policy(config, resolver, row=counts.row, report=counts.report, kept=kept)
    except ValueError as error:
        raise _Unusable(str(error)) from error
    instance = Instance(config, sockets, relay, resolver, policy, counts, place.serial, generation)
    instance.services.relay.on_stuck = _die
    loop.add_signal_handler(signal.SIGUSR1, _reopen, instance)
    loop.add_signal_handler(signal.SIGQUIT, Dumps(instance.services.relay).show)
    for number in UNUSED:
        loop.add_signal_handler(number, tell_unused, number)
    replies = _replies(instance, control, place.worker)
    ended = loop.create_future()
    keeping = Keeping(instance, replies)
    reloads = _Reloads(instance, sockets, keeping, partial(_settle, ended))
    for name in ("prepare", "switch", "forget", "leave", "share", "unshare"):
        replies.order(name, partial(reloads.answer, name))
    moves = Moves(instance, replies)
    _watch_end(lifeline, ended)
    replies.start()
    keeping.tell()
    if place.waits:
        replies.report({"ready": True})
        await asyncio.wait((ended, moves.serve), return_when=asyncio.FIRST_COMPLETED)
    if not ended.done():
        instance.start()
        counts.row[columns.UP] = 1
        if place.shared:
            replies.report({"serves": True})
        if ready:
            log.info("%s", ready)
        await ended
        counts.row[columns.DRAINING] = 1
    moves.leaves = True
    loop.remove_reader(lifeline)
    try:
        await instance.stop()
    finally:
        counts.row[columns.UP] = counts.row[columns.DRAINING] = 0
        await reloads.finish()
        await replies.finish()
        replies.stop()


def _replies(instance: Instance, control: Channel, index: int) -> Replies:
    """What an operator may ask this worker."""
    replies = Replies(instance.services.loop, control)
    replies.register("ping", lambda _: {"pid": os.getpid()})
    replies.register("log-level", level.answer(instance.trace))
    services = instance.services
    happenings.tell(services.records, replies, lambda: services.config.log_query)
    replies.register("tally", partial(_tally, instance))
    flows = Flows(instance.services, instance.server, index)
    replies.register("tunnels", flows.tunnels)
    replies.register("kill", flows.kill)
    return replies


class _Reloads:
    """The worker's part of reloads, which is made for the first one."""

    def __init__(
        self,
        instance: Instance,
        sockets: Sequence[socket.socket],
        keeping: Keeping,
        leave: Callable[[], None],
    ) -> None:
        self._of = instance, sockets, keeping, leave
        self._made: Reconfigured | None = None

    def answer(self, name: str, question: Message) -> Mapping[str, Any]:
        if self._made is None:
            from spliceproxy.processes.reconfigured import Reconfigured  # late, as of rest

            self._made = Reconfigured(*self._of)
        answer: Mapping[str, Any] = getattr(self._made, name)(question)
        return answer

    async def finish(self) -> None:
        if self._made is not None:
            await self._made.finish()


def _tally(instance: Instance, question: Message) -> Parts:
    tally = instance.services.records.tally
    if tally is None:
        raise ValueError("nothing is added up without an admin address")
    return tally_parts.answer(tally, instance.services.relay.engine)


def _reopen(instance: Instance) -> None:
    """SIGUSR1"""
    access_log = instance.services.records.log
    if access_log is not None:
        access_log.reopen()


_NO_MEMORY = b"no memory is left: this worker cannot go on and ends\n"


def _die() -> None:
    """Ends this worker at once, without asking for memory. Its supervisor starts another."""
    signal.alarm(1)  # if nobody reads what is said
    try:
        os.write(2, _NO_MEMORY)
    finally:  # also where nobody can
        os._exit(1)


def _watch_end(fd: int, ended: asyncio.Future[None]) -> None:
    """``ended`` is done when the other end of a pipe is closed. Nothing is ever written to it. The
    loop watches it until it is told not to."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    loop.add_reader(fd, _settle, ended)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
