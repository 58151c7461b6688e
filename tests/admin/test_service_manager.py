"""What a service manager hears: a real socket, from the start to the end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from changing_proxy import MARK
from harness import ProxyProcess, alive, has_signal, need, read_head, stop, wait_for
from service_rig import Managed, Manager

from spliceproxy.cli import unit


@pytest.fixture(params=["path", "abstract"])
def manager(folder: Path, request: pytest.FixtureRequest) -> Iterator[Manager]:
    found = Manager(folder, abstract=request.param == "abstract")
    yield found
    found.close()


def test_from_the_start_to_the_end(folder: Path, manager: Manager) -> None:
    proxy = Managed(folder, manager, workers=2)
    ready = manager.next()
    assert ready.pid == proxy.process.pid
    assert ready.values == {"READY": "1", "STATUS": "serving: 2 workers, generation 1"}
    assert len(proxy.workers()) == 2
    before = time.monotonic_ns() // 1000
    proxy.process.send_signal(signal.SIGHUP)
    reloading = manager.next()
    assert set(reloading.values) == {"RELOADING", "MONOTONIC_USEC"}
    assert before <= int(reloading.values["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    assert manager.next().values == {
        "READY": "1",
        "STATUS": "serving: 2 workers, generation 2; the last reload is in force",
    }
    proxy.settings.write_text("timeout-idle = 0\n")
    proxy.process.send_signal(signal.SIGHUP)
    assert set(manager.next().values) == {"RELOADING", "MONOTONIC_USEC"}
    refused = manager.next().values
    assert refused["READY"] == "1"
    assert "generation 2; the last reload was refused: " in refused["STATUS"]
    assert "timeout-idle" in refused["STATUS"]
    proxy.process.send_signal(signal.SIGTERM)
    stopping = manager.next().values
    assert stopping["STOPPING"] == "1"
    assert stopping["EXTEND_TIMEOUT_USEC"] == "15000000"  # --timeout-drain, 5 s more, and the end
    assert stopping["STATUS"].startswith("draining for at most 8 s")
    assert proxy.process.wait(20) == 0
    assert not any("READY" in said.values for said in manager.rest())
    assert "Traceback" not in proxy.stderr()


SLOW = """
import os, time
from spliceproxy.policy import Allow

def authorize(request):
    return Allow()

number = 0
while True:
    try:
        os.close(os.open(f"{folder}/load{{number}}", os.O_CREAT | os.O_EXCL))
        break
    except FileExistsError:
        number += 1
while number >= 2 and not os.path.exists("{folder}/go"):
    time.sleep(0.01)
"""
"""A policy that is loaded once to look at it, once in a worker, and then has to wait."""


def test_ready_waits_for_every_worker(folder: Path, manager: Manager) -> None:
    """A reload meanwhile is none for the manager."""
    (folder / "slow.py").write_text(SLOW.format(folder=folder))
    errors = folder / "stderr"
    proxy = subprocess.Popen(
        [sys.executable, "-m", "spliceproxy", "--listen", "127.0.0.1:0", "--workers", "2",
         "--access-log", "off", "--policy", str(folder / "slow.py")],
        env={**os.environ, "NOTIFY_SOCKET": manager.address, MARK: str(folder)},
        stderr=errors.open("wb"),
    )  # fmt: skip
    wait_for((folder / "load2").exists, "the second worker")
    proxy.send_signal(signal.SIGHUP)
    wait_for(lambda: not has_signal(proxy.pid, "ShdPnd", signal.SIGHUP), "the reload")
    assert not list(manager.rest())
    (folder / "go").touch()
    assert manager.next().values["READY"] == "1"
    proxy.terminate()
    assert manager.until("STOPPING", not_="RELOADING")
    assert proxy.wait(20) == 0


def test_an_upgrade(folder: Path, manager: Manager) -> None:
    proxy = Managed(folder, manager, "--pid-file", str(folder / "pid"))
    manager.until("READY")
    old = proxy.process.pid
    assert (folder / "pid").read_text() == f"{old}\n"
    answer = proxy.admin.ask("/upgrade", "POST")
    assert answer.status == 200, proxy.stderr()
    new = answer.json["new"]["pid"]
    told = manager.next()
    assert told.pid == old
    assert told.values == {"MAINPID": str(new), "STATUS": f"process {new} has taken over"}
    ready = manager.next()
    assert ready.pid == new
    assert ready.values["READY"] == "1"
    assert (folder / "pid").read_text() == f"{new}\n"
    assert proxy.process.wait(20) == 0
    assert not list(manager.rest())
    os.kill(new, signal.SIGHUP)
    assert manager.next().pid == new
    assert manager.next().values["READY"] == "1"
    os.kill(new, signal.SIGTERM)
    assert manager.next().values["STOPPING"] == "1"
    wait_for(lambda: not alive(new), "the end")
    assert not (folder / "pid").exists()
    assert "Traceback" not in proxy.stderr()


def test_an_upgrade_that_fails(folder: Path, manager: Manager) -> None:
    proxy = Managed(folder, manager)
    manager.until("READY")
    proxy.settings.write_text("timeout-idle = 0\n")
    assert proxy.admin.ask("/upgrade", "POST").status == 409
    proxy.process.send_signal(signal.SIGTERM)
    manager.until("STOPPING", not_="MAINPID")
    assert proxy.process.wait(20) == 0


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_signs_of_life(folder: Path, manager: Manager) -> None:
    """None while a worker does not answer; and the new program has its own."""
    proxy = Managed(folder, manager, workers=2, env={"WATCHDOG_USEC": "400000"})
    for _ in range(2):
        assert manager.until("WATCHDOG").pid == proxy.process.pid
    worker = proxy.workers()[1]
    stop(worker)
    assert all("WATCHDOG" in said.values for said in manager.rest(1.0))
    os.kill(worker, signal.SIGCONT)
    manager.until("WATCHDOG")
    os.kill(worker, signal.SIGKILL)  # another is started, and has time to begin
    for _ in range(2):
        manager.until("WATCHDOG")
    answer = proxy.admin.ask("/upgrade", "POST")
    new = answer.json["new"]["pid"]
    manager.until("MAINPID")
    assert manager.until("WATCHDOG").pid == new
    proxy.end()


@pytest.mark.parametrize("manager", ["path"], indirect=True)
@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}, ""),
        ({"WATCHDOG_USEC": "often"}, "WATCHDOG_USEC 'often': no sign of life is given"),
        ({"NOTIFY_SOCKET": "vsock:2:1"}, "NOTIFY_SOCKET 'vsock:2:1': nobody is told"),
        ({"NOTIFY_SOCKET": "/nowhere/at/all"}, "the service manager cannot be told: No such file"),
    ],
)
def test_what_a_manager_says_amiss(
    folder: Path, manager: Manager, more: dict[str, str], said: str
) -> None:
    env = {"NOTIFY_SOCKET": manager.address, MARK: str(folder), **more}
    proxy = ProxyProcess(folder, env=env)
    if "NOTIFY_SOCKET" not in more:
        manager.until("READY")
    wait_for(lambda: said in proxy.stderr(), said)
    assert proxy.stop() == 0
    assert not any("WATCHDOG" in one.values for one in manager.rest())


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_nobody_else_has_the_address(folder: Path, manager: Manager) -> None:
    """Neither the policy, nor what it starts."""
    (folder / "look.py").write_text(
        "import os, subprocess\n"
        "from spliceproxy.policy import Allow\n"
        f"with open('{folder}/seen', 'a') as file:\n"
        "    subprocess.run(['env'], stdout=file)\n"
        "def authorize(request):\n"
        "    return Allow()\n"
    )
    proxy = Managed(folder, manager, "--policy", str(folder / "look.py"))
    manager.until("READY")
    seen = (folder / "seen").read_text()
    assert len(re.findall(f"^{MARK}=", seen, re.M)) == 2
    assert "NOTIFY_SOCKET" not in seen
    proxy.end()


# ---- the file with the process id ------------------------------------------------------------


def run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spliceproxy", "--listen", "127.0.0.1:0", *args],
        capture_output=True,
        text=True,
        timeout=20,
        env={**os.environ, MARK: str(folder)},
        check=False,
    )


def test_a_proxy_that_runs_keeps_its_pid_file(folder: Path) -> None:
    path = folder / "pid"
    path.write_text("1\n")  # of a process that runs, but has left this behind
    proxy = ProxyProcess(folder, "--pid-file", str(path), env={MARK: str(folder)})
    assert path.read_text() == f"{proxy.process.pid}\n"
    assert path.stat().st_mode & 0o777 == 0o644
    other = run(folder, "--pid-file", str(path))
    assert other.returncode == 1
    assert f"--pid-file {path}: process {proxy.process.pid} has it and runs" in other.stderr
    assert path.read_text() == f"{proxy.process.pid}\n"
    assert proxy.stop() == 0
    assert list(folder.glob("pid*")) == []


def test_a_pid_file_that_is_somebody_elses(folder: Path) -> None:
    path = folder / "pid"
    path.write_text("listen = []\n")
    other = run(folder, "--pid-file", str(path))
    assert (other.returncode, path.read_text()) == (1, "listen = []\n")
    assert "what is there is no process id; allowed: a file" in other.stderr
    path.unlink()
    proxy = ProxyProcess(folder, "--pid-file", str(path), env={MARK: str(folder)})
    path.write_text("7\n")
    path.rename(folder / "away")
    path.write_text("8\n")
    assert proxy.stop() == 0
    assert path.read_text() == "8\n"


def test_a_pid_file_where_none_can_be(folder: Path) -> None:
    assert run(folder, "--pid-file", "/proc/pid").returncode == 1
    other = run(folder, "--pid-file", str(folder / "no" / "pid"))
    assert other.returncode == 2
    assert "does not exist); allowed: a file in a directory that exists" in other.stderr


# ---- what the unit allows --------------------------------------------------------------------


def allowed() -> set[str]:
    """The system calls that the unit of ``spliceproxy unit`` leaves."""
    done = subprocess.run(
        [need("systemd-analyze"), "syscall-filter", "--no-pager"],
        capture_output=True,
        text=True,
        check=True,
    )
    groups: dict[str, set[str]] = {}
    for line in done.stdout.splitlines():
        word = line.strip()
        if line.startswith("@"):
            inside = groups.setdefault(word, set())
        elif word and not word.startswith("#"):
            inside.add(word)

    def of(group: str) -> set[str]:
        words = groups[group]
        return words.union(*(of(word) for word in words if word.startswith("@")))

    lines = [line for line in unit.SERVICE.splitlines() if line.startswith("SystemCallFilter=")]
    assert lines == ["SystemCallFilter=@system-service", "SystemCallFilter=~@privileged"]
    return of("@system-service") - of("@privileged")


def test_the_unit_refuses_no_system_call_that_is_made(folder: Path) -> None:
    """From the start over a reload and the replacement of a worker to the end."""
    calls = folder / "calls"
    (folder / "users").write_text(
        "bob:$2b$04$abcdefghijklmnopqrstuu5Lo0g67CiD3M4RpN1BmBb4Crp5w7dbK\n"
    )
    (folder / "policy.py").write_text(
        "from spliceproxy.policy import Allow\nasync def authorize(request):\n    return Allow()\n"
    )
    trace = [need("strace"), "-f", "-qq", "-c", "-U", "name", "-o", str(calls)]
    proxy = Managed(
        folder, None, "--policy", str(folder / "policy.py"), "--learn", str(folder / "seen"),
        "--htpasswd", str(folder / "users"), "--pid-file", str(folder / "pid"), prefix=trace,
    )  # fmt: skip
    with proxy.connect() as s:
        s.sendall(b"GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: x\r\n"
                  b"Proxy-Authorization: Basic Ym9iOng=\r\n\r\n")  # fmt: skip
        assert read_head(s).startswith(b"HTTP/1.1 407 ")
    for path in ("/reload", "/recycle", "/drain"):
        assert proxy.admin.ask(path, "POST").status in (200, 202), proxy.stderr()
    assert proxy.process.wait(30) == 0
    used = {line.strip() for line in calls.read_text().splitlines()}
    assert {"splice", "accept4", "sendto"} & used
    assert used - allowed() - {"total", "syscall", "-" * 16} == set()
