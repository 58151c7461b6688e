"""The reloads that there were, for operators."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

MOST = 20
"""Reloads that are remembered."""

TEXT = 2000
"""Characters of a reason that are kept."""

LINES = 1000
"""The same of warnings, in all. A message between processes has an end, and in it a character may
have twelve bytes. The log of messages has all of them."""

Reload = dict[str, Any]
"""``time`` (Unix), ``generation`` that is in force behind it, ``result`` ("done" or "refused"),
``reason`` of a refusal, ``who`` has asked, ``warnings``, and ``seconds`` that it took."""


def cut(lines: Sequence[str]) -> list[str]:
    """The first of these lines, with LINES characters in all, and how many are left out."""
    kept: list[str] = []
    room = LINES
    for line in lines:
        if room <= 0:
            return [*kept, f"and {len(lines) - len(kept)} more, in the messages of the proxy"]
        kept.append(line[:room])
        room -= len(line)
    return kept


class History:
    """The last ones."""

    def __init__(self) -> None:
        self._reloads: deque[Reload] = deque(maxlen=MOST)

    def add(
        self,
        generation: int,
        reason: str,
        who: str,
        warnings: Sequence[str],
        seconds: float,
    ) -> Reload:
        """One that is over, which was refused for this reason, "" if it was not."""
        reload = {
            "time": round(time.time(), 3),
            "generation": generation,
            "result": "refused" if reason else "done",
            "reason": reason[:TEXT],
            "who": who,
            "warnings": cut(warnings),
            "seconds": round(seconds, 3),
        }
        self._reloads.append(reload)
        return reload

    def all(self) -> list[Reload]:
        """The oldest first."""
        return list(self._reloads)
