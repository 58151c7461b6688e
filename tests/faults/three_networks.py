"""A client, the proxy and an origin, each in a network namespace of its own, with links between
that are slow or lose packets."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from harness import need, wait_for

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000  # setns(2)
_libc = ctypes.CDLL(None, use_errno=True)

SLOW = "tc qdisc add dev {} root tbf rate 8mbit burst 16kb limit 100kb"
LOSS = (
    "nft add table ip loss; "
    "nft add chain ip loss in '{{ type filter hook input priority 0; }}'; "
    "nft add rule ip loss in iifname {} numgen random mod 100 lt 20 drop"
)
BUFFERS = (
    "echo 4096 65536 131072 > /proc/sys/net/ipv4/tcp_rmem; "
    "echo 4096 16384 49152 > /proc/sys/net/ipv4/tcp_wmem; "
    "echo reno > /proc/sys/net/ipv4/tcp_congestion_control"
)
"""What the kernel keeps of a transfer is soon delivered, also over a slow link, and it is less than
the window of whoever reads. Every kernel has this congestion control, and it slows down where
packets are lost."""

WINDOW = "echo 4096 1048576 6291456 > /proc/sys/net/ipv4/tcp_rmem"
"""One that a program which reads at all does not shut."""


class Namespace:
    """One network. ``pid`` is of a process that holds it."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(["unshare", "-n", "sleep", "infinity"])
        self.pid = self._holder.pid
        own = os.readlink("/proc/self/ns/net")
        wait_for(lambda: os.readlink(f"/proc/{self.pid}/ns/net") != own, "the namespace")
        self.run("ip link set lo up")

    @property
    def prefix(self) -> list[str]:
        """Runs a command in it."""
        return ["nsenter", "-t", str(self.pid), "-n"]

    def run(self, script: str) -> None:
        done = subprocess.run(
            [*self.prefix, "sh", "-ec", script], capture_output=True, text=True, check=False
        )
        assert not done.returncode, f"{script}: {done.stderr}"

    def inside(self, make: Callable[[], T]) -> T:
        """What ``make`` returns, called in this network: a socket stays where it was made."""
        found: list[T] = []

        def enter() -> None:
            fd = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
            try:
                if _libc.setns(fd, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(fd)
            found.append(make())

        thread = threading.Thread(target=enter)  # for a network belongs to a thread
        thread.start()
        thread.join()
        return found[0]

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()


class Networks:
    """``client``, ``proxy`` and ``origin``. The proxy is at ``to_proxy[link]`` for a client that
    comes by one of the links "quick", "slow" and "lossy"; the origin is at ``to_origin[link]`` for
    the proxy, by "quick" or "slow". A slow link is slow towards the other side."""

    def __init__(self) -> None:
        self.client, self.proxy, self.origin = Namespace(), Namespace(), Namespace()
        self.to_proxy: dict[str, str] = {}
        self.to_origin: dict[str, str] = {}
        self.proxy.run(BUFFERS)
        for reader in (self.client, self.origin):
            reader.run(WINDOW)
        for number, link in enumerate(("quick", "slow", "lossy"), 1):
            self.to_proxy[link] = self._link(f"c{number}", self.client, number)[0]
        for number, link in enumerate(("quick", "slow"), 4):
            self.to_origin[link] = self._link(f"o{number}", self.origin, number)[1]
        self.proxy.run(SLOW.format("c2") + "; " + SLOW.format("o5"))
        self.client.run(LOSS.format("c3"))

    def _link(self, name: str, other: Namespace, number: int) -> tuple[str, str]:
        """The addresses of the proxy and of the other one, whose devices have the same name."""
        ours, theirs = f"10.9.{number}.1", f"10.9.{number}.2"
        self.proxy.run(
            f"ip link add {name} type veth peer name {name} netns {other.pid}; "
            f"ip addr add {ours}/24 dev {name}; ip link set {name} up"
        )
        other.run(f"ip addr add {theirs}/24 dev {name}; ip link set {name} up")
        return ours, theirs

    def connect(self, link: str, port: int) -> socket.socket:
        """A client's connection to the proxy, which listens on this port."""
        where = self.to_proxy[link], port
        return self.client.inside(lambda: socket.create_connection(where, 20))

    def listen(self) -> socket.socket:
        """An origin, by any link."""
        return self.origin.inside(lambda: socket.create_server(("0.0.0.0", 0)))

    def close(self) -> None:
        for each in (self.client, self.proxy, self.origin):
            each.close()


@contextlib.contextmanager
def networks() -> Iterator[Networks]:
    """Skips where nobody may make them."""
    for program in ("ip", "tc", "nft", "unshare", "nsenter"):
        need(program)
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("network namespaces need CAP_SYS_ADMIN")
    assert Path("/proc/self/ns/net").exists()
    made = Networks()
    try:
        yield made
    finally:
        made.close()
