"""What a policy hook answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from spliceproxy.policy.networks import canonical_address


@dataclass(frozen=True, slots=True)
class Allow:
    """Go ahead.

    ``source_address`` is the IP address to dial from. ``addresses`` are dialled in place of
    those of the request, in this order; the rules and the guard look at them too. ``tags``
    are kept in the record of the request. ValueError for what is no IP address.
    """

    source_address: str = ""
    addresses: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.source_address:
            source = canonical_address(self.source_address)
            object.__setattr__(self, "source_address", source)
        if self.addresses:
            addresses = tuple(canonical_address(text) for text in self.addresses)
            object.__setattr__(self, "addresses", addresses)


@dataclass(frozen=True, slots=True)
class Deny:
    """No. ``reason`` is told to the client, with ``rule``, an id to ask about; ``status`` is
    that of the answer: 400 to 599, but for 407, which asks for credentials."""

    reason: str
    rule: str = ""
    status: int = 403

    def __post_init__(self) -> None:
        if not 400 <= self.status <= 599 or self.status == 407:
            raise ValueError(f"Deny: status {self.status}; allowed: 400 to 599, not 407")
