"""CONNECT."""

from __future__ import annotations

from wire_case import (
    ASK,
    ASKED,
    ESTABLISHED,
    O2,
    OK,
    OK_GOT,
    VIA,
    C,
    Case,
    O,
    page,
    reject,
)

from spliceproxy.errors import Failure

CONNECT = "CONNECT o:443 HTTP/1.1\nHost: o:443\n\n"
REFUSAL = Failure("connection_refused", "192.0.2.1:443: Connection refused")
REFUSED = page(502, "Bad Gateway", "connection_refused", REFUSAL.detail)


def _bad(name: str, source: str, target: str, detail: str) -> Case:
    return reject(f"connect-{name}", source, f"CONNECT {target} HTTP/1.1\nHost: o\n\n", detail)


def _bad_body(name: str, fields: str, detail: str, status: int = 400) -> Case:
    sent = CONNECT.replace("\n\n", f"\n{fields}\n\n")
    return reject(f"connect-{name}", "9110 9.3.6", sent, detail, status=status)


def _tunnel(name: str, source: str, sent: str, key: tuple[str, int] = ("o", 443)) -> Case:
    return Case(
        f"connect-{name}",
        source,
        [
            C.sends(sent),
            C.gets(ESTABLISHED),
            C.sends(b"\x16up\n"),
            O.gets(b"\x16up\n"),
            O.sends("down\n"),
            C.gets("down\n"),
            C.ends(),
            O.sees_fin(),
            O.sends("tail"),
            C.gets("tail"),
            O.ends(),
            C.sees_fin(),
        ],
        log=[(200, "", "")],
        dials=[key],
    )


TUNNELS = [
    _tunnel("plain", "9110 9.3.6", CONNECT),
    _tunnel("1.0", "9110 9.3.6", "CONNECT o:443 HTTP/1.0\n\n"),
    _tunnel("host-differs", "9112 3.2.2", "CONNECT o:443 HTTP/1.1\nHost: x:1\n\n"),
    _tunnel("length-zero", "9110 9.3.6", CONNECT.replace("\n\n", "\nContent-Length: 0\n\n")),
    _tunnel("ipv6", "9112 3.2.3", "CONNECT [::1]:22 HTTP/1.1\nHost: [::1]:22\n\n", ("::1", 22)),
    _tunnel("upper-case", "9110 4.2.3", "CONNECT O:443 HTTP/1.1\nHost: o\n\n"),
    Case(
        "connect-early-data",
        "design",
        [
            C.sends(CONNECT + "early"),
            C.gets(ESTABLISHED),
            O.gets("early"),
            O.ends(),
            C.sees_fin(),
            C.sends("more"),
            O.gets("more"),
            C.ends(),
            O.sees_fin(),
        ],
        log=[(200, "", "")],
        everywhere=True,
    ),
    Case(
        "connect-reset-by-client",
        "design",
        [C.sends(CONNECT), C.gets(ESTABLISHED), C.resets(), O.sees_reset()],
        log=[(200, "", "client-reset")],
    ),
    Case(
        "connect-reset-by-origin",
        "design",
        [
            C.sends(CONNECT),
            C.gets(ESTABLISHED),
            O.sends("tail"),
            C.gets("tail"),
            O.resets(),
            C.sees_reset(),
        ],
        log=[(200, "", "origin-reset")],
    ),
    Case(
        "connect-behind-request",
        "9112 9.3.2",
        [
            C.sends(ASK + CONNECT + "early"),
            O.gets(ASKED),
            O.sends(OK),
            C.gets(OK_GOT + ESTABLISHED),
            O2.gets("early"),
            C.ends(),
            O2.sees_fin(),
            O2.ends(),
            C.sees_fin(),
        ],
        log=[(200, "", ""), (200, "", "")],
        dials=[("o", 80), ("o", 443)],
        everywhere=True,
    ),
    _bad("no-port", "9110 9.3.6", "o", "CONNECT without a port: 'o'"),
    _bad("empty-port", "9110 9.3.6", "o:", "CONNECT without a port: 'o:'"),
    _bad("port-0", "9110 9.3.6", "o:0", "CONNECT takes HOST:PORT: a port outside 1-65535: 'o:0'"),
    _bad(
        "port-65536",
        "9110 9.3.6",
        "o:65536",
        "CONNECT takes HOST:PORT: a port outside 1-65535: 'o:65536'",
    ),
    _bad("path", "9112 3.2.3", "o:443/", "CONNECT takes HOST:PORT: a bad port: 'o:443/'"),
    _bad(
        "url", "9112 3.2.3", "http://o:443/", "CONNECT takes HOST:PORT: a bad port: 'http://o:443/'"
    ),
    _bad("userinfo", "9112 3.2.3", "u@o:443", "CONNECT takes HOST:PORT: userinfo before the host"),
    _bad("no-host", "9112 3.2.3", ":443", "CONNECT takes HOST:PORT: no host"),
    _bad_body("length", "Content-Length: 1", "CONNECT with a body"),
    _bad_body("chunked", "Transfer-Encoding: chunked", "CONNECT with a body"),
    Case(
        "connect-fails",
        "9110 9.3.6",
        [C.sends(CONNECT), C.gets(REFUSED), C.sees_fin()],
        dial=REFUSAL,
        log=[(502, "connection_refused", "")],
        dials=[("o", 443)],
    ),
    Case(
        "connect-fails-with-early-data",
        "design",
        [
            C.sends(CONNECT + "GET http://o/ HTTP/1.1\nHost: o\n\n"),
            C.gets(REFUSED),
            C.sees_fin(),
        ],
        dial=REFUSAL,
        log=[(502, "connection_refused", "")],
    ),
    Case(
        "connect-loop",
        "9110 7.6.3",
        [
            C.sends(CONNECT.replace("\n\n", f"\n{VIA}\n\n")),
            C.gets(
                page(
                    502,
                    "Bad Gateway",
                    "proxy_loop_detected",
                    "the Via field says that the request has passed this proxy before",
                )
            ),
            C.sees_fin(),
        ],
        dials=[],
    ),
]

CASES = TUNNELS
