"""What a decision is made from, and the value that it comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from spliceproxy.policy.decision import YES, Allow
from spliceproxy.relay.checking import NameCheck


class Head(Protocol):
    """What is looked at in a request's head (``http1.head.RequestHead``). ``fields`` and
    ``values`` are asked for only where a setting or a function needs them. A function may keep
    its request, and look at the ``fields`` when the client is long gone."""

    @property
    def method(self) -> str: ...
    @property
    def scheme(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def path(self) -> str: ...
    @property
    def fields(self) -> Sequence[tuple[bytes, bytes]]: ...
    def values(self, name: bytes) -> Sequence[bytes]: ...


class Notes(Protocol):
    """What is written down about a request as soon as it is known (``observe.record``). The
    client's address is for messages: no decision may depend on it."""

    @property
    def client(self) -> str: ...
    @property
    def generation(self) -> int: ...

    host: str
    port: int
    user: str
    tags: Mapping[str, str]
    reported: tuple[str, ...]  # ids of rules that only report, and would have denied or allowed
    looked_up: float  # seconds for which a name was waited for
    allowed_by: str  # the id of the rule that has allowed it, "" if no rule has matched


class Names(Protocol):
    """Where names lead (``upstream.resolver.Resolver``)."""

    def cached(self, host: str) -> tuple[str, ...] | None: ...
    async def resolve(self, host: str) -> tuple[str, ...]: ...


class Only:
    """Every name leads to this address."""

    def __init__(self, address: str) -> None:
        self._addresses = (address,)

    def cached(self, host: str) -> tuple[str, ...]:
        return self._addresses

    async def resolve(self, host: str) -> tuple[str, ...]:
        return self._addresses


class Way(NamedTuple):
    """By way of one of these parents, or of none (config.DIRECT, as the last); ``pick`` is as of
    config.Pick. ``by_name``: they are told the name of the destination, which may lead anywhere."""

    parents: tuple[str, ...]
    pick: str
    by_name: bool

    @property
    def by_turns(self) -> bool:
        """Whether the next request goes another way."""
        return self.pick == "round-robin" and len(self.parents) > 1


class Verdict(NamedTuple):
    """Where a request may go.

    ``addresses`` are those that may be dialled for it, in the order to try; an idle connection
    to one of them may be used, too. ``source_address`` is the one to dial from, "" for any.

    For ``repeat_for`` seconds the same holds for every request that has the same method, host,
    port and Proxy-Authorization field (or none) and comes from a client of the same group
    (``Standing.group``). 0: ask again.

    ``way`` is None where it goes straight there. If the parents are told its name there are no
    addresses. ``said`` is what a function of --policy has said beside that, and ``check`` what is
    to be found of the name inside TLS of the tunnel that this becomes.
    """

    host: str
    port: int
    addresses: tuple[str, ...]
    source_address: str
    repeat_for: float
    way: Way | None = None
    said: Allow = YES
    check: NameCheck | None = None

    @property
    def key(self) -> tuple[str, int, str]:
        """The same for connections that may stand in for one another."""
        if self.way is not None:  # no host has a blank
            return f"{self.host} {'/'.join(self.way.parents)}", self.port, self.source_address
        return self.host, self.port, self.source_address
