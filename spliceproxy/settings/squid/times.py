"""Times of the week, as squid writes them, as rules have them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from spliceproxy.settings.squid.terms import NotStarted

_DAYS = {"M": 0, "T": 1, "W": 2, "H": 3, "F": 4, "A": 5, "S": 6}
_NAMES = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_HOURS = re.compile(r"([0-9]{1,2}):([0-9]{1,2})-([0-9]{1,2}):([0-9]{1,2})").fullmatch
_DAY = 24 * 60


def periods(words: Iterable[str]) -> list[str]:
    """Those of one line. Days belong to the hours behind them; ValueError."""
    found = []
    days: set[int] = set()
    for word in words:
        if not word[0].isdigit():
            days |= _days(word)
            continue
        found.append(_period(days, *_hours(word)))
        days = set()
    if days:
        found.append(_period(days, 0, _DAY))
    return found


def _days(word: str) -> set[int]:
    found: set[int] = set()
    for letter in word:
        if letter == "D":
            found |= set(range(5))
        elif letter in _DAYS:
            found.add(_DAYS[letter])
        elif letter != "-":
            raise ValueError(f"{word}: {letter} is no day")
    return found


def _hours(word: str) -> tuple[int, int]:
    """Minutes of the day. The last minute belongs to the time, too."""
    match = _HOURS(word)
    if match is None:
        raise NotStarted(f"{word}: no time of the day")
    first, first_minute, last, last_minute = map(int, match.groups())
    begin, end = first * 60 + first_minute, last * 60 + last_minute
    if first > 23 or max(first_minute, last_minute) > 59 or end > _DAY or begin > end:
        raise NotStarted(f"{word}: no time of the day that ends after it begins")
    return begin, min(end + 1, _DAY)


def _period(days: set[int], begin: int, end: int) -> str:
    named = ",".join(_NAMES[day] for day in sorted(days or set(range(7))))
    if (begin, end) == (0, _DAY):
        return named
    hours = f"{begin // 60:02d}:{begin % 60:02d}-{end // 60:02d}:{end % 60:02d}"
    return f"{named} {hours}" if days else hours
