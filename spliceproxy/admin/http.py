"""HTTP for operators: a table of paths, and a server of HTTP/1.1 over it.

Heads are read by :mod:`spliceproxy.http1`, as those of the proxy's clients. Everything has a limit:
connections, the time of a head, its size and that of a body, and how long a reader may take for
what it has been sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qs, unquote

from spliceproxy.http1.dates import fixdate
from spliceproxy.http1.errors import HeadError
from spliceproxy.http1.framing import Body
from spliceproxy.http1.head import RequestHead, find_head_end, parse_request, skip_empty_lines
from spliceproxy.messages import log

CONNECTIONS = 64
"""Connections at once. More are told to come again."""

HEAD_MOST = 16 << 10
"""Bytes of a request's head."""

BODY_MOST = 64 << 10
"""Bytes of a request's body."""

HEAD_SECONDS = 10.0
"""For a whole request."""

IDLE_SECONDS = 60.0
"""Between two requests of a connection."""

LINGER_SECONDS = 2.0
"""That a client has to close its connection behind the last answer."""

READ_SECONDS = 10.0
"""That a reader may take for what it has been sent."""

BUFFER = 256 << 10
"""Bytes that wait for a reader."""

ENDLESS_BUFFER = 64 << 10
"""The same of an answer without an end, here and in the kernel."""

CHUNK = 16 << 10
"""Bytes that are read at a time."""

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


@dataclass
class Request:
    """What a handler is asked. ``path`` and the values of ``query`` are percent-decoded; ``last``
    is what stands for the ``*`` of its route."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    head: RequestHead
    body: bytes = b""
    last: str = ""

    def one(self, name: str, default: str = "") -> str:
        """The value of a parameter. Refusal: there are several."""
        values = self.query.get(name, [default])
        if len(values) != 1:
            raise Refusal(400, f"{name} is given more than once")
        return values[0]

    def json(self) -> Any:
        """What the body says, {} without one. Refusal."""
        if not self.body:
            return {}
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise Refusal(400, "the body is not JSON") from None


@dataclass
class Response:
    """``body`` is all of it, or its parts as they come. ``endless``: its parts come for as long as
    the client listens. ``slow`` is called where a client that does not read is cut off."""

    status: int = 200
    body: bytes | AsyncIterator[bytes] = b""
    type: str = "text/plain; charset=utf-8"
    fields: Mapping[str, str] = field(default_factory=dict)
    endless: bool = False
    slow: Callable[[], None] | None = None

    @classmethod
    def text(cls, text: str, status: int = 200) -> Response:
        return cls(status, f"{text}\n".encode())

    @classmethod
    def json(cls, value: Any, status: int = 200) -> Response:
        return cls(status, f"{json.dumps(value)}\n".encode("ascii"), "application/json")


class Refusal(Exception):
    """A request that is not answered as it would like. The text is the body: a sentence."""

    def __init__(self, status: int, text: str, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.response = Response.text(text, status)
        self.response.fields = fields or {}


class Gone(Exception):
    """The client has left, or its time is over."""


Handler = Callable[[Request], Awaitable[Response]]
"""Answers a request. Refusal."""


class Route(NamedTuple):
    """The handlers of a path by method; that of GET is for HEAD, too. ``open``: it needs no token,
    and may be asked for by any name."""

    handlers: Mapping[str, Handler]
    open: bool

    @property
    def allowed(self) -> str:
        methods = {*self.handlers, "OPTIONS"}
        if "GET" in methods:
            methods.add("HEAD")
        return ", ".join(sorted(methods))


class Table:
    """The paths that there are. A path that ends with ``/*`` stands for all with one more part."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}

    def add(self, path: str, *, open: bool = False, **handlers: Handler) -> None:
        """``handlers`` by method: ``add("/config", GET=config)``."""
        self._routes[path] = Route(handlers, open)

    def find(self, path: str) -> tuple[Route, str] | None:
        """The route of a path as it is written in the request, and what stands for its ``*``."""
        if path in self._routes and not path.endswith("/*"):
            return self._routes[path], ""
        folder, _, last = path.rpartition("/")
        route = self._routes.get(f"{folder}/*")
        return (route, unquote(last)) if route is not None and last else None


class Gate(Protocol):
    """Who may ask."""

    def check(self, head: RequestHead, *, open: bool) -> None:
        """Refusal where it may not."""


class Server:
    """Serves ``table`` to those whom ``gate`` lets in."""

    def __init__(self, table: Table, gate: Gate) -> None:
        self._table = table
        self.gate = gate
        self._connections = 0
        self._endless = 0  # answers without an end
        # Those that wait for a request, the one that waits longest first.
        self._waiting: dict[asyncio.StreamWriter, None] = {}

    @property
    def busy(self) -> bool:
        """Whether there is a request that has no answer yet, but one without an end."""
        return self._connections > len(self._waiting) + self._endless

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        writer.transport.set_write_buffer_limits(high=BUFFER)
        self._connections += 1
        try:
            if self._connections > CONNECTIONS and self._waiting:
                # Whoever says nothing keeps nobody out.
                next(iter(self._waiting)).transport.abort()
            elif self._connections > CONNECTIONS:
                refusal = Refusal(503, "too many connections to the admin address")
                await self._send(writer, refusal.response, None, keep=False)
                return
            connection = _Connection(reader, writer)
            while await self._one(connection):
                pass
            await connection.finish()
        except (Gone, OSError, asyncio.TimeoutError):
            pass  # or it does not read
        finally:
            self._connections -= 1
            writer.transport.abort()

    async def _one(self, connection: _Connection) -> bool:
        """One request and its answer; returns whether another may follow."""
        writer = connection.writer
        head: RequestHead | None = None
        try:
            self._waiting[writer] = None
            try:
                head = await connection.head()
            finally:
                self._waiting.pop(writer, None)
            if head is None:
                return False
            response = await self._answer(connection, head)
        except HeadError as error:
            response = Response.text(str(error), error.status)
        except Refusal as refusal:
            response = refusal.response
        except Gone:
            raise
        except Exception:
            log.exception("a request to the admin address could not be answered")
            response = Response.text("a fault of the proxy's own; see its messages", 500)
        keep = head is not None and head.persistent and connection.complete
        return await self._send(writer, response, head, keep=keep, reader=connection.reader)

    async def _answer(self, connection: _Connection, head: RequestHead) -> Response:
        path, _, query = head.path.partition("?")
        found = self._table.find(path) if head.form in ("origin", "absolute") else None
        route, last = found or (None, "")
        self.gate.check(head, open=route is not None and route.open)
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
        return await handler(Request(head.method, path, values, head, body, last))

    async def _send(
        self,
        writer: asyncio.StreamWriter,
        response: Response,
        head: RequestHead | None,
        *,
        keep: bool,
        reader: asyncio.StreamReader | None = None,
    ) -> bool:
        """Sends an answer; returns whether the connection goes on."""
        body = response.body
        whole = isinstance(body, bytes)
        chunked = not whole and head is not None and head.minor == 1
        keep = keep and (whole or chunked) and not response.endless
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
            await _drained(writer)
        elif silent:
            await _end(body)
        elif response.endless:
            assert reader is not None
            _keep_little(writer)
            self._endless += 1
            try:
                await _until_left(reader, _send_parts(writer, body, response.slow, chunked=chunked))
            finally:
                self._endless -= 1
        else:
            await _send_parts(writer, body, response.slow, chunked=chunked)
        return keep


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
        await _drained(writer)
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


class _Connection:
    """Reads the requests of one connection. ``complete``: all of the last one was read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.complete = True
        self._buffer = bytearray()
        self._until = 0.0  # time.monotonic()

    async def head(self) -> RequestHead | None:
        """The next head; None: there is none."""
        buffer = self._buffer
        self.complete = False
        self._until = time.monotonic() + IDLE_SECONDS
        skip_empty_lines(buffer)
        while not buffer:
            if not await self._more():
                return None
            skip_empty_lines(buffer)
        self._until = time.monotonic() + HEAD_SECONDS
        seen = 0
        while (end := find_head_end(buffer, seen)) < 0 and len(buffer) <= HEAD_MOST:
            seen = len(buffer)
            if not await self._more():
                raise Gone
        if not 0 <= end <= HEAD_MOST:
            raise Refusal(431, f"a head has at most {HEAD_MOST} bytes")
        head = parse_request(bytes(buffer[:end]))
        del buffer[:end]
        self.complete = head.body()[0] is Body.NONE
        return head

    async def body(self, head: RequestHead) -> bytes:
        """The body of that request. Refusal."""
        kind, length = head.body()
        if kind is Body.NONE:
            return b""
        if kind is not Body.LENGTH:
            raise Refusal(411, "a body needs a Content-Length here")
        if length > BODY_MOST:
            raise Refusal(413, f"a body has at most {BODY_MOST} bytes")
        if head.values(b"expect") and len(self._buffer) < length:
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while len(self._buffer) < length:
            if not await self._more():
                raise Gone
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        self.complete = True
        return body

    async def finish(self) -> None:
        """Closes it. The client has a moment to read the last answer: what it sends meanwhile is
        read, for a reset would take the answer away (RFC 9112 section 9.6)."""
        if self.writer.can_write_eof():
            self.writer.write_eof()
        self._until = time.monotonic() + LINGER_SECONDS
        left = BODY_MOST
        while left > 0 and await self._more():
            left -= len(self._buffer)
            self._buffer.clear()

    async def _more(self) -> bool:
        """Reads on; false at the end of file. Gone."""
        left = max(0.0, self._until - time.monotonic())
        try:
            data = await asyncio.wait_for(self.reader.read(CHUNK), left)
        except (OSError, asyncio.TimeoutError) as error:
            raise Gone from error
        self._buffer += data
        return bool(data)
