"""The program that runs, started once more: the same command line, found again by its path, in the
same environment and working directory."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import sys
from typing import NoReturn

from spliceproxy.config import UPGRADE_VARIABLE, WATCHDOG_VARIABLE
from spliceproxy.processes.control import raises_sigio
from spliceproxy.processes.parcels import Line

UNWANTED = 127
"""Exit status of a process that could not become the new program."""


class Program:
    """Make it when this process starts: later its working directory may be gone. With
    ``ignores_hangup`` the next program finds SIGHUP ignored at its start, as under nohup(1)."""

    def __init__(self, *, ignores_hangup: bool) -> None:
        self._folder = _folder()
        self._ignores_hangup = ignores_hangup

    def start(self, mask: set[signal.Signals | int]) -> tuple[int, str, Line]:
        """Another process, with this mask of signals: its id, what it alone is told, and the line
        to it. OSError."""
        own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        nonce = secrets.token_hex(16)
        try:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            raises_sigio(own.fileno())
            pid = os.fork()
        except OSError:
            own.close()
            other.close()
            raise
        if pid == 0:
            self._become(other, nonce, mask)
        other.close()
        return pid, nonce, Line(own)

    def _become(self, sock: socket.socket, nonce: str, mask: set[signal.Signals | int]) -> NoReturn:
        """The new process, which is this one until the program is there."""
        try:
            with contextlib.suppress(OSError):  # if it is gone we stay where it was
                os.chdir(self._folder)
            fd = sock.fileno()
            os.set_inheritable(fd, True)
            environment = {**os.environ, UPGRADE_VARIABLE: f"{fd}:{nonce}"}
            if WATCHDOG_VARIABLE in environment:  # the signs of life will be its own
                environment[WATCHDOG_VARIABLE] = str(os.getpid())
            if self._ignores_hangup:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.execvpe(sys.orig_argv[0], sys.orig_argv, environment)
        except BaseException as error:  # noqa: BLE001 - there is nobody to raise it to
            why = error.strerror if isinstance(error, OSError) else repr(error)
            text = f"{sys.orig_argv[0]} cannot be started: {why}"
            try:
                Line(sock).send({"refused": text})
            finally:
                os._exit(UNWANTED)
        os._exit(UNWANTED)


def _folder() -> str:
    """The working directory, "" if it is gone."""
    try:
        return os.getcwd()
    except OSError:
        return ""
