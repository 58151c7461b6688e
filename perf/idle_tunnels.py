"""What an idle tunnel costs: starts a proxy and an echo server, opens tunnels, looks.

    python perf/idle_tunnels.py -o out.json [--fast] [-n 5000] [--engine native]

Memory of the worker is by /proc/PID/smaps_rollup (Pss, proc(5)); that of the kernel is the
growth of Slab in /proc/meminfo, which is the whole machine's: of a tunnel's four sockets two
are the proxy's. ``-o`` writes bytes for one tunnel, comparable by pyperf.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

WARM = 50
"""Tunnels that are opened before the first look, so that no one-time cost counts."""

ECHO = """
import resource, selectors, socket
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
selector = selectors.DefaultSelector()
listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
selector.register(listener, selectors.EVENT_READ)
print(listener.getsockname()[1], flush=True)
while True:
    for key, _ in selector.select():
        if key.fileobj is listener:
            selector.register(listener.accept()[0], selectors.EVENT_READ)
            continue
        try:
            data = key.fileobj.recv(65536)
        except ConnectionResetError:
            data = b""
        if data:
            key.fileobj.sendall(data)
        else:
            selector.unregister(key.fileobj)
            key.fileobj.close()
"""


class Look(NamedTuple):
    """Bytes and counts of one moment."""

    pss: int  # of the worker
    slab: int  # of the machine
    descriptors: int  # of the worker, pipes included
    pipes: int  # descriptors of the worker that are pipes


class Costs(NamedTuple):
    """What ``tunnels`` idle tunnels added to the worker, and ``echoed``: whether each of
    them carried a message before and after its rest."""

    tunnels: int
    pss: int  # bytes, of all of them
    slab: int  # bytes, the machine's, with the sockets of both peers
    descriptors: int
    pipes: int
    echoed: bool


def measure(count: int, engine: str) -> Costs:
    """Opens ``count`` tunnels through a new proxy with one worker, a message in each."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if count + WARM + 100 > hard:
        raise SystemExit(f"{count} tunnels: more than the {hard} descriptors of a process")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with ExitStack() as stack:
        origin = stack.enter_context(_echo())
        port, worker = stack.enter_context(_proxy(engine))
        tunnels = [stack.enter_context(_tunnel(port, origin)) for _ in range(WARM)]
        echoed = all([_echoes(tunnel) for tunnel in tunnels])
        before = _look(worker)
        for _ in range(count):
            tunnels.append(stack.enter_context(_tunnel(port, origin)))
            echoed &= _echoes(tunnels[-1])
        after = _look(worker)
        echoed &= all([_echoes(tunnel) for tunnel in tunnels])
    pss, slab, descriptors, pipes = (b - a for a, b in zip(before, after, strict=True))
    return Costs(count, pss, slab, descriptors, pipes, echoed)


@contextmanager
def _echo() -> Iterator[int]:
    command = [sys.executable, "-c", ECHO]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


@contextmanager
def _proxy(engine: str) -> Iterator[tuple[int, int]]:
    """Its port and its worker's process id."""
    command = [sys.executable, "-m", "spliceproxy", "--workers", "1", "--engine", engine]
    command += ["--listen", "127.0.0.1:0", "--access-log", "off", "--timeout-drain", "0"]
    # Not in the caller's folder: python -m would take the source from there.
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd="/") as process:
        assert process.stderr is not None
        try:
            port, said = 0, ""
            for line in process.stderr:
                said += line
                if found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
                    port = int(found[1])
                if "event loop" in line:
                    break
            else:
                raise SystemExit(f"the proxy does not start with --engine {engine}:\n{said}")
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            yield port, int(children)
        finally:
            process.terminate()
            process.communicate()


def _tunnel(port: int, origin: int) -> socket.socket:
    """An established tunnel."""
    tunnel = socket.create_connection(("127.0.0.1", port), 30)
    tunnel.sendall(f"CONNECT 127.0.0.1:{origin} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        part = tunnel.recv(4096)
        if not part:
            raise ConnectionError(f"no tunnel: {answer!r}")
        answer += part
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise ConnectionError(f"no tunnel: {answer!r}")
    return tunnel


def _echoes(tunnel: socket.socket) -> bool:
    tunnel.sendall(b"64 bytes".ljust(64))
    return tunnel.recv(64, socket.MSG_WAITALL) == b"64 bytes".ljust(64)


def _look(pid: int) -> Look:
    time.sleep(1.5)  # the relay's REST, and a moment: what is not idle by then is a fault
    names = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            names.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:
            continue
    pipes = sum(name.startswith("pipe:") for name in names)
    rollup = f"/proc/{pid}/smaps_rollup"
    return Look(_kib(rollup, "Pss"), _kib("/proc/meminfo", "Slab"), len(names), pipes)


def _kib(path: str, field: str) -> int:
    """A line ``Field:   123 kB``, in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path(path).read_text(), re.M)
    assert found is not None
    return int(found[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description="What an idle tunnel costs.")
    parser.add_argument("-n", type=int, default=5000, help="tunnels (default: 5000)")
    parser.add_argument("--engine", default="native", choices=["native", "splice", "copy"])
    parser.add_argument("--rounds", type=int, default=3, help="new proxies (default: 3)")
    parser.add_argument("--fast", action="store_true", help="1000 tunnels, 2 rounds")
    parser.add_argument("-o", "--output", help="file for pyperf compare_to")
    flags = parser.parse_args()
    if flags.output and os.path.exists(flags.output):
        parser.error(f"-o {flags.output}: it exists already")
    count, rounds = (1000, 2) if flags.fast else (flags.n, flags.rounds)
    found = [measure(count, flags.engine) for _ in range(rounds)]
    pipes = max(costs.pipes for costs in found)
    echoed = all(costs.echoed for costs in found)
    for name, value in (
        ("tunnels", count),
        ("engine", flags.engine),
        ("bytes of the worker (PSS) per tunnel", _each(found, "pss")),
        ("bytes of kernel slab per tunnel, all four sockets", _each(found, "slab")),
        ("descriptors per tunnel", round(median(costs.descriptors for costs in found) / count, 3)),
        ("pipes, of all tunnels", pipes),
        ("all of them still echo", "yes" if echoed else "NO"),
    ):
        print(f"{name:<52}{value:>10}")
    if flags.output:
        _dump(flags.output, found, flags.engine)
    if pipes or not echoed:
        raise SystemExit(1)


def _each(found: list[Costs], field: str) -> int:
    """The median of the rounds, for one tunnel."""
    values = [float(getattr(costs, field)) / costs.tunnels for costs in found]
    return round(median(values))


def _dump(path: str, found: list[Costs], engine: str) -> None:
    """A file of pyperf with a value for each round; the unit is the byte."""
    import pyperf  # not at the top: measure() does without it

    benchmarks = []
    for field in ("pss", "slab"):
        count = found[0].tunnels
        name = f"idle_tunnels-{engine}-{count}-{field}"
        runs = []
        for costs in found:
            # pyperf takes no value below 1; the machine's slab may shrink meanwhile.
            value = max(1, round(getattr(costs, field) / costs.tunnels))
            metadata = {"name": name, "unit": "byte", "engine": engine}
            runs.append(pyperf.Run([value], metadata=metadata))
        benchmarks.append(pyperf.Benchmark(runs))
    pyperf.BenchmarkSuite(benchmarks).dump(path)


if __name__ == "__main__":
    main()
