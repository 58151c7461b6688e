"""Which clients may use the proxy at all."""

from __future__ import annotations

from collections.abc import Iterable

from spliceproxy.policy.networks import UNIX, NetworkTable

NEAR = (
    UNIX,
    "127.0.0.0/8",
    "::1/128",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "fc00::/7",
    "fe80::/10",
)
"""Unix sockets, loopback, private, shared and link-local networks (RFC 1918, 4193, 6598,
3927, 4291): the clients of a proxy that knows no users, so that it is no open relay."""

_LOOPBACK = NetworkTable([(UNIX, 1), ("127.0.0.0/8", 1), ("::1/128", 1)])


def is_local(address: str) -> bool:
    """Whether a client is on this machine for certain: loopback, or "", a Unix socket."""
    return bool(_LOOPBACK.bits(address))


class ClientNetworks:
    """``networks`` in CIDR notation or UNIX; ValueError for anything else."""

    __slots__ = ("_table",)

    def __init__(self, networks: Iterable[str]) -> None:
        self._table = NetworkTable((text, 1) for text in networks)

    def admit(self, address: str) -> bool:
        """Whether a client of this IP address ("": of a Unix socket) may use the proxy."""
        return bool(self._table.bits(address))
