"""The pool of idle connections to origins, and which request may be sent again."""

from __future__ import annotations

from wire_case import (
    ASK,
    ASKED,
    C2,
    DATE,
    FINE,
    O2,
    O3,
    OK,
    OK_GOT,
    VIA,
    C,
    Case,
    O,
    page,
)

ONCE = [C.sends(ASK), O.gets(ASKED), O.sends(OK), C.gets(OK_GOT)]
"""A first exchange, which leaves a connection in the pool."""

TWICE = [*ONCE, *ONCE]
"""In the lane the second is the relay's also where the first was cut, and not plain."""

HI = "POST http://o/ HTTP/1.1\nHost: o\nContent-Length: 2\n\nhi"
HI_GOT = f"POST / HTTP/1.1\nHost: o\nContent-Length: 2\n{VIA}\n\nhi"
UNANSWERED = "the origin closed the connection without an answer"
TERMINATED = page(502, "Bad Gateway", "connection_terminated", UNANSWERED, close=False)

POOL = [
    Case(
        "pool-shared-by-clients",
        "9112 9.3",
        [*ONCE, C2.sends(ASK), O.gets(ASKED), O.sends(OK), C2.gets(OK_GOT)],
        dials=[("o", 80)],
    ),
    Case(
        "pool-by-port",
        "9112 9.3",
        [
            *ONCE,
            C.sends(ASK.replace("//o/", "//o:81/")),
            O2.gets(ASKED.replace(": o", ": o:81")),
            O2.sends(OK),
            C.gets(OK_GOT),
            C.sends(ASK),
            O.gets(ASKED),
            O.sends(OK),
            C.gets(OK_GOT),
        ],
        dials=[("o", 80), ("o", 81)],
    ),
    Case(
        "pool-not-for-post",
        "9110 9.2.2",
        [*ONCE, C2.sends(HI), O2.gets(HI_GOT), O2.sends(OK), C2.gets(OK_GOT)],
        dials=[("o", 80), ("o", 80)],
    ),
    Case(
        "pool-not-for-unknown-method",
        "9110 9.2.2",
        [
            *ONCE,
            C2.sends(ASK.replace("GET", "LOCK")),
            O2.gets(ASKED.replace("GET", "LOCK")),
            O2.sends(OK),
            C2.gets(OK_GOT),
        ],
    ),
    Case(
        "pool-not-for-put-with-body",
        "9110 9.2.2",
        [
            *ONCE,
            C2.sends(HI.replace("POST", "PUT")),
            O2.gets(HI_GOT.replace("POST", "PUT")),
            O2.sends(OK),
            C2.gets(OK_GOT),
        ],
    ),
    Case(
        "own-for-post",
        "9110 9.2.2",
        [*TWICE, C.sends(HI), O.gets(HI_GOT), O.sends(OK), C.gets(OK_GOT)],
        log=[FINE, FINE, FINE],
        dials=[("o", 80)],
    ),
    Case(
        "own-not-of-another",
        "9110 9.2.2",
        [
            *ONCE,
            C2.sends(ASK),
            O.gets(ASKED),
            O.sends(OK),
            C2.gets(OK_GOT),
            C.sends(HI),
            O2.gets(HI_GOT),
            O2.sends(OK),
            C.gets(OK_GOT),
        ],
        dials=[("o", 80), ("o", 80)],
    ),
    Case(
        "own-not-elsewhere",
        "9112 9.3",
        [
            *ONCE,
            C.sends(HI.replace("//o/", "//o:81/")),
            O2.gets(HI_GOT.replace(": o", ": o:81")),
            O2.sends(OK),
            C.gets(OK_GOT),
        ],
        dials=[("o", 80), ("o", 81)],
    ),
    Case(
        "own-that-closes",
        "9112 9.3.1",
        [*ONCE, O.ends(), O.closed(), C.sends(HI), O2.gets(HI_GOT), O2.sends(OK), C.gets(OK_GOT)],
        log=[FINE, FINE],
    ),
    Case(
        "own-fails-once",
        "9110 9.2.2",
        [
            *TWICE,
            C.sends(HI),
            O.gets(HI_GOT),
            O.ends(),
            C.gets(page(502, "Bad Gateway", "connection_terminated", UNANSWERED)),
            C.sees_fin(),
            O.closed(),
        ],
        log=[FINE, FINE, (502, "connection_terminated", "")],
        dials=[("o", 80)],
    ),
    Case(
        "pool-for-delete",
        "9110 9.2.2",
        [
            *ONCE,
            C.sends(ASK.replace("GET", "DELETE")),
            O.gets(ASKED.replace("GET", "DELETE")),
            O.sends(OK),
            C.gets(OK_GOT),
        ],
    ),
    Case(
        "pool-last-in-first-out",
        "9112 9.3",
        [
            *ONCE,
            C2.sends(HI),
            O2.gets(HI_GOT),
            O2.sends(OK),
            C2.gets(OK_GOT),
            C.sends(ASK),
            O2.gets(ASKED),
            O2.sends(OK),
            C.gets(OK_GOT),
        ],
    ),
    Case(
        "pool-drops-what-closes",
        "9112 9.5",
        [*ONCE, O.ends(), O.closed(), C.sends(ASK), O2.gets(ASKED), O2.sends(OK), C.gets(OK_GOT)],
        log=[FINE, FINE],
    ),
    Case(
        "pool-drops-what-speaks",
        "9112 9.5",
        [
            *ONCE,
            O.sends(f"HTTP/1.1 408 Request Timeout\n{DATE}\nContent-Length: 0\n\n"),
            O.closed(),
            C.sends(ASK),
            O2.gets(ASKED),
            O2.sends(OK),
            C.gets(OK_GOT),
        ],
    ),
    Case(
        "pool-looks-before-reuse",
        "9112 9.5",
        [
            *ONCE,
            O.sends_late(f"HTTP/1.1 408 Request Timeout\n{DATE}\nContent-Length: 0\n\n"),
            C.sends(ASK),
            O2.gets(ASKED),
            O2.sends(OK),
            C.gets(OK_GOT),
            O.closed(),
        ],
        log=[FINE, FINE],
        dials=[("o", 80), ("o", 80)],
    ),
    Case(
        "pool-drops-what-resets",
        "9112 9.5",
        [*ONCE, O.resets(), C.sends(ASK), O2.gets(ASKED), O2.sends(OK), C.gets(OK_GOT)],
    ),
    Case(
        "pool-not-after-close",
        "9112 9.6",
        [
            C.sends(ASK),
            O.gets(ASKED),
            O.sends(OK.replace("Content", "Connection: Close\nContent")),
            C.gets(OK_GOT),
            O.closed(),
        ],
    ),
    Case(
        "pool-not-for-1.0",
        "9112 9.3",
        [
            C.sends(ASK),
            O.gets(ASKED),
            O.sends(OK.replace("HTTP/1.1", "HTTP/1.0")),
            C.gets(OK_GOT.replace("1.1 spl", "1.0 spl")),
            O.closed(),
        ],
    ),
    Case(
        "pool-for-1.0-keep-alive",
        "9112 9.3",
        [
            C.sends(ASK),
            O.gets(ASKED),
            O.sends(
                OK.replace("HTTP/1.1", "HTTP/1.0").replace(
                    "Content", "Connection: Keep-Alive\nContent"
                )
            ),
            C.gets(OK_GOT.replace("1.1 spl", "1.0 spl")),
        ],
    ),
    Case(
        "pool-after-head",
        "9112 9.3",
        [
            C.sends(ASK.replace("GET", "HEAD")),
            O.gets(ASKED.replace("GET", "HEAD")),
            O.sends(OK.removesuffix("ok")),
            C.gets(OK_GOT.removesuffix("ok")),
            C.sends(ASK),
            O.gets(ASKED),
            O.sends(OK),
            C.gets(OK_GOT),
        ],
        dials=[("o", 80)],
    ),
    Case(
        "pool-not-with-body-behind-head",
        "9112 6.3",
        [
            C.sends(ASK.replace("GET", "HEAD")),
            O.gets(ASKED.replace("GET", "HEAD")),
            O.sends(OK),
            C.gets(OK_GOT.removesuffix("ok")),
            O.closed(),
        ],
    ),
]

AGAIN = [
    Case(
        "again-on-end",
        "9110 9.2.2",
        [
            *ONCE,
            C.sends(ASK),
            O.gets(ASKED),
            O.ends(),
            O2.gets(ASKED),
            O2.sends(OK),
            C.gets(OK_GOT),
            O.closed(),
        ],
        log=[FINE, FINE],
        dials=[("o", 80), ("o", 80)],
    ),
    Case(
        "again-on-reset",
        "9110 9.2.2",
        [
            *ONCE,
            C.sends(ASK),
            O.gets(ASKED),
            O.resets(),
            O2.gets(ASKED),
            O2.sends(OK),
            C.gets(OK_GOT),
        ],
        log=[FINE, FINE],
    ),
    Case(
        "again-only-once",
        "9110 9.2.2",
        [
            *ONCE,
            C.sends(ASK),
            O.gets(ASKED),
            O.ends(),
            O2.gets(ASKED),
            O2.ends(),
            C.gets(TERMINATED),
            O.closed(),
            O2.closed(),
        ],
        log=[FINE, (502, "connection_terminated", "")],
        dials=[("o", 80), ("o", 80)],
    ),
    Case(
        "again-not-on-another-idle-one",
        "9110 9.2.2",
        [
            *ONCE,
            C2.sends(HI),
            O2.gets(HI_GOT),
            O2.sends(OK),
            C2.gets(OK_GOT),
            C.sends(ASK),
            O2.gets(ASKED),
            O2.ends(),
            O3.gets(ASKED),
            O3.sends(OK),
            C.gets(OK_GOT),
            O2.closed(),
        ],
    ),
    Case(
        "again-not-after-a-byte",
        "9110 9.2.2",
        [
            *ONCE,
            C.sends(ASK),
            O.gets(ASKED),
            O.sends(b"H"),
            O.ends(),
            C.gets(
                page(
                    502,
                    "Bad Gateway",
                    "http_response_incomplete",
                    "the origin closed within the response's head",
                    close=False,
                )
            ),
            O.closed(),
        ],
        log=[FINE, (502, "http_response_incomplete", "")],
        dials=[("o", 80)],
    ),
    Case(
        "again-not-after-100",
        "9110 9.2.2",
        [
            *ONCE,
            C.sends(ASK),
            O.gets(ASKED),
            O.sends("HTTP/1.1 100 C\n\n"),
            C.gets(f"HTTP/1.1 100 C\n{VIA}\n\n"),
            O.resets(),
            C.gets(
                page(
                    502,
                    "Bad Gateway",
                    "connection_terminated",
                    "the origin reset the connection",
                    close=False,
                )
            ),
        ],
        dials=[("o", 80)],
    ),
    Case(
        "again-not-on-new-one",
        "9110 9.2.2",
        [C.sends(ASK), O.gets(ASKED), O.ends(), C.gets(TERMINATED), O.closed()],
        log=[(502, "connection_terminated", "")],
        dials=[("o", 80)],
    ),
]

CASES = [*POOL, *AGAIN]
