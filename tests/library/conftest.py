"""An origin that answers every request, and another program's requests."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from socket import socket

import pytest
from harness import read_head, serving

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def answer(connection: socket) -> None:
    with suppress(ConnectionError):  # a proxy that ends cuts off what is open
        while read_head(connection):
            connection.sendall(ANSWER)


@pytest.fixture
def origin() -> Iterator[str]:
    """Its ``host:port``."""
    with serving(answer) as (host, port):
        yield f"{host}:{port}"


def fetch(url: str, proxy: str | None = None) -> bytes:
    """By urllib, through ``proxy``, or the one that the environment names."""
    handler = urllib.request.ProxyHandler({"http": proxy} if proxy else None)
    with urllib.request.build_opener(handler).open(url, timeout=20) as response:
        return bytes(response.read())


def fetch_in_a_child(url: str) -> bytes:
    """The same in another process."""
    program = f"import urllib.request as u; print(u.urlopen({url!r}, timeout=20).read().decode())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.strip()
