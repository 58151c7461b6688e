"""A real Redis that can be killed, and proxies that share limits by it."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from harness import ProxyProcess, free_port, need, wait_for

PASSWORD = "s3cret-of-the-store"


class RedisServer:
    """``redis-server`` on a port of this machine; what it knows ends with it."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.port = free_port()
        self._argv = [
            need("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1",
            "--save", "", "--appendonly", "no", "--dir", str(folder), *args,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self._process = subprocess.Popen(self._argv, stdout=subprocess.DEVNULL)
        wait_for(self._answers, "Redis")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as s:
                s.sendall(b"PING\r\n")
                return s.recv(16) != b""
        except OSError:
            return False

    def say(self, *words: str) -> str:
        """What it answers to a command."""
        from redis import Redis

        with Redis(port=self.port, decode_responses=True) as client:
            return str(client.execute_command(*words))


Machines = Callable[..., list[ProxyProcess]]
"""The fixture ``machines``."""
