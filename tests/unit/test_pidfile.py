"""Two proxies that want the same pid file at the same moment: one has it, and the other says so."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spliceproxy.processes.pidfile import PidFile, PidFileError

OTHER = """
import sys
from pathlib import Path
from spliceproxy.processes.pidfile import PidFile, PidFileError
try:
    PidFile(Path(sys.argv[1])).claim()
except PidFileError as error:
    print(error, flush=True)
else:
    print("it has it", flush=True)
    sys.stdin.read()
"""


class Other:
    """Another process that wants the file when this one is about to put its own there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path, call: str) -> None:
        self.said = ""
        self._path = path
        self._process: subprocess.Popen[str] | None = None
        self._real = getattr(os, call)
        monkeypatch.setattr(os, call, self._between)

    def _between(self, *args: Any) -> None:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", OTHER, str(self._path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert self._process.stdout is not None
            self.said = self._process.stdout.readline()
        self._real(*args)

    def end(self) -> None:
        if self._process is not None:
            self._process.communicate()


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "pid"
    assert [one.name for one in tmp_path.iterdir()] in ([], ["pid"])


def test_a_file_that_was_left_behind(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    path.write_text("7\n")
    other = Other(monkeypatch, path, "rename")
    file = PidFile(path)
    file.claim()
    assert "has it and runs" in other.said
    other.end()
    assert path.read_text() == f"{os.getpid()}\n"
    file.remove()
    assert not path.exists()


def test_no_file(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    other = Other(monkeypatch, path, "link")
    file = PidFile(path)
    with pytest.raises(PidFileError, match="has it and runs"):
        file.claim()
    assert other.said == "it has it\n"
    other.end()
    file.remove()
    assert path.exists()
