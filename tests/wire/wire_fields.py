"""Fields of requests and responses: what goes on, what is for one hop, what is added."""

from __future__ import annotations

from wire_case import (
    ASK,
    ASKED,
    DATE,
    FINE,
    OK,
    OK_GOT,
    OUR_DATE,
    VIA,
    C,
    Case,
    O,
    forward,
    page,
    respond,
)


def _fields(name: str, source: str, sent: str, received: str, **config: str) -> Case:
    """Fields of a request behind Host, and what the origin gets of them."""
    return forward(
        name,
        source,
        f"GET http://o/ HTTP/1.1\nHost: o\n{sent}\n\n",
        f"GET / HTTP/1.1\nHost: o\n{received}\n\n",
        config=config,
    )


def _answer(name: str, source: str, sent: str, got: str, status: str = "200 OK") -> Case:
    """Fields of a response with a length, and what the client gets of them."""
    return respond(
        name,
        source,
        f"HTTP/1.1 {status}\n{DATE}\nContent-Length: 2\n{sent}\n\nok",
        f"HTTP/1.1 {status}\n{DATE}\nContent-Length: 2\n{got}\n\nok",
    )


HOP_BY_HOP = [
    _fields("keep-alive-dropped", "9112 C.2.2", "Keep-Alive: timeout=5\nA: 1", f"A: 1\n{VIA}"),
    _fields("proxy-connection-dropped", "9112 C.2.2", "Proxy-Connection: keep-alive", VIA),
    _fields("connection-dropped", "9110 7.6.1", "Connection: keep-alive\nA: 1", f"A: 1\n{VIA}"),
    _fields("nominated-dropped", "9110 7.6.1", "X-A: 1\nConnection: x-a\nX-B: 2", f"X-B: 2\n{VIA}"),
    _fields(
        "nominated-in-two-fields",
        "9110 7.6.1",
        "Connection: X-A , ,\tx-b\nX-A: 1\nX-B: 2\nConnection: X-C\nx-c: 3\nX-D: 4\nX-A: 5",
        f"X-D: 4\n{VIA}",
    ),
    _fields(
        "nominated-host-stays",
        "9110 7.6.1",
        "Connection: host, date, cache-control\nDate: x\nCache-Control: no-cache",
        f"Date: x\nCache-Control: no-cache\n{VIA}",
    ),
    _fields(
        "nominated-via-stays",
        "9110 7.6.1",
        "Via: 1.1 a\nConnection: via",
        f"Via: 1.1 a\n{VIA}",
    ),
    forward(
        "nominated-length-stays",
        "9110 7.6.1",
        "POST http://o/ HTTP/1.1\nHost: o\nConnection: content-length\nContent-Length: 2\n\nhi",
        f"POST / HTTP/1.1\nHost: o\nContent-Length: 2\n{VIA}\n\nhi",
    ),
    forward(
        "nominated-coding-stays",
        "9110 7.6.1",
        "POST http://o/ HTTP/1.1\nHost: o\nConnection: transfer-encoding\n"
        "Transfer-Encoding: chunked\n\n2\nhi\n0\n\n",
        f"POST / HTTP/1.1\nHost: o\nTransfer-Encoding: chunked\n{VIA}\n\n2\nhi\n0\n\n",
    ),
    _fields("te-dropped", "9110 10.1.4", "TE: gzip", VIA),
    _fields("te-named-dropped", "9110 10.1.4", "TE: gzip\nConnection: TE", VIA),
    _fields(
        "te-trailers-made-anew",
        "9110 10.1.4",
        "TE: gzip;q=0.5, Trailers\nConnection: TE",
        f"TE: trailers\nConnection: TE\n{VIA}",
    ),
    forward(
        "te-of-1.0-dropped",
        "9110 10.1.4",
        "GET http://o/ HTTP/1.0\nHost: o\nTE: trailers\nConnection: TE\n\n",
        "GET / HTTP/1.1\nHost: o\nVia: 1.0 spliceproxy\n\n",
        last=True,
    ),
    _fields("upgrade-unnamed-dropped", "9110 7.8", "Upgrade: websocket", VIA),
    _fields("connection-upgrade-alone", "9110 7.8", "Connection: upgrade", VIA),
    _fields("upgrade-empty-dropped", "9110 7.8", "Upgrade:\nConnection: upgrade", VIA),
    _fields(
        "proxy-authorization-dropped",
        "9110 11.7.2",
        "Proxy-Authorization: Basic YTpi\nAuthorization: Basic Yzpk",
        f"Authorization: Basic Yzpk\n{VIA}",
    ),
    _fields("expect-passed", "9110 10.1.1", "Expect: 100-continue", f"Expect: 100-continue\n{VIA}"),
    _fields("max-forwards-of-get", "9110 7.6.2", "Max-Forwards: 0", f"Max-Forwards: 0\n{VIA}"),
    _fields(
        "cookies-kept-apart", "9110 5.3", "Cookie: a\nCookie: b", f"Cookie: a\nCookie: b\n{VIA}"
    ),
]

VIAS = [
    _fields("via-appended", "9110 7.6.3", "Via: 1.0 fred, 1.1 p", f"Via: 1.0 fred, 1.1 p\n{VIA}"),
    forward(
        "via-renamed",
        "9110 7.6.3",
        ASK,
        ASKED.replace("spliceproxy", "other"),
        got=OK_GOT.replace("spliceproxy", "other"),
        config={"via": "other"},
    ),
    forward(
        "via-off",
        "9110 7.6.3",
        ASK.replace("\n\n", f"\n{VIA}\n\n"),
        ASKED,
        got=OK_GOT.replace(f"{VIA}\n", ""),
        config={"via": ""},
    ),
    _fields(
        "via-name-in-comment",
        "9110 7.6.3",
        "Via: 1.1 p (spliceproxy)",
        f"Via: 1.1 p (spliceproxy)\n{VIA}",
    ),
    _fields(
        "via-name-as-part", "9110 7.6.3", "Via: 1.1 spliceproxy2", f"Via: 1.1 spliceproxy2\n{VIA}"
    ),
]


def _loop(name: str, via: str) -> Case:
    detail = "the Via field says that the request has passed this proxy before"
    answer = page(502, "Bad Gateway", "proxy_loop_detected", detail, close=False)
    return Case(
        name,
        "9110 7.6.3",
        [C.sends(f"GET http://o/ HTTP/1.1\nHost: o\n{via}\n\n"), C.gets(answer)],
        log=[(502, "proxy_loop_detected", "")],
        dials=[],
    )


LOOPS = [
    _loop("loop", "Via: 1.1 spliceproxy"),
    _loop("loop-other-case", "Via: 1.1 SpliceProxy"),
    _loop("loop-in-list", "Via: 1.0 a (x, y),1.1  spliceproxy\t(z), 1.1 b"),
    _loop("loop-in-second-field", "Via: 1.1 a\nVia: HTTP/1.1 spliceproxy"),
    Case(
        "loop-by-address",
        "9110 7.6.3",
        [
            C.sends("GET http://o:3128/ HTTP/1.1\nHost: o:3128\n\n"),
            C.gets(
                page(
                    502,
                    "Bad Gateway",
                    "proxy_loop_detected",
                    "the request leads back to this proxy",
                    close=False,
                )
            ),
            O.closed(),
        ],
        own=[("127.0.0.9", 3128)],
    ),
    forward("no-loop-other-port", "9110 7.6.3", ASK, ASKED, own=[("127.0.0.9", 3128)]),
    forward("no-loop-other-address", "9110 7.6.3", ASK, ASKED, own=[("192.0.2.9", 80)]),
]

FORWARDED = [
    _fields(
        "forwarded-transparent",
        "7239 4",
        "X-Forwarded-For: a\nForwarded: for=b",
        f"X-Forwarded-For: a\nForwarded: for=b\n{VIA}",
    ),
    _fields(
        "forwarded-on",
        "7239 4",
        "A: 1",
        f"A: 1\nForwarded: for=192.0.2.7\nX-Forwarded-For: 192.0.2.7\n{VIA}",
        forwarded_for="on",
    ),
    _fields(
        "forwarded-on-appended",
        "7239 4",
        "X-Forwarded-For: a\nForwarded: for=b\nForwarded: for=c",
        f"Forwarded: for=b, for=c, for=192.0.2.7\nX-Forwarded-For: a, 192.0.2.7\n{VIA}",
        forwarded_for="on",
    ),
    _fields(
        "forwarded-off",
        "7239 6.2",
        "A: 1",
        f"A: 1\nForwarded: for=unknown\nX-Forwarded-For: unknown\n{VIA}",
        forwarded_for="off",
    ),
    _fields(
        "forwarded-delete",
        "7239 8.1",
        "X-Forwarded-For: a\nA: 1\nForwarded: for=b",
        f"A: 1\n{VIA}",
        forwarded_for="delete",
    ),
    _fields(
        "forwarded-nominated",
        "9110 7.6.1",
        "Connection: forwarded, x-forwarded-for\nX-Forwarded-For: a",
        f"Forwarded: for=192.0.2.7\nX-Forwarded-For: 192.0.2.7\n{VIA}",
        forwarded_for="on",
    ),
]

RESPONSES = [
    _answer(
        "answer-order-kept",
        "9110 5.3",
        "x-B: 1\nSET-cookie: a\nx-b: 2\nSet-Cookie: b",
        f"x-B: 1\nSET-cookie: a\nx-b: 2\nSet-Cookie: b\n{VIA}",
    ),
    _answer(
        "answer-keep-alive-dropped", "9112 C.2.2", "Keep-Alive: timeout=5\nA: 1", f"A: 1\n{VIA}"
    ),
    _answer("answer-connection-dropped", "9110 7.6.1", "Connection: keep-alive", VIA),
    _answer(
        "answer-nominated-dropped",
        "9110 7.6.1",
        "X-A: 1\nConnection: X-a\nX-B: 1",
        f"X-B: 1\n{VIA}",
    ),
    _answer("answer-nominated-length-stays", "9110 7.6.1", "Connection: content-length, date", VIA),
    _answer("answer-proxy-connection-dropped", "9112 C.2.2", "Proxy-Connection: keep-alive", VIA),
    _answer(
        "answer-proxy-authenticate-dropped",
        "9110 11.7.1",
        "Proxy-Authenticate: Basic\nWWW-Authenticate: Basic",
        f"WWW-Authenticate: Basic\n{VIA}",
        "407 Proxy Authentication Required",
    ),
    _answer(
        "answer-proxy-authentication-info-dropped",
        "9110 11.7.3",
        "Proxy-Authentication-Info: a=b\nAuthentication-Info: a=b",
        f"Authentication-Info: a=b\n{VIA}",
    ),
    _answer("answer-upgrade-dropped", "9110 7.8", "Upgrade: h2c\nConnection: upgrade", VIA),
    _answer(
        "answer-426-keeps-upgrade",
        "9110 15.5.22",
        "Upgrade: h2c\nConnection: upgrade",
        f"Upgrade: h2c\nConnection: upgrade\n{VIA}",
        "426 Upgrade Required",
    ),
    _answer("answer-via-appended", "9110 7.6.3", "Via: 1.1 a", f"Via: 1.1 a\n{VIA}"),
    _answer("answer-own-via-is-no-loop", "9110 7.6.3", VIA, f"{VIA}\n{VIA}"),
    _answer("answer-trailer-field-kept", "9110 6.6.2", "Trailer: X", f"Trailer: X\n{VIA}"),
    _answer("answer-empty-and-obs-text", "9110 5.5", "A:\nB: \xff", f"A: \nB: \xff\n{VIA}"),
    _answer("answer-reason-kept", "9112 4", "A: 1", f"A: 1\n{VIA}", "299 W\xe9ird (x)\tok"),
    _answer("answer-reason-empty", "9112 4", "A: 1", f"A: 1\n{VIA}", "200 "),
    respond(
        "answer-reason-missing",
        "9112 4",
        OK.replace("200 OK", "200"),
        OK_GOT.replace("200 OK", "200 "),
        log=[FINE],
    ),
    respond(
        "answer-status-unknown",
        "9110 15",
        OK.replace("200 OK", "799 X"),
        OK_GOT.replace("200 OK", "799 X"),
        log=[(799, "", "")],
    ),
    respond(
        "date-added",
        "9110 6.6.1",
        "HTTP/1.1 200 OK\nContent-Length: 2\nA: 1\n\nok",
        f"HTTP/1.1 200 OK\nContent-Length: 2\nA: 1\n{OUR_DATE}\n{VIA}\n\nok",
    ),
    respond(
        "date-added-to-404",
        "9110 6.6.1",
        "HTTP/1.1 404 No\nContent-Length: 0\n\n",
        f"HTTP/1.1 404 No\nContent-Length: 0\n{OUR_DATE}\n{VIA}\n\n",
    ),
    respond(
        "via-of-1.0-origin",
        "9110 7.6.3",
        f"HTTP/1.0 200 OK\n{DATE}\nContent-Length: 2\n\nok",
        f"HTTP/1.1 200 OK\n{DATE}\nContent-Length: 2\nVia: 1.0 spliceproxy\n\nok",
        O.closed(),
    ),
]

CASES = [*HOP_BY_HOP, *VIAS, *LOOPS, *FORWARDED, *RESPONSES]
