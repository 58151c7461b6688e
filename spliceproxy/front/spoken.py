"""What clients may speak where they have come in, if that is not everything everywhere."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping

from spliceproxy.config import HTTP, MIXED, SOCKS, TPROXY, Address
from spliceproxy.net.original import is_transparent

_ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
"""The address of a socket that listens on all of its family's."""

ELSEWHERE = Address()
"""Where everything may be spoken."""


class Spoken:
    """By the listening sockets, each with what the settings say of its address. A connection is
    known by its own end, which stays the same whoever goes on with it."""

    __slots__ = ("_places", "_transparent")

    def __init__(self, listening: Iterable[tuple[socket.socket, Address]]) -> None:
        self._places = {_place(sock): address for sock, address in listening}
        ways = (one for one in self._places.values() if one.spoken == TPROXY)
        self._transparent = next(ways, None)

    def at(self, sock: socket.socket) -> Address:
        """Where a client has come in, by its connection or the socket that it listens on. ELSEWHERE
        if that is no address of these."""
        name = sock.getsockname()
        transparent = self._transparent
        # The own end of such a connection is where its client wanted to go.
        if transparent is not None and isinstance(name, tuple) and is_transparent(sock):
            return transparent
        if not isinstance(name, tuple):
            return self._places.get(name, ELSEWHERE)
        found = self._places.get(name[:2])
        if found is None:
            family = socket.AF_INET6 if len(name) == 4 else socket.AF_INET
            found = self._places.get((_ANY[family], name[1]), ELSEWHERE)
        return found

    def by(self, sock: socket.socket) -> str:
        """What a client may speak there."""
        return self.at(sock).spoken

    def place(self, sock: socket.socket, numbers: Mapping[Address, int]) -> int:
        """The number of this address, 0 if it has none."""
        at = self.at(sock)
        return numbers.get(at.where, 0) if numbers and at is not ELSEWHERE else 0

    def asks(self, sock: socket.socket) -> bool:
        """Whether clients say there what they want."""
        return self.by(sock) in (MIXED, HTTP, SOCKS)


def _place(sock: socket.socket) -> object:
    name = sock.getsockname()
    return name[:2] if isinstance(name, tuple) else name
