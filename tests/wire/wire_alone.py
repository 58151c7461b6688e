"""Which cases the lane must serve by itself, from the first byte to the last: those whose messages
are all plain, by what http1/ reads in them. So no case leaves the lane unnoticed."""

from __future__ import annotations

from collections.abc import Sequence

from oracle import Reader, read
from plain_oracle import is_plain_body
from wire_case import Case

from spliceproxy.forward.plain import REQUEST_RULES, RESPONSE_RULES, is_plain, written_authority
from spliceproxy.http1.authentication import response_binds
from spliceproxy.http1.chain import has_passed
from spliceproxy.http1.framing import Body
from spliceproxy.http1.head import RequestHead, ResponseHead

PLAIN_MAX = 8192
PLAIN_FIELDS = 100
"""Bytes and fields of a plain head (native/http/plain.pxd)."""

SETTINGS = {"via", "default_backend"}
"""With others, and what they change, a case may leave the lane."""

VERBS = {
    *("sends", "gets", "gets_chunked", "closed", "sees_fin", "probed", "consumed"),
}
"""A case with other steps may leave it: where somebody breaks off, or is waited for."""


# fmt: off
ALSO = frozenset((
    "client-ends-after-answer", "client-ends-before-last-line", "client-ends-between-chunks",
    "client-ends-inside-chunk", "client-ends-inside-length", "client-ends-inside-long",
    "client-ends-while-waiting", "client-ends-within-answer", "client-resets-after-answer",
    "client-resets-after-body", "client-resets-between-chunks", "client-resets-inside-answer",
    "client-resets-inside-chunks", "client-resets-inside-length", "client-resets-inside-long",
    "client-resets-inside-long-answer", "client-resets-while-waiting", "connect-behind-request",
    "connect-early-data", "connect-ipv6", "connect-plain", "connect-reset-by-client",
    "connect-reset-by-origin", "draining", "expect-100", "expect-chunked", "expect-not-awaited",
    "long-target", "no-loop-other-port", "origin-ends-before-body", "origin-ends-before-last-line",
    "origin-ends-between-chunks", "origin-ends-inside-big-chunk", "origin-ends-inside-chunk",
    "origin-ends-inside-length", "origin-ends-inside-long", "origin-resets-between-chunks",
    "origin-resets-inside-length", "origin-resets-inside-long", "own-that-closes",
    "pipeline-behind-chunks", "pipeline-then-half-close", "pool-after-head",
    "pool-drops-what-closes", "pool-drops-what-resets", "pool-last-in-first-out",
    "pool-not-with-body-behind-head", "response-100", "response-103-twice",
    "response-chunks-then-junk", "response-junk-behind-length", "silent-client",
    "socks-4", "socks-4-user", "socks-4a", "socks-4a-long", "socks-5-all-methods",
    "socks-5-by-turns", "socks-5-ipv4", "socks-5-ipv6", "socks-5-long-name",
    "socks-5-many-methods", "socks-5-name", "socks-5-upper-case",
))
# fmt: on
"""Cases in which somebody breaks off, or that the rule below is too narrow for."""

NEVER = {
    "empty-line-before": "an empty line is for http1/ to pass over",
    "many-empty-lines-before": "likewise",
    "pipeline-empty-line-between": "likewise",
    "via-name-in-comment": "our name is somewhere in Via",
    "via-name-as-part": "likewise",
    "answer-reason-missing": "a status line without its last space",
    "early-answer-body-goes-on": "the answer is over before the request",
    "lenient-version-1.2": "another version of HTTP/1",
    "lenient-version-1.9": "likewise",
}
"""Cases that the rule below is too wide for, and why the lane has to give them back."""


def must_be_alone(case: Case) -> bool:
    """Whether the relay must serve all of a case without giving a client back."""
    if case.name in ALSO or case.name in NEVER:
        return case.name in ALSO
    if case.dial or case.own or case.refuse or case.draining or not set(case.config) <= SETTINGS:
        return False
    if any(step.verb not in VERBS for step in case.steps):
        return False
    asked = [_requests(case, peer) for peer in _peers(case, "c")]
    heads = [head for some in asked for head in some or ()]
    if not asked or None in asked or not heads:
        return False
    answered = [_are_plain_answers(case, peer, heads) for peer in _peers(case, "o")]
    return bool(answered) and all(answered)


def _peers(case: Case, kind: str) -> list[str]:
    """Those of clients (c) or origins (o) that send something, in their order."""
    names = [step.peer for step in case.steps if step.verb == "sends"]
    return [name for name in dict.fromkeys(names) if name.startswith(kind)]


def _sent(case: Case, peer: str) -> bytes:
    return b"".join(s.data for s in case.steps if (s.peer, s.verb) == (peer, "sends"))


# ---- requests ----------------------------------------------------------------------------


def _requests(case: Case, peer: str) -> list[RequestHead] | None:
    """The heads of what a client sends; None if not all of it is plain."""
    reader = read(_sent(case, peer), False)
    if reader.refused is not None or (reader.buffer and not _is_tunnel(reader)):
        return None
    heads = [head for head in reader.heads if isinstance(head, RequestHead)]
    for head, message in zip(heads, reader.messages, strict=True):
        if not message.done or not is_plain_body(message.chunks) or not _is_plain(case, head):
            return None
    return heads


def _is_tunnel(reader: Reader) -> bool:
    head = reader.heads[-1] if reader.heads else None
    return isinstance(head, RequestHead) and head.method == "CONNECT"


def _is_plain(case: Case, head: RequestHead) -> bool:
    via = case.config.get("via", "spliceproxy").encode()
    connection = head.values(b"connection") + head.values(b"proxy-connection")
    host = head.values(b"host")
    backend = case.config.get("default_backend") is not None
    return (
        head.minor == 1
        and (head.method == "CONNECT" or is_plain(head))
        and head.form
        in (("absolute", "authority", "origin") if backend else ("absolute", "authority"))
        and host == [written_authority(head)] != [b""]
        and len(head.fields) <= PLAIN_FIELDS
        and sum(len(name) + len(value) + 4 for name, value in head.fields) < PLAIN_MAX - 600
        and len(head.target) < PLAIN_MAX // 2
        and not (via and has_passed(head, via))
        and len(connection) < 2
        and all(value.lower() in (b"close", b"keep-alive") for value in connection)
        and all(REQUEST_RULES.get(name.lower()) != "not plain" for name, _ in head.fields)
        and all(value.lower() == b"100-continue" for value in head.values(b"expect"))
        and _is_one_number(head.values(b"content-length"))
    )


def _is_one_number(lengths: Sequence[bytes]) -> bool:
    """Whether a Content-Length, if there is one, is there once, and without a zero before it."""
    return len(lengths) < 2 and all(not one.startswith(b"0") or one == b"0" for one in lengths)


# ---- responses ---------------------------------------------------------------------------


def _are_plain_answers(case: Case, peer: str, heads: list[RequestHead]) -> bool:
    """Whether all that an origin sends are plain responses, or bytes of a tunnel."""
    methods = {head.method for head in heads}
    if methods == {"CONNECT"}:
        return True
    if methods & {"CONNECT", "HEAD"} and len(methods) > 1:
        return False
    reader = read(_sent(case, peer), True, methods.pop())
    if reader.refused is not None or reader.buffer or reader.lenient >= 0:
        return False
    pairs = zip(reader.heads, reader.messages, reader.bodies, strict=True)
    return all(
        isinstance(head, ResponseHead)
        and message.done
        and is_plain_body(message.chunks)
        and _is_plain_answer(head, kind)
        for head, message, (kind, _) in pairs
    )


def _is_plain_answer(head: ResponseHead, kind: Body) -> bool:
    connection = head.values(b"connection")
    return (
        head.minor == 1
        and 200 <= head.status <= 599
        and head.sound
        and kind != Body.CLOSE
        and not response_binds(head)
        and len(head.fields) <= PLAIN_FIELDS
        and _is_one_number(head.values(b"content-length"))
        and len(connection) < 2
        and all(value.lower() in (b"close", b"keep-alive") for value in connection)
        and all(RESPONSE_RULES.get(name.lower()) != "not plain" for name, _ in head.fields)
        and not (head.status == 204 and head.values(b"content-length"))
    )
