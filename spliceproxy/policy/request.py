"""What a policy decides about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Request(NamedTuple):
    """One request or tunnel, before anything is dialled.

    ``client`` is an IP address, "" for a Unix socket; ``user`` "" for nobody; ``host`` in
    the canonical form of :func:`spliceproxy.policy.names.canonical`; ``path`` "" for
    CONNECT; ``addresses`` are those of ``host`` that may be dialled, in the order to try,
    empty where nothing is dialled; ``fields`` name and value as received.
    """

    client: str = ""
    user: str = ""
    groups: frozenset[str] = frozenset()
    method: str = "CONNECT"
    scheme: str = ""
    host: str = ""
    port: int = 443
    path: str = ""
    addresses: tuple[str, ...] = ()
    fields: Sequence[tuple[bytes, bytes]] = ()

    def field(self, name: str) -> str:
        """The value of the first field of this name in any case, "" without one."""
        wanted = name.lower().encode("latin-1")
        for key, value in self.fields:
            if key.lower() == wanted:
                return value.decode("latin-1")
        return ""
