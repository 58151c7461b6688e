"""One request walked through the policy: every step of it, and which one decides.

It is the policy itself that is asked; here it only tells what it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from spliceproxy.config import Config
from spliceproxy.errors import Denied, ErrorType, Failure
from spliceproxy.policy.auth import Unauthenticated
from spliceproxy.policy.clients import is_local
from spliceproxy.policy.decision import Allow
from spliceproxy.policy.engine import Policy
from spliceproxy.policy.hosts import is_address
from spliceproxy.policy.lockfile import LOCKED
from spliceproxy.policy.names import canonical
from spliceproxy.policy.refusals import GUARD, STRANGER
from spliceproxy.policy.request import Request
from spliceproxy.policy.rules import DEFAULT, Match, Selection
from spliceproxy.policy.standing import Standing
from spliceproxy.policy.verdict import Head, Names, Notes, Verdict


@dataclass(frozen=True, slots=True)
class Step:
    """``name`` is one of clients, user, locked, rules, hook, dns, guard; rules stand behind
    dns where they depend on addresses, and a hook that wants to know them once more at the
    end. ``decides``: the answer is this step's."""

    name: str
    passed: bool
    text: str
    decides: bool = False


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the proxy would do with a request, and why.

    ``status`` and ``reason`` are those of its answer where it is not allowed, and ``error``
    the RFC 9209 type; ``rule`` is the id of the rule that decides, "" if none does;
    ``addresses`` are those that would be dialled, in this order.
    """

    allowed: bool
    rule: str
    status: int
    error: ErrorType | Literal[""]
    reason: str
    addresses: tuple[str, ...]
    steps: tuple[Step, ...]


async def walk(config: Config, request: Request, names: Names) -> Explanation:
    """``request`` needs no groups and no addresses: they are looked up. Its user is believed;
    without one it is who the settings take the client for. Nothing is dialled, but the hook is
    called. ValueError for settings that make no sense."""
    policy = _Traced(config, names, request.user)
    client = policy.standing(request.client, None)
    verdict: Verdict | None = None
    failure: Failure | None = None
    try:
        verdict = await policy.decide(
            client, _Head(request), request.host, request.port, _Notes(request.client), own=False
        )
    except Failure as raised:
        failure = raised
    finally:
        await policy.finish()
    steps = policy.all_steps(request.client, client.local, failure)
    at = _deciding(steps, failure, policy)
    steps[at] = replace(steps[at], decides=True)
    rule = failure.rule if isinstance(failure, Denied) else ""
    return Explanation(
        allowed=failure is None,
        rule=policy.rule if steps[at].name == "rules" else rule,
        status=0 if failure is None else failure.status,
        error="" if failure is None else failure.error,
        reason="" if failure is None else _reason(failure),
        addresses=() if verdict is None else verdict.addresses,
        steps=tuple(steps),
    )


def _deciding(steps: Sequence[Step], failure: Failure | None, policy: _Traced) -> int:
    """The step that says no; of those that all say yes the hook, or the rules, or the file."""
    names = [step.name for step in steps]
    if failure is not None:
        return next(n for n, step in enumerate(steps) if not step.passed)
    if "hook" in names:  # what it says last
        return len(names) - 1 - names[::-1].index("hook")
    if not policy.rule and "locked" in names:
        return names.index("locked")
    return names.index("rules")


def _reason(failure: Failure) -> str:
    """In a sentence or less."""
    return failure.reason if isinstance(failure, Denied) else failure.detail


def _refused(steps: Sequence[Step]) -> bool:
    return bool(steps) and not steps[-1].passed


def _untold(failure: Failure | None) -> Step | None:
    """The step of a no that no step has told: for the name, or for an address' spelling."""
    if isinstance(failure, Denied):
        return Step("guard", False, failure.reason) if failure.rule == GUARD else None
    return None if failure is None else Step("dns", False, failure.detail)


@dataclass
class _Notes:
    client: str
    host: str = ""
    port: int = 0
    user: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    looked_up: float = 0.0


class _Head:
    """A request as its head."""

    def __init__(self, request: Request) -> None:
        self.method = request.method
        self.scheme = request.scheme
        self.host = request.host
        self.port = request.port
        self.path = request.path
        self.fields = request.fields

    def values(self, name: bytes) -> Sequence[bytes]:
        return [value for key, value in self.fields if key.lower() == name]


class _Told:
    """Names that tell where they lead."""

    def __init__(self, names: Names, tell: Callable[[str, bool, str], None]) -> None:
        self._names = names
        self._tell = tell

    def cached(self, host: str) -> tuple[str, ...] | None:
        addresses = self._names.cached(host)
        if addresses is not None and not _is_address(host):
            self._found(host, addresses)
        return addresses

    async def resolve(self, host: str) -> tuple[str, ...]:
        try:
            addresses = await self._names.resolve(host)
        except Failure as failure:
            self._tell("dns", False, failure.detail)
            raise
        self._found(host, addresses)
        return addresses

    def _found(self, host: str, addresses: tuple[str, ...]) -> None:
        self._tell("dns", True, f"{host} is {', '.join(addresses)}")


def _is_address(host: str) -> bool:
    try:
        return is_address(canonical(host))
    except ValueError:
        return False


class _Traced(Policy):
    """A policy for one request, which it tells about. ``rule``: the id of what the rules
    have said, "" if they were not asked."""

    def __init__(self, config: Config, names: Names, user: str) -> None:
        super().__init__(config, _Told(names, self._tell))
        self._user = user
        self._identity: tuple[str, frozenset[str]] = "", frozenset()
        self._steps: list[Step] = []
        self._resolved: tuple[str, ...] = ()
        self.rule = ""

    def all_steps(self, client: str, local: bool, failure: Failure | None) -> list[Step]:
        """Those that were told, and those of which the answer tells."""
        where = client or "the client of a Unix socket"
        told = self._steps
        if isinstance(failure, Denied) and failure.rule == STRANGER and not _refused(told):
            unless = ", unless as a user" if self._vouches else ""
            if self._clients is None and is_local(client) and not local:
                unless += ", since nobody is local (guard-local)"
            return [Step("clients", False, f"{where} may not use the proxy{unless}")]
        here = ", and is taken for a client of this machine" if local else ""
        steps = [Step("clients", True, f"{where} may use the proxy{here}")]
        if not self._auth.enabled:
            asked = f"; {self._user!r} is not asked for" if self._user else ""
            steps.append(Step("user", True, f"nobody: the settings name no users{asked}"))
        elif told:
            steps.append(told.pop(0))
        if not steps[-1].passed:
            return steps
        untold = None if _refused(told) else _untold(failure)
        if untold is not None:
            return [*steps, *told, untold]
        if self._locked is not None:
            inside = not (isinstance(failure, Denied) and failure.rule == LOCKED and not told)
            word = "one" if inside else "none"
            steps.append(Step("locked", inside, f"{word} of the destinations of --locked"))
            if not inside:
                return steps
        if not self._ruled:
            steps.append(Step("rules", True, "there are none"))
        return steps + told

    def _tell(self, name: str, passed: bool, text: str) -> None:
        self._steps.append(Step(name, passed, text))

    # ---- the steps of the policy -----------------------------------------------------

    async def _identify(
        self, client: Standing, head: Head, notes: Notes
    ) -> tuple[str, frozenset[str], float]:
        if self._user:
            found = self._user, self._auth.groups_of(self._user), 0.0
        else:
            try:
                found = await super()._identify(client, head, notes)
            except Unauthenticated as fault:
                self._tell("user", False, fault.detail)
                raise
        self._identity = user, groups = found[:2]
        within = f", groups: {', '.join(sorted(groups))}" if groups else ""
        self._tell("user", True, f"{user or 'nobody'}{within}")
        return found

    def _apply(self, match: Match, head: Head, name: str, port: int, notes: Notes) -> float:
        user, groups = self._identity
        selection = self._rules.select(
            self._rules.of_client(notes.client), user, groups, head.method, name, port
        )
        address = next((one for one in self._resolved if selection.match(one) == match), "")
        self.rule = match.rule
        said = "no rule matches, and the default" if match.rule == DEFAULT else f"rule {match.rule}"
        said += " allows it" if match.allow else " denies it"
        said += f" with {match.status}" if not match.allow and match.status != 403 else ""
        said += f", for {address}" if address else ""
        parts = [said if match.allow or self._enforce else f"{said}, but only reports"]
        matches = {one: selection.match(one) for one in self._resolved if match.allow and address}
        denied = [f"{one} (rule {no.rule})" for one, no in matches.items() if not no.allow]
        parts += [f"left out: {', '.join(denied)}"] if denied else []
        more = [rule for rule in selection.names(address) if rule != match.rule]
        parts += [f"also matching: {', '.join(more)}"] if more else []
        if match.reports:
            other = "deny" if match.allow else "allow"
            parts.append(f"would {other} it, but only report: {', '.join(match.reports)}")
        self._tell("rules", match.allow or not self._enforce, "; ".join(parts))
        return super()._apply(match, head, name, port, notes)

    def _sift(
        self,
        selected: Selection | None,
        local: bool,
        head: Head,
        name: str,
        port: int,
        notes: Notes,
        addresses: tuple[str, ...],
        own: bool,
    ) -> tuple[tuple[str, ...], float]:
        self._resolved = addresses
        guarded = addresses if selected is None else selected.sift(addresses)[0] or addresses
        try:
            passed, holds = super()._sift(selected, local, head, name, port, notes, addresses, own)
        except Denied as denied:
            if not _refused(self._steps):  # by a rule
                self._tell("guard", False, self._faults(guarded, local) or denied.reason)
            raise
        if self._guard is None:
            self._tell("guard", True, "off")
            return passed, holds
        faults = self._faults(guarded, local)
        left_out = f"; left out: {faults}" if faults else ""
        self._tell("guard", True, f"{', '.join(passed)} may be dialled{left_out}")
        return passed, holds

    def _faults(self, addresses: tuple[str, ...], local: bool) -> str:
        """What the guard says against each address."""
        if self._guard is None:
            return ""
        faults = {one: self._guard.fault(one, local) for one in addresses}
        return ", ".join(f"{one} ({fault})" for one, fault in faults.items() if fault)

    async def _ask(self, request: Request, repeat: float, notes: Notes) -> tuple[Allow, float]:
        try:
            allow, repeat = await super()._ask(request, repeat, notes)
        except Failure as failure:
            rule = f" (rule {failure.rule})" if isinstance(failure, Denied) and failure.rule else ""
            self._tell("hook", False, f"{_reason(failure)}{rule}")
            raise
        more = [f"from {allow.source_address}"] if allow.source_address else []
        more += [f"to {', '.join(allow.addresses)}"] if allow.addresses else []
        more += [f"{key}={value}" for key, value in allow.tags.items()]
        self._tell("hook", True, " ".join(["it allows it", *more]))
        return allow, repeat
