"""What is known of one kind of proxy, and where its program is."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

TEMPLATES = Path(__file__).parent / "peers"

VARIABLES = {"haproxy": "HAPROXY", "nginx-1.31": "NGINX_131", "spliceproxy-before": "BEFORE"}
"""Environment variables that name a program; one that is not here is searched for only."""


class Setting(NamedTuple):
    """What the start of a proxy depends on. A relay's ports for echo, chargen and discard
    are the three after ``port``."""

    port: int
    pages: int  # port of the HTTP origin
    echo: int  # port of the echo; chargen, discard, take and names are the four after it
    workers: int
    limit: int  # descriptors of a process
    folder: Path  # its own

    def config(self, name: str) -> str:
        """The path of the filled-in template."""
        values = {f"PORT{i}": str(self.port + i) for i in range(4)}
        values |= {"ECHO": str(self.echo), "CHARGEN": str(self.echo + 1)}
        values |= {"DISCARD": str(self.echo + 2), "WORKERS": str(self.workers)}
        values |= {"FOLDER": str(self.folder), "LIMIT": str(self.limit)}
        values |= {"CLIENTS": str(self.limit // 2 - 400)}
        values |= {"USER": "root" if os.getuid() == 0 else os.environ.get("USER", "nobody")}
        text = TEMPLATES.joinpath(name).read_text()
        for key, value in values.items():
            text = text.replace(f"@{key}@", value)
        path = self.folder / name
        path.write_text(text)
        return str(path)


class Kind(NamedTuple):
    """One kind of proxy."""

    name: str
    program: str  # a file, or what must be in PATH or beside this Python; "": always there
    install: str
    argv: Callable[[Setting], list[str]]
    forwards: bool = True  # an absolute-form GET
    tunnels: bool = True
    relay: bool = False  # the tunnels are without CONNECT
    scales: bool = True  # with workers come processes, each with descriptors of its own
    # It closes after each answer, which wrk takes for an error. Whether the answers were
    # whole is told by the origin's count.
    closes: bool = False
    credentials: str = ""  # Proxy-Authorization
    # Of spliceproxy: what it does more for each request than it does without settings. It is
    # measured for what that costs.
    more: str = ""
    counts: tuple[str, ...] = ()  # what its function counts: ``calls``, ``ends``

    def missing(self) -> bool:
        """Whether it is not installed."""
        if self.program.startswith("/"):
            return not os.path.exists(self.program)
        return bool(self.program) and find(self.program) is None


def find(name: str) -> str | None:
    """The program that a variable names; or one beside this Python, in PATH, or where Debian
    puts servers. SystemExit(2) where the variable names none."""
    named = os.environ.get(VARIABLES.get(name, ""))
    if named:
        path = shutil.which(named)
        if path is None:
            print(f"{VARIABLES[name]}: {named!r} is no program", file=sys.stderr)
            raise SystemExit(2)
        return os.path.abspath(path)
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin"]
    return shutil.which(name, path=os.pathsep.join(folders))
