"""The name in Proxy-Status (RFC 9209) by which a program knows an answer of this proxy's: nobody
else may use it.

A member says which intermediary it is from, and nothing else does. So what an origin sends
in our name is taken out, and that of other intermediaries goes on. A second proxy of this
kind on the way has the same name, and nothing tells it from an origin that lies: its word
goes, too, and its status, reason phrase and text remain.
"""

from __future__ import annotations

import re

from spliceproxy.http1.fields import OWS

NAME = "spliceproxy"
"""Ours, whatever the pseudonym in Via is."""

FIELD = b"proxy-status"

# RFC 8941 section 3, and the Dates and Display Strings of RFC 9651.
_TOKEN = rb"[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*"
_STRING = rb'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"'
_BARE_ITEM = (
    rb"(?:"
    + rb"|".join(
        [
            _TOKEN,
            _STRING,
            rb"-?[0-9]{1,15}(?:\.[0-9]{1,3})?",
            rb":[A-Za-z0-9+/=]*:",
            rb"\?[01]",
            rb"@-?[0-9]{1,15}",
            rb'%"(?:[\x20\x21\x23\x24\x26-\x7e]|%[0-9a-f]{2})*"',
        ]
    )
    + rb")"
)
_PARAMETERS = rb"(?:;[ ]*[a-z*][a-z0-9_\-.*]*(?:=" + _BARE_ITEM + rb")?)*"

# RFC 9209 section 2: each member is a Token or a String, with parameters.
_MEMBER = re.compile(rb"(" + _TOKEN + rb"|" + _STRING + rb")" + _PARAMETERS).match
_COMMA = re.compile(rb"[ \t]*,[ \t]*").match

Fields = list[tuple[bytes, bytes]]


def without_own(fields: Fields, pseudonym: bytes) -> Fields:
    """The fields of a response or its trailers, but for members of Proxy-Status with our name or
    ``pseudonym`` (b"" for none), in any case. Where one of these fields cannot be read as
    RFC 9209 has it, none goes on."""
    own = {NAME.encode(), pseudonym.lower()}
    kept = []
    for name, value in fields:
        if name.lower() == FIELD:
            members = _members(value)
            if members is None:
                return [field for field in fields if field[0].lower() != FIELD]
            others = [text for text, who in members if who not in own]
            if len(others) < len(members):
                if not others:
                    continue
                value = b", ".join(others)
        kept.append((name, value))
    return kept


def _members(value: bytes) -> list[tuple[bytes, bytes]] | None:
    """Of each member its text, and the name of who speaks, in lower case; None for what is no
    such list."""
    value = value.strip(OWS)
    found: list[tuple[bytes, bytes]] = []
    at = 0
    while at < len(value):
        if found:
            comma = _COMMA(value, at)
            if comma is None:
                return None
            at = comma.end()
        member = _MEMBER(value, at)
        if member is None:
            return None
        found.append((member[0], _spoken(member[1])))
        at = member.end()
    return found


def _spoken(item: bytes) -> bytes:
    """A Token's or String's text, as somebody who compares without care would take it."""
    if item.startswith(b'"'):
        item = re.sub(rb"\\(.)", rb"\1", item[1:-1]).strip()
    return item.lower()
