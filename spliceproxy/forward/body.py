"""Moves one message body from one stream to another, without ever holding it whole.

Each function sends ``prefix`` (the head) together with what is already in the source's
buffer, and leaves in that buffer what follows the body. Large parts of known length go
through the relay, which gives the sockets back. Nobody else may read from the source
meanwhile: what a watch had put into its buffer would be overtaken. ``to_client``: the body is that
of a response.

While a body waits for one of its streams, ``Stream.rest`` of the target says how it would go on:
how many bytes of it, or of the chunk at hand (``relay.handoff.Chunks.rest``), are to come behind
what is in the source's buffer, and whether the target has been told of that chunk.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial

from spliceproxy.errors import EXHAUSTED, Failure, PeerGone
from spliceproxy.http1.chunked import ChunkedDecoder, chunk, chunk_head, last_chunk
from spliceproxy.http1.errors import HeadError
from spliceproxy.http1.status_field import without_own
from spliceproxy.net.stream import Stream
from spliceproxy.relay import interface
from spliceproxy.relay.driver import RelayDriver
from spliceproxy.relay.handoff import Chunks
from spliceproxy.relay.interface import TransferEnd


class SourceFailed(Exception):
    """The body was cut short: its sender ended or broke the connection, or stalled.
    ``reason`` is one of the relay interface's reasons."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TargetFailed(Exception):
    """The receiver of the body broke the connection, or takes no more."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BodyMover:
    """Moves bodies through one worker's relay; ``idle`` is the limit in seconds without a
    byte, ``pseudonym`` ours in Via, b"" for none."""

    __slots__ = ("_idle", "_pseudonym", "_relay")

    def __init__(self, relay: RelayDriver, idle: float, pseudonym: bytes) -> None:
        self._relay = relay
        self._idle = idle
        self._pseudonym = pseudonym

    async def length(
        self, source: Stream, target: Stream, length: int, prefix: bytes, *, to_client: bool
    ) -> None:
        """Exactly ``length`` bytes."""
        await self._length(source, target, length, prefix, to_client=to_client, opened=False)

    async def _length(
        self,
        source: Stream,
        target: Stream,
        length: int,
        prefix: bytes,
        *,
        to_client: bool,
        opened: bool,
    ) -> None:
        """``opened``: it is what is to come of a chunk that the target has been told of."""
        source.unwatch()
        first = bytes(source.buffer[:length])
        del source.buffer[:length]
        left = length - len(first)
        await self._send(target, prefix + first, (left, opened))
        if left >= interface.SPLICE_MIN:
            await self._transfer(source, target, left, to_client=to_client)
            return
        while left:
            await self._fill(source, target, (left, opened))
            part = bytes(source.buffer[:left])
            del source.buffer[:left]
            left -= len(part)
            await self._send(target, part, (left, opened))

    async def until_end(self, source: Stream, target: Stream, prefix: bytes) -> None:
        """Everything until FIN, which is how a response ends only."""
        source.unwatch()
        first = prefix + source.buffer
        source.buffer.clear()
        await self._send(target, first, (-1, False))
        await self._transfer(source, target, -1, to_client=True)

    async def chunked(
        self,
        source: Stream,
        target: Stream,
        decoder: ChunkedDecoder,
        prefix: bytes,
        *,
        framed: bool,
        to_client: bool,
        begun: Chunks | None = None,
    ) -> None:
        """A chunked body, ``framed`` anew, or its payload alone. HeadError where
        the framing is broken. Chunks that do not fit the buffer are passed through the relay.
        ``begun``: how far one has come already that is framed, and has no ``prefix``."""
        source.unwatch()
        if begun is not None:
            prefix = await self._end_chunk(source, target, decoder, begun, to_client=to_client)
        if decoder.done:
            await self._send(target, prefix, (-2, False))
        else:
            await self._chunks(source, target, decoder, prefix, framed=framed, to_client=to_client)

    async def _chunks(
        self,
        source: Stream,
        target: Stream,
        decoder: ChunkedDecoder,
        prefix: bytes,
        *,
        framed: bool,
        to_client: bool,
    ) -> None:
        while True:
            try:
                payload = decoder.decode(source.buffer)
            except HeadError:
                # What came before the fault goes on, however the segments fell.
                good = decoder.good
                await self._send(target, prefix + (chunk(good) if framed and good else good), None)
                raise
            out = chunk(payload) if framed and payload else payload
            if decoder.done and framed:
                out += last_chunk(without_own(decoder.trailers, self._pseudonym))
            to_come = decoder.rest
            rest = None if to_come is None else (to_come, False)
            if prefix or out:
                await self._send(target, prefix + out, rest)
                prefix = b""
            if decoder.done:
                return
            if decoder.paused:
                await asyncio.sleep(0)
                continue
            left = decoder.remaining
            if left < interface.SPLICE_MIN:
                await self._fill(source, target, rest)
                continue
            if framed:
                await self._send(target, chunk_head(left), (left, True))
                prefix = b"\r\n"
            await self._transfer(source, target, left, to_client=to_client)
            decoder.skip(left)

    async def _end_chunk(
        self,
        source: Stream,
        target: Stream,
        decoder: ChunkedDecoder,
        begun: Chunks,
        *,
        to_client: bool,
    ) -> bytes:
        """Ends the chunk that the target has been told of, if there is one; returns what is to be
        sent before the next."""
        if not begun.open:
            return begun.owed
        if not begun.rest:
            return begun.owed + b"\r\n"
        await self._length(source, target, begun.rest, begun.owed, to_client=to_client, opened=True)
        decoder.skip(begun.rest)
        return b"\r\n"

    async def _fill(self, source: Stream, target: Stream, rest: tuple[int, bool] | None) -> None:
        source.read_limit.set("connection_read_timeout", "the body stalled", self._idle)
        target.rest = rest
        try:
            n = await source.fill()
        except PeerGone as error:
            raise SourceFailed(interface.SOURCE_ERROR) from error
        except Failure as error:
            raise SourceFailed(interface.IDLE) from error
        finally:
            target.rest = None
        if n == 0:
            raise SourceFailed(interface.SOURCE_EOF)

    async def _send(self, target: Stream, data: bytes, rest: tuple[int, bool] | None) -> None:
        target.write_limit.set("connection_write_timeout", "the body is not taken", self._idle)
        target.rest = rest
        try:
            await target.send(data)
        except PeerGone as error:
            raise TargetFailed(interface.TARGET_ERROR) from error
        except Failure as error:
            raise TargetFailed(interface.TARGET_IDLE) from error
        finally:
            target.rest = None

    async def _transfer(
        self, source: Stream, target: Stream, length: int, *, to_client: bool
    ) -> None:
        source.pause()
        count = partial(_count, source, target, to_client)
        begun = partial(setattr, target, "transfer")
        try:
            end = await self._relay.transfer(
                source.fd, target.fd, length, count, to_client=to_client, begun=begun
            )
        finally:
            target.transfer = -1
        count(end)
        if end.errno in EXHAUSTED:  # neither socket says so, but our own kernel
            raise OSError(end.errno, os.strerror(end.errno))
        if end.reason in (interface.TARGET_ERROR, interface.TARGET_IDLE):
            raise TargetFailed(end.reason)
        if end.reason != interface.DONE:
            raise SourceFailed(end.reason)


def _count(source: Stream, target: Stream, to_client: bool, end: TransferEnd) -> None:
    moved = end.copied + end.spliced
    source.received += moved
    target.sent += moved
    source.spliced_in += end.spliced
    target.spliced_out += end.spliced
    source.waited_read += end.for_source / 1e3
    target.waited_write += end.for_target / 1e3
    if to_client:
        target.relayed_out += moved
    else:
        source.relayed_in += moved
