"""What it costs to know where a name leads.

    python perf/names.py [-o out.json] [--fast]

``known-N`` is a name that is in the cache, one of N asked for in turn: the plot against N is flat
if the cache has no cliff. ``stored`` is a name that takes the place of another in a full cache.
``new`` is the CPU time of this process, c-ares included, for a name that a name server on
loopback is asked for, 16 at a time; ``new-both`` has addresses of both families. The metadata has
the bytes of a name in the cache.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count

import pyperf
import uvloop

from spliceproxy.upstream import resolver as module
from spliceproxy.upstream.resolver import Resolver, _Answer

AT_A_TIME = 16
NUMBERS = count()


def server(both: bool) -> None:
    """Answers every A, and AAAA if it shall, with one address, at its standard input's mercy."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        print(sock.getsockname()[1], flush=True)
        addresses = {1: socket.inet_aton("127.0.0.1")}
        if both:
            addresses[28] = socket.inet_pton(socket.AF_INET6, "::1")
        while True:
            query, peer = sock.recvfrom(512)
            end = query.index(0, 12) + 5
            address = addresses.get(struct.unpack_from(">H", query, end - 4)[0])
            message = query[:2] + struct.pack(">HHHHH", 0x8180, 1, address is not None, 0, 0)
            message += query[12:end]
            if address is not None:
                kind = 1 if len(address) == 4 else 28
                message += struct.pack(">HHHIH", 0xC00C, kind, 1, 60, len(address)) + address
            sock.sendto(message, peer)


def filled(resolver: Resolver, number: int) -> list[str]:
    """So many names are in the cache."""
    names = [f"www{n}.example.com" for n in range(number)]
    for n, name in enumerate(names):
        address = f"198.{18 + (n >> 16)}.{n >> 8 & 255}.{n & 255}"
        resolver._keep(name, _Answer(resolver.clock() + 1e9 + n, (address,), None, ""))
    return names


def known(number: int) -> Callable[[int], float]:
    async def run(loops: int) -> float:
        resolver = Resolver(5.0, hosts_file=os.devnull)
        names = filled(resolver, number)
        cached = resolver.cached
        before = time.perf_counter()
        for n in range(loops):
            cached(names[n % number])
        return time.perf_counter() - before

    return lambda loops: asyncio.run(run(loops))


def stored(loops: int) -> float:
    async def run() -> float:
        resolver = Resolver(5.0, hosts_file=os.devnull)
        filled(resolver, module.MAX_ENTRIES)
        answer = _Answer(resolver.clock() + 1e9, ("192.0.2.1",), None, "")
        names = [f"new{n}.example.com" for n in range(loops)]
        before = time.perf_counter()
        for name in names:
            resolver._keep(name, answer)
        return time.perf_counter() - before

    return asyncio.run(run())


def new(both: bool) -> Callable[[int], float]:
    async def run(loops: int, port: int) -> float:
        resolver = Resolver(5.0, nameservers=[f"127.0.0.1:{port}"], hosts_file=os.devnull)
        run = next(NUMBERS)
        names = iter([f"n{run}-{n}.test" for n in range(loops)])

        async def ask() -> None:
            for name in names:
                await resolver.resolve(name)

        await resolver.resolve(f"n{run}.test")
        before = time.process_time()
        await asyncio.gather(*(ask() for _ in range(AT_A_TIME)))
        spent = time.process_time() - before
        await resolver.close()
        return spent

    def measured(loops: int) -> float:
        command = [sys.executable, __file__, "--server", "both" if both else "one"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                return uvloop.run(run(loops, int(process.stdout.readline())))
            finally:
                process.terminate()

    return measured


def bytes_of_a_name() -> int:
    async def run() -> int:
        resolver = Resolver(5.0, hosts_file=os.devnull)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        names = filled(resolver, module.MAX_ENTRIES)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return (after - before) * 1024 // len(names)

    return asyncio.run(run())


def main() -> None:
    runner = pyperf.Runner()
    runner.metadata["description"] = "Cost of a name"
    for number in (1_000, 10_000, 100_000):
        runner.bench_time_func(f"known-{number}", known(number), inner_loops=1)
    runner.bench_time_func("stored", stored)
    runner.bench_time_func("new", new(False))
    runner.bench_time_func("new-both", new(True))
    if not runner.args.worker:
        print(f"{bytes_of_a_name()} bytes for a name in a cache of {module.MAX_ENTRIES}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--server"]:
        server(sys.argv[2] == "both")
    else:
        main()
