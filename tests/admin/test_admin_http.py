"""HTTP at the admin address: the table of paths, and the limits."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import threading

import pytest
from admin_rig import TOKEN, Admin, NewAdmin
from harness import read_all, read_head, wait_for

from spliceproxy.admin.access import Gate
from spliceproxy.admin.http import BODY_MOST, HEAD_MOST, Request, Response, Table
from spliceproxy.admin.places import CONNECTIONS, OPEN
from spliceproxy.admin.process import _finish
from spliceproxy.admin.server import Server
from spliceproxy.config import AdminConfig
from spliceproxy.kept import Kept


@pytest.fixture
def admin(new_admin: NewAdmin) -> Admin:
    return new_admin()


HEAD = f"Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"


def say(admin: Admin, text: str) -> bytes:
    with admin.socket() as s:
        s.sendall(text.encode("latin-1"))
        s.shutdown(socket.SHUT_WR)
        return read_all(s)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_parameters_that_there_are_not(admin: Admin) -> None:
    """One that is written wrong must not mean something else. Monitors have their own."""
    for method, path, allowed in (
        ("POST", "/reload?force=1", "none here"),
        ("POST", "/drain?delay=5", "none here"),
        ("GET", "/stats.json?foo=1", "since"),
        ("GET", "/config?form=json", "format"),
        ("GET", "/events?kind=state", "kinds"),
        ("POST", "/log-level?l=info", "level"),
        ("GET", "/tunnels/x?y=1", "none here"),
    ):
        answer = admin.ask(path, method)
        name = path.partition("?")[2].partition("=")[0]
        said = f"{name}: no such parameter; allowed: {allowed}\n"
        assert (answer.status, answer.text) == (400, said)
    for path in ("/healthz?x=1", "/readyz?x=1", "/metrics?x=1"):
        assert admin.ask(path).status == 200, path


def test_methods_and_paths(admin: Admin) -> None:
    answer = admin.ask("/config", "DELETE")
    assert answer.status == 405
    assert answer.fields["Allow"] == "GET, HEAD, OPTIONS"
    answer = admin.ask("/config", "OPTIONS")
    assert (answer.status, answer.body, answer.fields["Allow"]) == (204, b"", "GET, HEAD, OPTIONS")
    assert admin.ask("/drain", "GET").fields["Allow"] == "OPTIONS, POST"
    for path in ("/nothing", "/config/", "//config", "/config/x", "/%63onfig", "/events/*"):
        assert admin.ask(path).status == 404, path
    head, body = admin.ask("/config", "HEAD"), admin.ask("/config")
    assert head.body == b""
    assert head.fields["Content-Length"] == str(len(body.body))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (f"GET /config HTTP/1.1\r\n{HEAD}\r\n", 200),
        (f"GET /config HTTP/1.0\r\n{HEAD}\r\n", 200),
        (f"GET http://localhost/config HTTP/1.1\r\n{HEAD}\r\n", 200),
        (f"GET http://attacker.test/config HTTP/1.1\r\n{HEAD}\r\n", 421),
        (f"GET /config HTTP/1.1\r\n{HEAD}Host: b\r\n\r\n", 400),
        ("GET /config HTTP/1.1\r\n\r\n", 400),
        (f"GET /config HTTP/2.0\r\n{HEAD}\r\n", 505),
        (f"GET /config\r\n{HEAD}\r\n", 400),
        ("\x16\x03\x01 a handshake of TLS", 400),
        (f"CONNECT a.test:443 HTTP/1.1\r\n{HEAD}\r\n", 421),
        (f"OPTIONS * HTTP/1.1\r\n{HEAD}\r\n", 404),
        (f"GET /config?format=json&format=toml HTTP/1.1\r\n{HEAD}\r\n", 400),
        (f"GET /config?format=xml HTTP/1.1\r\n{HEAD}\r\n", 400),
        (f"GET /config?{'a&' * 100} HTTP/1.1\r\n{HEAD}\r\n", 400),
        (f"GET /config?%ff=%ff HTTP/1.1\r\n{HEAD}\r\n", 400),
        (f"GET /{'a' * 20000} HTTP/1.1\r\n{HEAD}\r\n", 414),
        (f"GET / HTTP/1.1\r\n{HEAD}X: {'a' * HEAD_MOST}\r\nY: z\r\n\r\n", 431),
        (f"POST /log-level HTTP/1.1\r\n{HEAD}Content-Length: 9\r\n\r\nnot JSON!", 400),
        (f"POST /log-level HTTP/1.1\r\n{HEAD}Content-Length: 2\r\n\r\n[]", 400),
        (f"POST /log-level HTTP/1.1\r\n{HEAD}Content-Length: {BODY_MOST + 1}\r\n\r\n", 413),
        (f"POST /log-level HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (f"POST /log-level HTTP/1.1\r\n{HEAD}Content-Length: 3, 4\r\n\r\n", 400),
    ],
)
def test_a_request(shared_admin: Admin, text: str, wanted: int) -> None:
    answer = say(shared_admin, text)
    assert status(answer) == wanted, answer


def test_a_connection_is_kept(admin: Admin) -> None:
    connection = admin.connection()
    for path, wanted in (("/config", 200), ("/nothing", 404), ("/readyz", 200)):
        connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        answer.read()
        assert (answer.status, answer.will_close) == (wanted, False)
    connection.close()


def test_no_connection_is_kept_by_a_process_that_ends() -> None:
    """Whoever would ask once more by it might find it closed."""

    async def main() -> None:
        asked, may_answer = asyncio.Event(), asyncio.Event()

        async def slow(request: Request) -> Response:
            asked.set()
            await may_answer.wait()
            return Response.text("slow")

        table = Table()
        table.add("/slow", open=True, GET=slow)
        server = Server(table, Gate(AdminConfig(), Kept()))
        listening = socket.create_server(("127.0.0.1", 0))
        accepting = asyncio.ensure_future(server.accept(listening))
        kept, writer_of_kept = await asyncio.open_connection(*listening.getsockname())
        writer_of_kept.write(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"Connection: close" not in await kept.readuntil(b"at this path\n")
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asked.wait()
        ending = asyncio.ensure_future(_finish(server))
        await asyncio.sleep(0)
        may_answer.set()
        answer = await reader.readuntil(b"slow\n")
        assert b"\r\nConnection: close\r\n" in answer
        assert await reader.read() == b""
        await ending
        assert await asyncio.wait_for(kept.read(), 20) == b""
        for one in (writer, writer_of_kept):
            one.close()
        accepting.cancel()
        await asyncio.wait((accepting,))
        listening.close()

    asyncio.run(main())


def test_two_requests_at_once(admin: Admin) -> None:
    one = f"GET /log-level HTTP/1.1\r\n{HEAD}\r\n"
    two = f"POST /log-level HTTP/1.1\r\n{HEAD}Content-Length: 17\r\n\r\n" + '{"level": "info"}'
    answer = say(admin, two + one)
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.endswith(b'{"level": "info"}\n')


def test_a_large_body_gets_its_answer(admin: Admin) -> None:
    """Though nobody reads it: a reset would take the answer away."""
    answer = admin.ask("/drain", "POST", b"x" * (BODY_MOST + 1))
    assert answer.status == 413


def test_whoever_expects_it_is_told_to_go_on(admin: Admin) -> None:
    with admin.socket() as s:
        s.sendall(
            f"POST /log-level HTTP/1.1\r\n{HEAD}Content-Length: 17\r\n"
            "Expect: 100-continue\r\n\r\n".encode()
        )
        assert read_head(s) == b"HTTP/1.1 100 Continue\r\n\r\n"
        s.sendall(b'{"level": "info"}')
        assert b" 200 OK" in read_head(s)


def held(
    admin: Admin, stack: contextlib.ExitStack, request: str, number: int
) -> list[socket.socket]:
    """So many connections that have sent this, and say no more."""
    found = []
    for _ in range(number):
        s = stack.enter_context(admin.socket())
        s.sendall(request.encode())
        found.append(s)
    return found


def probed(admin: Admin) -> None:
    """What asks for health has its answer. How quick the worker was is not the question here."""
    answer = admin.ask("/healthz", token=None)
    assert answer.status == 200 or "answer" in answer.text, answer
    assert admin.ask("/metrics", token=None).status == 200


def test_whoever_says_nothing_keeps_nobody_out(admin: Admin) -> None:
    """The one that has waited longest makes room."""
    ask = "GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n"
    with contextlib.ExitStack() as stack:
        first, *others = held(admin, stack, ask, CONNECTIONS)
        for s in (first, *others):
            assert b" 200 " in read_head(s)
        assert admin.ask("/readyz", token=None).status == 200
        with contextlib.suppress(ConnectionResetError):
            while first.recv(65536):
                pass
        others[-1].sendall(ask.encode())
        assert b" 200 " in read_head(others[-1])


@pytest.mark.parametrize(
    "request_",
    [
        "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: a\r\n",
        "GET /config HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 200,
        "",
    ],
    ids=["last answer", "half a head", "no token", "no body", "reads nothing", "nothing"],
)
def test_a_probe_is_answered_whoever_keeps_the_places(admin: Admin, request_: str) -> None:
    """None of them needs a token. Who restarts the proxy for want of an answer is not to get 503,
    nor to wait until their time is over."""
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            held(admin, stack, request_, CONNECTIONS)
            probed(admin)


def test_requests_with_a_token_leave_places_for_those_without(admin: Admin) -> None:
    body = "Content-Length: 2\r\nExpect: 100-continue\r\n"
    ask = f"POST /log-level HTTP/1.1\r\n{HEAD}{body}\r\n"
    with contextlib.ExitStack() as stack:
        for s in held(admin, stack, ask, CONNECTIONS - OPEN):
            assert b" 100 " in read_head(s)
        for _ in range(2 * OPEN):  # these have their answer, and stay for a moment
            (s,) = held(admin, stack, ask, 1)
            assert b" 503 " in read_head(s)
        probed(admin)
    wait_for(lambda: admin.ask("/config").status == 200, "that they are gone")


def test_nobody_stays_while_others_wait(admin: Admin) -> None:
    """Clients that ask again at once, and so are never waited for, leave in turn."""
    with Crowd(admin, CONNECTIONS) as crowd:
        wait_for(lambda: crowd.answers > 5 * CONNECTIONS, "their answers")
        for _ in range(5):
            probed(admin)
            assert admin.ask("/log-level").status == 200


class Crowd:
    """So many clients in one thread, each of which asks again as soon as it has its answer, and
    comes again when its connection is closed."""

    ASK = b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n"

    def __init__(self, admin: Admin, number: int) -> None:
        self.answers = 0
        self._admin = admin
        self._number = number
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Crowd:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for _ in range(self._number):
                self._come(selector)
            while not self._ended.is_set():
                for key, _ in selector.select(0.1):
                    s = key.fileobj
                    assert isinstance(s, socket.socket)
                    try:
                        answer = s.recv(65536)
                        if answer:
                            s.sendall(self.ASK)
                            self.answers += 1
                    except OSError:
                        answer = b""
                    if not answer:
                        selector.unregister(s)
                        s.close()
                        self._come(selector)
            for key in list(selector.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]

    def _come(self, selector: selectors.BaseSelector) -> None:
        s = self._admin.socket()
        s.sendall(self.ASK)
        selector.register(s, selectors.EVENT_READ)


def test_fields_that_every_answer_has(admin: Admin) -> None:
    for path in ("/config", "/nothing", "/readyz"):
        fields = admin.ask(path).fields
        assert fields["Cache-Control"] == "no-store"
        assert fields["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in fields["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in fields


def test_the_settings(new_admin: NewAdmin) -> None:
    admin = new_admin("--auth", "ada:secret-word", "--timeout-idle", "77")
    answer = admin.ask("/config")
    assert answer.fields["Content-Type"].startswith("application/toml")
    assert "timeout-idle = 77" in answer.text
    assert "secret-word" not in answer.text
    assert TOKEN not in answer.text
    found = admin.ask("/config", Accept="application/json")
    assert found.json["timeout-idle"] == 77
    assert "auth" not in found.json
    assert admin.get("/config?format=json") == found.json
