"""Faults of origins in each phase: what the client sees of them."""

from __future__ import annotations

from wire_case import (
    ASK,
    ASK_10,
    ASKED,
    ASKED_10,
    BIG,
    HEAD,
    POST,
    POSTED,
    VIA,
    C,
    Case,
    O,
    Step,
    page,
)

from spliceproxy.errors import Failure

PHRASES = {
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    403: "Forbidden",
}


def _bad_gateway(error: str, detail: str, *, close: bool = False) -> bytes:
    return page(502, "Bad Gateway", error, detail, close=close)


def _dial(error: str, status: int) -> Case:
    """A connection that cannot be made."""
    extra = "Retry-After: 1\n" if status == 503 else ""
    answer = page(status, PHRASES[status], error, "as it is", close=False, extra=extra)
    return Case(
        f"dial-{error}",
        "9209 2.3",
        [C.sends(ASK), C.gets(answer)],
        dial=Failure(error, "as it is"),
        log=[(status, error, "")],
        dials=[("o", 80)],
    )


DIALS = [
    _dial("dns_timeout", 504),
    _dial("dns_error", 502),
    _dial("destination_not_found", 500),
    _dial("destination_unavailable", 503),
    _dial("destination_ip_unroutable", 502),
    _dial("connection_refused", 502),
    _dial("connection_timeout", 504),
    _dial("connection_limit_reached", 503),
    Case(
        "dial-fails-with-body",
        "9112 9.3",
        [
            C.sends(POST + "Content-Length: 2\n\nhi"),
            C.gets(page(502, "Bad Gateway", "connection_refused", "no")),
            C.sees_fin(),
        ],
        dial=Failure("connection_refused", "no"),
    ),
    Case(
        "dial-fails-with-body-to-come",
        "9112 9.6",
        [
            C.sends(POST + "Content-Length: 262144\n\n"),
            C.sends(BIG),
            C.gets(page(502, "Bad Gateway", "connection_refused", "no")),
            C.sees_fin(),
        ],
        dial=Failure("connection_refused", "no"),
    ),
    Case(
        "dial-fails-for-head",
        "9110 9.3.2",
        [
            C.sends(ASK.replace("GET", "HEAD")),
            C.gets(page(502, "Bad Gateway", "connection_refused", "no", close=False, body=False)),
        ],
        dial=Failure("connection_refused", "no"),
    ),
    Case(
        "dial-fails-for-1.0",
        "9112 9.3",
        [
            C.sends(ASK_10),
            C.gets(page(502, "Bad Gateway", "connection_refused", "no")),
            C.sees_fin(),
        ],
        dial=Failure("connection_refused", "no"),
    ),
    Case(
        "dial-failure-is-escaped",
        "8941 3.3.3",
        [
            C.sends(ASK),
            C.gets(page(502, "Bad Gateway", "dns_error", 'a "b" \\ c', close=False)),
        ],
        dial=Failure("dns_error", 'a "b" \\ c'),
    ),
    Case(
        "dial-client-gone",
        "9112 9.5",
        [C.sends(ASK), O.dialled(), C.resets()],
        dial="waits",
        log=[(0, "", "client-reset")],
    ),
    Case(
        "dial-client-ends",
        "9112 9.5",
        [C.sends("CONNECT o:1 HTTP/1.1\nHost: o\n\n"), O.dialled(), C.ends(), C.closed()],
        dial="waits",
        log=[(0, "", "client-reset")],
    ),
    Case(
        "refused-by-limit",
        "9110 15.6.4",
        [
            C.sends(ASK),
            C.gets(
                page(
                    503,
                    "Service Unavailable",
                    "connection_limit_reached",
                    "this proxy has reached its limit on connections",
                    extra="Retry-After: 1\n",
                )
            ),
            C.sees_fin(),
        ],
        refuse=True,
        dials=[],
    ),
]


def _head_fault(name: str, *steps: Step, detail: str, error: str) -> Case:
    """The origin fails before its head is whole."""
    status = 504 if error == "http_response_timeout" else 502
    answer = page(status, PHRASES[status], error, detail, close=False)
    return Case(
        f"origin-{name}",
        "9110 15.6.3",
        [C.sends(ASK), O.gets(ASKED), *steps, C.gets(answer), *_over(steps)],
        log=[(status, error, "")],
    )


def _over(steps: tuple[Step, ...]) -> list[Step]:
    return [] if O.resets() in steps else [O.closed()]


def _body_fault(
    name: str, sent: str, got: str, *steps: Step, end: Step, reason: str, error: str = ""
) -> Case:
    """The origin fails within the body: the client sees that it is cut short."""
    return Case(
        f"origin-{name}",
        "9112 8",
        [C.sends(ASK), O.gets(ASKED), O.sends(sent), C.gets(got), *steps, end, *_over(steps)],
        log=[(200, error, reason)],
    )


INSIDE = "the origin closed within the response's head"
LENGTH = (HEAD + "Content-Length: 9\n\nhello", HEAD + f"Content-Length: 9\n{VIA}\n\nhello")
LONG = (HEAD + "Content-Length: 999999\n\nhello", HEAD + f"Content-Length: 999999\n{VIA}\n\nhello")
CHUNKS = (
    HEAD + "Transfer-Encoding: chunked\n\n5\nhello\n",
    HEAD + f"Transfer-Encoding: chunked\n{VIA}\n\n5\nhello\n",
)
CLOSE = (HEAD + "\nhello", HEAD + f"Connection: close\n{VIA}\n\nhello")

ORIGINS = [
    _head_fault(
        "ends-before-head",
        O.ends(),
        detail="the origin closed the connection without an answer",
        error="connection_terminated",
    ),
    _head_fault(
        "resets-before-head",
        O.resets(),
        detail="the origin closed the connection without an answer",
        error="connection_terminated",
    ),
    _head_fault(
        "ends-inside-head",
        O.sends("HTTP/1.1 200 OK\nA"),
        O.consumed(),
        O.ends(),
        detail=INSIDE,
        error="http_response_incomplete",
    ),
    _head_fault(
        "ends-before-empty-line",
        O.sends("HTTP/1.1 200 OK\nContent-Length: 0\n"),
        O.ends(),
        detail=INSIDE,
        error="http_response_incomplete",
    ),
    _head_fault(
        "resets-inside-head",
        O.sends("HTTP/1.1 200"),
        O.consumed(),
        O.resets(),
        detail="the origin reset the connection",
        error="connection_terminated",
    ),
    _head_fault(
        "silent", O.waits(), detail="the origin does not answer", error="http_response_timeout"
    ),
    _head_fault(
        "silent-inside-head",
        O.sends("HTTP/1.1 2"),
        O.consumed(),
        O.waits(),
        detail="the origin does not answer",
        error="http_response_timeout",
    ),
    _body_fault(
        "ends-before-body",
        HEAD + "Content-Length: 9\n\n",
        HEAD + f"Content-Length: 9\n{VIA}\n\n",
        O.ends(),
        end=C.sees_fin(),
        reason="source-eof",
    ),
    _body_fault("ends-inside-length", *LENGTH, O.ends(), end=C.sees_fin(), reason="source-eof"),
    _body_fault(
        "resets-inside-length", *LENGTH, O.resets(), end=C.sees_fin(), reason="source-error"
    ),
    _body_fault(
        "stalls-inside-length", *LENGTH, O.waits(), end=C.sees_fin(), reason="idle-timeout"
    ),
    _body_fault(
        "ends-inside-long",
        *LONG,
        O.sends(" you"),
        C.gets(" you"),
        O.ends(),
        end=C.sees_fin(),
        reason="source-eof",
    ),
    _body_fault(
        "resets-inside-long",
        *LONG,
        O.sends(" you"),
        C.gets(" you"),
        O.resets(),
        end=C.sees_fin(),
        reason="source-error",
    ),
    _body_fault("ends-between-chunks", *CHUNKS, O.ends(), end=C.sees_fin(), reason="source-eof"),
    _body_fault(
        "ends-inside-chunk",
        *CHUNKS,
        O.sends("5\nhe"),
        C.gets("2\nhe\n"),
        O.ends(),
        end=C.sees_fin(),
        reason="source-eof",
    ),
    _body_fault(
        "ends-inside-big-chunk",
        *CHUNKS,
        O.sends("40000\nhe"),
        C.gets("2\nhe\n3fffe\n"),
        O.ends(),
        end=C.sees_fin(),
        reason="source-eof",
    ),
    _body_fault(
        "ends-before-last-line",
        *CHUNKS,
        O.sends("0\n"),
        O.consumed(),
        O.ends(),
        end=C.sees_fin(),
        reason="source-eof",
    ),
    _body_fault(
        "ends-inside-trailers",
        *CHUNKS,
        O.sends("0\nX: 1\n"),
        O.consumed(),
        O.ends(),
        end=C.sees_fin(),
        reason="source-eof",
    ),
    _body_fault(
        "resets-between-chunks", *CHUNKS, O.resets(), end=C.sees_fin(), reason="source-error"
    ),
    _body_fault(
        "stalls-between-chunks", *CHUNKS, O.waits(), end=C.sees_fin(), reason="idle-timeout"
    ),
    _body_fault(
        "resets-until-close", *CLOSE, O.resets(), end=C.sees_reset(), reason="source-error"
    ),
    Case(
        "origin-ends-inside-chunks-to-1.0",
        "9112 8",
        [
            C.sends(ASK_10),
            O.gets(ASKED_10),
            O.sends(CHUNKS[0]),
            C.gets(CLOSE[1]),
            O.ends(),
            C.sees_reset(),
            O.closed(),
        ],
        log=[(200, "", "source-eof")],
    ),
    Case(
        "origin-silent-after-body",
        "9110 15.6.5",
        [
            C.sends(POST + "Content-Length: 9\n\nhello"),
            O.gets(POSTED + f"Content-Length: 9\n{VIA}\n\nhello"),
            C.sends(" you"),
            O.gets(" you"),
            O.waits(),
            C.gets(
                page(504, "Gateway Timeout", "http_response_timeout", "the origin does not answer")
            ),
            C.sees_fin(),
            O.closed(),
        ],
        log=[(504, "http_response_timeout", "")],
    ),
    Case(
        "origin-ends-while-body-comes",
        "9112 9.6",
        [
            C.sends(POST + "Content-Length: 262144\n\nhello"),
            O.gets(POSTED + f"Content-Length: 262144\n{VIA}\n\nhello"),
            O.resets(),
            C.sends(BIG),
            C.gets(
                _bad_gateway(
                    "connection_terminated",
                    "the origin closed the connection without an answer",
                    close=True,
                )
            ),
            C.sees_fin(),
        ],
        log=[(502, "connection_terminated", "")],
    ),
]

CASES = [*DIALS, *ORIGINS]
