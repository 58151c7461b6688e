"""Which way a PAC file sends a request: asked of a helper process, under a time limit.

A PAC file is a program. It may wait for the DNS, hang or crash, and its interpreter may be attacked
by it. So it is run by :mod:`spliceproxy.upstream.pac_helper`, one process for each worker, which is
killed and started anew when an answer is late. An error never means that a request may go straight.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections import OrderedDict
from typing import Any

from spliceproxy.config import DIRECT, Url
from spliceproxy.errors import Failure, PeerGone
from spliceproxy.messages import log
from spliceproxy.net.stream import Stream

SECONDS = 3.0
"""For an answer; for the start of the helper, too."""

VALID = 60.0
FAULTS_VALID = 5.0
"""Seconds for which an answer is given again, and for which a fault is."""

CACHED = 4096
"""Answers that are kept."""

WAITING = 256
"""Requests that may wait for an answer: the helper gives one after the other."""

LONGEST = 64 * 1024
"""Bytes of an answer."""

_WORDS = {
    "PROXY": "http",
    "HTTP": "http",
    "HTTPS": "https",
    "SOCKS": "socks4a",
    "SOCKS4": "socks4a",
    "SOCKS5": "socks5h",
}
_PORTS = {"http": 80, "https": 443, "socks4a": 1080, "socks5h": 1080}
_PLACE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?").fullmatch

Ways = tuple[Url | None, ...]
"""In the order to try; None: straight to the origin."""


_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")


def helper() -> dict[str, Any]:
    """How the helper is started, as arguments of subprocess. It knows no password of the
    environment, and takes no module from the working folder."""
    return {
        "args": [sys.executable, "-m", "spliceproxy.upstream.pac_helper"],
        "cwd": "/",
        "env": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
    }


def ways_of(answer: str) -> Ways:
    """What a PAC file has answered. ValueError where nothing of it can be read: what cannot is
    passed over, as browsers do."""
    found: list[Url | None] = []
    for part in answer.split(";"):
        words = part.split()
        if not words:
            continue
        if words[0].upper() == DIRECT.upper() and len(words) == 1:
            found.append(None)
            break  # nothing behind it would be tried
        scheme = _WORDS.get(words[0].upper())
        place = _PLACE(words[1]) if len(words) == 2 else None
        if scheme is None or place is None:
            continue
        port = int(place[3] or _PORTS[scheme])
        if 0 < port < 65536:
            found.append(Url(scheme, (place[1] or place[2]).lower(), port))
    if not found:
        raise ValueError(f"it names no proxy: {answer[:100]!r}")
    return tuple(dict.fromkeys(found))


class Pac:
    """That of one configuration, in one worker: ``script`` is the text of the file."""

    def __init__(self, loop: asyncio.AbstractEventLoop, script: str) -> None:
        self._loop = loop
        self._script = script
        self._stream: Stream | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._finished = False
        self._cache: OrderedDict[str, tuple[float, Ways | Failure]] = OrderedDict()

    def finish(self) -> None:
        """Ends the helper, when those who wait have their answers."""
        self._finished = True
        if not self._waiting:
            self._end()

    def _end(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def find(self, scheme: str, host: str, port: int) -> Ways:
        """The ways to a host. Of a URL the file sees scheme, host and port alone. Failure."""
        shown = f"[{host}]" if ":" in host else host
        plain = port == {"http": 80, "https": 443}[scheme]
        url = f"{scheme}://{shown}/" if plain else f"{scheme}://{shown}:{port}/"
        known = self._cache.get(url)
        if known is None or known[0] < self._loop.time():
            known = await self._ask(url, host)
        answer = known[1]
        if isinstance(answer, Failure):
            raise Failure(answer.error, answer.detail, answer.status, why=answer.why)
        return answer

    async def _ask(self, url: str, host: str) -> tuple[float, Ways | Failure]:
        if self._waiting >= WAITING:
            raise _failure(f"{WAITING} requests wait for it")
        self._waiting += 1
        try:
            async with self._turn:
                known = self._cache.get(url)
                if known is not None and known[0] >= self._loop.time():
                    return known  # who has waited before has asked the same
                try:
                    answer: Ways | Failure = ways_of(await self._found(url, host))
                    until = self._loop.time() + VALID
                except (Failure, ValueError) as error:
                    answer = error if isinstance(error, Failure) else _failure(str(error))
                    answer.with_traceback(None)  # it is kept for a while, and would keep frames
                    answer.__cause__ = answer.__context__ = None
                    until = self._loop.time() + FAULTS_VALID
                    log.info("the PAC file, asked about %s: %s", host, answer.detail)
        finally:
            self._waiting -= 1
            if self._finished and not self._waiting:
                self._end()
        self._cache[url] = known = until, answer
        if len(self._cache) > CACHED:
            self._cache.popitem(last=False)
        return known

    async def _found(self, url: str, host: str) -> str:
        """What the file answers, in its words."""
        try:
            stream = self._stream or await self._start()
            said = await self._say(stream, [url, host])
        except BaseException:  # a helper that is still at it would answer the next one
            self._end()
            raise
        if "found" not in said:
            raise _failure(str(said.get("fault", "no answer")))
        return str(said["found"])

    async def _start(self) -> Stream:
        stream = self._spawn()
        said = await self._say(stream, self._script)
        if "ready" not in said:
            raise _failure(str(said.get("fault", "no answer")))
        return stream

    def _spawn(self) -> Stream:
        """A new helper; what it is told and what it answers."""
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            self._stream = Stream(ours, self._loop)
            fd = theirs.fileno()
            try:
                self._process = subprocess.Popen(**helper(), stdin=fd, stdout=fd)
            except OSError as error:
                raise _failure(f"its helper cannot be started: {error.strerror}") from error
        return self._stream

    async def _say(self, stream: Stream, question: object) -> dict[str, Any]:
        """One question and its answer."""
        late = f"no answer within {SECONDS:g} s"
        for limit in (stream.read_limit, stream.write_limit):
            limit.set("connection_timeout", late, SECONDS)
        try:
            await stream.send(json.dumps(question).encode("ascii") + b"\n")
            while b"\n" not in stream.buffer:
                if len(stream.buffer) > LONGEST or not await stream.fill():
                    raise _failure("its helper has ended")
        except PeerGone as error:
            raise _failure("its helper has ended") from error
        except Failure as failure:
            raise _failure(failure.detail) from failure
        line, _, rest = bytes(stream.buffer).partition(b"\n")
        stream.buffer[:] = rest
        answer: dict[str, Any] = json.loads(line)
        return answer


def _failure(detail: str) -> Failure:
    return Failure(
        "destination_unavailable",
        f"the PAC file: {detail}",
        502,
        why="the PAC file gives no answer",
    )
