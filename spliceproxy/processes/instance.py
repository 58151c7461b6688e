"""A proxy on one event loop: its parts put together, started, and ended in order."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack

from spliceproxy.config import Config
from spliceproxy.forward.answering import Answering, kinds_asked
from spliceproxy.forward.asking import Asking
from spliceproxy.forward.body import BodyMover
from spliceproxy.forward.lane import Lane
from spliceproxy.forward.rewriting import Rewriting
from spliceproxy.forward.services import Services
from spliceproxy.front.server import Server
from spliceproxy.observe.accesslog import open_log
from spliceproxy.observe.counts import Counts
from spliceproxy.observe.formats import format_of
from spliceproxy.observe.live import Lives
from spliceproxy.observe.records import Records
from spliceproxy.observe.tally import Tally
from spliceproxy.observe.trace import Tracer
from spliceproxy.policy.engine import Policy
from spliceproxy.processes.rest import Rest
from spliceproxy.relay.driver import RelayDriver
from spliceproxy.relay.interface import Relay
from spliceproxy.upstream.dialer import Dialer
from spliceproxy.upstream.origins import Origins
from spliceproxy.upstream.own import Own
from spliceproxy.upstream.pool import IdlePool
from spliceproxy.upstream.resolver import Resolver


class Instance:
    """Create it inside its event loop. It owns ``sockets``, ``relay``, ``resolver`` and
    ``policy`` then, and :meth:`stop` ends them. ``counts`` has the row that these count in, too.
    It is that of the ``worker`` with this number. After an OSError it owns nothing."""

    def __init__(
        self,
        config: Config,
        sockets: Sequence[socket.socket],
        relay: Relay,
        resolver: Resolver,
        policy: Policy,
        counts: Counts,
        worker: int = 0,
    ) -> None:
        loop = asyncio.get_running_loop()
        counts.expect(policy.rules)
        site = None
        if config.serve is not None:
            from spliceproxy.site.files import Site

            site = Site(config.serve, links=config.serve_links)
        form = format_of(config.log_format, query=config.log_query)
        log = open_log(config.access_log, loop, form)
        tally = None
        if config.admin.address is not None:
            tally = Tally(loop, query=config.log_query)
        records = Records(log, policy.closed if policy.watches else None, tally, worker)
        driver = RelayDriver(relay, loop)
        own = Own(sock.getsockname() for sock in sockets)
        tracer = Tracer.of(config)
        # Who traces sees each request, and so does a witness.
        self._asks = "" if policy.witnessed else kinds_asked(config)
        asks = self._asks if tracer is None else ""
        waits = 2 * config.policy.hook_timeout  # the second time with the addresses
        lane = Lane.of(relay, driver, config, policy, records, own, asks, waits)
        idle = IdlePool(loop) if lane is None else lane
        # With files to serve a request that leads back here is no loop.
        never = own if site is None else None
        origins = Origins(loop, Dialer(config.timeouts.dial, counts.row), idle, never)
        self._learned = None
        if config.policy.learn is not None:
            from spliceproxy.policy.learn import Learned

            self._learned = Learned(config.policy.learn)
        self._resolver = resolver
        asking = Asking(policy, self._learned, lane, resolver, origins, config.timeouts.dial)
        lives = None
        if log is not None and config.log_live:
            lives = Lives(log, loop, driver.progress, config.log_live)
        self.services = Services(
            loop=loop,
            config=config,
            relay=driver,
            mover=BodyMover(driver, config.timeouts.idle, Rewriting.of(config).via),
            records=records,
            counts=counts,
            policy=policy,
            lane=lane,
            origins=origins,
            asking=asking,
            site=site,
            tracer=tracer,
            lives=lives,
        )
        self._answering: Answering | None = None
        if lane is not None:
            self._answering = Answering(self.services, lane, resolver, own)
        self._rest = Rest(loop)
        limit = -(-config.max_connections // config.workers)
        self.server = Server(self.services, sockets, limit)

    def start(self) -> None:
        """Begins to accept clients."""
        self.services.policy.start()
        self.server.start()
        self._rest.start()

    def trace(self) -> None:
        """Begins to trace requests, or ceases, as the level of messages says by now."""
        services = self.services
        tracer = Tracer.of(services.config)
        if (tracer is None) != (services.tracer is None):
            services.tracer = tracer
            if services.lane is not None:
                services.lane.ask_about(self._asks if tracer is None else "")

    async def stop(self) -> None:
        """Refuses new clients and gives requests and tunnels ``timeouts.drain`` seconds to end by
        themselves, less if this is cancelled. Then it ends everything."""
        services = self.services
        self._rest.stop()
        try:
            await self.server.drain(services.config.timeouts.drain)
        except asyncio.CancelledError:
            await self.server.drain(0.0)
            raise
        finally:
            async with AsyncExitStack() as ends:  # each, whatever becomes of those before
                ends.push_async_callback(services.records.close)
                ends.push_async_callback(self._resolver.close)
                if self._learned is not None:
                    ends.push_async_callback(self._learned.finish)
                ends.push_async_callback(services.policy.finish)
                if self._answering is not None:
                    ends.push_async_callback(self._answering.finish)
                ends.callback(services.relay.close)
                ends.callback(services.origins.close_idle)
