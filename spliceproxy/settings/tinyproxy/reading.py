"""Reads a tinyproxy.conf(5) into directives. A line that tinyproxy does not start with is an
error here, too: nobody knows what was meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from spliceproxy.settings.imported import Refused

LINE_MAX = 2047
"""Bytes of a line; tinyproxy takes what is behind them for a line of its own."""

_IPV4 = r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}"
_IPV6 = rf"(?:[0-9a-f:]{{2,39}}|[0-9a-f:]{{0,29}}:{_IPV4})(?:%[^\s/]{{1,16}})?"
_WORD = "[-a-z0-9._]+"
_NUMBER = "(?:0x)?[0-9]+"
_SITE = '(?:[ \t]+"([^"]+)")?'

# What a directive takes, as a pattern of its groups, and in words.
_TEXT = '"([^"]+)"', 'text between "quotes"'
_SWITCH = "(yes|on|no|off)", "yes, on, no or off"
_COUNT = f"({_NUMBER})", "a number"
_NAME = f"({_WORD})", "letters, digits and -._"
_ADDRESS = f"({_IPV4}|{_IPV6})", "an IP address"
_CLIENT = (
    f"((?:{_IPV4}|{_IPV6})(?:/[0-9]+)?|{_WORD})",
    "an IP address, a network such as 10.0.0.0/8, or a host name",
)

_ARGUMENTS: Mapping[str, tuple[str, str]] = {
    "addheader": ('"([^"]+)"[ \t]+"([^"]+)"', 'two texts between "quotes"'),
    "allow": _CLIENT,
    "anonymous": _TEXT,
    "basicauth": (f"({_WORD}|[^:\\s]+)[ \t]+({_WORD}|[^@\\s]+)", "a user and a password"),
    "basicauthrealm": _TEXT,
    "bind": _ADDRESS,
    "bindsame": _SWITCH,
    "connectport": _COUNT,
    "defaulterrorfile": _TEXT,
    "deny": _CLIENT,
    "disableviaheader": _SWITCH,
    "errorfile": (f'{_NUMBER}[ \t]+"([^"]+)"', 'a number and text between "quotes"'),
    "filter": _TEXT,
    "filtercasesensitive": _SWITCH,
    "filterdefaultdeny": _SWITCH,
    "filterextended": _SWITCH,
    "filtertype": ("(bre|ere|fnmatch)", "bre, ere or fnmatch"),
    "filterurls": _SWITCH,
    "group": _NAME,
    "listen": _ADDRESS,
    "logfile": _TEXT,
    "loglevel": (
        "(critical|error|warning|notice|connect|info)",
        "Critical, Error, Warning, Notice, Connect or Info",
    ),
    "maxclients": _COUNT,
    "maxrequestsperchild": _COUNT,
    "maxspareservers": _COUNT,
    "minspareservers": _COUNT,
    "no": ('(upstream)[ \t]+"([^"]+)"', 'upstream and a site between "quotes"'),  # 1.8
    "pidfile": _TEXT,
    "port": _COUNT,
    "reversebaseurl": _TEXT,
    "reversemagic": _SWITCH,
    "reverseonly": _SWITCH,
    "reversepath": (f'"([^"]+)"{_SITE}', 'one or two texts between "quotes"'),
    "startservers": _COUNT,
    "statfile": _TEXT,
    "stathost": _TEXT,
    "syslog": _SWITCH,
    "timeout": _COUNT,
    "upstream": (
        '(none)[ \t]+"([^"]+)"|(?:'
        "((?:(?:http|socks4|socks5)[ \t]+)?"  # 1.8 has no type
        f"(?:[^:\\s]*:[^@]*@)?(?:\\[{_IPV6}\\]|{_WORD}):{_NUMBER}){_SITE})",
        'http, socks4 or socks5 and HOST:PORT, and then a site between "quotes" or not; or none '
        "and such a site",
    ),
    "user": _NAME,
    "viaproxyname": _TEXT,
    "xtinyproxy": _SWITCH,
}
_ENTRY = {
    name: re.compile(f"[ \t]+(?:{pattern})[ \t]*", re.ASCII | re.IGNORECASE).fullmatch
    for name, (pattern, _) in _ARGUMENTS.items()
}


@dataclass(frozen=True)
class Directive:
    """A line of the file: ``name`` in lower case, ``written`` as it stands there."""

    path: str
    line: int
    name: str
    written: str
    values: tuple[str, ...]


def read(path: str) -> tuple[Directive, ...]:
    """The directives of a file. OSError, Refused."""
    lines = Path(path).read_bytes().split(b"\n")
    problems: list[str] = []
    found: list[Directive] = []
    for number, line in enumerate(lines, 1):
        try:
            found.extend(_directive(path, number, line))
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
    if problems:
        raise Refused(problems)
    return tuple(found)


def _directive(path: str, number: int, line: bytes) -> Iterator[Directive]:
    """What a line says: one directive, or nothing. ValueError."""
    if len(line) > LINE_MAX:
        raise ValueError(
            f"it has more than {LINE_MAX} bytes, and tinyproxy would cut it in two there"
        )
    if b"\0" in line:
        raise ValueError("it has a NUL byte, and tinyproxy would end the line there")
    text = line.decode("utf-8", "surrogateescape")
    if not text.strip(" \t\v\f\r") or text.lstrip(" \t").startswith("#"):
        return
    match = re.match(r"[ \t\v\f\r]*([^ \t\v\f\r]+)(.*)", text, re.DOTALL)
    assert match is not None
    written, rest = match.groups()
    name = written.lower()
    if name not in _ARGUMENTS:
        near = get_close_matches(name, _ARGUMENTS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{_shown(written)}: unknown to tinyproxy.conf(5){hint}")
    arguments = _ENTRY[name](rest)
    if arguments is None:
        why = "; a line must not end with a carriage return" if rest.endswith("\r") else ""
        shown = _shown(rest.strip(" \t"))
        secret = name in ("basicauth", "upstream")
        raise ValueError(
            f"{written}: {'' if secret else f'{shown!r}: '}tinyproxy does not start with it; "
            f"allowed: {_ARGUMENTS[name][1]}{why}"
        )
    yield Directive(path, number, name, written, tuple(one for one in arguments.groups() if one))


def _shown(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def number(text: str) -> int:
    """What strtoul(3) makes of the digits: octal behind a 0, hexadecimal behind 0x; then 32
    bits of it."""
    if text[:2].lower() == "0x":
        value = int(text[2:], 16)
    elif text.startswith("0"):
        octal = re.match("[0-7]*", text)
        value = int(octal[0], 8) if octal else 0
    else:
        value = int(text)
    return min(value, 2**64 - 1) & 0xFFFFFFFF


def is_on(text: str) -> bool:
    """A switch: yes or on."""
    return text.lower() in ("yes", "on")
