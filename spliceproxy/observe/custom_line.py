"""Lines of the access log in a format of the operator's, written with squid's codes (logformat in
squid.conf), and in the formats of web servers.

A format is compiled once, to a list of texts and of functions that take a record. What comes from
a client is escaped, as in the other formats, so no request can forge a line.
"""

from __future__ import annotations

import json
import re
import select
import time
from collections.abc import Callable
from typing import Any

from spliceproxy.observe.json_line import json_line
from spliceproxy.observe.native_line import UNSAFE_NAME, escape, hierarchy, result, without_query
from spliceproxy.observe.record import Record

COMMON = '%>a %ui %un [%tl] "%rm %ru HTTP/%rv" %>Hs %<st'
COMBINED = f'{COMMON} "%{{Referer}}>h" "%{{User-Agent}}>h"'
"""Those of NCSA's httpd and Apache."""

MOST = select.PIPE_BUF - 1
"""Characters of a line; what is longer is cut."""

_FIELD_MAX = 512
_TARGET_MAX = 2048

Writer = Callable[[Record], str]


def _plain(get: Callable[[Record], str], most: int = _FIELD_MAX) -> Callable[[str], Writer]:
    """A code whose text is escaped here."""
    return lambda _: lambda record: escape(get(record), most)


def _number(get: Callable[[Record], object]) -> Callable[[str], Writer]:
    return lambda _: lambda record: str(get(record))


def _time(convert: Callable[[float], time.struct_time]) -> Callable[[str], Writer]:
    def code(argument: str) -> Writer:
        form = argument or "%d/%b/%Y:%H:%M:%S %z"
        return lambda record: time.strftime(form, convert(record.ended_at)).replace("\n", " ")

    return code


def _field(argument: str) -> Writer:
    if not argument:
        raise ValueError("%>h needs the name of a field, as in %{User-Agent}>h")
    return lambda record: record.field(argument)


def _note(argument: str) -> Writer:
    if not argument:
        raise ValueError("%note needs the name of a tag, as in %{team}note")
    return lambda record: str(record.tags.get(argument, ""))


def _json(argument: str) -> Writer:
    keys = json.loads(json_line(Record("")))
    if argument not in keys:
        raise ValueError(f"%json needs a key of the JSON format: {', '.join(keys)}")

    def write(record: Record) -> str:
        value: Any = json.loads(json_line(record))[argument]
        return "" if value is None else value if isinstance(value, str) else json.dumps(value)

    return write


_TEXTS = {">h": _field, "note": _note, "json": _json}
"""Codes whose texts are anybody's. In quotes they keep their spaces."""

CODES: dict[str, Callable[[str], Writer]] = {
    ">a": _plain(lambda record: record.client),
    "<a": _plain(lambda record: record.peer),
    "<p": _number(lambda record: record.port if record.peer else "-"),
    "ui": _plain(lambda record: ""),
    "un": lambda _: lambda record: escape(record.user, _FIELD_MAX, UNSAFE_NAME),
    "ts": _number(lambda record: round(record.ended_at * 1000) // 1000),
    "tu": _number(lambda record: f"{round(record.ended_at * 1000) % 1000:03d}"),
    "tl": _time(time.localtime),
    "tg": _time(time.gmtime),
    "tr": _number(lambda record: int(record.seconds * 1000)),
    "dt": _number(lambda record: int(record.looked_up * 1000) if record.looked_up else "-"),
    "rm": _plain(lambda record: record.method or "NONE"),
    "ru": _plain(lambda record: record.target or "error:invalid-request", _TARGET_MAX),
    "rv": _number(lambda record: f"1.{record.minor}"),
    ">rd": _plain(lambda record: record.host),
    ">rP": _number(lambda record: record.port or "-"),
    ">Hs": _number(lambda record: record.status),
    ">st": _number(lambda record: record.bytes_in),
    "<st": _number(lambda record: record.bytes_out),
    "st": _number(lambda record: record.bytes_in + record.bytes_out),
    "Ss": _number(result),
    "Sh": _number(hierarchy),
    "mt": _plain(lambda record: record.content_type.partition(";")[0].rstrip()),
    "err_code": _plain(lambda record: record.error),
    "err_detail": _plain(lambda record: record.failed),
    **_TEXTS,
}
"""By their names, without the percent sign. ``json`` is ours: a key of the JSON format."""

_SPEC = re.compile(
    r"""%(?P<quote>["\[#])?(?P<left>-)?(?P<zero>0)?(?P<width>[0-9]{0,3})(?:\.(?P<most>[0-9]{1,4}))?
    (?:\{(?P<before>[^{}]*)\})?(?P<code>"""
    + "|".join(re.escape(code) for code in sorted(CODES, key=len, reverse=True))
    + r""")(?:\{(?P<after>[^{}]*)\})?""",
    re.VERBOSE,
)


class CustomLine:
    """A compiled format. ValueError for a code that does not exist. ``fields``: it needs fields of
    the request. Not ``query``: of a target's query its question mark alone is left."""

    def __init__(self, form: str, *, query: bool = True) -> None:
        if not form.isascii() or not form.isprintable():
            raise ValueError("a format is one line of printable ASCII")
        self.fields = False
        self._query = query
        self._parts = self._compile(form)

    def __call__(self, record: Record) -> str:
        """The record's line with its LF."""
        if not self._query:
            record = _Unqueried(record)  # type: ignore[assignment]
        text = "".join([part if isinstance(part, str) else part(record)
                        for part in self._parts])  # fmt: skip
        return f"{text[:MOST]}\n"

    def _compile(self, form: str) -> list[str | Writer]:
        parts: list[str | Writer] = []
        at = 0
        quoted = False
        while at < len(form):
            percent = form.find("%", at)
            if percent != at:
                text = form[at : percent if percent >= 0 else None]
                quoted ^= text.count('"') % 2 == 1
                parts.append(text)
                at += len(text)
            elif form.startswith("%%", at):
                parts.append("%")
                at += 2
            else:
                found = _SPEC.match(form, at)
                if found is None:
                    raise ValueError(_unknown(form[at:]))
                parts.append(self._writer(found, quoted))
                at = found.end()
        return parts

    def _writer(self, found: re.Match[str], quoted: bool) -> Writer:
        code = found["code"]
        write = CODES[code](found["before"] or found["after"] or "")
        self.fields |= code == ">h"
        if code in _TEXTS:
            write = _escaping(write, quoted or found["quote"] == '"')
        return _fitted(write, found)


_CODE = re.compile(r"%[\"\[#]?-?[0-9.]*(\{[^{}]*\})?([<>]?[A-Za-z_]*)")


def _unknown(rest: str) -> str:
    """What is wrong with a code, which this begins with."""
    found = _CODE.match(rest)
    if found is None or not (found[1] or found[2]):
        return f"{rest[:40]!r} begins with no code; a percent sign is %%"
    argument, code = found[1] or "", found[2]
    if argument and not code:
        return (
            f"there is no code behind {found[0]}; allowed: %{argument}>h for a field of the "
            f"request, %{argument}note for a tag, %{argument}json for a key of the JSON format"
        )
    allowed = " ".join(f"%{code}" for code in CODES)
    whole = f" ({found[0]})" if found[0] != f"%{code}" else ""
    return f"there is no code %{code}{whole}; allowed: %% {allowed}"


def _escaping(write: Writer, quoted: bool) -> Writer:
    if quoted:
        return lambda record: _in_quotes(write(record)[:_FIELD_MAX]) or "-"
    return lambda record: escape(write(record), _FIELD_MAX)


_NOT_IN_QUOTES = re.compile(r"[^ !#-\[\]-~]")


def _in_quotes(text: str) -> str:
    """As Apache writes a text between double quotes."""
    return _NOT_IN_QUOTES.sub(_backslashed, text)[:_FIELD_MAX]


def _backslashed(match: re.Match[str]) -> str:
    if match[0] in '"\\':
        return f"\\{match[0]}"
    return "".join(f"\\x{byte:02x}" for byte in match[0].encode("utf-8", "backslashreplace"))


def _fitted(write: Writer, found: re.Match[str]) -> Writer:
    """With the width and the precision of the code."""
    width, most = int(found["width"] or 0), found["most"]
    if not width and most is None:
        return write
    limit = int(most) if most is not None else MOST
    fill = "0" if found["zero"] else " "
    if found["left"]:
        return lambda record: write(record)[:limit].ljust(width)
    return lambda record: write(record)[:limit].rjust(width, fill)


class _Unqueried:
    """A record whose target has no query."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self.target = without_query(record.target)
        self.detail = ""  # it may quote the target

    def __getattr__(self, name: str) -> Any:
        return getattr(self._record, name)
