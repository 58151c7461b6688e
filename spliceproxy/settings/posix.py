"""POSIX patterns (regex(7), fnmatch(3)) as Python's regular expressions."""

from __future__ import annotations

import re

_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": r" \t",
    "digit": "0-9",
    "lower": "a-z",
    "punct": re.escape("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
    "space": r"\s",
    "upper": "A-Z",
    "xdigit": "0-9a-fA-F",
}
_BRACKETS = re.compile(r"\[([!^]?)(\]?(?:\[:[a-z]+:\]|[^\]])*)\]")
_CLASS = re.compile(r"\[:([a-z]+):\]")
_OPERATORS = "(){}|+?"  # with a backslash in basic ones, without in extended ones
_GNU = "wWsSbB"


def from_regex(pattern: str, *, extended: bool) -> str:
    """A basic or extended regular expression; ValueError for what has no counterpart."""
    parts = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "[":
            part, at = _brackets(pattern, at, negation="^")
            parts.append(part)
            continue
        if char == "\\":
            at += 1
            parts.append(_escaped(pattern[at : at + 1], extended))
        elif char in _OPERATORS and not extended:
            parts.append(f"\\{char}")
        else:
            parts.append(char)
        at += 1
    return _checked("".join(parts))


def _escaped(char: str, extended: bool) -> str:
    if char in ("<", ">"):
        return r"\b"
    if char and (char in _GNU or char in "123456789" or (char in _OPERATORS and not extended)):
        return char if char in _OPERATORS else f"\\{char}"
    if not char or char.isalnum():
        raise ValueError(f"\\{char} has no counterpart")
    return re.escape(char)


def from_glob(pattern: str) -> str:
    """A shell pattern, for the whole of a text; ValueError for what has no counterpart."""
    parts = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "[" and _BRACKETS.match(pattern, at):
            part, at = _brackets(pattern, at, negation="!^")
            parts.append(part)
            continue
        if char == "\\" and at + 1 < len(pattern):
            at += 1
            parts.append(re.escape(pattern[at]))
        else:
            parts.append({"*": ".*", "?": "."}.get(char) or re.escape(char))
        at += 1
    return _checked("".join(parts))


def _brackets(pattern: str, at: int, negation: str) -> tuple[str, int]:
    """A bracket expression, and where it ends. In it a backslash is one (regex(7))."""
    match = _BRACKETS.match(pattern, at)
    if match is None:
        raise ValueError("[ without ]")
    first, inner = match.groups()
    if any(odd in inner for odd in ("[=", "[.", "--")):
        raise ValueError(f"{match[0]} has no counterpart")
    if first and first not in negation:
        inner = first + inner
        first = ""
    words = _CLASS.split(inner)  # texts, and between them the names of classes
    for n, word in enumerate(words):
        if n % 2:
            if word not in _CLASSES:
                raise ValueError(f"[:{word}:] has no counterpart")
            words[n] = _CLASSES[word]
        else:
            words[n] = re.sub(r"[\[\]\\^&~|]", r"\\\g<0>", word)
    return f"[{'^' if first else ''}{''.join(words)}]", match.end()


def _checked(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(str(error)) from None
    return pattern
