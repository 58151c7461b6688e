"""Connections of clients: which are kept, and requests that come one behind the other."""

from __future__ import annotations

from wire_case import (
    ASK,
    ASKED,
    BIG,
    FINE,
    O2,
    OK,
    OK_GOT,
    OK_LAST,
    VIA,
    C,
    Case,
    O,
    Step,
    page,
    wire,
)

ONCE = [C.sends(ASK), O.gets(ASKED), O.sends(OK), C.gets(OK_GOT)]
"""A first exchange, which leaves a connection in the pool."""

HI = "POST http://o/ HTTP/1.1\nHost: o\nContent-Length: 2\n\nhi"
HI_GOT = f"POST / HTTP/1.1\nHost: o\nContent-Length: 2\n{VIA}\n\nhi"


def _asks(fields: str, *, last: bool, minor: int = 1) -> list[Step]:
    """A request with these fields, and whether its answer is the last one."""
    sent = f"GET http://o/ HTTP/1.{minor}\nHost: o\n{fields}\n\n"
    got = [C.gets(OK_LAST), C.sees_fin()] if last else [C.gets(OK_GOT)]
    return [C.sends(sent), O.gets(ASKED.replace("1.1 spl", f"1.{minor} spl")), O.sends(OK), *got]


def _keeps(name: str, source: str, fields: str, *, last: bool = False, minor: int = 1) -> Case:
    return Case(name, source, _asks(fields, last=last, minor=minor), log=[FINE])


CLIENTS = [
    _keeps("keep-default", "9112 9.3", "Connection: keep-alive"),
    _keeps("keep-close", "9112 9.6", "Connection: close", last=True),
    _keeps("keep-close-in-list", "9112 9.6", "Connection: x,\tCLOSE", last=True),
    _keeps("keep-close-in-second-field", "9112 9.6", "Connection: x\nConnection: close", last=True),
    _keeps("keep-proxy-connection-close", "9112 C.2.2", "Proxy-Connection: close", last=True),
    _keeps("keep-connection-wins", "9112 C.2.2", "Connection: x\nProxy-Connection: close"),
    _keeps("keep-1.0", "9112 9.3", "Connection: close", last=True, minor=0),
    _keeps("keep-1.0-alive", "9112 9.3", "Connection: keep-alive", last=True, minor=0),
    _keeps("keep-1.0-proxy", "9112 C.2.2", "Proxy-Connection: keep-alive", last=True, minor=0),
    Case(
        "draining",
        "9112 9.6",
        [C.sends(ASK), O.gets(ASKED), O.sends(OK), C.gets(OK_LAST), C.sees_fin()],
        log=[FINE],
        draining=True,
    ),
    Case(
        "two-requests",
        "9112 9.3",
        [*ONCE, C.sends(ASK), O.gets(ASKED), O.sends(OK), C.gets(OK_GOT)],
        log=[FINE, FINE],
        dials=[("o", 80)],
    ),
    Case(
        "close-drops-what-follows",
        "9112 9.6",
        [
            C.sends(ASK.replace("Host: o\n", "Host: o\nConnection: close\n") + ASK),
            O.gets(ASKED),
            O.sends(OK),
            C.gets(OK_LAST),
            C.sees_fin(),
        ],
        log=[FINE],
    ),
    Case(
        "close-with-input-unread",
        "9112 9.6",
        [
            C.sends(wire(ASK.replace("Host: o\n", "Host: o\nConnection: close\n")) + BIG),
            O.gets(ASKED),
            O.sends(OK),
            C.gets(OK_LAST),
            C.sees_fin(),
        ],
        log=[FINE],
    ),
    Case("silent-client", "9112 9.5", [C.ends(), C.sees_fin()], log=[]),
    Case("empty-lines-only", "9112 2.2", [C.sends("\n\n"), C.ends(), C.sees_fin()], log=[]),
    Case("client-ends-after-answer", "9112 9.6", [*ONCE, C.ends(), C.sees_fin()], log=[FINE]),
    Case("client-resets-after-answer", "9112 9.6", [*ONCE, C.resets()], log=[FINE]),
    Case(
        "client-ends-within-answer",
        "9112 9.6",
        [
            C.sends(ASK),
            O.gets(ASKED),
            O.sends(OK.removesuffix("ok")),
            C.gets(OK_GOT.removesuffix("ok")),
            C.ends(),
            O.closed(),
            C.sees_fin(),
        ],
        log=[(200, "", "client-reset")],
    ),
]


def _nth(n: int) -> tuple[str, str, str, str]:
    """A request and an answer that carry a number, as sent and as received."""
    return (
        ASK.replace("/ ", f"/{n} "),
        ASKED.replace("/ ", f"/{n} "),
        OK.replace("Content", f"X: {n}\nContent"),
        OK_GOT.replace("Content", f"X: {n}\nContent"),
    )


A1, A2, A3 = _nth(1), _nth(2), _nth(3)

PIPELINES = [
    Case(
        "pipeline",
        "9112 9.3.2",
        [
            C.sends(A1[0] + A2[0] + A3[0]),
            O.gets(A1[1]),
            O.sends(A1[2]),
            O.gets(A2[1]),
            O.sends(A2[2]),
            O.gets(A3[1]),
            O.sends(A3[2]),
            C.gets(A1[3] + A2[3] + A3[3]),
        ],
        log=[FINE] * 3,
        dials=[("o", 80)],
        everywhere=True,
    ),
    Case(
        "pipeline-to-two-origins",
        "9112 9.3.2",
        [
            C.sends(ASK + ASK.replace("http://o/", "http://p/")),
            O.gets(ASKED),
            O.sends(A1[2]),
            O2.gets(ASKED.replace(": o", ": p")),
            O2.sends(A2[2]),
            C.gets(A1[3] + A2[3]),
        ],
        dials=[("o", 80), ("p", 80)],
        everywhere=True,
    ),
    Case(
        "pipeline-behind-body",
        "9112 9.3.2",
        [
            C.sends(HI + A2[0]),
            O.gets(HI_GOT),
            O.sends(A1[2]),
            O.gets(A2[1]),
            O.sends(A2[2]),
            C.gets(A1[3] + A2[3]),
        ],
        everywhere=True,
    ),
    Case(
        "pipeline-behind-chunks",
        "9112 9.3.2",
        [
            C.sends(
                "POST http://o/ HTTP/1.1\nHost: o\nTransfer-Encoding: chunked\n\n"
                "2\nhi\n0\n\n" + A2[0]
            ),
            O.gets_chunked(
                f"POST / HTTP/1.1\nHost: o\nTransfer-Encoding: chunked\n{VIA}\n\n", b"hi"
            ),
            O.sends(A1[2]),
            O.gets(A2[1]),
            O.sends(A2[2]),
            C.gets(A1[3] + A2[3]),
        ],
        everywhere=True,
    ),
    Case(
        "pipeline-empty-line-between",
        "9112 2.2",
        [
            C.sends(A1[0] + "\n" + A2[0]),
            O.gets(A1[1]),
            O.sends(A1[2]),
            O.gets(A2[1]),
            O.sends(A2[2]),
            C.gets(A1[3] + A2[3]),
        ],
        everywhere=True,
    ),
    Case(
        "pipeline-while-waiting",
        "9112 9.3.2",
        [
            C.sends(A1[0]),
            O.gets(A1[1]),
            C.sends(A2[0]),
            C.consumed(),
            O.sends(A1[2]),
            O.gets(A2[1]),
            O.sends(A2[2]),
            C.gets(A1[3] + A2[3]),
        ],
    ),
    Case(
        "pipeline-then-half-close",
        "9112 9.6",
        [
            C.sends(A1[0] + A2[0]),
            C.ends(),
            O.gets(A1[1]),
            O.sends(A1[2]),
            C.gets(A1[3]),
            O.gets(A2[1]),
            C.closed(),
            O.closed(),
        ],
    ),
    Case(
        "pipeline-second-is-bad",
        "9112 9.3.2",
        [
            C.sends(A1[0] + "GET http://o/ HTTP/1.1\n\n"),
            O.gets(A1[1]),
            O.sends(A1[2]),
            C.gets(A1[3]),
            C.gets(page(400, "Bad Request", "http_request_error", "HTTP/1.1 without a Host field")),
            C.sees_fin(),
        ],
        log=[FINE, (400, "http_request_error", "")],
        everywhere=True,
    ),
    Case(
        "pipeline-length-is-not-a-request",
        "9112 11.2",
        [
            C.sends(HI.replace("2\n\nhi", f"{len(ASK) + 3}\n\n") + ASK),
            O.gets(HI_GOT.replace("2\n", f"{len(ASK) + 3}\n").replace("\n\nhi", "\n\n") + ASK),
            O.sends(OK),
            C.gets(OK_GOT),
        ],
        log=[FINE],
        everywhere=True,
    ),
]

CASES = [*CLIENTS, *PIPELINES]
