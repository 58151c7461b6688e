"""Faults of clients in each phase: what the origin sees of them."""

from __future__ import annotations

from wire_case import (
    ASK,
    ASKED,
    HEAD,
    OK,
    OK_GOT,
    POST,
    POSTED,
    VIA,
    C,
    Case,
    O,
    Step,
    page,
)

LENGTH = (HEAD + "Content-Length: 9\n\nhello", HEAD + f"Content-Length: 9\n{VIA}\n\nhello")
LONG = (HEAD + "Content-Length: 999999\n\nhello", HEAD + f"Content-Length: 999999\n{VIA}\n\nhello")
CHUNKS = (
    HEAD + "Transfer-Encoding: chunked\n\n5\nhello\n",
    HEAD + f"Transfer-Encoding: chunked\n{VIA}\n\n5\nhello\n",
)
CLOSE = (HEAD + "\nhello", HEAD + f"Connection: close\n{VIA}\n\nhello")


def _upload_fault(name: str, sent: str, got: str, *end: Step, log: tuple[int, str, str]) -> Case:
    """The client fails within its body: the origin must not get a whole message."""
    return Case(
        f"client-{name}",
        "9112 8",
        [C.sends(POST + sent), O.gets(POSTED + got), *end, O.closed()],
        log=[log],
    )


UP_LENGTH = ("Content-Length: 9\n\nhello", f"Content-Length: 9\n{VIA}\n\nhello")
UP_LONG = ("Content-Length: 999999\n\nhello", f"Content-Length: 999999\n{VIA}\n\nhello")
UP_CHUNKS = (
    "Transfer-Encoding: chunked\n\n5\nhello\n",
    f"Transfer-Encoding: chunked\n{VIA}\n\n5\nhello\n",
)
STALLED = page(408, "Request Timeout", "connection_read_timeout", "the request's body stalled")
ENDED = (0, "", "source-eof")
BROKEN = (0, "", "source-error")
GONE = (0, "", "client-reset")
NO_HEAD = "no request head within the time limit"

CLIENTS = [
    Case(
        "client-ends-inside-head",
        "9112 8",
        [C.sends("GET http://o/ HT"), C.consumed(), C.ends(), C.sees_fin()],
        log=[GONE],
        dials=[],
    ),
    Case(
        "client-resets-inside-head",
        "9112 8",
        [C.sends("GET http://o/ HT"), C.consumed(), C.resets()],
        log=[GONE],
    ),
    Case(
        "client-ends-before-empty-line",
        "9112 8",
        [C.sends("GET http://o/ HTTP/1.1\nHost: o\n"), C.ends(), C.sees_fin()],
        log=[GONE],
        dials=[],
    ),
    Case(
        "client-slow-head",
        "9110 15.5.9",
        [
            C.sends("GET http://o/ HT"),
            C.consumed(),
            C.waits(),
            C.gets(page(408, "Request Timeout", "connection_read_timeout", NO_HEAD)),
            C.sees_fin(),
        ],
        log=[(408, "connection_read_timeout", "")],
    ),
    Case(
        "client-idle-after-answer",
        "9112 9.5",
        [C.sends(ASK), O.gets(ASKED), O.sends(OK), C.gets(OK_GOT), C.waits(), C.sees_fin()],
        log=[(200, "", "")],
    ),
    Case(
        "client-resets-while-waiting",
        "9112 9.5",
        [C.sends(ASK), O.gets(ASKED), C.resets(), O.closed()],
        log=[GONE],
    ),
    Case(
        "client-ends-while-waiting",
        "9112 9.5",
        [C.sends(ASK), O.gets(ASKED), C.ends(), C.closed(), O.closed()],
        log=[GONE],
    ),
    Case(
        "client-resets-after-body",
        "9112 9.5",
        [
            C.sends(POST + "Content-Length: 9\n\nhello"),
            O.gets(POSTED + f"Content-Length: 9\n{VIA}\n\nhello"),
            C.sends(" you"),
            O.gets(" you"),
            C.resets(),
            O.closed(),
        ],
        log=[GONE],
    ),
    Case(
        "client-resets-inside-answer",
        "9112 9.5",
        [
            C.sends(ASK),
            O.gets(ASKED),
            O.sends(LENGTH[0]),
            C.gets(LENGTH[1]),
            C.resets(),
            O.closed(),
        ],
        log=[(200, "", "client-reset")],
    ),
    Case(
        "client-resets-inside-long-answer",
        "9112 9.5",
        [C.sends(ASK), O.gets(ASKED), O.sends(LONG[0]), C.gets(LONG[1]), C.resets(), O.closed()],
        log=[(200, "", "client-reset")],
    ),
    Case(
        "client-resets-inside-chunks",
        "9112 9.5",
        [
            C.sends(ASK),
            O.gets(ASKED),
            O.sends(CHUNKS[0]),
            C.gets(CHUNKS[1]),
            C.resets(),
            O.closed(),
        ],
        log=[(200, "", "client-reset")],
    ),
    Case(
        "client-resets-until-close",
        "9112 9.5",
        [C.sends(ASK), O.gets(ASKED), O.sends(CLOSE[0]), C.gets(CLOSE[1]), C.resets(), O.closed()],
        log=[(200, "", "client-reset")],
    ),
    _upload_fault("ends-inside-length", *UP_LENGTH, C.ends(), C.closed(), log=ENDED),
    _upload_fault("resets-inside-length", *UP_LENGTH, C.resets(), log=BROKEN),
    _upload_fault(
        "stalls-inside-length",
        *UP_LENGTH,
        C.waits(),
        C.gets(STALLED),
        C.sees_fin(),
        log=(408, "connection_read_timeout", ""),
    ),
    _upload_fault("ends-inside-long", *UP_LONG, C.ends(), C.closed(), log=ENDED),
    _upload_fault("resets-inside-long", *UP_LONG, C.resets(), log=BROKEN),
    _upload_fault("ends-between-chunks", *UP_CHUNKS, C.ends(), C.closed(), log=ENDED),
    _upload_fault(
        "ends-inside-chunk",
        *UP_CHUNKS,
        C.sends("5\nhe"),
        O.gets("2\nhe\n"),
        C.ends(),
        C.closed(),
        log=ENDED,
    ),
    _upload_fault(
        "ends-before-last-line",
        *UP_CHUNKS,
        C.sends("0\n"),
        C.consumed(),
        C.ends(),
        C.closed(),
        log=ENDED,
    ),
    _upload_fault("resets-between-chunks", *UP_CHUNKS, C.resets(), log=BROKEN),
    _upload_fault(
        "stalls-between-chunks",
        *UP_CHUNKS,
        C.waits(),
        C.gets(STALLED),
        C.sees_fin(),
        log=(408, "connection_read_timeout", ""),
    ),
]

CASES = CLIENTS
