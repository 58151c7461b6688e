"""What a scrape of ``/metrics`` costs: the CPU time of all processes of the proxy.

    python perf/scrape.py [--workers 1 8] [--scrapes 100]

Each scrape is on a connection of its own, as of a monitor that keeps none. Printed is the median,
so that what the proxy does every two seconds does not count.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import socket
import subprocess
import sys
import tempfile
import time
from statistics import median

from rig.usage import cpu_seconds

PAUSE = 0.02
"""Seconds between two scrapes."""


class Admin(http.client.HTTPConnection):
    """The admin address, a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def get(path: str, what: str) -> bytes:
    with contextlib.closing(Admin(path)) as connection:
        connection.request("GET", what)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise ConnectionError(text.decode())
        return text


def measure(workers: int, scrapes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/admin"
        command = [sys.executable, "-m", "spliceproxy", "--listen", "127.0.0.1:0"]
        command += ["--workers", str(workers), "--admin", f"unix:{path}", "--access-log", "off"]
        proxy = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            wanted = f"answer: {workers}\n".encode()
            while True:
                with contextlib.suppress(OSError):
                    if get(path, "/healthz").endswith(wanted):
                        break
                time.sleep(0.1)
            spent = []
            for _ in range(scrapes):
                time.sleep(PAUSE)
                before = cpu_seconds(proxy.pid)
                size = len(get(path, "/metrics"))
                time.sleep(PAUSE)  # what is done behind the answer is a part of it
                spent.append(cpu_seconds(proxy.pid) - before)
            print(f"{workers} workers: {median(spent) * 1e3:.2f} ms a scrape, {size} bytes")
        finally:
            proxy.terminate()
            proxy.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--scrapes", type=int, default=100)
    flags = parser.parse_args()
    for workers in flags.workers:
        measure(workers, flags.scrapes)


if __name__ == "__main__":
    main()
