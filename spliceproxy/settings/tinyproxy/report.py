"""What is to be told about a conversion: notes, what is missing, what closes the result."""

from __future__ import annotations

from collections.abc import Iterable

from spliceproxy.settings.tinyproxy.reading import Directive

CLOSED = "not-converted"
"""The id of the rule that denies everything."""


class Report:
    """``notes``: what is different but needs no setting. ``missing``: what could not be
    converted. ``refused``: what tinyproxy does not start with. ``closed``: of what is missing
    that which restricts. All of them begin with a place: of ``about``, where no other is given."""

    def __init__(self, path: str) -> None:
        self.notes: list[str] = []
        self.missing: list[str] = []
        self.refused: list[str] = []
        self.closed: list[str] = []
        self._path = path
        self.about = Directive(0, "", "", ())

    def _where(self) -> str:
        return f"{self._path}:{self.about.line}: {self.about.written}"

    def say(self, text: str) -> None:
        self.notes.append(f"{self._path}: {text}")

    def note(self, text: str) -> None:
        self.notes.append(f"{self._where()}: {text}")

    def miss(self, text: str, where: str = "") -> None:
        self.missing.append(f"{where or self._where()}: not converted: {text}")

    def close(self, text: str, where: str = "") -> None:
        """Something that restricts cannot be converted: everything is denied."""
        self.miss(f"{text}; until that is settled, rule {CLOSED} denies everything", where)
        self.closed.append(f"{where or self._where()}: {text}")

    def refuse(self, text: str) -> None:
        self.refused.append(f"{self._where()}: {text}")

    def lack(self, text: str) -> None:
        """Something that tinyproxy needs stands in no line."""
        self.refused.append(f"{self._path}: {text}")


def comment(first: str, lines: Iterable[str]) -> str:
    """Some lines as a comment in TOML."""
    shown = (line if line.isprintable() else ascii(line)[1:-1] for line in lines)
    return "".join([f"# {first}\n", *(f"#   {line}\n" for line in shown)])
