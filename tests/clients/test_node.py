"""Node.js through the proxy: its http module, npm."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from certificates import Certificates
from conftest import BIG, TlsNginx, wait_line
from harness import ProxyProcess, need, refused_port
from py_origin import BODY

SCRIPT = Path(__file__).with_name("http_client.js")


@pytest.fixture
def node(any_proxy: ProxyProcess, certificates: Certificates) -> Callable[..., Any]:
    """Runs a task of http_client.js; its result."""
    program = need("node")

    def run(*args: object) -> Any:
        command = [program, SCRIPT, any_proxy.port, certificates.ca, *args]
        done = subprocess.run([str(arg) for arg in command], capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    return run


def test_absolute_form(node: Callable[..., Any], site: TlsNginx, origin: int) -> None:
    python = f"http://127.0.0.1:{origin}"
    result = node("get", f"{site.url}/small", f"{site.url}/big", f"{python}/chunked")
    assert [answer["status"] for answer in result["answers"]] == [200] * 3
    assert [answer["size"] for answer in result["answers"]] == [13, BIG, len(BODY)]
    assert result["answers"][2]["sha256"] == hashlib.sha256(BODY).hexdigest()
    assert result["answers"][2]["trailers"] == {"x-sum": "1"}
    assert result["connections"] == 1


def test_chunked_post(node: Callable[..., Any], origin: int) -> None:
    answer = node("post", f"http://127.0.0.1:{origin}/seen", 2_000_000)
    assert answer["status"] == 200


def test_https(node: Callable[..., Any], site: TlsNginx) -> None:
    answer = node("https", f"localhost:{site.tls_port}", "/big")
    assert (answer["status"], answer["size"]) == (200, BIG)
    big = (site.www / "big").read_bytes()
    assert answer["sha256"] == hashlib.sha256(big).hexdigest()


def test_connect_refused(node: Callable[..., Any]) -> None:
    with refused_port() as port:
        assert node("https", f"127.0.0.1:{port}", "/") == {"connect": 502}


def test_upgrade(node: Callable[..., Any]) -> None:
    assert node("upgrade", 3_000_000) == {"protocol": "echo", "equal": True}


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_npm(
    proxy: ProxyProcess, site: TlsNginx, certificates: Certificates, tmp_path: Path, tls: bool
) -> None:
    """Installs a package by the URL of its archive."""
    npm = need("npm")
    package = json.dumps({"name": "splicetest", "version": "1.0.0"}).encode()
    with tarfile.open(site.www / "splicetest.tgz", "w:gz") as archive:
        member = tarfile.TarInfo("package/package.json")
        member.size = len(package)
        archive.addfile(member, io.BytesIO(package))
    (tmp_path / "package.json").write_text("{}")
    url = f"{site.tls_url if tls else site.url}/splicetest.tgz"
    command = [npm, "install", "--proxy", proxy.url, "--https-proxy", proxy.url, "--noproxy", ""]
    command += ["--cafile", str(certificates.ca), "--cache", str(tmp_path / "cache")]
    command += ["--no-audit", "--no-fund", "--no-update-notifier", url]
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    env["HOME"] = str(tmp_path)
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "node_modules/splicetest/package.json").read_bytes() == package
    wait_line(proxy, f" CONNECT localhost:{site.tls_port} " if tls else f" GET {url} ")
