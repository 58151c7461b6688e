"""A connection to where the verdict says: one that is idle, or a new one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container

from spliceproxy.errors import Failure
from spliceproxy.net.stream import Stream
from spliceproxy.observe.record import Record, endpoint
from spliceproxy.policy.verdict import Verdict
from spliceproxy.upstream.dialer import Dialer
from spliceproxy.upstream.own import Own
from spliceproxy.upstream.pool import Key, Pool


class Origins:
    """The connections of one worker. ``idle`` keeps them between two requests. ``own`` are the
    proxy's own addresses: nothing is sent to them, because such a request would come back. It
    is None if there are files to serve, because a request that comes back is no loop then."""

    __slots__ = ("_dialer", "_idle", "_loop", "_own")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, dialer: Dialer, idle: Pool, own: Own | None
    ) -> None:
        self._loop = loop
        self._dialer = dialer
        self._idle = idle
        self._own = own

    def change(self, dialer: Dialer, own: Own | None) -> None:
        """What is dialled from here on."""
        self._dialer, self._own = dialer, own

    async def dial(self, verdict: Verdict, record: Record) -> Stream:
        """A new connection to where the policy allows. ``record`` learns its peer's address. The
        time that the look-up of the name took is a part of the limit. Where the relay has tried
        all of the addresses a moment ago, they are not tried again. Failure also if the
        connection leads to the proxy itself."""
        since = record.dialling_since
        spent = time.monotonic() - since if since else record.looked_up
        addresses, port, source = verdict.addresses, verdict.port, verdict.source_address
        tried, record.tried = record.tried, ()
        if tried:
            known = self._dialer.failure_of(tried, addresses, port, source)
            if known is not None:
                raise known
        return await self.connect(verdict.host, addresses, port, record, source, spent)

    async def connect(
        self,
        host: str,
        addresses: tuple[str, ...],
        port: int,
        record: Record,
        source: str = "",
        spent: float = 0.0,
        dialer: Dialer | None = None,
    ) -> Stream:
        """A new connection to one of a host's addresses, by ``dialer`` if its limit is not the
        usual one. Raises as :meth:`dial`."""
        dialer = dialer or self._dialer
        attempts = None
        if record.trace is not None:
            attempts = record.trace.dial(host, port, len(addresses), source)
        where = addresses, port, source, spent, attempts
        try:
            sock, record.peer = await dialer.connect(*where)
        except Failure as failure:
            if failure.error != "connection_limit_reached" or not len(self._idle):
                raise
            self.close_idle()
            sock, record.peer = await dialer.connect(*where)
        if self._own is not None and self._own.has(sock, record.peer, port):
            sock.close()  # before a byte, so that nothing counts as connected to
            here, record.peer = endpoint(record.peer, port), ""
            detail = "the request leads back to this proxy"
            raise Failure("proxy_loop_detected", detail, where=here)
        return Stream(sock, self._loop)

    def take(self, key: Key, addresses: Container[str]) -> tuple[Stream, str] | None:
        """An idle connection to one of ``addresses`` and its peer's address, or None."""
        return self._idle.take(key, addresses)

    def take_own(
        self, key: Key, addresses: Container[str], user: object
    ) -> tuple[Stream, str] | None:
        """The same, if ``user`` was the last to use it, not long ago."""
        return self._idle.take_own(key, addresses, user)

    def put(self, key: Key, stream: Stream, peer: str, user: object) -> None:
        """Keeps a connection between two messages, which ``user`` has used, or closes it."""
        self._idle.put(key, stream, peer, user)

    def close_idle(self) -> None:
        """Closes every idle connection, to free descriptors when there are none left."""
        self._idle.close()
