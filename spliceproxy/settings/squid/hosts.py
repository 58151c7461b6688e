"""The values of ``dstdomain`` as hosts of rules."""

from __future__ import annotations

import re
from collections.abc import Iterable

from spliceproxy.policy.hosts import is_address, parse_pattern
from spliceproxy.policy.listfile import FileList
from spliceproxy.policy.names import canonical

_NAME = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}", re.ASCII).fullmatch
_NO_DOT = "/[^.:]+/"


def pattern(value: str) -> str:
    """The hosts of a value, "" for what no host is spelled like. ValueError where nobody is sure
    of them."""
    text = value.lower()
    if not text.isascii():
        raise ValueError(f"{value}: squid compares bytes, and names are ASCII")
    name = text.removeprefix(".")
    if text.startswith("[") and text.endswith("]") and ":" in text:
        return canonical(text)
    if not _NAME(name):
        return ""
    try:
        found = parse_pattern(text)
    except ValueError as error:  # a part of an address
        raise ValueError(f"{value}: {error}") from None
    if is_address(found.name):
        return found.name if found.name == text else ""
    return text


def meant(value: str) -> str:
    """What was most likely meant by a value that is no host."""
    for found, wanted in (
        (re.fullmatch(r"\*+\.(.+)", value), "names below {}"),
        (re.fullmatch(r"(?:https?://)?([^/:,]+)[/:,.].*|(.+)\.", value), "{}"),
    ):
        if found and any(map(_NAME, filter(None, found.groups()))):
            name = next(filter(None, found.groups()))
            return f"; most likely it was to be {wanted.format(name)}"
    return ""


def is_plain(listed: FileList) -> bool:
    """Whether each of its values means the same in squid and here."""
    return all(pattern(value) == value.lower() for value in listed.values)


def appended(patterns: Iterable[str], domain: str) -> list[str]:
    """The same hosts, where those without a dot are looked at with the domain behind them."""
    domain = domain.lower().removeprefix(".")
    found: list[str] = []
    for one in patterns:
        name = one.removeprefix(".")
        below = one.startswith(".")
        if "." in name or ":" in name:
            found.append(one)
        elif below:  # itself would be another name
            found.append(f"*.{name}")
        found += _short(name, domain, below=below)
    return list(dict.fromkeys(found))


def _short(name: str, domain: str, *, below: bool) -> list[str]:
    """Hosts without a dot that are within a pattern when the domain is behind them."""
    if below and f".{domain}".endswith(f".{name}"):
        return [_NO_DOT]
    host, dot, rest = name.partition(".")
    return [host] if dot and rest == domain else []
