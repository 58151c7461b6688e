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

Reload = dict[str, Any]
"""``time`` (Unix), ``generation`` that is in force behind it, ``result`` ("done" or "refused"),
``reason`` of a refusal, ``who`` has asked, ``warnings``, and ``seconds`` that it took."""


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
            "warnings": list(warnings),
            "seconds": round(seconds, 3),
        }
        self._reloads.append(reload)
        return reload

    def all(self) -> list[Reload]:
        """The oldest first."""
        return list(self._reloads)
