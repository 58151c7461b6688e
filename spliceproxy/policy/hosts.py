"""Patterns of hosts: how they are written, what each matches, and what is wrong with one."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from spliceproxy.policy.names import canonical

ALLOWED = (
    "a name or an address, .NAME for the name and all names below it, *.NAME for those below it "
    "alone, or /REGEX/ for the whole of it"
)

_AUTHORITY = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//(?:[^/]*@)?([^/?#]*)", re.IGNORECASE).match
_HOST_AND_PORT = re.compile(r"(.+):([0-9]{1,5})").fullmatch
_PORT_OF = {"http": 80, "ws": 80, "ftp": 21}


class Pattern(NamedTuple):
    """What matches: the canonical ``name`` (``itself``), all names below it (``below``), or both;
    or else every canonical host that the whole ``regex`` matches."""

    name: str = ""
    itself: bool = False
    below: bool = False
    regex: re.Pattern[str] | None = None


def parse_pattern(text: str) -> Pattern:
    """A pattern in one of the forms of ALLOWED. ValueError says what is wrong, and what to write
    instead if that can be guessed."""
    if len(text) > 2 and text[0] == text[-1] == "/":
        try:
            return Pattern(regex=re.compile(text[1:-1], re.ASCII | re.IGNORECASE))
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
    below = text.startswith((".", "*."))
    itself = not text.startswith("*.")
    bare = text.removeprefix("*").removeprefix(".") if below else text
    try:
        name = canonical(bare)
    except ValueError as error:
        raise ValueError(advice(text) or str(error)) from None
    if below and is_address(name):
        raise ValueError(f"an address has no names below it: {bare}")
    return Pattern(name, itself, below)


def is_address(name: str) -> bool:
    """Whether a canonical host is an IP address."""
    return ":" in name or (name[-1:].isdigit() and name.rpartition(".")[2].isdigit())


def named_address(text: str) -> str:
    """The canonical address that a pattern stands for, and nothing else; "" for other patterns."""
    pattern = parse_pattern(text)
    return pattern.name if pattern.itself and is_address(pattern.name) else ""


def advice(text: str) -> str:
    """What to write instead of a text that is no host, "" if that cannot be guessed."""
    address, percent, _ = text.strip("[]").partition("%")
    if percent and _is_network(address):
        return f"a zone belongs to one machine's links, and no address here has one: {address}"
    if _is_network(text):
        return "a network of destinations belongs in networks"
    found = _AUTHORITY(text)
    authority = found[1] if found else text.partition("/")[0]
    split = _HOST_AND_PORT(authority)
    host, port = (split[1], split[2]) if split else (authority, "")
    if found and not port:
        scheme = text.partition(":")[0].lower()
        port = str(_PORT_OF.get(scheme, 443)) if "://" in text else ""
    if text == "*":
        return 'every host is "/.*/"'
    try:
        parse_pattern(host) if host != text else canonical(host)
    except ValueError:
        stray = "*" in text.removeprefix("*.")
        return "* stands at the beginning only, before a dot: *.NAME" if stray else ""
    what = "a URL" if found else "a host and a path" if "/" in text else "a host and a port"
    ports = f", ports = [{port}]" if port else ""
    return f'{what}; write hosts = ["{host}"]{ports}'


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True
