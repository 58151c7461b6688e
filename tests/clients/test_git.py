"""git through the proxy: clone, push, fetch; by http (forwarded) and https (a tunnel)."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from certificates import Certificates
from conftest import wait_line
from git_server import git_server
from harness import ProxyProcess, need

SIZE = 3_000_000
"""More than git's http.postBuffer (1 MiB): such a push is sent in chunks."""


@pytest.fixture
def git(any_proxy: ProxyProcess, certificates: Certificates, tmp_path: Path) -> Callable[..., str]:
    """Runs git in a folder below tmp_path, with the proxy and no settings of the machine."""
    program = need("git")
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith("GIT_")},
        "HOME": str(tmp_path),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_SSL_CAINFO": str(certificates.ca),
        "GIT_AUTHOR_NAME": "tester",
        "GIT_AUTHOR_EMAIL": "tester@example.org",
        "GIT_COMMITTER_NAME": "tester",
        "GIT_COMMITTER_EMAIL": "tester@example.org",
        "no_proxy": "",
    }

    def run(folder: str, *args: str) -> str:
        command = [program, "-c", f"http.proxy={any_proxy.url}", *args]
        done = subprocess.run(
            command, cwd=tmp_path / folder, env=env, capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    return run


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_clone_push_fetch(
    git: Callable[..., str],
    any_proxy: ProxyProcess,
    certificates: Certificates,
    tmp_path: Path,
    tls: bool,
) -> None:
    bare = tmp_path / "bare"
    git("", "init", "-q", "--bare", "-b", "main", "bare/one.git")
    with git_server(bare, certificates.server_context() if tls else None) as url:
        git("", "clone", "-q", f"{url}/one.git", "first")
        (tmp_path / "first/noise").write_bytes(random.Random(4).randbytes(SIZE))
        git("first", "add", "noise")
        git("first", "commit", "-q", "-m", "noise")
        git("first", "push", "-q", "origin", "HEAD:main")
        git("", "clone", "-q", f"{url}/one.git", "second")
        assert (tmp_path / "second/noise").read_bytes() == random.Random(4).randbytes(SIZE)
        (tmp_path / "first/word").write_text("word")
        git("first", "add", "word")
        git("first", "commit", "-q", "-m", "word")
        git("first", "push", "-q", "origin", "HEAD:main")
        git("second", "pull", "-q")
        assert git("second", "rev-parse", "HEAD") == git("first", "rev-parse", "HEAD")
    git("bare/one.git", "fsck", "--full", "--strict")
    authority = url.rpartition("/")[2]
    wait_line(any_proxy, f" CONNECT {authority} " if tls else f" POST {url}/one.git/")
    lines = [line for line in any_proxy.access() if authority in line]
    assert all("/200 " in line for line in lines)
