"""The delay pools of a squid.conf: what their buckets let through in a second, as limits.

A request is in the first pool whose delay_access allows it. squid lets the size of a bucket through
at once, and then its rate; a limit has the rate alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from spliceproxy.settings.imported import Report
from spliceproxy.settings.squid.access import Line, Rule, conditions, line_of
from spliceproxy.settings.squid.acls import Acls
from spliceproxy.settings.squid.auth import Auth
from spliceproxy.settings.squid.reading import Statement, number_in
from spliceproxy.settings.squid.terms import NEVER, Acl, Term, TooMany, all_of, any_of
from spliceproxy.sizes import LEAST

_RATE = re.compile(r"\+?([0-9]{1,18})", re.ASCII).fullmatch
_RATE_MOST = 2**31 - 1  # squid keeps it in an int

_CLIENTS: dict[str, Any] = {"by": "client", "prefix6": 128}
_BUCKETS: dict[str, dict[str, Any]] = {
    "": {"by": "total"},
    "-networks": {"by": "client", "prefix4": 24},
    "-clients": _CLIENTS,
    "-users": {"by": "user"},
}
"""What the buckets of a pool count by, by what is behind its name in the id of a limit."""

_CLASSES = (
    ("",),
    ("", "-clients"),
    ("", "-networks", "-clients"),
    ("", "-networks", "-clients", "-users"),
)
"""The buckets of each class from 1 on, in the order of delay_parameters. Class 5 has one for each
tag, which only a helper of squid's gives."""


@dataclass
class _Pool:
    about: Statement
    buckets: tuple[str, ...]
    rates: dict[str, int] = field(default_factory=dict)  # bytes per second
    written: str = ""
    lines: list[Line] = field(default_factory=list)


class Delays:
    """The pools of delay_pools, or with ``clients`` those of client_delay_pools, which have one
    bucket for each client."""

    def __init__(self, report: Report, acls: Acls, auth: Auth, *, clients: bool = False) -> None:
        self._report = report
        self._acls = acls
        self._auth = auth
        self._clients = clients
        self._count = 0
        self._pools: dict[int, _Pool] = {}
        self._tagged: set[int] = set()  # of a class without a counterpart, told once

    def take_count(self, statement: Statement) -> None:
        self._count = number_in(" ".join(statement.words[:1]))
        if self._clients:
            self._pools = {
                number: _Pool(statement, ("-clients",)) for number in range(1, self._count + 1)
            }

    def take_class(self, statement: Statement) -> None:
        number, kind = (number_in(word) for word in (*statement.words, "", "")[:2])
        if not 1 <= number <= self._count:
            self._report.note("squid skips it: there are not so many pools")
        elif kind == len(_CLASSES) + 1:
            self._report.close("tags, which a helper of squid's gives, have no counterpart")
            self._tagged.add(number)
        elif not 1 <= kind <= len(_CLASSES):
            self._report.refuse(f"class {kind}: squid does not start with it")
        else:
            self._pools[number] = _Pool(statement, _CLASSES[kind - 1])

    def take_parameters(self, statement: Statement) -> None:
        """``restore/maximum`` of each bucket, or with ``clients`` two words. A negative rate is
        none, and so is the word."""
        number, *words = (*statement.words, "")
        pool = self._pool(number)
        if pool is None:
            return
        pool.about, pool.written = statement, f"{statement.name}{statement.text}"
        pool.rates = {}
        given = [word.partition("/")[0] for word in words if word]
        for bucket, rate in zip(pool.buckets, given, strict=False):
            if rate.startswith("-") or (rate == "none" and not self._clients):
                continue
            match = _RATE(rate)
            if match is None:
                self._report.refuse(f"{rate}: squid does not start with it")
            elif int(match[1]) > _RATE_MOST:
                self._report.close(f"{rate}: squid makes another number of it")
            elif int(match[1]) < LEAST:
                self._report.close(f"{rate}: a rate is at least {LEAST} bytes in a second here")
            else:
                pool.rates[bucket] = int(match[1])
        if len(given) < len(pool.buckets):
            self._report.refuse("there is a rate for each bucket; squid does not start with it")

    def take_access(self, statement: Statement) -> None:
        number, *words = (*statement.words, "")
        pool = self._pool(number)
        line = line_of(statement, tuple(word for word in words if word), self._acls, self._report)
        if pool is not None and line is not None:
            pool.lines.append(line)

    def _pool(self, word: str) -> _Pool | None:
        number = number_in(word)
        pool = self._pools.get(number)
        if pool is None and number not in self._tagged:
            self._report.note("squid skips it: the pool has no class")
        return pool

    # ---- what they become ----------------------------------------------------------------------

    def limits(self) -> Iterator[Rule]:
        taken: Acl = NEVER
        for number, pool in sorted(self._pools.items()):
            self._report.about = pool.about
            try:
                mine = self._within(pool)
                terms = all_of([mine, taken.inverse]).yes
                taken = any_of([taken, mine])
            except TooMany as error:
                self._report.close(f"who is in the pool: {error}")
                return
            yield from self._of(number, pool, terms)

    def _within(self, pool: _Pool) -> Acl:
        """Where delay_access allows: the first line that matches says so, and behind them the
        opposite of the last one."""
        found: list[Acl] = []
        before: Acl = NEVER
        for line in pool.lines:
            matches = line.acl(self._acls)
            if line.allow:
                found.append(all_of([matches, before.inverse]))
            before = any_of([before, matches])
        if pool.lines and not pool.lines[-1].allow:
            found.append(before.inverse)
        return any_of(found)

    def _of(self, number: int, pool: _Pool, terms: tuple[Term, ...]) -> Iterator[Rule]:
        rates = dict(pool.rates)
        if "-users" in rates and self._auth.htpasswd is None:
            self._report.note("nobody is a user here, so there is no limit for each of them")
            del rates["-users"]
        if not rates or not terms:
            return
        self._report.note(
            "a limit has the rate, and not the size of a bucket, which squid lets through at once"
        )
        if len(terms) > 1:
            self._report.note(f"it is {len(terms)} limits, each of which counts by itself")
        told = dict.fromkeys(why for term in terms for why in term.opaque)
        for why in told:
            self._report.note(f"{why}, so the limit holds for more than the pool")
        name = "client-delay-pool" if self._clients else "delay-pool"
        for place, term in enumerate(terms, 1):
            which = f"{name}-{number}" if place == 1 else f"{name}-{number}.{place}"
            for bucket, rate in rates.items():
                table = {"id": f"{which}{bucket}", **_BUCKETS[bucket], **conditions(term)}
                yield Rule({**table, "rate-out": rate}, (pool.written,))
