"""Real balancers in front of the proxy, in each way in which they send the PROXY protocol."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from balanced_rig import Balanced, NewBalanced, get, status
from balancers import Balancer, haproxy, nginx, stunnel
from clients.certificates import Certificates
from harness import free_port, need, read_head, wait_for

Address = tuple[str, int]

CLIENT = "127.0.0.5"
"""Where clients connect from. The balancer itself connects from 127.0.0.1."""

MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

HAPROXY = """\
global
    maxconn 1000
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend clients
    bind 127.0.0.1:{port}
    bind 127.0.0.1:{tls_port} ssl crt {pem}
    {frontend}
    default_backend proxies
backend proxies
    server a 127.0.0.1:{proxy} {options}
"""

NGINX = """\
load_module {module};
events {{ worker_connections 1000; }}
stream {{
    server {{ listen 127.0.0.1:{port}; proxy_pass 127.0.0.1:{proxy}; proxy_protocol on; {more} }}
}}
"""

STUNNEL = """\
foreground = yes
pid =
[proxy]
accept = 127.0.0.1:{port}
connect = 127.0.0.1:{proxy}
cert = {pem}
protocol = proxy
"""


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    made = Certificates(tmp_path_factory.mktemp("certificates"))
    pem = made.cert.parent / "both.pem"
    pem.write_text(made.cert.read_text() + made.key.read_text())
    return made


def connect(port: int, context: ssl.SSLContext | None = None) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), 20, (CLIENT, 0))
    return sock if context is None else context.wrap_socket(sock, server_hostname="localhost")


def converse(proxy: Balanced, client: socket.socket, web: Address) -> None:
    """Requests and a tunnel of one client, whose address the proxy knows."""
    before = len(proxy.proxy.access())
    for fields in ((), (), ("Connection: TE", "TE: trailers")):
        client.sendall(get(web, *fields))
        assert status(client) == 200
    client.sendall(f"CONNECT {web[0]}:{web[1]} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert read_head(client).startswith(b"HTTP/1.1 200")
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
    for _ in range(3):
        assert status(client) == 200
    client.close()
    lines = proxy.lines(before + 4)[before:]
    assert {(line["client"], line["via"]) for line in lines} == {(CLIENT, "127.0.0.1")}


@pytest.fixture
def proxy(new_balanced: NewBalanced) -> Balanced:
    guard = {"SPLICEPROXY_GUARD_ALLOW": "127.0.0.0/8"}
    return new_balanced("--allow-clients", "0.0.0.0/0", env=guard)


@contextlib.contextmanager
def running(balancer: Balancer) -> Iterator[None]:
    try:
        yield
    finally:
        balancer.stop()


OPTIONS = {
    "send-proxy": ("v1", ""),
    "send-proxy-v2": ("v2", ""),
    "send-proxy-v2-ssl": ("v2", ""),
    "send-proxy-v2-ssl-cn": ("v2", ""),
    "send-proxy-v2 proxy-v2-options crc32c": ("v2", ""),
    "send-proxy-v2 proxy-v2-options crc32c,unique-id,ssl,cert-cn,ssl-cipher,cert-sig,cert-key": (
        "v2",
        "unique-id-format %[uuid]",
    ),
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
def test_haproxy(
    proxy: Balanced,
    web: Address,
    certificates: Certificates,
    tmp_path: Path,
    options: str,
    tls: bool,
) -> None:
    kind, frontend = OPTIONS[options]
    port, tls_port = free_port(), free_port()
    config = HAPROXY.format(
        port=port,
        tls_port=tls_port,
        pem=certificates.cert.parent / "both.pem",
        proxy=proxy.proxy.port,
        options=options,
        frontend=frontend,
    )
    with running(haproxy(tmp_path / "haproxy", config, lambda: listens(port))):
        context = certificates.client_context() if tls else None
        converse(proxy, connect(tls_port if tls else port, context), web)
        assert proxy.counted(kind) >= 1
    assert "was closed" not in proxy.proxy.stderr()


@pytest.mark.parametrize(
    ("options", "result"),
    [
        ("send-proxy", "v1"),
        ("send-proxy-v2", "local"),
        ("send-proxy-v2 proxy-v2-options crc32c", "local"),
    ],
)
def test_the_checks_of_haproxy(proxy: Balanced, tmp_path: Path, options: str, result: str) -> None:
    """It connects, sends a header, and breaks the connection. That is no fault."""
    port = free_port()
    config = (
        f"defaults\n mode tcp\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n"
        f"listen l\n bind 127.0.0.1:{port}\n"
        f" server a 127.0.0.1:{proxy.proxy.port} check inter 50ms {options}\n"
    )
    with running(haproxy(tmp_path / "haproxy", config, lambda: listens(port))):
        wait_for(lambda: proxy.counted(result) + proxy.counted("closed") > 3, "some checks")
        assert proxy.counted(result) > 0
    assert "was closed" not in proxy.proxy.stderr()
    assert not proxy.proxy.access()


def test_nginx(proxy: Balanced, web: Address, tmp_path: Path) -> None:
    need("nginx")
    if not MODULE.exists():
        pytest.skip("nginx has no stream module")
    port = free_port()
    config = NGINX.format(module=MODULE, port=port, proxy=proxy.proxy.port, more="")
    with running(nginx(tmp_path / "nginx", config, lambda: listens(port))):
        converse(proxy, connect(port), web)
        converse(proxy, connect(port), web)
    assert proxy.counted("v1") >= 2
    assert "missing" not in proxy.proxy.stderr()


def test_stunnel(proxy: Balanced, web: Address, certificates: Certificates, tmp_path: Path) -> None:
    port = free_port()
    pem = certificates.cert.parent / "both.pem"
    config = STUNNEL.format(port=port, proxy=proxy.proxy.port, pem=pem)
    with running(stunnel(tmp_path / "stunnel", config, lambda: listens(port))):
        converse(proxy, connect(port, certificates.client_context()), web)
    assert proxy.counted("v1") >= 1


def test_a_plain_address_behind_a_balancer_that_sends_headers(
    new_balanced: NewBalanced, web: Address, tmp_path: Path
) -> None:
    """The mistake that is made first: 400, and nothing is guessed."""
    listen = ["127.0.0.1:0", "proxy+tcp://127.0.0.1:0"]
    proxy = new_balanced("--proxy-protocol-from", "127.0.0.1", listen=listen)
    for options in ("send-proxy", "send-proxy-v2"):
        port = free_port()
        config = HAPROXY.replace("    bind 127.0.0.1:{tls_port} ssl crt {pem}\n", "").format(
            port=port, proxy=proxy.proxy.port, options=options, frontend=""
        )
        started = haproxy(tmp_path / options, config, lambda port=port: listens(port))
        with running(started), connect(port) as client:
            client.sendall(get(web))
            assert status(client) == 400
