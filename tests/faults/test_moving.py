"""Tunnels that move between two processes under load: no byte is lost, and each has one line in
the log. The other process dies at each message: then all goes on where it was.

``tests/relay/test_relay_moving.py`` has the states one by one, and ``test_moving_requests.py`` has
requests.
"""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import read_head, wait_for
from moving_rig import PATIENCE, Workers, exactly

from spliceproxy.observe.stalled import BRIEF

BULK = 12 << 20
HEAD = "CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n"


@pytest.fixture(params=["native-native", "native-copy", "copy-native"])
def workers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workers]:
    here, _, there = request.param.partition("-")
    made = Workers((here, there), tmp_path / "log", log_format="json")
    yield made
    made.close()


class Peers:
    """The two ends of a tunnel."""

    def __init__(self, workers: Workers, head: str = HEAD) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            host, port = server.getsockname()
            self.client = socket.create_connection(workers.address, PATIENCE)
            self.client.sendall(head.format(f"{host}:{port}").encode())
            server.settimeout(PATIENCE)
            self.origin, _ = server.accept()
            self.origin.settimeout(PATIENCE)
        self.up = self.down = 0
        if head.startswith("GET"):
            read_head(self.origin)
            self.origin.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\n\r\n"
            )
        assert read_head(self.client).split()[1] in (b"200", b"101")

    def close(self) -> None:
        self.client.close()
        self.origin.close()


WEBSOCKET = (
    "GET http://{0}/ HTTP/1.1\r\nHost: {0}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
NOT_PLAIN = "CONNECT {0} HTTP/1.1\r\nHost: {0}\r\nVia: 1.1 other\r\nExpect: nothing\r\n\r\n"


def data_of(seed: int, size: int = BULK) -> bytes:
    return random.Random(seed).randbytes(size)


class Load:
    """Busy and quiet tunnels until :meth:`finish`, which says what went wrong."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self.faults: list[str] = []
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self.peers: list[Peers] = []
        self.rounds = 0
        for seed in range(4):
            self._start(self._bulk, seed, Peers(workers, NOT_PLAIN if seed == 3 else HEAD))
        for _ in range(3):
            self._start(self._ping_pong, 0, Peers(workers))
        self._start(self._ping_pong, 0, Peers(workers, WEBSOCKET))
        for seed in range(2):
            self._start(self._slow, seed, Peers(workers))
        for which in range(2):
            self._start(self._half_closed, which, Peers(workers))
        self.idle = [Peers(workers) for _ in range(20)]
        self.peers += self.idle

    def _start(self, work: Any, seed: int, peers: Peers) -> None:
        self.peers.append(peers)

        def run() -> None:
            try:
                work(peers, seed)
            except Exception as error:  # noqa: BLE001 - the test shows it
                self.faults.append(f"{work.__name__} {seed}: {error!r}")

        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()

    def _bulk(self, peers: Peers, seed: int) -> None:
        """Both ways at once, again and again."""
        block = data_of(seed, 1 << 20)
        sums = hashlib.sha256(), hashlib.sha256()
        read = hashlib.sha256(), hashlib.sha256()
        counts = [0, 0]

        def send(sock: socket.socket, which: int) -> None:
            odds = random.Random(seed)
            while not self._over.is_set():
                part = block[: odds.randrange(1, len(block))]
                sums[which].update(part)
                counts[which] += len(part)
                sock.sendall(part)
            sock.shutdown(socket.SHUT_WR)

        def receive(sock: socket.socket, which: int) -> None:
            while part := sock.recv(1 << 18):
                read[which].update(part)

        work = [
            threading.Thread(target=send, args=(peers.client, 0)),
            threading.Thread(target=send, args=(peers.origin, 1)),
            threading.Thread(target=receive, args=(peers.origin, 0)),
            threading.Thread(target=receive, args=(peers.client, 1)),
        ]
        for one in work:
            one.start()
        for one in work:
            one.join()
        for which in range(2):
            assert sums[which].digest() == read[which].digest()
        peers.up, peers.down = counts

    def _ping_pong(self, peers: Peers, _: int) -> None:
        turn = 0
        while not self._over.is_set():
            word = b"%08d" % turn
            peers.client.sendall(word)
            assert exactly(peers.origin, 8) == word
            peers.origin.sendall(word)
            assert exactly(peers.client, 8) == word
            turn += 1
        self.rounds += turn
        peers.up = peers.down = 8 * turn

    def _slow(self, peers: Peers, seed: int) -> None:
        """A reader that has read little until all is over."""
        data = data_of(seed + 10)
        sender = threading.Thread(target=peers.origin.sendall, args=(data,))
        sender.start()
        got = bytearray()
        while not self._over.wait(0.05):
            got += peers.client.recv(10_000)
        while len(got) < len(data):
            got += peers.client.recv(1 << 18)
        sender.join()
        assert bytes(got) == data
        peers.down = len(data)

    def _half_closed(self, peers: Peers, which: int) -> None:
        ended, other = (peers.client, peers.origin)[:: -1 if which else 1]
        ended.sendall(b"last")
        ended.shutdown(socket.SHUT_WR)
        assert exactly(other, 4) == b"last"
        assert other.recv(1) == b""
        turn = 0
        while not self._over.wait(0.02):
            other.sendall(b"%08d" % turn)
            assert exactly(ended, 8) == b"%08d" % turn
            turn += 1
        peers.up, peers.down = (8 * turn, 4) if which else (4, 8 * turn)

    def finish(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), self.faults
        assert self.faults == []
        for number, one in enumerate(self.idle):
            one.client.sendall(b"%d" % number)
            one.origin.sendall(b"%d" % number)
            assert one.origin.recv(9) == one.client.recv(9) == b"%d" % number
            one.up = one.down = len(b"%d" % number)
        for one in self.peers:
            one.close()


def test_to_and_fro_under_load(workers: Workers) -> None:
    load = Load(workers)
    count = len(load.peers)
    giver, taker = workers.here, workers.there
    for _ in range(6):
        time.sleep(0.1)
        assert giver.ask("give") == {"gave": count, "kept": 0}, load.faults
        assert giver.ask("know")["tunnels"] == 0
        assert giver.ask("know")["live"] == 0
        assert giver.ask("know")["counted"] == 0
        assert taker.ask("know")["live"] == count
        assert taker.ask("know")["counted"] == count  # of the settings that have decided them
        giver, taker = taker, giver
    load.finish()
    lines = workers.lines(count)
    assert giver.ask("know")["counted"] == 0
    assert len(lines) == count
    assert len({line["id"] for line in lines}) == count
    moved = sorted((line["in_copied"] + line["in_spliced"]) for line in lines)
    assert len(moved) == count
    for line in lines:
        assert line["termination"] == "--"
        assert line["status"] in (200, 101)
        assert line["total_us"] > 0
    down = sorted(line["out_copied"] + line["out_spliced"] for line in lines)
    # The answer to the request is counted, too.
    expected = sorted(one.down for one in load.peers)
    assert all(a >= b for a, b in zip(down, expected, strict=True))
    assert sum(down) - sum(expected) < count * 400


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("message", [1, 2, 17])
def test_the_taker_dies(workers: Workers, message: int, when: str) -> None:
    """All goes on where it was."""
    load = Load(workers)
    count = len(load.peers)
    workers.there.ask(f"die {message} {when}")
    assert workers.here.ask("give")["gave"] == 0
    assert workers.there.dead()
    known = workers.here.ask("know")
    assert (known["tunnels"], known["live"], known["begun"]) == (count, count, count)
    load.finish()
    assert len(workers.lines(count)) == count


def test_one_is_refused(workers: Workers) -> None:
    """It stays, and the others go."""
    load = Load(workers)
    count = len(load.peers)
    workers.there.ask("refuse 5")
    assert workers.here.ask("give") == {"gave": count - 1, "kept": 1}
    assert workers.here.ask("know")["tunnels"] == 1
    load.finish()
    assert len(workers.lines(count)) == count


def test_descriptors_are_what_they_were(workers: Workers) -> None:
    before = workers.here.ask("know")["descriptors"], workers.there.ask("know")["descriptors"]
    load = Load(workers)
    count = len(load.peers)
    for _ in range(2):
        assert workers.here.ask("give")["gave"] == count
        assert workers.there.ask("give")["gave"] == count
    load.finish()
    wait_for(lambda: workers.here.ask("know")["tunnels"] == 0, "the ends")
    wait_for(
        lambda: (
            (
                workers.here.ask("know")["descriptors"],
                workers.there.ask("know")["descriptors"],
            )
            <= before
        ),
        "descriptors",
    )


def test_what_the_log_says_of_it(workers: Workers) -> None:
    """A tunnel's line is as if it had never moved."""
    stays, moves = Peers(workers), Peers(workers)
    begun = time.monotonic()
    stays.client.sendall(b"12345")
    assert exactly(stays.origin, 5) == b"12345"
    wait_for(lambda: time.monotonic() > begun + BRIEF, "that the kernel is asked about them")
    stays.close()
    wait_for(lambda: len(workers.log.read_bytes().splitlines()) == 1, "the first line")
    moves.client.sendall(b"12")
    assert exactly(moves.origin, 2) == b"12"
    assert workers.here.ask("give")["gave"] == 1
    moves.client.sendall(b"345")
    assert exactly(moves.origin, 3) == b"345"
    moves.close()
    first, second = workers.lines(2)
    for line in (first, second):
        for name in ("id", "time", "peer", "target", "client_tcp", "origin_tcp"):
            assert line[name], name
            del line[name]
        for name in list(line):
            if name.endswith("_us"):
                del line[name]
    assert first == second
