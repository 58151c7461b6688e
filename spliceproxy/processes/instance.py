"""A proxy on one event loop: its parts put together, started, given another configuration, and
ended in order."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from spliceproxy.config import PAC, Config
from spliceproxy.forward.answering import Answering, kinds_asked
from spliceproxy.forward.asking import Asking
from spliceproxy.forward.body import BodyMover
from spliceproxy.forward.lane import Lane
from spliceproxy.forward.rewriting import Rewriting
from spliceproxy.forward.services import Services
from spliceproxy.front.server import Server
from spliceproxy.kept import Kept
from spliceproxy.observe.accesslog import AccessLog, open_log
from spliceproxy.observe.counts import Counts
from spliceproxy.observe.formats import Format, format_of
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

if TYPE_CHECKING:
    from spliceproxy.forward.lending import Lending
    from spliceproxy.forward.limiting import Limiting
    from spliceproxy.forward.moving import Moving
    from spliceproxy.forward.pacing import Pacing
    from spliceproxy.policy.learn import Learned
    from spliceproxy.policy.limits import Limits
    from spliceproxy.processes.retired import Retired
    from spliceproxy.relay.meters import Counting
    from spliceproxy.site.files import Site
    from spliceproxy.upstream.parents import Parents
    from spliceproxy.upstream.tls import Bridges


class Next(NamedTuple):
    """What a configuration needs before it can be in force: :meth:`Instance.prepare`. ``log`` is
    another access log than before, None where it stays or there is none."""

    config: Config
    policy: Policy
    site: Site | None
    form: Format
    log: AccessLog | None
    generation: int
    parents: Parents | None
    limits: Limits | None


class Instance:
    """Create it inside its event loop. It owns ``sockets``, ``relay``, ``resolver`` and
    ``policy`` then, and :meth:`stop` ends them. ``counts`` has the row that these count in, too.
    It is that of the ``worker`` with this number, and begins with the configuration of this
    ``generation``. After an OSError it owns nothing."""

    def __init__(
        self,
        config: Config,
        sockets: Sequence[socket.socket],
        relay: Relay,
        resolver: Resolver,
        policy: Policy,
        counts: Counts,
        worker: int = 0,
        generation: int = 1,
    ) -> None:
        loop = asyncio.get_running_loop()
        counts.expect(policy.rules)
        site = _site(config)
        log = open_log(config.access_log, loop, _form(config, generation))
        tally = None
        if config.admin.address is not None:
            tally = Tally(loop, query=config.log_query)
        records = Records(log, policy.closed if policy.watches else None, tally, worker)
        records.generation = generation
        driver = RelayDriver(relay, loop)
        own = Own(sock.getsockname() for sock in sockets)
        tracer = Tracer.of(config)
        lane = Lane.of(
            relay, driver, config, policy, records, own, _asked(config, policy, tracer),
            _waits(config),
        )  # fmt: skip
        idle = IdlePool(loop) if lane is None else lane
        # With files to serve a request that leads back here is no loop.
        never = own if site is None else None
        origins = Origins(loop, Dialer(config.timeouts.dial, counts.row), idle, never)
        self._learned = _learned(config)
        self._resolver = resolver
        self._bridges: Bridges | None = None  # to parents with TLS
        self._leaving: set[asyncio.Task[None]] = set()  # ends of what is in force no more
        self.services = Services(
            loop=loop,
            config=config,
            relay=driver,
            mover=_mover(config, driver),
            records=records,
            counts=counts,
            policy=policy,
            lane=lane,
            origins=origins,
            asking=self._asking(
                config,
                policy,
                lane,
                origins,
                generation,
                self._parents(config, origins, counts, lane, None),
            ),
            site=site,
            tracer=tracer,
            lives=_lives(config, log, loop, driver),
            generation=generation,
        )
        self._counting: Counting | None = None  # for limits
        self._lending: Lending | None = None
        self._pacing: Pacing | None = None
        self._limit(_limits(config, policy, counts))
        self._answering: Answering | None = None
        if lane is not None:
            self._answering = Answering(self.services, lane, resolver, own)
        self._rest = Rest(loop)
        self._moving: Moving | None = None
        self._retired: Retired | None = None
        self.server = Server(self.services, sockets, _limit(config))

    @property
    def moving(self) -> Moving:
        """What gives tunnels to another worker, or takes its (``forward.moving``)."""
        if self._moving is None:
            from spliceproxy.forward.moving import Moving

            self._moving = Moving(self.services, self.server.keep, self.server.running)
        return self._moving

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
                services.lane.ask_about(_asked(services.config, services.policy, tracer))

    def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Accepts from these sockets, which listen at the same addresses, from here on."""
        self.server.change(sockets, _limit(self.services.config))

    # ---- another configuration ---------------------------------------------------------

    def prepare(self, config: Config, generation: int) -> Next:
        """Loads what a configuration names: nothing has changed yet. ValueError where it makes no
        sense here, OSError where something cannot be opened."""
        services = self.services
        policy = Policy(
            config,
            self._resolver,
            row=services.counts.row,
            report=services.counts.report,
            before=services.policy,
            kept=Kept(),
        )
        try:
            site = _site(config)
            form = _form(config, generation)
            log = None
            if config.access_log != services.config.access_log:
                log = open_log(config.access_log, services.loop, form)
            services.counts.expect(policy.rules)
            known = services.origins, services.counts, services.lane, services.asking.parents
            parents = self._parents(config, *known)
            limits = _limits(config, policy, services.counts)
            if not policy.shares(services.policy):
                policy.start()
        except BaseException:
            policy.forget()
            self._end(policy.finish(services.policy))
            raise
        return Next(config, policy, site, form, log, generation, parents, limits)

    def drop(self, coming: Next) -> None:
        """It will not be in force."""
        coming.policy.forget()
        self._end(coming.policy.finish(self.services.policy))
        if coming.log is not None:
            self._end(coming.log.close())
        if coming.parents is not None:
            coming.parents.finish()

    def switch(self, coming: Next, sockets: Sequence[socket.socket]) -> None:
        """From here on this configuration decides, and clients are accepted from these sockets.
        What was decided before is used for nothing that is asked from now on; what goes on keeps
        to it."""
        services, config, policy = self.services, coming.config, coming.policy
        before, old = services.config, services.policy
        own = Own(sock.getsockname() for sock in sockets)
        rest = self._switch_records(coming)
        services.config, services.policy = config, policy
        services.generation = coming.generation
        self._retire(coming.generation, old)  # before the lane, which has to know who watches
        services.site = coming.site
        services.mover = _mover(config, services.relay)
        services.tracer = Tracer.of(config, services.tracer)
        services.renew()
        if config.policy.learn != before.policy.learn:
            if self._learned is not None:
                self._end(self._learned.finish())
            self._learned = _learned(config)
        self._resolver.change(config.timeouts.lookup, config.names)
        never = own if coming.site is None else None
        services.origins.change(Dialer(config.timeouts.dial, services.counts.row), never)
        times = config.timeouts
        services.relay.limits(times.idle, times.half_close, times.tls_name)
        if services.asking.parents is not None:
            services.asking.parents.finish()
        known = services.lane, services.origins, coming.generation, coming.parents
        services.asking = self._asking(config, policy, *known)
        self._limit(coming.limits)
        if services.lane is not None and self._answering is not None:
            asked = _asked(config, policy, services.tracer)
            waits = _waits(config)
            services.lane.change(config, policy, services.records, own, asked, waits, rest=rest)
            self._answering.change(own)
        self.server.change(sockets, _limit(config))

    def _switch_records(self, coming: Next) -> bool:
        """The log and its like; whether the relay is to write lines of what has begun."""
        services, config = self.services, coming.config
        records = services.records
        log = records.log
        made_lines = log is not None and log.form.lane is not None
        if config.access_log != services.config.access_log:
            records.log = coming.log
            if log is not None:
                self._end(log.close())
            made_lines = False
        elif log is not None:
            log.change(coming.form)
        if records.tally is None and config.admin.address is not None:
            records.tally = Tally(services.loop, query=config.log_query)
        elif records.tally is not None:
            records.tally.query = config.log_query
        records.generation = coming.generation
        records.follow_on()
        lives, services.lives = services.lives, None
        if lives is not None and records.log is not None and config.log_live:
            lives.change(records.log, config.log_live)
            services.lives = lives
        elif lives is not None:
            lives.stop()
        else:
            services.lives = _lives(config, records.log, services.loop, services.relay)
        return made_lines and records.log is not None and records.log.form.lane is None

    def _retire(self, generation: int, old: Policy) -> None:
        """What the policy ``old`` has decided goes on, and it hears of the ends."""
        from spliceproxy.processes.retired import Retired  # late, as of processes.rest

        if self._retired is None:
            self._retired = Retired(self.services, self.server)
        self._retired.add(generation - 1, old)

    def _end(self, ending: Coroutine[Any, Any, None]) -> None:
        task = self.services.loop.create_task(ending)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _asking(
        self,
        config: Config,
        policy: Policy,
        lane: Lane | None,
        origins: Origins,
        generation: int,
        parents: Parents | None,
    ) -> Asking:
        known = policy, self._learned, lane, self._resolver, origins
        return Asking(*known, config.timeouts.dial, generation, parents)

    def _limit(self, limits: Limits | None) -> None:
        """Requests count for these from here on."""
        services = self.services
        services.limiting = None
        if limits is not None:
            from spliceproxy.forward.limiting import Limiting  # late: most have none

            counts, first = services.counts, self._counting is None
            if self._counting is None:
                self._counting = services.relay.counting(counts.meters, counts.place)
            lending = self._lend(limits) if limits.lent else None
            services.limiting = Limiting(limits, self._counting, lending)
            if first and services.lane is not None:
                services.lane.meter(self._counting, services.limiting.holding)
        self._pace(services.limiting)

    def _lend(self, limits: Limits) -> Lending:
        """Other machines share them."""
        services = self.services
        if self._lending is None:
            from spliceproxy.forward.lending import Lending

            assert self._counting is not None
            meters, place = services.counts.meters, services.counts.place
            self._lending = Lending(meters, self._counting, limits, services.config.policy, place)
        self._lending.change(limits)
        return self._lending

    def _pace(self, limiting: Limiting | None) -> None:
        """What lasts is looked at, if some of these limits want that."""
        services = self.services
        if limiting is None or not limiting.limits.watched:
            if self._pacing is not None:
                self._pacing.change(None)
            return
        from spliceproxy.forward.pacing import Pacing  # late, likewise

        if self._pacing is None:
            known = services.counts.meters, services.counts.place, services.relay, services.lane
            self._pacing = Pacing(limiting, *known, services.loop)
        self._pacing.change(limiting)
        limiting.pacing = self._pacing

    def _parents(
        self,
        config: Config,
        origins: Origins,
        counts: Counts,
        lane: Lane | None,
        before: Parents | None,
    ) -> Parents | None:
        names = config.routing.all_parents
        if not names and not config.routing.pac:
            return None
        from spliceproxy.upstream.parents import Parents  # late: most have none

        counts.expect_parents([*names, PAC] if config.routing.pac else names)
        loop, resolver = asyncio.get_running_loop(), self._resolver
        counted = counts.row, counts.parent
        forget = None if lane is None else lane.forget
        known = loop, config, origins, resolver, *counted, self._bridges
        parents = Parents(*known, forget, before)
        self._bridges = parents.bridges
        return parents

    # ---- the end -----------------------------------------------------------------------

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
                if self._retired is not None:
                    ends.push_async_callback(self._retired.finish)
                if self._leaving:
                    ends.push_async_callback(asyncio.wait, set(self._leaving))
                if self._answering is not None:
                    ends.push_async_callback(self._answering.finish)
                if self._lending is not None:
                    ends.push_async_callback(self._lending.finish)
                if self._pacing is not None:
                    ends.callback(self._pacing.stop)
                ends.callback(services.relay.close)
                ends.callback(services.origins.close_idle)
                if services.asking.parents is not None:
                    ends.callback(services.asking.parents.finish)
                if self._bridges is not None:
                    ends.push_async_callback(self._bridges.finish)


def _limits(config: Config, policy: Policy, counts: Counts) -> Limits | None:
    if not config.policy.limits:
        return None
    from spliceproxy.policy.limits import Limits

    counts.expect_limits([limit.id for limit in config.policy.limits])
    lent = bool(config.policy.limits_store)
    return Limits(config.policy.limits, counts.meters, policy.groups_of, lent=lent)


def _site(config: Config) -> Site | None:
    if config.serve is None:
        return None
    from spliceproxy.site.files import Site

    return Site(config.serve, links=config.serve_links)


def _learned(config: Config) -> Learned | None:
    if config.policy.learn is None:
        return None
    from spliceproxy.policy.learn import Learned

    return Learned(config.policy.learn)


def _form(config: Config, generation: int) -> Format:
    return format_of(config.log_format, query=config.log_query, generation=generation)


def _lives(
    config: Config, log: AccessLog | None, loop: asyncio.AbstractEventLoop, relay: RelayDriver
) -> Lives | None:
    if log is None or not config.log_live:
        return None
    return Lives(log, loop, relay.progress, config.log_live)


def _mover(config: Config, relay: RelayDriver) -> BodyMover:
    return BodyMover(relay, config.timeouts.idle, Rewriting.of(config).via)


def _asked(config: Config, policy: Policy, tracer: Tracer | None) -> str:
    """The kinds of requests that the lane may ask about. Who traces sees each request, and so does
    a witness."""
    return "" if policy.witnessed or tracer is not None else kinds_asked(config)


def _waits(config: Config) -> float:
    """Seconds that an answer may wait for functions: the second time with the addresses."""
    return 2 * config.policy.hook_timeout


def _limit(config: Config) -> int:
    """Connections of one worker."""
    return -(-config.max_connections // config.workers)
