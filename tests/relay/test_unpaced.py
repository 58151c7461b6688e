"""What limits cost those who do not reach them: no call to the kernel that would not be there."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import ProxyProcess, serving
from relay_rig import native_relay
from strace import traced

RATE = """
guard = "off"

[[limit]]
id = "each"
by = "client"
rate-in = "100MB"
rate-out = "100MB"
"""

BUDGET = """
guard = "off"

[[limit]]
id = "day"
by = "client"
bytes-per-day = "{}"
"""

PIECE = 65_536
"""Bytes of one splice(2) near the end of a budget (PACED_READ of native/core/moves.pxd)."""

LITTLE, MUCH = 1000, 100_000
"""Bytes: below what is not paced (FREE of native/lane/pacing.pxd), and above it."""


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A server that sends back what it gets."""

    def answer(client: socket.socket) -> None:
        while data := client.recv(1 << 16):
            client.sendall(data)

    with serving(answer) as found:
        yield found


def exchange(tunnel: socket.socket, size: int) -> None:
    sender = threading.Thread(target=tunnel.sendall, args=(bytes(size),))
    sender.start()
    while size > 0:
        size -= len(tunnel.recv(1 << 16))
    sender.join()


def test_what_moves_little_is_not_paced(
    new_proxy: Callable[..., ProxyProcess], echo: tuple[str, int], tmp_path: Path
) -> None:
    native_relay()
    config = tmp_path / "limits.toml"
    config.write_text(RATE)
    proxy = new_proxy("--config", str(config), "--engine", "native")

    def pacings(size: int) -> int:
        with traced(proxy.worker, tmp_path, "setsockopt"):
            for _ in range(10):
                with proxy.tunnel(*echo) as tunnel:
                    exchange(tunnel, size)
        return (tmp_path / "strace").read_text().count("SO_MAX_PACING_RATE")

    assert pacings(LITTLE) == 0
    assert pacings(MUCH) >= 2 * 10


@pytest.mark.parametrize(("budget", "near"), [("1TB", False), ("60MB", True)])
def test_only_near_the_end_of_a_budget_bytes_go_in_small_pieces(
    new_proxy: Callable[..., ProxyProcess],
    echo: tuple[str, int],
    tmp_path: Path,
    budget: str,
    near: bool,
) -> None:
    native_relay()
    config = tmp_path / "limits.toml"
    config.write_text(BUDGET.format(budget))
    proxy = new_proxy("--config", str(config), "--engine", "native")
    with (
        traced(proxy.worker, tmp_path, "splice"),
        proxy.tunnel(*echo) as tunnel,
    ):
        exchange(tunnel, 20_000_000)
    sizes = re.findall(r"splice.* = (\d+)$", (tmp_path / "strace").read_text(), re.M)
    assert (max(map(int, sizes)) <= PIECE) == near
