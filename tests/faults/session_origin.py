"""An origin that authenticates connections, as those with NTLM do, and notices whatever uses
another's."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import threading
from collections.abc import Iterator

from fault_peers import Address


class SessionOrigin:
    """``/private`` asks for a handshake of three legs: a challenge without a token, one that
    is good on this connection only, and what proves that it was received. Afterwards every
    request on the connection is its user's, and its body says so. ``/public`` is for all.

    The field X-Client of each request says who sends it. ``faults`` are in words.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.handshakes = 0
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        number = self.connections
        session = _Session(self, number)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                fields = {
                    name.lower(): value.strip()
                    for name, _, value in (line.partition(":") for line in head[1:] if line)
                }
                await reader.readexactly(int(fields.get("content-length", "0")))
                writer.write(session.answer(head[0].split(" ")[1], fields))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


class _Session:
    """What is known of one connection."""

    def __init__(self, origin: SessionOrigin, number: int) -> None:
        self._origin = origin
        self._number = number
        self._owner = ""  # who has begun a handshake here
        self._user = ""  # who has finished it

    def answer(self, path: str, fields: dict[str, str]) -> bytes:
        client = fields["x-client"]
        credentials = fields.get("authorization", "")
        if self._owner and client != self._owner:
            self._origin.faults.append(f"{client} is on the connection of {self._owner}")
        if credentials.startswith("NTLM "):
            return self._leg(client, base64.b64decode(credentials[5:]).decode())
        if path == "/private" and not self._user:
            return _response("401 No", "", "WWW-Authenticate: NTLM")
        return _response("200 OK", self._user or "nobody")

    def _leg(self, client: str, text: str) -> bytes:
        kind, name, number = text.split(":")
        self._owner = client
        if kind == "1":
            challenge = base64.b64encode(f"2:{name}:{self._number}".encode()).decode()
            return _response("401 No", "", f"WWW-Authenticate: NTLM {challenge}")
        if int(number) != self._number:
            self._origin.faults.append(f"{name} has gone from {number} to {self._number}")
            return _response("401 No", "", "WWW-Authenticate: NTLM")
        self._user = name
        self._origin.handshakes += 1
        return _response("200 OK", name)


def _response(status: str, body: str, *fields: str) -> bytes:
    date = "Date: Tue, 15 Nov 1994 08:12:31 GMT"
    lines = [f"HTTP/1.1 {status}", date, f"Content-Length: {len(body)}", *fields, "", body]
    return "\r\n".join(lines).encode()


@contextlib.contextmanager
def session_origin() -> Iterator[tuple[SessionOrigin, Address]]:
    """One that runs on an event loop of its own thread, and its address."""
    origin = SessionOrigin()
    loop = asyncio.new_event_loop()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(origin.serve, "127.0.0.1", 0, backlog=1024)

    server = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield origin, server.sockets[0].getsockname()[:2]
    finally:
        loop.call_soon_threadsafe(server.close)
        asyncio.run_coroutine_threadsafe(origin.close(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()
