"""What a policy decides about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Request(NamedTuple):
    """One request or tunnel, before anything is looked up or dialled.

    ``client`` is an IP address, "" for a Unix socket; ``user`` "" for nobody; ``host`` in
    the canonical form of :func:`spliceproxy.policy.names.canonical`; ``path`` "" for
    CONNECT, else with what is not ASCII percent-encoded; ``fields`` name and value as received.

    ``addresses`` are None in the first call of a function, also where ``host`` is an address:
    nothing has been looked up. In the second, which only one with ``wants_addresses = True``
    gets, they are those that may be dialled, in the order to try. A request that goes nowhere,
    as for a file of ours, is asked about once.
    """

    client: str = ""
    user: str = ""
    groups: frozenset[str] = frozenset()
    method: str = "CONNECT"
    scheme: str = ""
    host: str = ""
    port: int = 443
    path: str = ""
    addresses: tuple[str, ...] | None = None
    fields: Sequence[tuple[bytes, bytes]] = ()

    def field(self, name: str) -> str:
        """The value of the first field of this name in any case, "" without one."""
        wanted = name.lower().encode("latin-1")
        for key, value in self.fields:
            if key.lower() == wanted:
                return value.decode("latin-1")
        return ""
