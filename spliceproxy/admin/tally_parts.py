"""What a worker answers when it is asked for its tally: parts, each a few rows of one list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from spliceproxy.admin.channel import Message
from spliceproxy.admin.parts import in_parts
from spliceproxy.observe.tally import Failure, Tally
from spliceproxy.observe.top import SPANS

MOST = 50
"""Rows of each list of a worker's."""

TEXT_MOST = 400
"""Characters of a text in a row."""


def answer(tally: Tally, engine: str) -> Iterator[Message]:
    """The answer of a worker whose bytes this engine moves."""
    yield {"engine": engine}
    for _ in tally.catch_up():
        yield {}
    for span in SPANS:
        seconds, rankings = tally.rankings(span, MOST)
        for (kind, measure), ranking in rankings.items():
            yield {"span": span, "seconds": seconds, "kind": kind, "measure": measure,
                   "floor": ranking.floor}  # fmt: skip
            yield from in_parts("rows", ([_cut(value) for value in row] for row in ranking.rows))
    yield from in_parts("denials", (_fields(one._asdict()) for one in tally.denials()))
    yield from in_parts("failures", map(_failure, tally.failures()))
    if tally.missed:
        yield {"missed": tally.missed}


def _failure(one: Failure) -> Mapping[str, Any]:
    return _fields(
        {
            "kind": one.kind,
            "where": one.where,
            "address": one.address,
            "client": one.client,
            "last": one.last,
            "hour": sum(one.counts),
            "total": one.total,
        }
    )


def _fields(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: _cut(value) for name, value in values.items()}


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > TEXT_MOST:
        return value[: TEXT_MOST - 1] + "…"
    return value
