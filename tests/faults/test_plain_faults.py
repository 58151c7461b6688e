"""The relay's own exchanges among faults: each scenario is played with the native engine,
which serves what has just been allowed by itself, and with ``copy``, which serves nothing by
itself. Whatever the peers see, and the access log, must be the same."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_peers import Reader, at_rest, head, leave, reset, send_what_goes
from harness import ProxyProcess, descriptors, memory, read_exactly, wait_for

ENGINES = ("native", "copy")
DATE = "Date: Tue, 15 Nov 1994 08:12:31 GMT"
PASSWORD = "Proxy-Authorization: Basic dTpw"
STALL = "--timeout-idle", "2", "--timeout-dial", "2"
PATIENT = "--timeout-dial", "3600"
BIG = 1 << 20

NewProxy = Callable[..., ProxyProcess]


def answer(body: bytes = b"ok", *fields: str, status: str = "200 OK", length: int = -1) -> bytes:
    """A plain response."""
    size = len(body) if length < 0 else length
    lines = [f"HTTP/1.1 {status}", DATE, f"Content-Length: {size}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


class Play:
    """One scenario on one proxy. ``seen`` is what the peers see, to be compared."""

    def __init__(self, proxy: ProxyProcess, stack: contextlib.ExitStack) -> None:
        self.proxy = proxy
        self.stack = stack
        self.listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        self.listener.settimeout(20)
        self.port = self.listener.getsockname()[1]
        self.seen: list[object] = []

    def request(self, path: str = "/", *fields: str, method: str = "GET", body: str = "") -> bytes:
        where = f"127.0.0.1:{self.port}"
        target = where if method == "CONNECT" else f"http://{where}{path}"
        lines = [f"{method} {target} HTTP/1.1", f"Host: {where}", *fields, "", body]
        return "\r\n".join(lines).encode()

    def client(self) -> socket.socket:
        return self.stack.enter_context(self.proxy.connect())

    def accept(self) -> socket.socket:
        server, _ = self.listener.accept()
        server.settimeout(20)
        return self.stack.enter_context(server)

    def heard(self, server: socket.socket) -> None:
        self.saw("origin", head(server))

    def saw(self, who: str, what: object) -> None:
        if isinstance(what, bytes):
            what = what.replace(str(self.port).encode(), b"PORT")
            what = re.sub(rb"Date: (?!Tue, 15 Nov 1994).*?\r\n", b"Date: now\r\n", what)
        self.seen.append((who, what))

    def warm(self, *, keep: bool) -> socket.socket:
        """A request that allows those that follow; the origin's connection, kept alive or
        not."""
        with self.proxy.connect() as client:
            client.sendall(self.request("/warm", PASSWORD))
            server = self.accept()
            head(server)
            server.sendall(answer(b"ok") if keep else answer(b"ok", "Connection: close"))
            assert Reader(client).answer().body == b"ok"
        if not keep:
            server.close()
        return server

    def until_end(self, client: socket.socket, who: str = "client") -> None:
        reader = Reader(client)
        self.saw(who, reader.rest())
        self.saw(who, reader.end)


Scenario = Callable[[Play], None]


def lines_of(proxy: ProxyProcess, port: int, start: int) -> list[str]:
    """The access-log lines of an origin, without times."""
    lines = [line.split()[2:] for line in proxy.access()[start:]]
    return [
        " ".join(words).replace(f":{port}", ":PORT") for words in lines if f":{port}" in words[4]
    ]


def played(proxy: ProxyProcess, scenario: Scenario) -> tuple[list[object], Callable[[], list[str]]]:
    """What was seen, and what has been logged since."""
    with contextlib.ExitStack() as stack:
        play = Play(proxy, stack)
        play.warm(keep=False)
        proxy.wait_access(1)
        before = descriptors(proxy.worker)
        start = len(proxy.access())
        scenario(play)
    at_rest(proxy, before)
    with contextlib.ExitStack() as stack:
        last = Play(proxy, stack)
        last.warm(keep=False)
        wait_for(lambda: lines_of(proxy, last.port, start), "the last line")

    def logged() -> list[str]:
        return sorted(line for line in lines_of(proxy, play.port, start) if "/warm" not in line)

    return play.seen, logged


@pytest.fixture(scope="module")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ProxyProcess]]:
    yield from _proxies(tmp_path_factory)


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ProxyProcess]]:
    yield from _proxies(tmp_path_factory, "--auth", "u:p")


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ProxyProcess]]:
    yield from _proxies(tmp_path_factory, *STALL)


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ProxyProcess]]:
    yield from _proxies(tmp_path_factory, *PATIENT)


def _proxies(factory: pytest.TempPathFactory, *args: str) -> Iterator[dict[str, ProxyProcess]]:
    made = {}
    try:
        for engine in ENGINES:
            made[engine] = ProxyProcess(factory.mktemp(engine), "--engine", engine, *args)
        yield made
    finally:
        for proxy in made.values():
            proxy.kill()
    for proxy in made.values():
        assert "Traceback" not in proxy.stderr(), proxy.stderr()


def compare(proxies: dict[str, ProxyProcess], scenario: Scenario) -> None:
    native, copy = (played(proxies[engine], scenario) for engine in ENGINES)
    assert native[0] == copy[0]
    # A client may see its end before its line is written.
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: native[1]() == copy[1](), "the same lines", 5)
    assert native[1]() == copy[1]()
    assert native[0]


# ---- the origin --------------------------------------------------------------------------

End = Callable[[socket.socket], None]


def fin(server: socket.socket) -> None:
    server.close()


def stay(server: socket.socket) -> None:
    """It says no more."""


CHUNKED = f"HTTP/1.1 200 OK\r\n{DATE}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
CLOSED = f"HTTP/1.1 200 OK\r\n{DATE}\r\n\r\n".encode()

ANSWERS: dict[str, tuple[bytes, End, str]] = {
    "fin in the head": (answer()[:30], fin, "GET"),
    "reset in the head": (answer()[:30], reset, "GET"),
    "fin behind the head": (answer(b"", length=5), fin, "GET"),
    "fin in the body": (answer(b"hello", length=9), fin, "GET"),
    "reset in the body": (answer(b"hello", length=9), reset, "GET"),
    "fin in a big body": (answer(b"x" * BIG, length=BIG + 1), fin, "GET"),
    "ok": (answer(b"hello"), fin, "GET"),
    "ok, with a type": (answer(b"hello", "Content-Type: Text/HTML; charset=x"), fin, "GET"),
    "big": (answer(b"x" * BIG), fin, "GET"),
    "empty": (answer(b""), fin, "GET"),
    "close": (answer(b"hello", "Connection: close"), fin, "GET"),
    "junk behind": (answer(b"hello") + b"junk", fin, "GET"),
    "100": (b"HTTP/1.1 100 Continue\r\n\r\n" + answer(), fin, "GET"),
    "101": (b"HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", fin, "GET"),
    "chunked": (CHUNKED + b"2\r\nok\r\n0\r\n\r\n", fin, "GET"),
    "chunked, cut": (CHUNKED + b"5\r\nok", fin, "GET"),
    "chunked, reset": (CHUNKED + b"5\r\nok", reset, "GET"),
    "until close": (CLOSED + b"hello", fin, "GET"),
    "304": (answer(b"", status="304 x", length=5), fin, "GET"),
    "304 with a body": (answer(b"hello", status="304 x"), fin, "GET"),
    "204": (f"HTTP/1.1 204 x\r\n{DATE}\r\n\r\n".encode(), fin, "GET"),
    "204 with a length": (answer(b"", status="204 x"), fin, "GET"),
    "HEAD": (answer(b"", length=5), fin, "HEAD"),
    "HEAD with a body": (answer(b"hello"), fin, "HEAD"),
    "no date": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", fin, "GET"),
    "bad": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", fin, "GET"),
    "500": (answer(b"oops", status="500 Oops"), fin, "GET"),
}


@pytest.mark.parametrize("keep", [False, True], ids=["fresh", "reused"])
@pytest.mark.parametrize("name", ANSWERS)
def test_answers(proxies: dict[str, ProxyProcess], name: str, keep: bool) -> None:
    data, end, method = ANSWERS[name]

    def scenario(play: Play) -> None:
        server = play.warm(keep=keep)
        client = play.client()
        client.sendall(play.request("/", "Connection: close", method=method))
        if not keep:
            server = play.accept()
        play.heard(server)

        def send() -> None:
            send_what_goes(server, data)
            end(server)

        sender = threading.Thread(target=send)  # it waits until the client reads
        sender.start()
        play.until_end(client)
        sender.join(20)

    compare(proxies, scenario)


@pytest.mark.parametrize("end", [fin, reset], ids=["fin", "reset"])
@pytest.mark.parametrize("keep", [False, True], ids=["fresh", "reused"])
def test_no_answer(proxies: dict[str, ProxyProcess], keep: bool, end: End) -> None:
    """On a fresh connection that is a 502; on a reused one the request is sent again."""

    def scenario(play: Play) -> None:
        server = play.warm(keep=keep)
        client = play.client()
        client.sendall(play.request("/a") + play.request("/b", "Connection: close"))
        server = server if keep else play.accept()
        play.heard(server)
        end(server)
        server = play.accept()
        play.heard(server)
        server.sendall(answer(b"again"))
        if keep:
            play.heard(server)
            server.sendall(answer(b"more"))
        play.until_end(client)

    compare(proxies, scenario)


@pytest.mark.parametrize("sent", [b"", answer()[:30], answer(b"hello", length=9)])
@pytest.mark.parametrize("keep", [False, True], ids=["fresh", "reused"])
def test_a_stalled_origin(impatient: dict[str, ProxyProcess], keep: bool, sent: bytes) -> None:
    def scenario(play: Play) -> None:
        server = play.warm(keep=keep)
        client = play.client()
        client.sendall(play.request("/", "Connection: close"))
        server = server if keep else play.accept()
        play.heard(server)
        server.sendall(sent)
        play.until_end(client)
        play.saw("origin", Reader(server).rest())

    compare(impatient, scenario)


def test_a_client_that_takes_nothing(impatient: dict[str, ProxyProcess]) -> None:
    def scenario(play: Play) -> None:
        play.warm(keep=False)
        client = play.client()
        client.sendall(play.request())
        server = play.accept()
        play.heard(server)
        sender = threading.Thread(target=send_what_goes, args=(server, answer(b"x" * (64 << 20))))
        sender.start()
        wait_for(lambda: play_over(play), "the end of the exchange")
        reset(client)
        sender.join(20)

    def play_over(play: Play) -> bool:
        lines = [line for line in play.proxy.access() if f":{play.port}/ " in line]
        if lines:
            play.saw("log", lines[0].split()[3])
        return bool(lines)

    native, copy = (played(impatient[engine], scenario) for engine in ENGINES)
    assert native[0][-1] == copy[0][-1]


# ---- the client --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fin", "reset", "half"])
@pytest.mark.parametrize("keep", [False, True], ids=["fresh", "reused"])
@pytest.mark.parametrize("phase", ["wait", "body", "between"])
def test_a_client_leaves(
    proxies: dict[str, ProxyProcess], phase: str, keep: bool, how: str
) -> None:
    def scenario(play: Play) -> None:
        server = play.warm(keep=keep)
        client = play.client()
        client.sendall(play.request())
        server = server if keep else play.accept()
        play.heard(server)
        if phase == "body":
            server.sendall(answer(b"hello", length=9))
        elif phase == "between":
            server.sendall(answer(b"hello"))
        if phase != "wait":
            play.saw("client", head(client))
            play.saw("client", read_exactly(client, 5))
        if how == "half":
            client.shutdown(socket.SHUT_WR)
            play.until_end(client)
        else:
            leave(client, how)
        if phase != "between":
            play.saw("origin", Reader(server).rest())

    compare(proxies, scenario)


def serve(play: Play, server: socket.socket, count: int) -> None:
    for number in range(count):
        play.heard(server)
        server.sendall(answer(b"%d" % number))


@pytest.mark.parametrize("half", [False, True], ids=["open", "half-closed"])
@pytest.mark.parametrize("count", [1, 2, 7, 50])
def test_pipelining(proxies: dict[str, ProxyProcess], count: int, half: bool) -> None:
    if half and count == 1:
        pytest.skip("whether it is dialled at all is chance")

    def scenario(play: Play) -> None:
        play.warm(keep=False)
        client = play.client()
        client.sendall(b"".join(play.request(f"/{number}") for number in range(count)))
        if half:
            client.shutdown(socket.SHUT_WR)
        server = play.accept()
        serve(play, server, count - half)
        if half:  # the last is not answered: who has said all before an answer is gone
            Reader(server).rest()  # the request, or none any more
        else:
            reader = Reader(client)
            for _ in range(count):
                play.saw("client", reader.answer())
            client.shutdown(socket.SHUT_WR)
        play.until_end(client)

    compare(proxies, scenario)


@pytest.mark.parametrize("glued", [False, True], ids=["apart", "glued"])
def test_a_post_between(proxies: dict[str, ProxyProcess], glued: bool) -> None:
    def scenario(play: Play) -> None:
        play.warm(keep=False)
        client = play.client()
        requests = [
            play.request("/a"),
            play.request("/b", "Content-Length: 4", method="POST", body="body"),
            play.request("/c"),
            play.request("/d", "Connection: close"),
        ]
        client.sendall(b"".join(requests) if glued else requests[0])
        server = play.accept()  # the client's own from then on
        reader = Reader(client)
        for number, request in enumerate(requests):
            if number and not glued:
                client.sendall(request)
            play.heard(server)
            if number == 1:
                play.saw("origin", read_exactly(server, 4))
            server.sendall(answer(b"%d" % number))
            play.saw("client", reader.answer())
        play.until_end(client)

    compare(proxies, scenario)


@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
def test_what_follows_a_request_that_goes_to_the_relay(
    proxies: dict[str, ProxyProcess], first: bool
) -> None:
    """The first request allows others; what has come behind it is not plain, and no event
    says so."""

    def scenario(play: Play) -> None:
        if not first:
            play.warm(keep=False)
        client = play.client()
        client.sendall(play.request("/a") + play.request("/b", "TE: trailers", "Connection: TE"))
        server = play.accept()
        serve(play, server, 2)
        reader = Reader(client)
        play.saw("client", [reader.answer(), reader.answer()])
        client.shutdown(socket.SHUT_WR)
        play.until_end(client)

    compare(proxies, scenario)


def test_another_host_each_time(proxies: dict[str, ProxyProcess]) -> None:
    def scenario(play: Play) -> None:
        other = Play(play.proxy, play.stack)
        play.warm(keep=False)
        other.warm(keep=False)
        client = play.client()
        reader = Reader(client)
        servers: dict[int, socket.socket] = {}
        for number, at in enumerate([play, other, play, play, other]):
            client.sendall(at.request(f"/{number}"))
            if at.port not in servers:
                servers[at.port] = at.accept()
            at.heard(servers[at.port])
            servers[at.port].sendall(answer(b"%d" % number))
            play.saw("client", reader.answer())
        client.shutdown(socket.SHUT_WR)
        play.until_end(client)
        play.seen += other.seen

    compare(proxies, scenario)


@pytest.mark.parametrize("before", [False, True], ids=["at once", "behind a request"])
def test_a_tunnel(proxies: dict[str, ProxyProcess], before: bool) -> None:
    """Its bytes are its own, whatever the connection has carried before."""

    def scenario(play: Play) -> None:
        play.warm(keep=False)
        with play.proxy.tunnel("127.0.0.1", play.port) as allowed, play.accept():
            allowed.shutdown(socket.SHUT_WR)
        client = play.client()
        if before:
            client.sendall(play.request("/a"))
            server = play.accept()
            play.heard(server)
            server.sendall(answer(b"x" * 1000))
            play.saw("client", Reader(client).answer())
        client.sendall(play.request(method="CONNECT") + b"early")
        server = play.accept()
        play.saw("origin", read_exactly(server, 5))
        server.sendall(b"hello")
        server.shutdown(socket.SHUT_WR)
        client.shutdown(socket.SHUT_WR)
        play.until_end(client)
        play.saw("origin", Reader(server).rest())

    compare(proxies, scenario)


# ---- dialling ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
def test_refused(proxies: dict[str, ProxyProcess], method: str) -> None:
    def scenario(play: Play) -> None:
        play.warm(keep=False)
        play.listener.close()
        client = play.client()
        client.sendall(play.request("/", "Connection: close", method=method))
        play.until_end(client)

    compare(proxies, scenario)


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
def test_no_answer_to_syn(impatient: dict[str, ProxyProcess], method: str) -> None:
    def scenario(play: Play) -> None:
        play.stack.enter_context(stuck(play))
        client = play.client()
        client.sendall(play.request("/", "Connection: close", method=method))
        play.until_end(client)

    compare(impatient, scenario)


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("method", ["GET", "CONNECT"])
def test_a_client_leaves_before_there_is_an_answer_to_syn(
    patient: dict[str, ProxyProcess], method: str, how: str
) -> None:
    def scenario(play: Play) -> None:
        play.stack.enter_context(stuck(play))
        before = attempts(play.port)
        client = play.client()
        client.sendall(play.request("/", "Connection: close", method=method))
        wait_for(lambda: attempts(play.port) > before, "the attempt to connect")
        leave(client, how)
        play.saw("client", "gone")

    compare(patient, scenario)


@pytest.mark.parametrize("fields", [(), ("Accept: text/html",), ("Connection: close",)])
@pytest.mark.parametrize("method", ["GET", "HEAD", "CONNECT"])
@pytest.mark.parametrize("why", ["stranger", "wrong", "guard", "name", "more follows"])
def test_a_refusal_is_the_same(
    keyed: dict[str, ProxyProcess], method: str, why: str, fields: tuple[str, ...]
) -> None:
    """The client sees the same bytes, may go on or not as before, and the log says the same."""

    def scenario(play: Play) -> None:
        key = {"stranger": (), "wrong": (PASSWORD[:-4] + "dTpx",)}.get(why, (PASSWORD,))
        host = {"name": b"name.invalid"}.get(why, b"169.254.7.7")
        request = play.request("/", *fields, *key, method=method)
        if why not in ("stranger", "wrong"):
            request = request.replace(b"127.0.0.1", host, 2)
        last = play.request("/last", PASSWORD, "Connection: close")
        client = play.client()
        client.sendall(request + last if why == "more follows" else request)
        first = client.recv(1 << 16)
        play.saw("client", first)
        if b"Connection: close" not in first:
            if why != "more follows":
                client.sendall(last)
            server = play.accept()
            play.heard(server)
            server.sendall(answer(b"ok"))
        play.until_end(client)

    compare(keyed, scenario)


def test_one_limit_for_all_attempts(new_proxy: NewProxy) -> None:
    """The time that the relay has dialled in vain is part of it."""
    proxy = new_proxy("--engine", "native", "--timeout-dial", "8")
    with contextlib.ExitStack() as stack, stuck(Play(proxy, stack)) as play:
        client = play.client()
        began = time.monotonic()
        client.sendall(play.request())
        answered = Reader(client).answer()
        assert (answered.status, answered.error) == (504, "connection_timeout")
        assert 8 <= time.monotonic() - began < 15


def attempts(port: int) -> int:
    """Sockets on this machine in SYN_SENT towards a port (proc_net_tcp of the kernel)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(words[3] == "02" and words[2].endswith(f":{port:04X}") for words in lines)


@contextlib.contextmanager
def stuck(play: Play) -> Iterator[Play]:
    """Its origin has just been allowed, and answers no SYN any more."""
    play.warm(keep=False)
    play.listener.listen(0)
    for _ in range(4):
        filler = play.stack.enter_context(socket.socket())
        filler.setblocking(False)
        filler.connect_ex(play.listener.getsockname())
    yield play


# ---- the end -----------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["new", "idle", "wait", "body", "pipelined"])
def test_drain(new_proxy: NewProxy, phase: str) -> None:
    """SIGTERM in each phase: what is at work ends as it should, and nothing is waited for."""

    def scenario(proxy: ProxyProcess) -> Any:
        with contextlib.ExitStack() as stack:
            play = Play(proxy, stack)
            play.warm(keep=False)
            client = play.client()
            if phase != "new":
                client.sendall(play.request("/a"))
                server = play.accept()
                play.heard(server)
                if phase == "pipelined":
                    client.sendall(play.request("/b"))
                if phase in ("body", "pipelined"):
                    server.sendall(answer(b"hello", "Connection: close", length=9))
                    play.saw("client", head(client))
                if phase == "idle":
                    server.sendall(answer(b"hello"))
                    play.saw("client", Reader(client).answer())
            proxy.process.terminate()
            if phase != "new":
                wait_for(lambda: _refuses(proxy), "the end of accepting")
            if phase == "wait":
                server.sendall(answer(b"hello"))
            elif phase in ("body", "pipelined"):
                server.sendall(b" you")
            if phase == "pipelined":
                server = play.accept()
                play.heard(server)
                server.sendall(answer(b"last"))
            play.until_end(client)
            play.saw("status", proxy.process.wait(20))
            lines = [line.split()[3] for line in proxy.access() if "/warm" not in line]
            return play.seen, lines

    native, copy = (
        scenario(new_proxy("--engine", engine, "--timeout-drain", "60")) for engine in ENGINES
    )
    assert native == copy


def test_a_tunnel_forgets_what_came_with_its_head(new_proxy: NewProxy) -> None:
    proxy = new_proxy("--engine", "native")
    early = b"e" * 60_000

    def tunnels(data: bytes) -> int:
        """Bytes of memory that 100 of them cost."""
        with contextlib.ExitStack() as stack:
            play = Play(proxy, stack)
            before = memory(proxy.worker, "Private_Dirty")
            for _ in range(100):
                client = play.client()
                client.sendall(play.request(method="CONNECT") + data)
                server = play.accept()
                assert len(read_exactly(server, len(data))) == len(data)
                head(client)
            return memory(proxy.worker, "Private_Dirty") - before

    tunnels(b"")
    # The least of some: a worker loads modules for half a second behind its start.
    assert min(tunnels(early) for _ in range(3)) < 20 * len(early)


def _refuses(proxy: ProxyProcess) -> bool:
    try:
        proxy.connect(1).close()
    except OSError:
        return True
    return False


def test_few_descriptors(new_proxy: NewProxy) -> None:
    """With as many clients as descriptors all are served in the end."""
    proxy = new_proxy("--engine", "native", prefix=("prlimit", "--nofile=48:48"))
    with contextlib.ExitStack() as stack:
        play = Play(proxy, stack)
        play.warm(keep=False)
        before = descriptors(proxy.worker)
        threading.Thread(target=_serve_all, args=(play.listener,), daemon=True).start()
        clients = [play.client() for _ in range(60)]
        for client in clients:
            client.sendall(play.request("/", "Connection: close"))
        statuses = [Reader(client).answer().status for client in clients]
        assert set(statuses) <= {200, 502, 503}
        assert 200 in statuses
        for client in clients:
            client.close()
        at_rest(proxy, before + 1)
        client = play.client()
        client.sendall(play.request("/", "Connection: close"))
        assert Reader(client).answer().status == 200


def _serve_all(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            server, _ = listener.accept()
            with server, contextlib.suppress(ConnectionError, AssertionError):
                server.settimeout(20)
                head(server)
                server.sendall(answer(b"ok", "Connection: close"))
