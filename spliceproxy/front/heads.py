"""Reads the request heads of one client's connection, each under the time limit for them."""

from __future__ import annotations

from spliceproxy.errors import ClientGone, Failure
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
    """``seconds`` is the limit for a whole head, and for the wait before one. ``idle``: the
    connection is between two requests."""

    __slots__ = ("_seconds", "_stream", "idle")

    def __init__(self, stream: Stream, seconds: float) -> None:
        self._stream = stream
        self._seconds = seconds
        self.idle = True

    async def next(self, *, first: bool) -> RequestHead | None:
        """The next request's head; None if the client has no more to say. HeadError, or
        Failure when the time is up (answer it); ClientGone."""
        buffer = self._stream.buffer
        searched = skipped = 0
        self.idle = True
        if not first and not buffer:
            await self._wait()
        self._limit()
        while True:
            if not searched:
                skipped += skip_empty_lines(buffer)
                if skipped > MAX_EMPTY:
                    self.idle = False
                    raise HeadError(400, "too many empty lines before a request")
            if len(buffer) > searched and buffer != b"\r":  # half an empty line begins nothing
                self.idle = False
                end = find_head_end(buffer, searched)
                if end >= 0:
                    head = bytes(buffer[:end])
                    del buffer[:end]
                    return parse_request(head)
                searched = len(buffer)
            if not await self._fill():
                if searched:
                    raise ClientGone
                return None

    async def _wait(self) -> None:
        self._limit()
        try:
            await self._stream.readable()
        except Failure as error:
            raise ClientGone from error

    def _limit(self) -> None:
        self._stream.read_limit.set(
            "connection_read_timeout", "no request head within the time limit", self._seconds
        )

    async def _fill(self) -> int:
        try:
            return await self._stream.fill()
        except Failure as error:
            if self.idle:
                raise ClientGone from error
            raise Failure(error.error, error.detail, 408) from error
