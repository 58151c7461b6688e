"""Where records go."""

from __future__ import annotations

from typing import Any

import pytest

from spliceproxy.observe.record import Record
from spliceproxy.observe.records import Records


def test_those_of_the_lane_are_told_whatever_one_raises() -> None:
    """Ctrl-C in on_close stops the program, but the others have ended, too."""
    seen: list[str] = []

    def watch(record: Any) -> None:
        seen.append(record.client)
        if record.client in ("b", "c"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Records(None, watch).ended([Record(name) for name in "abcd"])
    assert seen == ["a", "b", "c", "d"]


def test_nobody_wants_to_see_them() -> None:
    records = Records(None, None)
    assert not records.watched
    records.ended([Record("a")])
