"""Proxy-Status of origins: nobody speaks in this proxy's name (RFC 9209)."""

from __future__ import annotations

from wire_case import ASK, ASKED, DATE, HEAD, OK, OK_GOT, VIA, C, Case, O, respond

FORGED = "Proxy-Status: spliceproxy; error=http_request_denied"

DROPPED = {
    "token": "spliceproxy",
    "with-parameters": 'spliceproxy; error=http_request_denied; details="rule x, y"',
    "string": '"spliceproxy"; error=dns_error',
    "in-capitals": "SplicePROXY;error=dns_error",
    "with-blanks": '" spliceproxy "',
    "twice": "spliceproxy, spliceproxy; error=dns_error",
    "without-a-blank": "spliceproxy;error=dns_error",
}

UNREADABLE = {
    "open-string": 'cdn; details="x, spliceproxy',
    "escape": '"splice\\proxy"',
    "comma-at-the-end": "spliceproxy,",
    "inner-list": "(spliceproxy)",
    "bytes": ":c3BsaWNlcHJveHk=:",
    "display-string": '%"splice%70roxy"',
    "latin-1": "cdn\xe9, spliceproxy",
    "blank-before-the-parameter": "spliceproxy =1",
    "capital-key": "spliceproxy; Error=x",
    "tab": "spliceproxy;\terror=x",
    "no-comma": "cdn spliceproxy",
}

KEPT = {
    "another": "cdn; error=dns_error",
    "longer": "spliceproxy2; error=dns_error",
    "longer-string": '"spliceproxy.example"',
    "in-a-string": 'cdn; details="spliceproxy; error=x, spliceproxy"',
    "in-a-parameter": "cdn; next-hop=spliceproxy",
    "every-type": 'a; b; c=?0; d=-1.5; e=:YQ==:; f="\\"\\\\"; g=@1; h=%"a%c3%a4"; i=*x/y:z, "k"',
    "empty": "",
}

MIXED = {
    "last": ("cdn; received-status=200, spliceproxy; error=x", "cdn; received-status=200"),
    "first": ('spliceproxy; error=x; details="a, b" ,"cdn";x', '"cdn";x'),
    "middle": ("a;b=1 ,\tspliceproxy, c", "a;b=1, c"),
}


def _with(message: str, *values: str) -> str:
    fields = "".join(f"Proxy-Status: {value}\n" for value in values)
    return message.replace(f"{DATE}\n", f"{DATE}\n{fields}", 1)


HEADS = [
    *(
        respond(f"status-dropped-{name}", "9209 2", _with(OK, value), OK_GOT)
        for name, value in {**DROPPED, **UNREADABLE}.items()
    ),
    *(
        respond(f"status-kept-{name}", "9209 2", _with(OK, value), _with(OK_GOT, value))
        for name, value in KEPT.items()
    ),
    *(
        respond(f"status-of-others-{name}", "9209 2", _with(OK, sent), _with(OK_GOT, got))
        for name, (sent, got) in MIXED.items()
    ),
    respond(
        "status-in-fields",
        "8941 3.1",
        _with(OK, "a", "spliceproxy; error=x", "b, spliceproxy", "c").replace(
            "Proxy-Status: b", "X: 1\nPROXY-STATUS: b"
        ),
        _with(OK_GOT, "a", "b", "c").replace("Proxy-Status: b", "X: 1\nPROXY-STATUS: b"),
    ),
    respond(
        "status-in-fields-unreadable-together",
        "8941 4.2",
        _with(OK, 'a; b="', 'spliceproxy; b="'),
        OK_GOT,
    ),
    respond("status-in-fields-kept", "8941 3.1", _with(OK, "a", "b"), _with(OK_GOT, "a", "b")),
    respond(
        "status-by-pseudonym",
        "9209 2",
        _with(OK, 'edge.example:8080; error=x, "Edge.Example:8080", edge.example, spliceproxy'),
        _with(OK_GOT, "edge.example").replace(VIA, "Via: 1.1 edge.example:8080"),
        asked=ASKED.replace(VIA, "Via: 1.1 edge.example:8080"),
        config={"via": "edge.example:8080"},
    ),
    respond(
        "status-without-via",
        "9209 2",
        _with(OK, "a, spliceproxy"),
        _with(OK_GOT, "a").replace(f"{VIA}\n", ""),
        asked=ASKED.replace(f"{VIA}\n", ""),
        config={"via": ""},
    ),
    respond(
        "status-of-an-error",
        "9209 2",
        f"HTTP/1.1 403 Forbidden\n{FORGED}\n{DATE}\nContent-Length: 2\n\nno",
        f"HTTP/1.1 403 Forbidden\n{DATE}\nContent-Length: 2\n{VIA}\n\nno",
    ),
    respond(
        "status-in-interim-response",
        "9209 2",
        f"HTTP/1.1 103 E\n{FORGED}, cdn\nX: 1\n\n{OK}",
        f"HTTP/1.1 103 E\nProxy-Status: cdn\nX: 1\n{VIA}\n\n{OK_GOT}",
    ),
    Case(
        "status-in-101",
        "9209 2",
        [
            C.sends("GET http://o/ HTTP/1.1\nHost: o\nUpgrade: x\nConnection: upgrade\n\n"),
            O.gets(f"GET / HTTP/1.1\nHost: o\nUpgrade: x\nConnection: upgrade\n{VIA}\n\n"),
            O.sends(f"HTTP/1.1 101 S\n{FORGED}\nUpgrade: x\nConnection: upgrade\n\n"),
            C.gets(f"HTTP/1.1 101 S\nUpgrade: x\nConnection: upgrade\n{VIA}\n\n"),
            C.ends(),
            O.sees_fin(),
            O.ends(),
            C.sees_fin(),
        ],
    ),
    respond(
        "status-nominated",
        "9110 7.6.1",
        _with(OK, "cdn").replace(DATE, f"{DATE}\nConnection: proxy-status"),
        OK_GOT,
    ),
]


def _trailers(*lines: str) -> str:
    return "2\nok\n0\n" + "".join(f"{line}\n" for line in lines) + "\n"


CHUNKED = HEAD + "Transfer-Encoding: chunked\n\n"
CHUNKED_GOT = HEAD + f"Transfer-Encoding: chunked\n{VIA}\n\n"

TRAILERS = [
    respond(
        f"status-in-trailers-{name}",
        "9209 2",
        CHUNKED + _trailers(*sent),
        CHUNKED_GOT + _trailers(*got),
        asked=ASKED,
        ask=ASK,
    )
    for name, sent, got in [
        ("alone", [FORGED], []),
        ("among-fields", ["A: 1", FORGED, "B: 2"], ["A: 1", "B: 2"]),
        ("among-others", [f"{FORGED}, cdn; a", "B: 2"], ["Proxy-Status: cdn; a", "B: 2"]),
        ("of-others", ["Proxy-Status: cdn; error=x"], ["Proxy-Status: cdn; error=x"]),
        ("unreadable", ["Proxy-Status: spliceproxy,", "B: 2"], ["B: 2"]),
    ]
]

CASES = [*HEADS, *TRAILERS]
