"""What is lost when something fails while there is a load of every kind.

SPLICEPROXY_TEST_SLOW_CLIENTS=5000 is how many slow clients there are; by default 500.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from changing_proxy import ChangingProxy, all_ended
from crowd_load import CrowdLoad, Sizes, crowd
from harness import ProxyProcess, alive, read_all, read_head, stop, wait_for

SIZES = Sizes(
    busy=30,
    idle=20,
    half=6,
    websockets=3,
    slow=2,
    asking=4,
    closing=2,
    fleeting=1,
    bodies=1,
    pace=0.05,
)
FIXED = SIZES._replace(asking=0, closing=0, fleeting=0, bodies=0)
"""Nothing that needs more descriptors than there are at the beginning."""

TUNNELS = ("busy", "idle", "half", "websocket", "slow")
"""Kinds of clients that are a tunnel each."""

SLOW_CLIENTS = int(os.environ.get("SPLICEPROXY_TEST_SLOW_CLIENTS", "500"))

STOPPED = 5.0
"""Seconds that a worker stands still."""

USER = 65533
"""Nobody else's number, so that nobody else has a part of its quota."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with all_ended(str(tmp_path)):
        yield tmp_path


def crowd_at(proxy: ProxyProcess, sizes: Sizes = SIZES) -> CrowdLoad:
    return CrowdLoad(("127.0.0.1", proxy.port), sizes)


def tunnels_of(proxy: ChangingProxy) -> Counter[int]:
    """How many tunnels each worker has."""
    flows = proxy.admin.get("/tunnels")["tunnels"]
    return Counter(flow["worker"] for flow in flows if flow["kind"] == "tunnel")


def pid_of(proxy: ChangingProxy, worker: int) -> int:
    workers = proxy.admin.get("/stats.json")["workers"]
    return next(one["pid"] for one in workers if one["index"] == worker)


def lost_tunnels(lost: Counter[str]) -> int:
    return sum(lost[kind] for kind in TUNNELS)


# ---- processes ---------------------------------------------------------------------------------


def test_a_worker_is_killed(folder: Path) -> None:
    """Its tunnels are lost, and the requests that it had; nothing else."""
    proxy = ChangingProxy(folder, workers=2)
    # No slow readers: what waits in the kernel for one still comes for a minute.
    with crowd_at(proxy, SIZES._replace(fleeting=0, slow=0)) as load:
        load.goes_on()
        its = tunnels_of(proxy)[0]
        assert 0 < its < sum(SIZES[:5])
        os.kill(pid_of(proxy, 0), signal.SIGKILL)
        wait_for(lambda: lost_tunnels(load.lost()) >= its, "what is lost")
        wait_for(lambda: len(proxy.workers()) == 2, "another worker")
        load.goes_on()
        lost = load.finish()
    assert lost_tunnels(lost) == its, load.told()
    others = sum(lost.values()) - lost_tunnels(lost)
    assert others <= 7, load.told()  # those who ask, each of whom has one connection
    proxy.end()


def test_the_supervisor_is_killed(folder: Path) -> None:
    """The workers take no more clients, finish what they serve, and end. What is open when the
    drain time is over is lost."""
    proxy = ChangingProxy(folder, "--timeout-drain", "2", workers=2)
    with crowd_at(proxy) as load:
        load.goes_on()
        workers = proxy.children()
        proxy.process.kill()
        proxy.process.wait()
        wait_for(lambda: not any(map(alive, workers)), "the end of the workers")
        with pytest.raises(ConnectionRefusedError):
            proxy.connect()
        wait_for(lambda: lost_tunnels(load.lost()) == sum(SIZES[:5]), "the end of each tunnel")
        assert not [text for _, text in load.faults if "another b" in text or "is not" in text]
    assert "the drain time is over, cutting off" in proxy.stderr()


def test_a_worker_is_stopped(folder: Path) -> None:
    """Its clients wait for it, and nothing is lost."""
    proxy = ChangingProxy(folder, workers=2)
    with crowd_at(proxy) as load:
        load.goes_on()
        victim = pid_of(proxy, 1)
        stop(victim)
        answers = load.answers
        time.sleep(STOPPED)  # the fault itself
        assert load.answers > answers  # of the other worker
        os.kill(victim, signal.SIGCONT)
        load.goes_on()
        load.end()
    assert load.longest > STOPPED / 2
    proxy.end()


# ---- descriptors, in each process of an upgrade ------------------------------------------------


def exhaust(pid: int) -> None:
    """The process may open no more descriptors."""
    have = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    lowest = next(number for number in range(len(have) + 1) if number not in have)
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest, hard))


def relieve(pid: int) -> None:
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))


LEAVES_NONE = (
    "import resource\n"
    "def leave_none(more=0):\n"
    "    have = {int(name) for name in os.listdir('/proc/self/fd')}\n"
    "    free = [n for n in range(10000) if n not in have]\n"
    "    resource.setrlimit(resource.RLIMIT_NOFILE, (free[more], free[more]))\n"
)


def test_the_supervisor_has_no_descriptor_for_an_upgrade(folder: Path) -> None:
    proxy = ChangingProxy(folder, workers=2)
    with crowd(("127.0.0.1", proxy.port), SIZES) as load:
        exhaust(proxy.main)
        answer = proxy.upgrade()
        assert answer.status == 409
        assert "a process cannot be started: too many open files" in answer.text.lower()
        load.goes_on()
        relieve(proxy.main)
        proxy.upgraded()
        load.goes_on()
    proxy.end()


def test_the_new_program_has_no_descriptor_for_the_sockets(folder: Path) -> None:
    proxy = ChangingProxy(folder, workers=2)
    with crowd(("127.0.0.1", proxy.port), SIZES) as load:
        proxy.become(
            LEAVES_NONE + "from spliceproxy.processes import succession\n"
            "before = succession.Predecessor.queues\n"
            "succession.Predecessor.queues = lambda *a: (leave_none(), before(*a))[1]\n"
        )
        answer = proxy.upgrade()
        assert answer.status == 409
        assert "no free descriptor for the listening sockets" in answer.text
        load.goes_on()
        proxy.become("")
        proxy.upgraded()
        load.goes_on()
    proxy.end()


def test_an_old_worker_has_no_descriptor(folder: Path) -> None:
    """It cannot meet the new one, so its connections stay for the drain time: nothing that ends
    until then is lost, and nothing of the other worker's."""
    proxy = ChangingProxy(folder, "--timeout-drain", "60", workers=2)
    with crowd_at(proxy, FIXED) as load:
        before = proxy.main
        exhaust(pid_of(proxy, 0))
        its = tunnels_of(proxy)[0]
        assert proxy.upgrade().status == 200
        wait_for(lambda: proxy.main != before, "the new main process")
        assert "there was no free descriptor for the other worker" in proxy.stderr()
        assert sum(tunnels_of(proxy).values()) == sum(SIZES[:5]) - its
        load.goes_on()
        load.end()
    wait_for(lambda: not alive(before), "the end of the old program")
    proxy.end()


def test_a_new_worker_has_no_descriptor(folder: Path) -> None:
    """What it cannot take stays with the old one, for the drain time."""
    proxy = ChangingProxy(folder, "--timeout-drain", "60")
    with crowd_at(proxy, FIXED) as load:
        before = proxy.main
        proxy.become(
            LEAVES_NONE + "from spliceproxy.processes import moves\n"
            "before = moves.Moves._take\n"
            "moves.Moves._take = lambda *a: (before(*a), leave_none(20))[0]\n"
        )
        assert proxy.upgrade().status == 200
        wait_for(lambda: proxy.main != before, "the new main process")
        assert "a tunnel stays in this worker, for the other cannot take it" in proxy.stderr()
        assert 0 < sum(tunnels_of(proxy).values()) <= 10
        load.goes_on()
        load.end()
    wait_for(lambda: not alive(before), "the end of the old program")
    proxy.end()


# ---- what is around ----------------------------------------------------------------------------

TAKES_PIPES = """
import fcntl, os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
os.setgid({user})
os.setuid({user})
small = False
while not small:
    _, w = os.pipe()
    try:
        fcntl.fcntl(w, fcntl.F_SETPIPE_SZ, 1 << 20)
    except PermissionError:
        small = fcntl.fcntl(w, fcntl.F_GETPIPE_SZ) < 65536
print("taken", flush=True)
sys.stdin.read()
"""
"""As long as it lives this user has no pipe left that is worth its name (pipe(7))."""


def test_the_pipe_quota_is_exhausted(tmp_path: Path) -> None:
    """What would be spliced is copied."""
    if os.getuid() != 0:
        pytest.skip("another user's quota needs root")
    thief = subprocess.Popen(
        [sys.executable, "-c", TAKES_PIPES.format(user=USER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert thief.stdout is not None
        assert thief.stdout.readline() == b"taken\n"
        become = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups")
        proxy = ProxyProcess(tmp_path, prefix=become)
        with crowd(("127.0.0.1", proxy.port), SIZES) as load:
            load.goes_on()
            wait_for(lambda: "no pipe is left in the quota" in proxy.stderr(), "the message")
            load.goes_on()
        assert proxy.stop() == 0
    finally:
        thief.kill()
        thief.wait()


def test_the_name_server_is_silent(folder: Path) -> None:
    """Requests by names wait for it, and get their answer when the time limit is over; nobody else
    waits."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        where = "{}:{}".format(*silent.getsockname())
        env = {"SPLICEPROXY_DNS_SERVER": where}
        proxy = ChangingProxy(folder, "--timeout-dns", "2", env=env)
        with crowd(("127.0.0.1", proxy.port), SIZES) as load:
            asked = [proxy.connect() for _ in range(100)]
            for number, client in enumerate(asked):
                host = f"h{number}.example"
                client.sendall(f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            load.goes_on()
            for client in asked:
                assert read_head(client).startswith(b"HTTP/1.1 504 ")
                client.close()
            load.goes_on()
        proxy.end()


def test_slow_clients(folder: Path) -> None:
    """Thousands whose heads come byte by byte, until the time limit ends them."""
    limit = max(3, SLOW_CLIENTS // 100)  # seconds: all are to be there before it is over
    proxy = ChangingProxy(folder, "--timeout-head", str(limit), workers=2)
    with crowd(("127.0.0.1", proxy.port), SIZES) as load:
        slow = []
        for _ in range(SLOW_CLIENTS):
            slow.append(proxy.connect(timeout=20 + limit))
            slow[-1].sendall(b"GET http://127.0.0.1/ HTTP/1.1\r\nX: ")
        for _ in range(3):
            for client in slow:
                client.sendall(b"x")
            load.goes_on()
        for client in slow:
            assert read_all(client).startswith(b"HTTP/1.1 408 ")
            client.close()
        load.goes_on()
    proxy.end()
