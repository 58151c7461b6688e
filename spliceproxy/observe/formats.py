"""The formats of the access log: how a record becomes a line, and what the relay has to know to
make such lines by itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from spliceproxy.observe import native_line
from spliceproxy.observe.format_names import NAMES
from spliceproxy.observe.record import Record
from spliceproxy.policy.verdict import Notes
from spliceproxy.relay.lane import JSON, NATIVE, SQUID, LineForm


class Format(NamedTuple):
    """``line`` makes the line of a record that is over: ASCII, at most PIPE_BUF bytes with its LF.
    ``lane`` is for the relay, None where it cannot make such lines. ``note`` makes what the lines
    of a route have in common, None where that is nothing. ``fields``: records are to have the
    fields of their requests."""

    line: Callable[[Record], str]
    lane: LineForm | None
    note: Callable[[Notes], bytes] | None = None
    fields: bool = False


def format_of(name: str, *, query: bool = True, generation: int = 1) -> Format:
    """The format of this name, or the one that is written in squid's codes. ValueError where it is
    neither. Not ``query``: of a target's query its question mark alone is left. The ``generation``
    is that of the settings, for lines of the relay's that nothing is known of."""
    # What a format needs is loaded for that format alone: most proxies never need it.
    if name == JSON:
        return _json(query, generation)
    if name not in (NATIVE, SQUID):
        from spliceproxy.observe.custom_line import COMBINED, COMMON, CustomLine

        codes = {"common": COMMON, "combined": COMBINED}.get(name, name)
        line = CustomLine(codes, query=query)
        return Format(line, None, fields=line.fields)
    make = native_line.squid_line if name == SQUID else native_line.format_line
    return Format(partial(make, query=query), _line_form(name, query))


def check(name: str) -> None:
    """ValueError for what is no format."""
    if "%" not in name and name not in NAMES:
        raise ValueError("neither a name nor a format with codes such as %>a")
    format_of(name)


def _json(query: bool, generation: int) -> Format:
    from spliceproxy.observe import json_line

    form = _line_form(JSON, query)._replace(
        method_most=json_line.METHOD_MAX,
        target_most=json_line.TARGET_MAX,
        address_most=json_line.ADDRESS_MAX,
        type_most=json_line.TYPE_MAX,
        note=json_line.note(Record("", generation=generation)),
    )
    return Format(partial(json_line.json_line, query=query), form, json_line.note)


def _line_form(name: str, query: bool) -> LineForm:
    texts = [bytes([byte]) for byte in range(128)]
    is_unsafe, is_unsafe_name = native_line.UNSAFE.match, native_line.UNSAFE_NAME.match
    return LineForm(
        target=b"".join([text for text in texts if not is_unsafe(text.decode())]),
        user=b"".join([text for text in texts if not is_unsafe_name(text.decode())]),
        method_most=native_line.METHOD_MAX,
        target_most=native_line.TARGET_MAX,
        user_most=native_line.USER_MAX,
        address_most=native_line.ADDRESS_MAX,
        type_most=native_line.TYPE_MAX,
        query=query,
        name=name,
    )
