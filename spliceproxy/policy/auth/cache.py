"""Credentials that were found right, so that a hash is computed once."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

KEPT = 4096
"""Credentials kept; beyond it the ones used longest ago go."""

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
    """By a keyed digest: no password is kept, and how long a look-up takes says nothing of one."""

    __slots__ = ("_entries", "_keyed")

    def __init__(self) -> None:
        self._keyed = hashlib.blake2b(key=os.urandom(32), digest_size=16)
        self._entries: OrderedDict[bytes, Verified] = OrderedDict()

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
        if len(self._entries) > KEPT:
            self._entries.popitem(last=False)

    def drop(self, digest: bytes) -> None:
        self._entries.pop(digest, None)

    def keep(self, hashes: Mapping[str, str]) -> None:
        """Drops the entries of users that are gone or have another hash now."""
        for digest, entry in list(self._entries.items()):
            if entry.hashed and hashes.get(entry.user) != entry.hashed:
                del self._entries[digest]
