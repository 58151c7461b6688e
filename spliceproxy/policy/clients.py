"""Which clients may use the proxy at all."""

from __future__ import annotations

from collections.abc import Iterable

from spliceproxy.policy.networks import UNIX, NetworkTable

LOOPBACK = ("127.0.0.0/8", "::1/128")

NEAR = (
    UNIX,
    *LOOPBACK,
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

NEAR_OTHERS = tuple(network for network in NEAR if network not in LOOPBACK)
"""The same where a balancer on this machine brings clients from anywhere: they all come from
loopback then. Who may connect to a Unix socket is for its permissions to say."""

_LOCAL = NetworkTable((network, 1) for network in (UNIX, *LOOPBACK))


def is_local(address: str) -> bool:
    """Whether a client has come from this machine: by loopback, or "", a Unix socket. It may
    be a balancer that brings others."""
    return bool(_LOCAL.bits(address))


class ClientNetworks:
    """``networks`` in CIDR notation or UNIX; ValueError for anything else."""

    __slots__ = ("_table",)

    def __init__(self, networks: Iterable[str]) -> None:
        self._table = NetworkTable((text, 1) for text in networks)

    def admit(self, address: str) -> bool:
        """Whether a client of this IP address ("": of a Unix socket) may use the proxy."""
        return bool(self._table.bits(address))
