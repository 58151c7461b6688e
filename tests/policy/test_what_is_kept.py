"""Limits on bytes, where a connection is kept: its requests may be small, and count for others."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import ProxyProcess, serving

SIZES = {b"/": 200, b"/some": 100_000, b"/big": 1_000_000}


def answer(client: socket.socket) -> None:
    """With head and body in one piece, of the size that the path stands for."""
    with client.makefile("rb") as file:
        while line := file.readline():
            while file.readline().strip():
                pass
            size = SIZES[line.split()[1]]
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
            client.sendall(head + bytes(size))


@pytest.fixture
def origin() -> Iterator[int]:
    """Its port."""
    with serving(answer, idle=True) as (_, port):
        yield port


@pytest.fixture(params=["native", "copy"])
def limited(
    request: pytest.FixtureRequest, new_proxy: Callable[..., ProxyProcess], tmp_path: Path
) -> Callable[[str], ProxyProcess]:
    def start(limits: str) -> ProxyProcess:
        config = tmp_path / "limits.toml"
        config.write_text(f'guard = "off"\n{limits}')
        return new_proxy("--config", str(config), "--engine", request.param)

    return start


class Client:
    def __init__(self, proxy: ProxyProcess, port: int) -> None:
        self.socket = proxy.connect()
        self.file = self.socket.makefile("rb")
        self.port = port

    def get(self, path: str = "/", name: str = "127.0.0.1") -> int:
        place = f"{name}:{self.port}"
        self.socket.sendall(f"GET http://{place}{path} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
        status = int(self.file.readline().split()[1])
        size = 0
        while line := self.file.readline().strip().lower():
            if line.startswith(b"content-length:"):
                size = int(line.split()[1])
        assert len(self.file.read(size)) == size
        return status

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *args: object) -> None:
        self.file.close()
        self.socket.close()


def test_a_budget_counts_what_comes_with_its_head(
    limited: Callable[[str], ProxyProcess], origin: int
) -> None:
    proxy = limited('[[limit]]\nid = "day"\nby = "total"\nbytes-per-day = 5000\n')
    with Client(proxy, origin) as one:
        assert 429 in [one.get() for _ in range(50)]


def test_a_rate_is_over_where_the_next_request_has_none(
    limited: Callable[[str], ProxyProcess], origin: int
) -> None:
    """Though a budget counts that one. At the rate it would take 20 s."""
    proxy = limited(
        '[[limit]]\nid = "slow"\nby = "client"\nhosts = ["localhost"]\nrate-out = "50kB"\n'
        '[[limit]]\nid = "day"\nby = "client"\nhosts = ["127.0.0.1"]\nbytes-per-day = "1GB"\n'
    )
    with Client(proxy, origin) as one:
        assert one.get("/some", "localhost") == 200
        begun = time.monotonic()
        assert one.get("/big") == 200
        assert time.monotonic() - begun < 15
