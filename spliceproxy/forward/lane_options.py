"""How the lane is set up: what becomes of each field, what it may ask about, and its limits."""

from __future__ import annotations

from pathlib import Path

from spliceproxy.config import Config
from spliceproxy.forward.plain import REQUEST_RULES, RESPONSE_RULES
from spliceproxy.forward.rewriting import Rewriting
from spliceproxy.http1.authentication import PER_REQUEST
from spliceproxy.http1.rewrite import ESTABLISHED
from spliceproxy.observe.record import record_of
from spliceproxy.observe.records import Records
from spliceproxy.policy.engine import Policy
from spliceproxy.relay.lane import NOTE_MAX, LaneOptions
from spliceproxy.upstream.dialer import ATTEMPT_DELAY, dial_error_table
from spliceproxy.upstream.pool import MAX_IDLE, PER_ORIGIN, most_idle

CONNECT = "C"

KINDS = {
    ("CONNECT", "authority"): CONNECT,
    ("GET", "absolute"): "G",
    ("GET", "origin"): "g",
    ("HEAD", "absolute"): "H",
    ("HEAD", "origin"): "h",
    ("", "absolute"): "M",
    ("", "origin"): "m",
}
"""The relay's letters for a method and a form of the target; "" is any other method, which stands
in front of the authority by which a route is found."""

ASK = 60.0
"""Seconds that a question may wait beyond what its answer waits for: names and functions. The
longest of the rest is a password in line (``policy.auth.turns``)."""


def lane_options(
    config: Config, policy: Policy, records: Records, asks: str, waits: float
) -> LaneOptions:
    """The relay's settings. ``asks``: the kinds of requests about which there is somebody to ask;
    the functions of --policy may take ``waits`` seconds for an answer."""
    rewriting, times = Rewriting.of(config), config.timeouts
    via, sums = rewriting.via, records.tally is not None
    rules = dict(REQUEST_RULES)
    if not policy.identifies:  # no decision depends on the client's credentials
        rules[b"proxy-authorization"] = "drop"
    if not via:
        del rules[b"via"]
    return LaneOptions(
        request_rules=rules,
        response_rules=RESPONSE_RULES,
        schemes=PER_REQUEST,
        via=b"Via: 1.1 " + via + b"\r\n" if via else b"",
        name=via,
        established=ESTABLISHED,
        head=times.head,
        header=times.proxy_header,
        ask=ASK + times.lookup + waits,
        dial=times.dial,
        race=ATTEMPT_DELAY,
        idle=MAX_IDLE,
        idle_most=most_idle(),
        idle_each=PER_ORIGIN,
        ports=own_ports(),
        asks=askable(asks, forwards=rewriting.repeatable),
        lines=records.lines,
        record=record_of if records.recorded else None,
        socks=not policy.takes_passwords,
        sums=sums,
        note_most=NOTE_MAX if sums else 0,
        worker=records.worker,
        heads=records.fields,
        dial_errors=dial_error_table(),
        live=0.0 if records.log is None else config.log_live,
    )


def askable(asks: str, *, forwards: bool) -> str:
    """Of these kinds, those that the lane can serve where it is told."""
    return asks if forwards else "".join(kind for kind in asks if kind == CONNECT)


def own_ports() -> tuple[int, int]:
    """The range of ports for outgoing connections (ip(7))."""
    try:
        first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
        return int(first), int(last)
    except OSError:  # a container without /proc/sys
        return 1024, 65535
