"""Ordered access rules: the first that matches decides.

A set of rules is an int: bit N stands for rule N. For each value of a request there is the set
of the rules that accept it. The rules that match are the intersection of these sets, and the
lowest bit of that is the first rule. All of it is cached, so a request like an earlier one costs
one look-up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

from spliceproxy.config import ANY_USER, RuleConfig
from spliceproxy.policy import conditions
from spliceproxy.policy.conditions import CACHED, RuleError
from spliceproxy.policy.decision import (
    REASONS,
    STATUSES,
    TLS_NAMES,
    TLS_REFUSABLE,
    check_reason,
    check_status,
)
from spliceproxy.policy.names import canonical
from spliceproxy.policy.networks import Place
from spliceproxy.policy.request import Request

ANSWERS = 1024
"""Sets of addresses for which a selection of rules remembers its answer."""

DEFAULT = "default"
"""The id of the answer if no rule matches."""

NO_NAME = "\0"
"""A user whom no rule names: no name has such a character."""

_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}").fullmatch


class Match(NamedTuple):
    """What decided: a rule's id or DEFAULT. ``reports``: the ids of the rules that only report
    and would have decided otherwise. ``status``: of the answer, if the request is denied; and
    ``reason``: what the rule itself says of that, "" for nothing."""

    allow: bool
    rule: str
    reports: tuple[str, ...] = ()
    status: int = 403
    reason: str = ""


class RuleSet:
    """Rules in order, and the answer where none matches. RuleError; ValueError for a
    ``default`` that is neither allow nor deny."""

    def __init__(self, rules: Sequence[RuleConfig], default: str = "allow") -> None:
        if default not in ("allow", "deny"):
            raise ValueError(f"default {default!r}; allowed: allow, deny")
        self._ids = [_identify(n, rule, rules) for n, rule in enumerate(rules)]
        self._matches = [
            Match(rule.action == "allow", name, status=rule.status or 403, reason=rule.reason)
            for rule, name in zip(rules, self._ids, strict=True)
        ]
        self._default = Match(default == "allow", DEFAULT)
        self._allow = conditions.bits(rules, lambda rule: rule.action == "allow")
        self._reports = conditions.bits(rules, lambda rule: rule.report_only)
        self._timed = conditions.Timed(rules)
        self.timed = bool(self._timed.periods)  # some look at the clock
        self._clients = conditions.Networks(rules, "clients")
        self._addresses = conditions.Networks(rules, "networks")
        # The rules that have no such condition: they match whatever the value is.
        self._any_address = self._addresses.any
        self._any_client = self._clients.any
        self._hosts = conditions.hosts(rules)
        self._ports = conditions.ports(rules)
        self._users = conditions.users(rules)
        self._named_users = {
            user for rule in rules for user in (*(rule.users or ()), *(rule.not_users or ()))
        } - {ANY_USER}
        self._methods, self._any_method = conditions.methods(rules)
        self._select = lru_cache(maxsize=CACHED)(self._selection)
        # Many hosts have the same rules.
        self._made = lru_cache(maxsize=CACHED)(partial(Selection, self))

    @property
    def actions(self) -> list[tuple[str, str]]:
        """Action and id of each rule, in their order."""
        return [("allow" if match.allow else "deny", match.rule) for match in self._matches]

    @property
    def repeat_for(self) -> float:
        """Seconds for which a decision holds: until the next minute if rules look at the
        clock, else infinite."""
        return self._timed.left() if self.timed else math.inf

    def of_client(self, client: str) -> int:
        """The rules that ask for networks of clients and match this one, one bit each: all that
        they see of it."""
        return self._clients.bits(client)

    def of_client_at(self, place: Place) -> int:
        """The same for an address that is parsed already."""
        return self._clients.bits_at(place)

    def select(
        self, matched: int, user: str, groups: frozenset[str], method: str, host: str, port: int
    ) -> Selection:
        """The rules that match but for the addresses. ``matched`` is what :meth:`of_client`
        says of the client; ``host`` is canonical."""
        minute = self._timed.minute() if self.timed else 0
        return self._select(matched, user, groups, method, host, port, minute)

    def kinds_of_users(
        self, groups_of: Callable[[str], frozenset[str]], members: Iterable[str]
    ) -> tuple[tuple[str, frozenset[str]], ...]:
        """Users and their groups, one for each way in which the rules tell users apart; the
        ``members`` of groups are among them."""
        named = [NO_NAME, *self._named_users, *members]
        found = {self._users(user, groups_of(user)): (user, groups_of(user)) for user in named}
        return tuple(found.values())

    def allows_one(
        self,
        users: Iterable[tuple[str, frozenset[str]]],
        matched: int,
        method: str,
        host: str,
        port: int,
        addresses: tuple[str, ...],
    ) -> bool:
        """Whether one of these users and groups may do what nobody may. Without addresses: whether
        there may be some to which it may go."""
        for user, groups in users:
            selection = self.select(matched, user, groups, method, host, port)
            match = selection.settled
            if match is None and addresses:
                match = selection.sift(addresses)[1]
            if match is None or match.allow:
                return True
        return False

    def decide(self, request: Request) -> Match:
        """The answer for a request, for the first of its addresses if it has any."""
        selection = self.select(
            self.of_client(request.client),
            request.user,
            request.groups,
            request.method,
            canonical(request.host) if request.host else "",
            request.port,
        )
        return selection.match(request.addresses[0] if request.addresses else "")

    def _selection(
        self,
        matched: int,
        user: str,
        groups: frozenset[str],
        method: str,
        host: str,
        port: int,
        minute: int,
    ) -> Selection:
        selected = (
            (matched | self._any_client)
            & self._users(user, groups)
            & self._methods.get(method, self._any_method)
            & self._hosts(host)
            & self._ports(port)
        )
        if self._timed.periods:
            selected &= self._timed.at(minute)
        return self._made(selected)

    def settle(self, selected: int) -> Match | None:
        """The answer of some rules, if it is the same for every address."""
        sure = selected & self._any_address & ~self._reports
        last = sure & -sure
        # Rules that depend on the address, before the first that does not.
        before = (last or 1 << len(self._ids)) - 1
        unsure = selected & ~self._any_address & ~self._reports & before
        if unsure:
            allow = bool(last & self._allow) if last else self._default.allow
            if unsure & (~self._allow if allow else self._allow):
                return None
        return self.first(selected & self._any_address)

    def report_later(self, selected: int) -> bool:
        """Whether some of these rules only report, and depend on the address."""
        return bool(selected & self._reports & ~self._any_address)

    def match(self, selected: int, address: str) -> Match:
        """The answer of some rules for one address, "" for none."""
        bits = self._addresses.bits(address) if address else 0
        return self.first(selected & (bits | self._any_address))

    def names(self, selected: int, address: str) -> tuple[str, ...]:
        """The ids of those of some rules that match for one address, "" for none."""
        bits = self._addresses.bits(address) if address else 0
        selected &= bits | self._any_address
        return tuple(name for n, name in enumerate(self._ids) if selected >> n & 1)

    def first(self, matching: int) -> Match:
        """The answer of the first of some rules."""
        deciding = matching & ~self._reports
        first = deciding & -deciding
        answer = self._matches[first.bit_length() - 1] if first else self._default
        reports = matching & self._reports & (first - 1 if first else -1)
        reports &= ~self._allow if answer.allow else self._allow
        if reports:
            names = tuple(name for n, name in enumerate(self._ids) if reports >> n & 1)
            answer = answer._replace(reports=names)
        return answer


class Selection:
    """The rules that match a request, except for the addresses of its destination.

    ``settled`` is their answer if it is the same for every address, else None. So a name that
    is denied anyway is not looked up: a DNS query carries data out, too. ``reports_later``:
    a rule that only reports depends on the address, so that its report is not in ``settled``.
    """

    __slots__ = ("_rules", "_selected", "reports_later", "settled", "sift")

    sift: Callable[[tuple[str, ...]], tuple[tuple[str, ...], Match]]
    """Returns the addresses that are allowed, in the same order, and the match for the first of
    them; if none is allowed, the match for the first of all. There is at least one."""

    def __init__(self, rules: RuleSet, selected: int) -> None:
        self._rules = rules
        self._selected = selected
        self.sift = lru_cache(maxsize=ANSWERS)(self._sift)
        self.settled = rules.settle(selected)
        self.reports_later = rules.report_later(selected)

    def match(self, address: str) -> Match:
        """The answer for one address, "" for none."""
        return self._rules.match(self._selected, address)

    def names(self, address: str) -> tuple[str, ...]:
        """The ids of all rules that match for one address, "" for none: of those that only
        report, too, and of those behind the one that decides."""
        return self._rules.names(self._selected, address)

    def _sift(self, addresses: tuple[str, ...]) -> tuple[tuple[str, ...], Match]:
        matches = [(address, self.match(address)) for address in addresses]
        passed = tuple(address for address, match in matches if match.allow)
        decisive = next((match for _, match in matches if match.allow), matches[0][1])
        return passed, decisive


def _identify(index: int, rule: RuleConfig, rules: Sequence[RuleConfig]) -> str:
    """The rule's id, its number where it has none."""
    name = rule.id or str(index + 1)
    if not _ID(name):
        allowed = "up to 64 letters, digits, and . _ : -"
        raise RuleError(index, rule, "id", f"{name!r}; allowed: {allowed}")
    if name == DEFAULT:
        raise RuleError(index, rule, "id", f"{name!r} stands for the answer of no rule")
    if any(other.id == name for other in rules[:index]):
        raise RuleError(index, rule, "id", f"{name!r} is another rule's already")
    if rule.action not in ("allow", "deny"):
        raise RuleError(index, rule, "action", f"{rule.action!r}; allowed: allow, deny")
    _check_answer(index, rule)
    _check_inside(index, rule)
    return name


def _check_inside(index: int, rule: RuleConfig) -> None:
    """What a rule asks of the name inside TLS."""
    for key, value in (("tls_name", rule.tls_name), ("tls_refuse", rule.tls_refuse or None)):
        if value is not None and (rule.action != "allow" or rule.report_only):
            shown = key.replace("_", "-")
            raise RuleError(index, rule, key, f"only a rule that allows can have {shown}")
    if rule.tls_name not in (None, *TLS_NAMES):
        allowed = ", ".join(TLS_NAMES)
        raise RuleError(index, rule, "tls_name", f"{rule.tls_name!r}; allowed: {allowed}")
    for word in rule.tls_refuse:
        if word not in TLS_REFUSABLE:
            allowed = ", ".join(TLS_REFUSABLE)
            raise RuleError(index, rule, "tls_refuse", f"{word!r}; allowed: {allowed}")
    if rule.tls_refuse and rule.tls_name != "check":
        detail = 'it adds to tls-name = "check", which this rule does not have'
        raise RuleError(index, rule, "tls_refuse", detail)


def _check_answer(index: int, rule: RuleConfig) -> None:
    """What a rule says of its refusals."""
    for key, value, check, allowed in (
        ("status", rule.status, check_status, STATUSES),
        ("reason", rule.reason or None, check_reason, REASONS),
    ):
        if value is None:
            continue
        if rule.action != "deny":
            raise RuleError(index, rule, key, f"only a rule that denies can have a {key}")
        try:
            check(value)
        except (TypeError, ValueError):
            raise RuleError(index, rule, key, f"{value!r}; allowed: {allowed}") from None
