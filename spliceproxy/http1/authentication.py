"""Which messages authenticate a connection instead of a request.

NTLM and Negotiate tell an origin once who is at the other end of its connection, and it
takes every later request on that connection as theirs. A proxy must not lend such a
connection to anybody else (RFC 4559 section 6).
"""

from __future__ import annotations

import re

from spliceproxy.http1.fields import OWS, TOKEN
from spliceproxy.http1.head import RequestHead, ResponseHead

PER_REQUEST = frozenset(
    b"""basic bearer digest dpop hoba mutual oauth privatetoken scram-sha-1 scram-sha-256
    vapid aws4-hmac-sha256 token""".split()
)
"""Schemes, in lower case, whose credentials say who sends the one request that they are in
(the IANA registry, and two that are common). Any other is taken to bind its connection."""

SESSION_FIELDS = frozenset({b"proxy-support", b"persistent-auth"})
"""Response fields that are about an authenticated connection: the support for it of a proxy
(RFC 4559 section 6), and whether it stays so (Microsoft's servers)."""

_ABOUT_SESSIONS = SESSION_FIELDS | {b"www-authenticate"}

# An element of a list, in which a comma may stand in a quoted string.
_ELEMENT = re.compile(rb'(?:[^",]|"(?:[^"\\]|\\.)*")*')

_VALUE = rb'(?:[^\s",]+|"(?:[^"\\]|\\.)*")'
_PARAMETER = re.compile(TOKEN + rb"[ \t]*=[ \t]*" + _VALUE).fullmatch
_CHALLENGE = re.compile(
    rb"("
    + TOKEN
    + rb")(?:[ ]+(?:[0-9A-Za-z\-._~+/]+=*|"
    + TOKEN
    + rb"[ \t]*=[ \t]*"
    + _VALUE
    + rb"))?"
).fullmatch


def request_binds(head: RequestHead) -> bool:
    """Whether a request's credentials bind the connection to its origin (RFC 9110 section
    11.6.2). Those without a scheme that can be read do."""
    for value in head.values(b"authorization"):
        if value.partition(b" ")[0].lower() not in PER_REQUEST:
            return True
    return False


def response_binds(head: ResponseHead) -> bool:
    """Whether a response, interim or final, says that its connection is being authenticated
    or may be."""
    names = head.names()
    if names.isdisjoint(_ABOUT_SESSIONS):
        return False
    return not names.isdisjoint(SESSION_FIELDS) or challenges_bind(head)


def challenges_bind(head: ResponseHead) -> bool:
    """Whether one of its challenges (RFC 9110 section 11.6.1) is of a scheme that binds, or
    cannot be read."""
    values = head.values(b"www-authenticate")
    return bool(values) and any(map(_binds, values))


def _binds(value: bytes) -> bool:
    """The same for one field: challenges in a list, whose parameters are in lists too."""
    at = 0
    begun = False
    while at < len(value):
        match = _ELEMENT.match(value, at)
        assert match is not None  # it matches nothing as well
        at = match.end()
        if at < len(value) and value[at : at + 1] != b",":
            return True  # a quoted string without an end
        at += 1
        element = match[0].strip(OWS)
        if not element or (begun and _PARAMETER(element)):
            continue
        challenge = _CHALLENGE(element)
        if challenge is None or challenge[1].lower() not in PER_REQUEST:
            return True
        begun = True
    return False
