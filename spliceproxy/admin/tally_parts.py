"""What a worker answers when it is asked for its tally: parts, each of which is a few rows of one
list. No part is larger than a message, whatever is in the rows (``channel.MAX_MESSAGE``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from spliceproxy.admin.channel import Message
from spliceproxy.observe.tally import Failure, Tally
from spliceproxy.observe.top import SPANS

MOST = 50
"""Rows of each list of a worker's."""

PART = 32 << 10
"""Bytes of a part, beyond which no further row goes into it."""

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
            yield from _parts("rows", ([_cut(value) for value in row] for row in ranking.rows))
    yield from _parts("denials", (_fields(one._asdict()) for one in tally.denials()))
    yield from _parts("failures", map(_failure, tally.failures()))
    if tally.missed:
        yield {"missed": tally.missed}


def _parts(name: str, rows: Iterable[Any]) -> Iterator[Message]:
    import json  # late: most proxies have nobody who asks

    part: list[Any] = []
    size = 0
    for row in rows:
        part.append(row)
        size += len(json.dumps(row))
        if size > PART:
            yield {name: part}
            part, size = [], 0
    if part:
        yield {name: part}


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
