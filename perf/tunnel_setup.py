"""What a tunnel costs from accept to close: CONNECT, 32 bytes echoed, the client closes.

    python perf/tunnel_setup.py -o out.json

The values are CPU time of the proxy process for one tunnel. Names: how many are set up at a
time, and to how many hosts by turns.
"""

from __future__ import annotations

from functools import partial

from rig.suite import Bed, proxy_runner

CASES = ((1, 8), (64, 8), (64, 20_000))
"""At a time, hosts."""


def measure(loops: int, bed: Bed, conc: int, hosts: int) -> float:
    """``loops`` tunnels, ``conc`` at a time."""
    options = ("-c", str(min(conc, loops)), "-m", str(loops), "-k", str(hosts))
    return bed.cpu(lambda proxy, _: proxy.tunnel("setup", 0, *options), "finished", loops)


def main() -> None:
    runner, flags = proxy_runner()
    bed = Bed(flags.engine)
    for conc, hosts in CASES:
        work = partial(measure, bed=bed, conc=conc, hosts=hosts)
        runner.bench_time_func(f"tunnel_setup-{conc}-{hosts}", work)


if __name__ == "__main__":
    main()
