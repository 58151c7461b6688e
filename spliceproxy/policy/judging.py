"""What the rules and the guard say to the addresses of one request."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from spliceproxy.config import PolicyConfig
from spliceproxy.errors import Failure
from spliceproxy.messages import log
from spliceproxy.policy import refusals
from spliceproxy.policy.guard import Check, Guard
from spliceproxy.policy.rules import Match, Selection
from spliceproxy.policy.standing import Standing
from spliceproxy.policy.verdict import Head, Notes
from spliceproxy.policy.witness import Witness

REPEAT = 60.0
"""Seconds for which a decision may be repeated at most. Within this time a name's new addresses
are noticed, and what the rules say to them."""


class Case(NamedTuple):
    """A request that is decided: what was asked, the host in the spelling of the rules (``name``),
    and the rules that match except for the address. ``selected`` is None if the rules have
    decided already, or there are none."""

    client: Standing
    head: Head
    host: str
    port: int
    notes: Notes
    own: bool
    name: str
    selected: Selection | None


class Judge:
    """Of one policy. ``witness`` may be None. ``report`` is told the id of a rule that only
    reports, once for each request that it would have decided otherwise."""

    __slots__ = ("_enforce", "_guard", "_report", "_witness", "challenge")

    challenge: Callable[[Case, tuple[str, ...]], Failure | None] | None
    """What asks a client that is nobody for a password, where the rules refuse it; and None for a
    client that they would refuse as any user."""

    def __init__(
        self, policy: PolicyConfig, witness: Witness | None, report: Callable[[str], None]
    ) -> None:
        """ValueError for settings that make no sense."""
        guard = Guard(policy.guard, policy.guard_allow, policy.guard_deny)
        self._guard = guard if policy.guard != "off" or policy.guard_deny else None
        self._enforce = not policy.report_only
        self._witness = witness
        self._report = report
        self.challenge = None

    @property
    def check(self) -> Check | None:
        """All that :meth:`sift` does where no rule has been selected and nobody looks on; None:
        nothing."""
        return None if self._guard is None else self._guard.check

    def settle(self, case: Case, selected: Selection) -> float | None:
        """The seconds as :meth:`apply` returns them, if what the rules say is the same for every
        address, and else None. Denied. For a report alone no name is looked up."""
        match = selected.settled
        if match is None or (selected.reports_later and not (self._enforce and not match.allow)):
            return None
        return self.apply(case, selected, match, ())

    def sift(
        self, case: Case, addresses: tuple[str, ...], *, own: bool
    ) -> tuple[tuple[str, ...], float]:
        """The addresses that the rules and the guard allow, and the seconds as :meth:`apply`
        returns them. Denied if no address is left. ``own``: the guard is not asked."""
        holds = REPEAT
        selected = case.selected
        if selected is not None:
            passed, match = selected.sift(addresses)
            holds = self.apply(case, selected, match, addresses)
            addresses = passed or addresses  # denied, and only reported
        if own or self._guard is None:
            if self._witness is not None:
                self._witness.guarded(None, addresses, addresses)
            return addresses, holds
        allowed, fault = self._guard.check(addresses, case.client.local)
        if self._witness is not None:
            self._witness.guarded(self._guard, addresses, allowed)
        if not allowed:
            raise refusals.prohibited(fault)
        return allowed, holds

    def apply(
        self, case: Case, selected: Selection, match: Match, addresses: tuple[str, ...]
    ) -> float:
        """Does what the rules say, and returns the seconds for which that may be repeated.
        Denied if a rule denies. A rule that only reports is logged for each request, so such a
        decision is not repeated. A request that is judged again, with other addresses, is
        logged once for each rule."""
        if self._witness is not None:
            self._witness.ruled(selected, match, addresses)
        if match.allow:
            case.notes.allowed_by = match.rule
            if not match.reports:
                return REPEAT
        would = [(rule, "deny" if match.allow else "allow") for rule in match.reports]
        if not match.allow:
            if self._enforce:
                raise self._refusal(case, match, addresses)
            would.append((match.rule, "deny"))
        notes = case.notes
        for rule, action in would:
            if rule in notes.reported:
                continue
            notes.reported = *notes.reported, rule
            self._report(rule)
            log.info(
                "rule %s (report only) would %s: client %s, %s %s:%d",
                rule,
                action,
                notes.client or "unix",
                case.head.method,
                case.name,
                case.port,
            )
        return 0.0

    def _refusal(self, case: Case, match: Match, addresses: tuple[str, ...]) -> Failure:
        if self.challenge is not None and not case.notes.user:
            return self.challenge(case, addresses) or refusals.denied(match)
        return refusals.denied(match)
