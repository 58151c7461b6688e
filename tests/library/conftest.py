"""An origin that answers every request."""

from __future__ import annotations

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
