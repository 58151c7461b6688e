"""How evenly the kernel spreads long tunnels over the workers (SO_REUSEPORT), and what an uneven
spread costs those who are with many.

    python perf/balance.py -o balance.json          # 5 rounds, about 5 minutes

Each tunnel bounces 64 bytes off an echo, all of them at half the rate that they reach at most. The
spread is what the fullest worker has, in parts of what it would have if all had the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from rig import machine, usage
from rig.build import program
from rig.changing import Changing, changing
from rig.load import parse_report
from rig.process import free_ports, leave_on_sigterm, raise_limit, running

CASES = ((2, 16), (2, 1000), (4, 16), (4, 1000))
"""Workers, and tunnels."""


class Looks(threading.Thread):
    """How many tunnels each worker has, as soon as all are there."""

    def __init__(self, proxy: Changing, tunnels: int) -> None:
        super().__init__()
        self._proxy = proxy
        self._tunnels = tunnels
        self._over = threading.Event()
        self.counts: list[int] = []

    def run(self) -> None:
        while not self._over.wait(0.2):
            counts = [one["tunnels"] for one in self._proxy.get("/stats.json")["workers"]]
            if sum(counts) == self._tunnels:
                self.counts = counts
                return

    def end(self) -> float:
        """The spread."""
        self._over.set()
        self.join()
        return max(self.counts) * len(self.counts) / self._tunnels


def bounce(proxy: Changing, echo: int, tunnels: int, seconds: float, rate: float) -> Any:
    argv = [program("tunnel"), "pingpong", str(proxy.port), str(echo)]
    argv += ["-c", str(tunnels), "-t", str(seconds)]
    if rate:
        argv += ["-r", f"{rate:.0f}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60 + seconds, check=True)
    return parse_report(argv, done.stdout)


def measure(workers: int, tunnels: int, seconds: float, echo: int) -> dict[str, Any]:
    """In one life of a proxy: the spread, the most messages a second, and at half of them the 99th
    percentile of a message in µs."""
    with tempfile.TemporaryDirectory(prefix="spliceproxy-perf-") as folder:
        args = ["--workers", str(workers), "--access-log", "off"]
        args += ["--allow-clients", "127.0.0.0/8"]
        with changing(Path(folder), args) as proxy:
            time.sleep(1)
            looks = Looks(proxy, tunnels)
            looks.start()
            spent = usage.cpu_seconds(proxy.main)
            full = bounce(proxy, echo, tunnels, seconds, 0)
            cpu = (usage.cpu_seconds(proxy.main) - spent) / full["messages"]
            spread = looks.end()
            most = full["messages"] / full["seconds"]
            looks = Looks(proxy, tunnels)
            looks.start()
            half = bounce(proxy, echo, tunnels, seconds, most / 2)
            return {
                "workers": workers, "tunnels": tunnels, "spread": (spread + looks.end()) / 2,
                "most": most, "cpu_us": cpu * 1e6, "p99_us": half["p99_us"],
                "p99_full_us": full["p99_us"], "counts": looks.counts,
            }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of one load")
    parser.add_argument("-o", type=Path, help="JSON of all figures")
    flags = parser.parse_args()
    leave_on_sigterm()
    raise_limit()
    rounds = []
    with tempfile.TemporaryDirectory(prefix="spliceproxy-perf-") as folder:
        echo = free_ports(5)
        with running([program("origin"), str(echo)], Path(folder), port=echo):
            for _ in range(flags.rounds):
                for workers, tunnels in CASES:
                    rounds.append(measure(workers, tunnels, flags.seconds, echo))
                    print(json.dumps(rounds[-1]), flush=True)
    for workers, tunnels in CASES:
        some = [one for one in rounds if (one["workers"], one["tunnels"]) == (workers, tunnels)]
        told = ", ".join(
            f"{name} {statistics.median(one[name] for one in some):.4g}"
            for name in ("spread", "p99_us", "p99_full_us", "most", "cpu_us")
        )
        print(f"{workers} workers, {tunnels} tunnels: {told}")
    if flags.o:
        described = machine.describe(" ".join(["python", *sys.argv]))
        flags.o.write_text(json.dumps({"machine": described, "rounds": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
