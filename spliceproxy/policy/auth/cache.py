"""Credentials that were found right or wrong, so that a hash is computed once."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

KEPT = 4096
"""Credentials kept, at least; beyond it the ones used longest ago go."""

PLACES = 16384
"""Networks kept from which they came, each with the credentials; likewise."""

KEPT_EACH, PLACES_EACH = 2, 4
"""As many for each user where that is more: credentials may come in two spellings, and from a few
networks. With fewer than there are users who come by turns, each request would need a hash."""

SECONDS = 600.0
"""After this the hash is computed again."""


@dataclass(frozen=True, slots=True)
class Verified:
    """``hashed``: what the password was checked against, "" if no file has it; ``until``: good
    before this time."""

    user: str
    hashed: str
    until: float


class VerifiedCache:
    """Credentials by a keyed digest: no password is kept, and the time of a look-up tells nothing
    about one.

    The networks that credentials came from are kept apart. A hash is computed once for all
    networks, but in each network the credentials were a guess when they first came.
    """

    __slots__ = ("_entries", "_kept", "_keyed", "_places", "_places_kept")

    def __init__(self, before: VerifiedCache | None = None) -> None:
        """``before``: one whose digests are the same, and of which nothing else is kept."""
        self._kept, self._places_kept = KEPT, PLACES
        fresh = hashlib.blake2b(key=os.urandom(32), digest_size=16)
        self._keyed: hashlib.blake2b = fresh if before is None else before._keyed
        self._entries: OrderedDict[bytes, Verified] = OrderedDict()
        self._places: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def make_room(self, users: int) -> None:
        """So many users are there now."""
        self._kept = max(KEPT, KEPT_EACH * users)
        self._places_kept = max(PLACES, PLACES_EACH * users)

    def digest(self, value: bytes) -> bytes:
        """The key of a Proxy-Authorization value; 16 bytes."""
        digest = self._keyed.copy()
        digest.update(value)
        return digest.digest()

    def get(self, digest: bytes) -> Verified | None:
        """The entry, be its time over or not."""
        entry = self._entries.get(digest)
        if entry is not None:
            self._entries.move_to_end(digest)
        return entry

    def put(self, digest: bytes, entry: Verified) -> None:
        self._entries[digest] = entry
        self._entries.move_to_end(digest)
        while len(self._entries) > self._kept:
            self._entries.popitem(last=False)

    def came_from(self, network: str, digest: bytes) -> bool:
        """Whether the credentials have been right from a network."""
        if (network, digest) not in self._places:
            return False
        self._places.move_to_end((network, digest))
        return True

    def place(self, network: str, digest: bytes) -> None:
        """They are right, and come from there."""
        self._places[network, digest] = None
        self._places.move_to_end((network, digest))
        while len(self._places) > self._places_kept:
            self._places.popitem(last=False)

    def drop(self, digest: bytes) -> None:
        self._entries.pop(digest, None)

    def keep(self, hashes: Mapping[str, str]) -> None:
        """Drops the entries of users that are gone or have another hash now; ``hashes`` are
        those of all users."""
        self.make_room(len(hashes))
        for digest, entry in list(self._entries.items()):
            if entry.hashed and hashes.get(entry.user) != entry.hashed:
                del self._entries[digest]


WRONG_KEPT = 4096
"""Wrong credentials kept; beyond it those stored first go."""

WRONG_SECONDS = 600.0
"""Seconds for which the same wrong credentials do not count as a new guess. Clients repeat them
by themselves, up to twenty times in a row, or every minute for a day."""

NAME_MAX = 256
"""Characters of a user name that is kept; wrong credentials of a longer one are not."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """``hashed``: what the password was checked against, "" if the file has no such user;
    ``detail``: what the client was told; ``until``: so before this time."""

    user: str
    hashed: str
    detail: str
    until: float


class WrongCache:
    """Credentials that were wrong a moment ago, each for one network. So nobody learns from a
    quick answer what another network has tried. ``key`` is what :meth:`VerifiedCache.digest`
    returns."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[str, bytes], Wrong] = OrderedDict()

    def get(self, network: str, key: bytes, now: float) -> Wrong | None:
        """The entry, if its time is not over."""
        entry = self._entries.get((network, key))
        return entry if entry is not None and now < entry.until else None

    def put(self, network: str, key: bytes, entry: Wrong) -> None:
        if len(entry.user) > NAME_MAX:
            return
        self._entries[network, key] = entry
        self._entries.move_to_end((network, key))
        if len(self._entries) > WRONG_KEPT:
            self._entries.popitem(last=False)

    def keep(self, hashes: Mapping[str, str]) -> None:
        """Drops the entries of users that are new or have another hash now."""
        for key, entry in list(self._entries.items()):
            if hashes.get(entry.user, "") != entry.hashed:
                del self._entries[key]
