"""What a request with a body costs through a proxy with one worker.

    python perf/bodies.py -o out.json

The values are CPU time of the proxy process for one POST; the origin compares every byte.
Names: bytes of the body, connections.
"""

from __future__ import annotations

from functools import partial

from rig import http_load
from rig.origins import Origins
from rig.proxies import Proxy
from rig.suite import Bed, proxy_runner

CASES = ((1 << 10, 1), (1 << 10, 100), (16 << 10, 100), (128 << 10, 32), (1 << 20, 16))
"""Bytes, connections."""


def measure(loops: int, bed: Bed, size: int, conc: int) -> float:
    """``loops`` requests."""

    def argv(proxy: Proxy, origins: Origins) -> list[str]:
        options = ("-c", str(min(conc, loops)), "-n", str(loops), "-b", str(size))
        return http_load.poster(proxy, origins).checker(*options)

    return bed.cpu(argv, "requests", loops)


def main() -> None:
    runner, flags = proxy_runner()
    bed = Bed(flags.engine)
    for size, conc in CASES:
        name = f"bodies-{size}-{conc}"
        runner.bench_time_func(name, partial(measure, bed=bed, size=size, conc=conc))


if __name__ == "__main__":
    main()
