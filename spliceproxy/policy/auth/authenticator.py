"""Puts identity together: who a request comes from, or what to answer instead."""

from __future__ import annotations

import asyncio
import hmac
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

from spliceproxy.config import AuthConfig
from spliceproxy.errors import Failure
from spliceproxy.kept import Kept
from spliceproxy.messages import log
from spliceproxy.policy.auth import basic, identities
from spliceproxy.policy.auth.basic import Unauthenticated
from spliceproxy.policy.auth.cache import (
    SECONDS,
    WRONG_SECONDS,
    Verified,
    VerifiedCache,
    Wrong,
    WrongCache,
)
from spliceproxy.policy.auth.hashing import Full, Hashing
from spliceproxy.policy.auth.identities import Identities
from spliceproxy.policy.auth.throttle import NETWORKS, Throttle, network_of
from spliceproxy.policy.auth.turns import Later, Turns
from spliceproxy.policy.clients import ClientNetworks
from spliceproxy.policy.networks import bare
from spliceproxy.watched import WatchedFile

if TYPE_CHECKING:
    from spliceproxy.policy.auth.htpasswd import Users

LOOK_SECONDS = 1.0
"""How often the files are looked at for changes, at most."""

SHOWN = 64
"""Characters of a user name that are logged when it is refused."""

SILENCE = 1.0
"""Seconds between two messages that a network makes too many attempts."""

_UNDELAYED = "="
"""The first character of the network of a client that is never delayed. Each such client is a
network by itself."""

_MISSING = "this proxy requires a user name and a password"
_UNSOUND = "the Basic credentials are malformed"
_WRONG = "the user name or the password is wrong"

_WHY = {
    _MISSING: "no user name and password given",
    _UNSOUND: "malformed Basic credentials",
    _WRONG: "wrong user name or password",
}
"""The same for the reason phrase: on it people see which of these it is."""

_REASONS = {_MISSING: "missing", _UNSOUND: "malformed", _WRONG: "wrong"}


@dataclass(eq=False, slots=True)
class _Attempt:
    """A check of credentials that are not known. All requests that bring the same credentials at
    the same time share it. ``begun``: the check goes on even if nobody waits for it any more."""

    network: str
    client: str
    digest: bytes
    pair: bytes
    again: bool  # they were right before, from this network
    task: asyncio.Task[str | None] | None = None
    begun: bool = False
    requests: int = 0


class Authenticator:
    """Who the client of each request is.

    ``enabled``: the settings name users. ``takes_passwords``: some have one. ``uses_peers``: the
    uid of a Unix socket's client matters. ``repeat_for``: seconds that an answer holds for the same
    client and the same field value. It needs a thread and an event loop only to compute a hash.
    """

    repeat_for = LOOK_SECONDS

    def __init__(
        self,
        config: AuthConfig,
        clock: Callable[[], float] = time.monotonic,
        before: Authenticator | None = None,
        kept: Kept | None = None,
    ) -> None:
        """ValueError for a setting or a line of a file that is not right: one line of text. Who has
        guessed under the settings ``before`` is slowed as before. What files said may be ``kept``,
        and is noted there."""
        self._clock = clock
        self._challenge = (basic.challenge(config.realm),)
        self._cache: VerifiedCache = VerifiedCache(None if before is None else before._cache)
        self._wrong = WrongCache()
        self._unsound = WrongCache()  # apart, for they cost nothing
        self._throttle: Throttle = Throttle() if before is None else before._throttle
        never = ClientNetworks(config.no_delay)
        self._undelayed = never.admit
        self._turns = Turns(self._throttle, clock, lambda network: network[:1] != _UNDELAYED)
        self._attempts: dict[tuple[str, bytes], _Attempt] = {}
        self._hashing = Hashing()
        self._said: dict[str, float] = {}  # by network, when it was told to come later
        self._named = identities.build(identities.entries(config))
        self._users: WatchedFile[Users] | None = None
        self._mapped: WatchedFile[Identities] | None = None
        if config.htpasswd is not None:
            from spliceproxy.policy.auth import htpasswd  # its library is slow to load

            htpasswd.warm()
            needed = config.required is True and config.user is None
            self._users = WatchedFile(config.htpasswd, partial(htpasswd.parse, needed=needed), kept)
            self._cache.make_room(len(self._users.value.hashes))
        if config.users_file is not None:
            mapped = partial(identities.parse, config=config)
            self._mapped = WatchedFile(config.users_file, mapped, kept)
        self._look_at = clock() + LOOK_SECONDS
        self._single = b""
        self._single_user = ""
        if config.user is not None:
            self._single_user, password = config.user
            self._single = f"{self._single_user}:{password}".encode()
        self.takes_passwords = config.user is not None or config.htpasswd is not None
        self._required = config.required is True and self.takes_passwords
        self._groups = _by_user(config)
        self.uses_peers = bool(config.peers) or config.users_file is not None
        self.enabled = bool(self.takes_passwords or config.networks or self.uses_peers)

    def groups_of(self, user: str) -> frozenset[str]:
        """The groups of a user."""
        return self._groups.get(user, frozenset())

    def knows(self, user: str, client: str) -> bool:
        """Whether this client, as of :meth:`identify`, can still be this user, "" for nobody."""
        if not user:
            return not self._required
        if (self._single and user == self._single_user) or self._hash_of(user):
            return True
        named = self._named if self._mapped is None else self._mapped.value
        return named.of(client, -1) == user if client else named.has_peer(user)

    def has(self, user: str) -> bool:
        """Whether any client can be this user."""
        named = self._named if self._mapped is None else self._mapped.value
        single = bool(self._single) and user == self._single_user
        return single or bool(self._hash_of(user)) or named.has(user)

    def missing(self) -> Unauthenticated:
        """What asks a client for a password."""
        return self._unauthenticated(_MISSING)

    def look(self) -> None:
        """Reads the files now, if they have changed."""
        self._look_at = self._clock()
        self._look(self._look_at)

    def start(self) -> None:
        """Loads and starts what a hash needs, in the process that will compute it. Later there
        may be no descriptors or memory for that."""
        if self._users is not None:
            self._hashing.start()

    def identify(
        self, credentials: Sequence[bytes], client: str, uid: int = -1
    ) -> str | Awaitable[str]:
        """The user that a request comes from, "" for nobody.

        ``credentials``: the values of its Proxy-Authorization fields. ``client``: an IP
        address, or "" for a Unix socket, and then ``uid`` is its peer's. The answer is the user,
        or an awaitable if a hash must be computed or the try has to wait for its turn. Both the
        call and the wait raise :class:`Unauthenticated`, and Failure if too many tries of too
        many networks are waiting. Right credentials override a network's user; wrong ones are
        refused whatever the network.
        """
        now = self._clock()
        self._look(now)
        if not credentials or not self.takes_passwords:
            return self._without_credentials(client, uid)
        # Two fields could be read in two ways.
        value = credentials[0] if len(credentials) == 1 else b""
        digest = self._cache.digest(value)
        known = self._cache.get(digest)
        undelayed = self._undelayed(client)
        network = _UNDELAYED + client if undelayed else network_of(client)
        again = known is not None and (undelayed or self._cache.came_from(network, digest))
        if again and known is not None and now < known.until:
            return known.user
        wrong = self._wrong.get(network, digest, now)
        if wrong is not None:
            raise self._unauthenticated(wrong.detail)
        pair = basic.user_pass(value)
        if pair is None:
            if self._unsound.get(network, digest, now) is None:
                self._log_failure(client, "", "malformed Basic credentials")
                self._unsound.put(network, digest, Wrong("", "", _UNSOUND, now + WRONG_SECONDS))
            raise self._unauthenticated(_UNSOUND)
        if not again and (network, digest) not in self._attempts:
            user = self._known_user(digest, pair, now)
            name = self._name_of(pair)
            # Of guesses that are slowed none may stand out by its answer, the right one neither.
            if user and self._turns.take_now(network, name):
                self._turns.release(network, name, right=True)
                self._cache.place(network, digest)
                return user
        return self._slowly(network, client, digest, pair, again=again)

    def close(self) -> None:
        """Ends what is under way. Idempotent."""
        for attempt in self._attempts.values():
            if attempt.task is not None:
                attempt.task.cancel()
        self._turns.close()
        self._hashing.close()

    def _look(self, now: float) -> None:
        if now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        if self._users is not None and self._users.look():
            self._cache.keep(self._users.value.hashes)
            self._wrong.keep(self._users.value.hashes)
        if self._mapped is not None:
            self._mapped.look()

    def _without_credentials(self, client: str, uid: int) -> str:
        named = self._named if self._mapped is None else self._mapped.value
        user = named.of(client, uid)
        if not user and self._required:
            raise self._unauthenticated(_MISSING)
        return user

    def _is_single(self, pair: bytes) -> bool:
        return bool(self._single) and hmac.compare_digest(pair, self._single)

    def _known_user(self, digest: bytes, pair: bytes, now: float) -> str:
        """The user of credentials that no hash need be computed for, "" for others."""
        if self._is_single(pair):
            self._cache.put(digest, Verified(self._single_user, "", math.inf))
            return self._single_user
        known = self._cache.get(digest)
        return known.user if known is not None and now < known.until else ""

    def _name_of(self, pair: bytes) -> bytes:
        return self._cache.digest(pair.partition(b":")[0])

    # ---- credentials that are not known to be right ----------------------------------------

    async def _slowly(
        self, network: str, client: str, digest: bytes, pair: bytes, *, again: bool
    ) -> str:
        """The user of these credentials. If a request leaves, the attempt goes on for others that
        wait for it, and so does a check that has begun. With its last request an attempt that
        still waits leaves the line."""
        attempt = self._attempts.get((network, digest))
        if attempt is None:
            attempt = self._begin(_Attempt(network, client, digest, pair, again))
        assert attempt.task is not None
        attempt.requests += 1
        try:
            user = await asyncio.shield(attempt.task)
        except Later as later:
            raise Unauthenticated(
                "too many attempts with a wrong password from this address",
                429,
                (b"Retry-After: %d" % math.ceil(later.seconds),),
                why="too many wrong passwords",
                reason="throttled",
            ) from None
        except Full:
            detail = "too many passwords are being checked"
            raise Failure("connection_limit_reached", detail, why=detail) from None
        finally:
            attempt.requests -= 1
            if not attempt.requests and not attempt.begun:
                self._forget(attempt)
                attempt.task.cancel()
        if user is None:
            raise self._unauthenticated(_WRONG)
        return user

    def _begin(self, attempt: _Attempt) -> _Attempt:
        def ended(task: asyncio.Task[str | None]) -> None:
            self._forget(attempt)
            if not task.cancelled():
                task.exception()  # is raised where it is awaited, if anybody still does

        # Turns are taken in the order of the requests, not of the tasks.
        attempt.begun = attempt.again or self._turns.take_now(
            attempt.network, self._name_of(attempt.pair)
        )
        attempt.task = asyncio.ensure_future(self._attempt(attempt))
        attempt.task.add_done_callback(ended)
        self._attempts[attempt.network, attempt.digest] = attempt
        return attempt

    def _forget(self, attempt: _Attempt) -> None:
        key = attempt.network, attempt.digest
        if self._attempts.get(key) is attempt:
            del self._attempts[key]

    async def _attempt(self, attempt: _Attempt) -> str | None:
        """The user, None if the credentials are wrong; Later, Full."""
        if attempt.again:  # its user is never slowed
            user = await self._check(attempt)
            if user is not None:
                self._turns.succeeded(attempt.network)
            return user
        name = self._name_of(attempt.pair)
        if not attempt.begun:
            try:
                await self._turns.take(attempt.network, name)
            except Later:
                self._say_too_many(attempt)
                raise
            attempt.begun = True
        user = None
        try:
            user = await self._check(attempt)
        finally:
            self._turns.release(attempt.network, name, right=user is not None)
        return user

    async def _check(self, attempt: _Attempt) -> str | None:
        """The same when its turn has come. What is wrong is counted, told and remembered."""
        now = self._clock()
        self._look(now)  # it may have stood in line for long
        known_user = self._known_user(attempt.digest, attempt.pair, now)
        if known_user:
            self._cache.place(attempt.network, attempt.digest)
            return known_user
        user, password = basic.split(attempt.pair)
        hashed = self._hash_of(user)
        if self._users is not None and (hashed or self._users.value.decoy):
            ahead = attempt.again or self._turns.trusts(attempt.network)
            decoy = self._users.value.decoy
            right = await self._hashing.verify(
                password, hashed or decoy, ahead=ahead, same=attempt.digest
            )
            # The line may have changed meanwhile.
            if right and hashed and hashed == self._hash_of(user):
                until = self._clock() + SECONDS
                self._cache.put(attempt.digest, Verified(user, hashed, until))
                self._cache.place(attempt.network, attempt.digest)
                return user
        now = self._clock()
        self._cache.drop(attempt.digest)
        self._throttle.failed(attempt.network, self._name_of(attempt.pair), now)
        known = hashed or (self._single and user == self._single_user)
        self._log_failure(attempt.client, user, "wrong password" if known else "no such user")
        if hashed == self._hash_of(user):
            wrong = Wrong(user, hashed, _WRONG, now + WRONG_SECONDS)
            self._wrong.put(attempt.network, attempt.digest, wrong)
        return None

    def _hash_of(self, user: str) -> str:
        return self._users.value.hashes.get(user, "") if self._users is not None else ""

    # ---- refusals --------------------------------------------------------------------------

    def _unauthenticated(self, detail: str) -> Unauthenticated:
        return Unauthenticated(
            detail, 407, self._challenge, why=_WHY[detail], reason=_REASONS[detail]
        )

    def _say_too_many(self, attempt: _Attempt) -> None:
        """Once a second of a network: it may try as often as it likes."""
        now = self._clock()
        if now - self._said.get(attempt.network, -math.inf) < SILENCE:
            return
        if len(self._said) >= NETWORKS:
            self._said.clear()
        self._said[attempt.network] = now
        self._log_failure(attempt.client, basic.split(attempt.pair)[0], "too many attempts")

    def _log_failure(self, client: str, user: str, why: str) -> None:
        """The line that docs/users.md has a pattern for. The name can hold nothing that looks like
        another line: what is not plain in it is percent-encoded."""
        name = quote(user[:SHOWN], safe="") or "-"
        shown = bare(client) or "unix"
        log.warning("authentication failed: client %s, user %s, %s", shown, name, why)


def _by_user(config: AuthConfig) -> dict[str, frozenset[str]]:
    users = {user for members in config.groups.values() for user in members}
    return {
        user: frozenset(group for group, members in config.groups.items() if user in members)
        for user in users
    }
