"""Writes YAML that every reader takes for the same values.

Only what the other modules here need: tables with texts as keys, lists, texts, numbers, true and
false. A text is written without quotes only where no version of YAML takes it for something else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

Value = str | int | float | bool | Mapping[str, "Value"] | Sequence["Value"]

# It begins with a letter, so it is no number and no date, and has no sign with a meaning.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_WORDS = frozenset(("true", "false", "yes", "no", "on", "off", "null", "y", "n"))
"""Values of YAML 1.1 that are no texts, in any case (https://yaml.org/type/bool.html)."""

_STEP = "  "


def text(value: Value) -> str:
    """A document."""
    return "\n".join(_lines(value)) + "\n"


def _lines(value: Value) -> Iterator[str]:
    """Those of a table or a list, without an indent."""
    if isinstance(value, Mapping) and value:
        for key, one in value.items():
            yield from _entry(f"{_scalar(key)}:", one)
    elif isinstance(value, Sequence) and value and not isinstance(value, str):
        for one in value:
            yield from _item(one)
    else:
        yield _scalar(value)


def _entry(start: str, value: Value) -> Iterator[str]:
    if isinstance(value, str):
        yield from _of_text(start, value)
    elif isinstance(value, Mapping | Sequence) and value:
        yield start
        yield from (_STEP + line if line else "" for line in _lines(value))
    else:
        yield f"{start} {_scalar(value)}"


def _item(value: Value) -> Iterator[str]:
    if isinstance(value, str) or not value or not isinstance(value, Mapping | Sequence):
        yield from _entry("-", value)
        return
    start = "- "
    for line in _lines(value):
        yield start + line if line else ""
        start = _STEP


def _of_text(start: str, value: str) -> Iterator[str]:
    """A text of several lines as a block, which keeps them as they are."""
    *lines, last = value.split("\n")
    ends = not last and lines and lines[-1] and lines[0][:1] not in ("", " ")
    if not ends or not all(map(_is_clean, lines)):
        yield f"{start} {_scalar(value)}"
        return
    yield f"{start} |"
    yield from (_STEP + line if line else "" for line in lines)


def _is_clean(line: str) -> bool:
    """Whether a line of a block needs no sign of its own."""
    return line.isprintable() and not line.endswith(" ")


def _scalar(value: Value) -> str:
    """A text, a number, or what is empty."""
    if not isinstance(value, str):
        return json.dumps(value)
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    if '"' in value and "'" not in value and value.isprintable():
        return f"'{value}'"
    quoted = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)
