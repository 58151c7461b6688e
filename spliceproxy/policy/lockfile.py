"""The file of ``--learn`` and ``--locked``: destinations, written as access rules.

It holds ``[[rule]]`` as the settings do, but a rule has ``id``, ``action``, ``hosts`` and
``ports`` only. So it says the same for every client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from spliceproxy import toml
from spliceproxy.config import RuleConfig
from spliceproxy.kept import Kept
from spliceproxy.policy.conditions import CACHED, RuleError
from spliceproxy.policy.hosts import named_address
from spliceproxy.policy.rules import Match, RuleSet
from spliceproxy.textfile import text_of

LOCKED = "locked"
"""The id of the refusal of a destination that is not in the file."""

_NOBODY: frozenset[str] = frozenset()

_ALLOWED = "id, action, hosts, ports"


def read(path: Path, kept: Kept | None = None) -> tuple[RuleConfig, ...]:
    """The rules of a file, or of what it said when it was ``kept``. ValueError says where it is
    wrong, and what is allowed."""
    content = None if kept is None else kept.given.files.get(str(path))
    try:
        if content is None:
            content = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{path}: cannot read it ({error.strerror}); allowed: a file of --learn"
        ) from None
    if kept is not None:
        kept.read.files[str(path)] = content
    return parse(content, str(path))


def parse(content: bytes, where: str) -> tuple[RuleConfig, ...]:
    """The same for what was read from it; ``where`` begins each error."""
    try:
        text = text_of(content)
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 (byte {error.start})") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    try:
        document = toml.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: not TOML: {error}") from None
    for key in document:
        if key != "rule":
            raise ValueError(f"{where}: {key}: no such key here; allowed: [[rule]] with {_ALLOWED}")
    tables = document.get("rule", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ValueError(f"{where}: rule: allowed: [[rule]] with {_ALLOWED}")
    rules = tuple(_rule(table, f"{where}: rule {n}: ") for n, table in enumerate(tables, 1))
    try:
        RuleSet(rules)
    except RuleError as error:
        raise ValueError(f"{where}: {error}") from None
    return rules


def _rule(table: dict[str, Any], where: str) -> RuleConfig:
    for key in table:
        if key not in _ALLOWED.split(", "):
            raise ValueError(f"{where}{key}: no such key here; allowed: {_ALLOWED}")
    if not isinstance(table.get("id"), str):
        raise ValueError(
            f"{where}id: it is missing or not a string; allowed: a name that no other rule has"
        )
    if table.get("action") not in ("allow", "deny"):
        raise ValueError(f"{where}action: {table.get('action')!r}; allowed: allow, deny")
    hosts = _list(table.get("hosts"), (str,), f"{where}hosts: ", "a list of names, at least one")
    ports = _list(
        table.get("ports"), (int, str), f"{where}ports: ", "a list of ports, at least one"
    )
    return RuleConfig(table["id"], table["action"], hosts=hosts, ports=ports)


def _list(value: Any, types: tuple[type, ...], where: str, allowed: str) -> tuple[str, ...]:
    """Never empty: in a rule that would stand for all there are."""
    if not isinstance(value, list) or not value or not all(type(one) in types for one in value):
        shown = "missing" if value is None else repr(value)
        raise ValueError(f"{where}{shown}; allowed: {allowed}")
    return tuple(map(str, value))


class Locked:
    """The destinations of a file, or of what it said when it was ``kept``. ValueError as of
    :func:`read`."""

    __slots__ = ("_named", "admits")

    admits: Callable[[str, int], bool]
    """Whether it allows a canonical host and a port; what it has said it remembers."""

    def __init__(self, path: Path, kept: Kept | None = None) -> None:
        found = read(path, kept)
        rules = RuleSet(found, "deny")
        self.admits = lru_cache(maxsize=CACHED)(lambda host, port: decide(rules, host, port).allow)
        self._named = RuleSet(tuple(_naming_addresses(found)), "deny")

    def names_address(self, address: str, port: int) -> bool:
        """Whether an address that it admits is written in it, and not only matches a pattern."""
        return decide(self._named, address, port).allow


def _naming_addresses(rules: Iterable[RuleConfig]) -> Iterator[RuleConfig]:
    """The rules that allow, with the addresses among their hosts alone."""
    for rule in rules:
        hosts = tuple(filter(named_address, rule.hosts or ()))
        if hosts and rule.action == "allow":
            yield replace(rule, hosts=hosts)


def decide(rules: RuleSet, host: str, port: int) -> Match:
    """What rules of such a file say, whoever asks; ``host`` is canonical."""
    match = rules.select(0, "", _NOBODY, "", host, port).settled
    assert match is not None  # no rule here looks at addresses
    return match
