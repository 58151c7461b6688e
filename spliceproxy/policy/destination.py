"""The last steps of a decision: what the hook says, where the name leads, and whether the rules
and the guard allow these addresses.

Each step ends with a call of the next one. Where something has to be waited for, the next step is
called from a coroutine (``_when_...``), so that nothing is asked twice, and what does not wait
costs no coroutine.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Coroutine
from typing import Any

from spliceproxy.errors import Denied, Failure
from spliceproxy.policy import refusals
from spliceproxy.policy.decision import YES, Allow, Deny
from spliceproxy.policy.hook import Answer, Hook
from spliceproxy.policy.judging import Case, Judge
from spliceproxy.policy.names import is_number
from spliceproxy.policy.networks import is_quad
from spliceproxy.policy.request import Request
from spliceproxy.policy.rules import Selection
from spliceproxy.policy.standing import Standing
from spliceproxy.policy.verdict import Head, Names, Notes, Verdict
from spliceproxy.policy.witness import Witness

Later = Coroutine[Any, Any, Verdict]
"""The rest of a decision that has to wait: to be awaited once, or closed."""

_new = tuple.__new__  # of a NamedTuple, without the call of its own __new__


async def ended(found: Verdict | Later) -> Verdict:
    """A decision, waited for."""
    return found if isinstance(found, Verdict) else await found


class Destinations:
    """Of one policy. ``witness`` may be None."""

    __slots__ = (
        "_check",
        "_direct",
        "_hook",
        "_judge",
        "_names",
        "_wants_addresses",
        "_witness",
    )

    def __init__(self, names: Names, judge: Judge, hook: Hook, witness: Witness | None) -> None:
        self._names = names
        self._judge = judge
        self._hook = hook
        self._wants_addresses = hook.wants_addresses
        self._direct = witness is None and not hook.caches and not hook.wants_addresses
        self._check = judge.check
        self._witness = witness

    def of(self, case: Case, repeat: float) -> Verdict | Later:
        """Where a request leads that nobody else need be asked about. ``repeat``: seconds for
        which all that was decided before holds."""
        addresses = self._names.cached(case.host)
        if addresses is None:
            return self._when_named(case)
        addresses, holds = self._judge.sift(case, addresses, own=case.own)
        if holds < repeat:
            repeat = holds
        return _new(Verdict, (case.host, case.port, addresses, "", repeat, None, YES, None))

    async def _when_named(self, case: Case) -> Verdict:
        """Not to be repeated: the name may be one whose answers hold for one request only."""
        addresses = await self._look_up(case)
        addresses, _ = self._judge.sift(case, addresses, own=case.own)
        return Verdict(case.host, case.port, addresses, "", 0.0)

    async def _look_up(self, case: Case) -> tuple[str, ...]:
        """The addresses of a name that is not in the cache. An address in an odd spelling is
        refused: a resolver may read it as another address than the rules did. One in the usual
        spelling comes here where addresses of its version are not used."""
        if is_number(case.host) and not is_quad(case.host):
            raise refusals.odd_address()
        asked = time.monotonic()
        try:
            return await self._names.resolve(case.host)
        finally:  # one that fails takes its time, too
            case.notes.looked_up += time.monotonic() - asked

    # ---- with a hook -------------------------------------------------------------------

    def by_hook(
        self,
        client: Standing,
        head: Head,
        host: str,
        port: int,
        notes: Notes,
        own: bool,
        name: str,
        selected: Selection | None,
        request: Request,
        repeat: float,
    ) -> Verdict | Later:
        """The same if there is a hook; the first are those of the case. It is asked before the
        name is looked up, and once more if it wants to know the addresses. What the second answer
        leaves out is taken from the first."""
        if not self._direct:
            case: Case = _new(Case, (client, head, host, port, notes, own, name, selected))
            return self._by_answer(case, request, repeat)
        decision = self._hook.call(request)
        if type(decision) is Allow and selected is None and decision.addresses is None:
            # As _first and _sifted, in one call and without a case: this is what most functions
            # answer.
            addresses = self._names.cached(host)
            if addresses is not None:
                if decision.tags:
                    allowed(decision, notes)
                if not own and self._check is not None:
                    addresses, fault = self._check(addresses, client.local)
                    if not addresses:
                        raise refusals.prohibited(fault)
                if decision.limits or decision.parent:
                    self._check_named(decision)
                source = decision.source_address
                return _new(Verdict, (host, port, addresses, source, 0.0, None, decision, None))
        case = _new(Case, (client, head, host, port, notes, own, name, selected))
        if isinstance(decision, (Allow, Deny)):
            return self._first(case, request, 0.0, 0.0, decision)
        return self._when_called(case, request, decision)

    def _by_answer(self, case: Case, request: Request, repeat: float) -> Verdict | Later:
        """Where answers are kept, or seen by a witness."""
        began = time.monotonic()
        answer = self._begin(request)
        if isinstance(answer, Answer):
            repeat = min(repeat, answer.repeat_for)
            return self._first(case, request, repeat, began, answer.decision)
        return self._when_asked(case, request, repeat, began, answer)

    async def _when_called(
        self, case: Case, request: Request, decision: Awaitable[Allow | Deny]
    ) -> Verdict:
        return await ended(self._first(case, request, 0.0, 0.0, await decision))

    async def _when_asked(
        self, case: Case, request: Request, repeat: float, began: float, asked: Awaitable[Answer]
    ) -> Verdict:
        answer = await asked
        repeat = min(repeat, answer.repeat_for)
        return await ended(self._first(case, request, repeat, began, answer.decision))

    def _first(
        self, case: Case, request: Request, repeat: float, began: float, decision: Allow | Deny
    ) -> Verdict | Later:
        """The hook has said this before the name is looked up."""
        allow = allowed(decision, case.notes)
        addresses = allow.addresses
        if addresses is None or case.own:
            addresses = self._names.cached(case.host)
            if addresses is None:
                return self._when_allowed(case, request, began, allow)
        return self._sifted(case, request, repeat, began, allow, addresses)

    async def _when_allowed(
        self, case: Case, request: Request, began: float, allow: Allow
    ) -> Verdict:
        addresses = await self._look_up(case)
        return await ended(self._sifted(case, request, 0.0, began, allow, addresses))

    def _sifted(
        self,
        case: Case,
        request: Request,
        repeat: float,
        began: float,
        allow: Allow,
        addresses: tuple[str, ...],
    ) -> Verdict | Later:
        """The name leads to these addresses, or the hook has named others."""
        own = case.own
        if allow.addresses is not None:
            # The backend's are the operator's word, others are not.
            own = own and set(allow.addresses) <= set(addresses)
            addresses = allow.addresses
        addresses, holds = self._judge.sift(case, addresses, own=own)
        if holds < repeat:
            repeat = holds
        if not self._wants_addresses:
            return self._verdict(case, addresses, repeat, began, allow)
        answer = self._begin(request._replace(addresses=addresses))
        rest = case, addresses, allow, own, repeat, began
        if isinstance(answer, Answer):
            return self._second(*rest, answer)
        return self._when_second(*rest, answer)

    async def _when_second(
        self,
        case: Case,
        addresses: tuple[str, ...],
        first: Allow,
        own: bool,
        repeat: float,
        began: float,
        answer: Awaitable[Answer],
    ) -> Verdict:
        return self._second(case, addresses, first, own, repeat, began, await answer)

    def _second(
        self,
        case: Case,
        addresses: tuple[str, ...],
        first: Allow,
        own: bool,
        repeat: float,
        began: float,
        answer: Answer,
    ) -> Verdict:
        """The hook has said this to the addresses, and ``first`` before it knew them."""
        allow = allowed(answer.decision, case.notes)
        repeat = min(repeat, answer.repeat_for)
        if allow.addresses:
            own = own and set(allow.addresses) <= set(addresses)
            addresses, holds = self._judge.sift(case, allow.addresses, own=own)
            repeat = min(repeat, holds)
        return self._verdict(case, addresses, repeat, began, allow.after(first))

    def _verdict(
        self,
        case: Case,
        addresses: tuple[str, ...],
        repeat: float,
        began: float,
        said: Allow,
    ) -> Verdict:
        """``repeat`` counts from ``began``: the hook may have taken seconds, and what was decided
        before is older by these."""
        if said.limits or said.parent:
            self._check_named(said)
        if repeat:
            repeat = max(0.0, repeat - (time.monotonic() - began))
        source = said.source_address
        return _new(Verdict, (case.host, case.port, addresses, source, repeat, None, said, None))

    def _check_named(self, said: Allow) -> None:
        """Failure for a limit, or a parent, that is not there."""
        try:
            self._hook.check(said)
        except Failure as failure:
            if self._witness is not None:
                self._witness.answered(failure)
            raise

    def _begin(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        return self._hook.begin(request) if self._witness is None else self.ask(request)

    async def ask(self, request: Request) -> Answer:
        """The hook's answer. Failure."""
        try:
            answer = await self._hook.ask(request)
        except Failure as failure:
            if self._witness is not None:
                self._witness.answered(failure)
            raise
        if self._witness is not None:
            self._witness.answered(answer.decision)
        return answer

    async def admit(self, request: Request, notes: Notes) -> None:
        """Asks the hook about a request that leads nowhere. Denied, Failure."""
        allowed((await self.ask(request)).decision, notes)


def allowed(decision: Allow | Deny, notes: Notes) -> Allow:
    """What the hook allows, with its tags noted. Denied if it denies."""
    if isinstance(decision, Deny):
        raise Denied(decision.reason, decision.rule, decision.status)
    if decision.tags:
        notes.tags = {**notes.tags, **decision.tags} if notes.tags else dict(decision.tags)
    return decision
