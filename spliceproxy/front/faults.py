"""What becomes of a client's request when something of the proxy's own fails, or an answer that
has begun cannot be ended."""

from __future__ import annotations

from contextlib import suppress

from spliceproxy.errors import ClientGone, Failure, Killed
from spliceproxy.forward.body import SourceFailed
from spliceproxy.http1.errors import HeadError
from spliceproxy.net.stream import Stream
from spliceproxy.observe.record import Record
from spliceproxy.observe.termination import CLIENT, CLIENT_LIMIT
from spliceproxy.relay.interface import ABORTED, IDLE, SOURCE_ERROR
from spliceproxy.site.pages import NO_MEMORY


def note_cut(record: Record, error: Exception) -> None:
    """An answer has begun and will not be whole, for this reason."""
    if isinstance(error, (ClientGone, SourceFailed)):
        note_gone(record, error)
    elif isinstance(error, Failure):
        record.blame(error.error)
        record.detail = error.detail
        record.reason = ABORTED if error.error == "proxy_internal_error" else IDLE
    elif isinstance(error, HeadError):
        record.blame(error.error)
        record.detail = error.detail
        record.reason = SOURCE_ERROR


def note_gone(record: Record, error: ClientGone | SourceFailed) -> None:
    """The client has left, an operator has ended the request, or the origin has ended its answer
    too early."""
    record.reason = error.reason
    if isinstance(error, ClientGone) and not isinstance(error, Killed):
        record.by = CLIENT_LIMIT if error.reason == IDLE else CLIENT


async def last_words(client: Stream, *, asked: bool) -> None:
    """Not even the answer to a fault could be made: what needs no memory is sent, if there is a
    request, and no answer to it has begun."""
    if not asked or client.fd < 0 or client.sent != client.message_start:
        return
    with suppress(OSError):
        client.sock.send(NO_MEMORY)
        await client.finish(more=True)
