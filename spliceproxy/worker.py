"""One worker process: its loop, engine and services, from start to drained."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Sequence

from spliceproxy.body import BodyMover
from spliceproxy.config import Config
from spliceproxy.files import Site
from spliceproxy.observe.accesslog import open_log
from spliceproxy.policy.engine import Policy
from spliceproxy.relay.choice import EngineError, choose
from spliceproxy.relay.driver import RelayDriver
from spliceproxy.relay.interface import Relay, RelayOptions
from spliceproxy.server import Server
from spliceproxy.services import Own, Services
from spliceproxy.upstream.dialer import Dialer
from spliceproxy.upstream.pool import IdlePool
from spliceproxy.upstream.resolver import Resolver

log = logging.getLogger("spliceproxy")

UNUSABLE = 2
"""Exit status for settings that cannot work here (supervisor.UNUSABLE)."""


class _Unusable(Exception):
    """Settings that cannot work here; ``cause`` is what a hook has raised, if it did."""

    def __init__(self, error: ValueError) -> None:
        super().__init__(str(error))
        self.cause = error.__cause__


def new_loop() -> tuple[asyncio.AbstractEventLoop, str]:
    """uvloop's event loop where it can be imported, else asyncio's; and its name."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop(), "asyncio"
    return uvloop.new_event_loop(), "uvloop"


def run(config: Config, sockets: Sequence[socket.socket], lifeline: int, index: int) -> int:
    """The life of a worker; returns its exit status. End of file on ``lifeline`` means
    that the supervisor wants it to drain, or is dead."""
    times = config.timeouts
    try:
        relay, why = choose(
            config.engine,
            RelayOptions(idle=times.idle, half_close=times.half_close, shares=config.workers),
        )
    except EngineError as error:
        if index == 0:
            log.error("--engine: %s", error)
        return UNUSABLE
    loop, name = new_loop()
    ready = f"engine {why}; event loop {name}" if index == 0 else ""
    if config.engine == "auto" and relay.engine != "native" and index == 0:
        log.warning("the fast engine is not there; install with a C compiler to have it")
    try:
        loop.run_until_complete(_work(config, sockets, lifeline, relay, ready))
        return 0
    except _Unusable as error:
        if index == 0:
            log.error("policy: %s", error, exc_info=error.cause)
        return UNUSABLE
    except OSError as error:
        log.error("the worker failed: %s", error)
        return 1
    finally:
        loop.close()


async def _work(
    config: Config, sockets: Sequence[socket.socket], lifeline: int, relay: Relay, ready: str
) -> None:
    """``ready`` is said once clients are accepted."""
    loop = asyncio.get_running_loop()
    resolver = Resolver(config.timeouts.dns)
    try:
        policy = Policy(config, resolver)
    except ValueError as error:
        raise _Unusable(error) from error
    driver = RelayDriver(relay, loop)
    services = Services(
        loop=loop,
        config=config,
        relay=driver,
        mover=BodyMover(driver, config.timeouts.idle),
        dialer=Dialer(config.timeouts.dial),
        pool=IdlePool(loop),
        log=open_log(config.access_log, loop),
        site=Site(config.serve) if config.serve is not None else None,
        own=Own(sock.getsockname() for sock in sockets),
        policy=policy,
    )
    limit = -(-config.max_connections // config.workers)
    server = Server(services, sockets, limit)
    if services.log is not None:
        loop.add_signal_handler(signal.SIGUSR1, services.log.reopen)
    server.start()
    if ready:
        log.info("%s", ready)
    await _end_of_file(lifeline)
    await server.drain(config.timeouts.drain)
    services.pool.close()
    services.relay.close()
    await policy.finish()
    await resolver.close()
    if services.log is not None:
        await services.log.close()


async def _end_of_file(fd: int) -> None:
    """Waits for the other end of a pipe to be closed. Nothing is ever written to it."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    os.set_blocking(fd, False)
    loop.add_reader(fd, _settle, ended)
    await ended
    loop.remove_reader(fd)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
