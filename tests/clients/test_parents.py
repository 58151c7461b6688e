"""Requests and tunnels by way of real proxies, alone and one behind the other."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import Certificates
from conftest import BIG, TlsNginx, Urls, wait_line
from curling import Got
from harness import ProxyProcess, read_all, read_exactly, read_head, refused_port, serving
from parents_rig import KINDS, THEIR_SECRET, Ways, settings_of, way
from py_origin import BODY

UPLOAD = random.Random(3).randbytes(3_000_001)


@pytest.fixture(scope="module", params=list(KINDS))
def ways(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    certificates: Certificates,
) -> Iterator[Ways]:
    """A proxy for all tests of the module, by each kind of way in turn. No parent of it is ever
    sent what its clients have said to the proxy alone."""
    with way(request.param, tmp_path_factory.mktemp("ways"), certificates) as found:
        yield found
        for tap in found.taps:
            assert THEIR_SECRET not in tap.seen


DOWNLOADS = {
    "large": ([], "nginx:/big"),
    "chunked": ([], "python:/chunked"),
    "until-close": ([], "python:/until-close"),
    "tunnel": (["-p"], "nginx:/big"),
    "https": (["--http1.1"], "tls:/big"),
}


@pytest.mark.parametrize("row", DOWNLOADS)
def test_download(
    row: str,
    ways: Ways,
    curl: Callable[..., Got],
    urls: Urls,
    site: TlsNginx,
    certificates: Certificates,
) -> None:
    args, name = DOWNLOADS[row]
    got = curl(ways.url, "--cacert", certificates.ca, *args, urls(name))
    assert got.exit == 0, got.log
    assert got.status == 200
    path = name.partition(":")[2]
    wanted = BODY if "python" in name else (site.www / path[1:]).read_bytes()
    assert hashlib.sha256(got.body).digest() == hashlib.sha256(wanted).digest()


def test_upload(ways: Ways, curl: Callable[..., Got], urls: Urls, tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(UPLOAD)
    for more in ([], ["-p"]):
        got = curl(ways.url, *more, "--data-binary", f"@{path}", urls("python:/seen"))
        assert got.exit == 0, got.log
        assert hashlib.sha256(UPLOAD).hexdigest() in got.body.decode()


def test_a_client_of_socks(ways: Ways, curl: Callable[..., Got], urls: Urls) -> None:
    got = curl(ways.url.replace("http:", "socks5h:"), f"{urls('nginx:/small')}?by-socks")
    assert (got.exit, got.status) == (0, 200), got.log


def line_of(ways: Ways, mark: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(wait_line(ways.proxy, mark))
    return found


def test_what_the_log_says(ways: Ways, curl: Callable[..., Got], urls: Urls) -> None:
    got = curl(ways.url, f"{urls('nginx:/small')}?once")
    assert got.exit == 0, got.log
    line = line_of(ways, "?once")
    said = [line[key] for key in ("route", "connect_by", "peer", "user", "status")]
    assert said == ["a", "address", "127.0.0.1", "ada", 200]


def test_a_tunnel_is_spliced(ways: Ways, site: TlsNginx) -> None:
    """Where there is TLS on the way the bytes are decrypted by Python, which the relay knows
    nothing of: it splices them, too."""
    with ways.proxy.connect() as client:
        credentials = b"Proxy-Authorization: Basic " + THEIR_SECRET
        head = b"CONNECT localhost:%d HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n"
        client.sendall(head % (site.port, credentials))
        assert read_head(client).startswith(b"HTTP/1.1 200 ")
        client.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert len(read_all(client)) > BIG
    line = line_of(ways, f"localhost:{site.port}")
    assert line["out_spliced"] > BIG / 2


def test_a_destination_that_refuses(ways: Ways, curl: Callable[..., Got]) -> None:
    with refused_port() as port:
        got = curl(ways.url, "-p", f"http://127.0.0.1:{port}/")
        assert got.exit == 56, got.log  # no tunnel
        assert 'next-hop="a"' in got.head
        status = int(got.head.split()[1])
        assert status in (502, 503, 504, 500), got.head
        line = line_of(ways, f'"127.0.0.1:{port}"')
        assert (line["status"], line["route"]) == (status, "a")


def test_what_the_client_sends_at_once_comes_first_and_in_order(ways: Ways) -> None:
    def origin(connection: socket.socket) -> None:
        assert read_exactly(connection, 9) == b"early and"
        connection.sendall(b"answer")
        while connection.recv(4096):
            pass

    with serving(origin) as (host, port), ways.proxy.connect() as client:
        credentials = b"Proxy-Authorization: Basic " + THEIR_SECRET
        client.sendall(
            b"CONNECT %b:%d HTTP/1.1\r\nHost: x\r\n%b\r\n\r\nearly"
            % (host.encode(), port, credentials)
        )
        assert read_head(client).startswith(b"HTTP/1.1 200 ")
        client.sendall(b" and")
        assert read_exactly(client, 6) == b"answer"


def test_one_side_may_end_before_the_other(ways: Ways) -> None:
    """Half-close passes through a parent that lets it pass, and through TLS."""
    if ways.kind not in ("spliceproxy", "https"):
        return

    def origin(connection: socket.socket) -> None:
        got = bytearray()
        while data := connection.recv(4096):
            got += data
        connection.sendall(b"all of %d" % len(got))

    with serving(origin) as (host, port), ways.proxy.connect() as client:
        credentials = b"Proxy-Authorization: Basic " + THEIR_SECRET
        head = b"CONNECT %b:%d HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n"
        client.sendall(head % (host.encode(), port, credentials))
        assert read_head(client).startswith(b"HTTP/1.1 200 ")
        client.sendall(b"x" * 1000)
        client.shutdown(socket.SHUT_WR)
        assert read_exactly(client, 11) == b"all of 1000"
        assert client.recv(1) == b""


def test_an_origin_sees_no_credentials(ways: Ways, curl: Callable[..., Got]) -> None:
    seen: list[bytes] = []

    def origin(connection: socket.socket) -> None:
        seen.append(read_head(connection))
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with serving(origin) as (host, port):
        for more in ([], ["-p"]):
            got = curl(ways.url, *more, f"http://{host}:{port}/path?query")
            assert got.exit == 0, got.log
    assert len(seen) == 2
    for head in seen:
        assert head.startswith(b"GET /path?query HTTP/1.")
        assert b"proxy-authorization" not in head.lower()


# ---- a parent with TLS -------------------------------------------------------------------------


@pytest.fixture
def secure(
    tmp_path: Path, certificates: Certificates
) -> Iterator[Callable[[Callable[[ssl.SSLSocket], None], bool], ProxyProcess]]:
    """Starts a proxy whose parent does this with each connection; whether the proxy knows the
    authority behind its certificate."""
    with contextlib.ExitStack() as stack:

        def start(handle: Callable[[ssl.SSLSocket], None], trusted: bool) -> ProxyProcess:
            def wrapped(connection: socket.socket) -> None:
                with contextlib.suppress(ssl.SSLError, ConnectionError):
                    context = certificates.server_context()
                    with context.wrap_socket(connection.dup(), server_side=True) as inner:
                        handle(inner)

            _, port = stack.enter_context(serving(wrapped))
            config = tmp_path / "settings.toml"
            ca = certificates.ca if trusted else None
            table = settings_of("a", f"https://localhost:{port}", tmp_path, ca)
            config.write_text(f'[[route]]\nto = "a"\n{table}')
            proxy = ProxyProcess(tmp_path / "proxy", "--config", str(config))
            stack.callback(proxy.kill)
            return proxy

        yield start


def test_a_certificate_that_nobody_vouches_for(secure: Any) -> None:
    def never(connection: ssl.SSLSocket) -> None:
        raise AssertionError("it was spoken to")

    with secure(never, False).connect() as client:
        client.sendall(b"CONNECT 192.0.2.1:443 HTTP/1.1\r\nHost: x\r\n\r\n")
        head = read_head(client)
        assert head.startswith(b"HTTP/1.1 502 ")
        assert b'next-hop="a"' in head
        assert b"TLS: unable to get local issuer certificate" in head


@pytest.mark.parametrize("whole", [True, False])
def test_how_a_connection_by_tls_ends(secure: Any, whole: bool) -> None:
    """One that is cut short looks cut short, behind all that has come."""

    def sends(connection: ssl.SSLSocket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + BODY)
        if whole:
            connection.unwrap()
        connection.shutdown(socket.SHUT_RDWR)

    with secure(sends, True).tunnel("192.0.2.1", 443) as client:
        got, ended = bytearray(), "fin"
        try:
            while data := client.recv(1 << 16):
                got += data
        except ConnectionResetError:
            ended = "reset"
        assert bytes(got) == BODY
        assert ended == ("fin" if whole else "reset")
