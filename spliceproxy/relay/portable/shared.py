"""What the flows of one portable engine have in common."""

from __future__ import annotations

from spliceproxy.relay import columns
from spliceproxy.relay.interface import RelayOptions, TransferEnd, TunnelEnd
from spliceproxy.relay.portable.deadlines import Deadlines
from spliceproxy.relay.portable.moves import Copier
from spliceproxy.relay.portable.poller import Flow, Poller


class Shared:
    """The engine's state: its flows by id, what moves their bytes, and what has ended since
    the last step."""

    __slots__ = (
        "deadlines",
        "ends",
        "flows",
        "frozen",
        "mover",
        "options",
        "poller",
        "row",
        "tunnels",
    )

    def __init__(self, options: RelayOptions, mover: Copier, row: memoryview) -> None:
        self.options = options
        self.row = row  # what is counted
        self.mover = mover
        self.poller = Poller()
        self.deadlines = Deadlines()
        self.flows: dict[int, Flow] = {}
        self.frozen: dict[int, Flow] = {}  # tunnels that move (relay.moving)
        self.tunnels = 0  # of both
        self.ends: dict[int, tuple[object, TunnelEnd | TransferEnd]] = {}

    @property
    def transfers(self) -> int:
        """How many of the flows are transfers."""
        return len(self.flows) + len(self.frozen) - self.tunnels

    def count_flows(self) -> None:
        """Of each kind, as many as there are now."""
        self.row[columns.TUNNELS] = self.tunnels
        self.row[columns.TRANSFERS] = self.transfers
