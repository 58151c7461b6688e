"""Clients written in Python: urllib, http.client, pip (requests and urllib3), websockets."""

from __future__ import annotations

import http.client
import os
import random
import subprocess
import sys
import threading
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from certificates import Certificates
from conftest import TlsNginx, wait_line
from harness import Nginx, ProxyProcess
from py_origin import BODY


@pytest.fixture
def proxy_env(any_proxy: ProxyProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables by which most clients find their proxy."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("http_proxy", any_proxy.url)
    monkeypatch.setenv("https_proxy", any_proxy.url)


@pytest.mark.usefixtures("proxy_env")
def test_urllib(
    any_proxy: ProxyProcess, site: TlsNginx, origin: int, certificates: Certificates
) -> None:
    big = (site.www / "big").read_bytes()
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=certificates.client_context())
    )
    for url, body in (
        (f"{site.url}/big", big),
        (f"{site.tls_url}/big", big),
        (f"{site.url}/away", b"a small file\n"),
        (f"http://127.0.0.1:{origin}/chunked", BODY),
        (f"http://127.0.0.1:{origin}/until-close", BODY),
    ):
        with opener.open(url, timeout=20) as response:
            assert response.read() == body
    for text in (f"{site.url}/away", "/302 ", f"CONNECT localhost:{site.tls_port}", "/until-close"):
        wait_line(any_proxy, text)


def test_http_client(any_proxy: ProxyProcess, site: TlsNginx, origin: int) -> None:
    """One connection, in absolute form, for two origins."""
    client = http.client.HTTPConnection("127.0.0.1", any_proxy.port, timeout=20)
    client.connect()
    first = client.sock
    for _ in range(3):
        for url, body in (
            (f"{site.url}/small", b"a small file\n"),
            (f"http://127.0.0.1:{origin}/chunked", BODY),
        ):
            client.request("GET", url)
            response = client.getresponse()
            assert response.status == 200
            assert response.read() == body
    client.request("POST", f"http://127.0.0.1:{origin}/seen", iter([b"a", b"bc" * 50_000]))
    assert b'"size": 100001,' in client.getresponse().read()
    assert client.sock is first  # http.client connects anew when it is closed
    client.close()


def test_http_client_tunnel(
    any_proxy: ProxyProcess, site: TlsNginx, certificates: Certificates
) -> None:
    client = http.client.HTTPSConnection(
        "127.0.0.1", any_proxy.port, timeout=20, context=certificates.client_context()
    )
    client.set_tunnel("localhost", site.tls_port)
    for path in ("/small", "/big"):
        client.request("GET", path)
        assert client.getresponse().read() == (site.www / path[1:]).read_bytes()
    client.close()


@pytest.fixture
def index(site: TlsNginx) -> Nginx:
    """``site`` as a package index (PEP 503) with one wheel."""
    name = "splicetest-1.0-py3-none-any.whl"
    folder = site.www / "simple/splicetest"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / name, "w") as wheel:
        wheel.writestr("noise", random.Random(5).randbytes(2_000_000))
        info = "splicetest-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: splicetest\nVersion: 1.0")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any")
        wheel.writestr(f"{info}/RECORD", "")
    (folder / "index.html").write_text(f'<!DOCTYPE html><a href="{name}">{name}</a>')
    return site


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_pip(
    any_proxy: ProxyProcess,
    index: TlsNginx,
    certificates: Certificates,
    tmp_path: Path,
    tls: bool,
) -> None:
    if find_spec("pip") is None:
        pytest.skip("no pip here")
    origin = f"127.0.0.1:{index.tls_port if tls else index.port}"
    command = [sys.executable, "-m", "pip", "--isolated", "--no-cache-dir", "download", "--no-deps"]
    command += ["--proxy", any_proxy.url, "--cert", str(certificates.ca), "--dest", str(tmp_path)]
    command += ["--disable-pip-version-check"]
    command += ["--index-url", f"http{'s' * tls}://{origin}/simple"]
    command += ["splicetest"]
    # requests prefers these to --cert.
    env = {k: v for k, v in os.environ.items() if not k.endswith("_CA_BUNDLE")}
    done = subprocess.run(command, env=env, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.read_bytes() == next(index.www.glob("simple/splicetest/*.whl")).read_bytes()
    wait_line(any_proxy, f" CONNECT {origin} " if tls else f" GET http://{origin}/simple/")


@contextmanager
def websocket_echo() -> Iterator[int]:
    """The port of a WebSocket server that echoes."""
    from websockets.sync.server import ServerConnection, serve

    def echo(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with serve(echo, "127.0.0.1", 0, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.socket.getsockname()[1]
        finally:
            server.shutdown()
            thread.join()


def _talk(url: str, proxy: str | None) -> None:
    """Small and large messages, a ping, a clean close."""
    from websockets.sync.client import connect

    noise = random.Random(6).randbytes(4_000_000)
    with connect(url, proxy=proxy, max_size=None, close_timeout=20) as client:
        for message in ("hello", b"", noise, "again"):
            client.send(message)
            assert client.recv(timeout=20) == message
        assert client.ping().wait(20)
    assert client.close_code == 1000


def test_websocket_by_connect(any_proxy: ProxyProcess) -> None:
    with websocket_echo() as port:
        _talk(f"ws://127.0.0.1:{port}/", any_proxy.url)
        wait_line(any_proxy, f" CONNECT 127.0.0.1:{port} ")


def test_websocket_by_upgrade(
    new_proxy: Callable[..., ProxyProcess], engine: str, each_loop: bool
) -> None:
    """The request is forwarded, and its 101 turns the connection into a tunnel."""
    with websocket_echo() as port:
        backend = f"127.0.0.1:{port}"
        proxy = new_proxy("--engine", engine, "--default-backend", backend, uvloop=each_loop)
        _talk(f"ws://127.0.0.1:{proxy.port}/", None)
        (line,) = proxy.wait_access(1)
        assert " TCP_TUNNEL/101 " in line
        assert int(line.split()[4]) > 4_000_000
