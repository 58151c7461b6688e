"""How well a rate is kept: tunnels of one client at a rate of 10 MB/s, all of them busy, and one
that says little. Prints what went through in ten seconds, of the rate, how even it was, and how
long a small message and its answer took.

    python perf/limited.py                      # 1 and 50 tunnels
    python perf/limited.py --tunnels 10 --budget 100000000

Over loopback the kernel sends 64 KiB at a time, and the first ten segments without a pace: as it is
with Ethernet is seen where lo has its MTU,

    unshare -n sh -c 'ip link set lo mtu 1500 up; python perf/limited.py'
"""

from __future__ import annotations

import argparse
import contextlib
import re
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path


def source() -> int:
    """The port of a server that sends as much as is taken."""
    server = socket.create_server(("127.0.0.1", 0), backlog=512)

    def send(client: socket.socket) -> None:
        data = bytes(1 << 18)
        with client, contextlib.suppress(OSError):
            while True:
                client.sendall(data)

    def serve() -> None:
        while True:
            threading.Thread(target=send, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return int(server.getsockname()[1])


def echo() -> int:
    """The port of a server that sends back what it gets."""
    server = socket.create_server(("127.0.0.1", 0))

    def answer(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while data := client.recv(65536):
                client.sendall(data)

    def serve() -> None:
        while True:
            threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return int(server.getsockname()[1])


class Proxy:
    def __init__(self, limit: str, workers: int, folder: Path) -> None:
        config = folder / "limits.toml"
        config.write_text(f'guard = "off"\n[[limit]]\nid = "all"\nby = "client"\n{limit}\n')
        command = [sys.executable, "-m", "spliceproxy", "--config", str(config)]
        command += ["--listen", "127.0.0.1:0", "--workers", str(workers), "--access-log", "off"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.port = 0
        for line in self.process.stderr:
            found = re.search(r"listening on \S*:(\d+)", line)
            self.port = int(found[1]) if found else self.port
            if "event loop" in line:
                break

    def tunnel(self, port: int) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port))
        client.sendall(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: x:{port}\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        assert b" 200 " in head, head
        return client


def take(tunnels: list[socket.socket], seconds: float) -> list[int]:
    """Bytes of each in so many seconds."""
    counts = [0] * len(tunnels)
    end = time.monotonic() + seconds
    with selectors.DefaultSelector() as waiting:
        for at, one in enumerate(tunnels):
            waiting.register(one, selectors.EVENT_READ, at)
        while waiting.get_map() and (left := end - time.monotonic()) > 0:
            for key, _ in waiting.select(left):
                data = b""
                with contextlib.suppress(ConnectionResetError):
                    data = key.fileobj.recv(1 << 18)  # type: ignore[union-attr]
                if not data:
                    waiting.unregister(key.fileobj)
                counts[key.data] += len(data)
    return counts


def messages(client: socket.socket, times: list[float], stop: threading.Event) -> None:
    while not stop.wait(0.01):
        begun = time.monotonic()
        client.sendall(b"x" * 100)
        client.recv(100)
        times.append(time.monotonic() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tunnels", type=int, nargs="*", default=[1, 50])
    parser.add_argument("--rate", type=int, default=10_000_000)
    parser.add_argument("--budget", type=int, default=0, help="of a day, instead of a rate")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=1)
    flags = parser.parse_args()
    for count in flags.tunnels:
        limit = f"bytes-per-day = {flags.budget}" if flags.budget else f"rate-out = {flags.rate}"
        with tempfile.TemporaryDirectory() as folder:
            proxy = Proxy(limit, flags.workers, Path(folder))
            try:
                measure(proxy, count, flags)
            finally:
                proxy.process.terminate()
                proxy.process.wait()


def measure(proxy: Proxy, count: int, flags: argparse.Namespace) -> None:
    times: list[float] = []
    stop = threading.Event()
    small = proxy.tunnel(echo())
    thread = threading.Thread(target=messages, args=(small, times, stop), daemon=True)
    if not flags.budget:
        thread.start()
    origin = source()
    begun = time.monotonic()
    tunnels = [proxy.tunnel(origin) for _ in range(count)]
    counts = take(tunnels, flags.seconds)
    took = time.monotonic() - begun
    stop.set()
    total = sum(counts)
    if flags.budget:
        print(f"{count} tunnels: {total:,} of {flags.budget:,} bytes")
        return
    share = total / took / flags.rate
    mean = total / count
    times.sort()
    p99 = times[int(len(times) * 0.99)] if times else float("nan")
    print(
        f"{count} tunnels: {share:.3f} of the rate, slowest {min(counts) / mean:.2f} and fastest "
        f"{max(counts) / mean:.2f} of the mean; small messages p99 {p99 * 1e3:.1f} ms"
    )


if __name__ == "__main__":
    main()
