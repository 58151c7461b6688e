"""CONNECT, and every other way in which a connection becomes a tunnel."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from os import strerror

from spliceproxy.errors import EXHAUSTED
from spliceproxy.forward.services import Services
from spliceproxy.net.stream import Stream
from spliceproxy.observe.record import Record
from spliceproxy.observe.stalled import BRIEF, Waits
from spliceproxy.observe.termination import DATA, DRAINED
from spliceproxy.policy import refusals
from spliceproxy.relay.checking import NameCheck
from spliceproxy.relay.interface import ABORTED, DONE, TLS_NAME, TunnelEnd


def hand_over(
    services: Services,
    client: Stream,
    origin: Stream,
    answer: bytes,
    record: Record,
    check: NameCheck | None = None,
) -> None:
    """Gives both sockets to the relay; what was read ahead on either side goes first, and
    ``answer`` before that to the client. With a ``check`` what the client says waits until it is
    known what that is. The record is written when the tunnel ends; of
    the connection nothing else is left. Its ``bytes_in`` must hold the size of the request,
    and ``bytes_out`` that of interim responses.
    OSError: both streams are still the caller's."""
    client.pause()
    origin.pause()
    record.listener = services.listener(client.sock)
    to_client = answer + origin.buffer
    ident = services.relay.tunnel(
        client.fd,
        origin.fd,
        bytes(client.buffer),
        to_client,
        token_of(services, record),
        check,
    )
    if record.hop is not None:
        origin.released = None  # the connection to the parent ends with the tunnel
    try:
        services.counts.request(record, client)
    finally:  # whatever becomes of that: the relay has the sockets
        try:
            client.detach()
        finally:
            origin.detach()
    record.stage = DATA
    pace(services, ident, record)
    services.tunnels[record.generation] += 1
    if services.lives is not None:
        services.lives.begin(ident, record)
    if record.trace is not None:
        record.trace.handed_over()


def pace(services: Services, ident: int, record: Record) -> None:
    """A tunnel that the relay has got goes no faster than limits, and a function, allow."""
    holding, rates = record.holding, record.rates
    pacing = None if services.limiting is None else services.limiting.pacing
    if holding is not None and pacing is not None and pacing.tunnel(ident, holding, rates):
        return  # it is looked at
    if rates != (0, 0):
        services.relay.pace(ident, *rates)


def token_of(services: Services, record: Record) -> Callable[[TunnelEnd], None]:
    """What the relay calls when a tunnel ends, and knows it by."""
    return partial(_ended, services, record)


def record_of(token: object) -> Record | None:
    """What is known of a tunnel that was handed over, by the token that the relay has of it; None
    for any other token."""
    if isinstance(token, partial) and token.func is _ended:
        record: Record = token.args[1]
        return record
    return None


def _ended(services: Services, record: Record, end: TunnelEnd) -> None:
    services.tunnels[record.generation] -= 1
    if record.hop is not None:
        record.hop.left()
    if record.holding is not None:
        moved = end.up_copied + end.up_spliced + end.down_copied + end.down_spliced
        record.holding.account(moved)
        record.holding.release()
    if services.lives is not None:
        services.lives.end(record)
    finish(services, record, end)


def _name_in(flight: bytes) -> str:
    """The name in a ClientHello, "" if there is none."""
    from spliceproxy.tls import hello  # late: most tunnels are not refused for it

    said = hello.read(flight)
    return said.name if said is not None else ""


def finish(services: Services, record: Record, end: TunnelEnd, *, summed: bool = False) -> None:
    """A tunnel is over, also one of the lane's. ``summed``: what it has moved is in the lists of
    who has moved the most."""
    record.bytes_in += end.up_copied + end.up_spliced
    record.bytes_out += end.down_copied + end.down_spliced
    record.spliced_in += end.up_spliced
    record.spliced_out += end.down_spliced
    if summed:
        record.summed = record.bytes_in, record.bytes_out
    record.stage, record.by = DATA, end.silent
    taken, said, origin_takes, silent = end.waits
    spent = (record.question + record.dial) / 1e3 + record.looked_up * 1e3
    # Not the silence in which the origin had yet to take what there was for it.
    silent = max(silent - origin_takes, 0)
    took = time.monotonic() - record.started
    window = int(took * 1e3 - spent) - silent
    if took >= BRIEF:
        record.inform(
            end.client_info,
            end.origin_info,
            Waits(window, taken, taken, said + origin_takes, origin_takes),
        )
    if end.reason == ABORTED and services.draining:
        record.by = DRAINED
    if end.reason != DONE:
        record.reason = end.reason
    record.tls_name = end.found
    if end.reason == TLS_NAME:
        record.blame("http_request_denied")
        record.sni = _name_in(end.flight)
        record.rule = refusals.TLS_NAME
        record.why = refusals.found_inside(end.found, record.host, record.sni)
    if end.errno in EXHAUSTED:  # neither side has left; the relay has counted its end
        record.reason, record.error, record.by = ABORTED, "proxy_internal_error", ""
        services.faults.say(end.errno, logging.ERROR, "a tunnel was cut: %s", strerror(end.errno))
    services.records.write(record)
