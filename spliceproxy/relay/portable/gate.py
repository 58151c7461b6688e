"""The check of the name inside TLS (relay.checking), of a tunnel in Python: a gate before its way
up. native/core/gate.pxd is the same in C."""

from __future__ import annotations

from spliceproxy.relay.checking import ECH, MALFORMED, MATCH, MISMATCH, NOT_TLS, NameCheck
from spliceproxy.tls import hello


def found_of(check: NameCheck, said: hello.Hello | None) -> str:
    """What a first flight is to this check, "" while that is not known."""
    if said is None:
        return ""
    if said.outcome not in (hello.NAMED, hello.ECH):
        return said.outcome
    if said.name != check.name:
        return MISMATCH
    return ECH if said.outcome == hello.ECH else MATCH


class Gate:
    """``data`` is what has come of the client and was not sent on; ``since``, monotonic seconds,
    is when the first byte of it came, 0.0 before that."""

    __slots__ = ("_flight", "check", "data", "since")

    MOST = hello.MOST
    """Bytes that are kept at most."""

    def __init__(self, check: NameCheck) -> None:
        self.check = check
        self.data = bytearray()
        self.since = 0.0
        self._flight = hello.Flight()

    def hear(self, more: bytes, now: float) -> str:
        """What was found with so much more, "" while that is not known."""
        self.since = self.since or now
        self.data += more
        return found_of(self.check, self._flight.feed(more))

    def end(self) -> str:
        """What was found if the client says no more."""
        return MALFORMED if self.data else NOT_TLS
