"""Preconditions and byte ranges of a GET or HEAD (RFC 9110 sections 13 and 14)."""

from __future__ import annotations

import re
import time
from datetime import datetime, timezone
from typing import NamedTuple

from spliceproxy.http1.head import RequestHead

_TAG = re.compile(rb'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')

_TAG_LIST = re.compile(rb"(?:[ \t,]|" + _TAG.pattern + rb"(?=[ \t,]|\Z))*").fullmatch

# 19 digits: whatever is longer lies beyond any file, and int() of it costs time.
_RANGE = re.compile(rb"bytes[ \t]*=[ \t]*([0-9]{0,19})-([0-9]{0,19})", re.IGNORECASE).fullmatch

# RFC 9110 section 5.6.7: IMF-fixdate and rfc850-date, then asctime-date.
_DAY_FIRST = re.compile(
    rb"[A-Z][a-z]{2,8}, (?P<day>[0-9]{2})[ -](?P<month>[A-Z][a-z]{2})[ -]"
    rb"(?P<year>[0-9]{4}|[0-9]{2}) (?P<time>[0-9]{2}:[0-9]{2}:[0-9]{2}) GMT"
).fullmatch
_MONTH_FIRST = re.compile(
    rb"[A-Z][a-z]{2} (?P<month>[A-Z][a-z]{2}) (?P<day>[ 0-9][0-9]) "
    rb"(?P<time>[0-9]{2}:[0-9]{2}:[0-9]{2}) (?P<year>[0-9]{4})"
).fullmatch
_MONTHS = (b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec").split()


class Validators(NamedTuple):
    """What identifies a version of a representation."""

    etag: bytes  # strong, with its quotes
    modified: int  # Unix seconds
    now: int  # Unix seconds, of the answer


def precondition(head: RequestHead, version: Validators) -> int:
    """304 or 412 to answer instead, 0 to go on, in the order of RFC 9110 section 13.2.2."""
    if head.get(b"if-match") is not None:
        if not _matches(head.values(b"if-match"), version.etag, weak=False):
            return 412
    else:
        unmodified_since = parse_date(head.get(b"if-unmodified-since"))
        if unmodified_since is not None and version.modified > unmodified_since:
            return 412
    if head.get(b"if-none-match") is not None:
        if _matches(head.values(b"if-none-match"), version.etag, weak=True):
            return 304
    else:
        modified_since = parse_date(head.get(b"if-modified-since"))
        if modified_since is not None and version.modified <= modified_since:
            return 304
    return 0


def byte_range(head: RequestHead, size: int, version: Validators) -> tuple[int, int] | None:
    """(offset, length) of the one range asked for; length 0 if it is not satisfiable.

    None for the whole: no Range, a bad one, more than one range (RFC 9110 section 14.2
    allows to ignore it), another method than GET, or an If-Range that does not match.
    """
    values = head.values(b"range")
    if len(values) != 1 or head.method != "GET":
        return None
    match = _RANGE(values[0])
    if match is None or not _if_range(head.get(b"if-range"), version):
        return None
    first, last = match.groups()
    if first:
        offset = int(first)
        end = int(last) + 1 if last else size
        if last and end <= offset:
            return None
        return offset, max(0, min(end, size) - offset)
    if not last:
        return None
    if not size and int(last):
        return None  # satisfiable, but Content-Range cannot say "nothing"
    length = min(int(last), size)
    return size - length, length


def parse_date(value: bytes | None) -> int | None:
    """An HTTP-date (RFC 9110 section 5.6.7) in Unix seconds, None if it is not one."""
    match = value and (_DAY_FIRST(value) or _MONTH_FIRST(value))
    if not match or match["month"] not in _MONTHS:
        return None
    year = int(match["year"])
    if len(match["year"]) == 2:  # at most 50 years ahead
        this_year = time.gmtime().tm_year
        year += this_year // 100 * 100
        if year > this_year + 50:
            year -= 100
    hour, minute, second = map(int, match["time"].split(b":"))
    month = _MONTHS.index(match["month"]) + 1
    try:
        # 60 is a leap second, which Unix time does not count.
        moment = datetime(
            year, month, int(match["day"]), hour, minute, min(second, 59), tzinfo=timezone.utc
        )
    except ValueError:
        return None
    return int(moment.timestamp())


def _matches(values: list[bytes], etag: bytes, *, weak: bool) -> bool:
    """Whether ``*`` or a list of entity tags holds ``etag`` (RFC 9110 section 8.8.3.2)."""
    text = b",".join(values)
    if text == b"*":
        return True
    if not _TAG_LIST(text):
        return False
    tags = _TAG.findall(text)
    return etag in tags or (weak and b"W/" + etag in tags)


def _if_range(value: bytes | None, version: Validators) -> bool:
    """RFC 9110 section 13.1.5: a strong match only."""
    if value is None or value == version.etag:
        return True
    # A date is a strong validator only some time after the change (section 8.8.2.2).
    return parse_date(value) == version.modified and version.now - version.modified >= 2
