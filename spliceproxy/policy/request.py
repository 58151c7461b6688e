"""What a policy decides about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Request(NamedTuple):
    """One request or tunnel, before anything is looked up or dialled.

    ``client`` is an IP address, "" for a Unix socket. ``user`` is "" for nobody. ``host`` is in
    the canonical form of :func:`spliceproxy.policy.names.canonical`. ``path`` is "" for CONNECT;
    in any other, what is not ASCII is percent-encoded. ``fields`` are name and value as received.

    ``addresses`` are None in the first call of a function, even if ``host`` is an address:
    nothing has been looked up. A function with ``wants_addresses = True`` is called a second
    time; then they are those that may be dialled, in the order to try. There is no second call
    for a request that the proxy answers itself, such as one for a file of --serve.
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
