"""How long a proxy takes from its start to its first answer.

    python perf/start.py [--runs 15] [SPLICEPROXY [option]...]

Prints the medians of the milliseconds until a client is accepted and until it has its answer,
and of the CPU time that all the proxy's processes have taken by then. The client tries to connect
every millisecond, and sends a request that the proxy answers itself. The files are in the page
cache, and modules are compiled, because one start is made before.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LIMIT = 30.0
"""Seconds for one start."""


class Start(NamedTuple):
    """In milliseconds."""

    accepted: float
    answered: float
    cpu: float


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def connected(port: int, process: subprocess.Popen[bytes]) -> socket.socket:
    limit = time.monotonic() + LIMIT
    while time.monotonic() < limit and process.poll() is None:
        try:
            return socket.create_connection(("127.0.0.1", port), LIMIT)
        except ConnectionRefusedError:
            time.sleep(0.001)
    raise SystemExit("the proxy has not started")


def cpu_of(pid: int) -> float:
    """Seconds of a process and its children that are there (proc(5), schedstat: nanoseconds)."""
    spent = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        spent += int((task / "schedstat").read_text().split()[0]) / 1e9
        for child in (task / "children").read_text().split():
            spent += cpu_of(int(child))
    return spent


def measure(command: Sequence[str]) -> Start:
    port = free_port()
    options = ["--listen", f"127.0.0.1:{port}", "--workers", "1", "--access-log", "off"]
    environment = dict(os.environ)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.perf_counter()
    with subprocess.Popen(
        [*command, *options], stderr=subprocess.DEVNULL, env=environment
    ) as process:
        try:
            with connected(port, process) as client:
                accepted = time.perf_counter() - began
                client.sendall(REQUEST)
                answer = client.recv(4096)
                answered = time.perf_counter() - began
                if not answer.startswith(b"HTTP/1.1 400 "):
                    raise SystemExit(f"another answer: {answer!r}")
                cpu = cpu_of(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
    return Start(accepted * 1e3, answered * 1e3, cpu * 1e3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    command = options.command or [str(Path(sys.executable).parent / "spliceproxy")]
    measure(command)
    starts = [measure(command) for _ in range(options.runs)]
    for name, values in zip(Start._fields, zip(*starts, strict=True), strict=True):
        print(f"{name:<9}{statistics.median(values):7.1f} ms (least {min(values):.1f})")


if __name__ == "__main__":
    main()
