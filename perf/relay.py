"""What the relay costs for one message, by engine, size and number of tunnels.

    python perf/relay.py -o out.json [--engine native]

The values are CPU time of this thread inside ``Relay.step`` for one message one way through
a tunnel: the sockets' send and receive of the relay with what the kernel does for them, not
those of the peers. Each tunnel carries one message, then the next one. Names: engine, bytes,
tunnels.
"""

from __future__ import annotations

import argparse
import random
import select
import socket
import time
from functools import cache, partial

import pyperf
from rig.process import raise_limit

from spliceproxy.relay.choice import EngineError, choose
from spliceproxy.relay.interface import Relay, RelayOptions
from spliceproxy.version import __version__

ENGINES = ("native", "splice", "copy")
SIZES = (64, 4 << 10, 16 << 10, 128 << 10, 1 << 20)
TUNNELS = (1, 100)
PATIENCE = 10.0  # seconds for one message


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection, non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        outer = socket.create_connection(server.getsockname())
        inner, _ = server.accept()
    for sock in (outer, inner):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return outer, inner


class Bed:
    """A relay with tunnels, and the outer ends of these."""

    def __init__(self, relay: Relay, tunnels: int) -> None:
        self._relay = relay
        self._ready = select.poll()
        self._ready.register(relay.fileno(), select.POLLIN)
        self._outer: list[tuple[socket.socket, socket.socket]] = []
        for number in range(tunnels):
            (client, inner_client), (origin, inner_origin) = tcp_pair(), tcp_pair()
            relay.tunnel(inner_client.detach(), inner_origin.detach(), b"", b"", number)
            self._outer.append((client, origin))

    def exchange(self, message: bytes) -> float:
        """Sends the message through every tunnel; CPU seconds that the relay took."""
        sent = [0] * len(self._outer)
        received = [0] * len(self._outer)
        waiting = set(range(len(self._outer)))
        spent = 0.0
        limit = time.monotonic() + PATIENCE
        while waiting:
            for i in waiting:
                if sent[i] < len(message):
                    sent[i] += _send(self._outer[i][0], message, sent[i])
            while self._ready.poll(0):
                before = time.thread_time()
                ends = self._relay.step()
                spent += time.thread_time() - before
                if ends:
                    raise RuntimeError(f"a tunnel has ended: {ends}")
            for i in list(waiting):
                received[i] = _receive(self._outer[i][1], message, received[i])
                if received[i] == len(message):
                    waiting.discard(i)
            if time.monotonic() > limit:
                raise RuntimeError(f"{len(waiting)} messages are stuck")
        return spent


def _send(sock: socket.socket, message: bytes, done: int) -> int:
    try:
        return sock.send(memoryview(message)[done:])
    except BlockingIOError:
        return 0


def _receive(sock: socket.socket, message: bytes, done: int) -> int:
    """How much of the message is there now; every byte is compared."""
    while done < len(message):
        try:
            part = sock.recv(1 << 18)
        except BlockingIOError:
            break
        if part != message[done : done + len(part)] or not part:
            raise RuntimeError("the relay delivers other bytes than were sent")
        done += len(part)
    return done


@cache  # of one process, which runs one benchmark
def bed_of(engine: str, tunnels: int) -> Bed:
    """A new relay with tunnels."""
    raise_limit()
    return Bed(choose(engine, RelayOptions())[0], tunnels)


def measure(loops: int, engine: str, size: int, tunnels: int) -> float:
    """``loops`` messages through each tunnel. The first calls, which do not count, settle
    whether a direction splices or copies."""
    message = random.Random(size).randbytes(size)
    bed = bed_of(engine, tunnels)
    return sum(bed.exchange(message) for _ in range(loops))


def main() -> None:
    def pass_on(command: list[str], flags: argparse.Namespace) -> None:
        for engine in flags.engine or ():
            command += ["--engine", engine]

    runner = pyperf.Runner(processes=6, add_cmdline_args=pass_on)
    runner.argparser.add_argument("--engine", action="append", choices=ENGINES)
    flags = runner.parse_args()
    runner.metadata["spliceproxy_version"] = __version__
    runner.metadata["value"] = "CPU time inside Relay.step"
    for engine in flags.engine or ENGINES:
        try:
            choose(engine, RelayOptions())[0].close()
        except EngineError as error:
            print(f"left out: {error}")
            continue
        for size in SIZES:
            for tunnels in TUNNELS:
                runner.bench_time_func(
                    f"relay-{engine}-{size}-{tunnels}",
                    partial(measure, engine=engine, size=size, tunnels=tunnels),
                    inner_loops=tunnels,
                )


if __name__ == "__main__":
    main()
