"""cache_peer and what says which of them are taken, as routes and parents.

squid asks one list after the other: always_direct, never_direct, and who may use each peer. A route
stands for each combination of their lines, in the order in which squid would come to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Generic, TypeVar

from spliceproxy.config import DIRECT, REFUSE
from spliceproxy.settings.imported import CLOSED, Report
from spliceproxy.settings.routing import RESERVED
from spliceproxy.settings.squid.access import Line, line_of
from spliceproxy.settings.squid.acls import Acls
from spliceproxy.settings.squid.reading import Statement, number_in
from spliceproxy.settings.squid.terms import MOST, Term, TooMany, conjunction
from spliceproxy.settings.values import ip_of, name_of, port_of

T = TypeVar("T")

_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_KEYS = ("hosts", "networks", "ports", "users")
_PICKS = {"round-robin": "round-robin", "carp": "hash", "sourcehash": "hash", "userhash": "hash"}
_MAYBE = (
    "squid sends CONNECT and much else directly, and the rest by the peers, where never_direct "
    "does not say that all goes by them"
)


@dataclass
class _Peer:
    name: str
    parent: dict[str, Any]
    pick: str = ""
    lines: list[Line] = field(default_factory=list)


@dataclass(frozen=True)
class Choice(Generic[T]):
    """What is said where one of the terms holds."""

    said: T
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Route:
    table: dict[str, Any]
    above: tuple[str, ...]


class Peers:
    def __init__(self, report: Report, acls: Acls) -> None:
        self._report = report
        self._acls = acls
        self._peers: dict[str, _Peer] = {}
        self._always: list[Line] = []
        self._never: list[Line] = []
        self._sources: list[tuple[str, Statement]] = []

    # ---- directives --------------------------------------------------------------------

    def take_peer(self, statement: Statement) -> None:
        host, kind, port, _, *options = (*statement.words, *("",) * 4)
        options = [one for one in options if one]
        named = dict(one.partition("=")[::2] for one in options)
        name = _NAME.sub("-", named.get("name", host))[:64]
        if kind in ("sibling", "multicast") and len(statement.words) > 3:
            self._report.note("not needed: nothing is cached, so siblings have nothing to give")
            return
        if (
            kind != "parent"
            or len(statement.words) < 4
            or not (ip_of(host) or ip_of(f"[{host}]") or name_of(host))
        ):
            self._report.refuse("not HOST parent PORT PORT; squid does not start with it")
            return
        if "originserver" in named or port_of(port) < 1 or name in RESERVED or name in self._peers:
            self._report.close("this is not a parent proxy that a [parent.NAME] could be")
            return
        encrypted = any(one.startswith(("ssl", "tls")) for one in options)
        where = f"[{host}]" if ":" in host else host
        parent: dict[str, Any] = {"url": f"http{'s' * encrypted}://{where}:{port}"}
        if number_in(named.get("max-conn", "")):
            parent["max-connections"] = number_in(named["max-conn"])
        if "login" in named:
            key = f'"{name}"' if "." in name else name
            self._report.miss(
                "login: put USER:PASSWORD into a file, and its name as auth-file into "
                f"[parent.{key}]; until then the parent refuses all"
            )
        pick = next((_PICKS[one] for one in options if one in _PICKS), "")
        self._peers[name] = _Peer(name, parent, pick)

    def take_access(self, statement: Statement) -> None:
        name, *words = (*statement.words, "")
        peer = self._peers.get(_NAME.sub("-", name)[:64])
        line = line_of(statement, tuple(word for word in words if word), self._acls, self._report)
        if peer is not None and line is not None:
            peer.lines.append(line)
        elif peer is None:
            self._report.note("not needed: no parent has this name")

    def take_direct(self, statement: Statement) -> None:
        line = line_of(statement, statement.words, self._acls, self._report)
        if line is not None:
            (self._always if statement.name == "always_direct" else self._never).append(line)

    def take_source(self, statement: Statement) -> None:
        address, *names = (*statement.words, "")
        found = ip_of(address) or ip_of(f"[{address}]")
        if not found or any(not self._acls.knows(one.removeprefix("!")) for one in names if one):
            self._report.refuse(f"{address}: squid does not start with it")
            return
        self._sources.append((found.strip("[]"), statement))

    # ---- what they become --------------------------------------------------------------

    @property
    def parents(self) -> dict[str, dict[str, Any]]:
        return {peer.name: peer.parent for peer in self._peers.values()}

    def routes(self) -> list[Route]:
        if not (self._peers or self._never or self._sources):
            return []
        try:
            found = list(self._routes())
        except TooMany as error:
            self._report.about = None
            self._report.close(f"the ways out: {error}")
            return []
        while found and found[-1].table == {"to": DIRECT}:  # as without it
            found.pop()
        return found

    def _routes(self) -> Iterator[Route]:
        ways = list(product(self._ways(), self._from()))
        if len(ways) > MOST:
            raise TooMany(f"more than {MOST} combinations of lines")
        for way, source in ways:
            for term in conjunction([way.terms, source.terms]):
                yield self._route(way.said, source.said, term)
                if term == Term():
                    return  # nothing comes behind it

    def _ways(self) -> Iterator[Choice[list[str] | None]]:
        """Names of parents, DIRECT, REFUSE; None where it cannot be said."""
        by_peer = [self._choices(peer.lines, none=True) for peer in self._peers.values()]
        for always in self._choices(self._always):
            if always.said:
                yield Choice([DIRECT], always.terms)
                continue
            for never, *allowed in product(self._choices(self._never), *by_peer):
                names = [name for name, one in zip(self._peers, allowed, strict=True) if one.said]
                to = (names or [REFUSE]) if never.said else None if names else [DIRECT]
                parts = (always, never, *allowed)
                yield Choice(to, conjunction(choice.terms for choice in parts))

    def _choices(self, lines: Sequence[Line], *, none: bool = False) -> list[Choice[bool]]:
        """The lines, and the opposite of the last one; ``none`` is said without any."""
        default = not lines[-1].allow if lines else none
        always = (Term(),)
        found = []
        for line in lines:
            only = line.names[0] if len(line.names) == 1 else ""
            if line is lines[-1] and only.startswith("!"):  # the opposite, the other way round
                found.append(Choice(default, self._acls.get(only[1:]).yes))
                default = line.allow
            else:
                found.append(Choice(line.allow, line.terms(self._acls)))
        return [*found, Choice(default, always)]

    def _from(self) -> list[Choice[str]]:
        found = []
        for address, statement in self._sources:
            line = Line(statement, True, statement.words[1:])
            found.append(Choice(address, line.terms(self._acls)))
        return [*found, Choice("", (Term(),))]

    def _route(self, to: list[str] | None, source: str, term: Term) -> Route:
        unsaid = [key for key in term.values if key not in _KEYS]
        unsaid += [f"not-{key}" for key in term.excepted]
        why = list(term.opaque)
        if unsaid:
            why.append(f"a route cannot say {', '.join(unsaid)}")
        if to is None:
            why.append(_MAYBE)
        refused = bool(why) or to is None
        table: dict[str, Any] = {"to": REFUSE if refused else _alone(to or [])}
        picks = {peer.pick for name, peer in self._peers.items() if name in (to or ())}
        if len(picks) == 1 and isinstance(table["to"], list) and "" not in picks:
            table["pick"] = picks.pop()
        for key in _KEYS:
            if key in term.values:
                table[key] = [
                    int(value) if key == "ports" and value.isdigit() else value
                    for value in term.values[key]
                ]
        if source and table["to"] != REFUSE:
            table["source-address"] = source
        if why:
            self._report.about = None
            self._report.miss(f"{'; '.join(why)}: a route to {REFUSE} stands for it")
        above = (f"{CLOSED}: it refuses what squid sends on its way:", *why) if why else ()
        return Route(table, above)


def _alone(names: list[str]) -> str | list[str]:
    return names[0] if len(names) == 1 else names
