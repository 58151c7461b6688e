"""Which errors of a socket mean what: each list once, for whoever reads an errno.

That this process or machine has nothing left is :data:`spliceproxy.errors.EXHAUSTED`.
"""

from __future__ import annotations

from errno import (
    ECONNABORTED,
    ECONNREFUSED,
    ECONNRESET,
    EHOSTDOWN,
    EHOSTUNREACH,
    EINTR,
    ENETDOWN,
    ENETRESET,
    ENETUNREACH,
    ENONET,
    ENOPROTOOPT,
    ENOTCONN,
    EOPNOTSUPP,
    EPERM,
    EPIPE,
    EPROTO,
    ESHUTDOWN,
    ETIMEDOUT,
)

NO_WAY = frozenset({EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH, ENONET})
"""There is no way to the peer: no route, or what ICMP says of one (icmp(7))."""

OF_PEER = NO_WAY | {
    ECONNABORTED,
    ECONNREFUSED,
    ECONNRESET,
    ENETRESET,
    ENOPROTOOPT,
    ENOTCONN,
    EOPNOTSUPP,
    EPIPE,
    EPROTO,
    ESHUTDOWN,
    ETIMEDOUT,
}
"""What a connected socket says when its peer, or the way there, is gone: tcp(7), and what
icmp(7) and icmpv6 messages become. Anything else is a fault on this side."""

TRANSIENT = NO_WAY | {ECONNABORTED, EINTR, ENOPROTOOPT, EOPNOTSUPP, EPERM, EPROTO}
"""Errors of accept(2) that are of the new connection, not of the listening socket: the next one
may be accepted at once. After any other the server pauses. The lane has its list from here."""
