"""Reads a squid.conf with all that it includes into statements, as squid's own parser does."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spliceproxy.settings.imported import Refused

BLANKS = " \t\n\r\f\v"

_MOST_DEEP = 16  # includes within includes, as in squid
_NUMBERS = re.compile(r"(-?[0-9]{1,18})\s*=\s*(-?[0-9]{1,18})").fullmatch
_NUMBER = re.compile(r"[0-9]{1,9}").fullmatch
_MACROS = {"process_name": "squid", "process_number": "0", "service_name": "squid"}
_SQUID = re.compile(
    rb"[ \t]*(acl[ \t]+\S+[ \t]+\S|http_access[ \t]|https?_port[ \t]|cache_(dir|mem|peer)[ \t]"
    rb"|auth_param[ \t]|include[ \t]|refresh_pattern[ \t]|never_direct[ \t])"
).match


@dataclass(frozen=True)
class Statement:
    """A directive, with those of its lines that a backslash joins; ``line`` is that of the last.
    ``text`` is what stands behind its ``name``."""

    path: str
    line: int
    name: str
    text: str

    @property
    def written(self) -> str:
        return self.name

    @property
    def words(self) -> tuple[str, ...]:
        """What is behind a word that begins with # is a comment."""
        found = []
        for word in re.split(f"[{BLANKS}]+", self.text.strip(BLANKS)):
            if not word or word[0] == "#":
                break
            found.append(word)
        return tuple(found)


def is_one(content: bytes) -> bool:
    """Whether a file looks like a squid.conf."""
    return any(map(_SQUID, content.split(b"\n")))


def number_in(word: str) -> int:
    """A whole number of at most nine digits, 0 for anything else."""
    return int(word) if _NUMBER(word) else 0


def read(path: str) -> list[Statement]:
    """OSError for the file itself; Refused."""
    return list(_Reading().of(path, Path(path).read_bytes(), 0))


class _Reading:
    def of(self, path: str, content: bytes, depth: int) -> Iterator[Statement]:
        """The statements of a file that is included ``depth`` levels deep."""
        states: list[bool] = []  # of each ``if`` that is open: squid looks at the last alone
        for number, text in _joined(content.decode("utf-8", "surrogateescape")):
            where = f"{path}:{number}"
            text = _with_macros(text, where)
            word, _, rest = text.partition(" ") if " " in text else text.partition("\t")
            if word == "if":
                states.append(_is_true(rest.strip(BLANKS), where))
            elif text in ("else", "endif"):
                if not states:
                    raise Refused([f"{where}: {text} without if"])
                states[-1:] = [not states[-1]] if text == "else" else []
            elif not states or states[-1]:
                statement = _statement(path, number, text)
                if statement.name == "include":
                    yield from self._included(statement, depth)
                else:
                    yield statement
        if states:
            raise Refused([f"{path}: if without endif"])

    def _included(self, statement: Statement, depth: int) -> Iterator[Statement]:
        where = f"{statement.path}:{statement.line}: include"
        if depth >= _MOST_DEEP:
            raise Refused([f"{where}: more than {_MOST_DEEP} files deep"])
        folder = os.path.dirname(os.path.abspath(statement.path))
        for pattern in statement.words:
            files = sorted(glob.glob(os.path.join(folder, pattern)))
            if not files:
                raise Refused([f"{where}: {pattern}: there is no such file"])
            for file in files:
                try:
                    content = Path(file).read_bytes()
                except OSError as error:
                    raise Refused([f"{where}: {file}: cannot read it ({error.strerror})"]) from None
                yield from self.of(file, content, depth + 1)


def _joined(text: str) -> Iterator[tuple[int, str]]:
    """Lines that end in a backslash go on; comments and empty lines between them are skipped."""
    held = ""
    number = 0
    for number, line in enumerate(text.split("\n"), 1):
        line = line.partition("\r")[0].lstrip(BLANKS)
        if not line or line[0] == "#":
            continue
        held += line
        if held.endswith("\\"):
            held = held[:-1]
            continue
        yield number, held.rstrip(BLANKS)
        held = ""
    if held.strip(BLANKS):
        yield number, held.rstrip(BLANKS)


def _with_macros(text: str, where: str) -> str:
    def value(match: re.Match[str]) -> str:
        return _MACROS.get(match[1], match[0])

    if "${process_number}" in text and not text.startswith("if"):
        raise Refused([f"{where}: ${{process_number}}: each process would go by other settings"])
    return re.sub(r"\$\{(\w+)\}", value, text)


def _is_true(text: str, where: str) -> bool:
    if text in ("true", "false"):
        return text == "true"
    numbers = _NUMBERS(text)
    if numbers is None:
        raise Refused([f"{where}: if {text}: allowed: true, false, NUMBER = NUMBER"])
    return int(numbers[1]) == int(numbers[2])


def _statement(path: str, number: int, text: str) -> Statement:
    match = re.match(f"[^{BLANKS}]+", text)
    name = match[0] if match else ""
    return Statement(path, number, name, text[len(name) :])


def values_of_file(path: str) -> list[str]:
    """What a file of values lists: one a line, up to a # that stands behind a blank. OSError."""
    found = []
    for line in Path(path).read_bytes().decode("utf-8", "surrogateescape").split("\n"):
        value = re.split(f"[{BLANKS}]#", line.strip(BLANKS))[0].strip(BLANKS)
        if value and value[0] != "#":
            found.append(value)
    return found
