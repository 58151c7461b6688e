"""Which versions of IP are used, and which is tried first (``ip-version``)."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import NamedTuple

from spliceproxy.upstream.addresses import interleave

FAMILIES = (socket.AF_INET6, socket.AF_INET)  # AAAA first, as RFC 8305 section 3 wants it


class Versions(NamedTuple):
    """``families`` are asked for. Of these ``first`` is tried before the other; None leaves that
    to RFC 6724."""

    families: tuple[socket.AddressFamily, ...]
    first: socket.AddressFamily | None
    words: str = ""  # what an address must be, where not each will do

    def of(self, addresses: tuple[str, ...]) -> tuple[str, ...]:
        """Those that are used, in the order to try."""
        if len(self.families) == 1:
            return tuple(one for one in addresses if family_of(one) in self.families)
        if self.first is None or len(addresses) < 2:
            return addresses
        return interleave(sorted(addresses, key=lambda one: family_of(one) != self.first))


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


ANY = Versions(FAMILIES, None)

BY_NAME: Mapping[str, Versions] = {
    "any": ANY,
    "4": Versions((socket.AF_INET,), None, "IPv4"),
    "6": Versions((socket.AF_INET6,), None, "IPv6"),
    "prefer4": Versions(FAMILIES, socket.AF_INET),
    "prefer6": Versions(FAMILIES, socket.AF_INET6),
}
