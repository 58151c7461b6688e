"""Sets of destinations, as tests name them, and a readable account of what is outside of one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from spliceproxy.observe.record import Record
from spliceproxy.policy.hosts import Pattern, parse_pattern
from spliceproxy.policy.names import canonical


class Destinations:
    """``host:port``, ``host`` for any port, ``*.host`` for all names below one, ``.host`` for
    both. ValueError for anything else."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._exact: set[tuple[str, int]] = set()
        self._below: set[tuple[str, int]] = set()
        for pattern in patterns:
            try:
                hosts, port = _split(pattern)
            except ValueError as error:
                raise ValueError(
                    f"{pattern!r}: no destination ({error}); allowed: host, host:port, *.host, "
                    "*.host:port, .host, .host:port, with IPv6 addresses in brackets"
                ) from None
            if hosts.itself:
                self._exact.add((hosts.name, port))
            if hosts.below:
                self._below.add((hosts.name, port))

    def __contains__(self, record: Record) -> bool:
        host = _canonical(record.host)
        if (host, record.port) in self._exact or (host, 0) in self._exact:
            return True
        labels = host.split(".")
        parents = (".".join(labels[n:]) for n in range(1, len(labels)))
        return any((parent, port) in self._below for parent in parents for port in (record.port, 0))


def tell(records: Iterable[Record], allowed: Sequence[str]) -> str:
    """What these records, which should not be there, were."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.destination, []).append(record)
    lines = [
        f"  {destination}: {len(group)} x {', '.join(sorted({_word(one) for one in group}))}"
        for destination, group in groups.items()
    ]
    return "\n".join(
        ["requests to other destinations:", *lines, f"allowed: {', '.join(allowed) or 'none'}"]
    )


def _word(record: Record) -> str:
    how = f"denied by {record.rule}" if record.rule else record.error or "went through"
    return f"{record.method} ({record.status or 'no answer yet'}, {how})"


def _split(text: str) -> tuple[Pattern, int]:
    """Hosts and port, 0 without one."""
    host, colon, digits = text.rpartition(":")
    if not colon or text.endswith("]"):
        return _hosts(text), 0
    if not digits.isdigit() or not 0 < int(digits) < 65536:
        raise ValueError(f"a port is 1 to 65535, not {digits!r}")
    return _hosts(host), int(digits)


def _hosts(text: str) -> Pattern:
    hosts = parse_pattern(text)
    if hosts.regex is not None:
        raise ValueError("no regular expression can stand here")
    return hosts


def _canonical(host: str) -> str:
    try:
        return canonical(host)
    except ValueError:
        return host  # what a client made up
