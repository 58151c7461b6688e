"""A request that Python serves, and that has been sent, or is being sent: another process can go on
with it as with one that the lane has begun (:class:`relay.handoff.Handoff`).

Its tasks stand still while it is frozen: what they wait for does not come. When it is given away
they end, and find neither socket any more.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from spliceproxy.forward.exchange import Part, Sending
from spliceproxy.forward.moving_facts import of_known
from spliceproxy.forward.services import Services
from spliceproxy.http1.framing import Body
from spliceproxy.http1.head import RequestHead
from spliceproxy.net.stream import Stream
from spliceproxy.observe.record import microseconds
from spliceproxy.relay.driver import RelayDriver
from spliceproxy.relay.handoff import BODY, RESPONSE, Begun, Chunks, Handoff
from spliceproxy.relay.moving import FrozenTransfer


class FrozenRequest(NamedTuple):
    """``facts`` are as of ``moving_facts.KNOWN``."""

    fds: tuple[int, ...]
    handoff: Handoff
    facts: dict[str, Any]


class Client(NamedTuple):
    """Whose request it is. ``watch`` looks out for the client's leaving, ``left`` ends its task:
    the connection has another owner."""

    stream: Stream
    address: str
    via: str
    requests: int
    watch: Callable[[], None]
    left: Callable[[], None]


class Stopped(NamedTuple):
    """A body that stands still. ``opened``: its receiver has been told of the chunk of which
    ``found.left`` bytes are to come. Of ``found.owed`` the stream has not counted ``unseen``
    bytes, for the relay has read them."""

    found: FrozenTransfer
    opened: bool
    unseen: int


NOTHING = Stopped(FrozenTransfer(-2, b"", 0, 0, 0, 0), False, 0)
"""Of a body that is over, or has not begun."""


class Leg:
    """The way of a body from one stream to another."""

    __slots__ = ("_go_on", "_let_go", "_relay", "_source", "_target")

    def __init__(self, relay: RelayDriver, source: Stream, target: Stream) -> None:
        self._relay = relay
        self._source = source
        self._target = target
        self._go_on: Callable[[], object] = int
        self._let_go: Callable[[], object] = int

    def stop(self) -> Stopped | None:
        """None where that is not possible now."""
        ident, rest = self._target.transfer, self._target.rest
        if ident >= 0:
            found = self._relay.freeze_transfer(ident)
            if found is None:
                return None
            self._go_on = partial(self._relay.thaw, ident)
            self._let_go = partial(self._relay.release, ident)
            return Stopped(found, True, len(found.owed))
        if rest is None:
            return None
        owed = b""
        seconds = self._target.hold_write()
        if seconds is not None:
            owed = bytes(self._target.unsent)
            self._go_on = partial(self._target.go_on_writing, seconds)
        else:
            seconds = self._source.hold_read()
            if seconds is None:
                return None
            self._go_on = partial(self._source.go_on_reading, seconds)
        left, opened = rest
        return Stopped(FrozenTransfer(left, owed, 0, 0, 0, 0), opened, 0)

    def go_on(self) -> None:
        """It goes on here."""
        self._go_on()

    def let_go(self) -> None:
        """It goes on elsewhere."""
        self._let_go()


class Running:
    """One of these requests. It is to be asked for anew each time, until it is frozen."""

    __slots__ = (
        "_await",
        "_client",
        "_leg",
        "_origin",
        "_part",
        "_sending",
        "_services",
        "_uncounted",
    )

    def __init__(self, services: Services, client: Client, part: Part) -> None:
        self._services = services
        self._client = client
        self._part = part
        self._origin, self._sending = part.going.origin, part.going.sending
        self._leg: Leg | None = None
        if part.going.uploads:
            self._leg = Leg(services.relay, client.stream, self._origin)
        elif self._sending is not None:
            self._leg = Leg(services.relay, self._origin, client.stream)
        self._await: Callable[[], object] = int  # goes on to wait for the response
        self._uncounted = 0, 0

    @property
    def number(self) -> int:
        """Of the request."""
        return self._part.record.number

    def freeze(self) -> FrozenRequest | None:
        """Stops it here; None where that is not possible now."""
        client, origin = self._client.stream, self._origin
        if client.fd < 0 or origin.fd < 0:
            return None
        if self._sending is None:
            seconds = origin.hold_read()
            if seconds is None:
                return None
            self._await = partial(origin.go_on_reading, seconds)
        if not self._part.going.uploads:
            client.pause()
        stopped = self._leg.stop() if self._leg is not None else NOTHING
        if stopped is None:
            self._go_on()
            return None
        handoff = self._handoff(stopped)
        facts = of_known(self._part.record, self._part.going.verdict)
        return FrozenRequest((client.fd, origin.fd), handoff, facts)

    def thaw(self) -> None:
        """It goes on here."""
        if self._client.stream.fd < 0 or self._origin.fd < 0:
            return  # it has been ended meanwhile
        if self._leg is not None:
            self._leg.go_on()
        self._go_on()

    def _go_on(self) -> None:
        self._await()
        if not self._part.going.uploads:
            self._client.watch()

    def release(self) -> None:
        """It goes on elsewhere: our descriptors are closed, without any effect on the
        connections."""
        if self._leg is not None:
            self._leg.let_go()
        self._services.counts.gave_away(*self._uncounted)
        for stream in (self._client.stream, self._origin):
            if stream.fd >= 0:
                os.close(stream.detach())
        self._client.left()

    # ---- what the other process is told ------------------------------------------------

    def _handoff(self, stopped: Stopped) -> Handoff:
        """As if the lane gave it back now."""
        client, part, found = self._client.stream, self._part, stopped.found
        record, uploads = part.record, part.going.uploads
        dns = microseconds(record.looked_up)
        moved = found.copied + found.spliced
        received = client.received - len(client.buffer) - part.received
        sent = client.sent - part.sent
        self._uncounted = received - client.relayed_in, sent - client.relayed_out
        if uploads:
            received += moved
        else:
            sent += moved
        chunks, left, owed = self._upload(stopped, received)
        begun = None
        if self._sending is not None:
            begun = self._begun(self._sending, stopped, sent)
        return Handoff(
            RESPONSE if begun is None else BODY,
            -1,
            self._client.address,
            self._client.requests,
            head_of(part.head, record.bytes_in) + owed + client.buffer,
            -1,
            bytes(self._origin.buffer),
            record.peer,
            part.going.reused if begun is None else False,
            record.started,
            left=left,
            sent=sent if begun is None else 0,
            number=record.number,
            stages=(record.question, dns, record.dial, record.first_byte),
            spliced=client.spliced_in - part.spliced[0] + (found.spliced if uploads else 0),
            waits=self._waits(found),
            chunks=chunks,
            begun=begun,
            # Its body is counted here, and its head as if it were a part of that.
            moved=received,
            summed=record.summed,
            via=self._client.via,
            route=record.route,
            connect_by=record.connect_by,
            accounted=0 if record.holding is None else record.holding.counted,
        )

    def _upload(self, stopped: Stopped, received: int) -> tuple[Chunks | None, int, bytes]:
        """How far the request's body has come: in chunks, or how many bytes of it are to be sent,
        and which of them come first."""
        body, _ = self._part.head.body()
        if not self._part.going.uploads:
            stopped = NOTHING
        left, owed = stopped.found.left, stopped.found.owed
        if body == Body.CHUNKED:
            taken = received + stopped.unseen - self._part.record.bytes_in
            return Chunks(left, stopped.opened, owed, taken), 0, b""
        return None, max(left, 0) + len(owed), owed

    def _begun(self, sending: Sending, stopped: Stopped, sent: int) -> Begun:
        part, found = self._part, stopped.found
        chunks = None
        if sending.kind == Body.CHUNKED:
            chunks = Chunks(found.left, stopped.opened, found.owed, 0)
        return Begun(
            part.record.status,
            part.record.content_type,
            sending.closes,
            sending.keeps and sending.kind == Body.LENGTH,
            sent,
            self._client.stream.spliced_out - part.spliced[1] + found.spliced,
            0 if chunks is not None else found.left,
            b"" if chunks is not None else found.owed,
            chunks,
        )

    def _waits(self, found: FrozenTransfer) -> tuple[int, int, int, int]:
        waits = self._part.going.waited.waits(self._origin)
        # The source of a body is whoever sends it.
        source, target = found.for_source, found.for_target
        if self._part.going.uploads:
            client, origin = (source, 0), (0, target)
        else:
            client, origin = (0, target), (source, 0)
        return (
            max(waits.client - waits.client_target + client[0], 0),
            max(waits.client_target + client[1], 0),
            max(waits.origin - waits.origin_target + origin[0], 0),
            max(waits.origin_target + origin[1], 0),
        )


def head_of(head: RequestHead, size: int) -> bytes:
    """The head of a request as it could have come, in ``size`` bytes where that is enough."""
    lines = [f"{head.method} {head.target} HTTP/1.{head.minor}".encode("latin-1")]
    lines += (name + b":" + value for name, value in head.fields)
    text = b"\r\n".join(lines) + b"\r\n\r\n"
    if head.fields and len(text) < size:
        # Blanks behind a colon mean nothing (RFC 9112 section 5).
        at = len(lines[0]) + 2 + len(head.fields[0][0]) + 1
        text = text[:at] + b" " * (size - len(text)) + text[at:]
    return text
