"""The conditions of access rules: for each value of a request, the set of the rules that accept it.

A set of rules is an int: bit N stands for rule N.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from functools import lru_cache

from spliceproxy.config import RuleConfig
from spliceproxy.policy.hosts import ALLOWED, parse_pattern
from spliceproxy.policy.networks import NetworkTable
from spliceproxy.policy.times import Period, parse_period

CACHED = 4096
"""So many requests, hosts, users and ports are remembered, each with its rules."""

_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?").fullmatch
_MINUTE = 60


class RuleError(ValueError):
    """A rule that makes no sense. ``index`` is its place in the list, ``key`` the attribute of
    RuleConfig that is wrong."""

    def __init__(self, index: int, rule: RuleConfig, key: str, detail: object) -> None:
        super().__init__(f"rule {rule.id or index + 1}: {key}: {detail}")
        self.index = index
        self.key = key


def bits(rules: Sequence[RuleConfig], test: Callable[[RuleConfig], bool]) -> int:
    """The set of the rules that pass a test."""
    return sum(1 << n for n, rule in enumerate(rules) if test(rule))


def networks(rules: Sequence[RuleConfig], key: str) -> NetworkTable:
    """The networks under ``key`` of each rule, with the sets of the rules that name them."""
    pairs = []
    for n, rule in enumerate(rules):
        for text in getattr(rule, key) or ():
            try:
                NetworkTable([(text, 1)])
            except ValueError as error:
                raise RuleError(n, rule, key, error) from None
            pairs.append((text, 1 << n))
    return NetworkTable(pairs)


def methods(rules: Sequence[RuleConfig]) -> tuple[dict[str, int], int]:
    """By method the rules that match it, and those that match every other."""
    anything = bits(rules, lambda rule: rule.methods is None)
    found: dict[str, int] = {}
    for n, rule in enumerate(rules):
        for method in rule.methods or ():
            if not _METHOD(method):
                raise RuleError(n, rule, "methods", f"{method!r}; allowed: a method such as GET")
            found[method] = found.get(method, anything) | 1 << n
    return found, anything


class Users:
    """The rules that match a user: it, or a group of its, is named in the rule."""

    __slots__ = ("_any", "_groups", "_users", "bits")

    bits: Callable[[str, frozenset[str]], int]

    def __init__(self, rules: Sequence[RuleConfig]) -> None:
        self._any = bits(rules, lambda rule: rule.users is None and rule.groups is None)
        self._users = _by_value(rules, "users")
        self._groups = _by_value(rules, "groups")
        self.bits = lru_cache(maxsize=CACHED)(self._find)

    def _find(self, user: str, groups: frozenset[str]) -> int:
        found = self._any | self._users.get(user, 0)
        for group in groups:
            found |= self._groups.get(group, 0)
        return found


def _by_value(rules: Sequence[RuleConfig], key: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for n, rule in enumerate(rules):
        for value in getattr(rule, key) or ():
            if not value:
                raise RuleError(n, rule, key, "an empty name")
            found[value] = found.get(value, 0) | 1 << n
    return found


class Hosts:
    """The rules that match a host."""

    __slots__ = ("_any", "_exact", "_patterns", "_suffixes", "bits")

    bits: Callable[[str], int]

    def __init__(self, rules: Sequence[RuleConfig]) -> None:
        self._any = bits(rules, lambda rule: rule.hosts is None)
        self._exact: dict[str, int] = {}
        self._suffixes: dict[str, int] = {}
        self._patterns: list[tuple[re.Pattern[str], int]] = []
        for n, rule in enumerate(rules):
            for text in rule.hosts or ():
                try:
                    self._add(text, 1 << n)
                except ValueError as error:
                    raise RuleError(n, rule, "hosts", error) from None
        self.bits = lru_cache(maxsize=CACHED)(self._find)

    def _add(self, text: str, bit: int) -> None:
        try:
            pattern = parse_pattern(text)
        except ValueError as error:
            raise ValueError(f"{text!r}: {error}; allowed: {ALLOWED}") from None
        if pattern.regex is not None:
            self._patterns.append((pattern.regex, bit))
        if pattern.itself:
            self._exact[pattern.name] = self._exact.get(pattern.name, 0) | bit
        if pattern.below:
            self._suffixes[pattern.name] = self._suffixes.get(pattern.name, 0) | bit

    def _find(self, host: str) -> int:
        found = self._any | self._exact.get(host, 0)
        if self._suffixes:
            at = host.find(".") + 1
            while at:
                found |= self._suffixes.get(host[at:], 0)
                at = host.find(".", at) + 1
        for pattern, bit in self._patterns:
            if not found & bit and pattern.fullmatch(host):
                found |= bit
        return found


class Ports:
    """The rules that match a port."""

    __slots__ = ("_any", "_ranges", "_single", "bits")

    bits: Callable[[int], int]

    def __init__(self, rules: Sequence[RuleConfig]) -> None:
        self._any = bits(rules, lambda rule: rule.ports is None)
        self._single: dict[int, int] = {}
        self._ranges: list[tuple[int, int, int]] = []
        for n, rule in enumerate(rules):
            for text in rule.ports or ():
                match = _PORTS(text)
                first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
                if not 0 < first <= last < 65536:
                    raise RuleError(n, rule, "ports", f'{text!r}; allowed: "443" or "8000-8999"')
                if first == last:
                    self._single[first] = self._single.get(first, 0) | 1 << n
                else:
                    self._ranges.append((first, last, 1 << n))
        self.bits = lru_cache(maxsize=CACHED)(self._find)

    def _find(self, port: int) -> int:
        found = self._any | self._single.get(port, 0)
        for first, last, bit in self._ranges:
            if first <= port <= last:
                found |= bit
        return found


class Timed:
    """The rules that match at a time, by the local time of this machine; without
    ``periods`` none looks at it."""

    __slots__ = ("_any", "clock", "periods")

    def __init__(self, rules: Sequence[RuleConfig]) -> None:
        self.clock: Callable[[], float] = time.time
        self._any = bits(rules, lambda rule: rule.times is None)
        self.periods: list[tuple[Period, int]] = []
        for n, rule in enumerate(rules):
            for text in rule.times or ():
                try:
                    self.periods.append((parse_period(text), 1 << n))
                except ValueError as error:
                    raise RuleError(n, rule, "times", error) from None

    def minute(self) -> int:
        """Minutes since the epoch."""
        return int(self.clock() // _MINUTE)

    def at(self, minute: int) -> int:
        local = time.localtime(minute * _MINUTE)
        found = self._any
        for period, bit in self.periods:
            if period.holds(local.tm_wday, local.tm_hour * 60 + local.tm_min):
                found |= bit
        return found

    def left(self) -> float:
        """Seconds to the next minute."""
        return _MINUTE - self.clock() % _MINUTE
