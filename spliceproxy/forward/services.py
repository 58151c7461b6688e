"""What every connection of a worker shares: settings, policy, relay, dialer, pool, log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from typing import Protocol

from spliceproxy.config import Config
from spliceproxy.errors import ErrorType, Failure, reasons
from spliceproxy.forward.body import BodyMover
from spliceproxy.forward.lane import Exchanges
from spliceproxy.net.stream import Stream
from spliceproxy.observe.accesslog import AccessLog
from spliceproxy.observe.record import Record, endpoint
from spliceproxy.policy.engine import Policy
from spliceproxy.policy.learn import Learned
from spliceproxy.policy.verdict import Verdict
from spliceproxy.relay.driver import RelayDriver
from spliceproxy.seldom import Seldom
from spliceproxy.site.files import Site
from spliceproxy.upstream.dialer import Dialer
from spliceproxy.upstream.own import Own
from spliceproxy.upstream.pool import Pool

_messages = logging.getLogger("spliceproxy")


class Names(Protocol):
    """What is asked about a name that leads somewhere (``upstream.resolver.Resolver``)."""

    def late(self, host: str) -> asyncio.Future[None] | None: ...


@dataclass(slots=True)
class Services:
    """One worker's shared parts. ``draining``: no connection is to be kept alive. ``faults``:
    where faults of our own are told; ``answers``: those of what origins send."""

    loop: asyncio.AbstractEventLoop
    config: Config
    relay: RelayDriver
    mover: BodyMover
    dialer: Dialer
    pool: Pool
    log: AccessLog | None
    site: Site | None
    names: Names
    own: Own
    policy: Policy
    learned: Learned | None
    exchanges: Exchanges | None = None
    draining: bool = False
    faults: Seldom = field(default_factory=partial(Seldom, _messages), init=False)
    answers: Seldom = field(default_factory=partial(Seldom, _messages), init=False)
    via: bytes = field(init=False)
    reasons: Mapping[ErrorType, str] = field(init=False)
    _date: bytes = field(default=b"", init=False)
    _date_of: int = field(default=-1, init=False)

    def __post_init__(self) -> None:
        self.via = self.config.via.encode("ascii")
        self.reasons = reasons(self.config.timeouts)

    def date(self) -> bytes:
        """Now as an IMF-fixdate (RFC 9110 section 5.6.7), made once a second."""
        now = int(time.time())
        if now != self._date_of:
            self._date_of = now
            self._date = formatdate(now, usegmt=True).encode("ascii")
        return self._date

    async def dial(self, verdict: Verdict, record: Record) -> Stream:
        """A connection to where the policy allows; Failure also where that would be the
        proxy itself (with files to serve, that is no loop). The time for looking it up is a part
        of the limit."""
        since = record.dialling_since
        spent = time.monotonic() - since if since else record.looked_up
        where = verdict.addresses, verdict.port, verdict.source_address, spent
        try:
            sock, record.peer = await self.dialer.connect(*where)
        except Failure as failure:
            if failure.error != "connection_limit_reached" or not len(self.pool):
                raise
            self.pool.close()  # each idle connection is a descriptor
            sock, record.peer = await self.dialer.connect(*where)
        if self.site is None and self.own.has(sock, record.peer, verdict.port):
            sock.close()  # before a byte, so that nothing counts as connected to
            here, record.peer = endpoint(record.peer, verdict.port), ""
            detail = "the request leads back to this proxy"
            raise Failure("proxy_loop_detected", detail, where=here)
        return Stream(sock, self.loop)

    def write(self, record: Record) -> None:
        """Ends a record and logs it."""
        record.end()
        if self.log is not None:
            self.log.write(record)
        if self.policy.watches:
            self.policy.closed(record)
