"""Expect, and answers that come before the end of the request's body."""

from __future__ import annotations

from wire_case import (
    BIG,
    DATE,
    OK,
    OK_GOT,
    OK_LAST,
    POST,
    POSTED,
    VIA,
    C,
    Case,
    O,
)

CHUNKED = POST + "Transfer-Encoding: chunked\n\n"
CHUNKED_GOT = POSTED + f"Transfer-Encoding: chunked\n{VIA}\n\n"

EXPECTING = POST + "Content-Length: 2\nExpect: 100-continue\n\n"
EXPECTED = POSTED + f"Content-Length: 2\nExpect: 100-continue\n{VIA}\n\n"

EXPECT = [
    Case(
        "expect-100",
        "9110 10.1.1",
        [
            C.sends(EXPECTING),
            O.gets(EXPECTED),
            O.sends("HTTP/1.1 100 Continue\n\n"),
            C.gets(f"HTTP/1.1 100 Continue\n{VIA}\n\n"),
            C.sends("hi"),
            O.gets("hi"),
            O.sends(OK),
            C.gets(OK_GOT),
        ],
        log=[(200, "", "")],
    ),
    Case(
        "expect-417",
        "9110 10.1.1",
        [
            C.sends(EXPECTING),
            O.gets(EXPECTED),
            O.sends(OK.replace("200 OK", "417 No")),
            C.gets(OK_LAST.replace("200 OK", "417 No")),
            C.sees_fin(),
            O.closed(),
        ],
        log=[(417, "", "")],
    ),
    Case(
        "expect-not-awaited",
        "9110 10.1.1",
        [
            C.sends(EXPECTING + "hi"),
            O.gets(EXPECTED + "hi"),
            O.sends("HTTP/1.1 100 Continue\n\n" + OK),
            C.gets(f"HTTP/1.1 100 Continue\n{VIA}\n\n" + OK_GOT),
        ],
    ),
    Case(
        "expect-of-1.0",
        "9110 15.2",
        [
            C.sends("POST http://o/ HTTP/1.0\nExpect: 100-continue\nContent-Length: 2\n\nhi"),
            O.gets("POST / HTTP/1.1\nHost: o\nContent-Length: 2\nVia: 1.0 spliceproxy\n\nhi"),
            O.sends("HTTP/1.1 100 Continue\n\n" + OK),
            C.gets(OK_LAST),
            C.sees_fin(),
        ],
    ),
    Case(
        "expect-chunked",
        "9110 10.1.1",
        [
            C.sends(CHUNKED.replace("\n\n", "\nExpect: 100-continue\n\n")),
            O.gets(POSTED + f"Expect: 100-continue\nTransfer-Encoding: chunked\n{VIA}\n\n"),
            O.sends("HTTP/1.1 100 Continue\n\n"),
            C.gets(f"HTTP/1.1 100 Continue\n{VIA}\n\n"),
            C.sends("2\nhi\n0\n\n"),
            O.gets("2\nhi\n0\n\n"),
            O.sends(OK),
            C.gets(OK_GOT),
        ],
    ),
]

EARLY = [
    Case(
        "early-answer-length",
        "9112 9.3",
        [
            C.sends(POST + "Content-Length: 10\n\nhello"),
            O.gets(POSTED + f"Content-Length: 10\n{VIA}\n\nhello"),
            O.sends(OK),
            C.gets(OK_LAST),
            C.sees_fin(),
            O.closed(),
        ],
        log=[(200, "", "")],
    ),
    Case(
        "early-answer-chunked",
        "9112 9.3",
        [
            C.sends(CHUNKED + "2\nhi\n"),
            O.gets(CHUNKED_GOT + "2\nhi\n"),
            O.sends(f"HTTP/1.1 413 No\n{DATE}\nContent-Length: 0\nConnection: close\n\n"),
            C.gets(f"HTTP/1.1 413 No\n{DATE}\nContent-Length: 0\nConnection: close\n{VIA}\n\n"),
            C.sees_fin(),
            O.closed(),
        ],
        log=[(413, "", "")],
    ),
    Case(
        "early-answer-while-client-sends",
        "9112 9.6",
        [
            C.sends(POST + "Content-Length: 1000000\n\nhello"),
            O.gets(POSTED + f"Content-Length: 1000000\n{VIA}\n\nhello"),
            O.sends(OK),
            O.ends(),
            O.closed(),
            C.sends(BIG),
            C.gets(OK_LAST),
            C.sees_fin(),
        ],
        log=[(200, "", "")],
    ),
    Case(
        "early-answer-body-goes-on",
        "9112 9.3",
        [
            C.sends(POST + "Content-Length: 10\n\nhello"),
            O.gets(POSTED + f"Content-Length: 10\n{VIA}\n\nhello"),
            O.sends(OK.removesuffix("ok")),
            C.gets(OK_LAST.removesuffix("ok")),
            C.sends("world"),
            O.gets("world"),
            O.sends("ok"),
            C.gets("ok"),
            C.sees_fin(),
        ],
        log=[(200, "", "")],
    ),
]

CASES = [*EXPECT, *EARLY]
