"""What a line of access says, as alternatives of conditions that a rule can have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product

from spliceproxy.config import ANY_USER
from spliceproxy.policy.hosts import parse_pattern
from spliceproxy.policy.listfile import spelled_out
from spliceproxy.policy.networks import parse_network

Values = tuple[str, ...]

MOST = 64
"""Alternatives of a line at most."""


@dataclass(frozen=True)
class Term:
    """Holds where each of its conditions does. ``values`` are by key of a rule; of ``excepted``
    none may match. ``opaque``: what else must hold, and no rule can say."""

    values: Mapping[str, Values] = field(default_factory=dict)
    excepted: Mapping[str, Values] = field(default_factory=dict)
    opaque: tuple[str, ...] = ()


class NotStarted(ValueError):
    """squid does not start with it."""


class TooMany(ValueError):
    """More alternatives than MOST."""


@dataclass(frozen=True)
class Acl:
    """Alternatives: where it matches, and where it does not. None of them is never, and one
    without conditions is always."""

    yes: tuple[Term, ...]
    no: tuple[Term, ...]

    @property
    def inverse(self) -> Acl:
        return Acl(self.no, self.yes)


ALWAYS = Acl((Term(),), ())
NEVER = ALWAYS.inverse


def listed(key: str, values: Iterable[str]) -> Acl:
    """One of these values matches."""
    found = tuple(dict.fromkeys(values))
    if not any(True for _ in spelled_out(found)):
        return NEVER
    return Acl((Term({key: found}),), (Term(excepted={key: found}),))


def unknown(why: str) -> Acl:
    """No rule can say whether it matches."""
    term = Term(opaque=(why,))
    return Acl((term,), (term,))


def split(key: str, value: str, inside: Acl, outside: Acl) -> Acl:
    """One thing where a condition holds, and another where it does not."""

    def both(within: tuple[Term, ...], without: tuple[Term, ...]) -> tuple[Term, ...]:
        one, other = listed(key, [value]).yes, listed(key, [value]).no
        return (*conjunction([one, within]), *conjunction([other, without]))

    return Acl(both(inside.yes, outside.yes), both(inside.no, outside.no))


def all_of(acls: Iterable[Acl]) -> Acl:
    found = list(acls)
    return Acl(
        conjunction([one.yes for one in found]),
        tuple(term for one in found for term in one.no),
    )


def any_of(acls: Iterable[Acl]) -> Acl:
    return all_of(one.inverse for one in acls).inverse


def conjunction(parts: Iterable[tuple[Term, ...]]) -> tuple[Term, ...]:
    """Where one alternative of each part holds. TooMany."""
    found: tuple[Term, ...] = (Term(),)
    for part in parts:
        merged = (_merged(one, other) for one, other in product(found, part))
        found = _distinct(term for term in merged if term is not None)
        if len(found) > MOST:
            raise TooMany(f"it has more than {MOST} alternatives")
    return found


def _distinct(terms: Iterable[Term]) -> tuple[Term, ...]:
    found: list[Term] = []
    for term in terms:
        if term not in found:
            found.append(term)
    return tuple(found)


def _merged(one: Term, other: Term) -> Term | None:
    """Where both hold; None: nowhere."""
    values = dict(one.values)
    opaque = dict.fromkeys((*one.opaque, *other.opaque))
    for key, those in other.values.items():
        if key not in values or values[key] == those:
            values[key] = those
        elif key in _MEET:
            values[key] = _MEET[key](values[key], those)
            if not values[key]:
                return None
        else:  # the first alone is more than both
            opaque[f"a rule has {key} once, and both would have to match"] = None
    excepted = {
        key: (*one.excepted.get(key, ()), *other.excepted.get(key, ()))
        for key in (*one.excepted, *other.excepted)
    }
    excepted = {key: tuple(dict.fromkeys(those)) for key, those in excepted.items()}
    for key in values.keys() & excepted.keys():
        if key != "networks" and set(values[key]) <= set(excepted[key]):
            return None
    if ANY_USER in excepted.get("users", ()) and "users" in values:
        return None
    return Term(values, excepted, tuple(opaque))


# ---- both of two conditions on the same key ----------------------------------------------------


def _clients(one: Values, other: Values) -> Values:
    """Of two networks that overlap one is within the other."""
    found = []
    for first, second in product(spelled_out(one), spelled_out(other)):
        if _within(first, second):
            found.append(first)
        elif _within(second, first):
            found.append(second)
    return tuple(dict.fromkeys(found))


def _within(one: str, other: str) -> bool:
    smaller, larger = parse_network(one), parse_network(other)
    if smaller.version != larger.version or smaller.prefixlen < larger.prefixlen:
        return False
    return smaller[0] in larger


def _ports(one: Values, other: Values) -> Values:
    found = []
    for first, second in product(one, other):
        begin = max(int(one_of.partition("-")[0]) for one_of in (first, second))
        end = min(int(one_of.rpartition("-")[2]) for one_of in (first, second))
        found += [f"{begin}-{end}" if begin < end else str(begin)] if begin <= end else []
    return tuple(dict.fromkeys(found))


def _methods(one: Values, other: Values) -> Values:
    return tuple(value for value in one if value in other)


def _users(one: Values, other: Values) -> Values:
    if ANY_USER in one:
        return other
    return one if ANY_USER in other else _methods(one, other)


def _hosts(one: Values, other: Values) -> Values:
    pairs = product(spelled_out(one), spelled_out(other))
    return tuple(dict.fromkeys(both for pair in pairs if (both := _host(*pair))))


def _host(one: str, other: str) -> str:
    """The pattern of the hosts that both match, "" for none."""
    a, b = parse_pattern(one), parse_pattern(other)
    if a.regex is not None or b.regex is not None:
        return f"/(?=(?:{as_regex(one)})$)(?:{as_regex(other)})/"
    if a.name == b.name:
        if a.itself and b.itself:
            return f".{a.name}" if a.below and b.below else a.name
        return f"*.{a.name}" if a.below and b.below else ""
    if b.below and a.name.endswith(f".{b.name}"):
        return one
    return other if a.below and b.name.endswith(f".{a.name}") else ""


def as_regex(pattern: str) -> str:
    """The expression that matches as the whole pattern does."""
    found = parse_pattern(pattern)
    if found.regex is not None:
        return found.regex.pattern
    name = re.escape(found.name)
    if found.below:
        return f"(?:.+\\.)?{name}" if found.itself else f".+\\.{name}"
    return name


_MEET = {
    "clients": _clients,
    "hosts": _hosts,
    "methods": _methods,
    "ports": _ports,
    "users": _users,
}
