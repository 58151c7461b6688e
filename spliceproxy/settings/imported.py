"""What importers of other proxies' files have in common: what is to be told about a conversion, and
what comes out of it."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from spliceproxy.settings.kind import Invalid
from spliceproxy.settings.loading import SettingsError, load_config
from spliceproxy.settings.table import BY_NAME

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
        self.path = path
        self.about: Line | None = None

    def _where(self) -> str:
        if self.about is None:
            return self.path
        return f"{self.about.path}:{self.about.line}: {self.about.written}"

    def say(self, text: str) -> None:
        self.notes.append(f"{self.path}: {text}")

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
        self.refused.append(f"{self.path}: {text}")


def comment(first: str, lines: Iterable[str] = ()) -> str:
    """Some lines as a comment in TOML."""
    shown = (line if line.isprintable() else ascii(line)[1:-1] for line in (first, *lines))
    return "".join(f"# {line}\n" if n == 0 else f"#   {line}\n" for n, line in enumerate(shown))


def closing(report: Report) -> str:
    """The comment above the rule that denies everything."""
    lines = (*report.closed, "Remove this rule when that is settled.")
    return comment("Denies everything, because of", lines)


L = TypeVar("L", bound=Line)


class Conversion(ABC, Generic[L]):
    """Of one file, whose directives have the type ``L``; ``settings`` are those so far."""

    def __init__(self, report: Report) -> None:
        self.settings: dict[str, Any] = {}
        self._report = report

    def all_of(self, directives: Sequence[L]) -> Converted:
        """What comes of them. Refused."""
        for one in directives:
            self._report.about = one
            self.prepare(one)
        for one in directives:
            self._report.about = one
            self.take(one)
        self.end()
        if self._report.refused:
            raise Refused(self._report.refused)
        return _checked(self.toml(), self._report)

    def prepare(self, directive: L) -> None:
        """Looks at what others depend on, wherever it stands."""

    @abstractmethod
    def take(self, directive: L) -> None:
        """Takes in a directive."""

    @abstractmethod
    def end(self) -> None:
        """Makes settings of what several lines say together."""

    @abstractmethod
    def toml(self) -> str:
        """The settings, with comments where people have to look."""

    def _in_order(self) -> dict[str, Any]:
        """The settings as the table of all has them."""
        return {name: self.settings[name] for name in BY_NAME if name in self.settings}

    def _set(self, name: str, value: object) -> bool:
        """Sets the value, or the list of values, if the setting allows it."""
        try:
            for one in value if isinstance(value, list) else [value]:
                BY_NAME[name].kind.read_toml(one, "/")
                str(one).encode()
        except (Invalid, UnicodeEncodeError) as error:
            self._report.miss(f"{name}: {error}")
            return False
        self.settings[name] = value
        return True


def _checked(toml: str, report: Report) -> Converted:
    """What came of a file. Refused, where the settings would not be taken."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as file:
        file.write(toml)
        file.flush()
        try:
            load_config(file.name)
        except SettingsError as error:
            problems = [one.replace(file.name, report.path) for one in error.problems]
            raise Refused(
                [f"spliceproxy has no such settings: {one}" for one in problems]
            ) from None
    return Converted(toml, tuple(report.notes), tuple(report.missing))
