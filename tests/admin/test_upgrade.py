"""The program is started anew while it serves, and takes over: nobody notices, whatever the new
program does."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from changing_proxy import MARK, ChangingProxy, processes
from faults.fault_peers import deaf_address
from harness import (
    ProxyProcess,
    alive,
    default_signals,
    descriptors,
    read_exactly,
    read_head,
    refused_port,
    serving,
    stop,
    wait_for,
)
from moving_load import Load, Origin, ask_once


def start(folder: Path, *args: str, **more: Any) -> ChangingProxy:
    return ChangingProxy(folder, *args, **more)


@pytest.fixture(params=["native", "splice"])
def proxy(folder: Path, request: pytest.FixtureRequest) -> ChangingProxy:
    return start(folder, "--engine", request.param, workers=2)


# ---- it works --------------------------------------------------------------------------------


def test_nobody_notices(proxy: ChangingProxy, origin: Origin, address: tuple[str, int]) -> None:
    load = Load(proxy, origin, address)
    for _ in range(3):
        proxy.upgraded()
        load.goes_on()
    load.end()

    def tunnels() -> list[str]:
        return [line for line in proxy.access() if "CONNECT" in line]

    proxy.end()
    assert len(tunnels()) == 12


def test_descriptors_are_back_at_the_start(
    proxy: ChangingProxy, origin: Origin, address: tuple[str, int]
) -> None:
    with proxy.connect() as s:
        ask_once(s, address)
    main = proxy.upgraded()
    supervisor = descriptors(main)
    workers = sorted(descriptors(pid) for pid in proxy.children(main))
    load = Load(proxy, origin, address)
    for _ in range(3):
        proxy.upgraded()
    load.end()
    main = proxy.main
    assert descriptors(main) == supervisor

    def at_rest() -> bool:
        now = sorted(descriptors(pid) for pid in proxy.children(main))
        # Idle connections to the origin stay for a while.
        return all(n <= before + 4 for n, before in zip(now, workers, strict=True))

    wait_for(at_rest, "the descriptors")
    proxy.end()


def test_sigusr2_does_it_without_an_admin_address(folder: Path, address: tuple[str, int]) -> None:
    proxy = ProxyProcess(folder, env={MARK: str(folder)})
    with proxy.connect() as s:
        ask_once(s, address)
        proxy.process.send_signal(signal.SIGUSR2)
        assert proxy.process.wait(20) == 0
        ask_once(s, address)
        new = int(re.findall(r"has taken over, as process (\d+)", proxy.stderr())[0])
        # By this name docs/operation.md has pkill(1) find it.
        assert Path(f"/proc/{new}/comm").read_text().strip() == "spliceproxy"
        os.kill(new, signal.SIGTERM)
    wait_for(lambda: not processes(str(folder)), "the end")


def test_other_settings_and_more_workers(folder: Path, address: tuple[str, int]) -> None:
    path = folder / "listen"
    proxy = start(folder, listen=("127.0.0.1:0", f"unix:{path}"))
    inode = path.stat().st_ino
    for workers in (3, 1, 2):
        proxy.become(f"sys.argv[sys.argv.index('--workers') + 1] = '{workers}'")
        main = proxy.upgraded()
        wait_for(lambda n=workers, m=main: len(proxy.children(m)) == n + 1, "its workers")
        for _ in range(20):
            with proxy.connect() as s:
                ask_once(s, address)
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(path))
            ask_once(s, address)
    assert path.stat().st_ino == inode
    proxy.end()
    assert not path.exists()


def test_counters_never_go_back(proxy: ChangingProxy, address: tuple[str, int]) -> None:
    def served() -> int:
        text = proxy.admin.ask("/metrics").text
        return sum(
            int(float(line.rpartition(" ")[2]))
            for line in text.splitlines()
            if line.startswith("spliceproxy_requests_total{") and 'method="GET"' in line
        )

    with proxy.connect() as s:
        for number in range(1, 5):
            ask_once(s, address)
            wait_for(lambda n=number: served() == n, "the request")
            proxy.upgraded()
            assert served() == number
    proxy.end()


def test_ids_of_requests_are_never_given_twice(folder: Path, address: tuple[str, int]) -> None:
    proxy = start(folder, "--log-format", "json")
    for _ in range(3):
        for _ in range(3):
            with proxy.connect() as s:
                ask_once(s, address)
        proxy.upgraded()
    proxy.end()
    found = re.findall(r'"id":"([^"]*)"', "\n".join(proxy.access()))
    assert len(found) == 9
    assert len(set(found)) == 9


def test_ctl_tells_both(folder: Path) -> None:
    proxy = start(folder)
    command = [sys.executable, "-m", "spliceproxy", "ctl", "--admin", f"unix:{proxy.admin.path}"]
    before = proxy.main
    done = subprocess.run([*command, "upgrade"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"old  {before} ", done.stdout)
    wait_for(lambda: proxy.main != before, "the new main process")
    assert re.search(rf"new  {proxy.main} ", done.stdout)
    proxy.become("sys.exit(3)")
    done = subprocess.run([*command, "upgrade"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "the new program exited with status 3" in done.stderr
    proxy.end()


def test_a_working_directory_that_is_gone(folder: Path, address: tuple[str, int]) -> None:
    there = folder / "there"
    there.mkdir()
    command = f'cd "{there}" && exec "$0" "$@"'
    proxy = start(folder, prefix=("sh", "-c", command))
    there.rmdir()
    proxy.upgraded()
    with proxy.connect() as s:
        ask_once(s, address)
    proxy.end()


# ---- it does not -----------------------------------------------------------------------------

DIES = "os.kill(os.getpid(), 9)"
IMPORTS = (
    "import os, time, signal\nfrom spliceproxy.processes import succession, taking_over, parcels\n"
)

FAULTS = {
    "ends at once": ("sys.exit(3)", "the new program exited with status 3"),
    "dies at once": ("import os; os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
    "says nothing": (
        "import time\nif 'SPLICEPROXY_UPGRADE' in __import__('os').environ: time.sleep(60)",
        "has not said who it is within 1 s",
    ),
    "is an older program": (
        "import os; os.environ.pop('SPLICEPROXY_UPGRADE', None)",
        "the new program exited with status 1",
    ),
    "has another protocol": (IMPORTS + "succession.PROTOCOL = 99", "by protocol 99, and this one"),
    "does not know the nonce": (
        "import os\nfd, _, n = os.environ.get('SPLICEPROXY_UPGRADE', '::').partition(':')\n"
        "if n: os.environ['SPLICEPROXY_UPGRADE'] = fd + ':other'",
        "does not know what the new program was told",
    ),
    "is started by another": (
        "import os, subprocess\n"
        "if 'SPLICEPROXY_UPGRADE' in os.environ and not os.environ.get('AGAIN'):\n"
        "    fd = int(os.environ['SPLICEPROXY_UPGRADE'].partition(':')[0])\n"
        "    sys.exit(subprocess.call([sys.executable, *sys.argv], pass_fds=[fd],\n"
        "        env={**os.environ, 'AGAIN': '1'}))",
        "has to do so by exec",
    ),
    "dies behind its hello": (
        IMPORTS + f"succession.Predecessor.places = lambda *a, **k: {DIES}",
        "was ended by SIGKILL",
    ),
    "dies with the sockets": (
        IMPORTS + "before = succession.Predecessor.queues\n"
        f"succession.Predecessor.queues = lambda *a: (before(*a), {DIES})",
        "was ended by SIGKILL",
    ),
    "wants what there is not": (
        IMPORTS + "succession.Predecessor.queues = lambda self, n: (\n"
        "    self._say({'want': 99}), self._answer('queues'))",
        "wants what there is not",
    ),
    "is never ready": (
        IMPORTS + "taking_over.TakingOver._on_ready = lambda *a: True",
        "was not ready within 1 s",
    ),
    "dies before it is ready": (
        IMPORTS + f"taking_over.TakingOver._on_ready = lambda *a: {DIES}",
        "was ended by SIGKILL",
    ),
    "dies when it is ready": (
        IMPORTS + "before = taking_over.TakingOver._say\n"
        f"taking_over.TakingOver._say = lambda *a: (before(*a), {DIES})",
        "was ended by SIGKILL",
    ),
    "dies when it is to serve": (
        IMPORTS + f"taking_over.TakingOver._serve = lambda *a: {DIES}",
        "was ended by SIGKILL",
    ),
    "dies when it is to take": (
        IMPORTS + f"taking_over.TakingOver._introduce = lambda *a: {DIES}",
        "was ended by SIGKILL",
    ),
    "says nonsense": (
        IMPORTS + "taking_over.TakingOver._on_ready = lambda self, *a: self._say({'what': 1})",
        "said what nobody understands",
    ),
}


LIMITS = {
    "says nothing": "upgrade.HELLO_SECONDS = 1.0",
    "is never ready": "upgrade.READY_SECONDS = 1.0",
}
"""Patches of the program that runs."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_new_program_that_fails_changes_nothing(
    folder: Path, origin: Origin, address: tuple[str, int], fault: str
) -> None:
    proxy = start(folder, workers=2, patch=LIMITS.get(fault, ""))
    load = Load(proxy, origin, address, each=2)
    before = proxy.children(proxy.main)
    count = descriptors(proxy.main)
    patch, why = FAULTS[fault]
    proxy.become(patch)
    answer = proxy.upgrade()
    assert answer.status == 409
    assert why in answer.text
    assert f"no upgrade: {answer.text.strip()}" in proxy.stderr()
    load.goes_on()
    with proxy.connect() as s:
        ask_once(s, address)
    wait_for(lambda: proxy.children(proxy.main) == before, "the end of the new program")
    wait_for(lambda: descriptors(proxy.main) == count, "its descriptors")
    assert Path(proxy.admin.path).is_socket()
    if fault not in LIMITS:
        proxy.become("")
        proxy.upgraded()
    load.end()
    proxy.end()


SETTINGS = {
    "a bad value": ("workers = 'many'\n", "workers: "),
    "no file": (None, "cannot read it (No such file or directory)"),
    "a bad policy": ("policy = 'policy.py:decide'\n", "ValueError: of no use"),
    "a port that is taken": ("listen = ['127.0.0.1:{taken}']\n", "another program uses it"),
}


@pytest.mark.parametrize("which", SETTINGS)
def test_settings_that_are_refused(folder: Path, address: tuple[str, int], which: str) -> None:
    config = folder / "proxy.toml"
    config.write_text("")
    listen = () if "port" in which else ("127.0.0.1:0",)
    if not listen:
        config.write_text("listen = ['127.0.0.1:0']\n")
    proxy = start(folder, "--config", str(config), listen=listen)
    (folder / "policy.py").write_text("raise ValueError('of no use')\n")
    text, why = SETTINGS[which]
    with refused_port() as taken, proxy.connect() as s:
        ask_once(s, address)
        if text is None:
            config.unlink()
        else:
            config.write_text(text.format(taken=taken))
        answer = proxy.upgrade()
        assert answer.status == 409
        assert "the new program refuses: " in answer.text
        assert why in answer.text
        ask_once(s, address)
    proxy.end()


def test_a_program_that_is_gone(folder: Path, address: tuple[str, int]) -> None:
    python = folder / "python"
    python.symlink_to(sys.executable)
    command = 'exec "$0" "$@"'
    paths = os.pathsep.join(path for path in sys.path if path)
    with serving(Origin().serve):
        env = {**os.environ, MARK: str(folder), "PYTHONPATH": paths}
        messages = folder / "messages"
        with messages.open("wb") as err:
            process = subprocess.Popen(
                ["sh", "-c", command, str(python), "-m", "spliceproxy", "--listen", "127.0.0.1:0"],
                env=env,
                stderr=err,
                stdout=subprocess.DEVNULL,
                preexec_fn=default_signals,
            )
        wait_for(lambda: b"event loop" in messages.read_bytes(), "the start")
        python.unlink()
        process.send_signal(signal.SIGUSR2)
        wait_for(lambda: b"no upgrade" in messages.read_bytes(), "the refusal")
        assert f"{python} cannot be started: No such file" in messages.read_text()
        process.terminate()
        assert process.wait(20) == 0


# ---- at the same time ------------------------------------------------------------------------

SLOW = """
import os, time
from spliceproxy.processes import succession
before = succession.Predecessor.greet
def greet(self):
    before(self)
    with open(os.environ["GATE"]) as gate:
        gate.read()
succession.Predecessor.greet = greet
"""


@pytest.fixture
def gate(folder: Path) -> Path:
    path = folder / "gate"
    os.mkfifo(path)
    return path


def opened(gate: Path) -> bool:
    """Lets whoever waits at the gate go on; whether somebody does."""
    try:
        os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:  # ENXIO: nobody does
        return False
    return True


def begin(proxy: ChangingProxy) -> socket.socket:
    """Asks for an upgrade, and waits until the new program has begun."""
    asked = proxy.admin.socket()
    asked.sendall(b"POST /upgrade HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
    wait_for(lambda: "the new program is process" in proxy.stderr(), "the new program")
    return asked


def test_a_second_one_meanwhile_is_refused(folder: Path, gate: Path) -> None:
    proxy = start(folder, env={"GATE": str(gate)})
    proxy.become(SLOW)
    with begin(proxy) as asked:
        answer = proxy.upgrade()
        assert answer.status == 409
        assert "an upgrade is under way" in answer.text
        assert "an upgrade is under way" in proxy.admin.ask("/recycle", "POST").text
        answer = proxy.admin.ask("/reload", "POST")
        assert answer.status == 409
        assert "an upgrade is under way" in answer.text
        proxy.process.send_signal(signal.SIGUSR2)
        refused = "no upgrade: an upgrade is under way"
        wait_for(lambda: proxy.stderr().count(refused) == 2, "the second refusal")
        gate.write_text("go on")
        assert asked.recv(1000).startswith(b"HTTP/1.1 200 ")
    wait_for(lambda: proxy.main != proxy.process.pid, "the new main process")
    proxy.end()


def test_a_stop_meanwhile_ends_both(folder: Path, gate: Path, address: tuple[str, int]) -> None:
    proxy = start(folder, env={"GATE": str(gate)})
    proxy.become(SLOW)
    with begin(proxy):
        os.kill(proxy.process.pid, signal.SIGTERM)
        assert proxy.process.wait(20) == 0
    wait_for(lambda: not processes(str(folder)), "the end of both")
    assert "no upgrade: this proxy stops" in proxy.stderr()


def test_the_new_program_is_stopped_meanwhile(
    folder: Path, gate: Path, address: tuple[str, int]
) -> None:
    proxy = start(folder, env={"GATE": str(gate)})
    proxy.become(SLOW)
    with proxy.connect() as s, begin(proxy) as asked:
        ask_once(s, address)
        new = int(re.findall(r"the new program is process (\d+)", proxy.stderr())[0])
        os.kill(new, signal.SIGTERM)
        assert asked.recv(1000).startswith(b"HTTP/1.1 409 ")
        ask_once(s, address)
    proxy.end()


def test_a_supervisor_that_is_killed_meanwhile_leaves_the_new_program(
    folder: Path, gate: Path, address: tuple[str, int]
) -> None:
    proxy = start(folder, env={"GATE": str(gate)})
    proxy.become(SLOW)
    with begin(proxy):
        proxy.process.kill()
        proxy.process.wait()
        # It has the sockets only if it was given them before; else it cannot start, and may know
        # that already.
        wait_for(lambda: opened(gate) or "gone" in proxy.stderr(), "the gate")
        wait_for(lambda: "it cannot" in proxy.stderr() or "gone" in proxy.stderr(), "its end")
    wait_for(lambda: not processes(str(folder)), "the end of all")


def test_a_supervisor_that_is_killed_late_is_succeeded(
    folder: Path, address: tuple[str, int]
) -> None:
    proxy = start(folder)
    proxy.become(
        "import os\nfrom spliceproxy.processes import taking_over\n"
        "before = taking_over.TakingOver._say\n"
        "def say(*a):\n"
        "    os.kill(os.getppid(), 9)\n"
        "taking_over.TakingOver._say = say\n"
    )
    with contextlib.suppress(OSError), begin(proxy) as asked:
        asked.recv(1000)
    assert proxy.process.wait(20) == -signal.SIGKILL
    wait_for(lambda: proxy.main != proxy.process.pid, "the new main process")
    with proxy.connect() as s:
        ask_once(s, address)
    wait_for(lambda: proxy.admin.ask("/readyz").status == 200, "its admin process")
    proxy.end()


def test_a_worker_that_does_not_give(folder: Path, address: tuple[str, int]) -> None:
    # It is stopped, so it neither serves nor drains; the others are not kept waiting for ever.
    proxy = start(folder, "--timeout-drain", "1", patch="upgrade.GIVE_SECONDS = 2.0", workers=2)
    victim = proxy.children(proxy.main)[0]
    stop(victim)
    answer = proxy.upgrade()
    assert answer.status == 200
    assert "has not given all within 2 s" in proxy.stderr()
    for _ in range(10):
        with proxy.connect() as s:
            ask_once(s, address)
    wait_for(lambda: not alive(victim), "the end of the one that is stopped")
    wait_for(lambda: proxy.main != proxy.process.pid, "the new main process")
    proxy.end()


def test_process_1_of_a_container_refuses(folder: Path) -> None:
    messages = folder / "messages"
    with messages.open("wb") as err:
        process = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child",
             sys.executable, "-m", "spliceproxy", "--listen", "127.0.0.1:0"],
            env={**os.environ, MARK: str(folder)},
            stderr=err,
            stdout=subprocess.DEVNULL,
            preexec_fn=default_signals,
        )  # fmt: skip
    try:
        wait_for(
            lambda: b"event loop" in messages.read_bytes() or process.poll() is not None,
            "the start",
        )
        if process.poll() is not None:
            pytest.skip("no new namespace of processes can be made here")
        (first,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(first), signal.SIGUSR2)
        wait_for(lambda: b"no upgrade" in messages.read_bytes(), "the refusal")
        assert "process 1 of its container" in messages.read_text()
        os.kill(int(first), signal.SIGTERM)
        process.wait(20)
    finally:
        process.kill()
        process.wait()


def test_a_stop_signal_for_all_is_the_first_for_the_old_one(folder: Path) -> None:
    with deaf_address() as (host, port):
        proxy = start(folder, "--guard", "off", "--timeout-drain", "2")
        held = proxy.connect()
        held.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())

        def dials() -> bool:
            flows = proxy.admin.get("/tunnels")["tunnels"]
            return [flow["state"] for flow in flows] == ["dial"]

        wait_for(dials, "what cannot move")
        assert proxy.upgrade().json["moved"]["left"] == 1
        wait_for(lambda: proxy.main != proxy.process.pid, "the new main process")
        assert alive(proxy.process.pid)
        for pid in (proxy.process.pid, proxy.main):
            os.kill(pid, signal.SIGTERM)
        wait_for(lambda: "it drains already" in proxy.stderr(), "the signal")
        assert alive(proxy.process.pid)
        os.kill(proxy.process.pid, signal.SIGTERM)
        assert proxy.process.wait(20) in (0, 128 + signal.SIGTERM)
        held.close()


def test_what_waits_in_the_queue_is_served(folder: Path, address: tuple[str, int]) -> None:
    proxy = start(folder)
    worker = next(pid for pid in proxy.children(proxy.main) if pid == proxy.worker)
    stop(worker)
    waiting = [proxy.connect() for _ in range(20)]
    os.kill(worker, signal.SIGCONT)
    proxy.upgraded()
    for s in waiting:
        ask_once(s, address)
        s.close()
    proxy.end()


def test_a_body_goes_on(folder: Path) -> None:
    """What cannot move is finished by the old program."""
    size = 4 << 20

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode()
        connection.sendall(head + bytes(size))

    with serving(serve) as (host, port):
        proxy = start(folder)
        with proxy.connect() as s:
            s.sendall(f"GET http://{host}:{port}/ HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
            read_head(s)
            assert proxy.upgrade().status == 200
            assert len(read_exactly(s, size)) == size
        wait_for(lambda: proxy.main != proxy.process.pid, "the new main process")
        proxy.end()
