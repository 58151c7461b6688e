"""The names of /etc/hosts (hosts(5)), followed when the file changes.

Without a free descriptor the file cannot be read. The names that were read before stay then, so
that nobody is sent to what a name server says of them.
"""

from __future__ import annotations

import os

from spliceproxy.errors import EXHAUSTED
from spliceproxy.messages import log
from spliceproxy.upstream.addresses import interleave, literal
from spliceproxy.upstream.versions import ANY, Versions, family_of

CHECK = 1.0
"""Seconds between two looks at the file. A stat(2) a second costs nothing, one for every request
would. An edit is seen as soon as its author can try it."""


class Hosts:
    """``names`` are the addresses of each name (lower case, no trailing dot), in the order to try,
    as they were when :meth:`look` was called last; that is due at ``check_at``. The file is read on
    the calling thread, at once and after each change, because it is small and local."""

    __slots__ = ("_path", "_stamp", "_versions", "check_at", "names")

    def __init__(self, path: str, versions: Versions = ANY) -> None:
        self._path = path
        self._versions = versions
        self.names: dict[str, tuple[str, ...]] = {}
        self._stamp: tuple[int, ...] = ()
        self.check_at = float("-inf")
        self._check()

    def look(self, now: float) -> None:
        """To be called from ``check_at`` on. ``now`` is any monotonic clock in seconds."""
        self.check_at = now + CHECK
        self._check()

    def _check(self) -> None:
        """Reads the file if it is not the one that was read."""
        stamp: tuple[int, ...]
        try:
            # The stamp is taken before the file is read, so a change in between is seen next time.
            status = os.stat(self._path)
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)
            if stamp == self._stamp:
                return
            with open(self._path, encoding="ascii", errors="replace") as file:
                self.names = parse(file.read(), self._versions)
        except OSError as error:
            stamp = (error.errno or 0,)
            if stamp != self._stamp and not isinstance(error, FileNotFoundError):
                log.warning("cannot read %s: %s", self._path, error.strerror)
            if error.errno not in EXHAUSTED:
                self.names = {}
        self._stamp = stamp


def parse(text: str, versions: Versions = ANY) -> dict[str, tuple[str, ...]]:
    """The addresses of each name (lower case) in the text of a hosts file.

    A name on several lines has the addresses of all of them, IPv6 first (RFC 6724 with both
    families reachable; if one is not, dialling it fails at once). A line that does not begin
    with an address is skipped, as glibc does. So are addresses in the place of a name, and
    localhost names, which this file does not decide (RFC 6761 section 6.3).
    """
    lists: dict[str, list[str]] = {}
    families = versions.families
    for line in text.splitlines():
        fields = line.partition("#")[0].split()
        address = literal(fields[0].lower()) if len(fields) > 1 else None
        if address is None or family_of(address) not in families:
            continue
        for field in fields[1:]:
            lists.setdefault(field.lower().removesuffix("."), []).append(address)
    # Most names have one address: no sorting, and blocklists of 100,000 names exist.
    return {
        name: tuple(found) if len(found) == 1 else _sorted(found, versions)
        for name, found in lists.items()
        if not is_localhost(name) and literal(name) is None
    }


def _sorted(found: list[str], versions: Versions) -> tuple[str, ...]:
    return versions.of(interleave(sorted(found, key=_is_v4)))


def is_localhost(name: str) -> bool:
    """Whether a name (lower case, no trailing dot) is localhost or below it (RFC 6761)."""
    return name.endswith("localhost") and (len(name) == 9 or name[-10] == ".")


def _is_v4(address: str) -> bool:
    return ":" not in address
