"""Requests with bodies, of the lane held against those of Python: the same conversation is played
with the engine ``native``, whose lane asks about each request, and with ``copy``. The origin has to
be sent the same bytes, and the client has to get the same.

Everything is on one event loop and one machine. So what is on its way has come when nothing happens
in some turns of the loop, and each part that a peer sends is served before the next.
"""

from __future__ import annotations

import asyncio
import importlib.util
import random
import re
import socket
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loop_rig import Client, Zone, running
from oracle import Difference, Reader

from spliceproxy.config import Config, PolicyConfig, Timeouts
from spliceproxy.http1.framing import Body
from spliceproxy.processes.worker import new_loop
from spliceproxy.relay.choice import NATIVE_MODULE

QUIET = 12
"""Turns of the loop in which nothing happens, when all has come."""

PAUSE = 0.01
"""Seconds of a turn where a difference is looked at again: of much that is under way at once some
waits for an acknowledgement."""

SIZES = (0, 1, 5, 1000, 20_000, 70_000, 300_000)
"""Of bodies: within the read of the head, copied, and spliced."""

METHODS = ("POST", "POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS", "REPORT")
LENGTHS = ("{}",) * 12 + ("0{}", "+{}", "{}, {}", "{}\r\nContent-Length: {}", "-{}", "{} ")
EXTRA = (
    *("Accept: */*", "Connection: close", "Connection: keep-alive", "Proxy-Connection: close"),
    *("Expect: 100-continue", "Expect: 100-continue", "Via: 1.0 other", "Cookie: a=b"),
    *("TE: trailers", "Max-Forwards: 3", "Transfer-Encoding: chunked", "Trailer: A"),
)

_DATE = re.compile(rb"\r\nDate: (?!d\r\n)[^\r]*")
_REQUEST = re.compile(rb"(?=[A-Z]{3,7} /[0-9] HTTP/1\.1\r\n)")
_STATUS = re.compile(rb"HTTP/1\.1 [0-9]{3} [^\r]*\r\n")
_CONTINUE = b"HTTP/1.1 100 Continue\r\nVia: 1.1 spliceproxy\r\n\r\n"


@dataclass(frozen=True)
class Reply:
    """How the origin answers a request. ``early``: when its head is there; ``asks``: with 100
    before the body."""

    early: bool
    asks: bool
    size: int
    close: bool
    silent: bool  # it closes instead
    each: int  # bytes of a chunk; 0: the answer has a length
    last: str  # the end of its chunks

    def data(self) -> bytes:
        close = "Connection: close\r\n" if self.close else ""
        framing = "Transfer-Encoding: chunked" if self.each else f"Content-Length: {self.size}"
        head = f"HTTP/1.1 200 OK\r\nDate: d\r\n{framing}\r\n{close}\r\n".encode()
        if not self.each:
            return head + b"a" * self.size
        sizes = [min(self.each, self.size - at) for at in range(0, self.size, self.each)]
        return head + b"".join(map(_chunk, sizes)) + self.last.encode()


def _chunk(size: int) -> bytes:
    return b"%x\r\n%b\r\n" % (size, b"a" * size)


LASTS = ("0\r\n\r\n",) * 8 + (
    "000\r\n\r\n",
    "0\r\nA: b\r\n\r\n",
    "0;x\r\n\r\n",
    "0 \r\n\r\n",
    "",
    "x",
)
"""Ends of an answer in chunks; with some of them it is none."""


@dataclass(frozen=True)
class Talk:
    """A conversation: the parts that the client sends, and how each request is answered."""

    parts: tuple[bytes, ...]
    replies: tuple[Reply, ...]
    ends: bool  # the client sends FIN behind the last part

    @classmethod
    def of(cls, seed: int, where: str) -> Talk:
        any_of = random.Random(seed)
        data = b"".join(_request(any_of, where, n) for n in range(any_of.choice((1, 1, 2, 3))))
        ends = any_of.random() < 0.3
        if ends and any_of.random() < 0.7:
            data = data[: any_of.randrange(len(data) + 1)]
        return cls(tuple(_cut(any_of, data)), tuple(_reply(any_of) for _ in range(8)), ends)


def _request(any_of: random.Random, where: str, number: int) -> bytes:
    method = any_of.choice(METHODS)
    lines = [f"{method} http://{where}/{number} HTTP/1.1", f"Host: {where}"]
    lines += any_of.sample(EXTRA, any_of.choice((0, 0, 1, 2)))
    size = any_of.choice(SIZES)
    body = any_of.randbytes(size)
    if any_of.random() < 0.3:
        lines.append("Transfer-Encoding: chunked")
        cuts = sorted(any_of.randrange(size + 1) for _ in range(any_of.choice((0, 1, 1, 5))))
        pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, size], strict=True) if b > a]
        body = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in pieces)
        body += any_of.choice(LASTS[:-2]).encode()
    elif method not in ("GET", "OPTIONS") or any_of.random() < 0.3:
        lines.append("Content-Length: " + any_of.choice(LENGTHS).format(size, size))
    else:
        body = b""
    return "\r\n".join([*lines, "", ""]).encode() + body


def _reply(any_of: random.Random) -> Reply:
    return Reply(
        early=any_of.random() < 0.15,
        asks=any_of.random() < 0.7,
        size=any_of.choice((0, 2, 2, 2, 5000, 100_000)),
        close=any_of.random() < 0.15,
        silent=any_of.random() < 0.06,
        each=any_of.choice((0, 0, 0, 3000, 20_000, 100_000)),
        last=any_of.choice(LASTS),
    )


def _cut(any_of: random.Random, data: bytes) -> list[bytes]:
    """In parts: more often within what is a head than within a body."""
    count = any_of.choice((0, 0, 1, 2, 4))
    most = any_of.choice((len(data), min(len(data), 400)))
    cuts = sorted({any_of.randrange(most + 1) for _ in range(count)} - {0, len(data)})
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if b > a]


class Seen:
    """What has come of a conversation."""

    def __init__(self, replies: Sequence[Reply]) -> None:
        self.replies = list(replies)
        self.origins: list[_Origin] = []
        self.stream = bytearray()  # what origins were sent, in the order of its coming
        self.client = b""
        self.over = False  # the client's connection
        self.alone = 0  # exchanges of the lane
        self.events = 0

    @property
    def cut(self) -> bool:
        """Whether an origin has not been sent all of a request: what there was of it on its way
        when the client left may be lost with the rest."""
        return any(not m.done for origin in self.origins for m in origin.reader.messages)

    @property
    def early(self) -> bool:
        """Whether an answer has overtaken a body, of which the rest may be dropped at any point."""
        return any(origin.early for origin in self.origins)


class _Origin(asyncio.Protocol):
    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        self.reader = Reader(False)
        self._reply: Reply | None = None
        self._asked = self._answered = False
        self._at = 0  # index of the request in work
        self.early = False
        self.lost = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._seen.origins.append(self)
        self._seen.events += 1

    def data_received(self, data: bytes) -> None:
        self._seen.stream += data
        self._seen.events += 1
        self.reader.feed(data)
        while self._at < len(self.reader.heads) and self._step():
            pass

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._seen.events += 1

    def _step(self) -> bool:
        """Whether the request in work is over."""
        message, head = self.reader.messages[self._at], self.reader.heads[self._at]
        if self._reply is None:
            self._reply = self._seen.replies.pop(0)
        reply = self._reply
        # Also where all of the body is there, for that may be chance.
        if reply.asks and not self._asked and not self._answered and head.values(b"expect"):
            self._asked = True
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self._answered and (message.done or reply.early):
            self._answered = True
            self.early |= not message.done
            if reply.silent:
                self._transport.close()
                return False
            self._transport.write(reply.data())
            if reply.close:
                self._transport.close()
                return False
        if message.done:
            self._at += 1
            self._reply = None
            self._asked = self._answered = False
        return message.done


class Stage:
    """Where conversations are played."""

    def __init__(self) -> None:
        self.loop = new_loop()[0]
        self._seen = Seen(())
        server = self.loop.create_server(lambda: _Origin(self._seen), "127.0.0.1", 0)
        self._server = self.loop.run_until_complete(server)
        self.where = f"o.test:{self._server.sockets[0].getsockname()[1]}"
        self.talks = self.alone = 0

    def close(self) -> None:
        self._server.close()
        self.loop.close()

    def check(self, talk: Talk) -> None:
        """Plays it with both engines. Difference where one does something else, also where there
        is time for everything."""
        self.talks += 1
        try:
            self._compare(talk, 0.0)
        except Difference:
            self._compare(talk, PAUSE)

    def _compare(self, talk: Talk, pause: float) -> None:
        self._pause = pause
        native = self.loop.run_until_complete(self._play(talk, "native"))
        copy = self.loop.run_until_complete(self._play(talk, "copy"))
        self.alone += native.alone
        _compare(talk, native, copy)

    async def _play(self, talk: Talk, engine: str) -> Seen:
        seen = self._seen = Seen(talk.replies)
        config = Config(
            listen=(),
            access_log="off",
            timeouts=Timeouts(drain=0.2),
            policy=PolicyConfig(guard="off"),
        )
        async with running(config, Zone({"o.test": ("127.0.0.1",)}), engine=engine) as proxy:
            client = await proxy.connect()
            for part in talk.parts:
                await self._send(seen, client, part)
            if talk.ends:
                try:
                    client.sock.shutdown(socket.SHUT_WR)
                except OSError:
                    pass  # it is over already
            await self._settle(seen, client)
            seen.client = bytes(client.received)
            seen.alone = proxy.relay.stats().exchanges
            client.close()
        return seen

    async def _send(self, seen: Seen, client: Client, data: bytes) -> None:
        """As far as the proxy takes it."""
        at = 0
        while at < len(data):
            try:
                at += client.sock.send(data[at:])
            except BlockingIOError:
                before = seen.events
                await self._settle(seen, client)
                if seen.events == before:
                    return
            except OSError:
                return
        await self._settle(seen, client)

    async def _settle(self, seen: Seen, client: Client) -> None:
        """Until nothing happens any more."""
        quiet = 0
        while quiet < QUIET:
            before = seen.events
            self._receive(seen, client)
            await asyncio.sleep(self._pause)
            quiet = quiet + 1 if seen.events == before else 0

    def _receive(self, seen: Seen, client: Client) -> None:
        while not seen.over:
            try:
                data = client.sock.recv(1 << 16)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data = b""
            seen.events += 1
            seen.over = not data
            client.received += data


def _compare(talk: Talk, native: Seen, copy: Seen) -> None:
    ours, theirs = bytes(native.stream), bytes(copy.stream)
    if b"chunked" in theirs:
        early = native.early or copy.early or native.cut
        found = _messages(ours, early=early), _messages(theirs, early=early)
        same = all(one == other for one, other in zip(*found, strict=not early))
    elif native.early or copy.early or native.cut:
        # Another request may follow a body that was cut.
        pairs = zip(_REQUEST.split(ours), _REQUEST.split(theirs), strict=False)
        same = all(one.startswith(other) or other.startswith(one) for one, other in pairs)
    else:
        same = ours == theirs
    if not same:
        raise Difference(f"the origin: {_short(ours)}\n  not {_short(theirs)}\n  of {_told(talk)}")
    ours, theirs = (_without_chance(one.client) for one in (native, copy))
    if native.early or copy.early:
        # Whether all of the body was there before the end of the answer is chance, and so is
        # whether the connection goes on, and how much of an answer a reset has overtaken.
        ours, theirs = (b" ".join(_STATUS.findall(one)) for one in (ours, theirs))
        if ours.startswith(theirs) or theirs.startswith(ours):
            return
    if b"Transfer-Encoding: chunked" in theirs:
        ours, theirs = _answers(ours), _answers(theirs)
    if ours != theirs:
        raise Difference(f"the client: {_short(ours)}\n  not {_short(theirs)}\n  of {_told(talk)}")
    if native.over != copy.over:
        raise Difference(f"the client's end: {native.over}, not {copy.over}, of {_told(talk)}")
    ends = [sum(origin.lost for origin in seen.origins) for seen in (native, copy)]
    if not native.over and ends[0] != ends[1] and len(native.origins) == len(copy.origins):
        raise Difference(f"ends at the origin: {ends}, of {_told(talk)}")


def _without_chance(data: bytes) -> bytes:
    """Without the time, and the 100 that the origin leaves out where the body is there already."""
    return _DATE.sub(b"\r\nDate: now", data).replace(_CONTINUE, b"")


def _messages(stream: bytes, *, early: bool) -> list[object]:
    """What a reader makes of it: in which chunks a body comes is of no meaning. ``early``: an
    answer may have cut the last body anywhere."""
    reader = Reader(False)
    reader.feed(stream)
    if early:
        return [(message.start, message.fields) for message in reader.messages]
    chunked = [kind == Body.CHUNKED for kind, _ in reader.bodies]
    return [reader.messages, chunked, b"" if any(chunked) else bytes(reader.buffer)]


def _answers(stream: bytes) -> bytes:
    """The same of what a client has got, as text."""
    reader = Reader(True)
    reader.feed(stream)
    return repr((reader.messages, bytes(reader.buffer))).encode()


def _short(data: bytes) -> str:
    return f"{len(data)} bytes {data[:600]!r}"


def _told(talk: Talk) -> str:
    heads = re.findall(rb"[A-Z]+ http[^ ]* HTTP.*?\r\n\r\n", b"".join(talk.parts), re.S)
    return f"{heads} in {[len(part) for part in talk.parts]}, ends {talk.ends}, {talk.replies[:3]}"


EACH = 16
"""Of inputs of the fuzz target, every such one is a number for a conversation: one costs as much as
some hundred heads."""

_stages: list[Stage] = []


def check_talk(data: bytes) -> None:
    """Plays a conversation chosen by ``data``, where the relay is compiled."""
    seed = zlib.crc32(data)
    if seed % EACH or importlib.util.find_spec(NATIVE_MODULE) is None:
        return
    if not _stages:
        _stages.append(Stage())
    _stages[0].check(Talk.of(seed, _stages[0].where))
