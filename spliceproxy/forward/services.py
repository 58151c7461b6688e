"""What every connection of a worker shares: settings, relay, policy, origins, records."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

from spliceproxy.config import Address, Config
from spliceproxy.errors import ErrorType, reasons
from spliceproxy.forward.asking import Asking
from spliceproxy.forward.body import BodyMover
from spliceproxy.forward.lane import Lane
from spliceproxy.forward.rewriting import Rewriting
from spliceproxy.http1.dates import fixdate
from spliceproxy.messages import log
from spliceproxy.observe.counts import Counts
from spliceproxy.observe.live import Lives
from spliceproxy.observe.records import Records
from spliceproxy.observe.trace import Tracer
from spliceproxy.policy.engine import Policy
from spliceproxy.relay.driver import RelayDriver
from spliceproxy.relay.handoff import Handoff
from spliceproxy.seldom import Seldom
from spliceproxy.upstream.origins import Origins

if TYPE_CHECKING:
    from spliceproxy.forward.limiting import Limiting
    from spliceproxy.site.files import Site


class Giver(Protocol):
    """Who gives to another worker what this one serves."""

    @property
    def has_clients(self) -> bool:
        """Whether a client is on its way."""

    def client(self, handoff: Handoff) -> None:
        """Takes a client that may ask again."""

    async def emptied(self) -> None:
        """Waits until no client is on its way."""

    def end(self, why: str) -> None:
        """Gives nothing more: what is on its way stays here."""


class Spoken(Protocol):
    """What clients may speak."""

    def at(self, sock: socket.socket) -> Address:
        """Where a client has come in, by its connection or the socket that it listens on."""

    def by(self, sock: socket.socket) -> str:
        """As of ``config.Address.spoken``, in the same way."""

    def asks(self, sock: socket.socket) -> bool:
        """Whether clients say there what they want."""

    def place(self, sock: socket.socket, numbers: Mapping[Address, int]) -> int:
        """The number of the address where this one has come in, 0 if it has none."""


@dataclass(slots=True, eq=False, repr=False)  # neither is asked for, and each takes its time
class Services:
    """One worker's shared parts. ``site`` is None without files to serve, ``lane`` where the engine
    has none, ``tracer`` where requests are not traced, ``lives`` where the log has no lines
    about tunnels that live, ``giver`` while no other worker is to take this one's place,
    ``limiting`` without limits, ``spoken`` where it is all the same by which address a client
    comes. ``draining``: no connection is to be kept alive. ``faults``: where faults of our own are
    told; ``answers``: those of what origins send."""

    loop: asyncio.AbstractEventLoop
    config: Config
    relay: RelayDriver
    mover: BodyMover
    records: Records
    counts: Counts
    policy: Policy
    lane: Lane | None
    origins: Origins
    asking: Asking
    site: Site | None
    draining: bool = False
    tracer: Tracer | None = None
    lives: Lives | None = None
    generation: int = 1  # of the configuration
    tunnels: Counter[int] = field(default_factory=Counter, init=False)  # of Python's, by theirs
    giver: Giver | None = None
    limiting: Limiting | None = None
    spoken: Spoken | None = None
    faults: Seldom = field(default_factory=partial(Seldom, log), init=False)
    answers: Seldom = field(default_factory=partial(Seldom, log), init=False)
    rewriting: Rewriting = field(init=False)
    reasons: Mapping[ErrorType, str] = field(init=False)
    _date: bytes = field(default=b"", init=False)
    _date_of: int = field(default=-1, init=False)

    def __post_init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Makes anew what the settings alone decide."""
        self.rewriting = Rewriting.of(self.config)
        self.reasons = reasons(self.config.timeouts)

    def place(self, sock: socket.socket) -> int:
        """The number of the address where a client has come in (``Policy.places``), 0 if it has
        none."""
        return 0 if self.spoken is None else self.spoken.place(sock, self.policy.places)

    def listener(self, sock: socket.socket) -> Address | None:
        """The address itself, None where routes name none."""
        if self.spoken is None or not self.policy.places:
            return None
        return self.spoken.at(sock)

    def date(self) -> bytes:
        """Now as an IMF-fixdate (RFC 9110 section 5.6.7), made once a second."""
        now = int(time.time())
        if now != self._date_of:
            self._date_of = now
            self._date = fixdate(now).encode("ascii")
        return self._date
