"""Starts the proxy without loading it each time: a process that has loaded it forks.

A test cannot tell the difference, but by the time that it takes: what a start has is set as it is
there, down to ``sys.argv``. Only the order differs in which modules are loaded, and what memory is
shared; so tests of what a start loads start Python themselves, and those of memory look at how it
grows.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any, NoReturn

ROOTS = (
    "uvloop",
    "spliceproxy.cli.main",
    "spliceproxy.cli.check",
    "spliceproxy.processes.supervisor",
    "spliceproxy.processes.worker",
    "spliceproxy.processes.rest",
    "spliceproxy.admin.process",
    "spliceproxy.relay._native",
)
"""They import all that a start with an admin address does."""

EARLY = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "UBSAN_", "ASAN_")
"""Environment variables that begin so are read before there is a program."""

MOST = 1 << 17
"""Bytes of a request."""

MOST_FDS = 8

FILES = 4096
"""Descriptors, at most, of the process that forks."""

_STATUS = struct.Struct("=i")


class Started:
    """A process, with what subprocess.Popen has of one."""

    def __init__(self, status: socket.socket) -> None:
        self._status = status
        weakref.finalize(self, status.close)  # not all are waited for
        self._lock = threading.Lock()
        self.returncode: int | None = None
        self.pid = self._next(None)
        assert self.pid is not None

    def _next(self, seconds: float | None) -> int | None:
        """The next number that is said of it, None if it is not said in time."""
        if not select.select([self._status], [], [], seconds)[0]:
            return None
        said = self._status.recv(_STATUS.size)
        if not said:
            raise RuntimeError("the process that starts others has ended")
        return int(_STATUS.unpack(said)[0])

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        with self._lock:
            if self.returncode is None:
                self.returncode = self._next(timeout)
                if self.returncode is None:
                    raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
                self._status.close()
            return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Starter:
    """The process that forks, of this process."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        atexit.register(self._end)

    def _end(self) -> None:
        self._line.close()
        self.process.wait()

    def start(
        self, program: Sequence[str], args: Sequence[str], env: dict[str, str], *streams: int
    ) -> Started:
        """``python PROGRAM ARG...``, where the program is a module (-m), a text (-c) or a file.
        ``streams``: its standard input, output and error, and what is 3, 4 and so on."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            request = [os.getcwd(), env, list(program), list(args)]
            fds = array.array("i", [*streams, theirs.fileno()])
            self._line.sendmsg(
                [json.dumps(request).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
            )
        return Started(ours)


_starter: Starter | None = None


def start(
    program: Sequence[str], args: Sequence[str], env: dict[str, str], *streams: int
) -> Started | None:
    """As :meth:`Starter.start`; None where Python has to be started for that."""
    global _starter
    here = os.environ
    if any(env.get(name) != here.get(name) for name in {*env, *here} if name.startswith(EARLY)):
        return None
    if _starter is None:
        _starter = Starter()
    return _starter.start(program, args, env, *streams)


# ---- in the process that forks ---------------------------------------------------------------


class _Forking:
    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._poll = select.poll()
        self._poll.register(line, select.POLLIN)
        self._running: dict[int, tuple[int, socket.socket]] = {}  # by the pidfd

    def run(self) -> list[Any]:
        """Until this is a new process: what that is to be. The one that forks ends when nobody
        wants it any more."""
        while True:
            for fd, _ in self._poll.poll():
                if fd != self._line.fileno():
                    self._reap(fd)
                    continue
                told, fds, _, _ = socket.recv_fds(self._line, MOST, MOST_FDS)
                if not told:
                    os._exit(0)
                if self._fork(fds):
                    request: list[Any] = json.loads(told)
                    return request

    def _fork(self, fds: list[int]) -> bool:
        *streams, told_to = fds  # in the order of their numbers, so none is in another's way
        pid = os.fork()
        if not pid:
            for fd, stream in enumerate(streams):
                os.dup2(stream, fd)
            for _, status in self._running.values():
                status.detach()  # closed with all others
            self._line.detach()
            os.closerange(len(streams), FILES)
            return True
        for fd in streams:
            os.close(fd)
        status = socket.socket(fileno=told_to)
        pidfd = os.pidfd_open(pid)
        self._poll.register(pidfd, select.POLLIN)
        self._running[pidfd] = pid, status
        status.send(_STATUS.pack(pid))
        return False

    def _reap(self, pidfd: int) -> None:
        pid, status = self._running.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with status, contextlib.suppress(OSError):  # whoever wanted it may have ended
            status.send(_STATUS.pack(code))


def _become(request: list[Any]) -> NoReturn:
    """What ``python PROGRAM ARG...`` would be."""
    folder, env, program, args = request
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # whatever the tests' own parent ignores
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.orig_argv[:] = [sys.executable, *program, *args]
    what = program[-1]
    if program[0] == "-m":
        sys.path[0] = folder
        sys.argv[:] = [what, *args]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    elif program[0] != "-c":
        sys.path[0] = os.path.dirname(what)
        sys.argv[:] = [what, *args]
        runpy.run_path(what, run_name="__main__")
    else:
        sys.path[0] = ""
        sys.argv[:] = ["-c", *args]
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    sys.exit(0)


def _load() -> None:
    import importlib

    for name in ROOTS:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    from spliceproxy.processes import worker

    worker.load()


if __name__ == "__main__":
    _load()
    _become(_Forking(socket.socket(fileno=int(sys.argv[1]))).run())
