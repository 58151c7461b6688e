"""The proxy's own addresses, to which it sends nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterable

_UNSPECIFIED = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where connect(2) to an unspecified address leads."""


class Own:
    """The addresses that this proxy listens on, to detect requests that would come back."""

    __slots__ = ("_hosts",)

    def __init__(self, addresses: Iterable[object]) -> None:
        """``addresses`` as of getsockname(2); those of Unix sockets are passed over."""
        self._hosts: dict[int, set[str]] = {}
        for address in addresses:
            if isinstance(address, tuple):
                self._hosts.setdefault(address[1], set()).add(address[0])

    def may_be(self, port: int) -> bool:
        """Whether one of them has this port."""
        return port in self._hosts

    def has(self, sock: socket.socket, peer: str, port: int) -> bool:
        """Whether ``sock``, connected to ``peer`` and ``port``, is connected to this proxy. If the
        proxy listens on every interface, it is when both ends have the same address or the far
        one is loopback."""
        hosts = self._hosts.get(port)
        if hosts is None:
            return False
        peer = _UNSPECIFIED.get(peer, peer)
        return peer in hosts or (
            not hosts.isdisjoint(("::", "0.0.0.0"))
            and (sock.getsockname()[0] == peer or peer.startswith("127."))
        )
