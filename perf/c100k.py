"""100,000 idle tunnels through one proxy, 1 % of them active, compared with 10,000.

    python perf/c100k.py [-n 100000] [--compare 10000] [--seconds 10] [-o out.json]

The proxy gets as many workers as its descriptors ask for; load programs and origins are
several processes too, with source addresses in 127.0.0.0/8. Both runs are on the same
number of workers and with the same number of messages a second in all (``--rate``), evenly
spread over the active tunnels: so a difference is what the number of tunnels costs.
Exit status 1 if a tunnel or a byte is lost, 2 if a limit of this machine does not allow it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rig import load, machine, usage
from rig.build import program
from rig.load import Wrong
from rig.ours import OURS
from rig.process import free_ports, leave_on_sigterm, raise_limit, running
from rig.proxies import KINDS, Proxy, started
from rig.tables import markdown, number

PER_TUNNEL = 16 << 10
"""Bytes of memory for one tunnel with its four sockets and both peers: 12 KiB measured."""

SPARE = 500  # descriptors of a process that are not for tunnels
REST = 2.0  # seconds until nothing moves any more
PATIENCE = 600.0  # seconds for one proxy with all its tunnels
SOURCES = 32  # addresses of one load program


class Plan(NamedTuple):
    """How many processes of each kind, and tunnels of each load program."""

    tunnels: int
    workers: int
    clients: int


class Costs(NamedTuple):
    """What was found with ``tunnels`` open."""

    tunnels: int
    open_seconds: float
    pss: float  # bytes for one tunnel, of all the proxy's processes
    descriptors: float  # of the proxy for one tunnel
    idle_cpu: float  # of a processor, while nothing moves
    messages: float  # a second
    cpu: float  # µs of the proxy for one message
    p50: float  # ms; of the load program that had the worst
    p99: float


def plan(tunnels: int, limit: int) -> Plan:
    """SystemExit(2) where a limit does not allow it."""
    room = limit - SPARE
    # SO_REUSEPORT does not share them out evenly: six standard deviations.
    workers = 1
    while _share(tunnels, workers) * 2 > room:
        workers += 1
        if workers > 1000:
            _refuse(f"{limit} descriptors a process (ulimit -Hn) are too few")
    clients = math.ceil(tunnels / room)
    if clients * SOURCES > 224:
        _refuse(f"{limit} descriptors a process (ulimit -Hn): too many load programs")
    files = int(Path("/proc/sys/fs/file-max").read_text())
    if tunnels * 4 + 10000 > files:
        _refuse(f"{tunnels} tunnels are {tunnels * 4} sockets, fs.file-max is {files}")
    memory = usage.available_memory()
    if tunnels * PER_TUNNEL > memory:
        _refuse(f"{tunnels} tunnels take {tunnels * PER_TUNNEL >> 20} MiB with both peers, "
                f"{memory >> 20} MiB are available")  # fmt: skip
    return Plan(tunnels, workers, clients)


def _share(tunnels: int, workers: int) -> float:
    mean = tunnels / workers
    return mean + (6 * math.sqrt(mean) if workers > 1 else 0)


def _refuse(why: str) -> None:
    print(f"c100k: {why}", file=sys.stderr)
    raise SystemExit(2)


def measure(chosen: Plan, tunnels: int, seconds: float, rate: float) -> Costs:
    """A new proxy with this many tunnels. Wrong if one is not there or loses a byte."""
    folder = Path(tempfile.mkdtemp(prefix="spliceproxy-perf-"))
    try:
        with contextlib.ExitStack() as stack:
            echoes = [stack.enter_context(_echo(folder)) for _ in range(chosen.clients)]
            life = started(KINDS[OURS], 1, echoes[0], chosen.workers, raise_limit(), folder)
            proxy = stack.enter_context(life)
            each = [tunnels // chosen.clients + (i < tunnels % chosen.clients)
                    for i in range(chosen.clients)]  # fmt: skip
            options = ["-t", str(seconds), "-r", str(rate / chosen.clients)]
            clients = [
                stack.enter_context(Client(proxy, echo, count, 1 + SOURCES * i, options))
                for i, (echo, count) in enumerate(zip(echoes, each, strict=True))
            ]
            limit = threading.Timer(PATIENCE, _kill, [clients])
            limit.start()
            stack.callback(limit.cancel)
            return _look(proxy, clients, tunnels)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _kill(clients: list[Client]) -> None:
    for client in clients:
        client.kill()


@contextlib.contextmanager
def _echo(folder: Path) -> Iterator[int]:
    port = free_ports(5)
    with running([program("origin"), str(port)], folder, port=port):
        yield port


class Client:
    """A load program that obeys."""

    def __init__(
        self, proxy: Proxy, echo: int, count: int, source: int, options: list[str]
    ) -> None:
        self.count = count
        self._argv = [program("tunnel"), "idle", str(proxy.port), str(echo)]
        self._argv += ["-c", str(count), "-s", str(source), *options]
        self._process = subprocess.Popen(
            self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._process.communicate()

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()

    def say(self, line: str) -> None:
        """``open N`` or ``ping N``."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def opened(self) -> None:
        """Waits for the answer to ``open``."""
        words = self._line().split(None, 4)
        if len(words) < 4 or words[1:3] != [str(self.count), "0"]:
            raise Wrong(f"{words[1]} of {self.count} tunnels: {' '.join(words[4:]).strip()}")

    def report(self) -> dict[str, Any]:
        """Waits for the answer to ``ping``."""
        return load.parse_report(self._argv, self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Wrong("a load program has ended, or time was up")
        return line


def _look(proxy: Proxy, clients: list[Client], tunnels: int) -> Costs:
    argv = proxy.tunnel("setup", 0, "-m", "1000")
    load.parse_report(argv, subprocess.check_output(argv, text=True))
    time.sleep(REST)  # every worker has worked, so no one-time cost counts
    start, begin = usage.pss(proxy.pid), time.monotonic()
    before = usage.descriptors(proxy.pid)
    for client in clients:
        client.say(f"open {client.count}")
    for client in clients:
        client.opened()
    took = time.monotonic() - begin
    time.sleep(REST)
    cpu = usage.cpu_seconds(proxy.pid)
    time.sleep(5)
    idle = (usage.cpu_seconds(proxy.pid) - cpu) / 5
    pss = (usage.pss(proxy.pid) - start) / tunnels
    fds = (usage.descriptors(proxy.pid) - before) / tunnels
    cpu = usage.cpu_seconds(proxy.pid)
    for client in clients:
        client.say(f"ping {max(1, client.count // 100)}")
    reports = [client.report() for client in clients]
    cpu = usage.cpu_seconds(proxy.pid) - cpu
    messages = sum(report["messages"] for report in reports)
    return Costs(
        tunnels,
        took,
        pss,
        fds,
        idle,
        messages / max(report["seconds"] for report in reports),
        cpu / messages * 1e6,
        max(report["p50_us"] for report in reports) / 1e3,
        max(report["p99_us"] for report in reports) / 1e3,
    )


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-n", type=int, default=100_000, help="tunnels (default: 100000)")
    parser.add_argument("--compare", type=int, default=10_000, help="with (default: 10000)")
    parser.add_argument("--seconds", type=float, default=10, help="of messages (default: 10)")
    parser.add_argument("--rate", type=float, default=2000, help="messages a second, in all")
    parser.add_argument("--rounds", type=int, default=1, help="of both (default: 1)")
    parser.add_argument("-o", "--output", help="file for the figures, JSON")
    flags = parser.parse_args()
    if not 100 <= flags.compare <= flags.n:
        parser.error(f"-n {flags.n} --compare {flags.compare}: 100 <= COMPARE <= N is allowed")
    leave_on_sigterm()
    chosen = plan(flags.n, raise_limit())
    print(f"{chosen.workers} workers, {chosen.clients} load programs, as many origins", flush=True)
    found = []
    try:
        for _ in range(flags.rounds):
            for tunnels in (flags.compare, flags.n):
                found.append(measure(chosen, tunnels, flags.seconds, flags.rate))
                print(f"{tunnels} tunnels: p99 {found[-1].p99:.2f} ms", flush=True)
    except (Wrong, RuntimeError) as error:
        print(f"WRONG: {error}", file=sys.stderr)
        return 1
    head = ["tunnels", "opened in s", "PSS KiB each", "descriptors each", "idle CPU %",
            "messages/s", "CPU µs/message", "p50 ms", "p99 ms"]  # fmt: skip
    rows = [
        [
            number(value)
            for value in costs._replace(pss=costs.pss / 1024, idle_cpu=costs.idle_cpu * 100)
        ]
        for costs in found
    ]
    print("\n" + markdown(head, rows))
    if flags.output:
        described = machine.describe(" ".join(["python", *sys.argv]))
        runs = [costs._asdict() for costs in found]
        result = {"machine": described, "workers": chosen.workers, "runs": runs}
        Path(flags.output).write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
