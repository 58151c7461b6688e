"""The tallies of all workers as one: who has moved the most, the last denials, what has failed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spliceproxy.admin.channel import Message
from spliceproxy.admin.desk import ANSWER_SECONDS, Desk
from spliceproxy.admin.links import Refused, Unanswered, Worker
from spliceproxy.admin.watch import Silent, miss
from spliceproxy.observe.top import KINDS, MEASURES, SPANS, Ranking, Row, merged


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
    silent: Silent = field(default_factory=dict)  # who has not answered


async def ask(desk: Desk, most: int) -> Tallies:
    """Asks every worker. Who does not answer is named."""
    await desk.watch.look()
    silent = dict(desk.watch.silent())
    workers = desk.watch.answering()
    answers = await asyncio.gather(*map(_ask, workers))
    for worker, one in zip(workers, answers, strict=True):
        if isinstance(one, str):
            miss(silent, worker.index, one)
    found = together([one for one in answers if not isinstance(one, str)], most)
    found.silent = silent
    return found


async def _ask(worker: Worker) -> list[Message] | str:
    try:
        return [part async for part in worker.link.parts("tally", ANSWER_SECONDS)]
    except (Unanswered, Refused) as error:
        return str(error)


def together(answers: Sequence[Sequence[Message]], most: int) -> Tallies:
    """The answers of several workers as one."""
    found = Tallies()
    rankings: dict[tuple[str, str, str], list[Ranking]] = {
        (span, kind, measure): [] for span in SPANS for kind in KINDS for measure in MEASURES
    }
    failures: dict[tuple[str, str], dict[str, Any]] = {}
    for answer in answers:
        rows: list[Row] = []
        for entry in itertools.chain.from_iterable(part.get("entries", ()) for part in answer):
            if isinstance(entry, list):
                rows.append(Row(*entry))
            elif "span" in entry:
                rows = []
                span = entry["span"]
                key = span, entry["kind"], entry["measure"]
                rankings[key].append(Ranking(rows, entry["floor"]))
                found.seconds[span] = max(found.seconds.get(span, 0.0), entry["seconds"])
            elif "denial" in entry:
                found.denials.append(entry["denial"])
            elif "failure" in entry:
                _add(failures, entry["failure"])
            else:
                found.engine = found.engine or entry.get("engine", "")
                found.missed += entry.get("missed", 0)
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
