"""A proxy that is started anew while it serves: another process is the main one afterwards, so it
is known by what it says of itself."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from spliceproxy.admin.client import Client
from spliceproxy.config import Address

from .usage import alive, tree

PATIENCE = 60.0
"""Seconds for whatever it is asked, and for its start and its end."""


class Changing:
    """Its messages are in ``folder/messages``."""

    def __init__(self, folder: Path, args: Sequence[str]) -> None:
        self._messages = folder / "messages"
        admin = folder / "admin"
        argv = [sys.executable, "-m", "spliceproxy", "--listen", "127.0.0.1:0"]
        with self._messages.open("ab") as output:
            self._process = subprocess.Popen(
                [*argv, "--admin", f"unix:{admin}", *args],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output,
                start_new_session=True,
            )
        self._client = Client(Address(path=str(admin)), "")
        try:
            self.wait(lambda: self._is_up() and admin.is_socket(), "the start")
        except BaseException:
            self.stop()
            raise

    def _is_up(self) -> bool:
        if self._process.poll() is not None:
            raise SystemExit(f"the proxy does not start: {self.messages()}")
        found = re.search(r"listening on http://\S*:(\d+)", self.messages())
        if found:
            self.port = int(found[1])
        return found is not None and "event loop" in self.messages()

    def wait(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end:
                raise SystemExit(f"{what} does not come: {self.messages()[-2000:]}")
            time.sleep(0.01)

    def messages(self) -> str:
        return self._messages.read_text(errors="replace")

    def faults(self) -> list[str]:
        """Messages that something is lost or broken."""
        return [
            line for line in self.messages().splitlines() if re.search("ERROR|WARN|Trace", line)
        ]

    @property
    def main(self) -> int:
        """The supervisor that is the main process."""
        found = re.findall(r"has taken over, as process (\d+)", self.messages())
        return int(found[-1]) if found else self._process.pid

    @property
    def processes(self) -> list[int]:
        """Of the main program, the supervisor first; and of those before it, while they drain."""
        mains = map(int, re.findall(r"has taken over, as process (\d+)", self.messages()))
        found = {pid: None for top in (self._process.pid, *mains) for pid in tree(top)}
        return [pid for pid in found if alive(pid)]

    def order(self, verb: str) -> Any:
        """What ``ctl`` would print as JSON. NoAnswer (admin.client) where it is refused."""
        return self._client.post(f"/{verb}", PATIENCE)

    def get(self, path: str) -> Any:
        return self._client.get(path)

    def upgrade(self) -> Any:
        """Does it, and waits until the program before has ended."""
        before = self.main
        told = self.order("upgrade")
        self.wait(lambda: self.main != before and not alive(before), "the end of the old program")
        return told

    def stop(self) -> None:
        """In order, and then by force."""
        left = self.processes
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.main, signal.SIGTERM)
        end = time.monotonic() + PATIENCE
        while any(map(alive, left)) and time.monotonic() < end:
            self._process.poll()
            time.sleep(0.02)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def changing(folder: Path, args: Sequence[str]) -> Iterator[Changing]:
    proxy = Changing(folder, args)
    try:
        yield proxy
    finally:
        proxy.stop()
