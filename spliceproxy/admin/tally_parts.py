"""What a worker answers when it is asked for its tally: parts, each a few entries of it.

{"engine": "native"}                        what moves the bytes
{"span": ..., "kind": ..., "measure": ...}  a list begins
["a.example", ...]                          a row of the list that has begun last (Row)
{"denial": {...}}, {"failure": {...}}       of the last ones
{"missed": 3}                               so many found no room
"""

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


def answer(tally: Tally, engine: str) -> Iterator[Message | None]:
    """The answer of a worker whose bytes this engine moves."""
    for _ in tally.catch_up():
        yield None
    yield from in_parts("entries", _entries(tally, engine), end=True)


def _entries(tally: Tally, engine: str) -> Iterator[Any]:
    yield {"engine": engine}
    for span in SPANS:
        seconds, rankings = tally.rankings(span, MOST)
        for (kind, measure), ranking in rankings.items():
            yield {"span": span, "seconds": seconds, "kind": kind, "measure": measure,
                   "floor": ranking.floor}  # fmt: skip
            for row in ranking.rows:
                yield [_cut(value) for value in row]
    for denial in tally.denials():
        yield {"denial": _fields(denial._asdict())}
    for failure in tally.failures():
        yield {"failure": _failure(failure)}
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
