"""One request walked through the policy: every step of it, and which one decides.

It is the policy itself that is asked. A witness of it makes the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from spliceproxy.config import DIRECT, REFUSE, Address, AuthConfig, Config, RouteConfig
from spliceproxy.errors import Denied, ErrorType, Failure
from spliceproxy.policy.auth import Authenticator, Unauthenticated
from spliceproxy.policy.clients import is_local
from spliceproxy.policy.decision import Allow, Deny
from spliceproxy.policy.engine import Policy
from spliceproxy.policy.guard import Guard
from spliceproxy.policy.hosts import is_address
from spliceproxy.policy.lockfile import LOCKED
from spliceproxy.policy.names import canonical
from spliceproxy.policy.networks import BROUGHT, named
from spliceproxy.policy.refusals import GUARD, STRANGER, TARGETS
from spliceproxy.policy.request import Request
from spliceproxy.policy.rules import DEFAULT, Match, Selection
from spliceproxy.policy.standing import Standing
from spliceproxy.policy.verdict import Names, Verdict
from spliceproxy.policy.witness import Witness

_ASKED = "a user may be allowed it, so a password is asked for (auth-required)"


@dataclass(frozen=True, slots=True)
class Step:
    """``name`` is one of clients, user, locked, targets, rules, function, dns, guard, route,
    tls-name, loop, limits. The rules come after dns if they depend on addresses. A function that
    wants to know these is asked once more at the end. ``decides``: the answer is this step's."""

    name: str
    passed: bool
    text: str
    decides: bool = False


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the proxy would do with a request, and why.

    ``status`` and ``reason`` are those of its answer where it is not allowed, and ``error``
    the RFC 9209 type; ``rule`` is the id of the rule that decides, "" if none does;
    ``addresses`` are those that would be dialled, or that parents would be told, in this order;
    none where they are told the name. ``parents`` are tried in this order; none where the request
    goes straight to its origin.
    """

    allowed: bool
    rule: str
    status: int
    error: ErrorType | Literal[""]
    reason: str
    addresses: tuple[str, ...]
    steps: tuple[Step, ...]
    parents: tuple[str, ...] = ()


async def walk(
    config: Config,
    request: Request,
    names: Names,
    balancer: str = "",
    listener: Address | None = None,
) -> Explanation:
    """What the policy says to a request. Its groups and addresses are looked up, and need not be
    given. Its user needs no password; without a user, the settings say who the client is. The
    policy function is called, and nothing is dialled. Without a ``balancer`` the client has come
    by itself; without a ``listener`` it is none that a route names. ValueError for settings that
    make no sense."""
    teller = _Teller(config, request, balancer)
    policy = Policy(
        config,
        _Told(names, teller.tell),
        authenticator=_Believing(config.auth, request.user) if request.user else None,
        witness=teller,
    )
    mark = BROUGHT if balancer else ""
    place = 0 if listener is None else policy.places.get(listener.where, 0)
    teller.client = client = policy.standing(named(mark + request.client, place), None)
    verdict: Verdict | None = None
    failure: Failure | None = None
    notes = _Notes(request.client)
    try:
        verdict = await policy.decide(
            client, _Head(request), request.host, request.port, notes, own=False
        )
    except Failure as raised:
        failure = raised
    finally:
        await policy.finish()
    steps = teller.all_steps(failure, users=policy.identifies)
    if verdict is not None and config.policy.limits:
        steps += _limits(config, mark + request.client, request.method, notes, verdict, policy)
    at = _deciding(steps, failure, teller.rule)
    steps[at] = replace(steps[at], decides=True)
    rule = failure.rule if isinstance(failure, Denied) else ""
    explanation = Explanation(
        allowed=failure is None,
        rule=teller.rule if steps[at].name == "rules" else rule,
        status=0 if failure is None else failure.status,
        error="" if failure is None else failure.error,
        reason="" if failure is None else _reason(failure),
        addresses=() if verdict is None else verdict.addresses,
        steps=tuple(steps),
        parents=() if verdict is None or verdict.way is None else verdict.way.parents,
    )
    back = _leads_back(config, request.port, explanation)
    return explanation if back is None else ended_by(explanation, *back)


def _limits(
    config: Config, client: str, method: str, notes: _Notes, verdict: Verdict, policy: Policy
) -> list[Step]:
    """Which limits count the request, and by what. What they have counted the proxy alone knows."""
    from spliceproxy.policy.limits import Matching, allowance  # late: most have none

    address = verdict.addresses[0] if verdict.addresses else ""
    matching = Matching(config.policy.limits, policy.groups_of)
    known = client, notes.user, method, notes.host, notes.port, address
    told = [
        f"{limit.id}{f' for {key}' if key else ''}: {allowance(limit)}"
        for limit, key in matching.of(*known, verdict.said.limits)
    ]
    return [Step("limits", True, "; ".join(told) or "none of them counts it")]


def _leads_back(config: Config, port: int, explanation: Explanation) -> tuple[Step, Failure] | None:
    """The step for a request that would be sent to the proxy itself, None for others. Of a proxy
    that listens on every address the machine's loopback is known here, and no other."""
    if not explanation.addresses or explanation.parents or config.serve is not None:
        return None
    first = explanation.addresses[0]
    there = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(first, first)  # as connect(2) has it
    for own in config.places:
        if own.port == port and not own.path and _is_at(own, there):
            detail = "the request leads back to this proxy"
            told = Step("loop", False, f"{detail}, which listens on {own}", decides=True)
            return told, Failure("proxy_loop_detected", detail)
    return None


def _is_at(own: Address, address: str) -> bool:
    if own.host not in ("", "0.0.0.0", "::"):
        return own.host == address
    return is_local(address)


def ended_by(explanation: Explanation, step: Step, failure: Failure) -> Explanation:
    """The same where a later step says no."""
    return replace(
        explanation,
        allowed=False,
        rule="",
        status=failure.status,
        error=failure.error,
        reason=_reason(failure),
        addresses=(),
        steps=(*(replace(one, decides=False) for one in explanation.steps), step),
    )


def _deciding(steps: Sequence[Step], failure: Failure | None, rule: str) -> int:
    """The index of the step that says no. If all say yes: of the function, else of the rules, else
    of the file."""
    names = [step.name for step in steps]
    if failure is not None:
        return next(n for n, step in enumerate(steps) if not step.passed)
    if "function" in names:  # what it says last
        return len(names) - 1 - names[::-1].index("function")
    if not rule and "locked" in names:
        return names.index("locked")
    return names.index("rules")


def _reason(failure: Failure) -> str:
    """In a sentence or less."""
    return failure.reason if isinstance(failure, Denied) else failure.detail


def _refused(steps: Sequence[Step]) -> bool:
    return bool(steps) and not steps[-1].passed


def _untold(failure: Failure | None) -> Step | None:
    """The step for a refusal that no other step told: of the name, or of how an address is
    spelled."""
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
    reported: tuple[str, ...] = ()
    allowed_by: str = ""
    looked_up: float = 0.0
    generation: int = 1


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


class _Believing(Authenticator):
    """Takes the client of every request for this user, if there is one of this name."""

    def __init__(self, config: AuthConfig, user: str) -> None:
        super().__init__(config)
        self._believed = user

    def identify(self, credentials: Sequence[bytes], client: str, uid: int = -1) -> str:
        if not self.has(self._believed):
            detail = f"no setting, and no file of users, has a user {self._believed!r}"
            raise Unauthenticated(detail, 407, (), why="no such user")
        return self._believed


class _Teller(Witness):
    """Makes steps of what the policy says about one request. ``rule``: the id of what the rules
    have said, "" if they were not asked."""

    def __init__(self, config: Config, request: Request, balancer: str) -> None:
        self._policy = config.policy
        self._routes = len(config.routing.routes)
        self._all_routes = len(config.routing.all_routes)
        self._request = request
        self._via = f", brought by {balancer}," if balancer else ""
        self._steps: list[Step] = []
        self.rule = ""
        self.client: Standing | None = None

    def all_steps(self, failure: Failure | None, *, users: bool) -> list[Step]:
        """Those that were told, and those of which the answer tells. ``users``: the settings
        name some."""
        where = (self._request.client or "the client of a Unix socket") + self._via
        told = self._steps
        if isinstance(failure, Denied) and failure.rule == STRANGER and not _refused(told):
            return [Step("clients", False, f"{where} may not use the proxy{self._unless(users)}")]
        here = ", and is taken for a client of this machine" if self._local else ""
        steps = [Step("clients", True, f"{where} may use the proxy{here}")]
        if not users:
            user = self._request.user
            asked = f"; {user!r} is not asked for" if user else ""
            steps.append(Step("user", True, f"nobody: the settings name no users{asked}"))
        elif isinstance(failure, Unauthenticated) and not _refused(told):
            return [*steps, Step("user", False, failure.detail)]
        elif told:
            steps.append(told.pop(0))
        if isinstance(failure, Unauthenticated):  # by rule
            told[-1] = replace(told[-1], text=f"{told[-1].text}; {_ASKED}")
        untold = None if _refused(told) else _untold(failure)
        if untold is not None:
            return [*steps, *told, untold]
        if not self._listed(failure if not told else None, steps):
            return steps
        if not self._policy.rules and self._policy.default == "allow":
            steps.append(Step("rules", True, "there are none"))
        return steps + told

    def _listed(self, failure: Failure | None, steps: list[Step]) -> bool:
        """The steps that ask what the destination is; false where one of them has said no.
        ``failure``: that of the first step which was not told."""
        no = failure.rule if isinstance(failure, Denied) else ""
        if self._policy.locked is not None:
            word = "none" if no == LOCKED else "one"
            steps.append(Step("locked", no != LOCKED, f"{word} of the destinations of --locked"))
        if self._policy.names_only and no != LOCKED:
            text = "an address, and not a name" if no == TARGETS else "a name, or a named address"
            steps.append(Step("targets", no != TARGETS, text))
        return no not in (LOCKED, TARGETS)

    def tell(self, name: str, passed: bool, text: str) -> None:
        """One more step."""
        self._steps.append(Step(name, passed, text))

    @property
    def _local(self) -> bool:
        return self.client is not None and self.client.local

    def _unless(self, users: bool) -> str:
        """What would let a stranger in, or why it is one."""
        if self._policy.clients is not None:
            return ""
        unless = ", unless as a user" if users else ""
        if self._via:
            return unless
        if is_local(self._request.client) and not self._local:
            unless += ", since nobody is local (guard-local)"
        return unless

    # ---- what the policy says --------------------------------------------------------

    def identified(self, user: str, groups: frozenset[str]) -> None:
        within = f", groups: {', '.join(sorted(groups))}" if groups else ""
        self.tell("user", True, f"{user or 'nobody'}{within}")

    def ruled(self, selection: Selection, match: Match, addresses: tuple[str, ...]) -> None:
        enforced = not self._policy.report_only
        address = next((one for one in addresses if selection.match(one) == match), "")
        self.rule = match.rule
        said = "no rule matches, and the default" if match.rule == DEFAULT else f"rule {match.rule}"
        said += " allows it" if match.allow else " denies it"
        said += f" with {match.status}" if not match.allow and match.status != 403 else ""
        said += f", for {address}" if address else ""
        parts = [said if match.allow or enforced else f"{said}, but only reports"]
        matches = {one: selection.match(one) for one in addresses if match.allow and address}
        denied = [f"{one} (rule {no.rule})" for one, no in matches.items() if not no.allow]
        parts += [f"left out: {', '.join(denied)}"] if denied else []
        more = [rule for rule in selection.names(address) if rule != match.rule]
        parts += [f"also matching: {', '.join(more)}"] if more else []
        if match.reports:
            other = "deny" if match.allow else "allow"
            parts.append(f"would {other} it, but only report: {', '.join(match.reports)}")
        self.tell("rules", match.allow or not enforced, "; ".join(parts))

    def guarded(
        self, guard: Guard | None, addresses: tuple[str, ...], allowed: tuple[str, ...]
    ) -> None:
        if guard is None:
            self.tell("guard", True, "off")
            return
        faults = {one: guard.fault(one, self._local) for one in addresses}
        shown = ", ".join(f"{one} ({fault})" for one, fault in faults.items() if fault)
        if not allowed:
            self.tell("guard", False, shown)
            return
        left_out = f"; left out: {shown}" if shown else ""
        self.tell("guard", True, f"{', '.join(allowed)} may be dialled{left_out}")

    def routed(self, place: int, route: RouteConfig | None, *, by_name: bool) -> None:
        source = f", from {route.source}" if route is not None and route.source else ""
        said = f"route {place + 1}"
        if place >= self._routes:
            said = "--proxy, --pac or the environment"
        if place >= self._all_routes:
            said = "the function"
        if route is None:
            self.tell("route", True, "no route matches: straight to the origin")
        elif route.to in ((DIRECT,), (REFUSE,)):
            where = "straight to the origin" if route.to == (DIRECT,) else "nowhere"
            self.tell("route", route.to == (DIRECT,), f"{said}: {where}{source}")
        else:
            told = "by its name, which the guard cannot check" if by_name else "by its address"
            pick = "" if route.pick == "in-order" or len(route.to) < 2 else f", {route.pick}"
            self.tell("route", True, f"{said}: through {', '.join(route.to)}{pick}, {told}{source}")

    def inside(self, mode: str, name: str, refused: int, *, refused_now: bool) -> None:
        from spliceproxy.relay.checking import FOUND, MATCH

        if mode == "off":
            return
        if refused_now:
            text = "an address, which has no name to be compared with that inside TLS"
        elif is_address(name):
            text = "an address that may be asked for: nothing is asked of the name inside TLS"
        elif mode == "require":
            text = f"the tunnel is reset unless the name inside TLS is {name}"
        else:
            words = [word for n, word in enumerate(FOUND) if refused >> n & 1 and word != MATCH]
            text = f"the name inside TLS is to be {name}; the tunnel is reset at {', '.join(words)}"
        if self._policy.report_only:
            text += ", but only told"
        self.tell("tls-name", not refused_now, f"{mode}: {text}")

    def answered(self, answer: Allow | Deny | Failure) -> None:
        if isinstance(answer, Failure):
            self.tell("function", False, answer.detail)
            return
        if isinstance(answer, Deny):
            rule = f" (rule {answer.rule})" if answer.rule else ""
            self.tell("function", False, f"{answer.reason}{rule}")
            return
        more = [f"from {answer.source_address}"] if answer.source_address else []
        more += [f"to {', '.join(answer.addresses)}"] if answer.addresses else []
        more += [f"by way of {answer.parent}"] if answer.parent else []
        more += [f"{answer.rate_in} bytes/s from the client"] if answer.rate_in else []
        more += [f"{answer.rate_out} bytes/s to the client"] if answer.rate_out else []
        more += [f"for the limits {', '.join(answer.limits)}"] if answer.limits else []
        more += [f"{key}={value}" for key, value in answer.tags.items()]
        self.tell("function", True, " ".join(["it allows it", *more]))
