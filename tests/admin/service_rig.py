"""A service manager as the proxy sees it: a socket for what it says (sd_notify(3))."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from admin_rig import Admin
from changing_proxy import MARK, processes
from harness import ProxyProcess, need, wait_for

import spliceproxy

SECONDS = 20.0
"""For what the proxy has to say."""


class Said(NamedTuple):
    """One datagram, and the process that has sent it."""

    pid: int
    values: dict[str, str]


class Manager:
    """``address`` is what NOTIFY_SOCKET says of it."""

    def __init__(self, folder: Path, *, abstract: bool = False) -> None:
        name = str(folder / "notify")
        self.address = f"@{name}" if abstract else name
        self.said: list[Said] = []
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._sock.bind(f"\0{name}" if abstract else name)
        self._sock.settimeout(SECONDS)

    def close(self) -> None:
        self._sock.close()

    def next(self, seconds: float = SECONDS) -> Said:
        """The next one. TimeoutError."""
        self._sock.settimeout(seconds)
        size = socket.CMSG_SPACE(struct.calcsize("iII"))
        text, rights, _, _ = self._sock.recvmsg(1 << 16, size)
        (pid,) = (struct.unpack("iII", given)[0] for _, _, given in rights)
        lines = (line.partition("=") for line in text.decode().split("\n"))
        said = Said(pid, {name: value for name, _, value in lines})
        self.said.append(said)
        return said

    def until(self, name: str, *, not_: str = "") -> Said:
        """The next one that has this; none before it may have ``not_``."""
        while True:
            said = self.next()
            if name in said.values:
                return said
            assert not_ not in said.values, self.said

    def rest(self, seconds: float = 0.01) -> Iterator[Said]:
        """Those that come until nothing has for so long."""
        while True:
            try:
                yield self.next(seconds)
            except TimeoutError:
                return


class Managed(ProxyProcess):
    """A proxy that a service manager has started, with an admin address. ``settings`` is its file,
    which may be changed."""

    def __init__(self, folder: Path, manager: Manager | None, *args: str, **more: Any) -> None:
        self.folder = folder
        self.settings = folder / "proxy.toml"
        self.settings.touch()
        path = folder / "admin"
        env = {MARK: str(folder), **more.pop("env", {})}
        self.mark = env[MARK]
        if manager is not None:
            env["NOTIFY_SOCKET"] = manager.address
        args = ("--config", str(self.settings), "--admin", f"unix:{path}", *args)
        super().__init__(folder, *args, env=env, **more)
        self.admin = Admin(self, str(path), 60.0)
        wait_for(path.is_socket, "the admin address")
        self.admin.ask("/healthz")  # by then the admin process has its name

    @property
    def main(self) -> int:
        """The supervisor that is the main process."""
        found = re.findall(r"has taken over, as process (\d+)", self.stderr())
        return int(found[-1]) if found else self.process.pid

    def children(self, pid: int) -> list[int]:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(child) for child in text.split()]

    def end(self) -> None:
        """Stops the main process, in order."""
        os.kill(self.main, signal.SIGTERM)
        wait_for(lambda: not processes(self.mark), "the end of all processes")
        assert "Traceback" not in self.stderr(), self.stderr()


def opened(*folders: Path) -> list[str]:
    """In front of a command: every user may reach these folders, and all that it is run from.
    Where that cannot be the test is skipped."""
    if subprocess.run([need("unshare"), "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace can be made here")
    program = Path(__file__).with_name("opened.py")
    root = Path(spliceproxy.__file__).parents[1]
    bases = {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), root, *folders}
    tops = [one for one in bases if not bases & set(one.parents)]
    return [sys.executable, str(program), *map(str, tops), "--"]
