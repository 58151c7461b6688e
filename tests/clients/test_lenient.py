"""What origins send though it is not as it should be: curl gets 200 and the whole body, from
every engine. And the clients whose requests are no better, through a real proxy."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from certificates import Certificates
from conftest import TlsNginx, need_engine, wait_line
from curling import Got
from harness import ProxyProcess, need, read_head, serving, wait_for

BODY = b"".join(b"%06d\n" % n for n in range(40_000))
"""More than a buffer: the relay has a part where the length is known."""

HEAD = b"HTTP/1.1 200 OK\r\nServer: x\r\n"
LENGTH = b"Content-Length: %d\r\n\r\n" % len(BODY)
CODED = b"Transfer-Encoding: chunked\r\n"


def chunks(size: int, padding: bytes = b"", trailers: bytes = b"") -> bytes:
    parts = [BODY[at : at + size] for at in range(0, len(BODY), size)]
    lines = [b"%x%b\r\n%b\r\n" % (len(part), padding, part) for part in parts]
    return b"".join(lines) + b"0" + padding + b"\r\n" + trailers + b"\r\n"


def lf(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n")


ANSWERS = {
    "chunk sizes padded": HEAD + CODED + b"\r\n" + chunks(1000, b"  "),
    "chunk sizes padded to eight": HEAD + CODED + b"\r\n" + chunks(100_000, b"   "),
    "Content-Length among the trailers": HEAD
    + CODED
    + b"\r\n"
    + chunks(5000, trailers=b"Content-Length: %d\r\nX-Sum: 1\r\n" % len(BODY)),
    "lines end in LF": lf(HEAD + LENGTH) + BODY,
    "lines end in LF, until close": lf(HEAD) + b"\n" + BODY,
    "lines end in LF, chunked": lf(HEAD + CODED) + b"\n" + chunks(5000),
    "both framing fields": HEAD + CODED + b"Content-Length: 5\r\n\r\n" + chunks(5000),
    "both framing fields, length first": HEAD
    + b"Content-Length: 5\r\n"
    + CODED
    + b"\r\n"
    + chunks(9),
    "folded field": HEAD + b"X: a\r\n b\r\n" + LENGTH + BODY,
    "0x01 in a value": HEAD + b"X: a\x01b\r\n" + LENGTH + BODY,
    "0x7f in a value": HEAD + b"X: a\x7fb\r\n" + LENGTH + BODY,
    "Transfer-Encoding: identity": HEAD + b"Transfer-Encoding: identity\r\n" + LENGTH + BODY,
    "Transfer-Encoding: identity, until close": HEAD
    + b"Transfer-Encoding: identity\r\n\r\n"
    + BODY,
    "blank before the colon": HEAD + b"X : a\r\n" + LENGTH + BODY,
    "HTTP/1.0 with chunked": HEAD.replace(b"1.1", b"1.0") + CODED + b"\r\n" + chunks(5000),
    "HTTP/1.2": HEAD.replace(b"1.1", b"1.2") + LENGTH + BODY,
    "HTTP/1.9 chunked": HEAD.replace(b"1.1", b"1.9") + CODED + b"\r\n" + chunks(5000),
    "empty line before the status-line": b"\r\n" + HEAD + LENGTH + BODY,
    "equal lengths in a list": HEAD + LENGTH.replace(b"\r\n", b", %d\r\n" % len(BODY), 1) + BODY,
    "100 with a coding": b"HTTP/1.1 100 C\r\n" + CODED + b"\r\n" + HEAD + LENGTH + BODY,
    "103 with a length": b"HTTP/1.1 103 E\r\nContent-Length: 9\r\n\r\n" + HEAD + LENGTH + BODY,
}
UNTIL_CLOSE = {name for name in ANSWERS if "until close" in name}
FINE = {"HTTP/1.2", "HTTP/1.9 chunked"}
"""Read as HTTP/1.1, which is no lenience."""


@contextlib.contextmanager
def answering(
    answer: bytes, *, close: bool = False
) -> Iterator[tuple[str, list[bytes], list[int]]]:
    """The URL of an origin that gives every request this answer, the requests' heads, and how
    many came on each connection."""
    heads: list[bytes] = []
    counts: list[int] = []

    def handle(s: socket.socket) -> None:
        counts.append(0)
        mine = len(counts) - 1
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while head := read_head(s):
                heads.append(head)
                counts[mine] += 1
                s.sendall(answer)
                if close:
                    return

    with serving(handle) as (host, port):
        yield f"http://{host}:{port}", heads, counts


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_delivered(
    name: str, curl: Callable[..., Got], any_proxy: ProxyProcess
) -> None:
    with answering(ANSWERS[name], close=name in UNTIL_CLOSE) as (url, _, counts):
        for _ in range(2):
            got = curl(any_proxy.url, f"{url}/")
            assert (got.exit, got.status) == (0, 200), got.log
            assert got.body == BODY
            head = got.head.replace("\r\n", "\n").partition("\nServer: x\n")
            assert head[0].endswith("HTTP/1.1 200 OK")
            assert re.match(r"(?:[!-9;-~]+: [ -~]*\n)+\n", head[2]), got.head
            assert "\nContent-Length: 5\n" not in head[2]
        assert counts == ([2] if name in FINE else [1, 1]), "a connection was used again"


BODILESS = {
    "204 with a coding": b"HTTP/1.1 204 X\r\nTransfer-Encoding: gzip\r\n\r\n",
    "204 with a length": b"HTTP/1.1 204 X\r\nContent-Length: 5\r\n\r\n",
    "304 with a coding": b"HTTP/1.1 304 X\r\nTransfer-Encoding: gzip\r\n\r\n",
    "HTTP/1.0 304 with chunked": b"HTTP/1.0 304 X\r\n" + CODED + b"\r\n",
    "HTTP/1.0 answer to HEAD with chunked": b"HTTP/1.0 200 X\r\n" + CODED + b"\r\n",
}


@pytest.mark.parametrize("name", BODILESS)
def test_an_answer_without_a_body(
    name: str, curl: Callable[..., Got], any_proxy: ProxyProcess
) -> None:
    """RFC 9112 section 6.3 rule 1."""
    with answering(BODILESS[name]) as (url, _, counts):
        for _ in range(2):
            got = curl(any_proxy.url, *(["-I"] if "HEAD" in name else []), f"{url}/")
            assert (got.exit, got.status) == (0, int(BODILESS[name][9:12])), got.log
            assert "Transfer-Encoding" not in got.head
            assert "Content-Length" not in got.head
        assert counts == [1, 1]


def test_events_come_one_by_one(any_proxy: ProxyProcess) -> None:
    """A stream in padded chunks, each event when it is sent; trailers at the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener, any_proxy.connect() as client:
        port = listener.getsockname()[1]
        client.sendall(b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: x\r\n\r\n" % port)
        origin, _ = listener.accept()
        with origin:
            read_head(origin)
            origin.sendall(lf(HEAD) + b"Content-Type : text/event-stream\n" + CODED + b"\r\n")
            assert b"\r\nContent-Type: text/event-stream\r\n" in read_head(client)
            for n in range(50):
                event = b"data: %d\n\n" % n
                origin.sendall(b"%x \t\r\n%b\r\n" % (len(event), event))
                want = b"%x\r\n%b\r\n" % (len(event), event)
                assert client.recv(len(want), socket.MSG_WAITALL) == want
            origin.sendall(b"0  \r\nHost: x\r\nX : 1\r\n\r\n")
            want = b"0\r\nX: 1\r\n\r\n"
            assert client.recv(len(want), socket.MSG_WAITALL) == want
            assert origin.recv(1) == b"", "the origin's connection was kept"


# ---- what is refused says why ----------------------------------------------------------

REFUSED = {
    "NUL": (HEAD + b"X: \0\r\n" + LENGTH + BODY, "control character '\\x00'"),
    "bare CR": (HEAD + b"X: a\rb\r\n" + LENGTH + BODY, "a CR without LF"),
    "two lengths": (
        HEAD + b"Content-Length: 5\r\n" + LENGTH + BODY,
        "more than one Content-Length, and they differ",
    ),
    "cut": (HEAD + CODED + b"\r\n5\r\nhello\r\nzz\r\n", "a bad chunk size: 'zz'"),
    "short": (
        HEAD + LENGTH + b"hello",
        "the origin closed the connection before the end of the body",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_why(
    name: str, curl: Callable[..., Got], tmp_path: Path, engine: str
) -> None:
    """On standard error, once a minute for each kind and origin."""
    answer, why = REFUSED[name]
    begun = name in ("cut", "short")
    proxy = ProxyProcess(tmp_path / "proxy", "--engine", engine)
    try:
        with answering(answer, close=True) as (url, _, _):
            for n in range(3):
                # The lane passes on by itself what it takes for good, so this is not for it.
                got = curl(proxy.url, "-H", f"TE: x{n}", "-H", "Connection: TE", f"{url}/")
                assert got.status == (200 if begun else 502)
            said = f"an answer of {url[7:]} (127.0.0.1) was {'cut short' if begun else 'refused'}: "
            wait_for(lambda: said in proxy.stderr(), "the message")
            with answering(answer, close=True) as (other, _, _):
                curl(proxy.url, "-H", "TE: x", "-H", "Connection: TE", f"{other}/")
            again = f"an answer of {other[7:]} "
            wait_for(lambda: again in proxy.stderr(), "the message of another origin")
        lines = [line for line in proxy.stderr().splitlines() if "an answer of" in line]
        assert len(lines) == 2, lines
        assert all(" INFO " in line for line in lines)
        assert lines[0].endswith(said + why)
    finally:
        proxy.kill()


# ---- requests --------------------------------------------------------------------------


def test_a_path_in_utf_8(curl: Callable[..., Got], any_proxy: ProxyProcess) -> None:
    with answering(HEAD + LENGTH + BODY) as (url, heads, _):
        for _ in range(2):
            got = curl(any_proxy.url, os.fsencode(f"{url}/").decode() + "\xe4?\u20ac")
            assert (got.exit, got.status, got.body) == (0, 200, BODY), got.log
        line = "GET /\xe4?\u20ac HTTP/1.1\r\n".encode()
        assert [head.startswith(line) for head in heads] == [True, True]
        assert wait_line(any_proxy, f"GET {url}/%C3%A4?%E2%82%AC ")


def test_any_byte_in_a_path(any_proxy: ProxyProcess) -> None:
    path = b"/" + bytes(range(0x80, 0x100))
    with answering(HEAD + b"Content-Length: 0\r\n\r\n") as (url, heads, _):
        with any_proxy.connect() as s:
            s.sendall(b"GET %b%b HTTP/1.1\r\nHost: x\r\n\r\n" % (url.encode(), path))
            assert read_head(s).startswith(b"HTTP/1.1 200 ")
        assert heads[0].startswith(b"GET " + path + b" HTTP/1.1\r\n")


HOOK = """
from spliceproxy import Allow, Deny

def authorize(request):
    assert request.path.isascii()
    return Deny("no umlauts") if request.path.startswith("/%C3%A4") else Allow()
"""


def test_a_policy_sees_one_spelling_of_a_path(
    curl: Callable[..., Got], tmp_path: Path, engine: str
) -> None:
    (tmp_path / "hook.py").write_text(HOOK)
    proxy = ProxyProcess(
        tmp_path / "proxy", "--engine", engine, "--policy", str(tmp_path / "hook.py")
    )
    try:
        with answering(HEAD + LENGTH + BODY) as (url, _, _):
            for path, status in {"\xe4": 403, "%C3%A4": 403, "\xf6": 200, "": 200}.items():
                assert curl(proxy.url, f"{url}/{path}").status == status
    finally:
        proxy.kill()


def test_lftp(any_proxy: ProxyProcess, site: TlsNginx, tmp_path: Path) -> None:
    """CONNECT of HTTP/1.1 without Host."""
    program = need("lftp")
    commands = (
        f"set http:proxy {any_proxy.url}; set https:proxy {any_proxy.url};"
        " set ssl:verify-certificate no; set net:max-retries 1; set net:timeout 20;"
        f" cat {site.tls_url}/small; cat {site.url}/small"
    )
    env = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run([program, "-c", commands], capture_output=True, timeout=60, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"a small file\n" * 2
    assert "/200 " in wait_line(any_proxy, f"CONNECT localhost:{site.tls_port} ")


def test_links(any_proxy: ProxyProcess, site: TlsNginx, tmp_path: Path) -> None:
    """The same."""
    program = need("links")
    address = f"127.0.0.1:{any_proxy.port}"
    argv = [program, "-https-proxy", address, "-http-proxy", address, "-ssl.certificates", "0"]
    env = {**os.environ, "HOME": str(tmp_path)}
    for url in (site.tls_url, site.url):
        done = subprocess.run(
            [*argv, "-source", f"{url}/small"], capture_output=True, timeout=60, env=env
        )
        assert (done.returncode, done.stdout) == (0, b"a small file\n"), done.stderr
    assert "/200 " in wait_line(any_proxy, f"CONNECT localhost:{site.tls_port} ")


def test_connect_without_host_repeats(
    tmp_path: Path, site: TlsNginx, certificates: Certificates
) -> None:
    """Such tunnels and those of others, one after the other: the relay has a route by then."""
    need_engine("native")
    proxy = ProxyProcess(tmp_path / "proxy", "--engine", "native")
    context = certificates.client_context()
    try:
        for host in (b"", b"Host: localhost:%d\r\n" % site.tls_port, b"") * 3:
            s = proxy.connect()
            s.sendall(b"CONNECT localhost:%d HTTP/1.1\r\n%b\r\n" % (site.tls_port, host))
            assert read_head(s).startswith(b"HTTP/1.1 200 ")
            with context.wrap_socket(s, server_hostname="localhost") as tls:
                tls.sendall(b"GET /small HTTP/1.0\r\n\r\n")
                answer = b""
                while got := tls.recv(1000):
                    answer += got
            assert answer.endswith(b"a small file\n")
    finally:
        proxy.kill()
