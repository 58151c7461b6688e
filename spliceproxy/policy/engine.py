"""The policy: everything that is asked before a request is served, forwarded or dialled.

The questions, in this order:

1. May the client use the proxy at all?
2. Which user is it?
3. Is the destination in the file of --locked, and is it a name where only names are wanted?
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
from collections.abc import Awaitable, Callable, Mapping
from copy import copy
from functools import lru_cache
from typing import TYPE_CHECKING

from spliceproxy.config import DIRECT, Address, AuthConfig, Config, PolicyConfig
from spliceproxy.errors import Failure
from spliceproxy.kept import Kept
from spliceproxy.policy import refusals
from spliceproxy.policy.auth.nobody import Nobody, is_nobody
from spliceproxy.policy.clients import NEAR, NEAR_OTHERS, ClientNetworks, is_local_at
from spliceproxy.policy.destination import Destinations, Later, ended
from spliceproxy.policy.functions import Functions, load, load_anew
from spliceproxy.policy.hook import Hook
from spliceproxy.policy.hosts import is_address
from spliceproxy.policy.judging import REPEAT as REPEAT
from spliceproxy.policy.judging import Case, Judge
from spliceproxy.policy.lockfile import Locked
from spliceproxy.policy.names import canonical, is_number
from spliceproxy.policy.networks import MARKS, bare, named, parsed, taken_apart
from spliceproxy.policy.request import Fields, Request
from spliceproxy.policy.rules import RuleSet
from spliceproxy.policy.standing import Standing
from spliceproxy.policy.verdict import Head, Names, Notes, Only, Verdict
from spliceproxy.policy.witness import Witness

if TYPE_CHECKING:
    from spliceproxy.policy.auth.authenticator import Authenticator
    from spliceproxy.policy.fresh import Forgotten
    from spliceproxy.policy.routed import Routing
    from spliceproxy.policy.tls_names import TlsNames

CACHED = 4096
"""Addresses of clients whose standing is remembered."""


def _nobody(rule: str) -> None:
    """Nobody counts the rules that only report."""


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
        row: memoryview | None = None,
        report: Callable[[str], None] = _nobody,
        before: Policy | None = None,
        kept: Kept | None = None,
    ) -> None:
        """``functions`` stand in for those that ``config.policy.hook`` names, and the
        ``authenticator`` for that of ``config.auth``. A ``witness`` sees each request, so
        that no decision may be repeated. Faults of functions are counted in ``row``
        (relay.columns); ``report`` is as of :class:`Judge`. Who was found to be a user, and who
        has guessed, stays so where the policy ``before`` has the same users. What files said may be
        ``kept``, and what they say is noted there."""
        policy = config.policy
        self.kept = kept
        self._witness = witness
        self._repeat = REPEAT if witness is None else 0.0
        self._users = config.auth
        self._auth = authenticator or _authenticator(config.auth, before, kept)
        self._identifies = self._auth.enabled
        self._known_for = min(self._auth.repeat_for, self._repeat)
        self._rules = RuleSet(policy.rules, policy.default)
        self._ruled = bool(policy.rules) or policy.default == "deny"
        self._locked = None if policy.locked is None else Locked(policy.locked, kept)
        self._names_only = policy.names_only
        self._judge = Judge(policy, witness, report)
        self._by_rule = config.auth.required == "by-rule" and self._auth.takes_passwords
        if self._by_rule:
            members = {user for group in config.auth.groups.values() for user in group}
            self._kinds = self._rules.kinds_of_users(self._auth.groups_of, members)
            self._judge.challenge = self._challenge
        # Who serves files or stands before a backend of its own is no open relay.
        self._clients = None if policy.clients is None else ClientNetworks(policy.clients)
        if policy.guard_local not in ("loopback", "none"):
            raise ValueError(f"guard_local {policy.guard_local!r}; allowed: loopback, none")
        self._locals = policy.guard_local == "loopback"
        self._relayed = self._clients or ClientNetworks(NEAR if self._locals else NEAR_OTHERS)
        # Where no networks are named, users may come from anywhere.
        self._vouches = self._clients is None and self._auth.enabled
        self._forgotten: Forgotten | None = None
        if functions is None and policy.hook and before is not None:
            functions, self._forgotten = load_anew(policy.hook, kept)
        elif functions is None and policy.hook:
            functions = load(policy.hook, kept)
        named = [limit.id for limit in policy.limits], config.routing.parents
        times = policy.hook_timeout, policy.hook_cache
        self._hook = Hook(functions or Functions(), *times, row, *named)
        self._asks = self._hook.decides
        self.groups_of = self._auth.groups_of
        self._sees_clients = self._identifies or self._asks
        if policy.limits:
            from spliceproxy.policy import limits  # late: most have none

            self._sees_clients |= limits.sees_clients(policy.limits)
        self._standing = lru_cache(maxsize=CACHED)(self._standing_of)
        self._names = names
        self.places: Mapping[Address, int] = {}
        self._routing: Routing | None = None
        if config.routing.all_routes or (self._asks and config.routing.parents):
            from spliceproxy.policy.routed import Routing  # late: most have no routes

            self._routing = Routing(config.routing, self._auth.groups_of)
            self.places = self._routing.places
        self._destinations = self._leading(names)
        self._tls = self._inside_of(policy)
        self._spells = (
            self._ruled
            or self._asks
            or bool(policy.limits)
            or self._locked is not None
            or self._routing is not None
            or self._names_only
        )

    def forget(self) -> None:
        """It will decide nothing: modules are what they were before it."""
        if self._forgotten is not None:
            self._forgotten.restore()

    def shares(self, other: Policy) -> bool:
        """Whether both have the same users, by one object."""
        return self._auth is other._auth

    def start(self) -> None:
        """To be called before the first request, in the process that serves it."""
        self._auth.start()

    def _leading(self, names: Names) -> Destinations:
        rest = names, self._judge, self._hook, self._witness
        if self._routing is None:
            return Destinations(*rest)
        from spliceproxy.policy.routed import RoutedDestinations  # late: most have no routes

        return RoutedDestinations(*rest, self._routing)

    # ---- what connections call -------------------------------------------------------

    def standing(self, address: str, sock: socket.socket | None) -> Standing:
        """What decisions know of a client. It is made once for a connection. ``address`` is ""
        for a Unix socket, and one of MARKS is in front of it for a client behind a balancer; before
        that stands where it has come in, if that is one of the :attr:`places` (``networks.named``).
        ``sock`` is the connection, None if there is none."""
        standing = self._standing(address)
        if sock is not None and self._auth.uses_peers and not taken_apart(address)[0]:
            from spliceproxy.policy.auth.identities import peer_uid  # which the users have loaded

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
        """As :meth:`decision`, and waited for."""
        return await ended(self.decision(client, head, host, port, notes, own))

    def decision(
        self,
        client: Standing,
        head: Head,
        host: str,
        port: int,
        notes: Notes,
        own: bool = False,
    ) -> Verdict | Later:
        """Whether a request may go to a host, and to which addresses. ``own``: the operator
        has named the host as the backend, so the guard is not asked.

        If something has to be waited for, the answer is a coroutine that goes on from there. Both
        the call and the coroutine raise Denied or Unauthenticated, and Failure if the name or the
        hook fails.
        """
        if self._witness is not None:
            self._witness.asked(notes)
        notes.host = host
        notes.port = port
        near = client.admitted if own else client.relayed
        if not near and not self._vouches:
            raise refusals.stranger()
        if not self._identifies:
            verdict = self._by_rules(client, head, host, port, notes, own, "", _NONE, self._repeat)
            return verdict if self._tls is None else self._inside(verdict, head, notes, own)
        case: Case = _new(Case, (client, head, host, port, notes, own, host, None))
        found = self._identify(client, head)
        if isinstance(found, str):
            return self._identified(case, found)
        return self._when_identified(case, found)

    async def toward(
        self, client: Standing, head: Head, host: str, port: int, notes: Notes, address: str
    ) -> Verdict:
        """As :meth:`decide`, for a host that leads to this address and no other."""
        judge = copy(self)
        judge._destinations = self._leading(Only(address))
        return await judge.decide(client, head, host, port, notes)

    async def straight(
        self,
        client: Standing,
        head: Head,
        host: str,
        port: int,
        notes: Notes,
        address: str = "",
    ) -> Verdict:
        """As :meth:`decide`, without a parent: for a request that none of them takes, and that may
        go without. ``address`` is as of :meth:`toward`, "" where names lead as ever. Denied where
        the function names a parent by now."""
        judge = copy(self)
        names = Only(address) if address else self._names
        judge._destinations = Destinations(names, self._judge, self._hook, self._witness)
        verdict = await judge.decide(client, head, host, port, notes)
        if verdict.said.parent not in ("", DIRECT):
            raise refusals.no_way()
        return verdict

    async def recheck(
        self,
        user: str,
        head: Head,
        notes: Notes,
        address: str,
        *,
        own: bool,
        mark: str = "",
        place: int = 0,
    ) -> None:
        """Whether a tunnel that lives would still be allowed: of the client (behind its ``mark``,
        if it has one) that has come in at this ``place``, to the host and port that ``notes`` have,
        as this user (who has proved it before), and to the address that it is connected to, ""
        where a parent is at that. Raises as :meth:`decide` does. Its ``head`` may be all that is
        left of it."""
        client = self._standing(named(mark + notes.client, place))
        host, port = notes.host, notes.port
        if not (client.admitted if own else client.relayed) and not self._vouches:
            raise refusals.stranger()
        if not self._auth.knows(user, mark + notes.client):
            raise refusals.no_user()
        judge = copy(self)
        if address:
            judge._destinations = self._leading(Only(address))
        case = Case(client, head, host, port, notes, own, host, None)
        try:
            await ended(judge._identified(case, user if self._identifies else ""))
        except Failure as failure:
            if failure.status == 407:  # nobody can be asked in the middle of a tunnel
                raise refusals.for_users() from None
            raise

    async def admit(self, client: Standing, head: Head, notes: Notes) -> None:
        """Whether a request that the proxy itself answers may be answered. Raises as
        :meth:`decide` does."""
        if not client.admitted:
            raise refusals.stranger()
        user, groups = "", _NONE
        if self._auth.enabled:
            found = self._identify(client, head)
            user = found if isinstance(found, str) else await found
            groups = self._note(user, notes)
        if not self._ruled and not self._asks:
            return
        name = _spelling(head.host) if head.host else ""
        case = Case(client, head, head.host, head.port, notes, False, name, None)
        selected = self._rules.select(client.matched, user, groups, head.method, name, head.port)
        self._judge.apply(case, selected, selected.match(""), ())
        if self._asks:
            assert client.address is not None  # there is a function
            request = Request(
                bare(client.address),
                user,
                groups,
                head.method,
                head.scheme,
                name,
                head.port,
                head.path,
                None,
                Fields(head),
            )
            await self._destinations.admit(request, notes)

    async def identify(self, client: Standing, head: Head) -> None:
        """Whether the credentials of a request are right, or can be missing, wherever it may want
        to go. Raises as :meth:`decide` does, and in its order: no password of a stranger is
        checked."""
        if not client.relayed and not self._vouches:
            raise refusals.stranger()
        if self._identifies:
            found = self._identify(client, head)
            if not isinstance(found, str):
                await found

    @property
    def takes_passwords(self) -> bool:
        """Whether there are users with passwords."""
        return self._auth.takes_passwords

    @property
    def identifies(self) -> bool:
        """Whether an answer may depend on the client's credentials."""
        return self._auth.enabled

    @property
    def rules(self) -> list[tuple[str, str]]:
        """Action ("allow", "deny") and id of each rule, in their order."""
        return self._rules.actions

    @property
    def witnessed(self) -> bool:
        """Whether a witness sees each request."""
        return self._witness is not None

    @property
    def knows_peers(self) -> bool:
        """Whether an answer may depend on the process behind a Unix socket."""
        return self._auth.uses_peers

    @property
    def watches(self) -> bool:
        """Whether :meth:`closed` has anyone to tell."""
        return self._hook.watches

    def closed(self, record: object) -> None:
        """A request or tunnel is over."""
        self._hook.closed(record)

    async def finish(self, after: Policy | None = None) -> None:
        """The worker ends, or the policy ``after`` this one decides, and nothing that this one has
        decided goes on."""
        await self._hook.finish(tell=after is None)
        if after is None or not self.shares(after):
            self._auth.close()

    # ---- the steps -------------------------------------------------------------------

    def _standing_of(self, name: str) -> Standing:
        address, came_in = taken_apart(name)
        place = parsed(address)
        return Standing.of(
            address,
            local=self._locals and address[:1] not in MARKS and is_local_at(place),
            admitted=self._clients is None or self._clients.admit_at(place),
            relayed=self._relayed.admit_at(place),
            matched=self._rules.of_client_at(place),
            known=self._sees_clients,
            place=came_in,
        )

    def _identify(self, client: Standing, head: Head) -> str | Awaitable[str]:
        """The user, "" for nobody."""
        assert client.address is not None  # there are users
        credentials = head.values(b"proxy-authorization")
        return self._auth.identify(credentials, client.address, client.uid)

    def _note(self, user: str, notes: Notes) -> frozenset[str]:
        """Notes who the client is, and returns the user's groups."""
        notes.user = user
        groups = self._auth.groups_of(user)
        if self._witness is not None:
            self._witness.identified(user, groups)
        return groups

    def _identified(self, case: Case, user: str) -> Verdict | Later:
        """The rest of :meth:`decision` for a client that is this user."""
        groups = self._note(user, case.notes)
        if not user and not (case.client.admitted if case.own else case.client.relayed):
            raise self._unknown(case)
        found = self._by_rules(*case[:6], user, groups, self._known_for)
        return found if self._tls is None else self._inside(found, case.head, case.notes, case.own)

    def _unknown(self, case: Case) -> Failure:
        """The refusal of a client that has to be a user, and is none."""
        if not self._by_rule:
            return refusals.stranger()
        try:
            case = case._replace(name=canonical(case.host))
        except ValueError:
            return refusals.stranger()
        return self._challenge(case, ()) or refusals.stranger()

    def _challenge(self, case: Case, addresses: tuple[str, ...]) -> Failure | None:
        """What asks for a password, if the rules would not refuse every user."""
        from spliceproxy.policy.auth.authenticator import Authenticator  # loaded: it has users

        assert isinstance(self._auth, Authenticator)
        if not addresses and is_address(case.name):
            addresses = (case.name,)
        asked = case.client.matched, case.head.method, case.name, case.port, addresses
        return self._auth.missing() if self._rules.allows_one(self._kinds, *asked) else None

    async def _when_identified(self, case: Case, found: Awaitable[str]) -> Verdict:
        return await ended(self._identified(case, await found))

    def _by_rules(
        self,
        client: Standing,
        head: Head,
        host: str,
        port: int,
        notes: Notes,
        own: bool,
        user: str,
        groups: frozenset[str],
        repeat: float,
    ) -> Verdict | Later:
        """The rest of :meth:`decision` from the file of --locked on. ``repeat``: seconds for which
        all that was decided before holds."""
        if not self._spells:
            case: Case = _new(Case, (client, head, host, port, notes, own, host, None))
            return self._destinations.of(case, repeat)
        try:
            name = canonical(host)
        except ValueError as error:
            raise _unspelled(host, error) from None
        if self._locked is not None and not self._locked.admits(name, port):
            raise refusals.unlisted(name, port)
        if self._names_only and not own and is_address(name):
            self._check_literal(name, port)
        selected = None
        if self._ruled:
            if self._rules.timed:
                repeat = min(repeat, self._rules.repeat_for)
            selected = self._rules.select(client.matched, user, groups, head.method, name, port)
            case = _new(Case, (client, head, host, port, notes, own, name, selected))
            holds = self._judge.settle(case, selected)
            if holds is not None:
                repeat = min(repeat, holds)
                selected = None  # the same for every address
        if not self._asks:
            case = _new(Case, (client, head, host, port, notes, own, name, selected))
            return self._destinations.of(case, repeat)
        assert client.address is not None  # there is a function
        fields = _blank(Fields)  # most hooks look at none of them, so that these wait
        fields._head = head
        address = bare(client.address)
        request: Request = _new(
            Request,
            (address, user, groups, head.method, head.scheme, name, port, head.path, None, fields),
        )
        return self._destinations.by_hook(
            client, head, host, port, notes, own, name, selected, request, repeat
        )

    # ---- the name inside TLS -------------------------------------------------------------

    def _inside_of(self, policy: PolicyConfig) -> TlsNames | None:
        """None where nothing is ever asked of it."""
        some = policy.names_inside != "off" or any(rule.tls_name for rule in policy.rules)
        if not some and not self._asks:
            return None
        from spliceproxy.policy.tls_names import TlsNames  # late: most ask nothing

        return TlsNames(policy, self._locked)

    @property
    def looks_inside(self) -> bool:
        """Whether the name inside TLS may be asked for."""
        return self._tls is not None

    def _inside(
        self, found: Verdict | Later, head: Head, notes: Notes, own: bool
    ) -> Verdict | Later:
        """With what is asked of the name inside TLS, where this becomes a tunnel."""
        if own or head.method != "CONNECT":
            return found
        if isinstance(found, Verdict):
            return self._checked(found, notes)
        return self._when_checked(found, notes)

    async def _when_checked(self, found: Awaitable[Verdict], notes: Notes) -> Verdict:
        return self._checked(await found, notes)

    def _checked(self, verdict: Verdict, notes: Notes) -> Verdict:
        """Denied where it is to be an address."""
        assert self._tls is not None
        name = _spelling(notes.host)
        asked = self._tls.asked(notes.allowed_by, verdict.said.tls_name)
        refused = is_address(name) and self._tls.refuses(asked, name, notes.port)
        if self._witness is not None:
            self._witness.inside(asked.mode, name, asked.refused, refused_now=refused)
        if refused:
            raise refusals.nameless(name)
        check = self._tls.check(asked, name)
        return verdict if check is None else verdict._replace(check=check)

    def _check_literal(self, address: str, port: int) -> None:
        """Denied for a destination that is written as an address, unless somebody has named it."""
        if self._locked is None or not self._locked.names_address(address, port):
            raise refusals.literal(address, locked=self._locked is not None)


_NONE: frozenset[str] = frozenset()
_new = tuple.__new__  # of a NamedTuple, without the call of its own __new__
_blank = object.__new__  # likewise without __init__


def _authenticator(
    config: AuthConfig, before: Policy | None, kept: Kept | None
) -> Authenticator | Nobody:
    if is_nobody(config):
        return Nobody()
    from spliceproxy.policy.auth.authenticator import Authenticator

    found = None if before is None else before._auth
    if before is not None and isinstance(found, Authenticator):
        if before._users == config:
            found.look()
            if kept is not None and before.kept is not None:
                kept.go_on_with(before.kept)
            return found
        return Authenticator(config, before=found, kept=kept)
    return Authenticator(config, kept=kept)


def _spelling(host: str) -> str:
    """The host as the rules write it. Denied, Failure."""
    try:
        return canonical(host)
    except ValueError as error:
        raise _unspelled(host, error) from None


def _unspelled(host: str, error: ValueError) -> Failure:
    """What is to be raised for a host that the rules cannot write."""
    if is_number(host):
        return refusals.odd_address()
    return Failure("dns_error", str(error), why="no valid host name")
