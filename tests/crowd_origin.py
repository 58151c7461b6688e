"""The origin of a crowd's clients (:mod:`crowd_load`)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection
from typing import Any, NamedTuple

from websockets.asyncio.server import serve

BODY = 1 << 20
"""Bytes of a large body."""

Address = tuple[str, int]


class Stream(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, data: bytes) -> None:
        if self.writer.is_closing():  # not every event loop says so by an OSError
            raise ConnectionResetError("the connection is closed")
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")


def poured(size: int) -> bytes:
    """A pattern that says where it stands."""
    return b"".join(number.to_bytes(4, "big") for number in range(size // 4))


async def cancelled(tasks: Collection[asyncio.Task[None]]) -> None:
    """Waits for their ends. One that waits with a time limit may not notice that it is to end."""
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=0.1)


class Pour:
    """What has been sent to one slow reader, and whether that is enough."""

    def __init__(self) -> None:
        self.size = 0
        self.over = asyncio.Event()


class Origin:
    """``address`` echoes, and answers requests; ``websockets`` is that of a server for these."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self._pours: dict[int, Pour] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def pour(self, number: int) -> Pour:
        return self._pours.setdefault(number, Pour())

    async def start(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, limit=4 * BODY, backlog=1024
        )
        self.address: Address = self._server.sockets[0].getsockname()
        self._websockets = await serve(self._echo, "127.0.0.1", 0, ping_interval=None)
        self.websockets: Address = next(iter(self._websockets.sockets)).getsockname()

    async def stop(self) -> None:
        if hasattr(self, "_server"):
            self._server.close()
            await cancelled(self._tasks)
            self._websockets.close()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._websockets.wait_closed(), 1.0)

    async def _echo(self, connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        stream = Stream(reader, writer)
        # Clients say what has gone wrong.
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
            first = await reader.read(5)
            hows: dict[bytes, Callable[[Stream, bytes], Awaitable[None]]] = {
                b"GET /": self._answer, b"POST ": self._answer,
                b"HOLD ": self._hold, b"POUR ": self._pour,
            }  # fmt: skip
            await hows.get(first, self._return)(stream, first)
        writer.close()
        self._tasks.discard(task)

    async def _return(self, stream: Stream, data: bytes) -> None:
        while data:
            await stream.say(data)
            data = await stream.reader.read(1 << 16)

    async def _hold(self, stream: Stream, first: bytes) -> None:
        said = first + await stream.reader.read()
        await self.release.wait()
        await stream.say(said)

    async def _pour(self, stream: Stream, _: bytes) -> None:
        number, small = (await stream.reader.readexactly(8)).split()
        pour, pattern = self.pour(int(number)), poured(1 << 12)
        size = len(pattern) // 4 if small == b"1" else len(pattern)
        while not pour.over.is_set():
            at = pour.size % len(pattern)
            pour.size += len(pattern[at : at + size])
            await stream.say(pattern[at : at + size])
            await asyncio.sleep(0.002 if size < len(pattern) else 0)

    async def _answer(self, stream: Stream, first: bytes) -> None:
        while True:
            head = first + await stream.head()
            first = b""
            body = head.split(b" ", 2)[1][1:]
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    body = await stream.reader.readexactly(int(line[15:]))
            say = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
            await stream.say(say + body)
