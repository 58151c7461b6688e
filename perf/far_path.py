"""Bulk through tunnels whose origin, or whose client, is 100 ms and 200 Mbit/s away.

    sudo python perf/far_path.py                  # about 2 minutes
    sudo python perf/far_path.py --proxy old='/old/bin/spliceproxy' --proxy new=spliceproxy

It makes two network namespaces with a path between them (load/far.c, which needs /dev/net/tun),
and removes them. The proxy is in the near one. The buffers are those of a kernel as it comes
(tcp_rmem up to 6 MiB, tcp_wmem up to 4 MiB). For each case it prints the rate at which bytes
arrive, of which 25 MB/s are all that the path takes, and the proxy's CPU time for a GB.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import shlex
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rig.build import program
from rig.process import leave_on_sigterm
from rig.usage import cpu_seconds

NEAR, FAR = (f"spliceproxy-{side}-{os.getpid()}" for side in ("near", "far"))
NEAR_HOST, FAR_HOST = "10.77.0.1", "10.77.0.2"
PROXY, SOURCE, SINK = 3128, 4001, 4002  # ports
BLOCK = bytes(256 * 1024)
START = 10.0  # seconds for a program to listen
CASES = (  # name, the origin is far, upload, tunnels
    ("down, far origin, 1", True, False, 1),
    ("down, far client, 1", False, False, 1),
    ("up, far origin, 16", True, True, 16),
    ("up, far client, 16", False, True, 16),
    ("down, far origin, 40", True, False, 40),
    ("down, far client, 40", False, False, 40),
)


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


def within(space: str, *argv: str) -> list[str]:
    return ["ip", "netns", "exec", space, *argv]


@contextlib.contextmanager
def path(mbit: float, round_trip: float, queue: int) -> Iterator[None]:
    """Both namespaces, and the path between them."""
    far = program("far")
    with contextlib.ExitStack() as stack:
        for space in (NEAR, FAR):
            run("ip", "netns", "add", space)
            stack.callback(run, "ip", "netns", "del", space)
        line = subprocess.Popen(
            [far, NEAR, FAR, str(mbit), str(round_trip / 2), str(queue)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(line.communicate)
        assert line.stdout is not None
        if line.stdout.readline() != "ready\n":
            raise SystemExit("there is no path: it needs root and /dev/net/tun")
        for space, device, host in ((NEAR, "far0", NEAR_HOST), (FAR, "near0", FAR_HOST)):
            run("ip", "-n", space, "addr", "add", f"{host}/24", "dev", device)
            run("ip", "-n", space, "link", "set", device, "up")
            run("ip", "-n", space, "link", "set", "lo", "up")
            for name, value in (("rmem", "4096 131072 6291456"), ("wmem", "4096 16384 4194304")):
                run(*within(space, "sysctl", "-qw", f"net.ipv4.tcp_{name}={value}"))
        yield


# ---- peers, in processes of their own ------------------------------------------------------


def origin(host: str) -> None:
    """Sends without end on one port, and takes without end on the other; at each line on
    standard input it says how many bytes it has taken."""
    chooser = selectors.DefaultSelector()
    for port in (SOURCE, SINK):
        listener = socket.create_server((host, port), backlog=100)
        listener.setblocking(False)
        chooser.register(listener, selectors.EVENT_READ, port)
    chooser.register(sys.stdin, selectors.EVENT_READ, "line")
    taken = 0
    buffer = bytearray(len(BLOCK))
    print("ready", flush=True)
    while True:
        for key, _ in chooser.select():
            if key.data == "line":
                if not sys.stdin.readline():
                    return
                print(taken, flush=True)
            elif isinstance(key.data, int):
                client, _address = key.fileobj.accept()  # type: ignore[union-attr]
                client.setblocking(False)
                sends = key.data == SOURCE
                events = selectors.EVENT_WRITE if sends else selectors.EVENT_READ
                chooser.register(client, events, "sends" if sends else "takes")
            else:
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                taken += move(sock, key.data == "sends", buffer, chooser)


def move(
    sock: socket.socket, sends: bool, buffer: bytearray, chooser: selectors.BaseSelector
) -> int:
    """Sends a block, or receives one; the bytes that moved."""
    try:
        moved = sock.send(BLOCK) if sends else sock.recv_into(buffer)
    except BlockingIOError:
        return 0
    except OSError:
        moved = 0
    if not moved:
        chooser.unregister(sock)
        sock.close()
    return moved


def client(proxy: str, target: str, up: bool, tunnels: int) -> None:
    """Moves bytes through tunnels; at each line it says how many it has received."""
    chooser = selectors.DefaultSelector()
    for _ in range(tunnels):
        sock = socket.create_connection((proxy, PROXY), 20)
        sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            part = sock.recv(1)
            assert part, head
            head += part
        assert b" 200 " in head, head
        sock.setblocking(False)
        chooser.register(sock, selectors.EVENT_WRITE if up else selectors.EVENT_READ, "peer")
    chooser.register(sys.stdin, selectors.EVENT_READ, "line")
    got = 0
    buffer = bytearray(len(BLOCK))
    print("ready", flush=True)
    while True:
        for key, _ in chooser.select():
            if key.data == "line":
                if not sys.stdin.readline():
                    return
                print(got, flush=True)
            else:
                assert isinstance(key.fileobj, socket.socket)
                got += move(key.fileobj, up, buffer, chooser)


# ---- the measurement -----------------------------------------------------------------------


class Peer:
    """One of the processes above; it ends with its standard input."""

    def __init__(self, space: str, *args: str) -> None:
        self._process = subprocess.Popen(
            within(space, sys.executable, __file__, "--peer", *args),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._line() != "ready":
            raise RuntimeError(f"{args} did not start")

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def bytes(self) -> int:
        pipe: IO[str] | None = self._process.stdin
        assert pipe is not None
        pipe.write("\n")
        pipe.flush()
        return int(self._line())

    def stop(self) -> None:
        self._process.communicate()


@contextlib.contextmanager
def proxy(command: str) -> Iterator[int]:
    """The pid of a proxy in the near namespace."""
    options = "--workers 1 --access-log off --guard off"
    argv = [*shlex.split(command), *options.split()]
    argv += ["--listen", f"{NEAR_HOST}:{PROXY}", "--listen", f"127.0.0.1:{PROXY}"]
    with subprocess.Popen(within(NEAR, *argv), stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + START
            while subprocess.run(
                within(NEAR, "bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{PROXY}"),
                capture_output=True,
                check=False,
            ).returncode:
                if time.monotonic() > end or process.poll() is not None:
                    raise SystemExit(f"{command} does not listen")
                time.sleep(0.1)
            time.sleep(1)  # it loads what it did not need to listen
            yield process.pid
        finally:
            process.terminate()


def measure(command: str, far: bool, up: bool, tunnels: int, seconds: float) -> dict[str, float]:
    """``far``: the origin is; else the client."""
    host = FAR_HOST if far else NEAR_HOST
    with contextlib.ExitStack() as stack:
        pid = stack.enter_context(proxy(command))
        serving = Peer(FAR if far else NEAR, "origin", host)
        stack.callback(serving.stop)
        target = f"{host}:{SINK if up else SOURCE}"
        asking = Peer(
            NEAR if far else FAR,
            "client",
            "127.0.0.1" if far else NEAR_HOST,
            target,
            "up" if up else "down",
            str(tunnels),
        )
        stack.callback(asking.stop)
        counting = serving if up else asking
        time.sleep(seconds / 2)  # until the window is open
        before, cpu, since = counting.bytes(), cpu_seconds(pid), time.monotonic()
        time.sleep(seconds)
        moved, cpu = counting.bytes() - before, cpu_seconds(pid) - cpu
        return {
            "MB/s": moved / (time.monotonic() - since) / 1e6,
            "cpu s/GB": cpu / moved * 1e9 if moved else 0.0,
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--proxy", action="append", metavar="[NAME=]COMMAND")
    parser.add_argument("--mbit", type=float, default=200)
    parser.add_argument("--round-trip", type=float, default=100, help="ms")
    parser.add_argument("--queue", type=int, default=1024, help="KiB before a packet is dropped")
    parser.add_argument("--seconds", type=float, default=5, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("-k", default="", help="only cases whose name has this in it")
    parser.add_argument("-o", type=Path, help="JSON of all samples")
    flags = parser.parse_args()
    leave_on_sigterm()
    proxies = {}
    for given in flags.proxy or ["spliceproxy"]:
        name, _, command = given.rpartition("=") if "=" in given.split()[0] else ("", "", given)
        proxies[name or command] = command
    samples: dict[str, dict[str, list[dict[str, float]]]] = {}
    with path(flags.mbit, flags.round_trip, flags.queue):
        for _ in range(flags.rounds):
            for case, far, up, tunnels in CASES:
                if flags.k not in case:
                    continue
                for name, command in proxies.items():
                    figures = measure(command, far, up, tunnels, flags.seconds)
                    samples.setdefault(case, {}).setdefault(name, []).append(figures)
                    print(f"{case:22} {name:12}", figures, flush=True)
    for case, by_proxy in samples.items():
        for name, rows in by_proxy.items():
            middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
            print(f"{case:22} {name:12} {middle['MB/s']:6.2f} MB/s {middle['cpu s/GB']:6.2f} s/GB")
    if flags.o:
        flags.o.write_text(json.dumps(samples, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        if sys.argv[2] == "origin":
            origin(sys.argv[3])
        else:
            client(sys.argv[3], sys.argv[4], sys.argv[5] == "up", int(sys.argv[6]))
    else:
        main()
