"""SOCKS 4, 4a and 5: what clients say, in one segment and in as many as there are bytes, and what
they are told."""

from __future__ import annotations

from typing import Any

from wire_case import ASK, FINE, PHRASES, C, Case, O, Step, page, wire

from spliceproxy.config import AuthConfig
from spliceproxy.errors import ErrorType, Failure

NONE, WITH_PASSWORD, NEITHER = b"\x05\x00", b"\x05\x02", b"\x05\xff"
RIGHT, WRONG = b"\x01\x00", b"\x01\x01"
GRANTED = b"\x05\x00\x00\x01" + bytes(6)
GRANTED_4, REFUSED_4 = b"\x00\x5a" + bytes(6), b"\x00\x5b" + bytes(6)

HELLO = b"\x05\x01\x00"
OTHERS = b"\x05\x03\x00\x01\x02"  # as of curl
ANN = b"\x01\x03ann\x06secret"
USERS: dict[str, Any] = {"auth": AuthConfig(user=("ann", "secret"))}
UP = b"\x16\x03\x01up\r\n\r\n"  # looks like the end of a head


def named(name: bytes, port: int = 443, command: int = 1) -> bytes:
    return bytes((5, command, 0, 3, len(name))) + name + port.to_bytes(2, "big")


def v4(address: bytes, user: bytes = b"", name: bytes | None = None, command: int = 1) -> bytes:
    behind = b"" if name is None else name + b"\0"
    return bytes((4, command)) + (443).to_bytes(2, "big") + address + user + b"\0" + behind


def reply(code: int) -> bytes:
    return bytes((5, code, 0, 1)) + bytes(6)


def _tunnel(
    name: str, source: str, sent: bytes, got: bytes, dialled: str = "o", **more: Any
) -> Case:
    """What is behind the request belongs to the tunnel."""
    return Case(
        f"socks-{name}",
        source,
        [
            C.sends(sent + UP),
            C.gets(got),
            O.gets(UP),
            O.sends("down\n"),
            C.gets("down\n"),
            C.ends(),
            O.sees_fin(),
            O.sends("tail"),
            C.gets("tail"),
            O.ends(),
            C.sees_fin(),
        ],
        log=[FINE],
        dials=[(dialled, 443)],
        everywhere=True,
        **more,
    )


def _turns(name: str, source: str, *steps: Step, **more: Any) -> Case:
    """By turns, as clients do it."""
    more.setdefault("log", [FINE])
    end = [O.sends("down\n"), C.gets("down\n"), O.ends(), C.sees_fin(), C.ends(), O.sees_fin()]
    return Case(f"socks-{name}", source, [*steps, *end], **more)


def _refused(
    name: str,
    source: str,
    sent: bytes,
    got: bytes,
    status: int = 400,
    error: str = "http_request_error",
    **more: Any,
) -> Case:
    more.setdefault("dials", [])
    steps = [C.sends(sent), C.gets(got), C.sees_fin()]
    log = [(status, error, "")]
    return Case(f"socks-{name}", source, steps, log=log, everywhere=True, **more)


def _failed(error: ErrorType, code: int, version: int = 5) -> Case:
    """The reply to a connection that could not be made."""
    failure = Failure(error, "why")
    request, got = HELLO + named(b"o"), NONE + reply(code)
    if version == 4:
        request, got = v4(b"\0\0\0\1", name=b"o"), REFUSED_4
    return _refused(
        f"{version}-{error.replace('_', '-')}",
        "1928 6",
        request,
        got,
        failure.status,
        error,
        dial=failure,
        dials=[("o", 443)],
    )


TUNNELS = [
    _tunnel("5-name", "1928 4", HELLO + named(b"o"), NONE + GRANTED),
    _tunnel("5-upper-case", "design", HELLO + named(b"O"), NONE + GRANTED),
    _tunnel(
        "5-ipv4",
        "1928 5",
        HELLO + b"\x05\x01\x00\x01\xc0\x00\x02\x01\x01\xbb",
        NONE + GRANTED,
        "192.0.2.1",
    ),
    _tunnel(
        "5-ipv6",
        "1928 5",
        HELLO + b"\x05\x01\x00\x04" + b"\x20\x01\x0d\xb8" + bytes(11) + b"\x01\x01\xbb",
        NONE + GRANTED,
        "2001:db8::1",
    ),
    _tunnel(
        "5-ipv6-as-a-name", "design", HELLO + named(b"2001:DB8::1"), NONE + GRANTED, "2001:db8::1"
    ),
    _tunnel("5-many-methods", "1928 3", OTHERS + named(b"o"), NONE + GRANTED),
    _tunnel(
        "5-all-methods", "1928 3", b"\x05\xff" + bytes(range(255)) + named(b"o"), NONE + GRANTED
    ),
    _tunnel(
        "5-only-with-a-password",
        "1929 2",
        b"\x05\x01\x02" + ANN + named(b"o"),
        WITH_PASSWORD + RIGHT + GRANTED,
    ),
    _tunnel(
        "5-password",
        "1929 2",
        OTHERS + ANN + named(b"o"),
        WITH_PASSWORD + RIGHT + GRANTED,
        config=USERS,
    ),
    _tunnel("5-long-name", "1928 5", HELLO + named(b"o" * 255), NONE + GRANTED, "o" * 255),
    _tunnel("4", "design", v4(b"\xc0\x00\x02\x01"), GRANTED_4, "192.0.2.1"),
    _tunnel("4-user", "design", v4(b"\xc0\x00\x02\x01", b"ann"), GRANTED_4, "192.0.2.1"),
    _tunnel("4a", "design", v4(b"\0\0\0\1", name=b"o"), GRANTED_4),
    _tunnel("4a-long", "design", v4(b"\0\0\0\xff", b"u" * 255, b"o" * 255), GRANTED_4, "o" * 255),
    _turns(
        "5-by-turns",
        "1928 3",
        C.sends(OTHERS),
        C.gets(NONE),
        C.sends(named(b"o")),
        C.gets(GRANTED),
        C.sends(UP),
        O.gets(UP),
    ),
    _turns(
        "5-password-by-turns",
        "1929 2",
        C.sends(OTHERS),
        C.gets(WITH_PASSWORD),
        C.sends(ANN),
        C.gets(RIGHT),
        C.sends(named(b"o")),
        C.gets(GRANTED),
        C.sends(UP),
        O.gets(UP),
        config=USERS,
    ),
]

REFUSALS = [
    _failed("connection_refused", 5),
    _failed("connection_timeout", 6),
    _failed("dns_error", 4),
    _failed("destination_ip_unroutable", 3),
    _failed("destination_ip_prohibited", 2),
    _failed("destination_unavailable", 4),
    _failed("connection_refused", 5, version=4),
    _refused("5-bind", "1928 4", HELLO + named(b"o", command=2), NONE + reply(7), 501),
    _refused("5-udp", "1928 4", HELLO + named(b"0.0.0.0", 1, command=3), NONE + reply(7), 501),
    _refused("5-command", "1928 4", HELLO + named(b"o", command=9), NONE + reply(7), 501),
    _refused("5-address-type", "1928 4", HELLO + b"\x05\x01\x00\x02", NONE + reply(8)),
    _refused("5-no-name", "1928 5", HELLO + named(b""), NONE + reply(1)),
    _refused("5-nul", "1928 5", HELLO + named(b"o\0x"), NONE + reply(1)),
    _refused("5-crlf", "1928 5", HELLO + named(b"o\r\n\r\n"), NONE + reply(1)),
    _refused("5-port-in-name", "design", HELLO + named(b"o:80"), NONE + reply(1)),
    _refused("5-port-0", "design", HELLO + named(b"o", 0), NONE + reply(1)),
    _refused("5-not-ascii", "design", HELLO + named("ö".encode()), NONE + reply(1)),
    _refused("5-other-version", "1928 4", HELLO + b"\x04", NONE + reply(1)),
    _refused("5-no-method", "1928 3", b"\x05\x00", reply(1)),
    _refused("5-gssapi", "1928 3", b"\x05\x01\x01", NEITHER),
    _refused("5-unknown-methods", "1928 3", b"\x05\x03\x01\x03\xff", NEITHER),
    _refused("5-password-version", "1929 2", b"\x05\x01\x02\x05", WITH_PASSWORD + WRONG),
    _refused(
        "5-no-password",
        "1928 3",
        HELLO,
        NEITHER,
        407,
        "http_request_denied",
        config=USERS,
    ),
    _refused(
        "5-wrong-password",
        "1929 2",
        OTHERS + b"\x01\x03ann\x01x",
        WITH_PASSWORD + WRONG,
        407,
        "http_request_denied",
        config=USERS,
    ),
    _refused(
        "5-empty-password",
        "1929 2",
        OTHERS + b"\x01\x00\x00",
        WITH_PASSWORD + WRONG,
        407,
        "http_request_denied",
        config=USERS,
    ),
    _refused(
        "5-colon-in-user",
        "design",
        OTHERS + b"\x01\x04ann:\x06secret",
        WITH_PASSWORD + WRONG,
        407,
        "http_request_denied",
        config={"auth": AuthConfig(user=("ann", ":secret"))},
    ),
    _refused("4-bind", "design", v4(b"\xc0\x00\x02\x01", command=2), REFUSED_4, 501),
    _refused("4-port-0", "design", b"\x04\x01\0\0\xc0\x00\x02\x01\0", REFUSED_4),
    _refused("4-user-too-long", "design", v4(b"\xc0\x00\x02\x01", b"u" * 256), REFUSED_4),
    _refused("4a-name-too-long", "design", v4(b"\0\0\0\1", b"", b"o" * 256), REFUSED_4),
    _refused("4a-no-name", "design", v4(b"\0\0\0\1", b"", b""), REFUSED_4),
    _refused(
        "4-user-is-no-password",
        "design",
        v4(b"\0\0\0\1", b"ann", b"o"),
        REFUSED_4,
        407,
        "http_request_denied",
        config=USERS,
    ),
    _refused(
        "5-limit",
        "design",
        HELLO + named(b"o"),
        NONE + reply(1),
        503,
        "connection_limit_reached",
        refuse=True,
    ),
]

FAULTS = [
    Case(
        "socks-5-loop",
        "design",
        [
            C.sends(HELLO + named(b"127.0.0.9")),
            C.gets(NONE + reply(2)),
            C.sees_fin(),
            O.closed(),
        ],
        log=[(502, "proxy_loop_detected", "")],
        own=[("127.0.0.9", 443)],
    ),
    Case(
        "socks-5-ends-early",
        "design",
        [C.sends(HELLO + b"\x05\x01\x00"), C.gets(NONE), C.ends(), C.sees_fin()],
        log=[(0, "", "client-reset")],
        dials=[],
    ),
    Case(
        "socks-5-silent",
        "design",
        [C.sends(b"\x05\x01"), C.waits(), C.gets(reply(6)), C.sees_fin()],
        log=[(408, "connection_read_timeout", "")],
        dials=[],
    ),
    Case(
        "socks-5-silent-behind-greeting",
        "design",
        [C.sends(HELLO), C.gets(NONE), C.waits(), C.gets(reply(6)), C.sees_fin()],
        log=[(408, "connection_read_timeout", "")],
        dials=[],
    ),
    Case(
        "socks-behind-a-request",
        "design",
        [
            C.sends(wire(ASK.replace("http://o/", "*").replace("GET", "OPTIONS")) + HELLO),
            C.gets(
                "HTTP/1.1 200 OK\nDate: Sun, 06 Nov 1994 08:49:37 GMT\n"
                "Allow: GET, HEAD, POST, PUT, DELETE, PATCH, CONNECT, OPTIONS, TRACE\n"
                "Content-Length: 0\n\n"
            ),
            C.gets(
                page(
                    400,
                    PHRASES[400],
                    "http_request_error",
                    "SOCKS was received behind something else",
                )
            ),
            C.sees_fin(),
        ],
        dials=[],
    ),
]

CASES = [*TUNNELS, *REFUSALS, *FAULTS]
