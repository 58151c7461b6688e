"""The server of HTTP/1.1 at the admin address.

Everything has a limit: connections (:mod:`spliceproxy.admin.places`), what a client sends
(:mod:`spliceproxy.admin.http`), and how long it may take for what it has been sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from spliceproxy.admin.http import Connection, Gate, Gone, Refusal, Request, Response, Table
from spliceproxy.admin.places import Places
from spliceproxy.http1.dates import fixdate
from spliceproxy.http1.errors import HeadError
from spliceproxy.http1.head import RequestHead
from spliceproxy.messages import log, plain
from spliceproxy.seldom import Seldom

READ_SECONDS = 10.0
"""That a reader may take for what it has been sent."""

BUFFER = 256 << 10
"""Bytes that wait for a reader."""

ENDLESS_BUFFER = 64 << 10
"""The same of an answer without an end, here and in the kernel."""

PAUSE_SECONDS = 0.1
"""Until it is tried again to accept somebody, where that has failed."""

QUERY_MOST = 64
"""Parameters of a query."""

_ALWAYS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Fields of every answer that does not have them otherwise."""


class Server:
    """Serves ``table`` to those whom ``gate`` lets in. ``leaves``: this process is to end, and no
    connection is kept for another request."""

    def __init__(self, table: Table, gate: Gate) -> None:
        self._table = table
        self.gate = gate
        self.leaves = False
        self._places = Places()
        self._asked = 0  # requests without an answer
        self._endless = 0  # of these, those whose answer has no end
        self._seldom = Seldom(log)
        self._serving: set[asyncio.Task[None]] = set()
        self._beginning: set[asyncio.Task[None]] = set()
        self._silent: set[Connection] = set()  # who has asked nothing yet

    @property
    def answering(self) -> bool:
        """Whether there is a request that has no answer yet, but one without an end."""
        return self._asked > self._endless

    @property
    def busy(self) -> bool:
        """The same, or somebody who has just connected and has asked nothing."""
        return self.answering or bool(self._beginning or self._silent)

    async def close(self) -> None:
        """Ends the connections that are left. The end of a process takes some milliseconds, and
        what somebody asks meanwhile, by a connection that was kept, would be lost."""
        for transport in self._places.all:
            transport.abort()
        await asyncio.sleep(0)  # each is closed at the next turn of the event loop

    async def accept(self, sock: socket.socket) -> None:
        """Serves who connects to this socket, until it is cancelled."""
        sock.setblocking(False)
        while True:
            try:
                await self._accept_one(sock)
            except ConnectionAbortedError:
                pass  # it has left already
            except OSError as error:
                why = plain(error)
                self._seldom.say(why, logging.ERROR, "the admin address: cannot accept: %s", why)
                await asyncio.sleep(PAUSE_SECONDS)
            except Exception:
                log.exception("the admin address: somebody could not be served")
                await asyncio.sleep(PAUSE_SECONDS)

    async def _accept_one(self, sock: socket.socket) -> None:
        """Whoever is accepted is served, also where nobody is to be accepted any more: between
        accept(2) and the task that serves there is nothing that could be cancelled."""
        await _readable(sock)
        try:
            client, _ = sock.accept()
        except BlockingIOError:
            return  # another process has accepted it, or it has left
        client.setblocking(False)
        await asyncio.shield(self._begin_soon(client))

    def _begin_soon(self, client: socket.socket) -> asyncio.Task[None]:
        task = asyncio.ensure_future(self._begin(client))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)
        return task

    async def _begin(self, client: socket.socket) -> None:
        """With a connection, as soon as there is a place for it."""
        try:
            await self._places.room()
            reader, writer = await asyncio.open_connection(sock=client)
        except BaseException:
            client.close()
            raise
        writer.transport.set_write_buffer_limits(high=BUFFER)
        self._places.take(writer.transport)
        connection = Connection(reader, writer)
        self._silent.add(connection)
        task = asyncio.ensure_future(self._serve(connection))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, connection: Connection) -> None:
        """One connection, to its end."""
        transport = connection.writer.transport
        try:
            while await self._one(connection):
                pass
            self._places.leaves(transport)
            await connection.finish()
        except (Gone, OSError, asyncio.TimeoutError):
            pass  # or it does not read
        except Exception:
            log.exception("a connection to the admin address has failed")
        finally:
            self._silent.discard(connection)
            self._places.give_back(transport)
            transport.abort()

    async def _one(self, connection: Connection) -> bool:
        """One request and its answer; returns whether another may follow."""
        await asyncio.sleep(0)  # its next request may be there already, and others have their turn
        try:
            head = await connection.head()
        except HeadError as error:
            return await self._send(connection, Response.text(str(error), error.status), None)
        except Refusal as refusal:
            return await self._send(connection, refusal.response, None)
        finally:
            self._silent.discard(connection)
        if head is None:
            return False
        self._asked += 1
        try:
            with contextlib.ExitStack() as kept:
                response = await self._answered(connection, head, kept)
                return await self._send(connection, response, head)
        finally:
            self._asked -= 1

    async def _answered(
        self, connection: Connection, head: RequestHead, kept: contextlib.ExitStack
    ) -> Response:
        """The answer, whatever it is. What is in ``kept`` holds until it is sent."""
        try:
            return await self._answer(connection, head, kept)
        except HeadError as error:
            return Response.text(str(error), error.status)
        except Refusal as refusal:
            return refusal.response
        except Gone:
            raise
        except Exception:
            log.exception("a request to the admin address could not be answered")
            return Response.text("a fault of the proxy's own; see its messages", 500)

    async def _answer(
        self, connection: Connection, head: RequestHead, kept: contextlib.ExitStack
    ) -> Response:
        transport = connection.writer.transport
        path, _, query = head.path.partition("?")
        found = self._table.find(path) if head.form in ("origin", "absolute") else None
        route, last = found or (None, "")
        is_open = route is not None and route.open
        self.gate.check(head, open=is_open)
        if not is_open and not kept.enter_context(self._places.kept_closed(transport)):
            raise Refusal(503, "too many requests to the admin address at the same time")
        body = await connection.body(head)
        if route is None:
            raise Refusal(404, "there is nothing at this path")
        if head.method == "OPTIONS":
            return Response(204, fields={"Allow": route.allowed})
        method = "GET" if head.method == "HEAD" else head.method
        handler = route.handlers.get(method)
        if handler is None:
            raise Refusal(405, f"allowed: {route.allowed}", {"Allow": route.allowed})
        try:
            values = parse_qs(
                query, keep_blank_values=True, max_num_fields=QUERY_MOST, errors="strict"
            )
        except ValueError:
            raise Refusal(400, "the query cannot be read") from None
        route.check(values)
        request = Request(head.method, path, values, head, body, last)
        if not is_open:
            return await handler(request)
        with self._places.kept(transport):
            return await handler(request)

    async def _send(
        self, connection: Connection, response: Response, head: RequestHead | None
    ) -> bool:
        """Sends an answer; returns whether the connection goes on."""
        writer = connection.writer
        body = response.body
        whole = isinstance(body, bytes)
        chunked = not whole and head is not None and head.minor == 1
        keep = head is not None and head.persistent and connection.complete
        keep = keep and (whole or chunked) and not (response.endless or self._places.pressed)
        keep = keep and not self.leaves
        fields = {"Date": fixdate(int(time.time())), **_ALWAYS, **response.fields}
        if response.status != 204:
            fields["Content-Type"] = response.type
            if isinstance(body, bytes):
                fields["Content-Length"] = str(len(body))
            elif chunked:
                fields["Transfer-Encoding"] = "chunked"
        if not keep:
            fields["Connection"] = "close"
        reason = HTTPStatus(response.status).phrase
        lines = [f"HTTP/1.1 {response.status} {reason}", *(f"{k}: {v}" for k, v in fields.items())]
        silent = head is not None and head.method == "HEAD"
        start = "\r\n".join([*lines, "", ""]).encode("latin-1")
        writer.write(start + body if isinstance(body, bytes) and not silent else start)
        if isinstance(body, bytes):
            await _sent(writer)
        elif silent:
            await _end(body)
        elif response.endless:
            _keep_little(writer)
            self._endless += 1
            try:
                await _until_left(
                    connection.reader, _send_parts(writer, body, response.slow, chunked=chunked)
                )
            finally:
                self._endless -= 1
        else:
            await _send_parts(writer, body, response.slow, chunked=chunked)
        return keep


async def _readable(sock: socket.socket) -> None:
    """Until somebody waits in the queue of a socket that listens."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, _done, waiting)
    try:
        await waiting
    finally:
        loop.remove_reader(sock)


def _done(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


async def _send_parts(
    writer: asyncio.StreamWriter,
    parts: AsyncIterator[bytes],
    slow: Callable[[], None] | None,
    *,
    chunked: bool,
) -> None:
    """If they end by an exception, the client sees that the answer is cut short."""
    try:
        async for part in parts:
            if part:
                writer.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
                await _drained(writer)
        if chunked:
            writer.write(b"0\r\n\r\n")
        await _sent(writer)
    except Exception as error:
        writer.transport.abort()
        if slow is not None and isinstance(error, asyncio.TimeoutError):
            slow()
        if not isinstance(error, (OSError, asyncio.TimeoutError)):
            log.exception("an answer of the admin address was cut short")
        raise ConnectionAbortedError from error
    finally:
        await _end(parts)


def _keep_little(writer: asyncio.StreamWriter) -> None:
    """A client that does not read is to be noticed soon, and not after the megabytes that the
    kernel would keep for it (tcp_wmem, tcp(7))."""
    writer.transport.set_write_buffer_limits(high=ENDLESS_BUFFER)
    sock = writer.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ENDLESS_BUFFER)


async def _until_left(reader: asyncio.StreamReader, sending: Any) -> None:
    """Sends until the client leaves, or there is no more."""
    send = asyncio.ensure_future(sending)
    left = asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait({send, left}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (send, left):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await asyncio.gather(send, left)


async def _end(parts: AsyncIterator[bytes]) -> None:
    close = getattr(parts, "aclose", None)
    if close is not None:
        await close()


async def _drained(writer: asyncio.StreamWriter) -> None:
    await asyncio.wait_for(writer.drain(), READ_SECONDS)


async def _sent(writer: asyncio.StreamWriter) -> None:
    """All of it: who is cut off from here on has had its answer."""
    writer.transport.set_write_buffer_limits(high=0)
    await _drained(writer)
    writer.transport.set_write_buffer_limits(high=BUFFER)
