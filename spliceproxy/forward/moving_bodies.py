"""A response that Python sends, and whose body the relay moves just now: another process can go on
with it as with one that the lane has begun (:class:`relay.handoff.Handoff`).

Its task stands still while the transfer is frozen. When it is given away the task ends, and finds
neither socket any more.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from spliceproxy.forward.exchange import Part
from spliceproxy.forward.moving_facts import of_known
from spliceproxy.forward.services import Services
from spliceproxy.http1.framing import Body
from spliceproxy.http1.head import RequestHead
from spliceproxy.net.stream import Stream
from spliceproxy.observe.record import microseconds
from spliceproxy.relay.handoff import BODY, Begun, Chunks, Handoff
from spliceproxy.relay.moving import FrozenTransfer


class FrozenBody(NamedTuple):
    """``facts`` are as of ``moving_facts.KNOWN``."""

    fds: tuple[int, ...]
    handoff: Handoff
    facts: dict[str, Any]


class Client(NamedTuple):
    """Whose response it is. ``watch`` looks out for the client's leaving, ``left`` ends its task:
    the connection has another owner."""

    stream: Stream
    address: str
    via: str
    requests: int
    watch: Callable[[], None]
    left: Callable[[], None]


class RunningBody:
    """One of them. It is to be asked for anew each time, until it is frozen."""

    __slots__ = ("_client", "_ident", "_part", "_services", "_uncounted")

    def __init__(self, services: Services, client: Client, part: Part) -> None:
        self._services = services
        self._client = client
        self._part = part
        self._ident = client.stream.transfer  # of the relay
        self._uncounted = 0, 0

    @property
    def number(self) -> int:
        """Of the request."""
        return self._part.record.number

    def freeze(self) -> FrozenBody | None:
        """Stops it here; None where that is not possible now."""
        client, origin = self._client.stream, self._part.sending.origin
        if self._ident < 0 or self._ident != client.transfer:
            return None
        client.pause()
        frozen = self._services.relay.freeze_transfer(self._ident)
        if frozen is None:
            self._client.watch()
            return None
        handoff = self._handoff(frozen)
        facts = of_known(self._part.record, self._part.sending.verdict)
        return FrozenBody((client.fd, origin.fd), handoff, facts)

    def thaw(self) -> None:
        """It goes on here."""
        self._services.relay.thaw(self._ident)
        self._client.watch()

    def release(self) -> None:
        """It goes on elsewhere: our descriptors are closed, without any effect on the
        connections."""
        self._services.relay.release(self._ident)
        self._services.counts.gave_away(*self._uncounted)
        for stream in (self._client.stream, self._part.sending.origin):
            os.close(stream.detach())
        self._client.left()

    def _handoff(self, frozen: FrozenTransfer) -> Handoff:
        client, part = self._client.stream, self._part
        record = part.record
        head = head_of(part.head, record.bytes_in)
        received = client.received - len(client.buffer) - part.received
        moved = frozen.copied + frozen.spliced
        sent = client.sent - part.sent + moved
        self._uncounted = received - client.relayed_in, sent - moved - client.relayed_out
        upload = None
        if part.head.body()[0] == Body.CHUNKED:
            upload = Chunks(-2, False, b"", received - record.bytes_in)
        dns = microseconds(record.looked_up)
        return Handoff(
            BODY,
            -1,
            self._client.address,
            self._client.requests,
            head + client.buffer,
            -1,
            bytes(part.sending.origin.buffer),
            record.peer,
            False,
            record.started,
            number=record.number,
            stages=(record.question, dns, record.dial, record.first_byte),
            spliced=client.spliced_in - part.spliced[0],
            waits=self._waits(frozen),
            chunks=upload,
            begun=self._begun(frozen, sent),
            # Its body is counted here, and its head as if it were a part of that.
            moved=received,
            summed=record.summed,
            via=self._client.via,
        )

    def _begun(self, frozen: FrozenTransfer, sent: int) -> Begun:
        client, part = self._client.stream, self._part
        sending = part.sending
        chunks = None
        if sending.kind == Body.CHUNKED:
            chunks = Chunks(frozen.left, True, frozen.owed, 0)
        return Begun(
            part.record.status,
            part.record.content_type,
            sending.closes,
            sending.keeps and sending.kind == Body.LENGTH,
            sent,
            client.spliced_out - part.spliced[1] + frozen.spliced,
            0 if chunks is not None else frozen.left,
            b"" if chunks is not None else frozen.owed,
            chunks,
        )

    def _waits(self, frozen: FrozenTransfer) -> tuple[int, int, int, int]:
        part = self._part
        waits = part.sending.waited.waits(part.sending.origin)
        return (
            max(waits.client - waits.client_target, 0),
            max(waits.client_target + frozen.for_target, 0),
            max(waits.origin - waits.origin_target + frozen.for_source, 0),
            max(waits.origin_target, 0),
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
