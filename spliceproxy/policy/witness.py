"""Who is told what the policy is asked, and what each step says."""

from __future__ import annotations

from spliceproxy.config import RouteConfig
from spliceproxy.errors import Failure
from spliceproxy.policy.decision import Allow, Deny
from spliceproxy.policy.guard import Guard
from spliceproxy.policy.rules import Match, Selection
from spliceproxy.policy.verdict import Notes


class Witness:
    """Does nothing with what it is told; who wants to know overrides a method. None of them
    may raise. A step that the settings leave out is not told."""

    def asked(self, notes: Notes) -> None:
        """``Policy.decide`` is asked about a request. Nothing is noted yet, unless it was asked
        about the same request before, with fewer addresses."""

    def identified(self, user: str, groups: frozenset[str]) -> None:
        """Who the client is, "" for nobody. Where it is refused for that, nothing is said."""

    def ruled(self, selection: Selection, match: Match, addresses: tuple[str, ...]) -> None:
        """The rules that match but for the addresses, and what they say: of these addresses, or,
        without any, of whatever the addresses are."""

    def guarded(
        self, guard: Guard | None, addresses: tuple[str, ...], allowed: tuple[str, ...]
    ) -> None:
        """Which of the addresses the guard lets through. None: it is off, or is not asked."""

    def routed(self, place: int, route: RouteConfig | None, *, by_name: bool) -> None:
        """Which way it goes, where the settings have routes: ``place`` is that of the
        route in their list, None that no one matches. ``by_name``: parents are told the name."""

    def inside(self, mode: str, name: str, refused: int, *, refused_now: bool) -> None:
        """What is asked of the name inside TLS of a tunnel to this canonical host: the mode, and
        what is refused (``relay.checking``). ``refused_now``: an address is."""

    def answered(self, answer: Allow | Deny | Failure) -> None:
        """What the function of --policy says, or how it failed."""
