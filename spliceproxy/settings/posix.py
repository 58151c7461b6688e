"""POSIX patterns (regex(7), fnmatch(3)) as Python's regular expressions.

A translation matches what the C library's regcomp(3) and fnmatch(3) match in the C locale, or
it is refused: ValueError for what has no counterpart, and for most of what those refuse.
"""

from __future__ import annotations

import re
from typing import Literal

Case = Literal["ignored", "exact", "either"]
"""``ignored``: the case does not count, as with REG_ICASE; use the translation with re.IGNORECASE.
``exact``: the case counts; use it without that flag. ``either``: the case counts, but the
translation is used with re.IGNORECASE, and matches at least every text of which some spelling
matches."""

_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": re.escape("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
    "space": r"\s",
    "upper": "A-Z",
    "xdigit": "0-9a-fA-F",
}
_LETTERLESS = {"blank", "cntrl", "digit", "punct", "space"}
_ALIKE = tuple(map(re.compile, ("[0-9]{2}", "[a-z]{2}", "[A-Z]{2}")))
_GNU = {"w": r"\w", "W": r"\W", "s": r"\s", "S": r"\S"}
_ANCHORS = {"<": r"\b(?=\w)", ">": r"\b(?<=\w)", "b": r"\b", "B": r"\B"}
_INTERVAL = re.compile(r"([0-9]*)(,?)([0-9]*)")
_MAX_COUNT = 255
_MAX_DEPTH = 40


def from_regex(pattern: str, *, extended: bool, case: Case = "ignored") -> str:
    """A basic or extended regular expression, to be searched for."""
    return _checked(_Regex(pattern, extended, case).all())


def from_glob(pattern: str, *, case: Case = "exact") -> str:
    """A shell pattern, for the whole of a text."""
    parts = []
    at = 0
    _plain_ascii(pattern)
    while at < len(pattern):
        char = pattern[at]
        if char == "[" and "]" in pattern[at + 2 :]:
            part, at = _brackets(pattern, at, "!^", case, glob=True)
            parts.append(part)
            continue
        if (char == "[" and at + 1 < len(pattern)) or pattern[at:] == "\\":
            raise ValueError(f"{char} with nothing that belongs to it")
        if char == "\\":
            at += 1
            parts.append(_literal(pattern[at]))
        else:
            parts.append({"*": ".*", "?": "."}.get(char) or _literal(char))
        at += 1
    return _checked("".join(parts))


class _Regex:
    """``at`` is where the next part begins. In a basic expression a backslash makes an operator
    of a character, in an extended one it makes a plain character of an operator."""

    def __init__(self, pattern: str, extended: bool, case: Case) -> None:
        _plain_ascii(pattern)
        self.pattern = pattern
        self.at = 0
        self._extended = extended
        self._case = case
        self._depth = 0

    def all(self) -> str:
        text = self._alternatives()
        if self._operator():
            raise ValueError("a closing parenthesis without an opening one")
        return text

    def _operator(self) -> str:
        """Which of ``( ) { | + ? *`` is next, or ""."""
        here = self.pattern[self.at : self.at + 1]
        if here == "*":
            return "*"
        if not self._extended:
            here = self.pattern[self.at + 1 : self.at + 2] if here == "\\" else ""
        return here if here and here in "(){|+?" else ""

    def _take(self, operator: str) -> None:
        self.at += 1 if self._extended or operator == "*" else 2

    def _alternatives(self) -> str:
        branches = [self._branch()]
        while self._operator() == "|":
            self._take("|")
            branches.append(self._branch())
        return "|".join(branches)

    def _branch(self) -> str:
        parts: list[str] = []
        begun = False  # there is something that can be repeated
        start = self.at
        while self.at < len(self.pattern) and self._operator() not in ("|", ")"):
            anchor = self._anchor(first=self.at == start)
            if anchor:
                parts.append(anchor)
                begun = False
                continue
            operator = self._operator()
            if operator in ("*", "+", "?", "{") and not begun:
                if self._extended or operator != "*":
                    raise ValueError(f"{operator} with nothing to repeat")
                self._take("*")  # a plain star
                parts.append(self._repeated(r"\*"))
            else:
                parts.append(self._repeated(self._atom(operator)))
            begun = True
        return "".join(parts)

    def _anchor(self, *, first: bool) -> str:
        """The next part, if it is one that matches between two characters."""
        char = self.pattern[self.at]
        following = self.pattern[self.at + 1 : self.at + 3]
        if char == "\\" and following[:1] in ("<", ">", "b", "B"):
            self.at += 2
            return _ANCHORS[following[0]]
        is_one = (char == "^" and (first or self._extended)) or (
            char == "$" and (following in ("", r"\)", r"\|") or self._extended)
        )
        if is_one:
            self.at += 1
        return char if is_one else ""

    def _atom(self, operator: str) -> str:
        if operator == "(":
            return self._group()
        char = self.pattern[self.at]
        if operator or (char == "{" and self._extended):
            raise ValueError(f"{operator or char} has no counterpart here")
        if char == "[":
            text, self.at = _brackets(self.pattern, self.at, "^", self._case)
            return text
        self.at += 1
        if char == "\\":
            return self._escaped()
        return "." if char == "." else _literal(char)

    def _group(self) -> str:
        self._take("(")
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError("parentheses too deep")
        inner = self._alternatives()
        if self._operator() != ")":
            raise ValueError("an opening parenthesis without a closing one")
        self._take(")")
        self._depth -= 1
        return f"({inner})"

    def _escaped(self) -> str:
        char = self.pattern[self.at : self.at + 1]
        self.at += 1
        if char in _GNU:
            return _GNU[char]
        if char and char in "123456789":
            return f"(?:\\{char})"  # a digit behind it stays a digit
        if not char or char.isalnum() or char in "`'" or (char == "}" and not self._extended):
            raise ValueError(f"\\{char} has no counterpart")
        return _literal(char)

    def _repeated(self, atom: str) -> str:
        """The atom with what repeats it. Two repetitions in a row become one that means both. In
        Python the second would mean something else, or would be tried in very many ways."""
        found = ""
        while (operator := self._operator()) and operator in "*+?{":
            if found and ("{" in (operator, found[0]) or (operator == "*" and not self._extended)):
                raise ValueError("a repetition of a repetition has no counterpart")
            self._take(operator)
            one = self._interval() if operator == "{" else operator
            found = one if found in ("", one) else "*"
        return atom + found

    def _interval(self) -> str:
        closing = "}" if self._extended else "\\}"
        inner, end, _ = self.pattern[self.at :].partition(closing)
        match = _INTERVAL.fullmatch(inner)
        if not end or match is None or not (match[1] or match[3]):
            raise ValueError("{ without numbers and }")
        low = int(match[1] or 0)
        high = int(match[3] or _MAX_COUNT) if match[2] else low
        if not low <= high <= _MAX_COUNT or high == 0:
            raise ValueError(f"{{{inner}}} has no counterpart")
        self.at += len(inner) + len(closing)
        return f"{{{low}}}" if not match[2] else f"{{{low},{match[3]}}}"


def _brackets(
    pattern: str, at: int, negators: str, case: Case, *, glob: bool = False
) -> tuple[str, int]:
    """A bracket expression, and where it ends. In a regular expression a backslash in it is
    one (regex(7)); in a shell pattern that has one it is refused."""
    start = at
    at += 1
    negated = pattern[at : at + 1] in tuple(negators)
    at += negated
    first = at
    parts = []
    letters = False
    while pattern[at : at + 1] != "]" or at == first:
        pair = pattern[at : at + 2]
        if not pair:
            raise ValueError("[ without ]")
        if pair in ("[=", "[.") or (glob and pair[0] == "\\"):
            raise ValueError(f"{pair} within [] has no counterpart")
        if pair == "[:":
            part, at, lettered = _class(pattern, at)
        else:
            part, at, lettered = _member(pattern, at, case, first=at == first)
        parts.append(part)
        letters = letters or lettered
    if negated and letters and case == "either":
        raise ValueError(f"{pattern[start : at + 1]}: the case of hosts does not count here")
    return f"[{'^' if negated else ''}{''.join(parts)}]", at + 1


def _class(pattern: str, at: int) -> tuple[str, int, bool]:
    """A class such as ``[:digit:]``, where it ends, and whether it has letters."""
    name, end, _ = pattern[at + 2 :].partition(":]")
    if not end or name not in _CLASSES:
        raise ValueError(f"[:{name}:] has no counterpart")
    at += len(name) + 4
    if _goes_on(pattern, at):
        raise ValueError("a range from a class has no counterpart")
    return _CLASSES[name], at, name not in _LETTERLESS


def _member(pattern: str, at: int, case: Case, *, first: bool) -> tuple[str, int, bool]:
    """A character or a range, where it ends, and whether it has letters."""
    char = pattern[at]
    if _goes_on(pattern, at + 1) and pattern[at + 2 : at + 3]:
        high = pattern[at + 2]
        if _goes_on(pattern, at + 3):
            raise ValueError("a range behind a range has no counterpart")
        return _range(char, high, case), at + 3, char <= "z" and high >= "A"
    if char == "-" and not first and pattern[at + 1 : at + 2] != "]":
        raise ValueError("- within [] has no counterpart")
    return re.escape(char), at + 1, char.isalpha()


def _goes_on(pattern: str, at: int) -> bool:
    """Whether a - that makes a range is there."""
    return pattern[at : at + 1] == "-" and pattern[at : at + 2] != "-]"


def _range(low: str, high: str, case: Case) -> str:
    """The C library ignores the case by turning everything into capitals, ends of ranges, too."""
    alike = any(one.fullmatch(low + high) for one in _ALIKE)
    no_letters = high < "A" or (low > "Z" and high < "a") or low > "z"
    fair = alike or no_letters or (case == "exact" and (low + high).isalnum())
    if low > high or not fair or low in "-[" or high in "-[":
        raise ValueError(f"the range {low}-{high} has no counterpart")
    return f"{re.escape(low)}-{re.escape(high)}"


def _literal(char: str) -> str:
    return char if char.isalnum() or char in "-_/:,@%\"'<>=;!" else f"\\{char}"


def _plain_ascii(pattern: str) -> None:
    if not pattern.isascii() or not pattern.isprintable():
        raise ValueError("it has a byte that is not printable ASCII")


def _checked(pattern: str) -> str:
    try:
        re.compile(pattern, re.ASCII)
    except (re.error, OverflowError) as error:
        raise ValueError(str(error)) from None
    return pattern
