"""The real command line and supervisor over a worker that is easy to see through.

Each connection to it is a line protocol: ``pid`` and ``inodes`` (of its listening sockets)
are answered, ``crash`` ends the worker by SIGKILL. The environment variable STUB changes
how the worker lives, STUB_HEALTHY and STUB_GRACE the supervisor's times.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import signal
import socket
import sys
import termios
import time
from collections.abc import Sequence

from spliceproxy.admin.channel import Channel
from spliceproxy.cli import main as cli
from spliceproxy.config import Config
from spliceproxy.observe.board import Board
from spliceproxy.processes import children, logs, supervisor
from spliceproxy.processes.slot import Place

MODE = os.environ.get("STUB", "")


class Worker:
    """Drains at the lifeline's end: takes what is queued, closes the listening sockets,
    and is done when the last connection has gone."""

    def __init__(self, sockets: Sequence[socket.socket], lifeline: int) -> None:
        self.listening = list(sockets)
        self.lifeline = lifeline
        self.inodes = " ".join(str(os.fstat(sock.fileno()).st_ino) for sock in sockets)
        self.connections = 0
        self.selector = selectors.DefaultSelector()
        self.selector.register(lifeline, selectors.EVENT_READ, self.drain)
        for sock in sockets:
            self.selector.register(sock, selectors.EVENT_READ, self.accept)

    def run(self) -> None:
        while self.connections or self.listening:
            for key, _ in self.selector.select():
                if key.data != self.accept or key.fileobj in self.listening:
                    key.data(key.fileobj)

    def accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                connection = listener.accept()[0]
                self.selector.register(connection, selectors.EVENT_READ, self.answer)
                self.connections += 1

    def answer(self, connection: socket.socket) -> None:
        command = connection.recv(100)
        if command == b"crash\n":
            os.kill(os.getpid(), signal.SIGKILL)
        if command:
            text = self.inodes if command == b"inodes\n" else str(os.getpid())
            connection.sendall(f"{text}\n".encode())
        else:
            self.selector.unregister(connection)
            connection.close()
            self.connections -= 1

    def drain(self, lifeline: int) -> None:
        self.selector.unregister(lifeline)
        for listener in self.listening:
            self.accept(listener)
            self.selector.unregister(listener)
            listener.close()
        self.listening.clear()


def serve(
    config: Config,
    sockets: Sequence[socket.socket],
    lifeline: int,
    place: Place,
    board: Board,
    control: Channel,
) -> int:
    if MODE == "exit":
        return 3
    if MODE == "raise":
        raise RuntimeError("a fault in the worker")
    if MODE == "unusable":
        return children.UNUSABLE
    while MODE == "deaf":
        time.sleep(1)
    Worker(sockets, lifeline).run()
    return 0


def main() -> int:
    if os.isatty(0):  # its own session, with this terminal
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    children.HEALTHY = float(os.environ.get("STUB_HEALTHY", children.HEALTHY))
    children.GRACE = float(os.environ.get("STUB_GRACE", children.GRACE))
    config = cli.parse(sys.argv[1:])
    logs.set_up(config.log_level)
    return supervisor.run(config, run_worker=serve)


if __name__ == "__main__":
    sys.exit(main())
