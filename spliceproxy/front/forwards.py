"""The one request of a client that came to an address of ``--forward``: it is a CONNECT to the
destination of that address, and is asked about, dialled and logged as one.

The client says nothing of it, and is told nothing: there is the tunnel, or the connection is reset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spliceproxy.errors import Failure
from spliceproxy.forward.resumed import Page
from spliceproxy.front.cycle import Cycle
from spliceproxy.http1.errors import HeadError
from spliceproxy.http1.head import RequestHead

if TYPE_CHECKING:
    from spliceproxy.front.http1 import Connection


class Forwarded(Cycle):
    """Of a connection to such an address. ``target``: the destination, a host and a port."""

    __slots__ = ("_target",)

    speaks_http = False

    def __init__(self, connection: Connection, received: int, target: tuple[str, int]) -> None:
        super().__init__(connection, received)
        self._target = target
        self._established = b""

    async def run(self) -> bool:
        """There is no second request, and no answer but a reset."""
        await super().run()
        self.close, self.cut_by_reset = None, not self._stream.detached
        return False

    async def _read_head(self) -> RequestHead:
        return head_of(*self._target)

    def _watch(self) -> None:
        """A client that has sent FIN may still wait for what the origin says. So nothing is read
        before the tunnel is there."""

    def _page_of(self, error: Failure | HeadError) -> Page:
        return Page(b"", False)


def head_of(host: str, port: int) -> RequestHead:
    """A CONNECT as HTTP has it."""
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    fields = [(b"Host", target.encode("ascii"))]
    return RequestHead("CONNECT", target, 1, fields, "authority", "", host, port, "")
