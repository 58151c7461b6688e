"""The conditions of access rules: for each value of a request, the set of the rules that accept it.

A set of rules is an int: bit N stands for rule N.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from spliceproxy.config import ANY_USER, RuleConfig
from spliceproxy.policy.hosts import ALLOWED, parse_pattern
from spliceproxy.policy.listfile import spelled_out
from spliceproxy.policy.networks import NetworkTable, Place
from spliceproxy.policy.times import Period, parse_period

CACHED = 4096
"""So many requests, hosts, users and ports are remembered, each with its rules."""

NOT = "not_"
"""In front of a condition: what is excepted."""

_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?").fullmatch
_MINUTE = 60


class RuleError(ValueError):
    """A rule that makes no sense. ``index`` is its place in the list, ``key`` the attribute of
    RuleConfig that is wrong."""

    def __init__(self, index: int, rule: RuleConfig, key: str, detail: object) -> None:
        super().__init__(f"rule {rule.id or index + 1}: {key.replace('_', '-')}: {detail}")
        self.index = index
        self.key = key


def bits(rules: Sequence[RuleConfig], test: Callable[[RuleConfig], bool]) -> int:
    """The set of the rules that pass a test."""
    return sum(1 << n for n, rule in enumerate(rules) if test(rule))


def _of(rule: RuleConfig, key: str) -> Iterable[str]:
    return spelled_out(getattr(rule, key))


def _unasked(rules: Sequence[RuleConfig], key: str) -> int:
    """The rules that match whatever a value under ``key`` is, if what is excepted is left out."""
    return 0 if key.startswith(NOT) else bits(rules, lambda rule: getattr(rule, key) is None)


def _has(rules: Sequence[RuleConfig], *keys: str) -> bool:
    return any(getattr(rule, key) is not None for rule in rules for key in keys)


class Networks:
    """The rules that match an address, by the networks under ``key`` and those that are excepted.
    ``any``: those that look at no address."""

    __slots__ = ("any", "bits", "bits_at")

    bits: Callable[[str], int]
    """Of an address as text, "" for a Unix socket, remembered; without those of ``any``."""
    bits_at: Callable[[Place], int]
    """The same for one that is parsed already, not remembered."""

    def __init__(self, rules: Sequence[RuleConfig], key: str) -> None:
        named, excepted = _table(rules, key), _table(rules, NOT + key)
        unnamed = _unasked(rules, key)
        excepting = bits(rules, lambda rule: getattr(rule, NOT + key) is not None)
        self.any = unnamed & ~excepting
        self.bits, self.bits_at = named.bits, named.bits_at
        if excepting:
            others = unnamed & excepting
            self.bits = lru_cache(maxsize=CACHED)(
                lambda text: (named.bits(text) | others) & ~excepted.bits(text)
            )
            self.bits_at = lambda place: (named.bits_at(place) | others) & ~excepted.bits_at(place)


def _table(rules: Sequence[RuleConfig], key: str) -> NetworkTable:
    pairs = []
    for n, rule in enumerate(rules):
        for text in _of(rule, key):
            pairs.append((text, 1 << n))
    try:
        return NetworkTable(pairs)
    except ValueError:
        raise _wrong_network(rules, key) from None


def _wrong_network(rules: Sequence[RuleConfig], key: str) -> RuleError:
    """What is wrong in which rule."""
    for n, rule in enumerate(rules):
        for text in _of(rule, key):
            try:
                NetworkTable([(text, 1)])
            except ValueError as error:
                return RuleError(n, rule, key, error)
    raise AssertionError("each network is right by itself")


def methods(rules: Sequence[RuleConfig]) -> tuple[dict[str, int], int]:
    """By method the rules that match it, and those that match every other."""
    anything = bits(rules, lambda rule: rule.methods is None)
    named, excepted = (_by_method(rules, key) for key in ("methods", "not_methods"))
    found = {
        method: (anything | named.get(method, 0)) & ~excepted.get(method, 0)
        for method in (*named, *excepted)
    }
    return found, anything


def _by_method(rules: Sequence[RuleConfig], key: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for n, rule in enumerate(rules):
        for method in getattr(rule, key) or ():
            if not _METHOD(method):
                raise RuleError(n, rule, key, f"{method!r}; allowed: a method such as GET")
            found[method] = found.get(method, 0) | 1 << n
    return found


def users(rules: Sequence[RuleConfig]) -> Callable[[str, frozenset[str]], int]:
    """The rules that match a user in these groups."""
    found = _Users(rules, "").bits
    if not _has(rules, "not_users", "not_groups"):
        return found
    excepted = _Users(rules, NOT).bits
    return lru_cache(maxsize=CACHED)(
        lambda user, groups: found(user, groups) & ~excepted(user, groups)
    )


class _Users:
    """The rules that name a user, or a group of its; and those that name nobody, if what is
    excepted is left out."""

    __slots__ = ("_any", "_every", "_groups", "_users", "bits")

    bits: Callable[[str, frozenset[str]], int]

    def __init__(self, rules: Sequence[RuleConfig], start: str) -> None:
        self._any = _unasked(rules, f"{start}users") & _unasked(rules, f"{start}groups")
        self._users = _by_value(rules, f"{start}users")
        self._every = self._users.pop(ANY_USER, 0)
        self._groups = _by_value(rules, f"{start}groups")
        self.bits = lru_cache(maxsize=CACHED)(self._find)

    def _find(self, user: str, groups: frozenset[str]) -> int:
        found = self._any | self._users.get(user, 0)
        if user:
            found |= self._every
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


def hosts(rules: Sequence[RuleConfig]) -> Callable[[str], int]:
    """The rules that match a canonical host."""
    found = _Hosts(rules, "hosts").bits
    if not _has(rules, "not_hosts"):
        return found
    excepted = _Hosts(rules, "not_hosts").bits
    return lru_cache(maxsize=CACHED)(lambda host: found(host) & ~excepted(host))


class _Hosts:
    """The rules that name a host; and those that name none, if what is excepted is left out."""

    __slots__ = ("_any", "_exact", "_patterns", "_suffixes", "bits")

    bits: Callable[[str], int]

    def __init__(self, rules: Sequence[RuleConfig], key: str) -> None:
        self._any = _unasked(rules, key)
        self._exact: dict[str, int] = {}
        self._suffixes: dict[str, int] = {}
        self._patterns: list[tuple[re.Pattern[str], int]] = []
        for n, rule in enumerate(rules):
            for text in _of(rule, key):
                try:
                    self._add(text, 1 << n)
                except ValueError as error:
                    raise RuleError(n, rule, key, error) from None
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


def ports(rules: Sequence[RuleConfig]) -> Callable[[int], int]:
    """The rules that match a port."""
    found = _Ports(rules, "ports").bits
    if not _has(rules, "not_ports"):
        return found
    excepted = _Ports(rules, "not_ports").bits
    return lru_cache(maxsize=CACHED)(lambda port: found(port) & ~excepted(port))


class _Ports:
    """The rules that name a port; and those that name none, if what is excepted is left out."""

    __slots__ = ("_any", "_ranges", "_single", "bits")

    bits: Callable[[int], int]

    def __init__(self, rules: Sequence[RuleConfig], key: str) -> None:
        self._any = _unasked(rules, key)
        self._single: dict[int, int] = {}
        self._ranges: list[tuple[int, int, int]] = []
        for n, rule in enumerate(rules):
            for text in getattr(rule, key) or ():
                match = _PORTS(text)
                first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
                if not 0 < first <= last < 65536:
                    raise RuleError(n, rule, key, f'{text!r}; allowed: "443" or "8000-8999"')
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

    __slots__ = ("_any", "_named", "clock", "periods")

    def __init__(self, rules: Sequence[RuleConfig]) -> None:
        self.clock: Callable[[], float] = time.time
        self._any = _unasked(rules, "times")
        self.periods = _periods(rules, "times")
        self._named = len(self.periods)
        self.periods += _periods(rules, "not_times")

    def minute(self) -> int:
        """Minutes since the epoch."""
        return int(self.clock() // _MINUTE)

    def at(self, minute: int) -> int:
        local = time.localtime(minute * _MINUTE)
        found = self._any
        for n, (period, bit) in enumerate(self.periods):  # what is excepted comes last
            if period.holds(local.tm_wday, local.tm_hour * 60 + local.tm_min):
                found = found | bit if n < self._named else found & ~bit
        return found

    def left(self) -> float:
        """Seconds to the next minute."""
        return _MINUTE - self.clock() % _MINUTE


def _periods(rules: Sequence[RuleConfig], key: str) -> list[tuple[Period, int]]:
    found = []
    for n, rule in enumerate(rules):
        for text in getattr(rule, key) or ():
            try:
                found.append((parse_period(text), 1 << n))
            except ValueError as error:
                raise RuleError(n, rule, key, error) from None
    return found
