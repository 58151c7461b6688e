"""curl: other listeners, the default backend, files of the proxy, the access log."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import TlsNginx, Urls
from curling import Got, field
from harness import ProxyProcess, wait_for
from py_origin import BODY, py_origin


def test_unix_socket(
    curl: Callable[..., Got],
    new_proxy: Callable[..., ProxyProcess],
    site: TlsNginx,
    tmp_path: Path,
) -> None:
    path = tmp_path / "proxy.sock"
    proxy = new_proxy(listen=[f"unix:{path}"])
    target = f"{site.url}/big"
    got = curl(None, "--unix-socket", path, "--request-target", target, "http://proxy/")
    assert (got.exit, got.status) == (0, 200), got.log
    assert got.body == (site.www / "big").read_bytes()
    assert " - TCP_MISS/200 " in proxy.wait_access(1)[0]
    assert proxy.stop() == 0
    assert not path.exists()


def test_ipv6(
    curl: Callable[..., Got], new_proxy: Callable[..., ProxyProcess], each_loop: bool
) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    proxy = new_proxy(listen=["[::1]:0"], uvloop=each_loop)
    with py_origin("::1") as port:
        for args in ([], ["-p"]):
            got = curl(f"http://[::1]:{proxy.port}", *args, f"http://[::1]:{port}/length")
            assert (got.exit, got.status) == (0, 200), got.log
            assert got.body == BODY
    assert all(" ::1 " in line for line in proxy.wait_access(2))


def test_default_backend(
    curl: Callable[..., Got], new_proxy: Callable[..., ProxyProcess], site: TlsNginx, origin: int
) -> None:
    proxy = new_proxy("--default-backend", f"127.0.0.1:{site.port}")
    got = curl(None, f"{proxy.url}/big")
    assert (got.exit, got.status) == (0, 200), got.log
    assert got.body == (site.www / "big").read_bytes()
    got = curl(proxy.url, f"http://127.0.0.1:{origin}/seen")  # still a forward proxy
    assert json.loads(got.body)["line"] == "GET /seen HTTP/1.1"


def test_default_backend_sees_the_host_of_the_client(
    curl: Callable[..., Got], new_proxy: Callable[..., ProxyProcess], origin: int
) -> None:
    proxy = new_proxy("--default-backend", f"127.0.0.1:{origin}")
    got = curl(None, "-H", "Host: www.example.org", f"{proxy.url}/seen")
    assert json.loads(got.body)["fields"]["host"] == "www.example.org"


PAC = b"function FindProxyForURL(url, host) { return 'DIRECT'; }\n" * 5000


@pytest.fixture(scope="module", params=[True, False], ids=["uvloop", "asyncio"])
def files(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ProxyProcess]:
    """A proxy with --serve; beside the directory lies a secret."""
    outside = tmp_path_factory.mktemp("serve")
    folder = outside / "files"
    (folder / "sub").mkdir(parents=True)
    (folder / "proxy.pac").write_bytes(PAC)
    (outside / "secret").write_text("secret")
    os.symlink(outside / "secret", folder / "link")
    proxy = ProxyProcess(outside / "proxy", "--serve", str(folder), uvloop=request.param)
    yield proxy
    proxy.kill()
    assert "Traceback" not in proxy.stderr(), proxy.stderr()


def test_serve(curl: Callable[..., Got], files: ProxyProcess) -> None:
    url = f"{files.url}/proxy.pac"
    got = curl(None, url)
    assert (got.exit, got.status, got.body) == (0, 200, PAC)
    assert field(got, "Content-Type") == ["application/x-ns-proxy-autoconfig"]
    (etag,) = field(got, "ETag")
    got = curl(None, "-r", "100-199999", url)
    assert (got.status, got.body) == (206, PAC[100:200000])
    got = curl(None, "-r", "999999-", url)
    assert got.status == 416
    got = curl(None, "-H", f"If-None-Match: {etag}", url)
    assert (got.status, got.body) == (304, b"")
    got = curl(None, "-I", url, "-o", "/dev/null", url)
    assert (got.exit, got.status) == (0, 200)
    assert field(got, "Content-Length") == [str(len(PAC))] * 2
    assert got.log.count("Re-using existing connection") == 1, got.log


OUTSIDE = """
    /none /../secret /..%2fsecret /%2e%2e/secret /sub/%2e%2e/%2e%2e/secret
    /link /sub/ //secret /proxy.pac/ /..%5csecret
"""


@pytest.mark.parametrize("path", OUTSIDE.split())
def test_nothing_else_is_served(curl: Callable[..., Got], files: ProxyProcess, path: str) -> None:
    got = curl(None, "--path-as-is", f"{files.url}{path}")
    assert (got.exit, got.status) == (0, 404), got.log
    assert b"secret" not in got.body


def test_access_log(curl: Callable[..., Got], proxy: ProxyProcess, urls: Urls) -> None:
    curl(proxy.url, urls("nginx:/big"))
    curl(proxy.url, "-p", urls("nginx:/big"))
    wait_for(lambda: len(proxy.access()) == 2, "two lines")
    forwarded, tunnel = (line.split() for line in proxy.access())
    assert forwarded[3:7] == ["TCP_MISS/200", forwarded[4], "GET", urls("nginx:/big")]
    assert tunnel[3] == "TCP_TUNNEL/200"
    assert tunnel[5:7] == ["CONNECT", urls("nginx:").removeprefix("http://")]
    assert all(5_000_001 < int(line[4]) < 5_001_000 for line in (forwarded, tunnel))
