"""Users and the hashes of their passwords, as htpasswd(1) writes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from passlib.hash import apr_md5_crypt, bcrypt, sha512_crypt

from spliceproxy.watched import Mistakes

_HANDLERS: dict[str, Any] = {
    "$2y$": bcrypt,
    "$2b$": bcrypt,
    "$2a$": bcrypt,
    "$6$": sha512_crypt,
    "$apr1$": apr_md5_crypt,
}

BCRYPT_MAX = 72
"""Bytes of a password that bcrypt looks at; htpasswd(1) drops the others too."""


@dataclass(frozen=True, slots=True)
class Users:
    """``hashes`` by user. ``decoy`` is one that costs as much as most of them do, for users
    that do not exist; "" where nobody exists."""

    hashes: Mapping[str, str]
    decoy: str


def parse(text: str, *, needed: bool = False) -> Users:
    """The users of a file: lines ``user:hash``, empty ones, and comments that begin with #. As
    in nginx, what follows a second colon is a comment. ``needed``: without a user in it nobody
    could use the proxy. Mistakes, for a :class:`WatchedFile`."""
    hashes: dict[str, str] = {}
    costs: dict[str, str] = {}
    problems: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip(" \t\r")
        if not line or line.startswith("#"):
            continue
        user, colon, rest = line.partition(":")
        if not colon or not user:
            problems.append(f":{number}: not of the form user:hash")
            continue
        if user in hashes:
            problems.append(f":{number}: user {user!r} is listed twice")
            continue
        hashed = rest.partition(":")[0]
        try:
            costs[hashed] = _cost(hashed)
        except ValueError as error:
            problems.append(f":{number}: user {user!r}: {error}")
        hashes[user] = hashed
    if not hashes and not problems and needed:
        problems.append(": it has no user, so nobody could use the proxy; add one with htpasswd -B")
    if problems:
        raise Mistakes(problems)
    return Users(hashes, _usual(hashes, costs))


_WARM = (
    "$2b$04$abcdefghijklmnopqrstuuguFleIxy8dETUY.GrzteKSK3w82GLfS",
    "$6$rounds=1000$salt$edhvM.oPJ3fNqrDO.H.20fvsXNMP5SSVAOEUQdUsuaw7g7zBeUaFB2WU2EpJxJEYRBPHVf"
    ".nLdBDnEx3lAekz.",
    "$apr1$salt$izTckQcDwyNWHrSaEdyCq/",
)
"""A cheap hash of each kind."""


@lru_cache(maxsize=1)
def warm() -> None:
    """Computes a hash of each kind once. The library loads its parts when they are first used,
    and that fails where there is no descriptor left."""
    for hashed in _WARM:
        if not _HANDLERS[_prefix(hashed)].verify(b"-", hashed):
            raise RuntimeError(f"a hash of the kind {_prefix(hashed)} cannot be computed")


def verify(password: bytes, hashed: str) -> bool:
    """Whether ``hashed`` is the password's. Takes milliseconds, or many for bcrypt; compares in
    constant time."""
    handler = _HANDLERS[_prefix(hashed)]
    return bool(handler.verify(password[:BCRYPT_MAX] if handler is bcrypt else password, hashed))


def _prefix(hashed: str) -> str:
    return next((prefix for prefix in _HANDLERS if hashed.startswith(prefix)), "")


def _cost(hashed: str) -> str:
    """What says how much work a hash is; ValueError if it is none of ours."""
    prefix = _prefix(hashed)
    if not prefix:
        raise ValueError(
            "the hash is of an unknown kind; "
            "allowed: bcrypt ($2y$), SHA-512 crypt ($6$), apr1 ($apr1$)"
        )
    try:
        parsed = _HANDLERS[prefix].from_string(hashed)
    except ValueError:
        raise ValueError(f"the {prefix} hash is damaged") from None
    if parsed.checksum is None:
        raise ValueError(f"the {prefix} hash is damaged")
    return f"{parsed.name} {getattr(parsed, 'rounds', '')}"


def _usual(hashes: Mapping[str, str], costs: Mapping[str, str]) -> str:
    if not hashes:
        return ""
    ((usual, _),) = Counter(costs[hashed] for hashed in hashes.values()).most_common(1)
    return next(hashed for hashed in hashes.values() if costs[hashed] == usual)
