"""Programs that are started, waited for, and ended with all that they have started."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from .usage import alive, tree

START = 20.0  # seconds for a program to listen
STOP = 5.0  # seconds for it to end by itself

_next_port = count(20000 + os.getpid() % 8000, 8)


def raise_limit() -> int:
    """Takes all the descriptors that a process may have; returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def leave_on_sigterm() -> None:
    """SIGTERM ends this program as an exception does, so that what it started ends too."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def free_ports(number: int) -> int:
    """The first of ``number`` (up to 8) ports in a row that are free now, below those that
    the kernel gives to clients."""
    for first in _next_port:
        if first > 32000:
            break
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + number):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
        return first
    raise SystemExit("no free ports between 20000 and 32000")


def listens(port: int) -> bool:
    """Whether somebody accepts on 127.0.0.1:port."""
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Program:
    """A program in a session of its own; its output goes to ``folder/NAME.log``."""

    def __init__(
        self,
        argv: Sequence[str],
        folder: Path,
        *,
        port: int,
        env: dict[str, str] | None = None,
    ) -> None:
        self.name = Path(argv[0]).name
        self.log = folder / f"{self.name}.log"
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                argv,
                cwd=folder,  # not the caller's: python -m would take the source from there
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, **(env or {})},
            )
        self.pid = self._process.pid
        try:
            self._wait(port)
        except BaseException:
            self.stop()
            raise

    def _wait(self, port: int) -> None:
        end = time.monotonic() + START
        while time.monotonic() < end and self._process.poll() is None:
            if listens(port):
                return
            time.sleep(0.01)
        text = self.log.read_text(errors="replace").strip()[-400:]
        raise RuntimeError(f"{self.name} does not listen on {port}: {text or 'it says nothing'}")

    def stop(self) -> None:
        """SIGTERM, then SIGKILL for what is left of it."""
        family = tree(self.pid)
        for pid, number in [(self.pid, signal.SIGTERM), *((p, signal.SIGKILL) for p in family)]:
            if self._process.poll() is None or alive(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            end = time.monotonic() + (STOP if number == signal.SIGTERM else 1)
            while any(alive(p) for p in family) and time.monotonic() < end:
                self._process.poll()
                time.sleep(0.01)
        self._process.wait(STOP)


@contextlib.contextmanager
def running(
    argv: Sequence[str], folder: Path, *, port: int, env: dict[str, str] | None = None
) -> Iterator[Program]:
    """The program from when it listens on ``port``."""
    program = Program(argv, folder, port=port, env=env)
    try:
        yield program
    finally:
        program.stop()
