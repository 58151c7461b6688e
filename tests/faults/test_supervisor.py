"""Worker processes: replaced when they die, drained when the proxy stops."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import (
    ProxyProcess,
    alive,
    default_signals,
    has_signal,
    read_all,
    read_head,
    serving,
    stop,
    wait_for,
)

from spliceproxy.processes.stopping import AGAIN

STUB = Path(__file__).with_name("stub_proxy.py")


class Stub:
    """stub_proxy.py as a process."""

    def __init__(
        self,
        folder: Path,
        *args: str,
        listen: str = "127.0.0.1:0",
        workers: int = 1,
        stdin: int = subprocess.DEVNULL,
        env: dict[str, str] | None = None,
        ignore: signal.Signals | None = None,
    ) -> None:
        self._ignore = ignore
        self._stderr = folder / f"stderr{len(list(folder.iterdir()))}"
        with self._stderr.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, str(STUB), "--workers", str(workers), "--listen", listen, *args],
                stdin=stdin,
                stderr=err,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                preexec_fn=self._signals,
            )

    def _signals(self) -> None:
        default_signals()
        if self._ignore is not None:
            signal.signal(self._ignore, signal.SIG_IGN)

    def text(self) -> str:
        return self._stderr.read_text()

    def wait_text(self, pattern: str) -> re.Match[str]:
        wait_for(
            lambda: re.search(pattern, self.text()) or self.process.poll() is not None, pattern
        )
        found = re.search(pattern, self.text())
        assert found, self.text()
        return found

    def workers(self) -> list[int]:
        """The workers that run now."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in children if alive(int(child))]

    def connect(self) -> socket.socket:
        port = int(self.wait_text(r"listening on http://\S*:(\d+)")[1])
        return socket.create_connection(("127.0.0.1", port), 20)

    def ask(self, command: str = "pid") -> str:
        with self.connect() as s:
            return say(s, command)

    def worker(self) -> int:
        """The process id of one worker, which serves."""
        return int(self.ask())

    def refuses(self) -> bool:
        try:
            self.connect().close()
        except ConnectionRefusedError:
            return True
        return False

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(20)

    def kill(self) -> None:
        """Ends it and all that it has forked, whatever went wrong: its process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def say(s: socket.socket, command: str) -> str:
    """Sends a command of the stub's and returns its answer, "" if it closed instead."""
    s.sendall(f"{command}\n".encode())
    answer = b""
    while not answer.endswith(b"\n"):
        got = s.recv(100)
        if not got:
            break
        answer += got
    return answer.decode().strip()


@pytest.fixture
def new_stub(tmp_path: Path) -> Iterator[Callable[..., Stub]]:
    """Starts stubs (arguments: Stub's, without the folder); ends them and their workers."""
    stubs: list[Stub] = []

    def new(*args: str, **kwargs: Any) -> Stub:
        stubs.append(Stub(tmp_path, *args, **kwargs))
        return stubs[-1]

    yield new
    for stub in stubs:
        stub.kill()


NewStub = Callable[..., Stub]


# Addresses


def test_port_0_prints_the_real_port(new_stub: NewStub) -> None:
    stub = new_stub("--listen", "127.0.0.1:0", workers=2)
    stub.wait_text(r"(?s)listening on http://127.0.0.1:[1-9].*listening on http://127.0.0.1:[1-9]")
    ports = [int(port) for port in re.findall(r"listening on \S*:(\d+)", stub.text())]
    assert len(set(ports)) == 2
    for port in ports:
        with socket.create_connection(("127.0.0.1", port), 20) as s:
            assert say(s, "pid")


def test_a_second_proxy_on_the_same_port_is_refused(new_stub: NewStub) -> None:
    # Both set SO_REUSEPORT, with which the kernel would let them share.
    first = new_stub()
    port = first.wait_text(r":(\d+)\n")[1]
    second = new_stub(listen=f"127.0.0.1:{port}")
    assert second.wait() == 1
    assert second.text().count("\n") == 1
    assert f"cannot listen on 127.0.0.1:{port}: another program uses it" in second.text()
    assert first.ask()


def test_a_new_proxy_may_start_while_the_old_one_drains(new_stub: NewStub) -> None:
    old = new_stub()
    port = old.wait_text(r":(\d+)\n")[1]
    with old.connect() as held:
        pid = say(held, "pid")
        old.signal(signal.SIGTERM)
        wait_for(old.refuses, "the old proxy's sockets closed")
        new = new_stub(listen=f"127.0.0.1:{port}")
        assert new.ask() != pid
        assert say(held, "pid") == pid
    assert old.wait() == 0


def test_unix_socket_is_refused_while_live_and_replaced_when_stale(
    new_stub: NewStub, tmp_path: Path
) -> None:
    path = tmp_path / "listen"
    first = new_stub(listen=f"unix:{path}")
    first.wait_text("listening on unix:")
    second = new_stub(listen=f"unix:{path}")
    assert second.wait() == 1
    assert "another program uses it" in second.text()
    for pid in (first.process.pid, *first.workers()):
        os.kill(pid, signal.SIGKILL)
    first.wait()
    assert path.is_socket()
    third = new_stub(listen=f"unix:{path}")
    third.wait_text("listening on unix:")
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(20)
        s.connect(str(path))
        assert say(s, "pid")
    third.signal(signal.SIGTERM)
    assert third.wait() == 0
    assert not path.exists()


def test_each_worker_has_its_own_sockets_only(new_stub: NewStub) -> None:
    stub = new_stub(workers=2)
    by_pid = {}
    while len(by_pid) < 2:  # the kernel chooses the worker
        with stub.connect() as s:
            by_pid[int(say(s, "pid"))] = say(s, "inodes")
    assert len(set(by_pid.values())) == 2
    for pid, inode in by_pid.items():
        others = set(by_pid.values()) - {inode}
        links = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}
        assert f"socket:[{inode}]" in links
        assert not {f"socket:[{other}]" for other in others} & links


def test_worker_starts_with_no_signal_blocked(new_stub: NewStub) -> None:
    status = Path(f"/proc/{new_stub().worker()}/status").read_text()
    assert re.search(r"^SigBlk:\s+0+$", status, re.M)


# Deaths


def test_killed_worker_is_replaced_and_others_live_on(new_stub: NewStub) -> None:
    stub = new_stub(workers=2)
    held: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        while len(held) < 2:
            s = stack.enter_context(stub.connect())
            held.setdefault(int(say(s, "pid")), s)
        victim, survivor = held
        os.kill(victim, signal.SIGKILL)
        line = stub.wait_text(rf"worker \d \(pid {victim}\) (.*)")[1]
        assert line == "ended by SIGKILL; starting another at once"
        wait_for(lambda: len(set(stub.workers()) - {victim}) == 2, "another worker")
        assert say(held[survivor], "pid") == str(survivor)
        assert stub.text().count("starting another") == 1


def test_connection_made_while_no_worker_runs_is_served_by_the_next(new_stub: NewStub) -> None:
    stub = new_stub()
    old = stub.worker()
    stop(stub.process.pid)  # no replacement yet
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: not alive(old), "the worker's end")
    with stub.connect() as s:
        s.sendall(b"pid\n")
        stub.signal(signal.SIGCONT)
        assert int(s.recv(100)) != old


def test_backoff_doubles_while_workers_die_young(new_stub: NewStub) -> None:
    stub = new_stub(env={"STUB": "exit"})
    stub.wait_text(r"in 0\.4 s")
    again = re.findall(r"exited with status 3; starting another (.*)", stub.text())
    assert again[:4] == ["at once", "in 0.1 s", "in 0.2 s", "in 0.4 s"]
    stub.signal(signal.SIGTERM)
    assert stub.wait() == 0  # no worker was left to fail


@pytest.mark.parametrize(("healthy", "second"), [("0", "at once"), ("1000", "in 0.1 s")])
def test_backoff_starts_anew_after_a_healthy_spell(
    new_stub: NewStub, healthy: str, second: str
) -> None:
    stub = new_stub(env={"STUB_HEALTHY": healthy})
    for deaths, again in ((1, "at once"), (2, second)):
        with stub.connect() as s, contextlib.suppress(ConnectionResetError):
            say(s, "crash")
        stub.wait_text(rf"(?s)(starting another [^\n]*\n.*){{{deaths}}}")
        assert stub.text().rstrip().endswith(again)
    assert stub.ask()


def test_exception_in_a_worker_is_logged_and_does_not_reach_the_supervisor(
    new_stub: NewStub,
) -> None:
    stub = new_stub(env={"STUB": "raise"})
    stub.wait_text("starting another at once")
    assert "RuntimeError: a fault in the worker" in stub.text()
    assert stub.process.poll() is None


def test_unusable_settings_end_the_proxy_without_a_restart(new_stub: NewStub) -> None:
    stub = new_stub(workers=2, env={"STUB": "unusable"})
    assert stub.wait() == 2
    assert "starting another" not in stub.text()


# Stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_signal_drains(new_stub: NewStub, number: signal.Signals) -> None:
    stub = new_stub(workers=2)
    with stub.connect() as held:
        pid = say(held, "pid")
        stub.signal(number)
        wait_for(stub.refuses, "new connections refused")
        assert say(held, "pid") == pid
    assert stub.wait() == 0


def test_connection_in_the_queue_is_served_before_the_end(new_stub: NewStub) -> None:
    stub = new_stub()
    worker = stub.worker()
    stop(worker)
    with stub.connect() as s:
        s.sendall(b"pid\n")
        stub.signal(signal.SIGTERM)
        stub.wait_text("draining")
        os.kill(worker, signal.SIGCONT)
        assert int(s.recv(100)) == worker
    assert stub.wait() == 0


def test_signal_to_every_process_is_one_request_to_stop(new_stub: NewStub) -> None:
    # What systemd does with KillMode=control-group.
    stub = new_stub(workers=2)
    with stub.connect() as held:
        pid = say(held, "pid")
        for process in (*stub.workers(), stub.process.pid):
            os.kill(process, signal.SIGTERM)
        wait_for(stub.refuses, "new connections refused")
        assert say(held, "pid") == pid
    assert stub.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_it_at_once(new_stub: NewStub, number: signal.Signals) -> None:
    stub = new_stub()
    with stub.connect() as held:
        pid = int(say(held, "pid"))
        stub.signal(signal.SIGTERM)
        stub.wait_text("draining")
        time.sleep(AGAIN)
        stub.signal(number)
        assert stub.wait() == 128 + number
        assert not alive(pid)


def test_signals_that_come_together_are_one(new_stub: NewStub) -> None:
    """Of timeout(1), or of systemd with SendSIGHUP."""
    stub = new_stub()
    with stub.connect() as held:
        pid = say(held, "pid")
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):
            stub.signal(number)
        stub.wait_text("draining")
        assert say(held, "pid") == pid
    assert stub.wait() == 0
    assert "at once" not in stub.text()


def test_worker_that_does_not_drain_is_killed(new_stub: NewStub) -> None:
    stub = new_stub("--timeout-drain", "0", env={"STUB": "deaf", "STUB_GRACE": "0.1"})
    wait_for(lambda: "listening" in stub.text() and stub.workers(), "a worker")
    (pid,) = stub.workers()
    stub.signal(signal.SIGTERM)
    assert stub.wait() == 1
    assert "did not end in time" in stub.text()
    assert not alive(pid)


def test_death_while_draining_is_a_failure(new_stub: NewStub) -> None:
    stub = new_stub()
    with stub.connect() as held:
        pid = int(say(held, "pid"))
        stub.signal(signal.SIGTERM)
        stub.wait_text("draining")
        os.kill(pid, signal.SIGKILL)
        assert stub.wait() == 1
    assert "starting another" not in stub.text()


def test_death_just_before_a_stop_is_none_while_draining(new_stub: NewStub) -> None:
    """Both signals are there when the supervisor looks: SIGTERM is the first by its number."""
    stub = new_stub()
    pid = stub.worker()
    stop(stub.process.pid)
    os.kill(pid, signal.SIGKILL)
    # Its main thread is a zombie before the others have ended, and waitpid(2) waits for all.
    wait_for(lambda: has_signal(stub.process.pid, "ShdPnd", signal.SIGCHLD), "the worker's end")
    stub.signal(signal.SIGTERM)
    stub.signal(signal.SIGCONT)
    assert stub.wait() == 0
    assert "ended by SIGKILL; starting another" in stub.text()


def test_workers_drain_when_the_supervisor_dies(new_stub: NewStub) -> None:
    stub = new_stub(workers=2)
    with stub.connect() as held:
        pid = int(say(held, "pid"))
        wait_for(lambda: len(stub.workers()) == 2, "both workers")
        (other,) = set(stub.workers()) - {pid}
        stub.process.kill()
        stub.wait()
        wait_for(lambda: not alive(other), "the end of the idle worker")
        wait_for(stub.refuses, "new connections refused")
        assert say(held, "pid") == str(pid)
    wait_for(lambda: not alive(pid), "the end of the other worker")


@pytest.mark.parametrize("ignore", [None, signal.SIGHUP])
def test_a_hangup_without_a_terminal_is_no_stop(
    new_stub: NewStub, ignore: signal.Signals | None
) -> None:
    stub = new_stub(ignore=ignore)
    pid = stub.worker()
    stub.signal(signal.SIGHUP)
    stub.wait_text("reload refused")  # the stub has no settings to read again
    assert stub.worker() == pid


def test_an_ignored_hangup_of_the_terminal(new_stub: NewStub, terminal: list[int]) -> None:
    """As under nohup(1): the end of the terminal means nothing, and later signals reload."""
    master, slave = terminal
    stub = new_stub(stdin=slave, ignore=signal.SIGHUP)
    pid = stub.worker()
    os.close(slave)
    os.close(master)
    stub.wait_text("reload refused")
    stub.signal(signal.SIGHUP)
    wait_for(lambda: stub.text().count("reload refused") == 2, "the next one")
    assert stub.worker() == pid


def test_ignored_sigterm_of_the_parent_stops_it_all_the_same(new_stub: NewStub) -> None:
    stub = new_stub(ignore=signal.SIGTERM)
    stub.worker()
    stub.signal(signal.SIGTERM)
    assert stub.wait() == 0


def test_ignored_sigchld_of_the_parent_does_not_hide_deaths(new_stub: NewStub) -> None:
    stub = new_stub(ignore=signal.SIGCHLD)
    os.kill(stub.worker(), signal.SIGKILL)
    stub.wait_text("ended by SIGKILL")
    assert stub.ask()


# A terminal


@pytest.fixture
def terminal() -> Iterator[list[int]]:
    """Master and slave of a pseudo-terminal."""
    pair = list(os.openpty())
    yield pair
    for fd in pair:
        with contextlib.suppress(OSError):
            os.close(fd)


def test_ctrl_c_drains_and_again_ends(new_stub: NewStub, terminal: list[int]) -> None:
    master, slave = terminal
    stub = new_stub(workers=2, stdin=slave)
    with stub.connect() as held:
        pid = say(held, "pid")
        os.write(master, b"\x03")  # to every process in the foreground
        wait_for(stub.refuses, "new connections refused")
        assert "SIGINT: draining" in stub.text()
        assert say(held, "pid") == pid
        time.sleep(AGAIN)
        os.write(master, b"\x03")
        assert stub.wait() == 128 + signal.SIGINT


def test_terminal_hangup_drains(new_stub: NewStub, terminal: list[int]) -> None:
    master, slave = terminal
    stub = new_stub(stdin=slave)
    with stub.connect() as held:
        pid = say(held, "pid")
        os.close(slave)
        os.close(master)
        stub.wait_text("SIGHUP: draining")
        assert say(held, "pid") == pid
    assert stub.wait() == 0


# The real worker


def test_log_rotation_does_not_kill_a_proxy_that_starts(tmp_path: Path) -> None:
    """SIGUSR1 while the program is loaded, and at any time after."""
    command = [sys.executable, "-X", "importtime", "-m", "spliceproxy"]
    with subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0", "--workers", "1", "--access-log", "off"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=default_signals,
    ) as process:
        assert process.stderr is not None
        loading = False
        for line in process.stderr:
            loading = loading or "spliceproxy.config" in line
            if loading:
                process.send_signal(signal.SIGUSR1)
            if "listening on" in line:
                break
        else:
            pytest.fail(f"it has ended: {process.wait()}")
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        assert process.wait(20) == 0


def test_a_hangup_while_the_program_is_loaded() -> None:
    """It reads the settings again as soon as it can."""
    command = [sys.executable, "-X", "importtime", "-m", "spliceproxy"]
    command += ["--listen", "127.0.0.1:0", "--workers", "1", "--access-log", "off"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=default_signals
    ) as process:
        assert process.stderr is not None
        sent = False
        for line in process.stderr:
            if not sent and "spliceproxy.config" in line:  # behind what takes signals
                process.send_signal(signal.SIGHUP)
                sent = True
            if "generation 2 is in force" in line:
                break
        else:
            pytest.fail(f"it has ended: {process.wait()}")
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        assert process.wait(20) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_the_program_is_loaded(number: signal.Signals) -> None:
    """Its status is 0, as that of a proxy that has been stopped, at whatever it is."""
    command = [sys.executable, "-X", "importtime", "-m", "spliceproxy"]
    command += ["--listen", "127.0.0.1:0", "--workers", "1", "--access-log", "off"]
    moments = 0
    started = False
    while not started:
        # Modules behind the first lines: before those nothing can be done.
        moment = 8 + 12 * moments
        loaded, text, loading = 0, "", False
        with subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, preexec_fn=default_signals
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                text += line
                loading = loading or line.endswith(" spliceproxy.version\n")
                loaded += loading
                started = started or "listening on" in line
                if loaded == moment or ("listening on" in line and loaded < moment):
                    process.send_signal(number)
            assert process.wait(20) == 0, (moment, text)
        assert "Traceback" not in text, text
        moments += 1
    assert moments > 5


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
@pytest.mark.parametrize("access_log", ["-", "/dev/stdout", "file"])
def test_standard_streams_that_are_closed(
    tmp_path: Path, closed: tuple[int, ...], access_log: str
) -> None:
    """They lead to /dev/null, not to what is opened first, be it a listening socket."""
    path, log = tmp_path / "socket", tmp_path / "access"
    command = [sys.executable, "-m", "spliceproxy", "--listen", f"unix:{path}", "--workers", "1"]
    command += ["--access-log", str(log) if access_log == "file" else access_log]

    def close() -> None:
        default_signals()
        for fd in closed:
            os.close(fd)

    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=close,
    )
    try:
        wait_for(lambda: path.exists() or process.poll() is not None, "the socket")
        with socket.socket(socket.AF_UNIX) as client:
            wait_for(lambda: client.connect_ex(str(path)) == 0, "the listener")
            client.settimeout(20)
            client.sendall(b"GET / HTTP/1.1\r\nHost: o\r\nConnection: close\r\n\r\n")
            assert read_head(client).startswith(b"HTTP/1.1 400 ")
            assert read_all(client).endswith(b"\n")  # and no line of the log
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in (process.pid, *children):
            for fd in closed:
                assert os.readlink(f"/proc/{pid}/fd/{fd}") == "/dev/null"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    if access_log == "file":
        assert " NONE/400 " in log.read_text()


def test_signal_without_a_meaning(new_proxy: Callable[..., ProxyProcess]) -> None:
    """One warning of a worker, and nothing else."""
    number = signal.SIGUSR2
    proxy = new_proxy()
    worker = proxy.worker
    told = f"WARNING {number.name} is ignored: spliceproxy does nothing on it"
    for _ in range(3):
        os.kill(worker, number)
        wait_for(lambda: f" {worker} {told}" in proxy.stderr(), "the warning")
    with proxy.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: o\r\nConnection: close\r\n\r\n")
        assert read_head(client).startswith(b"HTTP/1.1 400 ")
    assert proxy.worker == worker
    assert proxy.stderr().count(told) == 1


def test_killed_worker_of_the_real_proxy(new_proxy: Callable[..., ProxyProcess]) -> None:
    proxy = new_proxy()

    def origin(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    def get(url: str) -> bytes:
        with proxy.connect() as s:
            s.sendall(f"GET {url} HTTP/1.1\r\nHost: o\r\nConnection: close\r\n\r\n".encode())
            return read_head(s).split(b"\r\n")[0]

    with serving(origin) as (host, port):
        assert get(f"http://{host}:{port}/") == b"HTTP/1.1 200 OK"
        old = proxy.worker
        os.kill(old, signal.SIGKILL)
        assert get(f"http://{host}:{port}/") == b"HTTP/1.1 200 OK"
        assert proxy.worker != old
    threads = Path(f"/proc/{proxy.process.pid}/status").read_text()
    assert re.search(r"^Threads:\s+1$", threads, re.M)  # or fork would not be safe
    assert proxy.stop() == 0


def test_descriptor_limit_is_raised_to_the_hard_one(
    new_proxy: Callable[..., ProxyProcess],
) -> None:
    proxy = new_proxy(prefix=["prlimit", "--nofile=100:200"])
    assert "descriptors per worker: 200\n" in proxy.stderr()
    limits = Path(f"/proc/{proxy.worker}/limits").read_text()
    assert re.search(r"^Max open files +200 +200 ", limits, re.M)


def test_start_says_that_the_compiled_engine_is_missing(
    new_proxy: Callable[..., ProxyProcess], tmp_path: Path
) -> None:
    hide = "import sys; sys.modules['spliceproxy.relay._native'] = None\n"
    (tmp_path / "sitecustomize.py").write_text(hide)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    proxy = new_proxy(workers=2, env={"PYTHONPATH": path})
    assert (
        proxy.stderr().count(
            "WARNING the native engine cannot be used, so the proxy is slower; install"
        )
        == 1
    )
    assert proxy.stderr().count("INFO engine splice: the compiled module is not built") == 1
    assert proxy.stop() == 0


def test_real_proxy_drains_a_tunnel(new_proxy: Callable[..., ProxyProcess]) -> None:
    proxy = new_proxy(workers=2)

    def echo(connection: socket.socket) -> None:
        while got := connection.recv(100):
            connection.sendall(got)

    with serving(echo) as (host, port), proxy.tunnel(host, port) as s:
        for process in (*proxy.workers(), proxy.process.pid):
            os.kill(process, signal.SIGTERM)
        wait_for(lambda: "draining" in proxy.stderr(), "the drain")
        s.sendall(b"still here")
        assert s.recv(100) == b"still here"
        s.close()
        assert proxy.process.wait(20) == 0


def test_sigusr1_opens_the_access_log_anew(tmp_path: Path) -> None:
    """As logrotate(8) does it: rename, signal, and new lines go to a new file."""
    path = tmp_path / "log"
    proxy = ProxyProcess(tmp_path / "proxy", "--access-log", str(path), workers=2)
    try:

        def lines(where: Path) -> int:
            with proxy.connect() as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                read_all(client)
            return where.read_text().count("\n") if where.exists() else 0

        wait_for(lambda: lines(path), "a line")
        path.rename(tmp_path / "log.1")
        os.kill(proxy.process.pid, signal.SIGUSR1)
        wait_for(lambda: lines(path), "a line in the new file")
        assert len(proxy.workers()) == 2
        assert proxy.stop() == 0
    finally:
        proxy.kill()
