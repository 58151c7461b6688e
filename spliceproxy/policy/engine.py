"""The policy: everything that is asked before a request is served, forwarded or dialled.

The questions, in this order:

1. May the client use the proxy at all?
2. Which user is it?
3. Is the destination in the file of --locked?
4. What do the rules say?
5. What does the hook say?
6. To which addresses does the name lead?
7. Do the rules and the guard allow these addresses?
8. What does the hook say to the addresses, if it wants to know them?

The first no is the answer. A name that is denied before step 6 is not looked up, because a DNS
query carries data out, too. A decision waits for nothing but a password's hash, a name or the hook.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from functools import lru_cache, partial

from spliceproxy.config import Config
from spliceproxy.errors import Denied, Failure
from spliceproxy.messages import log
from spliceproxy.policy import refusals
from spliceproxy.policy.auth import Authenticator, peer_uid
from spliceproxy.policy.clients import NEAR, NEAR_OTHERS, ClientNetworks, is_local
from spliceproxy.policy.decision import Allow, Deny
from spliceproxy.policy.functions import Functions, load
from spliceproxy.policy.guard import Guard
from spliceproxy.policy.hook import Hook
from spliceproxy.policy.lockfile import Locked
from spliceproxy.policy.names import canonical, is_number
from spliceproxy.policy.names import load as load_names
from spliceproxy.policy.request import Request
from spliceproxy.policy.rules import Match, RuleSet, Selection
from spliceproxy.policy.standing import Standing
from spliceproxy.policy.verdict import Head, Names, Notes, Verdict
from spliceproxy.policy.witness import Witness

REPEAT = 60.0
"""Seconds for which a decision may be repeated at most. Within this time a name's new addresses
are noticed, and what the rules say to them."""

CACHED = 4096
"""Addresses of clients whose standing is remembered."""

_Sift = Callable[[tuple[str, ...], bool], tuple[tuple[str, ...], float]]


class Policy:
    """The policy of one worker. :meth:`finish` is called inside its event loop. ValueError for
    settings that make no sense (RuleError and HookError are ValueErrors)."""

    def __init__(
        self,
        config: Config,
        names: Names,
        functions: Functions | None = None,
        *,
        authenticator: Authenticator | None = None,
        witness: Witness | None = None,
    ) -> None:
        """``functions`` stand in for those that ``config.policy.hook`` names, and the
        ``authenticator`` for that of ``config.auth``. A ``witness`` sees each request, so
        that no decision may be repeated."""
        policy = config.policy
        self._names = names
        self._witness = witness
        self._repeat = REPEAT if witness is None else 0.0
        self._auth = authenticator or Authenticator(config.auth)
        self._known_for = min(self._auth.repeat_for, self._repeat)
        self._rules = RuleSet(policy.rules, policy.default)
        self._ruled = bool(policy.rules) or policy.default == "deny"
        self._enforce = not policy.report_only
        self._locked = None if policy.locked is None else Locked(policy.locked)
        guard = Guard(policy.guard, policy.guard_allow, policy.guard_deny)
        self._guard = guard if policy.guard != "off" or policy.guard_deny else None
        # Who serves files or stands before a backend of its own is no open relay.
        self._clients = None if policy.clients is None else ClientNetworks(policy.clients)
        if policy.guard_local not in ("loopback", "none"):
            raise ValueError(f"guard_local {policy.guard_local!r}; allowed: loopback, none")
        self._locals = policy.guard_local == "loopback"
        self._relayed = self._clients or ClientNetworks(NEAR if self._locals else NEAR_OTHERS)
        # Where no networks are named, users may come from anywhere.
        self._vouches = self._clients is None and self._auth.enabled
        if functions is None and policy.hook:
            functions = load(policy.hook)
        self._hook = Hook(functions or Functions(), policy.hook_timeout, policy.hook_cache)
        self._asks = self._hook.decides
        self._standing = lru_cache(maxsize=CACHED)(self._standing_of)
        self._spells = self._ruled or self._asks or self._locked is not None

    def start(self) -> None:
        """To be called before the first request, in the process that serves it."""
        self._auth.start()
        load_names()

    # ---- what connections call -------------------------------------------------------

    def standing(self, address: str, sock: socket.socket | None) -> Standing:
        """What decisions know of a client. It is made once for a connection. ``address`` is ""
        for a Unix socket; ``sock`` is the connection, None if there is none."""
        standing = self._standing(address)
        if sock is not None and not address and self._auth.uses_peers:
            return standing._replace(uid=peer_uid(sock))
        return standing

    async def decide(
        self,
        client: Standing,
        head: Head,
        host: str,
        port: int,
        notes: Notes,
        *,
        own: bool = False,
    ) -> Verdict:
        """Whether a request may go to a host, and to which addresses. ``own``: the operator
        has named the host as the backend, so the guard is not asked.

        Raises Denied or Unauthenticated, and Failure if the name or the hook fails.
        """
        if self._witness is not None:
            self._witness.asked(notes)
        notes.host, notes.port = host, port
        near = client.admitted if own else client.relayed
        if not near and not self._vouches:
            raise refusals.stranger()
        user, groups, repeat = "", _NONE, self._repeat
        if self._auth.enabled:
            user, groups, repeat = await self._identify(client, head, notes)
        if not near and not user:
            raise refusals.stranger()
        selected: Selection | None = None
        name = host
        if self._spells:
            name = self._listed(host, port)
            repeat = min(repeat, self._rules.repeat_for)
        if self._ruled:
            selected = self._rules.select(client.matched, user, groups, head.method, name, port)
            match = selected.settled
            # For a report alone no name is looked up.
            if match is not None and (
                not selected.reports_later or (self._enforce and not match.allow)
            ):
                repeat = min(repeat, self._apply(selected, match, (), head, name, port, notes))
                selected = None  # the same for every address
        if self._asks:
            sift = partial(self._sift, selected, client.local, head, name, port, notes)
            request = _request(client, user, groups, head, name, port)
            return await self._by_hook(request, host, sift, notes, repeat=repeat, own=own)
        addresses = self._names.cached(host)
        if addresses is None:
            addresses = await self._look_up(host, notes)
            repeat = 0.0  # the name may be one whose answers hold for one request only
        addresses, holds = self._sift(
            selected, client.local, head, name, port, notes, addresses, own
        )
        return Verdict(host, port, addresses, "", min(repeat, holds))

    async def _look_up(self, host: str, notes: Notes) -> tuple[str, ...]:
        """The addresses of a name that is not in the cache. An address in an odd spelling is
        refused: a resolver may read it as another address than the rules did."""
        if is_number(host):
            raise refusals.odd_address()
        asked = time.monotonic()
        addresses = await self._names.resolve(host)
        notes.looked_up += time.monotonic() - asked
        return addresses

    async def _by_hook(
        self, request: Request, host: str, sift: _Sift, notes: Notes, *, repeat: float, own: bool
    ) -> Verdict:
        """The rest of :meth:`decide` if there is a hook. The hook is asked before the name is
        looked up, and once more if it wants to know the addresses. What the second answer
        leaves out is taken from the first. ``repeat``: seconds from now for which all that was
        decided before holds."""
        began = time.monotonic()
        allow, repeat = await self._ask(request, repeat, notes)
        addresses = allow.addresses
        if addresses is None or own:
            addresses = self._names.cached(host)
            if addresses is None:
                addresses = await self._look_up(host, notes)
                repeat = 0.0
            if allow.addresses:  # the backend's are the operator's word, others are not
                own = set(allow.addresses) <= set(addresses)
                addresses = allow.addresses
        addresses, holds = sift(addresses, own)
        source = allow.source_address
        repeat = min(repeat, holds)
        if self._hook.wants_addresses:
            known = request._replace(addresses=addresses)
            allow, repeat = await self._ask(known, repeat, notes)
            source = allow.source_address or source
            if allow.addresses:
                own = own and set(allow.addresses) <= set(addresses)
                addresses, holds = sift(allow.addresses, own)
                repeat = min(repeat, holds)
        # The hook may have taken seconds, and what was decided before is older by these.
        repeat = max(0.0, repeat - (time.monotonic() - began))
        return Verdict(host, request.port, addresses, source, repeat)

    async def admit(self, client: Standing, head: Head, notes: Notes) -> None:
        """Whether a request that the proxy itself answers may be answered. Raises as
        :meth:`decide` does."""
        if not client.admitted:
            raise refusals.stranger()
        user, groups = "", _NONE
        if self._auth.enabled:
            user, groups, _ = await self._identify(client, head, notes)
        if not self._ruled and not self._asks:
            return
        name = _canonical(head.host) if head.host else ""
        selected = self._rules.select(client.matched, user, groups, head.method, name, head.port)
        self._apply(selected, selected.match(""), (), head, name, head.port, notes)
        if self._asks:
            request = _request(client, user, groups, head, name, head.port)
            await self._ask(request, 0.0, notes)

    @property
    def identifies(self) -> bool:
        """Whether an answer may depend on the client's credentials."""
        return self._auth.enabled

    @property
    def watches(self) -> bool:
        """Whether :meth:`closed` has anyone to tell."""
        return self._hook.watches

    def closed(self, record: object) -> None:
        """A request or tunnel is over."""
        self._hook.closed(record)

    async def finish(self) -> None:
        """The worker ends."""
        await self._hook.finish()
        self._auth.close()

    # ---- the steps -------------------------------------------------------------------

    def _standing_of(self, address: str) -> Standing:
        return Standing.of(
            address,
            local=self._locals and is_local(address),
            admitted=self._clients is None or self._clients.admit(address),
            relayed=self._relayed.admit(address),
            matched=self._rules.of_client(address),
            known=self._auth.enabled or self._asks,
        )

    async def _identify(
        self, client: Standing, head: Head, notes: Notes
    ) -> tuple[str, frozenset[str], float]:
        """The user, its groups, and the seconds for which both hold."""
        auth = self._auth
        assert client.address is not None  # there are users
        found = auth.identify(head.values(b"proxy-authorization"), client.address, client.uid)
        user = found if isinstance(found, str) else await found
        notes.user = user
        groups = auth.groups_of(user)
        if self._witness is not None:
            self._witness.identified(user, groups)
        return user, groups, self._known_for

    def _listed(self, host: str, port: int) -> str:
        """The host in the spelling of the rules. Denied if it is not in the file of --locked."""
        name = _canonical(host)
        if self._locked is not None and not self._locked.admits(name, port):
            raise refusals.unlisted(name, port)
        return name

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
        """The addresses that the rules and the guard allow, and the seconds as :meth:`_apply`
        returns them. Denied if no address is left. ``selected``: the rules that match except
        for the address; None if the rules have decided already."""
        holds = REPEAT
        if selected is not None:
            passed, match = selected.sift(addresses)
            holds = self._apply(selected, match, addresses, head, name, port, notes)
            addresses = passed or addresses  # denied, and only reported
        if own or self._guard is None:
            if self._witness is not None:
                self._witness.guarded(None, addresses, addresses)
            return addresses, holds
        allowed, fault = self._guard.check(addresses, local)
        if self._witness is not None:
            self._witness.guarded(self._guard, addresses, allowed)
        if not allowed:
            raise refusals.prohibited(fault)
        return allowed, holds

    def _apply(
        self,
        selected: Selection,
        match: Match,
        addresses: tuple[str, ...],
        head: Head,
        name: str,
        port: int,
        notes: Notes,
    ) -> float:
        """Does what the rules say, and returns the seconds for which that may be repeated.
        Denied if a rule denies. A rule that only reports is logged for each request, so such a
        decision is not repeated. A request that is judged again, with other addresses, is
        logged once for each rule."""
        if self._witness is not None:
            self._witness.ruled(selected, match, addresses)
        if match.allow and not match.reports:
            return REPEAT
        would = [(rule, "deny" if match.allow else "allow") for rule in match.reports]
        if not match.allow:
            if self._enforce:
                raise refusals.denied(match)
            would.append((match.rule, "deny"))
        for rule, action in would:
            if rule in notes.reported:
                continue
            notes.reported = *notes.reported, rule
            log.info(
                "rule %s (report only) would %s: client %s, %s %s:%d",
                rule,
                action,
                notes.client or "unix",
                head.method,
                name,
                port,
            )
        return 0.0

    async def _ask(self, request: Request, repeat: float, notes: Notes) -> tuple[Allow, float]:
        """The hook's Allow, and the seconds for which it holds. Denied if it answers Deny."""
        try:
            answer = await self._hook.ask(request)
        except Failure as failure:
            if self._witness is not None:
                self._witness.answered(failure)
            raise
        decision = answer.decision
        if self._witness is not None:
            self._witness.answered(decision)
        if isinstance(decision, Deny):
            raise Denied(decision.reason, decision.rule, decision.status)
        if decision.tags:
            notes.tags = {**notes.tags, **decision.tags}
        return decision, min(repeat, answer.repeat_for)


_NONE: frozenset[str] = frozenset()


def _canonical(host: str) -> str:
    try:
        return canonical(host)
    except ValueError as error:
        if is_number(host):
            raise refusals.odd_address() from None
        raise Failure("dns_error", str(error), why="no valid host name") from None


def _request(
    client: Standing,
    user: str,
    groups: frozenset[str],
    head: Head,
    name: str,
    port: int,
) -> Request:
    assert client.address is not None  # there is a function
    return Request(
        client.address,
        user,
        groups,
        head.method,
        head.scheme,
        name,
        port,
        head.path,
        None,
        head.fields,
    )
