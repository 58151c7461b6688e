"""What the flows of one portable engine have in common."""

from __future__ import annotations

from spliceproxy.relay.interface import RelayOptions, TransferEnd, TunnelEnd
from spliceproxy.relay.portable.deadlines import Deadlines
from spliceproxy.relay.portable.moves import Copier
from spliceproxy.relay.portable.poller import Flow, Poller


class Shared:
    """The engine's state: its flows by id, what moves their bytes, and what has ended since
    the last step."""

    __slots__ = ("deadlines", "ends", "flows", "mover", "options", "poller", "tunnels")

    def __init__(self, options: RelayOptions, mover: Copier) -> None:
        self.options = options
        self.mover = mover
        self.poller = Poller()
        self.deadlines = Deadlines()
        self.flows: dict[int, Flow] = {}
        self.tunnels = 0  # of the flows
        self.ends: dict[int, tuple[object, TunnelEnd | TransferEnd]] = {}
