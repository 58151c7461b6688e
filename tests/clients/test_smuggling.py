"""Nothing is smuggled: each origin sees the requests that the client was answered for, and
the client gets no answer that could be read in two ways."""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import ProxyProcess, acknowledged, read_head, serving
from oracle import Llhttp, read
from smuggling_origins import AnyOrigin, Log, start
from smuggling_requests import ORIGIN, REQUESTS, Expected, message
from smuggling_responses import (
    BAD_RESPONSES,
    BODY,
    CLEANED_RESPONSES,
    CLOSED_AT_ONCE,
    CUT_RESPONSES,
    JUNK_RESPONSES,
)

ANSWER = re.compile(
    rb"HTTP/1\.1 (\d\d\d) [^\r\n]*\r\n((?:[^\r\n]+\r\n)+)\r\n([^\r\n]*?)(?=HTTP/1\.1 |[\r\n]|\Z)"
)
LAST = message(b"Connection: close", method=b"GET", target=b"http://" + ORIGIN + b"/last")


@dataclass
class Answer:
    status: int
    fields: bytes
    body: bytes  # of the echoing origins: one line

    @property
    def of_proxy(self) -> bool:
        return b"Proxy-Status: " in self.fields

    @property
    def of_origin(self) -> bool:
        return b"X-Origin: " in self.fields


@dataclass
class Way:
    """From a proxy to an origin, which is also its default backend."""

    proxy: ProxyProcess
    origin: AnyOrigin
    log: Log
    number: Iterator[int]

    def converse(self, data: bytes, step: int = 0) -> list[Answer]:
        """The final answers to these bytes on one connection until its end; sent ``step``
        bytes at a time, or at once."""
        data = data.replace(ORIGIN, self.origin.authority)
        got = bytearray()
        with self.proxy.connect() as s:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for at in range(0, len(data), step or len(data)):
                    s.sendall(data[at : at + (step or len(data))])
            while part := s.recv(1 << 16):
                got += part
        found = [Answer(int(m[1]), m[2], m[3]) for m in ANSWER.finditer(got)]
        return [answer for answer in found if answer.status >= 200]

    def seen(self) -> list[bytes]:
        """The origin's log since the last call."""
        sentinel = b"/sentinel-%d" % next(self.number)
        host, _, port = self.origin.authority.decode().partition(":")
        with socket.create_connection((host, int(port)), 20) as s:
            s.sendall(b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % sentinel)
            while s.recv(1 << 16):
                pass
        return self.log.until(sentinel)


@pytest.fixture(scope="module", params=["nginx", "node", "uvicorn"])
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    origin = start(request.param, folder)
    proxy = ProxyProcess(folder / "proxy", "--default-backend", origin.authority.decode())
    try:
        yield Way(proxy, origin, Log(origin.log), itertools.count())
        assert "Traceback" not in proxy.stderr(), proxy.stderr()
    finally:
        proxy.kill()
        origin.stop()


def check(way: Way, data: bytes, expected: Expected, step: int = 0) -> None:
    answers = way.converse(data + LAST, step)
    of_origin = [answer for answer in answers if answer.of_origin]
    victim = b"/victim-%d" % next(way.number)
    asked = message(b"Connection: close", method=b"GET", target=b"http://" + ORIGIN + victim)
    (after,) = way.converse(asked)
    lines = way.seen()
    assert after.of_origin
    assert after.body.split()[:2] == [b"GET", victim], "another request's answer"
    assert lines[-1].split()[1] == victim
    assert len(lines) - 1 == len(of_origin)
    assert {line.split()[2] for line in lines} == {way.origin.authority}
    assert not any(b"smuggled" in line or b"REFUSED" in line for line in lines), lines
    assert all(answer.of_proxy != answer.of_origin for answer in answers), "the origin refused"
    if isinstance(expected, int):
        assert len(of_origin) == len(answers) == expected
        return
    assert [answer.of_proxy for answer in answers] == [True]
    assert answers[0].status in expected
    assert b"Connection: close\r\n" in answers[0].fields


@pytest.mark.parametrize("name", REQUESTS)
def test_an_origin_sees_what_the_client_was_answered_for(way: Way, name: str) -> None:
    check(way, *REQUESTS[name])


@pytest.mark.parametrize("name", [n for n, (data, _) in REQUESTS.items() if len(data) < 1000])
def test_the_same_in_small_segments(way: Way, name: str) -> None:
    data, expected = REQUESTS[name]
    check(way, data, expected, step=7)


# --- a hostile origin -------------------------------------------------------------------


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    """One proxy for all hostile origins."""
    process = ProxyProcess(tmp_path_factory.mktemp("hostile"))
    yield process
    process.kill()
    assert "Traceback" not in process.stderr(), process.stderr()


@contextlib.contextmanager
def hostile(answer: bytes) -> Iterator[bytes]:
    """An origin that answers each connection's first request with ``answer``, and its
    second one with poison, and never closes; its address."""

    def handle(s: socket.socket) -> None:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            read_head(s)
            s.sendall(answer)
            if read_head(s):
                s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
            while s.recv(1 << 16):
                pass

    with serving(handle) as (host, port):
        yield b"%b:%d" % (host.encode(), port)


def ask(proxy: ProxyProcess, authority: bytes, version: bytes = b"HTTP/1.1") -> tuple[bytes, bool]:
    """What comes back for one request until the connection's end, and whether that was a
    reset."""
    got = bytearray()
    with proxy.connect() as s:
        s.sendall(
            b"GET http://%b/ %b\r\nHost: x\r\nConnection: close\r\n\r\n" % (authority, version)
        )
        try:
            while part := s.recv(1 << 16):
                got += part
        except ConnectionResetError:
            return bytes(got), True
    return bytes(got), False


@pytest.mark.parametrize("name", BAD_RESPONSES)
def test_an_ambiguous_response_is_answered_with_502(proxy: ProxyProcess, name: str) -> None:
    with hostile(BAD_RESPONSES[name]) as authority:
        got, reset = ask(proxy, authority)
    reading = read(got, response=True)
    theirs = Llhttp(got, response=True)
    assert not reset
    assert theirs.refused is None
    assert [m.start for m in reading.messages] == [m.start for m in theirs.messages] == [(b"502",)]
    assert reading.messages[0].done
    assert b"Proxy-Status: spliceproxy; error=" in got
    assert b"poison" not in got


@pytest.mark.parametrize("name", CLEANED_RESPONSES)
def test_an_odd_response_is_cleaned_and_its_connection_closed(
    proxy: ProxyProcess, name: str
) -> None:
    data, body = CLEANED_RESPONSES[name]
    connections: list[int] = []

    def handle(s: socket.socket) -> None:
        connections.append(1)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            if b"/second" in read_head(s):
                s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")
                return
            s.sendall(data)
            if b"Connection: close" in data:
                return
            if read_head(s):
                s.sendall(BODY)
            while s.recv(1 << 16):
                pass

    got = bytearray()
    with serving(handle) as (host, port), proxy.connect() as s:
        url = b"http://%b:%d" % (host.encode(), port)
        s.sendall(b"GET %b/first HTTP/1.1\r\nHost: x\r\n\r\n" % url)
        s.sendall(b"GET %b/second HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % url)
        with contextlib.suppress(ConnectionResetError):  # of a second request that is too late
            while part := s.recv(1 << 16):
                got += part
    ours, theirs = read(bytes(got), response=True), Llhttp(bytes(got), response=True)
    assert (ours.refused, ours.lenient, theirs.refused) == (None, -1, None)
    first, *more = [m for m in ours.messages if m.start[0] >= b"2"]
    assert first.start[0] in (b"200", b"204", b"304")
    assert first.body == body
    assert next(m.body for m in theirs.messages if m.start[0] >= b"2") == body
    if b"Connection: close" not in data:
        assert [m.body for m in more] == [b"good"]
        assert len(connections) == 2


@pytest.mark.parametrize("name", CUT_RESPONSES)
def test_a_bad_body_looks_cut_short(proxy: ProxyProcess, name: str) -> None:
    with hostile(CUT_RESPONSES[name]) as authority:
        got, _ = ask(proxy, authority)
        old, was_reset = ask(proxy, authority, b"HTTP/1.0")
    for reading in (read(got, response=True), Llhttp(got, response=True)):
        assert reading.refused is None
        if got:  # else a reset has overtaken the head
            (only,) = reading.messages
            assert (only.start, only.done) == ((b"200",), False)
    assert was_reset, "the end of the connection would end the body"
    assert b"chunked" not in old


@pytest.mark.parametrize("name", JUNK_RESPONSES)
@pytest.mark.parametrize("at_once", [True, False])
def test_what_follows_a_response_is_not_another(
    proxy: ProxyProcess, name: str, at_once: bool
) -> None:
    method, good, behind = JUNK_RESPONSES[name]
    connections: list[int] = []
    first_read, junk_arrived = threading.Event(), threading.Event()

    def handle(s: socket.socket) -> None:
        connections.append(1)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            head = read_head(s)
            if b"/second" in head:
                s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")
                return
            s.sendall(good + behind if at_once else good)
            later = not at_once and first_read.wait(20)
            if later and name in CLOSED_AT_ONCE:
                assert s.recv(1) == b""
            else:
                s.sendall(behind if later else b"")
                acknowledged(s)
            junk_arrived.set()
            while s.recv(1 << 16):
                pass

    with serving(handle) as (host, port), proxy.connect() as s:
        url = b"http://%b:%d" % (host.encode(), port)
        s.sendall(b"%b %b/first HTTP/1.1\r\nHost: x\r\n\r\n" % (method, url))
        first = read_head(s)
        reading = read(first, response=True, method=method.decode())
        if reading.bodies[0][1]:
            first += s.recv(reading.bodies[0][1], socket.MSG_WAITALL)
        elif not reading.messages[0].done:
            while not first.endswith(b"0\r\n\r\n"):
                first += s.recv(1)
        first_read.set()
        assert junk_arrived.wait(20)
        s.sendall(b"GET %b/second HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % url)
        second = bytearray()
        while part := s.recv(1 << 16):
            second += part
    assert b"HTTP/1.1 " + good[9:12] in first
    assert second.startswith(b"HTTP/1.1 200 ")
    assert second.endswith(b"\r\n\r\ngood")
    assert len(connections) == 2, "a connection with something left in it was reused"
