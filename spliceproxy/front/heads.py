"""Reads the request heads of one client's connection, each under the time limit for them."""

from __future__ import annotations

from spliceproxy.errors import ClientGone, Failure, PeerGone
from spliceproxy.http1.errors import HeadError
from spliceproxy.http1.head import (
    MAX_EMPTY,
    RequestHead,
    find_head_end,
    parse_request,
    skip_empty_lines,
)
from spliceproxy.net.stream import Stream


class HeadReader:
    """Call :meth:`begin` and :meth:`rest` in turn, once for each request. ``seconds`` is the
    limit for a whole head, and for the wait before one."""

    __slots__ = ("_skipped", "_stream", "seconds")

    def __init__(self, stream: Stream, seconds: float) -> None:
        self._stream = stream
        self.seconds = seconds
        self._skipped = 0  # bytes of empty lines before the head

    async def begin(self, *, first: bool) -> bool:
        """Waits until a head begins; false if the client has no more to say. ClientGone where
        it has broken the connection, or the time is up."""
        buffer = self._stream.buffer
        self._skipped = 0
        try:
            if not first and not buffer:
                self.limit()
                await self._stream.readable()
            self.limit()
            while True:
                self._skipped += skip_empty_lines(buffer)
                if buffer and buffer != b"\r":  # half an empty line begins nothing
                    return True
                if self._skipped > MAX_EMPTY:
                    return True
                if not await self._stream.fill():
                    return False
        except (Failure, PeerGone) as error:
            raise ClientGone from error

    async def rest(self) -> RequestHead:
        """The head that has begun. HeadError, or Failure when the time is up (answer it);
        ClientGone where the client has ended its stream within the head; PeerGone."""
        buffer = self._stream.buffer
        searched = 0
        if self._skipped > MAX_EMPTY:
            raise HeadError(400, "too many empty lines before a request")
        while True:
            end = find_head_end(buffer, searched)
            if end >= 0:
                head = bytes(buffer[:end])
                del buffer[:end]
                return parse_request(head)
            searched = len(buffer)
            try:
                more = await self._stream.fill()
            except Failure as error:
                raise Failure(error.error, error.detail, 408) from error
            if not more:
                raise ClientGone

    def limit(self) -> None:
        """From now on there is the whole time for a head."""
        self._stream.read_limit.set(
            "connection_read_timeout", "no request head within the time limit", self.seconds
        )
