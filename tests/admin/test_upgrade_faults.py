"""Something goes wrong while the old program gives what it has to the new one, or behind that."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from changing_proxy import ChangingProxy, processes
from harness import alive, read_head, stop, wait_for
from moving_load import Busy, ask_once, echo

TUNNELS = 6


def begin(proxy: ChangingProxy) -> socket.socket:
    asked = proxy.admin.socket()
    asked.sendall(b"POST /upgrade HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
    return asked


# ---- it is tried again -----------------------------------------------------------------------

NO_PAIR = """
import errno, os
from spliceproxy.processes import handing_over
make = handing_over.pair
left = [1, 2]
def pair():
    if left:
        left.pop()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return make()
handing_over.pair = pair
"""

NO_ROOM = """
from spliceproxy.admin import channel
send = channel.Channel.send
left = [1] * {times}
def full(self, message, fds=()):
    if message.get("ask") == {ask!r} and left:
        left.pop()
        return False
    return send(self, message, fds)
channel.Channel.send = full
"""

DIES = """
import os
from spliceproxy.processes import moves
take = moves.Moves._take
def die_once(self, order):
    try:
        os.close(os.open({file!r}, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return take(self, order)
    os.kill(os.getpid(), 9)
moves.Moves._take = die_once
import time
from spliceproxy.processes import slot
def later(self):
    self.due = time.monotonic() + 0.3
    return 0.3
slot.Slot.postpone = later
"""
"""And another is not there at once."""

AGAIN = {
    "the old supervisor has no descriptor": (NO_PAIR, ""),
    "an old worker does not read": (NO_ROOM.format(ask="give", times=2), ""),
    "a new worker does not read that it is to take": ("", NO_ROOM.format(ask="take", times=6)),
    "a new worker does not read that it is to serve": ("", NO_ROOM.format(ask="serve", times=2)),
    "a new worker dies": ("", DIES),
}


@pytest.mark.parametrize("fault", AGAIN)
def test_what_goes_wrong_for_a_moment_costs_nothing(
    folder: Path, address: tuple[str, int], fault: str
) -> None:
    old, new = AGAIN[fault]
    proxy = ChangingProxy(folder, "--timeout-drain", "1", workers=2, patch=old)
    tunnels = [proxy.tunnel(*address) for _ in range(TUNNELS)]
    echo(tunnels)
    proxy.become(new.format(file=str(folder / "died")) if new == DIES else new)
    answer = proxy.upgrade()
    assert answer.status == 200, answer
    assert answer.json["moved"]["tunnels"] == TUNNELS
    wait_for(lambda: not alive(proxy.process.pid), "the end of the old program")
    echo(tunnels)
    for _ in range(8):  # of each worker
        with proxy.connect() as s:
            ask_once(s, address)
    for one in tunnels:
        one.close()
    proxy.end()


def test_a_fault_of_one_tunnel_keeps_no_other(folder: Path, address: tuple[str, int]) -> None:
    patch = (
        "from spliceproxy.forward import moving\n"
        "freeze = moving.Moving.freeze\n"
        "broken = []\n"
        "def fails_once(self, ident):\n"
        "    broken[:] = broken or [ident]\n"
        "    if ident in broken:\n"
        "        raise MemoryError\n"
        "    return freeze(self, ident)\n"
        "moving.Moving.freeze = fails_once\n"
    )
    proxy = ChangingProxy(folder, "--timeout-drain", "60", patch=patch)
    tunnels = [proxy.tunnel(*address) for _ in range(TUNNELS)]
    echo(tunnels)
    proxy.become("")
    answer = proxy.upgrade()
    assert answer.status == 200, answer
    assert answer.json["moved"]["tunnels"] == TUNNELS - 1
    echo(tunnels)
    for one in tunnels:
        one.close()
    wait_for(lambda: not alive(proxy.process.pid), "the end of the old program")
    proxy.end(tells_of=True)


# ---- the new program ends when connections have moved ----------------------------------------

MOVED = """
import os
from spliceproxy.processes import giving, upgrade
gave, given = upgrade.Upgrade._gave, upgrade.Upgrade._given
def some(self, slot, message):
    if {some}:
        os.kill(self._new.pid, {signal})
    return gave(self, slot, message)
def all(self):
    given(self)
    os.kill(self._new.pid, {signal})
upgrade.Upgrade._gave = some
upgrade.Upgrade._given = all
upgrade.Upgrade._end_admin = lambda *args: None
"""
"""The program that runs kills the other when one worker has given all, or when all have."""

GONE = {
    "some have moved": MOVED.format(some=True, signal=9),
    "all have moved": MOVED.format(some=False, signal=9),
    "all have moved, and it is told to stop": MOVED.format(some=False, signal=15),
}


@pytest.mark.parametrize(
    ("engine", "fault"), [*(("native", one) for one in GONE), ("splice", "all have moved")]
)
def test_what_has_moved_comes_back(
    folder: Path, address: tuple[str, int], engine: str, fault: str
) -> None:
    proxy = ChangingProxy(folder, "--engine", engine, workers=2, patch=GONE[fault])
    tunnels = [proxy.tunnel(*address) for _ in range(TUNNELS)]
    echo(tunnels)
    busy = [Busy(proxy.tunnel(*address), number) for number in range(3)]
    workers = proxy.children(proxy.main)
    proxy.become("")
    asked = begin(proxy)
    wait_for(lambda: "no upgrade: the new program" in proxy.stderr(), "the failure")
    wait_for(lambda: len(processes(str(folder))) == len(workers) + 1, "the end of the new one")
    assert "is given back" in proxy.stderr()
    assert "cutting off" not in proxy.stderr()
    echo(tunnels)
    asked.close()
    with proxy.connect() as s:
        ask_once(s, address)
    for one in busy:
        one.end()
    for s in tunnels:
        s.close()
    wait_for(lambda: len([one for one in proxy.access() if "CONNECT" in one]) == 9, "the lines")
    proxy.end()


def test_a_worker_that_dies_meanwhile_is_not_started_again(
    folder: Path, address: tuple[str, int]
) -> None:
    """Who would come to another would be cut by the drain."""
    patch = (
        "import os\n"
        "from spliceproxy.processes import children, upgrade\n"
        "start = children.Children._start\n"
        "def told(self, slot, **more):\n"
        "    os.write(2, f'STARTS {slot.name}\\n'.encode())\n"
        "    return start(self, slot, **more)\n"
        "children.Children._start = told\n"
        "give = upgrade.Upgrade._give\n"
        "upgrade.Upgrade._give = lambda *a: (give(*a), os.write(2, b'THEY GIVE\\n'))\n"
    )
    proxy = ChangingProxy(folder, workers=2, patch=patch)
    victim, other = proxy.workers()
    proxy.become("")
    for pid in (victim, other):
        stop(pid)
    with begin(proxy) as asked:
        wait_for(lambda: "THEY GIVE" in proxy.stderr(), "the giving")
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: "if the upgrade fails" in proxy.stderr(), "its end")
        os.kill(other, signal.SIGCONT)
        assert asked.recv(1000).startswith(b"HTTP/1.1 200 ")
    wait_for(lambda: not alive(proxy.process.pid), "the end of the old program")
    assert proxy.stderr().count("STARTS worker") == 2
    with proxy.connect() as s:
        ask_once(s, address)
    proxy.end()


# ---- what the two supervisors say ------------------------------------------------------------


@contextlib.contextmanager
def held_by(folder: Path, *args: str, patch: str = "") -> Iterator[ChangingProxy]:
    """A proxy with a request that it cannot give away, so that it drains until the end."""
    there = folder / "files"
    there.mkdir()
    with (there / "large").open("wb") as large:
        large.truncate(1 << 30)
    args = ("--serve", str(there), "--timeout-drain", "60", *args)
    proxy = ChangingProxy(folder, *args, patch=patch)
    with proxy.connect() as held:
        held.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert read_head(held).startswith(b"HTTP/1.1 200 ")
        yield proxy


def test_a_new_program_that_does_not_read_is_told_later(folder: Path) -> None:
    """That it is the main one, though there was no room for that."""
    patch = (
        "import os, socket\n"
        "from spliceproxy.processes import upgrade\n"
        "leave = upgrade.Upgrade._leave\n"
        "def fill(self):\n"
        "    line = self._new.line\n"
        "    os.kill(self._new.pid, 19)\n"
        "    os.waitpid(self._new.pid, os.WUNTRACED)\n"
        "    line._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)\n"
        "    while line.send({'counts': []}):\n"
        "        pass\n"
        "    leave(self)\n"
        "upgrade.Upgrade._leave = fill\n"
    )
    with held_by(folder, patch=patch) as proxy:
        proxy.become("")
        answer = proxy.upgrade()
        assert answer.status == 200, answer
        new = answer.json["new"]["pid"]
        wait_for(lambda: f"process {new} has taken over" in proxy.stderr(), "the end of it")
        os.kill(new, signal.SIGCONT)
        wait_for(lambda: proxy.main == new, "the new main process")
        assert alive(proxy.process.pid)
    proxy.end()


LATE = (
    "import select\n"
    "from spliceproxy.processes import upgrade\n"
    "from spliceproxy.processes.handing_over import places\n"
    "hear = upgrade.Upgrade._hear\n"
    "def deaf(self):\n"
    "    new = self._new\n"
    "    if new is None or len(new.wanted) < len(places(self._state)):\n"
    "        hear(self)\n"
    "    elif select.select([new.line], [], [], 0)[0]:\n"
    "        new.until = 0.0\n"
    "upgrade.Upgrade._hear = deaf\n"
)
"""The time is over when the new program has said that it is ready."""


def test_what_is_called_off_is_not_taken_for_the_end_of_the_other(
    folder: Path, address: tuple[str, int]
) -> None:
    """The old program has not read that the new one is ready when it calls it off."""
    path = folder / "listen"
    proxy = ChangingProxy(folder, listen=("127.0.0.1:0", f"unix:{path}"), patch=LATE)
    count = len(processes(str(folder)))
    proxy.become(
        "import signal\n"
        "from spliceproxy.processes import supervisor\n"
        "on_signal = supervisor.Supervisor._on_signal\n"
        "def messages_first(self, number):\n"
        "    if number == signal.SIGTERM:\n"
        "        self._orders.hear()\n"
        "    on_signal(self, number)\n"
        "supervisor.Supervisor._on_signal = messages_first\n"
    )
    answer = proxy.upgrade()
    assert answer.status == 409
    wait_for(lambda: len(processes(str(folder))) == count, "the end of the new program")
    assert "the program that runs goes on" in proxy.stderr()
    assert "goes on alone" not in proxy.stderr()
    assert "has taken over" not in proxy.stderr()
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(path))
        ask_once(s, address)
    proxy.end()


def test_the_end_of_the_new_program_is_told_by_the_old_one(folder: Path) -> None:
    with held_by(folder) as proxy:
        new = proxy.upgrade().json["new"]["pid"]
        wait_for(lambda: proxy.main == new, "the new main process")
        os.kill(new, signal.SIGKILL)
        told = f"process {new}, which has taken over from this one, was ended by SIGKILL"
        wait_for(lambda: told in proxy.stderr(), "the message")
    wait_for(lambda: not processes(str(folder)), "the end of all")


# ---- the log is rotated meanwhile ------------------------------------------------------------


@pytest.fixture
def gate(folder: Path) -> Path:
    path = folder / "gate"
    os.mkfifo(path)
    return path


READY_LATE = """
import os
from spliceproxy.processes import taking_over
ready = taking_over.TakingOver._on_ready
def late(self, slot, message):
    with open(os.environ["GATE"]) as gate:
        gate.read()
    return ready(self, slot, message)
taking_over.TakingOver._on_ready = late
"""


def rotate(path: Path, pid: int) -> None:
    path.rename(path.with_suffix(".1"))
    os.kill(pid, signal.SIGUSR1)
    wait_for(path.exists, "the new file")


def test_the_log_is_rotated_before_the_new_program_serves(
    folder: Path, gate: Path, address: tuple[str, int]
) -> None:
    path = folder / "log"
    proxy = ChangingProxy(folder, "--access-log", str(path), env={"GATE": str(gate)})
    proxy.become(READY_LATE)
    with begin(proxy) as asked:
        with gate.open("w"):  # somebody reads there: the new worker has its log
            rotate(path, proxy.main)
        assert asked.recv(1000).startswith(b"HTTP/1.1 200 ")
    wait_for(lambda: not alive(proxy.process.pid), "the end of the old program")
    with proxy.connect() as s:
        ask_once(s, address)
    wait_for(path.read_text, "its line")
    proxy.end()
    assert path.with_suffix(".1").read_text() == ""


def test_the_log_is_rotated_while_the_old_program_drains(folder: Path) -> None:
    path = folder / "log"
    with held_by(folder, "--access-log", str(path)) as proxy:
        before = proxy.main
        new = proxy.upgrade().json["new"]["pid"]
        wait_for(lambda: proxy.main == new, "the new main process")
        assert alive(before)
        worker = proxy.children(before)[0]
        rotate(path, new)
        wait_for(lambda: path.stat().st_ino in set(inodes(worker)), "the old worker")
    wait_for(lambda: "/large" in path.read_text(), "its line")
    wait_for(lambda: not alive(before), "the end of the old program")
    proxy.end()


def inodes(pid: int) -> Iterator[int]:
    """Of what a process has opened."""
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            yield os.stat(f"/proc/{pid}/fd/{name}").st_ino


# ---- a terminal ------------------------------------------------------------------------------


def test_nohup_is_for_the_next_program_too(folder: Path, address: tuple[str, int]) -> None:
    """The old program is the leader of the session, so its end is that of the terminal."""
    master, slave = os.openpty()
    command = f'trap "" HUP; exec setsid --ctty "$0" "$@" < {os.ttyname(slave)}'
    proxy = ChangingProxy(folder, prefix=("sh", "-c", command))
    proxy.upgraded()
    wait_for(lambda: "generation 3 is in force (SIGHUP)" in proxy.stderr(), "the signal")
    with proxy.connect() as s:
        ask_once(s, address)
    proxy.end()
    for fd in (master, slave):
        os.close(fd)
