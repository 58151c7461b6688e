"""What a tunnel costs from accept to close: CONNECT, 32 bytes echoed, the client closes.

    python perf/tunnel_setup.py -o out.json

The values are CPU time of the proxy process for one tunnel.
"""

from __future__ import annotations

from functools import partial

from rig.suite import Bed, proxy_runner

AT_ONCE = (1, 64)


def measure(loops: int, bed: Bed, conc: int) -> float:
    """``loops`` tunnels, ``conc`` at a time."""
    options = ("-c", str(min(conc, loops)), "-m", str(loops))
    return bed.cpu(lambda proxy, _: proxy.tunnel("setup", 0, *options), "finished", loops)


def main() -> None:
    runner, flags = proxy_runner()
    bed = Bed(flags.engine)
    for conc in AT_ONCE:
        runner.bench_time_func(f"tunnel_setup-{conc}", partial(measure, bed=bed, conc=conc))


if __name__ == "__main__":
    main()
