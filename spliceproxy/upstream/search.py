"""The names that may be meant by one: ``search`` and ``ndots`` of resolv.conf(5).

c-ares can do this, too, but only for both families together or for each of them alone. Together,
nothing is known before both have answered. Alone, the addresses of one name may be joined with
those of another.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Mapping
from typing import NamedTuple

RESOLV_CONF = "/etc/resolv.conf"

MAX_NDOTS = 15
"""The greatest ``ndots`` that glibc heeds."""

MAX_NAME = 254
"""Characters of a name that can be asked for, with the dot at its end (RFC 1035 section 2.3.4)."""

_DOMAIN = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")


class Search(NamedTuple):
    """The domains in which a name is looked for, without dots at their ends. A name with
    ``ndots`` dots or more is tried as it is before them."""

    domains: tuple[str, ...]
    ndots: int

    def candidates(self, name: str) -> tuple[str, ...]:
        """The absolute names to ask for, in this order, until one is there. ``name`` is in lower
        case; with a dot at its end it is absolute already."""
        if name.endswith("."):
            return (name,)
        names = [f"{name}.{domain}." for domain in self.domains]
        names.insert(0 if name.count(".") >= self.ndots else len(names), f"{name}.")
        return tuple(one for one in dict.fromkeys(names) if len(one) <= MAX_NAME)


def read(path: str = RESOLV_CONF) -> Search:
    """What the system says now. A file that cannot be read says nothing."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        lines = []
    return parse(lines, os.environ, socket.gethostname())


def parse(lines: Iterable[str], environment: Mapping[str, str], hostname: str) -> Search:
    """The last of ``search`` and ``domain`` counts. LOCALDOMAIN replaces them if it is set.
    Without any of these it is what follows the first dot of the machine's name. RES_OPTIONS is
    read after the options of the file."""
    domains: list[str] | None = None
    options: list[str] = []
    for line in lines:
        keyword, *values = line.split() or [""]
        if keyword == "search":
            domains = values
        elif keyword == "domain":
            domains = values[:1]
        elif keyword == "options":
            options += values
    if "LOCALDOMAIN" in environment:
        domains = environment["LOCALDOMAIN"].split()
    if domains is None:
        domains = [hostname.partition(".")[2]]
    lower = (domain.lower().removesuffix(".") for domain in domains)
    ndots = 1
    for option in options + environment.get("RES_OPTIONS", "").split():
        name, _, value = option.partition(":")
        if name == "ndots" and value.isdecimal():
            ndots = min(int(value), MAX_NDOTS)
    return Search(tuple(domain for domain in lower if _DOMAIN.fullmatch(domain)), ndots)
