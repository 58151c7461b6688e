"""A proxy whose workers are replaced, whose settings change, and whose program is started anew,
while a test has a load on it. Also what ends all of its processes, whoever has started them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from admin.admin_rig import Admin, Answer
from harness import ProxyProcess, alive, wait_for

from spliceproxy.config import UPGRADE_VARIABLE

MARK = "CHANGING_PROXY"
"""An environment variable by which all processes of a test's proxy are known."""

PROGRAM = """
import os, sys
from spliceproxy.processes import upgrade
{patch}
from spliceproxy.__main__ import main
if __name__ == "__main__":
    sys.exit(main())
"""


class ChangingProxy(ProxyProcess):
    """A program in a file, which may be changed, with an admin address. Its messages are of all
    processes that follow one another."""

    def __init__(self, folder: Path, *args: str, patch: str = "", **more: Any) -> None:
        self.folder = folder
        self.program = folder / "program.py"
        self.become(patch)
        path = folder / "admin"
        env = {MARK: str(folder), **more.pop("env", {})}
        super().__init__(folder, "--admin", f"unix:{path}", *args, env=env, **more)
        self.admin = Admin(self, str(path), 60.0)
        wait_for(path.is_socket, "the admin address")

    def become(self, patch: str) -> None:
        """The program has a patch from now on."""
        self.program.write_text(PROGRAM.format(patch=patch))

    def program_of(self, uvloop: bool) -> list[str]:
        return [str(self.program)]

    @property
    def main(self) -> int:
        """The supervisor that is the main process."""
        found = re.findall(r"has taken over, as process (\d+)", self.stderr())
        return int(found[-1]) if found else self.process.pid

    def children(self, pid: int = 0) -> list[int]:
        """The workers and the admin process of a supervisor, of the main one by default."""
        pid = pid or self.main
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(child) for child in text.split() if alive(int(child))]

    def upgrade(self) -> Answer:
        return self.admin.ask("/upgrade", "POST")

    def upgraded(self) -> int:
        """Does it, and waits until the program before has ended; returns the new process."""
        before = self.main
        answer = self.upgrade()
        assert answer.status == 200, (answer, self.stderr())
        new: int = answer.json["new"]["pid"]
        assert answer.json["old"]["pid"] == before
        wait_for(lambda: self.main == new, "the new main process")
        wait_for(lambda: not alive(before), "the end of the old one")
        return new

    def recycle(self, worker: int | None = None) -> list[dict[str, int]]:
        """Replaces one worker, or all; returns what was told of each."""
        query = "" if worker is None else f"?worker={worker}"
        answer = self.admin.ask(f"/recycle{query}", "POST")
        assert answer.status == 200, answer
        found: list[dict[str, int]] = answer.json["replaced"]
        return found

    def end(self, *, tells_of: bool = False) -> None:
        """Stops the main process, in order. ``tells_of``: its messages have a traceback."""
        main = self.main
        os.kill(main, signal.SIGTERM)
        wait_for(lambda: not processes(str(self.folder)), "the end of all processes")
        assert ("Traceback" in self.stderr()) == tells_of, self.stderr()


def processes(mark: str) -> list[int]:
    """Those that have been started with this value of MARK."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return [pid for pid in found if alive(pid)]


@contextlib.contextmanager
def all_ended(mark: str) -> Iterator[None]:
    """Kills what is left of a proxy, whoever has started it."""
    assert UPGRADE_VARIABLE not in os.environ
    try:
        yield
    finally:
        for pid in processes(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
