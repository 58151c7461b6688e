"""Puts identity together: who a request comes from, or what to answer instead."""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

from spliceproxy.config import AuthConfig
from spliceproxy.errors import Failure
from spliceproxy.policy.auth import basic, identities
from spliceproxy.policy.auth.basic import Unauthenticated
from spliceproxy.policy.auth.cache import SECONDS, Verified, VerifiedCache
from spliceproxy.policy.auth.identities import Identities
from spliceproxy.policy.auth.throttle import Throttle
from spliceproxy.policy.auth.watched import WatchedFile

if TYPE_CHECKING:
    from spliceproxy.policy.auth.htpasswd import Users

log = logging.getLogger("spliceproxy")

LOOK_SECONDS = 1.0
"""How often the files are looked at for changes, at most."""

THREADS = 2
"""That compute hashes."""

MAX_ATTEMPTS = 256
"""Hashes that may be under way or waiting; beyond it 503."""

SHOWN = 64
"""Characters of a name of no user that are logged."""


class Authenticator:
    """Who the client of each request is.

    ``enabled``: there is something to ask. ``uses_peers``: the uid of a Unix socket's client
    matters. ``repeat_for``: seconds that an answer holds for the same client and the same
    field value. Makes no thread and needs no event loop before it must compute a hash.
    """

    repeat_for = LOOK_SECONDS

    def __init__(self, config: AuthConfig, clock: Callable[[], float] = time.monotonic) -> None:
        """ValueError for a setting or a line of a file that is not right: one line of text."""
        self._clock = clock
        self._challenge = (basic.challenge(config.realm),)
        self._cache = VerifiedCache()
        self._throttle = Throttle()
        self._attempts: dict[bytes, asyncio.Task[str | None]] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._named = identities.build(identities.entries(config))
        self._users: WatchedFile[Users] | None = None
        self._mapped: WatchedFile[Identities] | None = None
        if config.htpasswd is not None:
            from spliceproxy.policy.auth import htpasswd  # its library is slow to load

            self._users = WatchedFile(config.htpasswd, htpasswd.parse)
        if config.users_file is not None:
            self._mapped = WatchedFile(config.users_file, partial(identities.parse, config=config))
        self._look_at = clock() + LOOK_SECONDS
        self._single = b""
        self._single_user = ""
        if config.user is not None:
            self._single_user, password = config.user
            self._single = f"{self._single_user}:{password}".encode()
        self._has_passwords = config.user is not None or config.htpasswd is not None
        self._required = config.required and self._has_passwords
        self._groups = _by_user(config)
        self.uses_peers = bool(config.peers) or config.users_file is not None
        self.enabled = bool(self._has_passwords or config.networks or self.uses_peers)

    def groups_of(self, user: str) -> frozenset[str]:
        """The groups of a user."""
        return self._groups.get(user, frozenset())

    def identify(
        self, credentials: Sequence[bytes], client: str, uid: int = -1
    ) -> str | Awaitable[str]:
        """The user that a request comes from, "" for nobody.

        ``credentials``: the values of its Proxy-Authorization fields. ``client``: an IP
        address, "" for a Unix socket, and then ``uid`` its peer's. The user comes at once,
        unless a hash must be computed or the client is slowed for wrong passwords. Raises
        :class:`Unauthenticated`, also when it is awaited, and Failure where too many hashes
        are waiting. Right credentials come before a network's user, wrong ones are refused
        whatever the network.
        """
        now = self._clock()
        if now >= self._look_at:
            self._look(now)
        if not credentials or not self._has_passwords:
            return self._without_credentials(client, uid)
        # Two fields could be read in two ways.
        value = credentials[0] if len(credentials) == 1 else b""
        digest = self._cache.digest(value)
        known = self._cache.get(digest)
        if known is not None and now < known.until:
            return known.user
        pair = basic.user_pass(value)
        if pair is None:
            self._log_failure(client, "", "not sound Basic credentials")
            raise self._unauthenticated("these are not sound Basic credentials")
        # Of guesses that are slowed none may stand out by its answer, the right one neither.
        if self._is_single(pair) and not self._throttle.slows(client, now):
            return self._accept_single(digest)
        return self._slowly(digest, pair, client, now, guess=known is None)

    def close(self) -> None:
        """Ends what is under way. Idempotent."""
        for task in self._attempts.values():
            task.cancel()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    def _look(self, now: float) -> None:
        self._look_at = now + LOOK_SECONDS
        if self._users is not None and self._users.look():
            self._cache.keep(self._users.value.hashes)
        if self._mapped is not None:
            self._mapped.look()

    def _without_credentials(self, client: str, uid: int) -> str:
        named = self._named if self._mapped is None else self._mapped.value
        user = named.of(client, uid)
        if not user and self._required:
            raise self._unauthenticated("this proxy asks for a user name and a password")
        return user

    def _is_single(self, pair: bytes) -> bool:
        return bool(self._single) and hmac.compare_digest(pair, self._single)

    def _accept_single(self, digest: bytes) -> str:
        self._cache.put(digest, Verified(self._single_user, "", math.inf))
        return self._single_user

    # ---- credentials that are not known to be right ----------------------------------------

    async def _slowly(
        self, digest: bytes, pair: bytes, client: str, now: float, *, guess: bool
    ) -> str:
        """The user of these credentials. Requests that bring the same ones at the same time
        share one attempt; one that leaves does not end it."""
        attempt = self._attempts.get(digest)
        if attempt is None:
            attempt = self._begin(digest, pair, client, now, guess=guess)
        user = await asyncio.shield(attempt)
        if user is None:
            raise self._unauthenticated("the user name or the password is wrong")
        return user

    def _begin(
        self, digest: bytes, pair: bytes, client: str, now: float, *, guess: bool
    ) -> asyncio.Task[str | None]:
        if len(self._attempts) >= MAX_ATTEMPTS:
            raise Failure("connection_limit_reached", "too many passwords are being checked")
        wait = 0.0
        if guess:  # an old entry of the cache was right once: its user is never slowed
            granted, wait = self._throttle.reserve(client, now)
            if not granted:
                self._log_failure(client, basic.split(pair)[0], "too many attempts")
                raise Unauthenticated(
                    "too many attempts with a wrong password from this address",
                    429,
                    (b"Retry-After: %d" % math.ceil(wait),),
                )
        attempt = asyncio.ensure_future(self._attempt(digest, pair, client, wait))
        self._attempts[digest] = attempt
        attempt.add_done_callback(lambda _: self._attempts.pop(digest))
        return attempt

    async def _attempt(self, digest: bytes, pair: bytes, client: str, wait: float) -> str | None:
        """The user, None if the credentials are wrong."""
        if wait:
            await asyncio.sleep(wait)
        if self._is_single(pair):
            return self._accept_single(digest)
        user, password = basic.split(pair)
        hashed = self._hash_of(user)
        if self._users is not None and (hashed or self._users.value.decoy):
            right = await self._check(password, hashed or self._users.value.decoy)
            # The line may have changed meanwhile.
            if right and hashed and hashed == self._hash_of(user):
                self._cache.put(digest, Verified(user, hashed, self._clock() + SECONDS))
                return user
        self._cache.drop(digest)
        self._throttle.failed(client, self._clock())
        known = hashed or (self._single and user == self._single_user)
        self._log_failure(client, user, "wrong password" if known else "no such user")
        return None

    async def _check(self, password: bytes, hashed: str) -> bool:
        from spliceproxy.policy.auth import htpasswd

        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="auth")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, htpasswd.verify, password, hashed)

    def _hash_of(self, user: str) -> str:
        return self._users.value.hashes.get(user, "") if self._users is not None else ""

    # ---- refusals --------------------------------------------------------------------------

    def _unauthenticated(self, detail: str) -> Unauthenticated:
        return Unauthenticated(detail, 407, self._challenge)

    def _log_failure(self, client: str, user: str, why: str) -> None:
        """The line that README.md has a pattern for. The name can hold nothing that looks like
        another line: what is not plain in it is percent-encoded."""
        name = quote(user[:SHOWN], safe="") or "-"
        log.warning("authentication failed: client %s, user %s, %s", client or "unix", name, why)


def _by_user(config: AuthConfig) -> dict[str, frozenset[str]]:
    users = {user for members in config.groups.values() for user in members}
    return {
        user: frozenset(group for group, members in config.groups.items() if user in members)
        for user in users
    }
