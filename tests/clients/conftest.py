"""Proxies of every engine and loop, a certificate authority, nginx with TLS."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from certificates import Certificates
from curling import Got, curl_in
from harness import Nginx, ProxyProcess, free_port, wait_for
from py_origin import py_origin

from spliceproxy.relay.choice import NATIVE_MODULE

BIG = 5_000_001
"""Size of the origin's largest file: no multiple of anything."""


def need_engine(engine: str) -> None:
    """Skips where the extension is not built, unless it must be."""
    if engine == "native" and find_spec(NATIVE_MODULE) is None:
        if os.environ.get("SPLICEPROXY_REQUIRE_NATIVE") == "1":
            raise ImportError(NATIVE_MODULE)
        pytest.skip("the native engine is not built")


def wait_line(proxy: ProxyProcess, text: str) -> str:
    """The first line with this text, as soon as the access log has one: lines come late."""

    def found() -> list[str]:
        return [line for line in proxy.access() if text in line]

    wait_for(found, f"a line with {text!r}")
    return found()[0]


@pytest.fixture(params=["native", "splice", "copy"])
def engine(request: pytest.FixtureRequest) -> str:
    """The name of each engine that can run here."""
    need_engine(request.param)
    return str(request.param)


@pytest.fixture(
    scope="module",
    params=[("native", True), ("native", False), ("splice", True), ("copy", False)],
    ids=["native-uvloop", "native-asyncio", "splice-uvloop", "copy-asyncio"],
)
def any_proxy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ProxyProcess]:
    """A proxy for all tests of the module, of each engine and loop in turn."""
    engine, uvloop = request.param
    need_engine(engine)
    folder = tmp_path_factory.mktemp("proxy")
    proxy = ProxyProcess(folder, "--engine", engine, uvloop=uvloop)
    yield proxy
    proxy.kill()
    assert "Traceback" not in proxy.stderr(), proxy.stderr()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


class TlsNginx(Nginx):
    """nginx that serves the same files by TLS, with HTTP/2, at ``tls_port``."""

    def __init__(self, folder: Path, certificates: Certificates) -> None:
        self.tls_port = free_port()
        rules = (
            "location /away { return 302 /small; } location /empty { return 204; }"
            "location /text { gzip on; gzip_min_length 0; default_type text/plain; }"
        )
        extra = (
            f"server {{ listen 127.0.0.1:{self.tls_port} ssl http2; root {folder}/www; {rules}"
            f" ssl_certificate {certificates.cert}; ssl_certificate_key {certificates.key}; }}"
        )
        super().__init__(folder, extra, rules)

    @property
    def tls_url(self) -> str:
        return f"https://localhost:{self.tls_port}"


@pytest.fixture(scope="session")
def site(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[TlsNginx]:
    """nginx with the files ``small``, ``big`` and ``text``, by http and https."""
    server = TlsNginx(tmp_path_factory.mktemp("nginx"), certificates)
    (server.www / "small").write_bytes(b"a small file\n")
    (server.www / "big").write_bytes(random.Random(1).randbytes(BIG))
    (server.www / "text").write_text("to be compressed\n" * 100_000)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def origin() -> Iterator[int]:
    """The port of a Python origin (py_origin) on 127.0.0.1."""
    with py_origin() as port:
        yield port


@pytest.fixture
def curl(tmp_path: Path) -> Callable[..., Got]:
    """Runs curl: ``curl(proxy URL or None, argument..., stdin=bytes)``."""
    return curl_in(tmp_path)


class Urls:
    """``urls("nginx:/big")``: the URL of a path at one of the origins."""

    def __init__(self, site: TlsNginx, origin: int) -> None:
        self._bases = {
            "nginx": site.url,
            "tls": site.tls_url,
            "python": f"http://localhost:{origin}",
        }

    def __call__(self, name: str) -> str:
        origin, _, path = name.partition(":")
        return self._bases[origin] + path


@pytest.fixture(scope="session")
def urls(site: TlsNginx, origin: int) -> Urls:
    return Urls(site, origin)
