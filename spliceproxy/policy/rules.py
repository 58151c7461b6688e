"""Ordered access rules: the first that matches decides.

Every condition of every rule is looked up by value, once, as a set of the rules that it
lets pass (an int, bit N is rule N); the rules that match are the intersection of a few such
sets, which are remembered, and the lowest bit is the first rule.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from spliceproxy.config import RuleConfig
from spliceproxy.policy.names import canonical
from spliceproxy.policy.networks import NetworkTable
from spliceproxy.policy.request import Request
from spliceproxy.policy.times import Period, parse_period

CACHED = 4096
"""Hosts, and users, whose rules are remembered."""

DEFAULT = "default"
"""The id by which the answer of no rule is known."""

_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}").fullmatch
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?").fullmatch
_MINUTE = 60


class RuleError(ValueError):
    """A rule that makes no sense: ``index`` of the rule, ``key`` of RuleConfig."""

    def __init__(self, index: int, rule: RuleConfig, key: str, detail: object) -> None:
        super().__init__(f"rule {rule.id or index + 1}: {key}: {detail}")
        self.index = index
        self.key = key


class Match(NamedTuple):
    """What decided: a rule's id or DEFAULT; ``reports``: ids of the rules that only report
    and would have decided otherwise."""

    allow: bool
    rule: str
    reports: tuple[str, ...] = ()


class RuleSet:
    """Rules in order, and the answer where none matches. RuleError.

    A decision: :meth:`select` the rules that match but for the destination's addresses; then
    :meth:`settled` without looking at an address, if that can be, else :meth:`match` for
    each address. :meth:`decide` is all of it.
    """

    def __init__(self, rules: Sequence[RuleConfig], default: str = "allow") -> None:
        self._ids = [_identify(n, rule, rules) for n, rule in enumerate(rules)]
        self._default = Match(default == "allow", DEFAULT)
        self._allow = _bits(rules, lambda rule: rule.action == "allow")
        self._reports = _bits(rules, lambda rule: rule.report_only)
        self._timed = _Timed(rules)
        # For each condition the rules that have none: they match whatever the value is.
        self._any_address = _bits(rules, lambda rule: not rule.networks)
        self._any_client = _bits(rules, lambda rule: not rule.clients)
        self._clients = _networks(rules, "clients")
        self._addresses = _networks(rules, "networks")
        self._hosts = _Hosts(rules).bits
        self._ports = _Ports(rules).bits
        self._users = _Users(rules).bits
        self._methods, self._any_method = _methods(rules)
        self._match = lru_cache(maxsize=CACHED)(self._decide)

    @property
    def repeat_for(self) -> float:
        """Seconds for which a decision holds: to the next minute, where rules look at the
        clock, else infinite."""
        return self._timed.left() if self._timed else float("inf")

    def select(
        self, client: str, user: str, groups: frozenset[str], method: str, host: str, port: int
    ) -> int:
        """The rules that match but for the addresses. ``host`` is canonical."""
        selected = (
            (self._clients.bits(client) | self._any_client)
            & self._users(user, groups)
            & self._methods.get(method, self._any_method)
            & self._hosts(host)
            & self._ports(port)
        )
        return selected & self._timed.now() if self._timed else selected

    def settled(self, selected: int) -> Match | None:
        """The answer, if it is the same for every address, else None. So a name that is
        denied anyway is never looked up: a query, too, carries data out."""
        sure = selected & self._any_address & ~self._reports
        last = sure & -sure
        # Rules that depend on the address, before the first that does not.
        unsure = (
            selected & ~self._any_address & ~self._reports & ((last or 1 << len(self._ids)) - 1)
        )
        if unsure:
            allow = bool(last & self._allow) if last else self._default.allow
            if unsure & (~self._allow if allow else self._allow):
                return None
        return self._match(selected & self._any_address)

    def match(self, selected: int, address: str) -> Match:
        """The answer for one address of the destination."""
        return self._match(selected & (self._addresses.bits(address) | self._any_address))

    def decide(self, request: Request) -> Match:
        """The answer for a request, for the first of its addresses if it has any."""
        selected = self.select(
            request.client,
            request.user,
            request.groups,
            request.method,
            canonical(request.host) if request.host else "",
            request.port,
        )
        if request.addresses:
            return self.match(selected, request.addresses[0])
        return self._match(selected & self._any_address)

    def _decide(self, matching: int) -> Match:
        """The first of some rules."""
        deciding = matching & ~self._reports
        first = deciding & -deciding
        if first:
            number = first.bit_length() - 1
            answer = Match(bool(first & self._allow), self._ids[number])
        else:
            answer = self._default
        reports = matching & self._reports & (first - 1 if first else -1)
        reports &= ~self._allow if answer.allow else self._allow
        if reports:
            names = tuple(name for n, name in enumerate(self._ids) if reports >> n & 1)
            answer = answer._replace(reports=names)
        return answer


def _identify(index: int, rule: RuleConfig, rules: Sequence[RuleConfig]) -> str:
    """The rule's id, its number where it has none."""
    name = rule.id or str(index + 1)
    if not _ID(name):
        allowed = "up to 64 letters, digits, and . _ : -"
        raise RuleError(index, rule, "id", f"{name!r}; allowed: {allowed}")
    if any(other.id == name for other in rules[:index]):
        raise RuleError(index, rule, "id", f"{name!r} is another rule's already")
    if rule.action not in ("allow", "deny"):
        raise RuleError(index, rule, "action", f"{rule.action!r}; allowed: allow, deny")
    return name


def _bits(rules: Sequence[RuleConfig], test: Callable[[RuleConfig], bool]) -> int:
    return sum(1 << n for n, rule in enumerate(rules) if test(rule))


def _networks(rules: Sequence[RuleConfig], key: str) -> NetworkTable:
    pairs = []
    for n, rule in enumerate(rules):
        for text in getattr(rule, key):
            try:
                NetworkTable([(text, 1)])
            except ValueError as error:
                raise RuleError(n, rule, key, error) from None
            pairs.append((text, 1 << n))
    return NetworkTable(pairs)


def _methods(rules: Sequence[RuleConfig]) -> tuple[dict[str, int], int]:
    """By method the rules that match it, and those that match every other."""
    anything = _bits(rules, lambda rule: not rule.methods)
    found: dict[str, int] = {}
    for n, rule in enumerate(rules):
        for method in rule.methods:
            if not _METHOD(method):
                raise RuleError(n, rule, "methods", f"{method!r}; allowed: a method such as GET")
            found[method] = found.get(method, anything) | 1 << n
    return found, anything


class _Users:
    """The rules that match a user: it, or a group of its, is named in the rule."""

    __slots__ = ("_any", "_groups", "_users", "bits")

    bits: Callable[[str, frozenset[str]], int]

    def __init__(self, rules: Sequence[RuleConfig]) -> None:
        self._any = _bits(rules, lambda rule: not rule.users and not rule.groups)
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
        for value in getattr(rule, key):
            if not value:
                raise RuleError(n, rule, key, "an empty name")
            found[value] = found.get(value, 0) | 1 << n
    return found


class _Hosts:
    """The rules that match a host."""

    __slots__ = ("_any", "_exact", "_patterns", "_suffixes", "bits")

    bits: Callable[[str], int]

    def __init__(self, rules: Sequence[RuleConfig]) -> None:
        self._any = _bits(rules, lambda rule: not rule.hosts)
        self._exact: dict[str, int] = {}
        self._suffixes: dict[str, int] = {}
        self._patterns: list[tuple[re.Pattern[str], int]] = []
        for n, rule in enumerate(rules):
            for text in rule.hosts:
                try:
                    self._add(text, 1 << n)
                except ValueError as error:
                    raise RuleError(n, rule, "hosts", error) from None
        self.bits = lru_cache(maxsize=CACHED)(self._find)

    def _add(self, text: str, bit: int) -> None:
        if len(text) > 1 and text[0] == text[-1] == "/":
            try:
                self._patterns.append((re.compile(text[1:-1], re.ASCII | re.IGNORECASE), bit))
            except re.error as error:
                raise ValueError(f"{text!r} is not a regular expression: {error}") from None
            return
        wild = text.startswith("*.")
        name = canonical(text[2:] if wild else text) if "*" not in text[wild:] else ""
        if not name or (wild and _is_address(name)):
            allowed = 'a name, an address, "*.example.com", or "/a regular expression/"'
            raise ValueError(f"{text!r}; allowed: {allowed}")
        table = self._suffixes if wild else self._exact
        table[name] = table.get(name, 0) | bit

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


def _is_address(name: str) -> bool:
    return ":" in name or (name[-1:].isdigit() and name.rpartition(".")[2].isdigit())


class _Ports:
    """The rules that match a port."""

    __slots__ = ("_any", "_ranges", "_single", "bits")

    bits: Callable[[int], int]

    def __init__(self, rules: Sequence[RuleConfig]) -> None:
        self._any = _bits(rules, lambda rule: not rule.ports)
        self._single: dict[int, int] = {}
        self._ranges: list[tuple[int, int, int]] = []
        for n, rule in enumerate(rules):
            for text in rule.ports:
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


class _Timed:
    """The rules that match now, by the local time of this machine; false if none has times."""

    __slots__ = ("_any", "_bits", "_minute", "_periods", "clock")

    def __init__(self, rules: Sequence[RuleConfig]) -> None:
        self.clock: Callable[[], float] = time.time
        self._any = _bits(rules, lambda rule: not rule.times)
        self._periods: list[tuple[Period, int]] = []
        for n, rule in enumerate(rules):
            for text in rule.times:
                try:
                    self._periods.append((parse_period(text), 1 << n))
                except ValueError as error:
                    raise RuleError(n, rule, "times", error) from None
        self._minute = -1
        self._bits = 0

    def __bool__(self) -> bool:
        return bool(self._periods)

    def now(self) -> int:
        minute = int(self.clock() // _MINUTE)
        if minute != self._minute:
            local = time.localtime(minute * _MINUTE)
            self._bits = self._at(local.tm_wday, local.tm_hour * 60 + local.tm_min)
            self._minute = minute
        return self._bits

    def _at(self, day: int, minute: int) -> int:
        found = self._any
        for period, bit in self._periods:
            if period.holds(day, minute):
                found |= bit
        return found

    def left(self) -> float:
        """Seconds to the next minute."""
        return _MINUTE - self.clock() % _MINUTE
