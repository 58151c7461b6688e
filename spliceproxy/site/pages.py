"""What the proxy answers by itself: errors that a person understands, TRACE and OPTIONS."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import NamedTuple

from spliceproxy.errors import ErrorType
from spliceproxy.http1.chain import trace_body
from spliceproxy.http1.head import RequestHead
from spliceproxy.http1.status_field import NAME

NO_MEMORY = (
    b"HTTP/1.1 503 Service Unavailable\r\n"
    b"Content-Length: 0\r\n"
    b"Proxy-Status: spliceproxy; error=proxy_internal_error\r\n"
    b"Retry-After: 1\r\n"
    b"Connection: close\r\n\r\n"
)
"""The answer if there is no memory to make another."""

HOW_TO_CONFIGURE = (
    "This is a forward proxy, and the request names no server to forward it to.\n"
    "Tell the client to use it as its proxy, for example:\n"
    "  curl -x http://HOST:PORT http://example.com/\n"
    "  export http_proxy=http://HOST:PORT https_proxy=http://HOST:PORT"
)
"""The detail of a 400 for an origin-form request where there is no default backend."""

RETRY_AFTER = {429: 10, 503: 1}
"""Seconds by status. The proxy's own limits pass quickly, what a rule counts does not. Clients that
repeat by themselves obey it, if they read it."""

PHRASE_MAX = 80
"""Bytes of a reason phrase. Many clients show it, and most of them on one line."""

DETAILS_MAX = 512
"""Characters of the details in Proxy-Status. A function may give a reason of any length, and the
body has all of it. Many clients read no more than 8 KiB of a head."""

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_PHRASES.update({413: "Content Too Large", 414: "URI Too Long"})  # RFC 9110; Python before 3.13

_TEXT = b"text/plain; charset=utf-8"
_HTML = b"text/html; charset=utf-8"
_PROBLEM = b"application/problem+json"

_SF_TOKEN = re.compile(r"[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*").fullmatch
_NOT_SF_STRING = re.compile(r"[^\x20-\x7e]")


def load() -> None:
    """Loads what the first denial would."""
    import html  # noqa: F401
    import json  # noqa: F401


def proxy_status(
    error: ErrorType, detail: str, name: str = NAME, *, next_hop: str = "", received: int = 0
) -> bytes:
    """The value of a Proxy-Status field (RFC 9209): our name, the error's type, the parent that it
    is about and the status that this has sent, and the first line of the detail, cut to
    DETAILS_MAX."""
    value = name if _SF_TOKEN(name) else _sf_string(name)
    value = f"{value}; error={error}"
    if next_hop:
        value = f"{value}; next-hop={_sf_string(next_hop)}"
    if received:
        value = f"{value}; received-status={received}"
    first_line = detail.partition("\n")[0][:DETAILS_MAX]
    if first_line:
        value = f"{value}; details={_sf_string(first_line)}"
    return value.encode("ascii")


def error_page(
    status: int,
    error: ErrorType,
    detail: str,
    *,
    minor: int = 1,
    close: bool,
    head_only: bool = False,
    date: bytes,
    extra: tuple[bytes, ...] = (),
    denial: Denial | None = None,
    why: str = "",
    next_hop: str = "",
    received: int = 0,
) -> bytes:
    """A whole response of ours: a head and a plain text of a few lines, or a denial.

    ``error`` is an RFC 9209 type. ``detail`` may hold text of the request. ``minor`` is the
    client's HTTP/1.minor. ``close`` says whether its connection ends. ``head_only`` leaves the
    text out, for an answer to HEAD. ``date`` is an IMF-fixdate. ``extra`` are field lines without
    CRLF, sent as they are. ``why`` goes into the reason phrase; a denial has its rule there.
    ``next_hop`` and ``received`` are as of :func:`proxy_status`.
    """
    phrase = _PHRASES.get(status, "Error")
    if denial is None:
        kind, text = _TEXT, f"{status} {phrase}\n{_printable(detail)}\n"
        why = f": {why}" if why else ""
    else:
        kind, text = _denial(status, phrase, denial)
        by = f"{denial.kind} {denial.rule}" if denial.rule else "policy"
        why = f" by {by}" if status == 403 else f": {by}"
        why += f": {denial.words}" if denial.words else ""
    body = text.encode("utf-8", "replace")
    lines = [
        f"HTTP/1.1 {status} {_reason_phrase(phrase + why)}".encode("ascii"),
        b"Date: " + date,
        b"Content-Type: " + kind,
        b"Content-Length: %d" % len(body),
        b"Cache-Control: no-store",
        b"Proxy-Status: " + proxy_status(error, detail, next_hop=next_hop, received=received),
    ]
    if status in RETRY_AFTER and not any(line.startswith(b"Retry-After:") for line in extra):
        lines.append(b"Retry-After: %d" % RETRY_AFTER[status])
    lines += extra
    head = _end(lines, minor, close)
    return head if head_only else head + body


def _reason_phrase(text: str) -> str:
    """RFC 9112 section 4, but visible ASCII and spaces only: a rule's id may hold anything."""
    return _NOT_SF_STRING.sub("?", text)[:PHRASE_MAX].rstrip()


class Denial(NamedTuple):
    """What a denied request is told: the rule's id ("" for none), why, and what to do about
    it ("" for nothing); ``accept`` are the values of the request's Accept fields, and ``words`` as
    of errors.Denied. ``kind``: what has the id."""

    rule: str
    reason: str
    advice: str
    accept: Sequence[bytes] = ()
    words: str = ""
    kind: str = "rule"


def _denial(status: int, phrase: str, denial: Denial) -> tuple[bytes, str]:
    """The media type and the text of a denial's body."""
    reason, advice, rule = map(_printable, (denial.reason, denial.advice, denial.rule))
    kind = _preferred(denial.accept)
    if kind == _PROBLEM:  # RFC 9457
        problem: dict[str, object] = {"title": phrase, "status": status, "detail": denial.reason}
        if denial.rule:
            problem[denial.kind] = denial.rule
        if denial.advice:
            problem["advice"] = denial.advice
        import json

        return kind, json.dumps(problem) + "\n"
    if kind == _HTML:
        from html import escape

        title = f"{status} {phrase}"
        named = f"<p>{denial.kind.title()}: <code>{escape(rule)}</code></p>\n" if rule else ""
        named += f"<p>{escape(advice)}</p>\n" if advice else ""
        return kind, (
            f'<!DOCTYPE html>\n<html lang="en">\n<title>{title}</title>\n<h1>{title}</h1>\n'
            f"<p>{escape(reason)}</p>\n{named}</html>\n"
        )
    named = f"{denial.kind.title()}: {rule}\n" if rule else ""
    named += f"{advice}\n" if advice else ""
    return kind, f"{status} {phrase}\n{reason}\n{named}"


_RANGES = {
    "application/problem+json": (_PROBLEM, 2),
    "application/json": (_PROBLEM, 2),
    "application/*": (_PROBLEM, 1),
    "text/html": (_HTML, 2),
    "text/plain": (_TEXT, 2),
    "text/*": (_TEXT, 1),
    "*/*": (_TEXT, 0),
}
"""The type that a media range stands for here, and how specific the range is."""


def _preferred(accept: Sequence[bytes]) -> bytes:
    """The media type for a client that accepts this (RFC 9110 section 12.5.1): of those with
    the highest weight the most specific, and of these first JSON, then HTML, then text."""
    best = (0.0, -1, 0)
    chosen = _TEXT
    order = (_TEXT, _HTML, _PROBLEM)
    for part in b",".join(accept).decode("latin-1").lower().split(","):
        name, *parameters = (text.strip() for text in part.split(";"))
        kind, specific = _RANGES.get(name, (b"", 0))
        if not kind:
            continue
        rank = (_weight(parameters), specific, order.index(kind))
        if rank > best and rank[0] > 0:
            best, chosen = rank, kind
    return chosen


def _weight(parameters: Sequence[str]) -> float:
    """A media range's q; 0 for one that is malformed."""
    for parameter in parameters:
        if parameter.startswith("q="):
            return float(parameter[2:]) if _QVALUE(parameter[2:]) else 0.0
    return 1.0


_QVALUE = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?").fullmatch


def trace_answer(head: RequestHead, *, close: bool, date: bytes) -> bytes:
    """A whole response to TRACE, which sends the request back (RFC 9110 section 9.3.8)."""
    body = trace_body(head)
    lines = [
        b"HTTP/1.1 200 OK",
        b"Date: " + date,
        b"Content-Type: message/http",
        b"Content-Length: %d" % len(body),
    ]
    return _end(lines, head.minor, close) + body


def options_answer(head: RequestHead, *, close: bool, date: bytes) -> bytes:
    """A whole response to OPTIONS for the proxy itself (RFC 9110 section 9.3.7)."""
    lines = [
        b"HTTP/1.1 200 OK",
        b"Date: " + date,
        b"Allow: GET, HEAD, POST, PUT, DELETE, PATCH, CONNECT, OPTIONS, TRACE",
        b"Content-Length: 0",
    ]
    return _end(lines, head.minor, close)


def _end(lines: list[bytes], minor: int, close: bool) -> bytes:
    """The head made of these lines, with Connection if the client needs it."""
    if close:
        lines.append(b"Connection: close")
    elif not minor:
        lines.append(b"Connection: keep-alive")
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


def _sf_string(text: str) -> str:
    """An sf-string of RFC 8941 section 3.3.3: printable ASCII, else a question mark."""
    text = _NOT_SF_STRING.sub("?", text)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _printable(text: str) -> str:
    """Text that cannot harm a terminal: what is not printable is escaped, but for line ends."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
