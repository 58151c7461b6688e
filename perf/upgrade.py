"""How long it takes to start the program anew, or to replace its workers, while it has thousands of
idle tunnels; how long a busy one stands still meanwhile; and whether one is lost.

    python perf/upgrade.py                             # 10,000 tunnels, two workers: 20 s
    python perf/upgrade.py -n 1000 --verb recycle --rounds 5 -o upgrade.json

Exit status 1 if a tunnel is lost.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import statistics
import sys
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from idle_tunnels import _echo, _tunnel
from rig import machine, usage
from rig.changing import Changing, changing
from rig.process import leave_on_sigterm, raise_limit

AT_ONCE = 100
"""Tunnels that are opened before the first answer of them is read."""

PAUSE = 0.002
"""Seconds between two messages of the tunnel that is busy."""

FIRST = "the new program is process"
LAST = "goes on; tunnels moved"


class Ping(threading.Thread):
    """A tunnel in which messages go there and back. ``worst``: the longest wait, in seconds."""

    def __init__(self, proxy: int, origin: int) -> None:
        super().__init__()
        self._tunnel = _tunnel(proxy, origin)
        self._over = threading.Event()
        self.worst = 0.0
        self.lost = False

    def run(self) -> None:
        try:
            while not self._over.wait(PAUSE):
                begun = time.monotonic()
                self._tunnel.sendall(b"ping")
                self.lost |= self._tunnel.recv(100) != b"ping"
                self.worst = max(self.worst, time.monotonic() - begun)
        except OSError:
            self.lost = True

    def end(self) -> None:
        self._over.set()
        self.join()
        self._tunnel.close()


def opened(proxy: int, origin: int, count: int) -> list[socket.socket]:
    found: list[socket.socket] = []
    where = f"127.0.0.1:{origin}"
    asked = f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode()
    while len(found) < count:
        some = [
            socket.create_connection(("127.0.0.1", proxy), 30)
            for _ in range(min(AT_ONCE, count - len(found)))
        ]
        for tunnel in some:
            tunnel.sendall(asked)
        for tunnel in some:
            answer = b""
            while not answer.endswith(b"\r\n\r\n"):
                answer += tunnel.recv(4096)
        found += some
    return found


def lost(tunnels: list[socket.socket]) -> int:
    """How many do not bring back what is said."""
    count = 0
    for number, tunnel in enumerate(tunnels):
        said = b"%8d" % number
        try:
            tunnel.sendall(said)
            count += tunnel.recv(8, socket.MSG_WAITALL) != said
        except OSError:
            count += 1
    return count


def between(messages: str, first: str, last: str) -> float:
    """Seconds from the last message with one text to that with the other."""

    def moment(text: str) -> datetime:
        line = [line for line in messages.splitlines() if text in line][-1]
        found = re.match(r"(\S+ [\d:]+),(\d+) ", line)
        assert found is not None, line
        return datetime.strptime(f"{found[1]}.{found[2]}", "%Y-%m-%d %H:%M:%S.%f")

    return (moment(last) - moment(first)).total_seconds()


def measure(proxy: Changing, origin: int, verb: str) -> dict[str, float]:
    """One change. ``seconds`` until the order is answered, ``log`` of an upgrade by the messages at
    its begin and end, ``worst`` the longest wait of a busy tunnel, ``cpu`` of all processes."""
    ping = Ping(proxy.port, origin)
    ping.start()
    before = proxy.main  # which has started the new program, and drains when that is told
    spent = usage.cpu_seconds(before)
    begun = time.monotonic()
    told = proxy.order(verb)
    seconds = time.monotonic() - begun
    cpu = usage.cpu_seconds(before) - spent
    found = {"seconds": seconds, "cpu": cpu, "moved": _moved(told)}
    if verb == "upgrade":
        found["log"] = between(proxy.messages(), FIRST, LAST)
    ping.end()
    found["worst"] = ping.worst
    found["lost"] = float(ping.lost)
    return found


def _moved(told: dict[str, Any]) -> int:
    each = told.get("replaced") or [told["moved"]]
    return sum(int(one["tunnels"]) for one in each)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("-n", type=int, default=10_000, help="tunnels")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--verb", choices=("upgrade", "recycle"), default="upgrade")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("-o", type=Path, help="JSON of all figures")
    flags = parser.parse_args()
    leave_on_sigterm()
    limit = raise_limit()
    if flags.n + 500 > limit:
        raise SystemExit(f"{flags.n} tunnels: more than the {limit} descriptors of a process")
    args = ["--workers", str(flags.workers), "--engine", flags.engine, "--access-log", "off"]
    rounds: list[dict[str, float]] = []
    with (
        tempfile.TemporaryDirectory(prefix="spliceproxy-perf-") as folder,
        _echo() as origin,
        changing(Path(folder), args) as proxy,
    ):
        tunnels = opened(proxy.port, origin, flags.n)
        for number in range(flags.rounds):
            before = proxy.main
            rounds.append(measure(proxy, origin, flags.verb))
            if flags.verb == "upgrade":
                proxy.wait(lambda was=before: not usage.alive(was), "the end of the old program")
            told = ", ".join(f"{name} {value:.3g}" for name, value in rounds[-1].items())
            print(f"{flags.verb} {number + 1}: {told}", flush=True)
        gone = lost(tunnels)
        for line in proxy.faults():
            print(line)
    names = rounds[0].keys()
    medians = {name: statistics.median(one[name] for one in rounds) for name in names}
    print(f"tunnels: {flags.n}, lost: {gone}, seconds: {medians['seconds']:.2f}, "
          f"longest wait of a busy one: {medians['worst'] * 1000:.0f} ms")  # fmt: skip
    if flags.o:
        described = machine.describe(" ".join(["python", *sys.argv]))
        result = {"machine": described, "flags": vars(flags) | {"o": None}, "rounds": rounds}
        flags.o.write_text(json.dumps(result, indent=1) + "\n")
    if gone or any(one["lost"] for one in rounds):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
