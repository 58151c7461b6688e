"""Reads the heads of the responses to one request from its origin's connection."""

from __future__ import annotations

import time

from spliceproxy.errors import Failure, PeerGone
from spliceproxy.http1.errors import HeadError
from spliceproxy.http1.head import MAX_EMPTY, ResponseHead, find_head_end, parse_response
from spliceproxy.http1.lenient import skip_lines
from spliceproxy.net.stream import Stream


class DeadReuse(Exception):
    """A reused connection ended before the first byte of a response."""


def expect_answer(origin: Stream, idle: float) -> None:
    """The request is with the origin: it has so many seconds for each step of its answer."""
    origin.read_limit.set("http_response_timeout", "the origin does not answer", idle)


class ResponseReader:
    """To be made before the request is sent, or, ``begun``, when an interim response to it has
    been read. ``sound``: all that has come could be read strictly, so that the connection may
    serve another request. ``first`` is when the first bytes came, in monotonic seconds; 0.0 if none
    have come here."""

    __slots__ = ("_before", "_origin", "first", "sound")

    def __init__(self, origin: Stream, *, begun: bool = False) -> None:
        self._origin = origin
        # Bytes that are no answer to it; -1: it has begun.
        self._before = -1 if begun else origin.received - len(origin.buffer)
        self.sound = True
        self.first = 0.0

    async def next(self) -> ResponseHead:
        """The next head, interim or final. HeadError(502); DeadReuse where the origin has sent
        nothing, Failure where it has not sent all of it, or has not in time."""
        origin, buffer = self._origin, self._origin.buffer
        searched = skipped = 0
        try:
            while True:
                if not searched:
                    skipped += self._skip_empty_lines()
                    if skipped > MAX_EMPTY:
                        raise HeadError(502, "too many empty lines before a response")
                if len(buffer) > searched and buffer != b"\r":  # half an empty line begins nothing
                    end = find_head_end(buffer, searched, response=True)
                    if end >= 0:
                        return self._take(end)
                    searched = len(buffer)
                else:
                    await origin.readable()
                if not await origin.fill():
                    break
                self.first = self.first or time.monotonic()
        except PeerGone as error:
            if origin.received == self._before:
                raise DeadReuse from error
            detail = "the origin reset the connection"
            raise Failure("connection_terminated", detail, why="connection reset") from error
        if origin.received == self._before:
            raise DeadReuse
        raise Failure("http_response_incomplete", "the origin closed within the response's head")

    def _skip_empty_lines(self) -> int:
        """Takes those before a response away, which are not yet a part of it."""
        skipped = skip_lines(self._origin.buffer)
        if skipped:
            self._before += skipped
            self.sound = False
        return skipped

    def _take(self, end: int) -> ResponseHead:
        buffer = self._origin.buffer
        head = bytes(buffer[:end])
        del buffer[:end]
        response = parse_response(head)
        self.sound = self.sound and response.sound
        return response
