"""HTTP for operators: a table of paths, what is asked and answered, and how requests are read.

Heads are read by :mod:`spliceproxy.http1`, as those of the proxy's clients. Everything has a limit:
the time of a head, its size and that of a body. :mod:`spliceproxy.admin.server` has the others.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote

from spliceproxy.http1.framing import Body
from spliceproxy.http1.head import RequestHead, find_head_end, parse_request, skip_empty_lines

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

CHUNK = 16 << 10
"""Bytes that are read at a time."""


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
    and may be asked for by any name. ``takes`` are the parameters that there are, None where the
    handlers look at them, or nobody does."""

    handlers: Mapping[str, Handler]
    open: bool
    takes: Collection[str] | None

    def check(self, query: Iterable[str]) -> None:
        """Refusal: a parameter that is written wrong would change what is done."""
        for name in query:
            if self.takes is not None and name not in self.takes:
                allowed = ", ".join(self.takes) or "none here"
                raise Refusal(400, f"{name}: no such parameter; allowed: {allowed}")

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

    def add(
        self,
        path: str,
        *,
        open: bool = False,
        takes: Collection[str] | None = (),
        **handlers: Handler,
    ) -> None:
        """``handlers`` by method: ``add("/config", GET=config)``. What needs no token takes any
        parameters: monitors have their own."""
        self._routes[path] = Route(handlers, open, None if open else takes)

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


class Connection:
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
