"""What the environment says of a run of bench.sh."""

from __future__ import annotations

import os
import re
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple, NoReturn

from .ours import BEFORE, OURS
from .process import raise_limit
from .proxies import C_LOOP, DIRECT, KINDS

VARIANTS = tuple(name for name, kind in KINDS.items() if kind.more)
REFERENCES = (DIRECT, C_LOOP, *VARIANTS)
ALL_PEERS = tuple(name for name in KINDS if name not in (OURS, BEFORE, *REFERENCES))
STEPS = (100, 1000, 5000, 10000, 15000)
IDLE_STEPS = (100, 1000, 5000, 9500)

HELP = """\
DURATION  seconds of one measurement (default 3; 2 or less is the quick mode)
ROUNDS    how often everything is measured, by turns (default 3, in quick mode 1)
CONC      connections, or tunnels being set up, at a time (default 100)
WORKERS   of every proxy (default 1; in the sweep by concurrency one for each CPU)
PEERS     proxies to compare with, in one string (default: those that are installed of
          {peers})
ONLY      what is measured, by name, * for any letters (default: everything):
          {names}
OUT       folder for the results (default perf/results)
HAPROXY   the program, where it is not the haproxy in PATH
NGINX_131 the program of nginx 1.31 or newer, which ends CONNECT itself (nginx-tunnel)
BEFORE    the python of an environment with another build of spliceproxy, which is measured in
          the same rounds
"""


class Settings(NamedTuple):
    """One run."""

    duration: float  # seconds
    rounds: int
    conc: int
    workers: int
    sweep_workers: int
    peers: list[str]  # that are installed
    missing: list[str]  # peers that are not
    only: list[str]  # patterns of what is measured; none for everything
    out: Path
    limit: int  # descriptors of a process

    def wants(self, name: str) -> bool:
        """Whether this is measured: a Measure by name, ``idle`` or ``sweep``."""
        return not self.only or any(fnmatch(name, pattern) for pattern in self.only)

    def descriptors(self, name: str, workers: int) -> int:
        """What the processes of this proxy may have together."""
        return self.limit * (workers if KINDS[name].scales else 1)

    def fits(self, name: str, connections: int, workers: int) -> bool:
        """Whether the proxy has descriptors for so many connections, each with one to the
        origin; and the load program for its own. SO_REUSEPORT does not share them out
        evenly, hence the twentieth."""
        needed = (1 if name == DIRECT else 2) * connections + 200
        if workers > 1:
            needed += needed // 20
        return connections + 100 <= self.limit and needed <= self.descriptors(name, workers)


def read(environ: dict[str, str]) -> Settings:
    """SystemExit(2) where a value makes no sense."""
    duration = _number(environ, "DURATION", "3", 0.2, 3600)
    rounds = int(_number(environ, "ROUNDS", "1" if duration <= 2 else "3", 1, 100))
    cpus = len(os.sched_getaffinity(0))
    workers = int(_number(environ, "WORKERS", "1", 1, 1024))
    wanted = environ.get("PEERS", " ".join(ALL_PEERS)).split()
    for name in wanted:
        if name not in ALL_PEERS:
            _refuse(f"PEERS: no peer {name!r}; allowed: {' '.join(ALL_PEERS)}")
    here = Path(__file__).parent.parent
    return Settings(
        duration=duration,
        rounds=rounds,
        conc=int(_number(environ, "CONC", "100", 1, 10000)),
        workers=workers,
        sweep_workers=workers if environ.get("WORKERS") else cpus,
        peers=[name for name in wanted if not KINDS[name].missing()],
        missing=[name for name in wanted if KINDS[name].missing()],
        only=environ.get("ONLY", "").split(),
        out=Path(environ.get("OUT") or here / "results").absolute(),
        limit=raise_limit(),
    )


def _number(environ: dict[str, str], name: str, default: str, low: float, high: float) -> float:
    text = environ.get(name) or default
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) or not low <= float(text) <= high:
        _refuse(f"{name}: {text!r} is not a number from {low:g} to {high:g}")
    return float(text)


def _refuse(text: str) -> NoReturn:
    print(text, file=sys.stderr)
    raise SystemExit(2)
