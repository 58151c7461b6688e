"""A line of the access log in squid's native format, and what follows it in ours.

    %ts.%03tu %6tr %>a %Ss/%03>Hs %<st %rm %ru %[un %Sh/%<a %mt

Behind it comes ``rule=ID``, the rule that has denied a request, with the ``reason=`` that it has
in the settings, or ``error=TYPE,ADDRESS:PORT`` for one that has failed, then ``in=BYTES`` from the
client, and ``socks=VERSION`` where it has asked by SOCKS. docs/log.md has it as a table. The relay
makes the lines of its own exchanges (native/lane/line.pxd), by the same table.
"""

from __future__ import annotations

import re
from functools import lru_cache

from spliceproxy.errors import ErrorType
from spliceproxy.observe.record import Record
from spliceproxy.relay import interface

# Longest texts in a line, in characters after escaping. With the numbers and the constant
# texts they stay below PIPE_BUF (4096), so a line never needs to be cut.
METHOD_MAX = 32
TARGET_MAX = 3072
USER_MAX = 256
ADDRESS_MAX = 128
TYPE_MAX = 128
_RULE_MAX = 64
_ERROR_MAX = 96
_REASON_MAX = 240

# All that RFC 3986 has no place for, and the apostrophe. What a client has escaped in a
# URL stays as it is, so % is not among them; in a user name it is escaped too.
UNSAFE = re.compile(r"[^!#-&(-;=?-\[\]_a-z~]")
UNSAFE_NAME = re.compile(r"[^!#$&(-;=?-\[\]_a-z~]")

_DENIED: frozenset[ErrorType] = frozenset({"http_request_denied", "destination_ip_prohibited"})

_TIMED_OUT = (interface.IDLE, interface.TARGET_IDLE, interface.HALF_CLOSE)
"""Ends that a time limit of ours has made."""

_SUFFIX = {
    **{
        reason: "_TIMEDOUT" if reason in _TIMED_OUT else "_ABORTED"
        for reason in interface.REASONS
        if reason not in ("", interface.DONE, interface.TLS_NAME)
    },
    interface.LIMIT: "_LIMITED",
}
"""Ends before the end of the message. squid's word for a broken connection is the same
for both sides."""


def format_line(record: Record, *, query: bool = True) -> str:
    """The record's line with its LF: ASCII, ten fields, then ``rule=`` or ``error=`` where
    there is one, ``in=``, ``socks=`` for SOCKS, ``name=`` where the kernel has led the client here,
    ``tls=`` where the name inside TLS was looked for, ``sni=`` where another one was refused, and
    ``route=`` and ``by=`` where a parent was asked; at most PIPE_BUF bytes. Not ``query``: of a
    target's query its question mark alone is left."""
    socks = f" socks={record.socks}" if record.socks else ""
    name = f" name={record.name}" if record.name else ""
    tls = f" tls={record.tls_name}" if record.tls_name else ""
    if record.sni:
        tls += f" sni={record.sni}"
    more = f"in={record.bytes_in}{socks}{name}{tls}{_route(record)}"
    return f"{_ten(record, query=query)}{why(record)} {more}\n"


def squid_line(record: Record, *, query: bool = True) -> str:
    """The ten fields alone, for whoever reads squid's logs."""
    return f"{_ten(record, query=query)}\n"


def _ten(record: Record, *, query: bool) -> str:
    # squid's words for a connection that brought no request.
    method = record.method or "NONE"
    target = record.target or "error:invalid-request"
    room = TARGET_MAX - len(record.sni)  # that of CONNECT is far shorter
    if not query:
        target = without_query(target)
    return (
        f"{record.ended_at:.3f} {int(record.seconds * 1000):6d} "
        f"{_address(record.client)} {result(record)}/{record.status:03d} "
        f"{record.bytes_out} {_method(method)} {escape(target, room)} "
        f"{_user(record.user)} {hierarchy(record)}/{_address(record.peer)} "
        f"{_type(record.content_type)}"
    )


def why(record: Record) -> str:
    """The field for what was denied or has failed, behind a space; "" for neither."""
    if record.rule:
        words = f" reason={escape(record.words, _REASON_MAX)}" if record.words else ""
        return f" rule={escape(record.rule, _RULE_MAX)}{words}"
    if not record.error:
        return ""
    where = f",{record.failed}" if record.failed else ""
    return f" error={escape(record.error + where, _ERROR_MAX)}"


def _route(record: Record) -> str:
    """The parent by way of which it has gone, and what that was told; "" for none."""
    if not record.route:
        return ""
    return f" route={escape(record.route, _RULE_MAX)} by={record.connect_by}"


def hierarchy(record: Record) -> str:
    """squid's word for how an origin was reached."""
    if record.route and record.peer:
        return "FIRSTUP_PARENT"
    return "HIER_DIRECT" if record.peer else "HIER_NONE"


def without_query(target: str) -> str:
    """Of a query its question mark alone is left."""
    end = target.find("?")
    return target if end < 0 else target[: end + 1]


def result(record: Record) -> str:
    """squid's result code. TCP_HIT: answered from our own files, without an origin."""
    if record.error in _DENIED:
        code = "TCP_DENIED"
    elif record.peer:
        tunnel = record.method == "CONNECT" or record.status == 101
        code = "TCP_TUNNEL" if tunnel else "TCP_MISS"
    elif not record.status or (record.error and record.status >= 400):
        code = "NONE"
    else:
        code = "TCP_HIT"
    return code + _SUFFIX.get(record.reason, "")


def escape(text: str, limit: int, unsafe: re.Pattern[str] = UNSAFE) -> str:
    """One field of a line: %XX for what could end it, "-" for nothing, cut at ``limit``."""
    return unsafe.sub(_percent, text[:limit])[:limit] or "-"


# What lines have in common is escaped once.


@lru_cache(maxsize=4096)
def _address(text: str) -> str:
    return escape(text, ADDRESS_MAX)


@lru_cache(maxsize=64)
def _method(text: str) -> str:
    return escape(text, METHOD_MAX)


@lru_cache(maxsize=4096)
def _user(text: str) -> str:
    return escape(text, USER_MAX, UNSAFE_NAME)


@lru_cache(maxsize=256)
def _type(text: str) -> str:
    return escape(text.partition(";")[0].rstrip(), TYPE_MAX)


def _percent(match: re.Match[str]) -> str:
    # A lone surrogate has no UTF-8 form and must not cost the line.
    return "".join([f"%{byte:02X}" for byte in match[0].encode("utf-8", "backslashreplace")])
