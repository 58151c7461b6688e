"""What importers of other proxies' files have in common: what is to be told about a conversion, and
what comes out of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from spliceproxy.settings.loading import SettingsError, load_config

CLOSED = "not-converted"
"""The id of the rule that denies everything; others that stand in for something begin with it."""

TOLD = 20
"""Problems that are told one by one."""


class Refused(ValueError):
    """A file that cannot be converted: ``problems`` has a line for each mistake."""

    def __init__(self, problems: list[str]) -> None:
        if len(problems) > TOLD:
            problems = [*problems[:TOLD], f"and {len(problems) - TOLD} more"]
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Converted:
    """``toml``: the settings. ``notes``: what is different but needs no setting here.
    ``missing``: what could not be converted. Both by line of the file."""

    toml: str
    notes: tuple[str, ...]
    missing: tuple[str, ...]


class Line(Protocol):
    """A line of a file: where it is, and what it is about, as it is written."""

    @property
    def path(self) -> str: ...
    @property
    def line(self) -> int: ...
    @property
    def written(self) -> str: ...


class Report:
    """``notes``: what is different but needs no setting. ``missing``: what could not be
    converted. ``refused``: what the other proxy does not start with. ``closed``: of what is missing
    that which restricts. All of them begin with a place: of ``about``, where no other is given."""

    def __init__(self, path: str) -> None:
        self.notes: list[str] = []
        self.missing: list[str] = []
        self.refused: list[str] = []
        self.closed: list[str] = []
        self._path = path
        self.about: Line | None = None

    def _where(self) -> str:
        if self.about is None:
            return self._path
        return f"{self.about.path}:{self.about.line}: {self.about.written}"

    def say(self, text: str) -> None:
        self.notes.append(f"{self._path}: {text}")

    def note(self, text: str, where: str = "") -> None:
        self.notes.append(f"{where or self._where()}: {text}")

    def miss(self, text: str, where: str = "") -> None:
        self.missing.append(f"{where or self._where()}: not converted: {text}")

    def close(self, text: str, where: str = "") -> None:
        """Something that restricts cannot be converted: everything is denied."""
        self.miss(f"{text}; until that is settled, rule {CLOSED} denies everything", where)
        self.closed.append(f"{where or self._where()}: {text}")

    def refuse(self, text: str) -> None:
        self.refused.append(f"{self._where()}: {text}")

    def lack(self, text: str) -> None:
        """Something that is needed stands in no line."""
        self.refused.append(f"{self._path}: {text}")


def comment(first: str, lines: Iterable[str] = ()) -> str:
    """Some lines as a comment in TOML."""
    shown = (line if line.isprintable() else ascii(line)[1:-1] for line in (first, *lines))
    return "".join(f"# {line}\n" if n == 0 else f"#   {line}\n" for n, line in enumerate(shown))


def closing(report: Report) -> str:
    """The comment above the rule that denies everything."""
    lines = (*report.closed, "Remove this rule when that is settled.")
    return comment("Denies everything, because of", lines)


def checked(toml: str, path: str, report: Report) -> Converted:
    """What came of a file. Refused, where the settings would not be taken."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as file:
        file.write(toml)
        file.flush()
        try:
            load_config(file.name)
        except SettingsError as error:
            problems = [one.replace(file.name, path) for one in error.problems]
            raise Refused(
                [f"spliceproxy has no such settings: {one}" for one in problems]
            ) from None
    return Converted(toml, tuple(report.notes), tuple(report.missing))
