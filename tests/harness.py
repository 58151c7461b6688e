"""Real processes for tests: the proxy, nginx, and servers made of one function."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import preloaded

HIDE_UVLOOP = (
    "import sys; sys.modules['uvloop'] = None; "
    "from spliceproxy.cli.main import main; sys.exit(main(sys.argv[1:]))"
)
"""Runs the proxy as on a machine without uvloop."""


def default_signals() -> None:
    """In a process that is about to start (preexec_fn). A job of the background, or one under
    nohup(1), ignores some signals, and all that it starts does, too."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def wait_for(condition: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    """For what only polling can see (/proc, another process's files)."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.01)


def need(program: str) -> str:
    """The path of a program that .ci/run installs; elsewhere the test is skipped."""
    path = shutil.which(program)
    if path is None:
        import pytest

        if os.environ.get("CI"):
            raise FileNotFoundError(program)
        pytest.skip(f"{program} is not installed")
    return path


SO_ACCEPTCON = 1 << 16
"""A flag of a Unix socket that listens (linux/net.h)."""

_given: set[int] = set()


def free_port() -> int:
    """A port of 127.0.0.1 for a program that cannot choose one. It lies below those that
    the kernel gives out by itself (net.ipv4.ip_local_port_range), which another process
    would soon have."""
    while True:
        port = random.SystemRandom().randrange(20000, 32768)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


@contextlib.contextmanager
def refused_port() -> Iterator[int]:
    """A port of 127.0.0.1 that nobody listens on, and nobody can meanwhile."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        yield s.getsockname()[1]


def acknowledged(sock: socket.socket) -> None:
    """Waits until the other side's kernel has all that was sent (SIOCOUTQ, tcp(7))."""

    def left() -> int:
        return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0])

    wait_for(lambda: not left(), "the acknowledgement")


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended but is not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def stop(pid: int) -> None:
    """SIGSTOP, and until it has done its work: until then a process serves what comes. SIGCONT
    lets it go on."""
    os.kill(pid, signal.SIGSTOP)
    stat = Path(f"/proc/{pid}/stat")  # proc(5): the state is behind the name
    wait_for(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "the stop")


def has_signal(pid: int, field: str, number: int) -> bool:
    """Whether a signal is in a mask of /proc/PID/status (proc(5)): ShdPnd, those that wait for
    the process, SigCgt, those that it has a handler for."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, mask = line.partition(":")
        if name == field:
            return bool(int(mask, 16) >> (number - 1) & 1)
    raise ValueError(field)


def descriptors(pid: int) -> int:
    """Open descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def accepts(pid: int) -> bool:
    """Whether a process watches a socket that listens (proc(5): fdinfo of epoll descriptors)."""
    listening = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                listening.add(fields[9])
    for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[3], 16) & SO_ACCEPTCON:
            listening.add(fields[6])
    sockets, watched = set(), set()
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            link = os.readlink(one)
            if link.startswith("socket:[") and link[8:-1] in listening:
                sockets.add(one.name)
            elif link == "anon_inode:[eventpoll]":
                text = Path(f"/proc/{pid}/fdinfo/{one.name}").read_text()
                watched.update(re.findall(r"^tfd: +(\d+)", text, re.M))
    return not sockets.isdisjoint(watched)


def memory(pid: int, field: str = "Pss") -> int:
    """Bytes of a process by /proc/PID/smaps_rollup (proc(5)): Rss, Pss, Private_Dirty..."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.M)
    assert found is not None
    return int(found[1]) * 1024


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far (proc(5))."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _started(
    prefix: Sequence[str],
    program: Sequence[str],
    args: Sequence[str],
    env: dict[str, str],
    out: IO[bytes],
    err: IO[bytes],
) -> subprocess.Popen[bytes] | preloaded.Started:
    """``PREFIX... python PROGRAM... ARG...``, in a process that has loaded the proxy already where
    nobody can tell the difference: a program in a file may be watched by its environment, which
    the kernel keeps of the start (/proc/PID/environ)."""
    if not prefix and program[0].startswith("-"):
        with open(os.devnull) as nothing:
            started = preloaded.start(
                program, args, env, nothing.fileno(), out.fileno(), err.fileno()
            )
        if started is not None:
            return started
    return subprocess.Popen(
        [*prefix, sys.executable, *program, *args],
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        env=env,
        preexec_fn=default_signals,
    )


def command(
    *args: str, env: dict[str, str] | None = None, seconds: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """``spliceproxy ARG...``, to its end."""
    environment = dict(os.environ) if env is None else env
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = _started((), ["-m", "spliceproxy"], args, environment, out, err)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        texts = [os.pread(file.fileno(), 1 << 26, 0).decode() for file in (out, err)]
    return subprocess.CompletedProcess(["spliceproxy", *args], status, *texts)


class ProxyProcess:
    """``python -m spliceproxy`` with its output in files. ``port`` is of its first TCP
    address; ``args`` are more flags (the access log goes to ``access`` by default)."""

    def __init__(
        self,
        folder: Path,
        *args: str,
        listen: Sequence[str] = ("127.0.0.1:0",),
        workers: int = 1,
        uvloop: bool = True,
        env: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.stderr_path = folder / "stderr"
        self.access_path = folder / "access"
        program = self.program_of(uvloop)
        argv = ["--workers", str(workers), *args]
        if "--via" not in args:
            argv += ["--via", "spliceproxy"]  # not a random name: answers end the same
        for address in listen:
            argv += ["--listen", address]
        with self.stderr_path.open("wb") as err, self.access_path.open("wb") as out:
            self.process = _started(prefix, program, argv, {**os.environ, **(env or {})}, out, err)
        self.port = 0
        try:
            wait_for(self._is_up, "the proxy's start")
            if workers > 1:  # the first one has said so
                wait_for(lambda: self._all_accept(workers), "the start of all workers")
        except (RuntimeError, TimeoutError):
            self.kill()
            raise RuntimeError(f"no start: {self.stderr()}") from None

    def program_of(self, uvloop: bool) -> list[str]:
        """What Python is told to run."""
        return ["-m", "spliceproxy"] if uvloop else ["-c", HIDE_UVLOOP]

    def _is_up(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError("it ended")
        text = self.stderr()
        found = re.search(r"listening on \S*(?:http|tcp)://\S*:(\d+)", text)
        if found:
            self.port = int(found[1])
        return "event loop" in text and ("listening on" in text)

    def _all_accept(self, workers: int) -> bool:
        try:
            found = self.workers()
            return len(found) == workers and all(accepts(pid) for pid in found)
        except (FileNotFoundError, ProcessLookupError):
            return False  # one has ended

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stderr(self) -> str:
        return self.stderr_path.read_text(errors="replace")

    def access(self) -> list[str]:
        """The lines of the access log so far."""
        return self.access_path.read_text(errors="replace").splitlines()

    def wait_access(self, lines: int) -> list[str]:
        """The access log as soon as it has so many lines."""
        wait_for(lambda: len(self.access()) >= lines, f"{lines} lines of access log")
        return self.access()

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        return [pid for pid, admin in self._children() if not admin]

    def admin_process(self) -> int:
        """The process id of the admin process, as soon as there is one."""
        found: list[int] = []

        def look() -> bool:
            found[:] = [pid for pid, admin in self._children() if admin]
            return bool(found)

        wait_for(look, "the admin process")  # one look: it may be gone at the next
        return found[0]

    @property
    def admin_port(self) -> int:
        """The port of --admin."""
        found = re.search(r"the admin address is http://\S*:(\d+)", self.stderr())
        assert found is not None
        return int(found[1])

    def _children(self) -> list[tuple[int, bool]]:
        """The processes that the supervisor has, and whether each is the admin process."""
        pid = self.process.pid
        found = []
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{child}/comm").read_text().strip()
                found.append((int(child), command == "spliceproxy-adm"))
        return found

    @property
    def worker(self) -> int:
        """The process id of the only worker."""
        (pid,) = self.workers()
        return pid

    def connect(self, timeout: float = 20.0) -> socket.socket:
        """A client's connection to the proxy."""
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def tunnel(self, host: str, port: int, timeout: float = 20.0) -> socket.socket:
        """An established CONNECT tunnel."""
        s = self.connect(timeout)
        s.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        answer = read_head(s)
        if not answer.endswith(END_OF_HEAD):
            raise ConnectionError(f"no tunnel: {answer!r}")
        if b" 200 " not in answer.split(b"\r\n")[0]:
            raise ConnectionError(f"no tunnel: {answer!r}")
        return s

    def stop(self, seconds: float = 20.0) -> int:
        """SIGTERM; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """Ends it and its workers at once."""
        if self.process.poll() is None:
            with contextlib.suppress(OSError):
                for pid in self.workers():
                    os.kill(pid, signal.SIGKILL)
            self.process.kill()
            self.process.wait()


NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log info;
{user} events {{ worker_connections 4096; }}
http {{
    access_log off; sendfile on; client_max_body_size 0; keepalive_requests 1000000;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    types {{ text/html html; text/css css; application/javascript js; image/png png; }}
    {extra}
    server {{ listen 127.0.0.1:{port}; root {folder}/www; {server} }}
}}
"""


class Nginx:
    """nginx over ``folder/www`` on a free port. ``extra`` goes into http, ``server`` into
    the server block."""

    def __init__(self, folder: Path, extra: str = "", server: str = "") -> None:
        program = need("nginx")
        self.folder = folder
        self.www = folder / "www"
        self.www.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        user = f"user {'root' if os.getuid() == 0 else 'nobody'};"
        conf = folder / "nginx.conf"
        conf.write_text(
            NGINX.format(folder=folder, port=self.port, extra=extra, server=server, user=user)
        )
        self.process = subprocess.Popen(
            [program, "-p", str(folder), "-c", str(conf), "-e", str(folder / "start.log")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(self._is_up, "nginx's start")

    def _is_up(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError((self.folder / "start.log").read_text())
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


GRACE = 0.5


def _joined(threads: Sequence[threading.Thread], seconds: float) -> None:
    """They have ended, or so much time is over for all of them."""
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))


@contextlib.contextmanager
def serving(
    handle: Callable[[socket.socket], None], *, idle: bool = False
) -> Iterator[tuple[str, int]]:
    """A TCP server that runs ``handle(connection)`` in a thread for each connection; its
    address. What a handler raises fails the test at the end. Connections that are open then are
    closed after GRACE seconds, and what their handlers have to say of that is nothing; with
    ``idle`` at once, where the proxy may keep connections between two requests."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    threads: list[threading.Thread] = []
    connections: list[socket.socket] = []
    errors: list[Exception] = []
    over = threading.Event()

    def one(connection: socket.socket) -> None:
        with connection:
            try:
                handle(connection)
            except Exception as error:  # noqa: BLE001 - raised again at the end
                if not over.is_set():
                    errors.append(error)
            connections.remove(connection)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.settimeout(30)
            connections.append(connection)
            threads.append(threading.Thread(target=one, args=(connection,), daemon=True))
            threads[-1].start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield listener.getsockname()[:2]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(10)
        _joined(threads, 0.0 if idle else GRACE)
        over.set()
        for connection in list(connections):
            with contextlib.suppress(OSError):  # it may have ended just now
                connection.shutdown(socket.SHUT_RDWR)
        _joined(threads, 10.0)
    assert not any(thread.is_alive() for thread in threads), "a handler has not ended"
    if errors:
        raise errors[0]


END_OF_HEAD = b"\r\n\r\n"


def read_head(s: socket.socket) -> bytes:
    """Exactly one head, so that nothing behind it is taken; what there is of it at FIN."""
    head = b""
    peek = 0 if isinstance(s, ssl.SSLSocket) else socket.MSG_PEEK
    while not head.endswith(END_OF_HEAD):
        seen = s.recv(1 << 16 if peek else 1, peek)
        if not seen:
            break
        if not peek:
            head += seen
            continue
        end = (head + seen).find(END_OF_HEAD, max(0, len(head) - 3))
        head += s.recv(len(seen) if end < 0 else end + len(END_OF_HEAD) - len(head))
    return head


def read_all(s: socket.socket) -> bytes:
    """Until FIN."""
    data = bytearray()
    while got := s.recv(1 << 16):
        data += got
    return bytes(data)


def read_exactly(s: socket.socket, n: int) -> bytes:
    """n bytes, fewer at FIN."""
    data = bytearray()
    while len(data) < n and (got := s.recv(min(n - len(data), 1 << 16))):
        data += got
    return bytes(data)
