"""Workers and the admin process as another user, whom root has started: --user and --group."""

from __future__ import annotations

import grp
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from changing_proxy import MARK
from harness import alive, read_exactly, read_head, wait_for
from moving_load import Load, Origin, ask_once
from service_rig import Managed, opened

from spliceproxy.processes.landlock import version
from spliceproxy.settings import parents
from spliceproxy.settings.sources import Found
from spliceproxy.upstream import pac

USER = "nobody"
NOBODY = pwd.getpwnam(USER)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up root's rights")


@pytest.fixture
def folder(folder: Path) -> Path:
    """Others than root may enter it."""
    folder.chmod(0o755)
    return folder


def start(folder: Path, *args: str, **more: Any) -> Managed:
    folder.mkdir(exist_ok=True)
    # Those of a test are side by side.
    top = folder.parent if folder.parent.name.startswith("test_") else folder
    env = {MARK: str(top)}
    return Managed(folder, None, "--user", USER, *args, prefix=opened(top), env=env, **more)


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
    wait_for(lambda: "spliceproxy-adm" in map(comm, proxy.children(new)), "the admin process")
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
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", secret / "ca.pem")
    settings = folder / "settings.toml"
    settings.write_text(
        f'hosts-file = "{secret}/users"\n'
        f'[parent.one]\nurl = "https://127.0.0.1:1"\nca-file = "{secret}/ca.pem"\n'
    )
    args = ("--user", USER, "--htpasswd", str(secret / "users"), "--access-log", str(log))
    args = ("--config", str(settings), *args)
    done = run(
        *args, "--serve", str(secret), "--learn", str(secret / "seen"), prefix=opened(folder)
    )
    assert done.returncode == 2
    for line in (
        f"--htpasswd {secret}/users: the user of the workers cannot read it",
        f"--serve {secret}: the user of the workers cannot read it",
        f"--learn {secret}: the user of the workers cannot write it",
        f"{settings}: hosts-file {secret}/users: the user of the workers cannot read it",
        f"{settings}: parent.one.ca-file {secret}/ca.pem: the user of the workers cannot read it",
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


SAYS_WHO = """printf '{"fault": "%s"}' "$(id -u) $(id -g) $(id -G)" """


@pytest.mark.parametrize("user", [USER, str(NOBODY.pw_uid)])
def test_a_pac_file_is_tried_without_roots_rights(
    monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    monkeypatch.setattr(pac, "helper", lambda: {"args": ["/bin/sh", "-c", SAYS_WHO]})
    found = {"user": Found(user, "--user")}
    uid, gid = NOBODY.pw_uid, NOBODY.pw_gid
    assert parents._fault("", parents._as_user(found)) == f"{uid} {gid} {gid}"
    found["group"] = Found("daemon", "--group")
    gid = grp.getgrnam("daemon").gr_gid
    assert parents._fault("", parents._as_user(found)) == f"{uid} {gid} {gid}"
    assert parents._fault("", parents._as_user({})).split()[0] == "0"


def test_a_number_without_a_name(folder: Path, address: tuple[str, int]) -> None:
    proxy = Managed(folder, None, "--user", "4444", "--group", "4445", prefix=opened(folder))
    (pid,) = proxy.workers()
    found = status(pid)
    assert (found["Uid"][0], found["Gid"][0], found["Groups"]) == ("4444", "4445", ["4445"])
    with proxy.connect() as s:
        ask_once(s, address)
    assert proxy.stop() == 0


# ---- what they may open (Landlock) -----------------------------------------------------------

POLICY = """
import os
from spliceproxy.policy import Allow, Deny

def attempt(path, mode):
    try:
        with open(path, mode):
            return "opened"
    except OSError as error:
        return error.strerror

def authorize(request):
    path, _, mode = request.path.lstrip("/").partition(":")
    return Deny(attempt(f"/{path}", mode or "r"))
"""
"""It says in its refusal what became of an attempt to open the file that the request names."""

DENIED = "Permission denied"


@pytest.fixture
def landlock(folder: Path) -> Path:
    """The folder of a policy, where the kernel has Landlock."""
    if not version():
        pytest.skip("this kernel has no Landlock")
    home = folder / "policy"
    home.mkdir()
    (home / "policy.py").write_text(POLICY)
    (home / "data").touch()
    other = folder / "other"
    other.mkdir()
    other.chmod(0o777)
    (other / "data").touch(0o666)
    (other / "data").chmod(0o666)
    return home


def attempt(proxy: Managed, path: Path | str, mode: str = "r") -> str:
    """What the policy may do with a file."""
    with proxy.connect() as s:
        s.sendall(f"GET http://o.test{path}:{mode} HTTP/1.1\r\nHost: o.test\r\n\r\n".encode())
        answer = read_head(s)
        assert answer.startswith(b"HTTP/1.1 403 "), answer
        found = re.search(rb"(?i)content-length: (\d+)", answer)
        assert found is not None
        body = read_exactly(s, int(found[1])).decode()
    for known in ("opened", DENIED, "No such file or directory"):
        if known in body:
            return known
    raise AssertionError(body)


def confined(folder: Path, home: Path, *args: str, **more: Any) -> Managed:
    return start(folder, "--policy", str(home / "policy.py"), *args, **more)


def test_the_policy_opens_nothing_else(folder: Path, landlock: Path) -> None:
    """The user may read and write it, but the policy has no part in it."""
    log = folder / "logs" / "access"
    log.parent.mkdir()
    log.parent.chmod(0o777)
    proxy = confined(folder, landlock, "--access-log", str(log))
    other = folder / "other" / "data"
    assert attempt(proxy, landlock / "data") == "opened"
    assert attempt(proxy, "/etc/resolv.conf") == "opened"
    for path, mode in ((other, "r"), (other, "a"), (landlock / "new", "w"), ("/tmp/x", "w")):
        assert attempt(proxy, path, mode) == DENIED, (path, mode)
    wait_for(lambda: log.read_text().count("\n") == 6, "the lines of the log")
    log.rename(log.with_name("access.1"))
    proxy.process.send_signal(signal.SIGUSR1)
    wait_for(log.exists, "the new log")
    wait_for(lambda: attempt(proxy, other) and log.read_text(), "a line in it")
    proxy.end()
    assert "Landlock" not in proxy.stderr()


def test_off_and_more_folders(folder: Path, landlock: Path) -> None:
    other = folder / "other"
    proxy = confined(folder / "off", landlock, "--landlock", "off")
    assert attempt(proxy, other / "data", "a") == "opened"
    assert proxy.stop() == 0
    proxy = start(folder / "more", "--policy", str(landlock / "policy.py"))
    assert attempt(proxy, other / "data", "r") == DENIED
    proxy.settings.write_text(f'landlock-read = ["{other}"]\n')
    assert proxy.admin.ask("/reload", "POST").status == 200
    assert attempt(proxy, other / "data", "r") == "opened"
    assert attempt(proxy, other / "data", "a") == DENIED
    proxy.settings.write_text(f'landlock-write = ["{other}"]\n')
    assert proxy.admin.ask("/reload", "POST").status == 200
    assert attempt(proxy, other / "new", "w") == "opened"
    assert proxy.stop() == 0


def test_a_reload_that_names_a_new_folder(
    folder: Path, landlock: Path, origin: Origin, address: tuple[str, int]
) -> None:
    """Workers are replaced, and nobody's connection ends; without a new folder they stay."""
    site = folder / "site"
    site.mkdir()
    (site / "index.html").write_text("hello")
    proxy = start(folder, workers=2)
    load = Load(proxy, origin, address)
    before = proxy.workers()
    proxy.settings.write_text("timeout-idle = 100\n")
    assert proxy.admin.ask("/reload", "POST").status == 200
    assert proxy.workers() == before
    admin = proxy.admin_process()
    proxy.settings.write_text(f'serve = "{site}"\n')
    answer = proxy.admin.ask("/reload", "POST")
    assert answer.status == 200, answer
    assert answer.json["generation"] == 3

    def replaced() -> bool:
        now = proxy.workers()  # and an admin process until it has its name
        other = proxy.admin_process() != admin
        return other and len(now) == 2 and not set(now) & set(before)

    wait_for(replaced, "other workers, and another admin process")
    load.goes_on()
    with proxy.connect() as s:
        s.sendall(b"GET /index.html HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_head(s).startswith(b"HTTP/1.1 200 ")
        assert read_exactly(s, 5) == b"hello"
    before = proxy.workers()
    proxy.settings.write_text(f'serve = "{folder}/other"\npolicy-timeout = 0\n')
    assert proxy.admin.ask("/reload", "POST").status == 409
    assert proxy.workers() == before
    load.end()
    proxy.end()


def test_an_admin_process_that_cannot_read_its_tokens(folder: Path, landlock: Path) -> None:
    """It is replaced behind a reload that names a new folder, when it has given its answer."""
    proxy = start(folder)
    before = proxy.admin_process()
    token = folder / "other" / "token"
    token.write_text("0123456789abcdef\n")
    proxy.settings.write_text(f'admin-token-file = "{token}"\n')
    assert proxy.admin.ask("/reload", "POST").status == 200
    wait_for(lambda: not alive(before), "the end of the one before")
    wait_for(lambda: proxy.admin.ask("/healthz").status == 200, "another")
    assert "admin process (pid" not in proxy.stderr()
    proxy.end()


def test_what_is_required(folder: Path, landlock: Path) -> None:
    """Without --user, too; and a kernel that has none is an error."""
    proxy = Managed(folder, None, "--policy", str(landlock / "policy.py"), "--landlock", "require")
    assert attempt(proxy, folder / "other" / "data") == DENIED
    assert status(proxy.workers()[0])["NoNewPrivs"] == ["1"]
    proxy.end()
    patch = "from spliceproxy.processes import landlock; landlock.version = lambda: 0; "
    program = patch + "from spliceproxy.cli.main import main; import sys; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "--listen", "127.0.0.1:0", "--landlock", "require"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    assert "--landlock require: this kernel has no Landlock, or it is turned off" in done.stderr
