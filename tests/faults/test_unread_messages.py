"""Standard error, or output, is a pipe that nobody reads: nobody waits for it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import free_port, read_all, wait_for

WRONG = "GET http://127.0.0.1:9/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic {}\r\n\r\n"


class Unread:
    """The proxy with pipes in the places of standard error and standard output. A pipe that
    is ``full`` takes not a byte from the start."""

    def __init__(self, *args: str, full: bool, stdout: bool, env: dict[str, str]) -> None:
        self.port = free_port()
        self.reader, self.writer = os.pipe()
        self.filled = 0
        if full:
            os.set_blocking(self.writer, False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    self.filled += os.write(self.writer, b"x" * 4095 + b"\n")
            os.set_blocking(self.writer, True)
        argv = [sys.executable, "-m", "spliceproxy", "--workers", "1", *args]
        self.process = subprocess.Popen(
            [*argv, "--listen", f"127.0.0.1:{self.port}"],
            stdin=subprocess.DEVNULL,
            stdout=self.writer if stdout else subprocess.DEVNULL,
            stderr=self.writer,
            env={**os.environ, **env},
        )
        wait_for(self._is_up, "the proxy's start")

    def _is_up(self) -> bool:
        assert self.process.poll() is None
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def ask(self, text: str) -> int:
        with socket.create_connection(("127.0.0.1", self.port), 20) as s:
            s.sendall(text.encode())
            return int(s.recv(65536).split()[1])

    def wrong(self, count: int) -> None:
        """Requests that cost a message each."""
        for _ in range(count):
            assert self.ask(WRONG.format(os.urandom(6).hex() + "!")) == 407

    def stop(self) -> tuple[int, float]:
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30), time.monotonic() - begun

    def read(self) -> str:
        """What is in the pipe now, without what filled it."""
        text = b""
        while select.select([self.reader], [], [], 0)[0] and (got := os.read(self.reader, 65536)):
            text += got
        return text.replace(b"x" * 4095 + b"\n", b"").decode()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for fd in (self.reader, self.writer):
            os.close(fd)


@contextlib.contextmanager
def unread(
    *args: str, full: bool = False, stdout: bool = False, env: dict[str, str] | None = None
) -> Iterator[Unread]:
    proxy = Unread(*args, full=full, stdout=stdout, env=env or {})
    try:
        yield proxy
    finally:
        proxy.close()


USER = ("--auth", "alice:secret")


def lost(text: str) -> list[int]:
    return [int(found) for found in re.findall(r"WARNING (\d+) messages were lost: ", text)]


def test_the_proxy_serves_and_ends_in_time() -> None:
    with unread(*USER, full=True) as proxy:
        proxy.wrong(4000)  # 400 KiB
        status, seconds = proxy.stop()
        text = proxy.read()
        assert status == 0
        assert seconds < 8
        written = text.count("authentication failed")
        assert "listening on " in text  # the supervisor kept its own, and made room
        assert text.splitlines()[-1].endswith("were lost: written too slowly")
        (count,) = lost(text)
        assert written + count >= 4000


def test_what_was_lost_is_told_as_soon_as_there_is_room() -> None:
    with unread(*USER) as proxy:
        proxy.wrong(6000)
        text = ""

        def told() -> bool:
            nonlocal text
            text += proxy.read()
            return bool(lost(text))

        wait_for(told, "the message of what was lost")
        proxy.wrong(1)
        assert proxy.stop()[0] == 0
        text += proxy.read()
        assert text.count("authentication failed") + sum(lost(text)) == 6001
        assert text.splitlines()[-1].endswith("INFO stopped")
        assert all(re.match(r"\d{4}-\d\d-\d\d ", line) for line in text.splitlines())


def test_nothing_is_lost_while_somebody_reads() -> None:
    with unread(*USER) as proxy:
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(os.read(proxy.reader, 1 << 20)))
        reader.start()
        proxy.wrong(20)
        reader.join()
        assert proxy.stop()[0] == 0
        text = got[0].decode() + proxy.read()
        assert text.count("authentication failed") == 20
        assert not lost(text)
        # The worker's last message is before the supervisor's last one.
        assert text.splitlines()[-1].endswith("INFO stopped")


def test_a_tunnel_is_cut_while_nobody_reads_anything() -> None:
    """Neither the access log nor the messages: the worker ends by itself, in time, and the
    supervisor tells what it did not write."""
    with (
        unread("--timeout-drain", "0.5", full=True, stdout=True) as proxy,
        socket.create_server(("127.0.0.1", 0)) as origin,
        socket.create_connection(("127.0.0.1", proxy.port), 20) as client,
    ):
        port = origin.getsockname()[1]
        client.sendall(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b" 200 " in client.recv(1000)
        for _ in range(50):
            assert proxy.ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n") == 400
        status, seconds = proxy.stop()
        text = proxy.read()
        assert status == 0
        assert seconds < 5
        assert "did not end in time" not in text
        found = re.search(
            r"WARNING (\d+) messages were lost: [a-z ]+; (\d+) lines of the access log were", text
        )
        assert found is not None
        assert int(found[2]) == 51
        with pytest.raises(ConnectionResetError):
            read_all(client)


def test_a_worker_that_is_killed() -> None:
    """Its numbers outlive it."""
    with unread(*USER, full=True) as proxy:
        proxy.wrong(100)
        children = Path(f"/proc/{proxy.process.pid}/task/{proxy.process.pid}/children")
        worker = children.read_text().split()
        os.kill(int(worker[0]), signal.SIGKILL)
        wait_for(lambda: children.read_text().split() not in (worker, []), "another worker")
        assert proxy.stop()[0] == 0
        assert sum(lost(proxy.read())) >= 100


def test_a_blocked_pipe_keeps_its_flags() -> None:
    """Another process may have the same description."""
    with unread(*USER, full=True) as proxy:
        proxy.wrong(100)
        assert not fcntl.fcntl(proxy.writer, fcntl.F_GETFL) & os.O_NONBLOCK
        assert proxy.stop()[0] == 0


def test_a_function_that_prints(tmp_path: Path) -> None:
    hook = tmp_path / "hook.py"
    hook.write_text(
        "import sys, warnings\n"
        "from spliceproxy.policy import Deny\n"
        "def authorize(request):\n"
        "    print('x' * 1000)\n"
        "    print('y' * 1000, file=sys.stderr)\n"
        "    warnings.warn('z' * 1000)\n"
        "    return Deny('no')\n"
    )
    with unread("--policy", str(hook), full=True, stdout=True) as proxy:
        for _ in range(300):
            assert proxy.ask("GET http://127.0.0.1:9/ HTTP/1.1\r\nHost: x\r\n\r\n") == 403
        assert proxy.stop()[0] == 0


def test_all_that_a_function_writes_is_there(tmp_path: Path) -> None:
    """By whatever a stream has: bytes, other settings, and a last line without an end."""
    hook = tmp_path / "hook.py"
    hook.write_text(
        "import sys\n"
        "from spliceproxy.policy import Deny\n"
        "sys.stdout.reconfigure(line_buffering=True)\n"
        "def authorize(request):\n"
        "    sys.stdout.buffer.write(b'bytes, ')\n"
        "    print('text \\u00fc, ', end='', flush=True)\n"
        "    sys.stderr.write('the last of them')\n"
        "    return Deny('no')\n"
    )
    with unread("--policy", str(hook), "--access-log", "off") as proxy:
        assert proxy.ask("GET http://127.0.0.1:9/ HTTP/1.1\r\nHost: x\r\n\r\n") == 403
        assert proxy.stop()[0] == 0
        text = proxy.read()
    assert "Traceback" not in text
    assert "bytes, text \u00fc, the last of them" in text.splitlines()


@pytest.mark.parametrize("kind", ["socket", "closed", "file"])
def test_other_kinds_of_standard_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "err"
    port = free_port()
    argv = [sys.executable, "-m", "spliceproxy", *USER, "--workers", "1"]
    argv += ["--listen", f"127.0.0.1:{port}"]
    ours, theirs = socket.socketpair()
    with ours, theirs, path.open("wb") as file:
        process = subprocess.Popen(
            argv if kind != "closed" else ["sh", "-c", 'exec "$@" 2>&-', "sh", *argv],
            stdout=subprocess.DEVNULL,
            stderr={"socket": theirs, "file": file}.get(kind),
        )

        def is_up() -> bool:
            assert process.poll() is None
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", port)) == 0

        wait_for(is_up, "the proxy's start")
        with socket.create_connection(("127.0.0.1", port), 20) as s:
            s.sendall(WRONG.format("!").encode())
            assert b" 407 " in s.recv(1000)
        process.terminate()
        assert process.wait(20) == 0
        theirs.close()
        text = {"socket": lambda: read_all(ours).decode(), "file": path.read_text}
        if kind in text:
            said = text[kind]()
            assert "listening on" in said
            assert "authentication failed" in said
            assert said.endswith("INFO stopped\n")


def test_a_disk_that_is_full_for_a_while(tmp_path: Path) -> None:
    """Of a file, messages are lost with the reason, and the next one that fits says how many."""
    path = tmp_path / "err"
    port = free_port()
    argv = [sys.executable, "-m", "spliceproxy", *USER, "--workers", "1"]
    argv += ["--access-log", "off", "--listen", f"127.0.0.1:{port}"]
    with path.open("ab") as file:
        process = subprocess.Popen(argv, stderr=file)

    def ask() -> None:
        with socket.create_connection(("127.0.0.1", port), 20) as s:
            s.sendall(WRONG.format(os.urandom(6).hex() + "!").encode())
            assert b" 407 " in s.recv(1000)

    try:
        wait_for(lambda: "event loop" in path.read_text(), "the proxy's start")
        worker = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        size = path.stat().st_size
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        for _ in range(30):
            ask()
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        ask()
        wait_for(lambda: "were lost" in path.read_text(), "the number of lost messages")
    finally:
        process.terminate()
        assert process.wait(20) == 0
    text = path.read_text()
    assert " messages were lost: File too large\n" in text
    # The thread may write the last of them when there is room again.
    assert sum(lost(text)) + text.count("authentication failed") == 31


def test_a_disk_that_is_full_for_the_supervisor(tmp_path: Path) -> None:
    """What it has to say then it says when there is room."""
    path = tmp_path / "err"
    argv = [sys.executable, "-m", "spliceproxy", "--workers", "1", "--access-log", "off"]
    with path.open("ab") as file:
        process = subprocess.Popen([*argv, "--listen", "127.0.0.1:0"], stderr=file)

    def worker() -> int:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        return int(children or 0)

    try:
        wait_for(lambda: "event loop" in path.read_text(), "the proxy's start")
        first, size = worker(), path.stat().st_size
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: worker() not in (0, first), "another worker")
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        wait_for(lambda: "ended by SIGKILL; starting another" in path.read_text(), "why it ended")
    finally:
        process.terminate()
        assert process.wait(20) == 0


@pytest.mark.parametrize("how", ["closed", "full", "read"])
def test_a_worker_without_memory_ends_whoever_reads(how: str) -> None:
    """Or those who wait for something that it cannot tell would wait for ever."""
    reader, writer = os.pipe()
    if how == "full":
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * 4096)
        os.set_blocking(writer, True)
    elif how == "closed":
        os.close(reader)
    load = "import os; from spliceproxy.processes import worker\n"
    code = f"{load}try: worker._die()\nfinally: os._exit(0)"
    done = subprocess.run([sys.executable, "-c", code], stderr=writer, timeout=20)
    os.close(writer)
    if how == "read":
        assert os.read(reader, 1000) == b"no memory is left: this worker cannot go on and ends\n"
    if how != "closed":
        os.close(reader)
    assert done.returncode == (-signal.SIGALRM if how == "full" else 1)
