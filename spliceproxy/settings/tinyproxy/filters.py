"""A filter file: its patterns as hosts of a rule."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from spliceproxy.config import RuleConfig
from spliceproxy.policy.conditions import RuleError
from spliceproxy.policy.names import canonical
from spliceproxy.policy.rules import RuleSet
from spliceproxy.settings import posix
from spliceproxy.settings.kind import Invalid
from spliceproxy.settings.values import HOST

LINE_MAX = 511
"""Bytes of a line; tinyproxy takes what is behind them for a line of its own."""

_BLANKS = b" \t\n\v\f\r"
_HOST = re.compile(
    r"(\^|(?:\.\*)?\\\.|\(\^\|\\\.\))((?:[\w-]+\\\.)*[\w-]*[a-z_-])\$", re.ASCII | re.I
)
"""A translated regular expression for a host, for those below it, or for both."""


@dataclass
class Hosts:
    """``hosts`` of a rule; ``faults``: line and what is wrong with its pattern; ``loose``: line
    and pattern of those that match names that go on behind it."""

    hosts: list[str] = field(default_factory=list)
    faults: list[tuple[int, str]] = field(default_factory=list)
    loose: list[tuple[int, str]] = field(default_factory=list)


def read(path: str, kind: str, *, allows: bool, case_counts: bool) -> Hosts:
    """The patterns of a file; OSError. ``kind``: bre, ere or fnmatch.

    Where the case counts in tinyproxy, hosts are in lower case here all the same: what allows
    then matches as written, and what denies in every case.
    """
    found = Hosts()
    case: posix.Case = "ignored"
    if case_counts or kind == "fnmatch":
        case = "exact" if allows else "either"
    for number, pattern in _patterns(Path(path).read_bytes()):
        try:
            translated = _translated(pattern, kind, case)
        except ValueError as error:
            found.faults.append((number, f"{pattern!r}: {error}"))
            continue
        found.hosts.extend(hosts_of(pattern, translated, kind, case))
        if _is_loose(translated, kind):
            found.loose.append((number, pattern))
    found.hosts = list(dict.fromkeys(found.hosts))
    return found


def _patterns(content: bytes) -> Iterator[tuple[int, str]]:
    """Line and pattern: the first word of a line, up to a # that has no backslash before it."""
    for number, line in enumerate(content.split(b"\n"), 1):
        for at in range(0, len(line), LINE_MAX):
            piece = line[at : at + LINE_MAX].partition(b"\0")[0]
            word = re.split(rb"(?<!\\)#", piece.lstrip(_BLANKS), maxsplit=1)[0]
            word = re.split(rb"[ \t\n\v\f\r]", word, maxsplit=1)[0]
            if word:
                yield number, word.decode("latin-1")


def _translated(pattern: str, kind: str, case: posix.Case) -> str:
    if kind == "fnmatch":
        return posix.from_glob(pattern, case=case)
    return posix.from_regex(pattern, extended=kind == "ere", case=case)


def hosts_of(pattern: str, translated: str, kind: str, case: posix.Case) -> list[str]:
    """Names where the pattern is for them, else it as a regular expression."""
    names: list[str] = []
    if kind == "fnmatch":
        names = [pattern]
    else:
        simple = _HOST.fullmatch(translated)
        if simple is not None:
            name = simple[2].replace("\\.", ".")
            below = f"*.{name}"
            names = {"^": [name], r"\.": [below], r".*\.": [below]}.get(simple[1], [name, below])
    if names and all(is_name(one, case) for one in names):
        return [one.lower() for one in names]
    if kind == "fnmatch":
        return [f"/(?-i:{translated})/" if case == "exact" else f"/{translated}/"]
    return [f"/.*({'?-i' if case == 'exact' else '?'}:{translated}).*/"]


def _is_loose(translated: str, kind: str) -> bool:
    if kind == "fnmatch":
        return translated.endswith(".*")
    return not translated.endswith("$") or translated.endswith("\\$")


def is_name(text: str, case: posix.Case) -> bool:
    """Whether it is a host of a rule that matches as the pattern does."""
    try:
        name = canonical(text.removeprefix("*."))
        HOST.read(text, "")
        RuleSet((RuleConfig(id="x", action="deny", hosts=(text,)),))
    except (ValueError, Invalid, RuleError):
        return False
    return name == (text if case == "exact" else text.lower()).removeprefix("*.")
