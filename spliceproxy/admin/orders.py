"""The first tunnels and requests in an order: ``order`` and ``most`` of ``/tunnels``.

Who looks at some thousands of them wants to see the busiest few. So no more than twice as many as
are wanted are kept while the others go by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from spliceproxy.admin.filters import Flow

MOST = 1000
"""That may be wanted."""

Order = Callable[[Flow], Any]


def _text(name: str) -> Order:
    return lambda flow: str(flow.get(name) or "")


def _number(name: str) -> Order:
    return lambda flow: flow.get(name) or 0


ORDERS: Mapping[str, Order] = {
    "id": _text("id"),
    "age": _number("age"),
    "client": _text("client"),
    "user": _text("user"),
    "method": _text("method"),
    "target": _text("target"),
    "path": _text("path"),
    "in_rate": _number("in_rate"),
    "out_rate": _number("out_rate"),
    "in": lambda flow: flow["in_copied"] + flow["in_spliced"],
    "out": lambda flow: flow["out_copied"] + flow["out_spliced"],
    "client_rtt_us": _number("client_rtt_us"),
}
"""The orders that there are; with a minus before it, the largest comes first."""


class First:
    """The first of those that are added; ``most`` and ``order`` are as in a query. ``found`` counts
    all. ValueError."""

    def __init__(self, most: str, order: str) -> None:
        if not most.isdecimal() or len(most) > 9 or int(most) > MOST:
            raise ValueError(f"most: {most!r}; allowed: 0 to {MOST}")
        by = ORDERS.get(order.removeprefix("-"))
        if by is None:
            names = ", ".join(ORDERS)
            raise ValueError(f"order: {order!r}; allowed: {names}, each with - before it or not")
        self.found = 0
        self._most = int(most)
        self._by = by
        self._down = order.startswith("-")
        self._flows: list[Flow] = []

    def add(self, flow: Flow) -> None:
        self.found += 1
        self._flows.append(flow)
        if len(self._flows) > 2 * self._most:
            self._cut()

    def take(self) -> list[Flow]:
        """In their order. Those that are alike are ordered by their ids."""
        self._cut()
        return self._flows

    def _cut(self) -> None:
        self._flows.sort(key=ORDERS["id"])
        self._flows.sort(key=self._by, reverse=self._down)
        del self._flows[self._most :]
