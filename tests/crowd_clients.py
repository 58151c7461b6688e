"""The clients of a crowd, one class for each kind (:mod:`crowd_load`)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import struct
import time
from typing import TYPE_CHECKING

from crowd_origin import BODY, Address, Stream, poured

if TYPE_CHECKING:
    from crowd_load import CrowdLoad

BLOCK = 32 << 10
"""Bytes of the largest block of a busy tunnel."""

PATIENCE = 60.0
"""Seconds until whoever waits for an answer says that it does not come."""

NOISE = os.urandom(BODY + BLOCK)


class Broken(Exception):
    """Something is not as it has to be; the text says what."""


class Client:
    """One of a kind. ``progress`` counts what it has got, -1 for one that gets nothing until the
    end. ``lives``: it has not failed."""

    progress = -1

    def __init__(self, load: CrowdLoad, origin: Address, number: int) -> None:
        self.load = load
        self.where = f"{origin[0]}:{origin[1]}"
        self.number = number
        self.stream: Stream | None = None
        self.lives = True

    @property
    def kind(self) -> str:
        return type(self).__name__.lower()

    @property
    def name(self) -> str:
        return f"{self.kind} {self.number}"

    async def open(self) -> None:
        """Establishes it."""
        self.stream = await self.tunnel()

    async def run(self) -> None:
        """Its life, until the load is to end."""
        raise NotImplementedError

    async def guarded(self) -> None:
        try:
            await self.run()
        except (OSError, EOFError, Broken, asyncio.TimeoutError) as error:
            self.failed(error)
        finally:
            self.close()

    def failed(self, error: BaseException) -> None:
        self.lives = False
        self.load.faults.append((self.kind, f"{self.name}: {error!r}"))

    def close(self) -> None:
        if self.stream is not None:
            self.stream.writer.close()

    async def tunnel(self, **how: int) -> Stream:
        stream = await self.load.connect(**how)
        await stream.say(f"CONNECT {self.where} HTTP/1.1\r\nHost: {self.where}\r\n\r\n".encode())
        head = await asyncio.wait_for(stream.head(), PATIENCE)
        if not head.startswith(b"HTTP/1.1 200 "):
            raise Broken(f"no tunnel: {head!r}")
        return stream

    @property
    def its(self) -> Stream:
        assert self.stream is not None
        return self.stream


class Busy(Client):
    """Blocks of random bytes go to an origin and come back; both sums must be the same."""

    progress = 0

    async def run(self) -> None:
        reading = asyncio.ensure_future(self._read())
        sent, size, number = hashlib.blake2b(), 0, self.number
        try:
            while not self.load.stopped and not reading.done():
                number += 7919
                at = number % BODY
                block = NOISE[at : at + 1 + number % BLOCK]
                await self.its.say(block)
                sent.update(block)
                size += len(block)
                await self.load.pause(self.load.sizes.pace * (0.5 + number % 64 / 64))
            if not reading.done():
                self.its.writer.write_eof()
            got, came = await asyncio.wait_for(reading, PATIENCE)
        finally:
            reading.cancel()
        if not self.load.stopped:
            raise Broken(f"ended after {came} of {size} bytes")
        if (came, got) != (size, sent.digest()):
            raise Broken(f"{came} bytes of {size} have come, or others")

    async def _read(self) -> tuple[bytes, int]:
        got, size = hashlib.blake2b(), 0
        while data := await self.its.reader.read(1 << 16):
            got.update(data)
            size += len(data)
            self.progress += 1
            self.load.blocks += 1
        return got.digest(), size


class Idle(Client):
    """Says something at the beginning, and at the end."""

    async def open(self) -> None:
        await super().open()
        await self._echo(b"first")

    async def run(self) -> None:
        rest = asyncio.ensure_future(self.its.reader.read(1))
        stop = asyncio.ensure_future(self.load.pause(1e6))
        await asyncio.wait((rest, stop), return_when=asyncio.FIRST_COMPLETED)
        if rest.done():
            stop.cancel()
            raise Broken(f"{rest.result()!r} came out of nothing")
        rest.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await rest
        await self._echo(b"last.")

    async def _echo(self, text: bytes) -> None:
        await self.its.say(text)
        got = await asyncio.wait_for(self.its.reader.readexactly(len(text)), PATIENCE)
        if got != text:
            raise Broken(f"{got!r} is not {text!r}")


class Half(Client):
    """Has said all, and gets it back at the end."""

    async def open(self) -> None:
        await super().open()
        self.text = f"HOLD {self.number:06}".encode()
        await self.its.say(self.text)
        self.its.writer.write_eof()

    async def run(self) -> None:
        got = await self.its.reader.read()
        if got != self.text:
            raise Broken(f"{got!r} is not {self.text!r}")
        if not self.load.stopped:
            raise Broken("it has ended before its time")


class Slow(Client):
    """Reads less than its origin sends, so that bytes wait in the proxy. Each byte says where it
    stands. The origin sends small pieces to every second one."""

    progress = 0

    async def open(self) -> None:
        self.stream = await self.tunnel(limit=4096, room=4096)
        self._sent = self.load.origin.pour(self.number)
        await self.its.say(f"POUR {self.number:06} {self.number % 2}".encode())
        self.got = 0

    @property
    def sent(self) -> int:
        return self._sent.size

    async def run(self) -> None:
        pattern = poured(1 << 12)
        while data := await self.its.reader.read(4096):
            at = self.got % len(pattern)
            if data != (pattern[at:] + pattern * (1 + len(data) // len(pattern)))[: len(data)]:
                raise Broken(f"another byte behind {self.got}")
            self.got += len(data)
            self.progress += 1
            if not self.load.stopped:
                await self.load.pause(0.05)
            else:
                self._sent.over.set()
        if not self.load.stopped or self.got != self.sent:
            raise Broken(f"{self.got} bytes of {self.sent} have come")


class WebSocket(Client):
    """Messages go there and back. It is made by an upgrade of a request (RFC 6455)."""

    progress = 0

    async def open(self) -> None:
        self.stream = await self.load.connect()
        await self.its.say(
            f"GET http://{self.where}/ HTTP/1.1\r\nHost: {self.where}\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        head = await asyncio.wait_for(self.its.head(), PATIENCE)
        if not head.startswith(b"HTTP/1.1 101 "):
            raise Broken(f"no WebSocket: {head!r}")

    async def run(self) -> None:
        while not self.load.stopped:
            text = f"message {self.progress:06}".encode()
            masked = bytes([0x82, 0x80 | len(text)]) + bytes(4) + text  # a mask of zeros
            await self.its.say(masked)
            got = await asyncio.wait_for(self.its.reader.readexactly(2 + len(text)), PATIENCE)
            if got != bytes([0x82, len(text)]) + text:
                raise Broken(f"{got!r} is not {text!r}")
            self.progress += 1
            await self.load.pause(self.load.sizes.pace)


class Asking(Client):
    """Asks over and over on one connection. After a fault it makes another."""

    progress = 0
    body = False

    async def open(self) -> None:
        self.stream = await self.load.connect(limit=2 * BODY)

    async def guarded(self) -> None:
        while not self.load.stopped:
            try:
                if self.stream is None:
                    await self.open()
                await self.run()
            except (OSError, EOFError, Broken, asyncio.TimeoutError) as error:
                self.load.faults.append((self.kind, f"{self.name}: {error!r}"))
                self.forget()
                await self.load.pause(0.1)
        self.forget()

    def forget(self) -> None:
        self.close()
        self.stream = None

    async def run(self) -> None:
        while not self.load.stopped:
            await self.ask(f"{self.number}.{self.progress}")
            await self.load.pause(0.01)

    async def ask(self, name: str) -> None:
        begun = time.monotonic()
        await self.its.say(
            f"GET http://{self.where}/{name} HTTP/1.1\r\nHost: {self.where}\r\n\r\n".encode()
        )
        await self.answer(name.encode())
        self.load.longest = max(self.load.longest, time.monotonic() - begun)

    async def answer(self, body: bytes) -> None:
        head = await asyncio.wait_for(self.its.head(), PATIENCE)
        if not head.startswith(b"HTTP/1.1 200 "):
            raise Broken(f"{head!r}")
        got = await asyncio.wait_for(self.its.reader.readexactly(len(body)), PATIENCE)
        if got != body:
            raise Broken("another body")
        self.progress += 1
        self.load.answers += 1


class Closing(Asking):
    """The same, with a connection for each request."""

    async def open(self) -> None:
        """There is none at rest."""

    async def run(self) -> None:
        while not self.load.stopped:
            self.stream = await self.load.connect()
            await self.ask(f"{self.number}.{self.progress}")
            self.forget()
            await self.load.pause(0.02)


class Fleeting(Asking):
    """A tunnel that lasts for a few blocks, and then another. One in three ends by a reset."""

    async def open(self) -> None:
        """There is none at rest."""

    async def run(self) -> None:
        while not self.load.stopped:
            self.stream = await self.tunnel()
            for _ in range(3):
                at = self.progress % BODY
                block = NOISE[at : at + 1000]
                await self.its.say(block)
                got = await asyncio.wait_for(self.its.reader.readexactly(1000), PATIENCE)
                if got != block:
                    raise Broken("another block")
                self.progress += 1
            if self.progress % 9:
                self.its.writer.write_eof()
                if await asyncio.wait_for(self.its.reader.read(), PATIENCE):
                    raise Broken("more than was said")
            else:
                reset(self.its.writer)
            self.forget()
            await self.load.pause(0.02)


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection by RST (SO_LINGER, socket(7))."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


class Bodies(Asking):
    """A large body there, and another back."""

    async def run(self) -> None:
        while not self.load.stopped:
            at = self.progress % BLOCK
            body = NOISE[at : at + BODY]
            await self.its.say(
                f"POST http://{self.where}/ HTTP/1.1\r\nHost: {self.where}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            await self.answer(body)
            await self.load.pause(0.05)
