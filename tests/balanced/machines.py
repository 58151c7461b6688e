"""Machines of a small network: each is a network namespace (network_namespaces(7)) with an address
of its own, and all of them are on one bridge."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import socket
import subprocess
from collections.abc import Iterator

import pytest
from harness import need

CLONE_NEWNET = 0x40000000  # sched.h

_libc = ctypes.CDLL(None, use_errno=True)


class Network:
    """``names`` are machines, each with an address. Names of namespaces are chosen at random, so
    that several networks may exist."""

    def __init__(self, names: dict[str, str]) -> None:
        self.addresses = names
        self._mark = f"sp{random.SystemRandom().randrange(1 << 24):06x}"
        self._made: list[str] = []

    def start(self) -> None:
        """Makes the machines. OSError where this is not allowed."""
        hub = self._namespace("hub")
        self._ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        self._ip("-n", hub, "link", "set", "bridge", "up")
        for number, (name, address) in enumerate(self.addresses.items()):
            here = self._namespace(name)
            port = f"port{number}"
            pair = f"link add {port} type veth peer name eth0 netns {here}"
            self._ip("-n", hub, *pair.split())
            self._ip("-n", hub, "link", "set", port, "master", "bridge", "up")
            self._ip("-n", here, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                self._ip("-n", here, "link", "set", device, "up")

    def stop(self) -> None:
        """Takes them away."""
        for name in self._made:
            subprocess.run([need("ip"), "netns", "del", name], check=False)

    def on(self, name: str) -> list[str]:
        """What stands in front of a command that is to run on a machine."""
        return [need("ip"), "netns", "exec", self._name(name)]

    @contextlib.contextmanager
    def being(self, name: str) -> Iterator[None]:
        """Sockets that this thread makes meanwhile are those of a machine, and stay so."""
        with open("/proc/thread-self/ns/net") as home:
            try:
                with open(f"/run/netns/{self._name(name)}") as there:
                    _enter(there.fileno())
                yield
            finally:
                _enter(home.fileno())

    def connect(self, name: str, to: str, port: int, timeout: float = 20.0) -> socket.socket:
        """A connection from one machine to another."""
        with self.being(name):
            return socket.create_connection((self.addresses[to], port), timeout)

    def _name(self, name: str) -> str:
        return f"{self._mark}-{name}"

    def _namespace(self, name: str) -> str:
        full = self._name(name)
        self._ip("netns", "add", full)
        self._made.append(full)
        return full

    def _ip(self, *args: str) -> None:
        done = subprocess.run([need("ip"), *args], capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"ip {' '.join(args)}: {done.stderr}")


def _enter(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) < 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def network(**names: str) -> Iterator[Network]:
    """Some machines; the test is skipped where there cannot be any."""
    made = Network(names)
    try:
        if os.getuid() != 0:
            pytest.skip("network namespaces need root")
        try:
            made.start()
        except OSError as error:
            pytest.skip(f"no network namespaces: {error}")
        yield made
    finally:
        made.stop()
