"""How long a guess has to wait: wrong passwords counted by network and user name. No I/O.

What a *try* is: a pair of user name and password that this worker does not know to be right
from this network and does not remember as wrong. Its network is the client's IPv4 address, its
IPv6 /64 (what a host can have), or "" for all Unix sockets. A right pair costs nothing and is
remembered, so only wrong ones count.

1. A name. After a wrong password for a name the next try of that name from that network waits
   FIRST_DELAY (a quarter of a second), doubled by each further failure up to LAST_DELAY (8 s).
   So a name is guessed four times in the first two seconds, and then 450 times an hour.
2. A network. It may have BURST (16) failures of whatever names, and gets one back in each
   LAST_DELAY (8 s). While it has none left, every try of it waits for the next, first tries
   too. So a network guesses 16 times at once and then 450 times an hour, however many names
   and connections it spreads them over.
3. Nothing else delays. The first try of a name is not slowed by failures of other names, as
   long as the network has failures left: a colleague behind the same address is in at once
   beside somebody who guesses one name, or a program that has an old password. Beside somebody
   who sprays names a first try waits or is told to come later, because nothing tells the two
   apart; a pair that was right from there before is no try and is served. One that was right
   from elsewhere is a try: or a guess of the password of a user who is active somewhere would
   be answered at any rate.

How long a try waits depends on what came before it and never on whether it is right, and it is
checked after the wait. So a right guess among slowed ones is answered no sooner than a wrong
one, and a client that hangs up early learns nothing.

FORGET (ten minutes) after its last failure a name is forgotten. Both tables are bounded and
give up what failed longest ago. Each worker counts for itself: N workers allow N times as much.
:mod:`spliceproxy.policy.auth.turns` lets the tries of a network wait in a line.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache

from spliceproxy.policy.networks import bare

FIRST_DELAY = 0.25
LAST_DELAY = 8.0
"""Seconds between two tries of a name after its first failure, doubled by each further one
up to the last; the last is also the time in which a network gets a failure back."""

BURST = 16
"""Failures of all names that a network may have before every try of it waits."""

FORGET = 600.0
"""Seconds after its last failure that a name is forgotten."""

NETWORKS = 4096
"""Networks remembered."""

NAMES = 16384
"""Names remembered, each with its network."""

SOON = 0.001
"""Seconds that are no wait: clocks and timers are not more exact."""


@dataclass(slots=True)
class _Name:
    failures: int = 0
    last: float = 0.0


@dataclass(slots=True)
class _Network:
    level: float = 0.0  # failures that it has not got back
    since: float = 0.0  # when that was so

    def at(self, now: float) -> float:
        return max(0.0, self.level - (now - self.since) / LAST_DELAY)


class Throttle:
    """Times are seconds of any one clock. ``network`` is what :func:`network_of` returns, and
    ``name`` stands for a user name: a digest of it, for the client may choose a long one."""

    __slots__ = ("_names", "_networks")

    def __init__(self) -> None:
        self._names: OrderedDict[tuple[str, bytes], _Name] = OrderedDict()
        self._networks: OrderedDict[str, _Network] = OrderedDict()

    def wait(
        self, network: str, name: bytes, now: float, *, checking: int = 0, before: int = 0
    ) -> float:
        """Seconds until a try may be checked, 0.0 for at once.

        ``checking``: tries of the network that are being checked, which may fail. ``before``:
        tries of the same name that come first, all of them taken for failures.
        """
        seconds = self._by_name(network, name, now, before)
        found = self._networks.get(network)
        if found is not None:
            seconds = max(seconds, (found.at(now) + checking - (BURST - 1)) * LAST_DELAY)
        return seconds if seconds > SOON else 0.0

    def exhausted(self, network: str, now: float) -> bool:
        """Whether even the first try of a name would wait."""
        found = self._networks.get(network)
        return found is not None and found.at(now) > BURST - 1

    def failed(self, network: str, name: bytes, now: float) -> None:
        """A try was wrong."""
        key = network, name
        found = self._names.setdefault(key, _Name())
        self._names.move_to_end(key)
        found.failures = 1 if now - found.last > FORGET else found.failures + 1
        found.last = now
        if len(self._names) > NAMES:
            self._names.popitem(last=False)
        whole = self._networks.setdefault(network, _Network())
        self._networks.move_to_end(network)
        whole.level, whole.since = whole.at(now) + 1.0, now
        if len(self._networks) > NETWORKS:
            self._networks.popitem(last=False)

    def _by_name(self, network: str, name: bytes, now: float, before: int) -> float:
        found = self._names.get((network, name))
        failures = 0
        seconds = 0.0
        if found is not None and now - found.last <= FORGET:
            failures = found.failures
            seconds = found.last + _delay(failures) - now
        seconds = max(0.0, seconds)
        for further in range(1, before + 1):
            seconds += _delay(failures + further)
        return seconds


@lru_cache(maxsize=NETWORKS)
def network_of(client: str) -> str:
    """The network that counts as one: an IPv4 address, an IPv6 /64, "" for Unix sockets."""
    if ":" not in client:
        return client
    address = ipaddress.IPv6Address(bare(client))
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))


def _delay(failures: int) -> float:
    # The exponent is bounded, for a float is.
    return min(LAST_DELAY, FIRST_DELAY * 2.0 ** min(failures - 1, 16))
