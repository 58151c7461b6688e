"""The frame of the pyperf suites: a Runner, and a proxy process as what is measured."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pyperf

from spliceproxy.version import __version__

from . import load
from .origins import Origins, origins
from .ours import OURS
from .process import raise_limit
from .proxies import KINDS, Proxy, started
from .usage import cpu_seconds

ENGINES = ("auto", "native", "splice", "copy")


def runner(processes: int = 10) -> pyperf.Runner:
    """pyperf's, with so many processes for each benchmark: half of them with ``--fast``."""
    made = pyperf.Runner(processes=processes)
    made.metadata["spliceproxy_version"] = __version__
    return made


def proxy_runner() -> tuple[pyperf.Runner, argparse.Namespace]:
    """A Runner whose values are CPU seconds of a proxy; ``--engine`` goes to the proxy.

    CPU time, for wall time here is mostly that of the load program and the machine's other
    work.
    """

    def pass_on(command: list[str], flags: argparse.Namespace) -> None:
        command += ["--engine", flags.engine]

    made = pyperf.Runner(processes=6, min_time=0.25, add_cmdline_args=pass_on)
    made.argparser.add_argument("--engine", choices=ENGINES, default="auto")
    flags = made.parse_args()
    made.metadata["spliceproxy_version"] = __version__
    made.metadata["value"] = "CPU time of the proxy"
    made.metadata["engine"] = flags.engine
    return made, flags


class Bed:
    """A proxy with one worker and its origins, started at first use, for this process. ``kind``
    is a name of spliceproxy's in KINDS."""

    def __init__(self, engine: str, kind: str = OURS) -> None:
        self._engine, self._kind = engine, kind
        self._life = contextlib.ExitStack()
        self._found: tuple[Proxy, Origins] | None = None

    def _up(self) -> tuple[Proxy, Origins]:
        if self._found is None:
            atexit.register(self._life.close)
            folder = Path(self._life.enter_context(tempfile.TemporaryDirectory()))
            folder.chmod(0o755)
            limit = raise_limit()
            servers = self._life.enter_context(origins(folder, limit))
            ours = KINDS[self._kind]
            kind = ours._replace(argv=lambda s: [*ours.argv(s), "--engine", self._engine])
            ports = servers.pages.port, servers.echo
            proxy = self._life.enter_context(started(kind, *ports, 1, limit, folder))
            self._found = proxy, servers
        return self._found

    def cpu(self, argv: Callable[[Proxy, Origins], Sequence[str]], units: str, count: int) -> float:
        """CPU seconds of the proxy while a load program runs; load.Wrong unless it reports
        ``count`` of ``units`` without an error."""
        proxy, servers = self._up()
        before = cpu_seconds(proxy.pid)
        report = load.run(proxy, servers, argv(proxy, servers), 600)
        spent = cpu_seconds(proxy.pid) - before
        if report[units] != count:
            raise load.Wrong(f"{report[units]} {units}, not {count}")
        return spent
