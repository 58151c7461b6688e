"""What is known of a request or a tunnel beyond its bytes, for another process
(:mod:`relay.encoding`): its record, or where it goes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from spliceproxy import sizes
from spliceproxy.forward.resumed import Decided, carry
from spliceproxy.http1.target import split_authority
from spliceproxy.observe.record import Record
from spliceproxy.observe.termination import DATA
from spliceproxy.policy.decision import YES, Allow
from spliceproxy.policy.verdict import Verdict
from spliceproxy.relay.encoding import Check, maybe, seconds, some, text, whole
from spliceproxy.relay.handoff import Handoff
from spliceproxy.relay.moving import FrozenExchange, LaneFacts, TunnelState, Unmovable

_MANY = 4096
"""Tags, ids, fields: more of them are none that we have made."""


def _list_of(check: Check) -> Check:
    return lambda value: type(value) is list and len(value) <= _MANY and all(map(check, value))


_pair = some(2, text)


def _rate(value: Any) -> bool:
    return type(value) is int and (value == 0 or sizes.LEAST <= value <= sizes.MOST)


_rates = some(2, _rate)

RECORD: Mapping[str, Check] = {
    "client": text,
    "via": text,
    "mark": text,
    "user": text,
    "method": text,
    "target": text,
    "minor": whole(4),
    "socks": whole(3),
    "name": text,
    "host": text,
    "port": whole(16),
    "peer": text,
    "route": text,
    "connect_by": text,
    "status": whole(10),
    "content_type": text,
    "allowed_by": text,
    "generation": whole(32),
    "number": whole(63),
    "started": seconds,
    "looked_up": seconds,
    "head": whole(63),
    "question": whole(63),
    "dial": whole(63),
    "first_byte": whole(63),
    "bytes_in": whole(63),
    "bytes_out": whole(63),
    "spliced_in": whole(63),
    "spliced_out": whole(63),
    "reported": _list_of(text),
    "tags": _list_of(_pair),
    "fields": _list_of(_pair),
    "summed": maybe(some(2, whole(63))),
    "rates": _rates,
    "limits": _list_of(text),
}
"""What goes along of a tunnel's record, by its attributes; and the ids of limits for which it
counts."""

KNOWN: Mapping[str, Check] = {
    "host": text,
    "port": whole(16),
    "source": text,
    "user": text,
    "looked_up": seconds,
    "allowed_by": text,
    "generation": whole(32),
    "reported": _list_of(text),
    "tags": _list_of(_pair),
    "limits": _list_of(text),
    "rates": _rates,
}
"""What was decided about a request."""


# ---- records of tunnels ------------------------------------------------------------------------


def of_record(record: Record, limits: Sequence[str]) -> dict[str, Any]:
    """As RECORD has it."""
    facts: dict[str, Any] = {name: getattr(record, name) for name in RECORD if name != "limits"}
    facts["limits"] = limits
    facts["reported"] = list(record.reported)
    facts["tags"] = _of_tags(record.tags)
    facts["fields"] = [
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in record.fields
    ]
    return facts


def record_of(facts: Mapping[str, Any]) -> Record:
    """The other way round, of a tunnel that goes on here."""
    record = Record(facts["client"])
    for name, value in facts.items():
        if name != "limits":
            setattr(record, name, value)
    record.reported = tuple(facts["reported"])
    record.tags = _tags_of(facts["tags"])
    try:
        fields = [(one.encode("latin-1"), two.encode("latin-1")) for one, two in facts["fields"]]
    except UnicodeEncodeError as error:
        raise Unmovable("a field of a request that is none") from error
    record.fields = fields
    record.rates = facts["rates"][0], facts["rates"][1]
    record.summed = tuple(facts["summed"]) if facts["summed"] is not None else None
    record.stage = DATA
    return record


def record_of_lane(
    lane: LaneFacts, summed: TunnelState | None, allowed: Mapping[str, int]
) -> Record:
    """What the lane knows of one of its tunnels. ``allowed``: the columns of rules; ``summed``: all
    that it has moved, where that is in the lists of who has moved the most."""
    record = Record(lane.client, lane.started or time.monotonic(), None, lane.number)
    record.mark, record.via = lane.via[:1], lane.via[1:]
    record.method, record.target, record.peer = "CONNECT", lane.target, lane.peer
    record.status, record.bytes_in, record.socks = 200, lane.head, lane.socks
    record.route, record.connect_by = lane.route, lane.connect_by
    record.question, record.dial = lane.question, lane.dial
    record.host, record.port = split_authority(lane.target)
    _note(record, lane, allowed)
    record.looked_up = lane.dns / 1e6
    if lane.lines:
        lines = (line.partition(b":") for line in lane.lines.rstrip().split(b"\r\n")[1:])
        record.fields = [(name, value.strip(b" \t")) for name, _, value in lines]
    if summed is not None:
        received, sent = (way.copied + way.spliced for way in (summed.up, summed.down))
        record.summed = lane.head + received, sent
    return record


def _note(record: Record, lane: LaneFacts, allowed: Mapping[str, int]) -> None:
    """What was decided, as far as the lane knows it."""
    record.generation = lane.generation
    if lane.known is not None:
        carry(lane.known, record)
        return
    record.user = lane.user
    record.tags = tags_in(lane.note.decode("ascii"))
    record.allowed_by = next((rule for rule, at in allowed.items() if at == lane.decision), "")


# ---- what was decided about requests -----------------------------------------------------------


def of_exchange(
    found: FrozenExchange, allowed: Mapping[str, int], limits: Sequence[str]
) -> dict[str, Any]:
    """As KNOWN has it. What nobody knows any more is ""."""
    record = Record("")
    decided = found.handoff.decided
    port, _, rest = found.key.decode("utf-8", "replace").partition(" ")
    source, _, host = rest.partition(" ")
    rates = YES.rates
    if decided is not None:
        carry(Decided(*decided).known, record)
        if isinstance(decided[0], Verdict):
            rates = decided[0].said.rates
    else:
        _note(record, found.lane, allowed)
    return {
        "host": host,
        "port": int(port or 0),
        "source": source,
        "user": record.user,
        "looked_up": found.lane.dns / 1e6,
        "allowed_by": record.allowed_by,
        "generation": record.generation,
        "reported": list(record.reported),
        "tags": _of_tags(record.tags),
        "limits": limits,
        "rates": rates,
    }


def of_known(record: Record, verdict: Verdict) -> dict[str, Any]:
    """The same for one that Python serves."""
    return {
        "host": verdict.host,
        "port": verdict.port,
        "source": verdict.source_address,
        "user": record.user,
        "looked_up": record.looked_up,
        "allowed_by": record.allowed_by,
        "generation": record.generation,
        "reported": list(record.reported),
        "tags": _of_tags(record.tags),
        "limits": verdict.said.limits,
        "rates": verdict.said.rates,
    }


def decide(handoff: Handoff, facts: Mapping[str, Any]) -> None:
    """Says in a hand-off what was decided, so that nobody is asked again about a request that is
    being answered. It has gone to the peer that it has."""
    if not facts["host"]:
        return
    known = Record("")
    known.host, known.port, known.user = facts["host"], facts["port"], facts["user"]
    known.looked_up, known.allowed_by = facts["looked_up"], facts["allowed_by"]
    known.generation = facts["generation"]
    known.reported, known.tags = tuple(facts["reported"]), _tags_of(facts["tags"])
    rates = dict(zip(("rate_in", "rate_out"), facts["rates"], strict=True))
    said = Allow(limits=facts["limits"], **rates)
    addresses = (handoff.peer,)
    verdict = Verdict(known.host, known.port, addresses, facts["source"], 0.0, None, said)
    handoff.decided = Decided(verdict, known)


# ---- tags --------------------------------------------------------------------------------------


def _of_tags(tags: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(str(name), str(value)) for name, value in tags.items()]


def _tags_of(pairs: list[list[str]]) -> Mapping[str, str]:
    return MappingProxyType({name: value for name, value in pairs})


def tags_in(note: str) -> Mapping[str, str]:
    """Those of a note of the lane's (``forward.lane.shown_note``)."""
    if not note:
        return {}
    tags: Mapping[str, str] = json.loads(f"{{{note}}}").get("tags", {})
    return tags
