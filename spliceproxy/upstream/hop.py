"""What the ways through another proxy have in common: faults, and bytes that come in pieces."""

from __future__ import annotations

from spliceproxy.errors import ErrorType, Failure, PeerGone
from spliceproxy.net.stream import Stream

Credentials = tuple[str, str] | None

GONE = "it closed the connection without an answer"


class Refused(Failure):
    """The parent has answered, as it should, and this destination cannot be reached: that is no
    fault of the parent's, and no other parent is asked."""


class Unauthorized(Failure):
    """The parent does not take our credentials, or wants some."""

    def __init__(self, detail: str, received: int = 0) -> None:
        super().__init__("destination_unavailable", detail, 502, why=NO_WAY, received=received)


NO_WAY = "a parent proxy has failed"
"""The reason phrase where a parent is at fault."""


def fault(error: ErrorType, detail: str) -> Failure:
    """The parent does not do what it should."""
    return Failure(error, detail, why=NO_WAY)


async def more(stream: Stream) -> None:
    """Receives something. Failure where there is nothing more to come."""
    try:
        if await stream.fill():
            return
    except PeerGone as error:
        raise fault("connection_terminated", GONE) from error
    raise fault("connection_terminated", GONE)


async def take(stream: Stream, count: int) -> bytes:
    """The next so many bytes; what follows them stays in the buffer."""
    while len(stream.buffer) < count:
        await more(stream)
    found = bytes(stream.buffer[:count])
    del stream.buffer[:count]
    return found


async def say(stream: Stream, data: bytes) -> None:
    """Sends it."""
    try:
        await stream.send(data)
    except PeerGone as error:
        raise fault("connection_terminated", GONE) from error
