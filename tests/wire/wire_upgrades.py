"""Upgrade, and the methods that the proxy may answer by itself."""

from __future__ import annotations

from wire_case import (
    ASK,
    ASKED,
    DATE,
    OK,
    OK_GOT,
    OUR_DATE,
    PROBED,
    VIA,
    C,
    Case,
    O,
    forward,
    page,
    reject,
    respond,
)

UPGRADE = "GET http://o/ HTTP/1.1\nHost: o\nUpgrade: websocket\nConnection: Upgrade\nX: 1\n\n"
UPGRADED = f"GET / HTTP/1.1\nHost: o\nX: 1\nUpgrade: websocket\nConnection: upgrade\n{VIA}\n\n"
SWITCH = "HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nConnection: Upgrade\nX: 2\n\n"
SWITCHED = (
    f"HTTP/1.1 101 Switching Protocols\nX: 2\nUpgrade: websocket\nConnection: upgrade\n{VIA}\n\n"
)
BAD_SWITCH = page(
    502,
    "Bad Gateway",
    "http_upgrade_failed",
    "the origin switched protocols without being asked to",
    close=False,
)

# What the client has meant for the new protocol must not be taken for a request.
BAD_SWITCH_CLOSE = page(
    502,
    "Bad Gateway",
    "http_upgrade_failed",
    "the origin switched protocols without being asked to",
)

UPGRADES = [
    Case(
        "upgrade",
        "9110 7.8",
        [
            C.sends(UPGRADE),
            O.gets(UPGRADED),
            O.sends(SWITCH + "down"),
            C.gets(SWITCHED + "down"),
            C.sends("up"),
            O.gets("up"),
            O.ends(),
            C.sees_fin(),
            C.ends(),
            O.sees_fin(),
        ],
        log=[(101, "", "")],
        everywhere=True,
    ),
    Case(
        "upgrade-early-data",
        "design",
        [
            C.sends(UPGRADE + "early"),
            O.gets(UPGRADED),
            O.sends(SWITCH),
            C.gets(SWITCHED),
            O.gets("early"),
            C.ends(),
            O.sees_fin(),
            O.ends(),
            C.sees_fin(),
        ],
        log=[(101, "", "")],
        everywhere=True,
    ),
    Case(
        "upgrade-with-body",
        "9110 7.8",
        [
            C.sends(UPGRADE.replace("GET", "POST").replace("X: 1\n", "Content-Length: 2\n") + "hi"),
            O.gets(UPGRADED.replace("GET", "POST").replace("X: 1\n", "Content-Length: 2\n") + "hi"),
            O.sends("HTTP/1.1 100 Continue\n\n" + SWITCH),
            C.gets(f"HTTP/1.1 100 Continue\n{VIA}\n\n" + SWITCHED),
            C.ends(),
            O.sees_fin(),
            O.ends(),
            C.sees_fin(),
        ],
        log=[(101, "", "")],
        everywhere=True,
    ),
    Case(
        "upgrade-before-body",
        "9110 7.8",
        [
            C.sends(UPGRADE.replace("GET", "POST").replace("X: 1\n", "Content-Length: 4\n") + "hi"),
            O.gets(UPGRADED.replace("GET", "POST").replace("X: 1\n", "Content-Length: 4\n") + "hi"),
            O.sends(SWITCH),
            C.gets(
                page(
                    502,
                    "Bad Gateway",
                    "http_upgrade_failed",
                    "the origin switched protocols without being asked to",
                )
            ),
            C.sees_fin(),
            O.closed(),
        ],
    ),
    Case(
        "upgrade-declined",
        "9110 7.8",
        [C.sends(UPGRADE), O.gets(UPGRADED), O.sends(OK), C.gets(OK_GOT)],
        log=[(200, "", "")],
    ),
    forward(
        "upgrade-of-two",
        "9110 7.8",
        "GET http://o/ HTTP/1.1\nHost: o\nUpgrade: a/1, b\nUpgrade: c\nConnection: x, upgrade\n\n",
        f"GET / HTTP/1.1\nHost: o\nUpgrade: a/1, b, c\nConnection: upgrade\n{VIA}\n\n",
    ),
    forward(
        "upgrade-and-te",
        "9110 7.8",
        "GET http://o/ HTTP/1.1\nHost: o\nUpgrade: a\nTE: trailers\nConnection: te, upgrade\n\n",
        f"GET / HTTP/1.1\nHost: o\nTE: trailers\nUpgrade: a\nConnection: TE, upgrade\n{VIA}\n\n",
    ),
    forward(
        "upgrade-of-1.0",
        "9110 7.8",
        "GET http://o/ HTTP/1.0\nHost: o\nUpgrade: a\nConnection: upgrade\n\n",
        "GET / HTTP/1.1\nHost: o\nVia: 1.0 spliceproxy\n\n",
        last=True,
    ),
    Case(
        "upgrade-unasked",
        "9110 15.2.2",
        [C.sends(ASK), O.gets(ASKED), O.sends(SWITCH), C.gets(BAD_SWITCH), O.closed()],
        log=[(502, "http_upgrade_failed", "")],
    ),
    Case(
        "upgrade-to-nothing",
        "9110 15.2.2",
        [
            C.sends(UPGRADE),
            O.gets(UPGRADED),
            O.sends("HTTP/1.1 101 Switching Protocols\n\n"),
            C.gets(BAD_SWITCH_CLOSE),
            C.sees_fin(),
            O.closed(),
        ],
        log=[(502, "http_upgrade_failed", "")],
    ),
]

WITHIN = {
    "h2c": "h2c",
    "h2c-in-capitals": "H2C",
    "h2c-with-a-version": "h2c/1",
    "h2c-draft": "h2c-17",
    "h2": "h2",
    "h3": "h3",
    "http2": "HTTP/2.0",
    "http": "http",
    "tls": "TLS/1.0",
    "tls-and-http": "TLS/1.0, HTTP/1.1",
    "twice": "h2c, h2c",
    "empty-ones": ", \th2c ,,",
    "no-protocol": "h2c;x",
    "a-blank-in-it": "x h2c",
    "quoted": '"h2c"',
    "two-slashes": "x/h2c/1",
}
"""Upgrade fields of which nothing goes on."""


def _asks(value: str, *fields: str) -> str:
    lines = [f"Upgrade: {value}", "Connection: Upgrade, HTTP2-Settings", *fields]
    return "GET http://o/ HTTP/1.1\nHost: o\n" + "\n".join(lines) + "\n\n"


H2C_SWITCH = "HTTP/1.1 101 Switching Protocols\nUpgrade: h2c\nConnection: Upgrade\n\n"

HTTP_WITHIN = [
    *(
        forward(
            f"upgrade-not-to-{name}",
            source,
            _asks(value, "HTTP2-Settings: AAMAAABk", "X: 1"),
            f"GET / HTTP/1.1\nHost: o\nX: 1\n{VIA}\n\n",
        )
        for name, value in WITHIN.items()
        for source in ["2817 5.1" if name.startswith("tls") else "9113 3.1"]
    ),
    forward(
        "upgrade-to-the-others",
        "9113 3.1",
        _asks("h2c , websocket,HTTP/2.0", "Upgrade: TLS/1.2, A/b"),
        f"GET / HTTP/1.1\nHost: o\nUpgrade: websocket, A/b\nConnection: upgrade\n{VIA}\n\n",
    ),
    forward(
        "upgrade-settings-alone",
        "7540 3.2.1",
        "GET http://o/ HTTP/1.1\nHost: o\nhttp2-settings: AAMAAABk\n\n",
        ASKED,
    ),
    *(
        forward(
            f"upgrade-to-{value}",
            "9110 7.8",
            _asks(value),
            f"GET / HTTP/1.1\nHost: o\nUpgrade: {value}\nConnection: upgrade\n{VIA}\n\n",
        )
        for value in ("h2x", "xh2c", "https-ish", "SHTTP/1.3", "x/h2c", "SPDY/3.1", "tlsx")
    ),
    Case(
        "upgrade-unasked-to-h2c",
        "9110 7.8",
        [
            C.sends(_asks("h2c")),
            O.gets(ASKED),
            O.sends(H2C_SWITCH),
            C.gets(BAD_SWITCH_CLOSE),
            C.sees_fin(),
            O.closed(),
        ],
        log=[(502, "http_upgrade_failed", "")],
    ),
    *(
        Case(
            f"upgrade-to-another-{name}",
            "9110 7.8",
            [
                C.sends(UPGRADE),
                O.gets(UPGRADED),
                O.sends(SWITCH.replace("websocket", value)),
                C.gets(BAD_SWITCH_CLOSE),
                C.sees_fin(),
                O.closed(),
            ],
            log=[(502, "http_upgrade_failed", "")],
        )
        for name, value in {
            "one": "h2c",
            "one-besides": "websocket, h2c",
            "one-of-ours": "x",
            "one-longer": "websockets",
            "one-empty": ", ,",
        }.items()
    ),
    Case(
        "upgrade-in-another-spelling",
        "9110 7.8",
        [
            C.sends(UPGRADE),
            O.gets(UPGRADED),
            O.sends(SWITCH.replace("websocket", "WebSocket/13")),
            C.gets(SWITCHED.replace("websocket", "WebSocket/13")),
            C.ends(),
            O.sees_fin(),
            O.ends(),
            C.sees_fin(),
        ],
        log=[(101, "", "")],
    ),
    respond(
        "upgrade-required",
        "9110 15.5.22",
        f"HTTP/1.1 426 X\n{DATE}\nUpgrade: h2c\nConnection: upgrade\nContent-Length: 0\n\n",
        f"HTTP/1.1 426 X\n{DATE}\nContent-Length: 0\nUpgrade: h2c\nConnection: upgrade\n{VIA}\n\n",
    ),
]

NO_BODY = "HTTP/1.1 200 OK\n"
TRACE = "TRACE http://o/ HTTP/1.1\nHost: o\n"


def _traced(body: str, *fields: str) -> str:
    length = len(body.replace("\n", "\r\n"))
    lines = [OUR_DATE, "Content-Type: message/http", f"Content-Length: {length}", *fields]
    return NO_BODY + "\n".join(lines) + f"\n\n{body}"


METHODS = [
    forward("trace", "9110 9.3.8", TRACE + "\n", f"TRACE / HTTP/1.1\nHost: o\n{VIA}\n\n"),
    forward(
        "trace-forwards-2",
        "9110 7.6.2",
        TRACE + "Max-Forwards: 2\nA: 1\n\n",
        f"TRACE / HTTP/1.1\nHost: o\nMax-Forwards: 1\nA: 1\n{VIA}\n\n",
    ),
    Case(
        "trace-forwards-0",
        "9110 9.3.8",
        [
            C.sends(
                TRACE + "Max-Forwards: 0\nAuthorization: a\nCookie: b\n"
                "Proxy-Authorization: c\nx-A: 1\n\n"
            ),
            C.gets(_traced(TRACE + "Max-Forwards: 0\nx-A: 1\n\n")),
        ],
        log=[(200, "", "")],
        dials=[],
    ),
    Case(
        "trace-with-body",
        "9110 9.3.8",
        [
            C.sends(TRACE + "Max-Forwards: 0\nContent-Length: 2\n\nhi"),
            C.gets(_traced(TRACE + "Max-Forwards: 0\nContent-Length: 2\n\n", "Connection: close")),
            C.sees_fin(),
        ],
        dials=[],
    ),
    Case(
        "options-asterisk",
        "9110 9.3.7",
        [C.sends("OPTIONS * HTTP/1.1\nHost: x\n\n"), C.gets(PROBED)],
    ),
    Case(
        "options-forwards-0",
        "9110 7.6.2",
        [
            C.sends("OPTIONS http://o/ HTTP/1.1\nHost: o\nMax-Forwards: 0\n\n"),
            C.gets(PROBED),
        ],
        dials=[],
    ),
    Case(
        "options-close",
        "9112 9.6",
        [
            C.sends("OPTIONS * HTTP/1.1\nHost: x\nConnection: close\n\n"),
            C.gets(PROBED.replace("\n\n", "\nConnection: close\n\n")),
            C.sees_fin(),
        ],
    ),
    forward(
        "options-forwards-1",
        "9110 7.6.2",
        "OPTIONS http://o HTTP/1.1\nHost: o\nMax-Forwards: 01\n\n",
        f"OPTIONS * HTTP/1.1\nHost: o\nMax-Forwards: 0\n{VIA}\n\n",
    ),
    forward(
        "options-without-path",
        "9112 3.2.4",
        "OPTIONS http://o:8001 HTTP/1.1\nHost: o\n\n",
        f"OPTIONS * HTTP/1.1\nHost: o:8001\n{VIA}\n\n",
        dials=[("o", 8001)],
    ),
    forward(
        "options-with-path",
        "9112 3.2.4",
        "OPTIONS http://o/ HTTP/1.1\nHost: o\n\n",
        f"OPTIONS / HTTP/1.1\nHost: o\n{VIA}\n\n",
    ),
    reject(
        "forwards-junk",
        "9110 7.6.2",
        TRACE + "Max-Forwards: -1\n\n",
        "a bad Max-Forwards: '-1'",
    ),
    reject(
        "forwards-twice",
        "9110 7.6.2",
        TRACE + "Max-Forwards: 1\nMax-Forwards: 0\n\n",
        "a bad Max-Forwards: '1, 0'",
    ),
    Case(
        "options-asterisk-to-backend",
        "9112 3.2.4",
        [
            C.sends("OPTIONS * HTTP/1.1\nHost: x\nConnection: close\n\n"),
            O.gets(f"OPTIONS * HTTP/1.1\nHost: x\n{VIA}\n\n"),
            O.sends(f"HTTP/1.1 204 X\n{DATE}\n\n"),
            C.gets(f"HTTP/1.1 204 X\n{DATE}\nConnection: close\n{VIA}\n\n"),
            C.sees_fin(),
        ],
        config={"default_backend": ("b", 81)},
    ),
]

CASES = [*UPGRADES, *HTTP_WITHIN, *METHODS]
