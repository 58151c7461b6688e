"""The tallies of all workers as one: who has moved the most, the last denials, what has failed.

A worker answers the question ``tally`` in parts, each of which is a few rows of one list. No part
is larger than a message, whatever is in the rows (``channel.MAX_MESSAGE``).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spliceproxy.admin.channel import Message
from spliceproxy.admin.desk import ANSWER_SECONDS, Desk
from spliceproxy.admin.links import Refused, Unanswered, Worker
from spliceproxy.observe.tally import Failure, Tally
from spliceproxy.observe.top import KINDS, MEASURES, SPANS, Ranking, Row, merged

MOST = 50
"""Rows of each list of a worker's."""

PART = 32 << 10
"""Bytes of a part, beyond which no further row goes into it."""

TEXT_MOST = 400
"""Characters of a text in a row."""


# ---- a worker's side ---------------------------------------------------------------------------


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


# ---- the admin process's side ------------------------------------------------------------------


@dataclass
class Tallies:
    """What the workers that live have answered, as one. ``rankings`` is by span, kind and
    measure; ``seconds`` by span."""

    rankings: dict[tuple[str, str, str], Ranking] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    denials: list[Mapping[str, Any]] = field(default_factory=list)
    failures: list[Mapping[str, Any]] = field(default_factory=list)
    missed: int = 0
    engine: str = ""  # of the first that has answered


async def ask(desk: Desk, most: int) -> Tallies:
    """Asks every worker. Who does not answer is left out."""
    answers = await asyncio.gather(*(_ask(worker) for worker in list(desk.workers.values())))
    return together([one for one in answers if one is not None], most)


async def _ask(worker: Worker) -> list[Message] | None:
    try:
        return [part async for part in worker.link.parts("tally", ANSWER_SECONDS)]
    except (Unanswered, Refused):
        return None


def together(answers: Sequence[Sequence[Message]], most: int) -> Tallies:
    """The answers of several workers as one."""
    found = Tallies()
    rankings: dict[tuple[str, str, str], list[Ranking]] = {
        (span, kind, measure): [] for span in SPANS for kind in KINDS for measure in MEASURES
    }
    failures: dict[tuple[str, str], dict[str, Any]] = {}
    for answer in answers:
        rows: list[Row] = []
        for part in answer:
            if "span" in part:
                rows = []
                span = part["span"]
                key = span, part["kind"], part["measure"]
                rankings[key].append(Ranking(rows, part["floor"]))
                found.seconds[span] = max(found.seconds.get(span, 0.0), part["seconds"])
            elif "rows" in part:
                rows.extend(Row(*row) for row in part["rows"])
            found.engine = found.engine or part.get("engine", "")
            found.denials.extend(part.get("denials", ()))
            found.missed += part.get("missed", 0)
            for one in part.get("failures", ()):
                _add(failures, one)
    found.rankings = {key: merged(each, most) for key, each in rankings.items()}
    found.denials.sort(key=lambda one: one["time"])
    found.failures = sorted(failures.values(), key=lambda one: -one["last"])
    return found


def _add(failures: dict[tuple[str, str], dict[str, Any]], one: Mapping[str, Any]) -> None:
    key = one["kind"], one["where"]
    before = failures.get(key)
    if before is None:
        failures[key] = dict(one)
        return
    last = max(before, one, key=lambda each: each["last"])
    failures[key] = {
        **last,
        "hour": before["hour"] + one["hour"],
        "total": before["total"] + one["total"],
    }
