"""TLS to a parent proxy, for all that wants a socket.

The relay and :class:`net.stream.Stream` move the bytes of sockets, and those of TLS are not what is
meant. So a *bridge* stands between: it has the parent's socket, and one end of a pair of sockets on
this machine; whoever uses the other end needs to know nothing of TLS. What goes over a bridge is
copied by Python and never spliced.

The pair is of TCP, not of socketpair(2): a connection that was cut short must look cut short, and
only TCP has resets.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

from spliceproxy.errors import Failure, PeerGone
from spliceproxy.messages import log
from spliceproxy.net import tcp
from spliceproxy.net.stream import Stream
from spliceproxy.upstream.hop import GONE, fault

READ = 64 * 1024
"""Bytes that are decrypted at a time."""


def context_of(ca_file: Path | None) -> ssl.SSLContext:
    """Verifies who the parent is, by these certificates or by those of the system. OSError
    (ssl.SSLError is one)."""
    context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


class Bridges:
    """Those of one worker. ``rest`` is how many seconds a side has to end once the other has."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rest: float) -> None:
        self._loop = loop
        self._rest = rest
        self._tasks: set[asyncio.Task[None]] = set()

    async def secure(self, parent: Stream, context: ssl.SSLContext, name: str) -> Stream:
        """The connection to use instead of ``parent``, whose limits hold for the handshake. Where
        this raises (Failure) it is still the caller's, and else the bridge's."""
        session = _Session(parent, context, name)
        await session.handshake()
        near, far = _pair()
        stream, end = Stream(near, self._loop), Stream(far, self._loop)
        parent.read_limit.clear()
        parent.write_limit.clear()
        bridge = _Bridge(session, parent, end, self._rest)
        task = self._loop.create_task(bridge.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return stream

    async def finish(self) -> None:
        """The worker ends, and so do they."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))


class _Session:
    """TLS over a stream."""

    def __init__(self, stream: Stream, context: ssl.SSLContext, name: str) -> None:
        self._stream = stream
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=name)
        self._sends = asyncio.Lock()  # both ways may have something to send

    async def handshake(self) -> None:
        """Failure."""
        try:
            while True:
                try:
                    self._tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await self._flush()
                    if not await self._receive():
                        raise fault("connection_terminated", GONE) from None
            await self._flush()
        except PeerGone as error:
            raise fault("connection_terminated", GONE) from error
        except ssl.SSLCertVerificationError as error:
            detail = f"TLS: {error.verify_message.rstrip('.')}"
            raise fault("connection_terminated", detail) from error
        except ssl.SSLError as error:
            detail = f"TLS: {(error.reason or 'failed').lower().replace('_', ' ')}"
            raise fault("connection_terminated", detail) from error

    async def read(self) -> bytes:
        """What has come, b"" at the end. ssl.SSLError where it was cut short."""
        while True:
            try:
                return self._tls.read(READ)
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._receive():
                    self._in.write_eof()
            except ssl.SSLZeroReturnError:
                return b""

    async def send(self, data: bytes) -> None:
        self._tls.write(data)
        await self._flush()

    async def end(self) -> None:
        """Tells the other side that nothing more will come."""
        try:
            self._tls.unwrap()
        except ssl.SSLError:  # it has yet to say the same
            pass
        await self._flush()

    async def _receive(self) -> int:
        count = await self._stream.fill()
        self._in.write(bytes(self._stream.buffer))
        self._stream.buffer.clear()
        return count

    async def _flush(self) -> None:
        async with self._sends:
            data = self._out.read()
            if data:
                await self._stream.send(data)


class _Bridge:
    """``parent`` and ``end`` are closed with it."""

    def __init__(self, session: _Session, parent: Stream, end: Stream, rest: float) -> None:
        self._session = session
        self._parent = parent
        self._end = end
        self._rest = rest

    async def run(self) -> None:
        """Until both sides have ended, or one of them is broken."""
        ways = [asyncio.ensure_future(self._up()), asyncio.ensure_future(self._down())]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)
            errors = [error for way in done if (error := way.exception()) is not None]
            for error in errors:
                if not isinstance(error, (PeerGone, Failure, ssl.SSLError)):
                    log.error("a connection by TLS has failed", exc_info=error)
            if not errors:
                self._parent.close()
                self._end.close()
                return
            await self._stop(ways)  # nobody else may send to it now
            await self._end.reset_after_sent()
        finally:
            await self._stop(ways)
            self._parent.reset()
            self._end.reset()

    async def _stop(self, ways: Sequence[asyncio.Future[None]]) -> None:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)

    async def _up(self) -> None:
        """From here to the parent."""
        end = self._end
        while await end.fill():
            data = bytes(end.buffer)
            end.buffer.clear()
            await self._session.send(data)
        await self._session.end()
        self._parent.read_limit.set(
            "connection_read_timeout", "the parent does not end", self._rest
        )

    async def _down(self) -> None:
        """From the parent to here."""
        end = self._end
        while data := await self._session.read():
            await end.send(data)
        end.sock.shutdown(socket.SHUT_WR)
        end.read_limit.set("connection_read_timeout", "the client does not end", self._rest)


def _pair() -> tuple[socket.socket, socket.socket]:
    """Two sockets of TCP that are connected to each other."""
    with socket.create_server(("127.0.0.1", 0), backlog=8) as listener:
        near = socket.socket()
        try:
            near.connect(listener.getsockname())
            mine = near.getsockname()
            while True:
                far, peer = listener.accept()
                if peer == mine:
                    break
                far.close()  # somebody else on this machine was faster
        except BaseException:
            near.close()
            raise
    for sock in (near, far):
        sock.setblocking(False)
        tcp.set_options(sock)
    return near, far
