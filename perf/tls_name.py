"""What the check of the name inside TLS costs: CONNECT, a ClientHello of 1.8 KB in two segments, 32
bytes back, the client closes; with ``--tls-name check`` and without, by turns.

    python perf/tls_name.py [ROUNDS]

It prints the CPU time of the proxy for one tunnel with the check and without, the ratio of both in
each round, and the median of these.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from hellos import ECH, QUANTUM, browser, extension, hello, records, server_name

NAME = b"a.localhost"
HELLO = records(
    hello(browser(server_name(NAME), ECH, extension(0x5A5A, bytes(100)), shares=QUANTUM))
)
HALF = 1300
"""Bytes of the first segment: about what an Ethernet frame has room for."""

WIDTH = 16
TUNNELS = 1600
ROUNDS = 9


def origin() -> int:
    """The port of a server that reads a ClientHello and says 32 bytes."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)

    def serve(one: socket.socket) -> None:
        with one:
            left = len(HELLO)
            while left:
                left -= len(one.recv(left))
            one.sendall(bytes(32))
            one.recv(1)

    def accept() -> None:
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(listener.getsockname()[1])


@contextmanager
def proxy(*args: str) -> Iterator[tuple[int, int]]:
    """Its port, and the process that serves."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "spliceproxy", "--listen", f"127.0.0.1:{port}"]
    with subprocess.Popen(
        [*command, "--workers", "1", *args],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "event loop" in line:
                break
        worker = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]
        try:
            yield port, int(worker)
        finally:
            process.terminate()


def cpu(pid: int) -> int:
    """Nanoseconds."""
    return sum(
        int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")
    )


def tunnels(port: int, target: int, count: int) -> None:
    head = b"CONNECT %b:%d HTTP/1.1\r\nHost: %b:%d\r\n\r\n" % (NAME, target, NAME, target)
    for _ in range(count // WIDTH):
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(WIDTH)]
        for one in clients:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.sendall(head)
        for one in clients:
            while not one.recv(4096).endswith(b"\r\n\r\n"):
                pass
        for part in (HELLO[:HALF], HELLO[HALF:]):
            for one in clients:
                one.sendall(part)
            time.sleep(0.002)  # until it has been read
        for one in clients:
            left = 32
            while left:
                left -= len(one.recv(left))
            one.close()


def main() -> None:
    target = origin()
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    ratios, costs = [], [[0.0] * rounds, [0.0] * rounds]
    with proxy("--tls-name", "check") as one, proxy() as other:
        for port, _ in (one, other):
            tunnels(port, target, 10 * WIDTH)
        for number in range(rounds):
            for at, (port, worker) in enumerate((one, other)):
                before = cpu(worker)
                tunnels(port, target, TUNNELS)
                costs[at][number] = (cpu(worker) - before) / TUNNELS / 1000
            ratios.append(costs[0][number] / costs[1][number])
    check, none = map(statistics.median, costs)
    print(
        f"ClientHello of {len(HELLO)} bytes; {check:.1f} µs with the check, {none:.1f} µs without"
    )
    print("ratios:", " ".join(f"{ratio:.3f}" for ratio in ratios))
    print(f"median: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
