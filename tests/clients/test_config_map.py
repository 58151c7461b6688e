"""A PAC file in a Kubernetes volume: every file of it is a link."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import ProxyProcess, need


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    folder = tmp_path / "volume"
    (folder / "..2026_11_29").mkdir(parents=True)
    (folder / "..2026_11_29" / "proxy.pac").write_text("function FindProxyForURL(){}")
    (folder / "..data").symlink_to("..2026_11_29")
    (folder / "proxy.pac").symlink_to("..data/proxy.pac")
    return folder


def fetch(proxy: ProxyProcess) -> str:
    url = f"http://127.0.0.1:{proxy.port}/proxy.pac"
    curl = [need("curl"), "-q", "-s", "--noproxy", "*", "-w", " %{http_code} %{content_type}", url]
    return subprocess.run(curl, capture_output=True, text=True, timeout=60, check=True).stdout


def test_a_config_map(new_proxy: Callable[..., ProxyProcess], volume: Path) -> None:
    proxy = new_proxy("--serve", str(volume))
    assert " 404 " in fetch(proxy)
    warning = (
        f"WARNING --serve {volume}: {volume}/proxy.pac: links are not followed; --serve-links "
        "follows those that stay within it"
    )
    assert warning in proxy.stderr()
    proxy = new_proxy("--serve", str(volume), "--serve-links")
    assert fetch(proxy) == "function FindProxyForURL(){} 200 application/x-ns-proxy-autoconfig"
    assert "WARNING" not in proxy.stderr()
