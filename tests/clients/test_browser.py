"""Headless Chromium through the proxy: a page with 50 assets, by http and https."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TlsNginx, wait_line
from harness import ProxyProcess, need, wait_for

ASSETS = 50

PAGE = """<!DOCTYPE html><html><head>{scripts}</head><body><p id="result">no script ran</p>
<script>
addEventListener("load", () => {{
  document.getElementById("result").textContent =
    `sum ${{window.sum}}, bytes ${{window.bytes}}, by ${{location.protocol}}`;
}});
</script></body></html>"""

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --dump-dom"
    " --disable-background-networking --disable-component-update --disable-sync"
    " --disable-dev-shm-usage --ignore-certificate-errors --proxy-bypass-list=<-loopback>"
)


@pytest.fixture(scope="module")
def page(site: TlsNginx) -> int:
    """Writes the page and its scripts, each of its own size; the sum of the sizes."""
    numbers = random.Random(7)
    sizes = [numbers.randrange(10, 300_000) for _ in range(ASSETS)]
    scripts = []
    for i, size in enumerate(sizes):
        text = f"window.sum = (window.sum || 0) + {i}; window.bytes = (window.bytes || 0) + "
        text += f'"{"x" * size}".length;\n'
        (site.www / f"asset{i}.js").write_text(text)
        scripts.append(f'<script defer src="asset{i}.js"></script>')
    (site.www / "page.html").write_text(PAGE.format(scripts="\n".join(scripts)))
    return sum(sizes)


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_page(
    new_proxy: Callable[..., ProxyProcess],
    site: TlsNginx,
    page: int,
    tmp_path: Path,
    each_loop: bool,
    tls: bool,
) -> None:
    program = shutil.which("chromium") or shutil.which("google-chrome") or need("chromium")
    proxy = new_proxy("--tls-name", "check", uvloop=each_loop)
    command = [program, *FLAGS.split(), f"--user-data-dir={tmp_path}/profile"]
    command += [f"--proxy-server={proxy.url}", f"{site.tls_url if tls else site.url}/page.html"]
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    done = subprocess.run(
        command, env={**env, "HOME": str(tmp_path)}, capture_output=True, timeout=100
    )
    scheme = "https:" if tls else "http:"
    total = sum(range(ASSETS))
    result = f"sum {total}, bytes {page}, by {scheme}"
    assert result in done.stdout.decode(), done.stderr.decode()[-2000:]
    if tls:
        wait_line(proxy, f" CONNECT localhost:{site.tls_port} ")
        lines = [line for line in proxy.access() if f" CONNECT localhost:{site.tls_port} " in line]
        # It pretends that there is an encrypted name, but not in each connection.
        assert all(" tls=ech" in line or " tls=match" in line for line in lines), lines
        return
    urls = {f"{site.url}/asset{i}.js" for i in range(ASSETS)} | {f"{site.url}/page.html"}
    wait_for(lambda: urls <= {line.split()[6] for line in proxy.access()}, "all lines")
    good = [line for line in proxy.access() if line.split()[6] in urls]
    assert all("TCP_MISS/200 " in line for line in good)
