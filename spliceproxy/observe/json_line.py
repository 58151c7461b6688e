"""A line of the access log as JSON (RFC 8259): one object, ASCII, at most PIPE_BUF bytes with its
LF.

docs/log.md has its keys, and ``json_line.schema.json`` here is their JSON Schema. Keys are never
renamed or taken away within a version; there may be more of them later. A value that is not known
is null. The relay makes the lines of its own exchanges (native/lane/json_line.pxd). What is the
same for all requests on a route, it gets as a text: the *note*.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache
from json.encoder import encode_basestring_ascii

from spliceproxy.observe.native_line import without_query
from spliceproxy.observe.record import Record
from spliceproxy.observe.tcpinfo import TcpInfo
from spliceproxy.policy.verdict import Notes
from spliceproxy.relay.lane import END

VERSION = 1

METHOD_MAX = 32
TARGET_MAX = 1280
TYPE_MAX = 96
_USER_MAX = 256
_TAGS_MAX = 448
_DETAIL_MAX = 256
_RULE_MAX = 64
_FAILED_MAX = 96
ADDRESS_MAX = 46
"""Longest texts, in characters after escaping: all together they stay below PIPE_BUF (4096)."""

_SURROGATES = re.compile("[\ud800-\udfff]")


def json_line(record: Record, *, query: bool = True) -> str:
    """The record's line with its LF. Not ``query``: of a target's query its question mark alone
    is left."""
    times = record.times
    over = record.event == END
    target, reason = record.target, record.why or record.detail
    if not query:
        target = without_query(target)
        reason = record.why  # that of a bad request may quote it
    return (
        f'{{"v":{VERSION},"time":"{stamp(record.ended_at)}","event":"{record.event}",'
        f'"id":"{record.id}","client":{_text(record.client, ADDRESS_MAX)},'
        f'"via":{_text(record.via, ADDRESS_MAX)},'
        f'"method":{_text(record.method, METHOD_MAX)},"target":{_text(target, TARGET_MAX)},'
        f'"socks":{record.socks or "null"},"name":{_text(record.name, 16)},'
        f'"tls_name":{_text(record.tls_name, 16)},'
        f"{_note(record, record.rule, reason, record.error, record.failed)}"
        f',"route":{_route(record)},"connect_by":{_text(record.connect_by, 16)},'
        f'"peer":{_text(record.peer, ADDRESS_MAX)},'
        f'"status":{record.status or "null"},"type":{_type(record.content_type)},'
        f'"termination":{_text(record.termination if over else "", 2)},'
        f'"in_copied":{record.bytes_in - record.spliced_in},"in_spliced":{record.spliced_in},'
        f'"out_copied":{record.bytes_out - record.spliced_out},'
        f'"out_spliced":{record.spliced_out},'
        f'"head_us":{times.head},"question_us":{times.question},"dns_us":{times.dns},'
        f'"dial_us":{times.dial},"first_byte_us":{times.first_byte},"total_us":{times.total},'
        f'"client_tcp":{_leg(record.client_tcp)},"origin_tcp":{_leg(record.origin_tcp)},'
        f'"stalled":{_text(record.stalled, 8)}}}\n'
    )


_DIRECT = '"direct"'


def note(notes: Notes) -> bytes:
    """What the lines of all requests on a route have in common."""
    return _note(notes, "", "", "", "").encode("ascii")


def _note(notes: Notes, rule: str, detail: str, error: str, failed: str) -> str:
    return (
        f'"generation":{notes.generation},"user":{_text(notes.user, _USER_MAX)},'
        f'"rule":{_text(rule, _RULE_MAX)},"reason":{_text(detail, _DETAIL_MAX)},'
        f'"error":{_text(error, 40)},"failed":{_text(failed, _FAILED_MAX)},'
        f'"tags":{_tags(notes)}'
    )


def _tags(notes: Notes) -> str:
    """Those that there is room for, in their order."""
    if not notes.tags:
        return "{}"
    pairs: list[str] = []
    room = _TAGS_MAX - 2
    for name, value in notes.tags.items():
        pair = f"{_string(str(name), _TAGS_MAX)}:{_string(str(value), _TAGS_MAX)}"
        if len(pair) + 1 > room:
            break
        room -= len(pair) + 1
        pairs.append(pair)
    return f"{{{','.join(pairs)}}}"


def stamp(seconds: float) -> str:
    """Unix time as RFC 3339 has it, in UTC, with microseconds."""
    whole, fraction = divmod(round(seconds * 1e6), 1_000_000)
    return f"{_second(whole)}.{fraction:06d}Z"


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


@lru_cache(maxsize=256)
def _type(text: str) -> str:
    return _text(text.partition(";")[0].rstrip(), TYPE_MAX)


def _leg(info: TcpInfo | None) -> str:
    if info is None:
        return "null"
    return (
        f'{{"rtt_us":{info.rtt},"rttvar_us":{info.rttvar},"retransmits":{info.retransmits},'
        f'"delivery_rate":{info.delivery_rate},"busy_us":{info.busy_time},'
        f'"rwnd_limited_us":{info.rwnd_limited},"sndbuf_limited_us":{info.sndbuf_limited}}}'
    )


def _route(record: Record) -> str:
    if record.route:
        return _text(record.route, _RULE_MAX)
    return _DIRECT if record.peer else "null"


def _text(value: str, most: int) -> str:
    """A string, or null for nothing."""
    return _string(value, most) if value else "null"


def _string(value: str, most: int) -> str:
    """A string of at most so many characters between its quotes. It is cut between two
    characters."""
    found = encode_basestring_ascii(_SURROGATES.sub("\ufffd", value[:most]))
    if len(found) <= most + 2:
        return found
    parts: list[str] = []
    for character in value[:most]:
        part = encode_basestring_ascii(_SURROGATES.sub("\ufffd", character))[1:-1]
        most -= len(part)
        if most < 0:
            break
        parts.append(part)
    return f'"{"".join(parts)}"'
