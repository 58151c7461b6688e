"""What decisions may know of a client.

The relay repeats a decision for all clients of one group. A group is made from a Standing and
from nothing else, and a Standing is all that decisions see of a client. So no decision can
depend on something that the group leaves out.
"""

from __future__ import annotations

from typing import NamedTuple

from spliceproxy.policy.networks import named

LONGEST = 45
"""Characters of a group at most: those of an IPv6 address (INET6_ADDRSTRLEN, without the NUL). With
a mark in front it is never an address as long as that, which ends like one of IPv4."""


class Standing(NamedTuple):
    """One client.

    ``local``: it is taken for a client of this machine. ``admitted``: it may use what the
    operator has named (the files of --serve, the default backend); ``relayed``: it may use the
    proxy to get anywhere else. ``matched``: the rules that ask for networks of clients and match
    it, a bit each. ``address``: its IP address, "" for a client of a Unix socket, with one of MARKS
    in front for a client behind a balancer; None if neither users nor a function need it. ``uid``:
    that of a Unix socket's client if users need it, else -1. ``place``: the number of the address
    where it has come in, 0 where no route asks for that.
    """

    local: bool
    admitted: bool
    relayed: bool
    matched: int
    address: str | None = None
    uid: int = -1
    place: int = 0

    @classmethod
    def of(
        cls,
        address: str,
        local: bool,
        admitted: bool,
        relayed: bool,
        matched: int,
        *,
        known: bool,
        place: int = 0,
    ) -> Standing:
        """The standing of a client of this address. The address is in it if it has to be
        ``known``, or if the rest would make a group that is too long."""
        if known:
            return cls(local, admitted, relayed, matched, address, -1, place)
        standing = cls(local, admitted, relayed, matched, None, -1, place)
        if matched and len(standing.group or "") > LONGEST:
            return standing._replace(address=address)
        return standing

    @property
    def group(self) -> str | None:
        """A text of at most LONGEST characters: equal for equal standings, and for no others.
        None: a decision about this client is never repeated."""
        if self.uid >= 0:
            return None
        return named(self._text() if self.address is None else self.address, self.place)

    def _text(self) -> str:
        """All of it but the address, the uid and the place. No IP address begins with a star."""
        return "*" + ".".join(f"{value:x}" for value in self[:4])
