"""http_access: its lines as rules, in their order."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spliceproxy.config import ANY_USER
from spliceproxy.policy.decision import check_reason
from spliceproxy.settings.imported import CLOSED, Report
from spliceproxy.settings.squid.acls import Acls
from spliceproxy.settings.squid.reading import Statement, number_in
from spliceproxy.settings.squid.terms import Acl, Term, TooMany, all_of, conjunction

_ID = re.compile(r"[^A-Za-z0-9._-]+")
_KEYS = ("clients", "users", "methods", "hosts", "networks", "ports", "times")


@dataclass(frozen=True)
class Rule:
    """A table of a rule, and the comment above it."""

    table: dict[str, Any]
    above: tuple[str, ...]


class Line:
    """``allow`` or ``deny`` with the names of acls, of which all must match."""

    def __init__(self, statement: Statement, allow: bool, names: tuple[str, ...]) -> None:
        self.statement = statement
        self.allow = allow
        self.names = names

    def terms(self, acls: Acls) -> tuple[Term, ...]:
        """The alternatives of what it is about. TooMany."""
        return conjunction(acl.yes for acl in self._each(acls))

    def acl(self, acls: Acls) -> Acl:
        """Where it matches, and where it does not. TooMany."""
        return all_of(self._each(acls))

    def _each(self, acls: Acls) -> Iterator[Acl]:
        for name in self.names:
            found = acls.get(name.removeprefix("!"))
            yield found.inverse if name.startswith("!") else found

    @property
    def text(self) -> str:
        return f"{self.statement.name}{self.statement.text}".strip()


def conditions(term: Term) -> dict[str, Any]:
    """Its keys in a table of a rule, or of a limit."""
    table: dict[str, Any] = {}
    for key in _KEYS:
        for name, values in ((key, term.values), (f"not-{key}", term.excepted)):
            if values.get(key):
                table[name] = [_written(key, value) for value in values[key]]
    return table


def line_of(
    statement: Statement, words: tuple[str, ...], acls: Acls, report: Report
) -> Line | None:
    """What squid makes of a line of access, None where it skips it."""
    report.about = statement
    if not words or words[0] not in ("allow", "deny"):
        report.note("squid skips it: neither allow nor deny")
        return None
    if len(words) == 1:
        report.note("squid skips it: no acl")
        return None
    for name in words[1:]:
        if name[0] in "\"'":
            report.refuse(f"{name}: names of acls in a file have no counterpart")
        elif not acls.knows(name.removeprefix("!")):
            report.refuse(f"there is no acl {name.removeprefix('!')}; squid does not start with it")
    return None if report.refused else Line(statement, words[0] == "allow", words[1:])


class Access:
    """The lines of http_access, and what they become."""

    def __init__(self, report: Report, acls: Acls) -> None:
        self._report = report
        self._acls = acls
        self._lines: list[Line] = []
        self._pages: dict[str, tuple[Statement, str]] = {}
        self._ids: dict[str, int] = {}
        self.limits: list[Rule] = []
        self.folder = "/usr/share/squid/errors/en"  # of error pages

    def take(self, statement: Statement) -> None:
        found = line_of(statement, statement.words, self._acls, self._report)
        if found is not None:
            self._lines.append(found)

    def take_page(self, statement: Statement) -> None:
        """deny_info: of what a line denies whose last acl is this one."""
        page, *names = (*statement.words, "")
        for name in names:
            if name:
                self._pages[name.lower()] = statement, page

    @property
    def default(self) -> str:
        """The opposite of the last line."""
        return "deny" if not self._lines or self._lines[-1].allow else "allow"

    def rules(self) -> Iterator[Rule]:
        for place, line in enumerate(self._lines):
            self._report.about = line.statement
            if limits := self._limits_of(line):
                self.limits += limits
                continue
            terms = self._terms(line)
            found = list(self._rules_of(line, terms))
            if not terms:
                self._report.note("it never matches, or allows what is never asked for: left out")
            behind = self._lines[place + 1 :]
            lenient = any(one.allow for one in behind) or self.default == "allow"
            if not line.allow or lenient or any(name.startswith("!") for name in line.names):
                questions = list(self._questions(line))
                yield from questions if _said(questions) != _said(found) else ()
            yield from found

    def _limits_of(self, line: Line) -> list[Rule]:
        """What becomes of a line that denies clients with too many connections."""
        most = [self._acls.most(name) for name in line.names]
        if line.allow or len([one for one in most if one]) != 1:
            return []
        names = tuple(name for name, one in zip(line.names, most, strict=True) if not one)
        terms = self._terms(Line(line.statement, False, names))
        if any(term.opaque for term in terms):
            return []
        if line is not self._lines[0]:
            self._report.note("the limit is for all requests, those of the lines above, too")
        by = {"by": "client", "prefix6": 128}
        found = []
        for term in terms:
            table = self._table(Line(line.statement, False, names[:0]), term)
            del table["action"]
            table = {"id": table.pop("id"), **by, **table, "connections": sum(most)}
            found.append(Rule(table, (line.text,)))
        return found

    def _terms(self, line: Line) -> tuple[Term, ...]:
        try:
            return line.terms(self._acls)
        except TooMany as error:
            return (Term(opaque=(str(error),)),)

    def _questions(self, line: Line) -> Iterator[Rule]:
        """squid reads a line from the left, and asks for a password as soon as it comes to a user:
        nobody gets past that. Where nothing behind the line allows anything, that is so anyway."""
        for place, name in enumerate(line.names):
            if self._acls.asks(name.removeprefix("!")):
                before = Line(line.statement, False, line.names[:place])
                for term in self._terms(before):
                    excepted = {**term.excepted, "users": (ANY_USER,)}
                    if "users" not in term.values:
                        nobody = Term(term.values, excepted, term.opaque)
                        above = f"{line.text}: it asks for users"
                        yield Rule(self._table(before, nobody), (above,))
                return

    def _rules_of(self, line: Line, terms: tuple[Term, ...]) -> Iterator[Rule]:
        """What allows must be sure; what denies may be more than squid denies."""
        told: set[str] = set()
        for term in terms:
            for why in term.opaque:
                if why not in told:
                    self._tell(line, why)
                    told.add(why)
            if term.opaque and line.allow:
                continue
            table = self._table(line, term)
            above = [line.text]
            if term.opaque:
                above += [f"It denies more than squid: {why}." for why in term.opaque]
                above.append("Settle that, and remove this rule or make it narrower.")
            yield Rule(table, tuple(above))

    def _tell(self, line: Line, why: str) -> None:
        if line.allow:
            self._report.miss(f"{why}; what it alone allows is denied")
        else:
            self._report.miss(f"{why}; a rule {CLOSED}-… denies all that it may be about")

    def _table(self, line: Line, term: Term) -> dict[str, Any]:
        table: dict[str, Any] = {
            "id": self._id(line, closed=bool(term.opaque)),
            "action": "allow" if line.allow else "deny",
        }
        table |= conditions(term)
        if not line.allow and not term.opaque:
            table |= self._page(line)
        return table

    def _id(self, line: Line, *, closed: bool) -> str:
        """Its file and line, so that it is found there."""
        name = _ID.sub("-", os.path.basename(line.statement.path).removesuffix(".conf"))[:40]
        found = f"{f'{CLOSED}-' if closed else ''}{name}-{line.statement.line}"
        self._ids[found] = number = self._ids.get(found, 0) + 1
        return found if number == 1 else f"{found}.{number}"

    def _page(self, line: Line) -> dict[str, Any]:
        """What deny_info says of its last acl."""
        if not line.names:
            return {}
        statement, page = self._pages.get(line.names[-1].removeprefix("!").lower(), (None, ""))
        if statement is None:
            return {}
        before, self._report.about = self._report.about, statement
        found = _answer(page, self.folder, self._report)
        self._report.about = before
        return found


def _answer(page: str, folder: str, report: Report) -> dict[str, Any]:
    """Status and reason of a refusal, as deny_info names its page."""
    code, colon, name = page.partition(":")
    found: dict[str, Any] = {}
    if colon and code.isdigit():
        status = number_in(code)
        if 400 <= status < 600 and status != 407:
            found["status"] = status
        else:
            report.note(f"{page}: nobody is sent elsewhere; what is denied gets 403")
            return {}
    elif colon or page == "TCP_RESET":
        report.note(f"{page}: what is denied gets 403")
        return {}
    title = _title(os.path.join(folder, name if colon else page))
    if title:
        found["reason"] = title
    report.note(f"{page}: pages are the proxy's own{', with its title as reason' * bool(title)}")
    return found


def _title(path: str) -> str:
    """Of an error page, "" where it has none that can be a reason."""
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, ValueError):
        return ""
    match = re.search(r"<title>([^<%]+)</title>", text, re.IGNORECASE)
    try:
        return check_reason(" ".join(match[1].split())) if match else ""
    except ValueError:
        return ""


def _written(key: str, value: str) -> str | int:
    return int(value) if key == "ports" and value.isdigit() else value


def _said(rules: list[Rule]) -> list[dict[str, Any]]:
    """Without their ids."""
    return [{**rule.table, "id": ""} for rule in rules]
