"""Lists in files: a value ``@FILE`` stands for all values that the file has, one a line.

They are read where settings are read, so each process of a proxy goes by the same ones, and none
of the workers needs the right to open the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from spliceproxy.textfile import text_of

MARK = "@"

MOST = 20
"""Wrong of one file that are told."""


class Wrong(ValueError):
    """A file has values that are none: ``problems`` are a line about each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class FileList(str):
    """What stands in the settings, with the whole path; ``values`` are what the file lists, none of
    which is such a list. Two are the same only if both have listed the same."""

    __slots__ = ("values",)

    values: tuple[str, ...]

    def __new__(cls, written: str, values: Iterable[str] = ()) -> FileList:
        made = super().__new__(cls, written)
        made.values = tuple(values)
        return made

    def __getnewargs__(self) -> tuple[str, tuple[str, ...]]:  # type: ignore[override]
        return str(self), self.values

    def __eq__(self, other: object) -> bool:
        if isinstance(other, FileList):
            return str.__eq__(self, other) and self.values == other.values
        return NotImplemented if not isinstance(other, str) else False

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


def spelled_out(values: Iterable[str] | None) -> Iterator[str]:
    """The values, with those of a file in the place of its name."""
    for value in values or ():
        if isinstance(value, FileList):
            yield from value.values
        else:
            yield value


def read(written: str, folder: str, check: Callable[[str], object], allowed: str) -> FileList:
    """The list of ``@FILE``, whose path starts from the folder. Empty lines, and those that begin
    with #, say nothing. ``check`` raises ValueError for a value that is none of those ``allowed``.
    Wrong, with file and line of each; ValueError for a file that cannot be read."""
    path = Path(folder, written.removeprefix(MARK)).absolute()
    try:
        text = text_of(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        before = error.object.count(b"\n", 0, error.start)
        raise Wrong([f"{path}:{before + 1}: not UTF-8"]) from None
    except ValueError as error:
        raise Wrong([f"{path}: {error}"]) from None
    values: list[str] = []
    problems: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        value = line.strip(" \t\r")
        if not value or value.startswith("#"):
            continue
        try:
            check(value)
        except ValueError as error:
            problems.append(f"{path}:{number}: {value!r}: {error}; allowed: {allowed}")
        values.append(value)
    if len(problems) > MOST:
        problems[MOST:] = [f"{path}: {len(problems) - MOST} more such lines"]
    if problems:
        raise Wrong(problems)
    return FileList(f"{MARK}{path}", values)
