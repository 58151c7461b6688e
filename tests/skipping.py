"""The rule about skips: in .ci/run (the environment variable CI) each is in ``skips.txt``, with
the reason why nothing can be done about it, or the run fails. A program that went missing must
not take its tests along unseen."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

LIST = Path(__file__).with_name("skips.txt")

UNLISTED = 100
"""The exit status then: that of failed tests would be mended by tests that pass later."""


def listed() -> list[str]:
    """The patterns ``FILE: REASON``."""
    lines = (line.partition("  # ")[0].strip() for line in LIST.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


class Skips:
    """A plugin; with pytest-xdist only that of the process which collects the reports counts."""

    def __init__(self) -> None:
        self._patterns = listed()
        self._unlisted: set[str] = set()

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not hasattr(report, "wasxfail"):
            self._see(report)

    @pytest.hookimpl
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._see(report)

    def _see(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped or not isinstance(report.longrepr, tuple):
            return
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        skip = f"{report.nodeid.partition('::')[0]}: {reason}"
        if not any(fnmatchcase(skip, pattern) for pattern in self._patterns):
            self._unlisted.add(skip)

    @pytest.hookimpl
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._unlisted and session.exitstatus in (
            pytest.ExitCode.OK,
            pytest.ExitCode.TESTS_FAILED,
        ):
            session.exitstatus = UNLISTED

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for skip in sorted(self._unlisted):
            terminalreporter.write_line(f"not in tests/skips.txt: {skip}", red=True)


def register(config: pytest.Config) -> None:
    """For pytest_configure."""
    if os.environ.get("CI") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Skips(), "skips")
