"""HTTP at the admin address: the table of paths, and the limits."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest
from admin_rig import TOKEN, Admin, NewAdmin
from harness import read_all, read_head

from spliceproxy.admin.http import BODY_MOST, CONNECTIONS, HEAD_MOST


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
def test_a_request(admin: Admin, text: str, wanted: int) -> None:
    answer = say(admin, text)
    assert status(answer) == wanted, answer


def test_a_connection_is_kept(admin: Admin) -> None:
    connection = admin.connection()
    for path, wanted in (("/config", 200), ("/nothing", 404), ("/readyz", 200)):
        connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        answer.read()
        assert (answer.status, answer.will_close) == (wanted, False)
    connection.close()


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


def hold(
    admin: Admin, stack: contextlib.ExitStack, request: str, wanted: int
) -> list[socket.socket]:
    """As many connections as there may be, which have got this answer."""
    held = []
    for _ in range(CONNECTIONS):
        s = stack.enter_context(admin.socket())
        held.append(s)
        s.sendall(request.encode())
        assert status(read_head(s)) == wanted
    return held


def test_whoever_says_nothing_keeps_nobody_out(admin: Admin) -> None:
    """The one that has waited longest makes room."""
    with contextlib.ExitStack() as stack:
        first, *others = hold(admin, stack, "GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n", 200)
        assert admin.ask("/readyz", token=None).status == 200
        with contextlib.suppress(ConnectionResetError):
            while first.recv(65536):
                pass
        others[-1].sendall(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b" 200 " in read_head(others[-1])


def test_more_connections_than_there_may_be(admin: Admin) -> None:
    with contextlib.ExitStack() as stack:
        body = "Content-Length: 2\r\nExpect: 100-continue\r\n"
        hold(admin, stack, f"POST /log-level HTTP/1.1\r\n{HEAD}{body}\r\n", 100)
        with admin.socket() as s:
            assert b"HTTP/1.1 503 " in read_all(s)
    end = time.monotonic() + 20
    while admin.ask("/readyz", token=None).status != 200:
        assert time.monotonic() < end


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
