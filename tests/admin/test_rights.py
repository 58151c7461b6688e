"""Workers and the admin process as another user, whom root has started: --user and --group."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import alive, serving, wait_for
from moving_load import MARK, Load, Origin, all_ended, ask_once
from service_rig import Managed, opened

USER = "nobody"
NOBODY = pwd.getpwnam(USER)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up root's rights")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    tmp_path.chmod(0o755)
    with all_ended(str(tmp_path)):
        yield tmp_path


def start(folder: Path, *args: str, **more: Any) -> Managed:
    return Managed(folder, None, "--user", USER, *args, prefix=opened(folder), **more)


def status(pid: int) -> dict[str, list[str]]:
    """What /proc/PID/status says (proc(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: values.split() for name, _, values in (line.partition(":") for line in lines)}


def assert_has_no_rights(pid: int, group: int = NOBODY.pw_gid) -> None:
    found = status(pid)
    assert found["Uid"] == [str(NOBODY.pw_uid)] * 4
    assert found["Gid"] == [str(group)] * 4
    assert found["Groups"] == [str(group)]
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(found[kind][0], 16) == 0, kind
    assert found["NoNewPrivs"] == ["1"]


@pytest.fixture
def origin() -> Origin:
    return Origin()


@pytest.fixture
def address(origin: Origin) -> Iterator[tuple[str, int]]:
    with serving(origin.serve) as found:
        try:
            yield found
        finally:
            origin.release.set()


def test_who_has_which_rights(folder: Path, address: tuple[str, int]) -> None:
    sock = folder / "sock"
    proxy = start(folder, "--group", "daemon", workers=2, listen=["127.0.0.1:0", f"unix:{sock}"])
    group = grp.getgrnam("daemon").gr_gid
    for pid in (*proxy.workers(), proxy.admin_process()):
        assert_has_no_rights(pid, group)
    assert status(proxy.process.pid)["Uid"] == ["0"] * 4
    for path in (sock, Path(proxy.admin.path)):
        found = path.stat()
        assert (found.st_uid, found.st_gid) == (NOBODY.pw_uid, group)
    for _ in range(8):
        with proxy.connect() as s:
            ask_once(s, address)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(sock))
        ask_once(s, address)
    text = proxy.admin.ask("/metrics").text
    limits = [line for line in text.splitlines() if line.startswith("spliceproxy_process_max_fds{")]
    assert len(limits) == 4
    assert len({line.split()[-1] for line in limits}) == 1
    proxy.end()
    assert not sock.exists()


def test_everything_goes_on(folder: Path, origin: Origin, address: tuple[str, int]) -> None:
    """A worker that dies or is replaced, a reload and an upgrade, with tunnels through it all."""
    proxy = start(folder, workers=2)
    load = Load(proxy, origin, address)
    assert proxy.admin.ask("/recycle", "POST").status == 200, proxy.stderr()
    load.goes_on()
    assert proxy.admin.ask("/reload", "POST").status == 200, proxy.stderr()
    answer = proxy.admin.ask("/upgrade", "POST")
    assert answer.status == 200, proxy.stderr()
    new = answer.json["new"]["pid"]
    wait_for(lambda: not alive(proxy.process.pid), "the end of the old program")
    load.goes_on()
    load.end()
    (admin,) = (pid for pid in proxy.children(new) if comm(pid) == "spliceproxy-adm")
    os.kill(admin, signal.SIGKILL)
    wait_for(lambda: proxy.admin.ask("/healthz").status == 200, "another admin process")
    for pid in proxy.children(new):
        assert_has_no_rights(pid)
    proxy.end()


def comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def test_the_log_is_the_users(folder: Path, address: tuple[str, int]) -> None:
    """Also where only root may write to its folder: at the start, after a rotation, and where a
    reload names another."""
    logs = folder / "logs"
    logs.mkdir(mode=0o755)
    path = logs / "access"
    proxy = start(folder, "--access-log", str(path))
    with proxy.connect() as s:
        ask_once(s, address)
        wait_for(path.read_text, "a line")
        path.rename(logs / "access.1")
        proxy.process.send_signal(signal.SIGUSR1)
        wait_for(path.exists, "the new log")
        assert path.stat().st_uid == NOBODY.pw_uid

        def logged() -> str:
            ask_once(s, address)
            return path.read_text()

        wait_for(logged, "a line in the new log")
    assert path.stat().st_mode & 0o777 == 0o640
    proxy.end()


def run(*args: str, prefix: Any = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-m", "spliceproxy", "--listen", "127.0.0.1:0", *args],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_files_that_the_user_cannot_use(folder: Path) -> None:
    """All are named before anything begins."""
    secret = folder / "secret"
    secret.mkdir(mode=0o700)
    (secret / "users").write_text(
        "bob:$2b$04$abcdefghijklmnopqrstuu5Lo0g67CiD3M4RpN1BmBb4Crp5w7dbK\n"
    )
    (secret / "policy.py").write_text("def authorize(request): ...\n")
    log = folder / "log"
    log.touch(0o600)
    args = ("--user", USER, "--htpasswd", str(secret / "users"), "--access-log", str(log))
    done = run(
        *args, "--serve", str(secret), "--learn", str(secret / "seen"), prefix=opened(folder)
    )
    assert done.returncode == 2
    for line in (
        f"--htpasswd {secret}/users: the user of the workers cannot read it",
        f"--serve {secret}: the user of the workers cannot read it",
        f"--learn {secret}: the user of the workers cannot write it",
        f"--access-log {log}: the user of the workers cannot write it",
    ):
        assert f"spliceproxy: {line}" in done.stderr
    done = run("--user", USER, "--policy", str(secret / "policy.py"), prefix=opened(folder))
    assert done.returncode == 2
    assert f"--policy {secret}/policy.py: " in done.stderr
    assert "Permission denied" in done.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--user", "root"], "'root' (root's rights are those that are to be given up); allowed"),
        (["--user", "0"], "'0' (root's rights"),
        (["--user", "nobody-here"], "(this system has no user of this name); allowed: the name or"),
        (["--user", USER, "--group", "no-such"], "(this system has no group of this name)"),
        (["--user", "4444"], "--user 4444: this number has no name, and so no group; allowed"),
    ],
)
def test_what_is_not_allowed(args: list[str], said: str) -> None:
    done = run(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_only_root_can_start_others(folder: Path) -> None:
    setpriv = shutil.which("setpriv")
    assert setpriv is not None
    plain = [setpriv, f"--reuid={NOBODY.pw_uid}", f"--regid={NOBODY.pw_gid}", "--clear-groups"]
    done = run("--user", "daemon", prefix=[*opened(folder), *plain])
    assert done.returncode == 2
    assert f"only root can start workers as another user, and this is user {NOBODY.pw_uid}" in (
        done.stderr
    )


def test_a_number_without_a_name(folder: Path, address: tuple[str, int]) -> None:
    proxy = Managed(
        folder, None, "--user", "4444", "--group", "4445", prefix=opened(folder), env={MARK: "x"}
    )
    (pid,) = proxy.workers()
    found = status(pid)
    assert (found["Uid"][0], found["Gid"][0], found["Groups"]) == ("4444", "4445", ["4445"])
    with proxy.connect() as s:
        ask_once(s, address)
    assert proxy.stop() == 0
