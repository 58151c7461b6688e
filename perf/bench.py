"""The benchmark that bench.sh starts: measures, checks, writes the table and the plots."""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rig import load, machine, report, settings
from rig.kinds import Kind
from rig.load import Wrong
from rig.measures import MEASURES, SMALL, Figures, Measure, idle, sweep_step, swept
from rig.origins import Origins, origins
from rig.ours import BEFORE, OURS, is_ours
from rig.process import leave_on_sigterm
from rig.proxies import DIRECT, KINDS, Proxy, started
from rig.settings import ALL_PEERS, IDLE_STEPS, REFERENCES, STEPS, Settings

START = 1.3  # seconds that a measurement takes beside its own time, for the forecast


class Bench:
    """A run: what it has found so far. ``wrong`` is what ends it with status 1: answers of
    spliceproxy, of the origin, or of a load program; those of a peer are in ``failed``."""

    def __init__(self, chosen: Settings, servers: Origins, folder: Path) -> None:
        self.settings, self.origins, self.folder = chosen, servers, folder
        before = [] if KINDS[BEFORE].missing() else [BEFORE]
        self.kinds = [KINDS[name] for name in (OURS, *before, *REFERENCES, *chosen.peers)]
        self.measures = [measure for measure in MEASURES if chosen.wants(measure.name)]
        self.samples: dict[str, dict[str, list[Figures]]] = {}
        self.sweep: dict[str, dict[str, Figures]] = {}
        self.idle: dict[str, Figures] = {}
        self.starts: dict[str, list[float]] = {}
        self.wrong: list[str] = []
        self.failed: list[str] = []
        self.skipped: list[str] = []
        self._begin = time.monotonic()

    def forecast(self) -> float:
        """Minutes."""
        s = self.settings
        number = sum(
            len([1 for k in self.kinds if m.suits(k) and (k.name != DIRECT or not r)])
            for r in range(s.rounds)
            for m in self.measures
        )
        clients = [k for k in self.kinds if swept(k)] if s.wants("sweep") else []
        steps = sum(s.fits(k.name, n, self._sweep_workers(k)) for k in clients for n in STEPS)
        rest = len(self.kinds) * 16 * s.wants("idle")
        return ((number + steps) * (s.duration + START) + rest) / 60

    def run(self) -> None:
        """Everything, round by round and by turns."""
        for turn in range(self.settings.rounds):
            shift = turn % len(self.kinds)
            order = self.kinds[shift:] + self.kinds[:shift]
            for measure in self.measures:
                for kind in order:
                    if measure.suits(kind) and (kind.name != DIRECT or not turn):
                        self._measure(measure, kind, turn)
        for kind in self.kinds if self.settings.wants("idle") else []:
            self._idle(kind)
        for clients in STEPS if self.settings.wants("sweep") else []:
            for kind in self.kinds:
                if swept(kind):
                    self._step(kind, clients)

    def _measure(self, measure: Measure, kind: Kind, turn: int) -> None:
        def work(proxy: Proxy) -> Figures:
            return measure.run(self.settings, self.origins, proxy)

        figures = self._try(measure.what, kind, self.settings.workers, work)
        if figures:
            figures["round"] = turn
            self.samples.setdefault(measure.name, {}).setdefault(kind.name, []).append(figures)
            self._say(kind, f"{measure.what}: {report.brief(measure, figures)}")

    def _idle(self, kind: Kind) -> None:
        workers = self.settings.workers
        steps = [n for n in IDLE_STEPS if self.settings.fits(kind.name, n, workers)]
        if not kind.tunnels or kind.name in REFERENCES or not steps:
            return
        what = "idle tunnels"
        figures = self._try(what, kind, workers, lambda p: idle(self.origins, p, steps))
        if figures:
            self.idle[kind.name] = figures
            if figures["stopped"]:
                self._blame(kind, what, figures["stopped"])
            last = figures["points"][-1][0]
            self._say(kind, f"{last} {what}: {figures['bytes']:.0f} bytes each")

    def _sweep_workers(self, kind: Kind) -> int:
        return self.settings.sweep_workers if is_ours(kind) else self.settings.workers

    def _step(self, kind: Kind, clients: int) -> None:
        workers = self._sweep_workers(kind)
        if not self.settings.fits(kind.name, clients, workers):
            has = self.settings.descriptors(kind.name, workers)
            text = f"{kind.name}: {clients} clients do not fit: {has} descriptors, two for each"
            self.skipped.append(text)
            print(f"skipped: {text}", flush=True)
            return

        def work(proxy: Proxy) -> Figures:
            return sweep_step(self.settings, self.origins, proxy, clients)

        what = f"{clients} clients"
        figures = self._try(what, kind, workers, work)
        if figures:
            self.sweep.setdefault(kind.name, {})[str(clients)] = figures
            rate, p99 = figures["rate"], figures["p99"]
            self._say(kind, f"{what}: {rate:,.0f} req/s, p99 {p99:.0f} ms, all right")

    def _try(
        self, what: str, kind: Kind, workers: int, work: Callable[[Proxy], Figures]
    ) -> Figures:
        """``work`` on a new proxy; empty where something was wrong."""
        pages, echo, limit = self.origins.pages.port, self.origins.echo, self.settings.limit
        begin = time.monotonic()
        try:
            with started(kind, pages, echo, workers, limit, self.folder) as proxy:
                if kind.forwards:
                    asked = load.target(proxy, self.origins, SMALL, False)
                    load.fetch(asked)
                    self.starts.setdefault(kind.name, []).append(time.monotonic() - begin)
                    load.fetch(asked)
                figures = work(proxy)
                if kind.forwards:
                    load.fetch(asked)
                return figures
        except (Wrong, RuntimeError) as error:
            self._blame(kind, what, str(error))
            return {}

    def _blame(self, kind: Kind, what: str, why: str) -> None:
        text = f"{kind.name}: {what}: {why}"
        (self.wrong if is_ours(kind) or kind.name in REFERENCES else self.failed).append(text)
        print(f"WRONG: {text}", file=sys.stderr, flush=True)

    def _say(self, kind: Kind, text: str) -> None:
        print(f"{time.monotonic() - self._begin:5.0f} s  {kind.name:14} {text}", flush=True)

    def results(self, described: dict[str, str]) -> dict[str, Any]:
        """For JSON."""
        return {
            "machine": described,
            "settings": {k: v for k, v in self.settings._asdict().items() if k != "out"},
            "medians": report.medians(self.samples),
            "samples": self.samples,
            "sweep": self.sweep,
            "idle": self.idle,
            "start": report.start_times(self.starts),
            "wrong": self.wrong,
            "failed": self.failed,
            "skipped": self.skipped,
        }


def _help() -> str:
    peers, names = (
        textwrap.fill(" ".join(words), 82, subsequent_indent=" " * 10, break_on_hyphens=False)
        for words in (ALL_PEERS, _names())
    )
    return settings.HELP.format(peers=peers, names=names)


def _names() -> list[str]:
    return [*(measure.name for measure in MEASURES), "idle", "sweep"]


def main() -> int:
    """The exit status: 1 if an answer was wrong."""
    if sys.argv[1:]:
        print(f"usage: bash perf/bench.sh, with these in the environment:\n{_help()}")
        return 0 if sys.argv[1] in ("-h", "--help") else 2
    leave_on_sigterm()
    chosen = settings.read(dict(os.environ))
    for pattern in chosen.only:
        if not fnmatch.filter(_names(), pattern):
            print(f"ONLY: nothing is called {pattern!r}; --help lists the names", file=sys.stderr)
            return 2
    for name in chosen.missing:
        print(f"not installed, left out: {name} ({KINDS[name].install})")
    if not chosen.peers:
        print("no peer is installed: spliceproxy alone")
    described = machine.describe(report.command(os.environ))
    if "native engine built" not in described.get("spliceproxy", ""):
        print("the native engine of spliceproxy is not built: these are not its figures")
    folder = Path(tempfile.mkdtemp(prefix="spliceproxy-perf-"))
    folder.chmod(0o755)
    try:
        with origins(folder, chosen.limit) as servers:
            bench = Bench(chosen, servers, folder)
            print(f"{chosen.limit} descriptors a process, origin {servers.pages.name}; "
                  f"this takes about {bench.forecast():.0f} minutes", flush=True)  # fmt: skip
            bench.run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    results = bench.results(described)
    chosen.out.mkdir(parents=True, exist_ok=True)
    chosen.out.joinpath("bench.json").write_text(json.dumps(results, indent=1) + "\n")
    print("\n" + report.write(results, chosen.out))
    for text in bench.wrong:
        print(f"WRONG: {text}", file=sys.stderr)
    return 1 if bench.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
