"""What a tunnel costs from accept to close: CONNECT, 32 bytes echoed, the client closes. And the
same by SOCKS5, whose greeting is a message more in each direction.

    python perf/tunnel_setup.py -o out.json

The values are CPU time of the proxy process for one tunnel. Names: how many are set up at a
time, and to how many hosts by turns; "socks" for SOCKS5.
"""

from __future__ import annotations

from rig.suite import Bed, proxy_runner

CASES = ((1, 8), (64, 8), (64, 20_000))
"""At a time, hosts."""


def measure(loops: int, bed: Bed, conc: int, hosts: int, *more: str) -> float:
    """``loops`` tunnels, ``conc`` at a time."""
    options = ("-c", str(min(conc, loops)), "-m", str(loops), "-k", str(hosts), *more)
    return bed.cpu(lambda proxy, _: proxy.tunnel("setup", 0, *options), "finished", loops)


def main() -> None:
    runner, flags = proxy_runner()
    bed = Bed(flags.engine)
    for conc, hosts in CASES:
        for name, more in (("", ()), ("socks-", ("-5",))):
            runner.bench_time_func(
                f"tunnel_setup-{name}{conc}-{hosts}", measure, bed, conc, hosts, *more
            )


if __name__ == "__main__":
    main()
