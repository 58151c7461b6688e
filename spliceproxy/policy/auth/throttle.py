"""Slows clients that offer wrong credentials, each network by itself. No I/O."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass

FIRST_DELAY = 0.25
LAST_DELAY = 8.0
"""Seconds between two attempts after the first failure; doubled by each further one up to
the last. Four guesses in the first two seconds, then 450 an hour."""

PATIENCE = 10.0
"""Seconds that an attempt may have to wait for its turn; one that had to wait longer is
refused."""

FORGET = 600.0
"""Seconds after its last failure that a network is forgotten."""

NETWORKS = 4096
"""Networks remembered; beyond it the one whose last failure is longest ago is forgotten."""


@dataclass(slots=True)
class _Offender:
    failures: int = 0
    last: float = 0.0
    free: float = 0.0  # when the next attempt may be made


class Throttle:
    """Times are seconds of any one clock. A client is an IP address ("": a Unix socket); of
    IPv6 a /64 counts as one, for that is what a host can have."""

    __slots__ = ("_offenders",)

    def __init__(self) -> None:
        self._offenders: OrderedDict[str, _Offender] = OrderedDict()

    def slows(self, client: str, now: float) -> bool:
        """Whether an attempt would have to wait, or be refused."""
        offender = self._offenders.get(_network(client))
        return offender is not None and now < offender.free

    def reserve(self, client: str, now: float) -> tuple[bool, float]:
        """Takes a turn for an attempt: True and the seconds until then. False and the seconds
        after which to ask again: there are too many before it."""
        network = _network(client)
        offender = self._offenders.get(network)
        if offender is None:
            return True, 0.0
        if now - offender.last > FORGET:
            del self._offenders[network]
            return True, 0.0
        wait = max(0.0, offender.free - now)
        if wait > PATIENCE:
            return False, wait - PATIENCE
        offender.free = now + wait + _delay(offender)
        return True, wait

    def failed(self, client: str, now: float) -> None:
        """An attempt was wrong."""
        network = _network(client)
        offender = self._offenders.setdefault(network, _Offender())
        self._offenders.move_to_end(network)
        offender.failures += 1
        offender.last = now
        offender.free = max(offender.free, now + _delay(offender))
        if len(self._offenders) > NETWORKS:
            self._offenders.popitem(last=False)


def _delay(offender: _Offender) -> float:
    # The exponent is bounded, for a float is.
    return min(LAST_DELAY, FIRST_DELAY * 2.0 ** min(offender.failures - 1, 16))


def _network(client: str) -> str:
    if ":" not in client:
        return client
    return str(ipaddress.ip_network((int(ipaddress.IPv6Address(client)) >> 64 << 64, 64)))
