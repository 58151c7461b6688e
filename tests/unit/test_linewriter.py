"""The thread that writes lines: what it does with more than may wait."""

from __future__ import annotations

import os
from pathlib import Path

from spliceproxy.observe.linewriter import LineWriter


def writer(path: Path, limit: int) -> LineWriter:
    return LineWriter(
        lambda: os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        close=True,
        limit=limit,
        told=lambda lines, why: b"%d: %b\n" % (lines, why.encode()),
        failed=lambda text: None,
        name="lines",
    )


def test_a_text_that_is_longer_than_what_may_wait_is_written(tmp_path: Path) -> None:
    """Each of them, else all would be dropped, and nobody would ever be told: there is no write
    behind which that is done."""
    lines = writer(tmp_path / "log", limit=100)
    for number in range(3):
        lines.put(b"%d%b\n" % (number, b"x" * 200), 1)
        while lines.pending:
            os.sched_yield()
    lines.stop()
    assert lines.wait(20) == 0
    assert [line[:1] for line in (tmp_path / "log").read_bytes().splitlines()] == [b"0", b"1", b"2"]
