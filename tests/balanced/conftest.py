"""A proxy behind a balancer, and an origin."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from balanced_rig import ANSWER
from balanced_rig import new_balanced as new_balanced
from harness import serving


def _serve(connection: socket.socket) -> None:
    """Answers whatever looks like a request, within a tunnel too."""
    with contextlib.suppress(ConnectionError):
        while got := connection.recv(1 << 16):
            for _ in range(got.count(b"\r\n\r\n")):
                connection.sendall(ANSWER)


@pytest.fixture
def web() -> Iterator[tuple[str, int]]:
    """The address of an origin that answers every request."""
    with serving(_serve) as address:
        yield address
