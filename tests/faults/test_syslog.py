"""The access log to syslog: to a daemon on this machine and to another by UDP, one that is
restarted, one that reads nothing, and one that is not there."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_peers import good_request
from harness import ProxyProcess, wait_for

NewProxy = Callable[..., ProxyProcess]

LOCAL = re.compile(rb"<30>[A-Z][a-z]{2} [ 123]\d \d\d:\d\d:\d\d spliceproxy\[(\d+)\]: ([ -~]+)")
REMOTE = re.compile(rb"<30>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (\S+) spliceproxy (\d+) - - ([ -~]+)")


def daemon(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    sock.settimeout(20)
    return sock


@pytest.fixture
def udp() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(20)
        yield sock


@pytest.mark.parametrize("engine", ["native", "copy"])
@pytest.mark.parametrize("form", ["native", "json", "combined"])
def test_a_local_daemon(
    new_proxy: NewProxy, tmp_path: Path, origin: socket.socket, engine: str, form: str
) -> None:
    with daemon(tmp_path / "log") as log:
        where = f"syslog:{tmp_path}/log"
        proxy = new_proxy("--access-log", where, "--log-format", form, "--engine", engine)
        for _ in range(3):
            good_request(proxy, origin)
        for _ in range(3):
            found = LOCAL.fullmatch(log.recv(8192))
            assert found is not None
            assert int(found[1]) == proxy.worker
            if form == "json":
                assert json.loads(found[2])["status"] == 200
            else:
                assert b"200" in found[2]
        assert proxy.access() == []


def test_another_machine(new_proxy: NewProxy, udp: socket.socket, origin: socket.socket) -> None:
    host, port = udp.getsockname()
    proxy = new_proxy("--access-log", f"syslog:{host}:{port}")
    good_request(proxy, origin)
    found = REMOTE.fullmatch(udp.recv(8192))
    assert found is not None
    assert found[1].decode() == socket.gethostname()
    assert int(found[2]) == proxy.worker
    assert b" TCP_MISS/200 " in found[3]


def test_a_daemon_that_is_restarted(
    new_proxy: NewProxy, tmp_path: Path, origin: socket.socket
) -> None:
    """What comes meanwhile is lost, counted and told; then it goes on by itself."""
    path = tmp_path / "log"
    with daemon(path) as log:
        proxy = new_proxy("--access-log", f"syslog:{path}")
        good_request(proxy, origin)
        assert LOCAL.fullmatch(log.recv(8192))
    good_request(proxy, origin)
    wait_for(lambda: "access log: lines are lost: " in proxy.stderr(), "the loss")
    path.unlink()
    good_request(proxy, origin)
    with daemon(path) as log:
        good_request(proxy, origin)
        assert LOCAL.fullmatch(log.recv(8192))
        wait_for(lambda: "lines dropped" in proxy.stderr(), "how many")
    told = re.findall(r"access log: .*, (\d+) lines dropped", proxy.stderr())
    assert 1 <= sum(map(int, told)) <= 2
    assert proxy.stderr().count("lines are lost") == 1


def test_a_daemon_that_reads_nothing_blocks_nobody(
    new_proxy: NewProxy, tmp_path: Path, origin: socket.socket
) -> None:
    """Its queue is a few datagrams long. The others wait until it reads."""
    with daemon(tmp_path / "log") as log:
        proxy = new_proxy("--access-log", f"syslog:{tmp_path}/log")
        queue = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
        count = min(queue, 100) + 20
        for _ in range(count):
            good_request(proxy, origin)
        for _ in range(count):
            assert LOCAL.fullmatch(log.recv(8192))
        assert "lost" not in proxy.stderr()


def test_nobody_listens_there(
    new_proxy: NewProxy, udp: socket.socket, origin: socket.socket
) -> None:
    """The kernel says so behind a line, with the next."""
    host, port = udp.getsockname()
    udp.close()
    proxy = new_proxy("--access-log", f"syslog:{host}:{port}")
    for _ in range(3):
        good_request(proxy, origin)

    def told() -> bool:
        good_request(proxy, origin)
        return "access log: lines are lost: Connection refused" in proxy.stderr()

    wait_for(told, "the loss")


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("syslog:host", "it needs a host and a port"),
        ("syslog:host:0", "'0' is no port; allowed: 1 to 65535"),
        ("syslog::514", "it needs a host and a port"),
        ("syslog:2001:db8::1:514", "an IPv6 address needs brackets"),
        ("syslog:/nothing/there", "/nothing/there: No such file or directory"),
    ],
)
def test_what_is_no_place(where: str, why: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "spliceproxy", "--listen", "127.0.0.1:0", "--access-log", where],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ},
        check=False,
    )
    assert done.returncode == 2
    assert why in done.stderr
    assert "--access-log" in done.stderr
