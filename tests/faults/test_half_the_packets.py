"""Half of the packets to some clients are lost. That takes minutes, so it is run with
SPLICEPROXY_TEST_LOSS=1 only."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import ProxyProcess, read_exactly, read_head
from three_networks import Networks, networks

pytestmark = [
    pytest.mark.skipif(not os.environ.get("SPLICEPROXY_TEST_LOSS"), reason="it takes minutes"),
    pytest.mark.timeout(900),
]

HALF = (
    "nft flush chain ip loss in; "
    "nft add rule ip loss in iifname c3 numgen random mod 100 lt 50 drop"
)
CLIENTS, REQUESTS, SIZE = 8, 3, 20_000
PACE = 0.05
"""Seconds between two requests of those who lose nothing."""

PATIENCE = 600.0
"""Seconds: the kernel sends a packet again and again, and waits twice as long each time."""


@pytest.fixture
def three() -> Iterator[Networks]:
    with networks() as made:
        made.client.run(HALF)
        yield made


def answers(origin: socket.socket) -> None:
    """Serves until the listening socket is closed."""

    def serve(connection: socket.socket) -> None:
        with connection:
            while read_head(connection).endswith(b"\r\n\r\n"):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
                connection.sendall(bytes(SIZE))

    while True:
        try:
            connection, _ = origin.accept()
        except OSError:
            return
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def test_they_wait_and_nobody_else_does(three: Networks, tmp_path: Path) -> None:
    proxy = ProxyProcess(
        tmp_path, "--guard", "off", "--timeout-head", "600", listen=("0.0.0.0:0",),
        prefix=three.proxy.prefix,
    )  # fmt: skip
    faults: list[BaseException] = []
    longest = {"lossy": 0.0, "quick": 0.0}
    over = threading.Event()

    def ask(link: str, where: str, requests: int) -> None:
        try:
            with three.connect(link, proxy.port) as client:
                client.settimeout(PATIENCE)
                while requests and not over.is_set():
                    requests -= 1
                    begun = time.monotonic()
                    client.sendall(
                        f"GET http://{where}/ HTTP/1.1\r\nHost: {where}\r\n\r\n".encode()
                    )
                    assert read_head(client).startswith(b"HTTP/1.1 200 ")
                    assert len(read_exactly(client, SIZE)) == SIZE
                    longest[link] = max(longest[link], time.monotonic() - begun)
                    over.wait(PACE if link == "quick" else 0)
        except BaseException as error:  # noqa: BLE001 - raised below
            faults.append(error)

    try:
        with three.listen() as origin:
            threading.Thread(target=answers, args=(origin,), daemon=True).start()
            where = f"{three.to_origin['quick']}:{origin.getsockname()[1]}"
            lossy = [
                threading.Thread(target=ask, args=("lossy", where, REQUESTS))
                for _ in range(CLIENTS)
            ]
            quick = [threading.Thread(target=ask, args=("quick", where, 1 << 30)) for _ in range(2)]
            for thread in (*lossy, *quick):
                thread.start()
            for thread in lossy:
                thread.join(PATIENCE)
            over.set()
            for thread in quick:
                thread.join(30)
            origin.shutdown(socket.SHUT_RDWR)
        print(longest)
        assert not faults, faults
        assert longest["quick"] < 1.0 < longest["lossy"], longest
        assert proxy.stop() == 0
    finally:
        proxy.kill()
