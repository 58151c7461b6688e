"""What a forwarded GET costs, small and large, through a proxy with one worker.

    python perf/forwarding.py -o out.json

The values are CPU time of the proxy process for one request. The load program compares
every byte. Names: page, how the proxy is asked (``absolute``, ``backend``: origin form
through --default-backend, ``close``: a new connection each, ``many``: 1,000 hosts by turns),
connections.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from rig import load
from rig.origins import Origins
from rig.proxies import Proxy
from rig.suite import Bed, proxy_runner


class Case(NamedTuple):
    """One benchmark."""

    page: str
    form: str
    conc: int


CASES = (
    Case("small.html", "absolute", 1),
    Case("small.html", "absolute", 100),
    Case("small.html", "backend", 100),
    Case("small.html", "close", 100),
    Case("small.html", "many", 100),
    Case("16k.bin", "absolute", 100),
    Case("128k.bin", "absolute", 32),
    Case("1m.bin", "absolute", 16),
)


def measure(loops: int, bed: Bed, case: Case) -> float:
    """``loops`` requests."""
    options = ["-c", str(min(case.conc, loops)), "-n", str(loops)]
    if case.form == "close":
        options.append("-C")
    if case.form == "many":
        options += ["-k", "1000"]

    def argv(proxy: Proxy, origins: Origins) -> list[str]:
        asked = load.target(proxy, origins, case.page, case.form == "backend")
        return asked.checker(*options)

    return bed.cpu(argv, "requests", loops)


def main() -> None:
    runner, flags = proxy_runner()
    bed = Bed(flags.engine)
    for case in CASES:
        name = f"forwarding-{case.page.partition('.')[0]}-{case.form}-{case.conc}"
        runner.bench_time_func(name, partial(measure, bed=bed, case=case))


if __name__ == "__main__":
    main()
