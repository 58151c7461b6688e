"""The refusals of the policy: an id to ask about, and a sentence or two for the client."""

from __future__ import annotations

from spliceproxy.errors import Denied
from spliceproxy.policy.lockfile import LOCKED
from spliceproxy.policy.rules import DEFAULT, Match

GUARD = "guard"
"""The id by which a refusal for the address is known."""

STRANGER = "clients"
"""The id by which the refusal of a client that may not use the proxy is known."""


def denied(match: Match) -> Denied:
    if match.rule == DEFAULT:
        return Denied("No rule of this proxy allows this request.", DEFAULT)
    return Denied("A rule of this proxy does not allow this request.", match.rule, match.status)


def stranger() -> Denied:
    return Denied(
        "This proxy does not serve clients of your network.",
        STRANGER,
        advice="Whoever runs this proxy can allow it with --allow-clients.",
    )


def unlisted(host: str, port: int) -> Denied:
    return Denied(
        "This proxy is locked to a list of destinations, and this is none of them.",
        LOCKED,
        advice=f'Whoever runs this proxy can add "{host}" to the file of --locked, to the hosts of '
        f"a rule that allows port {port}.",
    )


def odd_address() -> Denied:
    return Denied(
        "This proxy does not connect to an address in such a spelling.",
        GUARD,
        advice="Write it as four decimal numbers, without leading zeros or a dot at the end.",
        error="destination_ip_prohibited",
    )


def prohibited(kind: str) -> Denied:
    return Denied(
        f"This proxy does not connect to such an address: {kind}.",
        GUARD,
        advice="Whoever runs this proxy can allow it, by guard-allow or --guard.",
        error="destination_ip_prohibited",
    )
