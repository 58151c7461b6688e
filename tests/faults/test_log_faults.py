"""The access log has nowhere to go, in each format and under load: the disk is full, the pipe is
not read, its reader has gone, syslog takes nothing. Nobody waits for it, each line is written or
counted as lost, and what was lost is told. SIGUSR1 opens each of them anew."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from counting_load import board_of
from harness import ProxyProcess, has_signal, wait_for
from steady_load import SteadyLoad, steady_load

from spliceproxy.observe.board import Board

NewProxy = Callable[..., ProxyProcess]

OWN = "%ts.%03tu %tr %>a %rm %ru %>Hs %<st %{termination}json end"
FORMS = ("native", "squid", "common", "combined", "json", OWN)
EACH = [
    *[pytest.param("native", form, id="own" if form == OWN else form) for form in FORMS],
    pytest.param("copy", "native", id="native-copy"),
    pytest.param("copy", "json", id="json-copy"),
]

SMALL = """
from spliceproxy.observe import accesslog
accesslog.MAX_PENDING = 1 << 16
"""
"""Fewer lines may wait in the proxy, so that a test need not make 4 MiB of them."""

LONG = f"/{'x' * 900}"

ENDS = {
    "native": r" in=\d+",
    "squid": r" (text/plain|HIER_DIRECT/127\.0\.0\.1 -)",
    "common": r'" 200 \d+',
    "combined": r'" 200 \d+ "-" "-"',
    "json": r'"stalled":(null|"[a-z]+")}',
    OWN: " -- end",
}
"""Of whole lines: what is left of one that was cut has none of them."""


def lost(board: Board) -> int:
    """Lines of the access log that were counted as lost."""
    counted = board.totals()["log_lines_lost"]
    return sum(number for (log, _), number in counted.items() if log == "access")


def told(proxy: ProxyProcess) -> int:
    """Lines that messages have said to be lost."""
    said = re.findall(r"access log: .*, (\d+) lines dropped", proxy.stderr())
    return sum(map(int, said))


def whole(text: str, form: str) -> int:
    """How many of these lines are whole."""
    return len(re.findall(rf"^.*{ENDS[form]}$", text, re.M))


def limit(pid: int, size: int) -> None:
    """No file of this process may be larger: to write beyond that fails, as on a full disk."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def small(tmp_path: Path) -> dict[str, str]:
    """An environment in which few lines may wait."""
    (tmp_path / "sitecustomize.py").write_text(SMALL)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path}


def balanced(proxy: ProxyProcess, board: Board, lines: Callable[[], int], asked: int) -> None:
    """Waits until each of so many lines is written or counted as lost, and all of that is told."""
    found = (0, 0, 0)

    def seen() -> bool:
        nonlocal found
        found = lines(), lost(board), told(proxy)
        return found[0] + found[1] == asked and found[1] == found[2]

    try:
        wait_for(seen, "each line")
    except TimeoutError:
        raise AssertionError(f"written, lost, told: {found}, asked: {asked}") from None


def made(load: SteadyLoad) -> int:
    """Lines that there are to be."""
    return load.requests + load.tunnels


@pytest.mark.parametrize(("engine", "form"), EACH)
def test_a_full_disk_and_a_rotation(
    new_proxy: NewProxy, tmp_path: Path, engine: str, form: str
) -> None:
    log, old = tmp_path / "log", tmp_path / "log.1"
    proxy = new_proxy("--access-log", str(log), "--log-format", form, "--engine", engine)
    board = board_of(proxy.process.pid)
    with steady_load(proxy) as load:
        # More than there are messages, whose file must not reach the limit.
        wait_for(lambda: log.stat().st_size > 20_000, "some lines")
        limit(proxy.worker, log.stat().st_size + 1000)
        wait_for(lambda: lost(board) > 20, "lines that are lost")
        load.goes_on()
        limit(proxy.worker, resource.RLIM_INFINITY)
        wait_for(lambda: told(proxy), "how many were lost")
        log.rename(old)
        os.kill(proxy.process.pid, signal.SIGUSR1)
        wait_for(lambda: log.exists() and log.stat().st_size, "lines in the new file")
        load.goes_on()
    both = lambda: whole(old.read_text(), form) + whole(log.read_text(), form)  # noqa: E731
    balanced(proxy, board, both, made(load))
    assert "access log: lines are lost: File too large" in proxy.stderr()
    assert whole(log.read_text(), form)


def test_a_disk_without_room_and_two_workers(new_proxy: NewProxy, tmp_path: Path) -> None:
    """A file system of its own, which gets larger later. The workers write to the same file."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=64k none "{disk}" && exec "$@"'
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("to mount something needs CAP_SYS_ADMIN")
    prefix = ["unshare", "-m", "sh", "-c", mount, "sh"]
    proxy = new_proxy("--access-log", str(disk / "log"), workers=2, prefix=prefix)
    board = board_of(proxy.process.pid)
    log = Path(f"/proc/{proxy.process.pid}/root{disk}/log")
    with steady_load(proxy, clients=4) as load:
        wait_for(lambda: lost(board) > 100, "lines that are lost")
        load.goes_on()
        inside = ["nsenter", "-t", str(proxy.process.pid), "-m"]
        subprocess.run([*inside, "mount", "-o", "remount,size=64m", str(disk)], check=True)
        wait_for(lambda: told(proxy), "how many were lost")
        load.goes_on()
    balanced(proxy, board, lambda: whole(log.read_text(), "native"), made(load))
    assert "access log: lines are lost: No space left on device" in proxy.stderr()


class Pipe:
    """A named pipe that is open for reading. ``text`` is what :meth:`read` has found in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self.text = b""
        self._open()

    def _open(self) -> None:
        self._fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, 4096)
        os.set_blocking(self._fd, True)

    def read(self) -> None:
        """From now on, in a thread."""
        ended = self._ended = threading.Event()
        fd = self._fd

        def take() -> None:
            os.set_blocking(fd, False)
            while not ended.wait(0.001):
                try:
                    while got := os.read(fd, 1 << 16):
                        self.text += got
                except BlockingIOError:
                    pass

        self._thread = threading.Thread(target=take, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        os.close(self._fd)

    def open_again(self) -> None:
        self._open()
        self.read()


@pytest.mark.parametrize(("engine", "form"), EACH)
def test_a_pipe_that_is_not_read_and_then_closed(
    new_proxy: NewProxy, tmp_path: Path, engine: str, form: str
) -> None:
    pipe = Pipe(tmp_path / "pipe")
    options = "--access-log", str(pipe.path), "--log-format", form, "--engine", engine
    proxy = new_proxy(*options, env=small(tmp_path))
    board = board_of(proxy.process.pid)
    lines = lambda: whole(pipe.text.decode(), form)  # noqa: E731
    with steady_load(proxy, LONG) as load:
        wait_for(lambda: lost(board) > 20, "lines that are lost")
        load.goes_on()
        pipe.read()
        wait_for(lambda: told(proxy), "how many were lost")
        os.kill(proxy.process.pid, signal.SIGUSR1)
        load.goes_on()
    balanced(proxy, board, lines, made(load))
    assert "access log: written too slowly, " in proxy.stderr()
    before = made(load)
    pipe.close()
    with steady_load(proxy, LONG) as load:
        wait_for(lambda: "its reader is gone" in proxy.stderr(), "that it is closed")
        load.goes_on()
        pipe.open_again()
        read = lines()
        os.kill(proxy.process.pid, signal.SIGUSR1)
        wait_for(lambda: lines() > read, "lines again")
    balanced(proxy, board, lines, before + made(load))
    pipe.close()


@pytest.mark.parametrize("form", ["native", "combined", "json"])
def test_a_syslog_that_takes_nothing(new_proxy: NewProxy, tmp_path: Path, form: str) -> None:
    """SIGUSR1 finds another daemon, that has taken the place of the first one."""
    path = tmp_path / "syslog"
    found: list[bytes] = []

    def read(daemon: socket.socket, ended: threading.Event) -> None:
        daemon.settimeout(0.02)
        while not ended.is_set():
            try:
                found.append(daemon.recv(8192))
            except TimeoutError:
                pass

    def lines() -> int:
        return whole("\n".join(map(bytes.decode, found)), form)

    first = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    second = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ended = threading.Event()
    with first, second:
        first.bind(str(path))
        where = f"syslog:{path}"
        proxy = new_proxy("--access-log", where, "--log-format", form, env=small(tmp_path))
        board = board_of(proxy.process.pid)
        readers = [
            threading.Thread(target=read, args=(one, ended), daemon=True) for one in (first, second)
        ]
        with steady_load(proxy, LONG) as load:
            wait_for(lambda: lost(board) > 20, "lines that are lost")
            load.goes_on()
            readers[0].start()
            wait_for(lambda: told(proxy), "how many were lost")
            path.unlink()
            second.bind(str(path))
            os.kill(proxy.process.pid, signal.SIGUSR1)
            readers[1].start()
            load.goes_on()
        balanced(proxy, board, lines, made(load))
        ended.set()
        for reader in readers:
            reader.join()
    assert "access log: written too slowly, " in proxy.stderr()
    assert not has_signal(proxy.process.pid, "ShdPnd", signal.SIGUSR1)
