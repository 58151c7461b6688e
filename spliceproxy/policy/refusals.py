"""The refusals of the policy: an id to ask about, and a sentence or two for the client."""

from __future__ import annotations

from spliceproxy.errors import Denied
from spliceproxy.policy.lockfile import LOCKED
from spliceproxy.policy.rules import DEFAULT, Match
from spliceproxy.relay.checking import (
    ADDRESS,
    ECH,
    LATE,
    MALFORMED,
    NO_NAME,
    NOT_TLS,
)
from spliceproxy.relay.checking import (
    MISMATCH as OTHER_NAME,
)

GUARD = "guard"
"""The id of the refusal of an address."""

ROUTE = "route"
"""The id of the refusal of a destination that the routes lead nowhere."""

MISMATCH = "host-mismatch"
"""The id of the refusal of a connection that was led here, whose name is that of another server."""

TARGETS = "targets"
"""The id of the refusal of a destination that is written as an address, where only names are."""

TLS_NAME = "tls-name"
"""The id of the refusal of a tunnel for what was found of the name inside TLS."""

STRANGER = "clients"
"""The id of the refusal of a client that may not use the proxy."""


def denied(match: Match) -> Denied:
    if match.rule == DEFAULT:
        return Denied("No rule of this proxy allows this request.", DEFAULT)
    return Denied(
        "A rule of this proxy does not allow this request.",
        match.rule,
        match.status,
        words=match.reason,
    )


def no_user() -> Denied:
    """A tunnel that lives is of nobody whom the settings know."""
    return Denied("the settings have no such user any more", "users", 407)


def for_users() -> Denied:
    """A tunnel that lives is nobody's, and goes where only users may."""
    return Denied("the rules allow this to users alone", "users", 407)


def stranger() -> Denied:
    return Denied(
        "This proxy does not serve clients from your network.",
        STRANGER,
        advice="The administrator of this proxy can allow it with --allow-clients.",
    )


def unlisted(host: str, port: int) -> Denied:
    return Denied(
        "This proxy is locked to a list of destinations, and this one is not on it.",
        LOCKED,
        advice=f'The administrator of this proxy can allow it: add "{host}" to the hosts of a rule '
        f"for port {port} in the file of --locked.",
    )


def literal(address: str, *, locked: bool) -> Denied:
    how = 'set targets to "any"'
    if locked:
        how = f'add "{address}" to the hosts of a rule in the file of --locked, or {how}'
    return Denied(
        "This proxy connects to names, and not to addresses that a client writes itself.",
        TARGETS,
        advice=f"Ask for the server by its name. The administrator of this proxy can {how}.",
    )


def nameless(address: str) -> Denied:
    return Denied(
        "This proxy compares the name of a server with that inside TLS, and an address has none.",
        TLS_NAME,
        advice="Ask for the server by its name. The administrator of this proxy can allow it: add "
        f'"{address}" to the hosts of a rule that has another tls-name than require.',
        found=ADDRESS,
    )


_FOUND = {
    OTHER_NAME: "The name inside TLS is {1}, and not {0}.",
    NO_NAME: "There is no name inside TLS, where {} is wanted.",
    ECH: "There may be an encrypted name inside TLS, where {} is wanted.",
    NOT_TLS: "What the client of {} says is no TLS.",
    MALFORMED: "What the client of {} says first is no whole ClientHello.",
    LATE: "The ClientHello of the client of {} was not whole in time.",
}


def found_inside(found: str, host: str, name: str = "") -> str:
    """Why a tunnel to a host was reset, in words. ``name`` is the one that was found, if that is
    known."""
    return _FOUND[found].format(host, name or "another one")


def odd_address() -> Denied:
    return Denied(
        "This proxy does not connect to an address that is written like this.",
        GUARD,
        advice="Write it as four decimal numbers, without leading zeros or a dot at the end.",
        error="destination_ip_prohibited",
    )


def no_way() -> Denied:
    return Denied("The routes of this proxy lead nowhere for this destination.", ROUTE)


def mismatch(name: str, address: str) -> Denied:
    return Denied(f"The name {name} does not lead to {address}.", MISMATCH)


def prohibited(kind: str) -> Denied:
    return Denied(
        f"This proxy does not connect to addresses of this kind: {kind}.",
        GUARD,
        advice="The administrator of this proxy can allow it with guard-allow or --guard.",
        error="destination_ip_prohibited",
    )
