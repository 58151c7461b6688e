"""The commands on docs/admin.md: each is run, against a proxy that is started as the page says."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from admin_rig import Admin, NewAdmin
from harness import need, serving

PAGE = Path(__file__).parents[2] / "docs" / "admin.md"


def commands(start: str) -> list[str]:
    """The commands of the page that begin so, each as one line."""
    blocks = re.findall(r"(?:^(?:    .*)?\n)+", PAGE.read_text(), re.M)
    text = "\n".join(textwrap.dedent(block) for block in blocks).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.startswith(start)]


CURLS = [line for line in commands("curl ") if "unix" not in line]
CTLS = commands("spliceproxy ctl ")


@pytest.fixture
def admin(new_admin: NewAdmin) -> Admin:
    return new_admin()


def run(admin: Admin, command: str, seconds: float = 20.0) -> subprocess.CompletedProcess[str]:
    token = admin.proxy.stderr_path.with_name("token")
    config = token.with_name("proxy.toml")
    config.write_text(f'admin = "127.0.0.1:{admin.port}"\nadmin-token-file = "{token}"\n')
    command = (
        command.replace("/etc/spliceproxy/token", str(token))
        .replace("/etc/spliceproxy.toml", str(config))
        .replace("127.0.0.1:9810", f"127.0.0.1:{admin.port}")
        .replace("curl ", "curl -sS --fail-with-body ")
    )
    return subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )


def test_there_are_some() -> None:
    assert len(CURLS) >= 4
    assert len(CTLS) >= 6


@pytest.mark.parametrize("command", CURLS)
def test_curl(admin: Admin, command: str) -> None:
    need("curl")
    if "/events" in command:
        done = run(admin, f"timeout 1 {command} -N || true")
        assert done.stdout.startswith(": spliceproxy")
        return
    done = run(admin, command)
    assert done.returncode == 0, done
    assert done.stdout


@pytest.mark.parametrize("command", CTLS)
def test_ctl(admin: Admin, command: str) -> None:
    def wait(s: object) -> None:
        with contextlib.suppress(OSError):
            s.recv(1)  # type: ignore[attr-defined]

    with serving(wait) as origin, admin.proxy.tunnel(*origin):
        done = run(admin, command, 60)
    # Nothing matches the example of a kill.
    assert done.returncode == (1 if " kill " in command else 0), done
    assert "usage" not in done.stderr


def test_a_unix_socket(new_admin: NewAdmin) -> None:
    need("curl")
    admin = new_admin(unix=True)
    (command,) = [line for line in commands("curl ") if "unix" in line]
    done = subprocess.run(
        ["sh", "-c", command.replace("/run/spliceproxy/admin.sock", admin.path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert done.stdout == "ready\n"
