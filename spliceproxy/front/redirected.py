"""The one request of a client whose connection the kernel has led here: it is a CONNECT to where
the client wanted to go, and is asked about, dialled and logged as one.

    original destination ─► first bytes ─► a name ─► does it lead there? ─► policy ─► dial ─► tunnel

Only an address is known at first. The name is in the first bytes, which are looked at and stay in
the socket, for the relay. Rules see it if it leads to the address, since anybody could write
any name. What is dialled is the address in any case.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

from spliceproxy.config import REDIRECT
from spliceproxy.errors import ClientGone, Failure, PeerGone
from spliceproxy.forward.asking import Question
from spliceproxy.front.forwards import Forwarded, head_of
from spliceproxy.front.named import name_in
from spliceproxy.http1.head import RequestHead
from spliceproxy.net import original
from spliceproxy.policy import refusals
from spliceproxy.policy.hosts import is_address
from spliceproxy.policy.names import is_number
from spliceproxy.tls.hello import MALFORMED, MOST, NAMED, Hello

if TYPE_CHECKING:
    from spliceproxy.front.http1 import Connection

MATCH = "match"
MISMATCH = refusals.MISMATCH
LATE = "late"

SILENT = 1.0
"""Seconds after which a client that has said nothing is one to whom the server speaks first."""

LOOKS = 16
PAUSE = 0.02
"""After so many looks at what has come there is so much time, in seconds, between two: each begins
from the first byte."""


class Redirected(Forwarded):
    """Of such a connection. ``by``: one of config.TRANSPARENT."""

    __slots__ = ("_by",)

    def __init__(self, connection: Connection, received: int, by: str) -> None:
        super().__init__(connection, received, ("", 0))
        self._by = by

    async def _read_head(self) -> RequestHead:
        record, sock = self._record, self._stream.sock
        record.method = "CONNECT"
        led = original.redirected if self._by == REDIRECT else original.intercepted
        found = led(sock)
        if found is None:
            raise Failure(
                "proxy_loop_detected",
                "the connection was made to this proxy itself: the kernel has not led it here",
            )
        self._target = address, port = found
        head = head_of(address, port)
        record.target = head.target
        # No name is looked up for who may not use the proxy at all.
        await self._asking.identify(self._connection.standing, head, record)
        hello = await self._look()
        record.name, host = hello.outcome, hello.name
        if host and not await self._leads(host, address):
            record.name = MISMATCH
            if self._services.config.redirect_verify == "strict":
                raise refusals.mismatch(host, address)
            host = ""
        elif hello.outcome == NAMED:
            record.name = MATCH
        return head_of(host, port) if host else head

    def _question(self, head: RequestHead) -> Question:
        return super()._question(head)._replace(address=self._target[0])

    async def _leads(self, host: str, address: str) -> bool:
        if is_address(host) or is_number(host):  # in whatever spelling
            return host == address
        return await self._asking.leads(host, address, self._record)

    async def _look(self) -> Hello:
        """What the first bytes say, within the time for them."""
        stream = self._stream
        seconds = self._services.config.timeouts.tls_name
        self._limit(min(SILENT, seconds))
        data = b""
        try:
            for look in itertools.count(1):
                before, data = data, await stream.peek(len(data), MOST)
                hello = name_in(data)
                if hello is not None:
                    return hello
                if len(data) <= len(before):  # the client has ended
                    return Hello(MALFORMED) if data else Hello(LATE)
                if not before:
                    self._limit(seconds)
                if look > LOOKS:
                    await asyncio.sleep(PAUSE)
                    stream.read_limit.check()
        except Failure:
            return Hello(LATE)
        except PeerGone as error:
            raise ClientGone from error
        finally:
            stream.read_limit.clear()
        raise AssertionError("looks are not counted out")

    def _limit(self, seconds: float) -> None:
        self._stream.read_limit.set("connection_read_timeout", "no name within the limit", seconds)
