"""What every connection of a worker shares: settings, relay, dialer, pool, log."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from email.utils import formatdate

from spliceproxy.body import BodyMover
from spliceproxy.config import Config
from spliceproxy.files import Site
from spliceproxy.observe.accesslog import AccessLog
from spliceproxy.observe.record import Record
from spliceproxy.relay.driver import RelayDriver
from spliceproxy.upstream.dialer import Dialer
from spliceproxy.upstream.pool import IdlePool


@dataclass(slots=True)
class Services:
    """One worker's shared parts. ``draining``: no connection is to be kept alive."""

    loop: asyncio.AbstractEventLoop
    config: Config
    relay: RelayDriver
    mover: BodyMover
    dialer: Dialer
    pool: IdlePool
    log: AccessLog | None
    site: Site | None
    via: bytes = b"spliceproxy"
    draining: bool = False
    _date: bytes = field(default=b"", init=False)
    _date_of: int = field(default=-1, init=False)

    def date(self) -> bytes:
        """Now as an IMF-fixdate (RFC 9110 section 5.6.7), made once a second."""
        now = int(time.time())
        if now != self._date_of:
            self._date_of = now
            self._date = formatdate(now, usegmt=True).encode("ascii")
        return self._date

    def write(self, record: Record) -> None:
        """Ends a record and logs it."""
        record.end()
        if self.log is not None:
            self.log.write(record)
