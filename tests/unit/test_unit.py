"""What ``spliceproxy unit`` prints, read by the programs that it is for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness import need

from spliceproxy.cli import unit

EXPOSURE = 20
"""Tenths, by ``systemd-analyze security``: of 100 where nothing is protected. What is left is the
network, Unix sockets, and the folders of the machine; versions weigh it differently."""


def printed(*args: str, path: str | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "spliceproxy", "unit", *args],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **({} if path is None else {"PATH": path})},
    )
    assert not done.stderr
    return done.stdout


def verified(folder: Path, text: str, name: str = "spliceproxy.service") -> str:
    """What systemd has to say of a unit: of what it does not know, too."""
    path = folder / name
    path.write_text(text)
    done = subprocess.run(
        [need("systemd-analyze"), "verify", path], capture_output=True, text=True, check=False
    )
    return "\n".join(line for line in done.stderr.splitlines() if name in line)


def test_the_unit_for_this_machine(tmp_path: Path) -> None:
    text = printed()
    assert f"ExecStart={sys.executable} -m spliceproxy --config" in text
    assert verified(tmp_path, text) == ""


@pytest.mark.parametrize(("version", "newer"), [("247", False), ("252", False), ("253", True)])
def test_how_it_is_reloaded(tmp_path: Path, version: str, newer: bool) -> None:
    text = printed("--systemd-version", version, path="")
    assert ("Type=notify-reload\n" in text) == newer
    assert ("ExecReload=/bin/kill -HUP $MAINPID\n" in text) != newer
    unknown = verified(tmp_path, text.replace("notify-reload", "notify"))
    assert unknown == ""


def test_the_socket(tmp_path: Path) -> None:
    (tmp_path / "spliceproxy.service").write_text(printed("--systemd-version", "252"))
    text = printed("--socket", path="")
    assert verified(tmp_path, text, "spliceproxy.socket") == ""
    (name,) = re.findall(r"^FileDescriptorName=(.*)$", text, re.M)
    assert f'listen = ["systemd:{name}"]' in text


def test_how_much_it_exposes(tmp_path: Path) -> None:
    path = tmp_path / "spliceproxy.service"
    path.write_text(printed())
    program = need("systemd-analyze")
    done = subprocess.run(
        [program, "security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-200:]


def test_the_file_for_logrotate(tmp_path: Path) -> None:
    path = tmp_path / "spliceproxy"
    path.write_text(printed("--logrotate", "--systemd-version", "257"))
    path.chmod(0o644)
    done = subprocess.run(
        [need("logrotate"), "-d", "-s", tmp_path / "state", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr
    assert "rotating pattern: /var/log/spliceproxy/*.log" in done.stderr
    assert "--kill-whom=main --signal=USR1 spliceproxy.service" in path.read_text()
    assert "--kill-who=main" in printed("--logrotate", "--systemd-version", "251")


def test_the_file_for_sysctl() -> None:
    """Each line is a key of this kernel, and a value of the form that it has."""
    lines = [
        line for line in printed("--sysctl", path="").splitlines() if line[:1] not in ("", "#")
    ]
    assert len(lines) == 5
    for line in lines:
        found = re.fullmatch(r"([a-z0-9._-]+) = (\d+(?: \d+)*)", line)
        assert found is not None, line
        now = Path("/proc/sys", found[1].replace(".", "/")).read_text()
        assert len(now.split()) == len(found[2].split()), line


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--systemd-version", "246"], "'246'; allowed: a whole number from 247 on"),
        (["--systemd-version", "new"], "'new'; allowed: a whole number from 247 on"),
        (["--logrotate", "--sysctl"], "--logrotate and --sysctl: one file at a time"),
        ([], "there is no systemctl here that says its version; allowed"),
    ],
)
def test_what_is_not_allowed(args: list[str], said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "spliceproxy", "unit", *args],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": str(tmp_path)},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


@pytest.mark.parametrize(
    ("path", "program"),
    [
        ("/usr/bin/spliceproxy", "/usr/bin/spliceproxy"),
        ("/opt/a b/spliceproxy", '"/opt/a b/spliceproxy"'),
        ("/opt/100%/$x/spliceproxy", "/opt/100%%/$$x/spliceproxy"),
        ("/opt/lib/spliceproxy/__main__.py", f"{sys.executable} -m spliceproxy"),
    ],
)
def test_how_the_program_is_started(
    monkeypatch: pytest.MonkeyPatch, path: str, program: str
) -> None:
    monkeypatch.setattr(sys, "argv", [path])
    assert unit._program() == program


def test_a_program_in_a_home_stays_in_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/home/ada/.local/bin/spliceproxy"])
    assert "ProtectHome=read-only\n" in unit._service(257)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/spliceproxy"])
    assert "ProtectHome=yes\n" in unit._service(257)
