"""Ratios of what was measured side by side, with an interval."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

RESAMPLES = 4000
COVERAGE = 0.9


class Ratio(NamedTuple):
    """The median of the rounds' ratios, and the interval of it that a bootstrap gives."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        text = f"{self.median:.2f}"
        return text if self.rounds < 3 else f"{text} [{self.low:.2f}, {self.high:.2f}]"


def paired(
    ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], key: str = "cpu"
) -> Ratio | None:
    """Of figures that have the same ``round``; None where there is no pair.

    What else the machine does meets both of a round alike, so their ratio tells more than that
    of two medians. The interval holds COVERAGE of the medians of samples that are drawn from
    these ratios with replacement (Efron's percentile bootstrap); the same ratios give the same
    interval.
    """
    by_round = {figures["round"]: figures[key] for figures in theirs if figures.get(key)}
    found = [
        figures[key] / by_round[figures["round"]]
        for figures in ours
        if figures.get(key) and figures["round"] in by_round
    ]
    if not found:
        return None
    draw = random.Random(len(found))
    medians = sorted(statistics.median(draw.choices(found, k=len(found))) for _ in range(RESAMPLES))
    edge = int(RESAMPLES * (1 - COVERAGE) / 2)
    return Ratio(statistics.median(found), medians[edge], medians[-1 - edge], len(found))
