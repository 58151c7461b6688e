"""Which clients may use the proxy at all."""

from __future__ import annotations

from collections.abc import Iterable

from spliceproxy.policy.networks import UNIX, NetworkTable, Place

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
"""Unix sockets, and loopback, private, shared and link-local networks (RFC 1918, 4193, 6598,
3927, 4291). A proxy without users serves clients of these only, so that it is no open relay."""

NEAR_OTHERS = tuple(network for network in NEAR if network not in LOOPBACK)
"""The same for a proxy behind a balancer on this machine. The balancer brings clients from
anywhere, and they all come from loopback. The permissions of a Unix socket say who may use it."""

_LOCAL = NetworkTable((network, 1) for network in (UNIX, *LOOPBACK))


def is_local(address: str) -> bool:
    """Whether a client comes from this machine: by loopback, or by a Unix socket (""). It may be
    a balancer that brings others."""
    return bool(_LOCAL.bits(address))


def is_local_at(place: Place) -> bool:
    """The same for an address that is parsed already."""
    return bool(_LOCAL.bits_at(place))


class ClientNetworks:
    """``networks`` in CIDR notation or UNIX; ValueError for anything else."""

    __slots__ = ("_table",)

    def __init__(self, networks: Iterable[str]) -> None:
        self._table = NetworkTable((text, 1) for text in networks)

    def admit(self, address: str) -> bool:
        """Whether a client of this IP address ("": of a Unix socket) may use the proxy."""
        return bool(self._table.bits(address))

    def admit_at(self, place: Place) -> bool:
        """The same for an address that is parsed already."""
        return bool(self._table.bits_at(place))
