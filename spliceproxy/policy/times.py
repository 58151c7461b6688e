"""Times of the week, as rules name them: "Mon-Fri 08:00-18:00"."""

from __future__ import annotations

import re
from typing import NamedTuple

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

ALLOWED = 'days and hours such as "Mon-Fri 08:00-18:00", "Sat,Sun" or "22:00-06:00"'

_TIME = re.compile(
    r"(?:(?P<days>[a-z]{3}(?:[-,][a-z]{3})*))?"
    r"(?:(?P<space> )?(?P<from>[0-9]{2}:[0-9]{2})-(?P<to>[0-9]{2}:[0-9]{2}))?"
).fullmatch


class Period(NamedTuple):
    """``begin`` and ``end`` are minutes of a day. A period that ends before it begins lasts into
    the next day; ``days`` are those that it begins on."""

    days: frozenset[int]  # 0 is Monday
    begin: int
    end: int

    def holds(self, day: int, minute: int) -> bool:
        """Whether a minute (0 to 1439) of a day of the week is within it."""
        if self.begin < self.end:
            return day in self.days and self.begin <= minute < self.end
        if minute >= self.begin:
            return day in self.days
        return minute < self.end and (day - 1) % 7 in self.days


def parse_period(text: str) -> Period:
    """A period of the week in the form of ALLOWED; ValueError."""
    match = _TIME(text.strip().lower())
    fault = ValueError(f"{text!r}; allowed: {ALLOWED}")
    if (
        match is None
        or not text.strip()
        or bool(match["space"]) != bool(match["days"] and match["from"])
    ):
        raise fault
    try:
        days = _days(match["days"]) if match["days"] else range(7)
        begin = _minutes(match["from"]) if match["from"] else 0
        end = _minutes(match["to"]) if match["to"] else 24 * 60
    except ValueError:
        raise fault from None
    if begin == end or begin == 24 * 60:
        raise fault
    return Period(frozenset(days), begin, end)


def _days(text: str) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        begin = DAYS.index(first)
        end = DAYS.index(last) if dash else begin  # "mon-tue-wed": no such day
        found.update(day % 7 for day in range(begin, (end if end >= begin else end + 7) + 1))
    return found


def _minutes(text: str) -> int:
    hours, minutes = map(int, text.split(":"))
    if minutes > 59 or hours * 60 + minutes > 24 * 60:
        raise ValueError
    return hours * 60 + minutes
