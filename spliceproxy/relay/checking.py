"""The check of the name inside TLS, of a tunnel: what its client says first, against where it has
asked to go.

A tunnel with a :class:`NameCheck` sends nothing of its client on before that is known; bytes of the
origin are not held back. The first flight may come in any pieces, and it goes on as it came.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

MATCH = "match"
MISMATCH = "mismatch"  # another name, or an encrypted one behind another
NO_NAME = "no-name"
ECH = "ech"  # the name is right, and there may be another one inside, encrypted (RFC 9849)
NOT_TLS = "not-tls"
MALFORMED = "malformed"  # what no server would take for a ClientHello, or the half of one
LATE = "late"  # it was not whole in time, from its first byte on
ADDRESS = "address"  # the client has asked for an address, so there is no name to compare with

FOUND = ("", MATCH, MISMATCH, NO_NAME, ECH, NOT_TLS, MALFORMED, LATE, ADDRESS)
"""All of them, behind that for what is not known, in the order of the enum Found of
native/core/types.pxd: the compiled module compares them when it is imported."""

PASSED = "passed"
REFUSED = "refused"


class NameCheck(NamedTuple):
    """``name`` is the canonical host of the tunnel, "" for an address, of which nothing is asked.
    ``refused`` has a bit for each of FOUND with which the tunnel is reset."""

    name: str
    refused: int

    def refuses(self, found: str) -> bool:
        """Whether it is reset for what was found."""
        return bool(self.refused >> FOUND.index(found) & 1)


def refusing(words: Iterable[str]) -> int:
    """The bits of some of FOUND."""
    return sum({1 << FOUND.index(word) for word in words})
