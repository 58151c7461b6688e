"""Header rules: what of a head goes on to the next hop."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spliceproxy.http1.framing import Body
from spliceproxy.http1.head import parse_request, parse_response
from spliceproxy.http1.rewrite import (
    client_response,
    interim_response,
    origin_request,
)

DATE = b"Mon, 23 Nov 2026 12:00:00 GMT"


def lines(*parts: bytes) -> bytes:
    return b"".join(part + b"\r\n" for part in parts) + b"\r\n"


def sent_request(*parts: bytes) -> bytes:
    head = parse_request(lines(*parts))
    return origin_request(head, head.body()[0], b"sp")


def sent_response(
    *parts: bytes,
    method: str = "GET",
    body: Body | None = None,
    minor: int = 1,
    close: bool = False,
) -> bytes:
    head = parse_response(lines(*parts))
    if body is None:
        body, _ = head.body(method)
    return client_response(head, body, minor=minor, close=close, via=b"sp", date=DATE)


# --- persistence: RFC 9112 9.3 -------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "request_1_1", "response_1_1", "response_1_0"),
    [
        ([], True, True, False),
        ([b"Connection: close"], False, False, False),
        ([b"connection: CLOSE"], False, False, False),
        ([b"Connection: keep-alive"], True, True, True),
        ([b"Connection: Keep-Alive, X"], True, True, True),
        ([b"Connection: keep-alive, close"], False, False, False),
        ([b"Connection: keep-alive", b"Connection: X ,\tclose"], False, False, False),
        ([b"Connection: closed"], True, True, False),
        ([b"Connection: x-close"], True, True, False),
        ([b"Connection:"], True, True, False),
        # from old clients, on requests only
        ([b"Proxy-Connection: close"], False, True, False),
        ([b"Proxy-Connection: keep-alive"], True, True, False),
        ([b"Proxy-Connection: close", b"Connection: keep-alive"], True, True, True),
    ],
)
def test_persistence(
    fields: list[bytes], request_1_1: bool, response_1_1: bool, response_1_0: bool
) -> None:
    request = [b"GET http://h/ HTTP/1.%d", b"Host: h", *fields]
    response = [b"HTTP/1.%d 200 OK", *fields]
    assert parse_request(lines(*request) % 1).persistent is request_1_1
    assert parse_response(lines(*response) % 1).persistent is response_1_1
    assert parse_response(lines(*response) % 0).persistent is response_1_0
    # "A proxy server MUST NOT maintain a persistent connection with an HTTP/1.0 client"
    assert parse_request(lines(*request) % 0).persistent is False


@pytest.mark.parametrize(
    ("minor", "fields", "protocols"),
    [
        (1, [b"Upgrade: websocket", b"Connection: Upgrade"], b"websocket"),
        (1, [b"Upgrade: a/1, b", b"Upgrade: c", b"Connection: x, UPGRADE"], b"a/1, b, c"),
        (1, [b"Upgrade: websocket"], None),
        (1, [b"Upgrade: websocket", b"Connection: keep-alive"], None),
        (1, [b"Upgrade: websocket", b"Proxy-Connection: upgrade"], None),
        (1, [b"Connection: upgrade"], None),
        (1, [b"Connection: upgrade", b"Upgrade:"], None),
        (0, [b"Upgrade: websocket", b"Connection: Upgrade"], None),
    ],
)
def test_upgrade(minor: int, fields: list[bytes], protocols: bytes | None) -> None:
    # RFC 9110 7.8
    request = lines(b"GET http://h/ HTTP/1.%d" % minor, b"Host: h", *fields)
    assert parse_request(request).upgrade == protocols
    assert parse_response(lines(b"HTTP/1.%d 101 x" % minor, *fields)).upgrade == protocols


@pytest.mark.parametrize("minor", [0, 1])
def test_expectations_of_http_1_0_go_no_further(minor: int) -> None:
    # RFC 9110 10.1.1: the 100 could not be sent to such a client
    head = parse_request(
        lines(b"PUT http://h/ HTTP/1.%d" % minor, b"Host: h", b"Expect: 100-continue")
    )
    assert (b"Expect" in origin_request(head, Body.NONE, b"p")) is bool(minor)


# --- requests ------------------------------------------------------------------------

REQUESTS = [
    # RFC 9112 3.2.1, 3.2.2: origin form, Host from the target in its place
    (
        [b"GET http://o/a?b HTTP/1.1", b"X: 1", b"hOST: other:99", b"y:2"],
        [b"GET /a?b HTTP/1.1", b"X: 1", b"hOST: o", b"y: 2", b"Via: 1.1 sp"],
    ),
    (
        [b"GET http://O.example:8080 HTTP/1.0", b"X: 1"],
        [b"GET / HTTP/1.1", b"Host: o.example:8080", b"X: 1", b"Via: 1.0 sp"],
    ),
    (
        [b"GET http://[2001:DB8::1]:80/ HTTP/1.1", b"Host:"],
        [b"GET / HTTP/1.1", b"Host: [2001:db8::1]", b"Via: 1.1 sp"],
    ),
    (
        [b"GET http://[::1]:81/ HTTP/1.1", b"Host: [::1]:81"],
        [b"GET / HTTP/1.1", b"Host: [::1]:81", b"Via: 1.1 sp"],
    ),
    (
        [b"GET https://o/ HTTP/1.1", b"Host: o:443"],
        [b"GET / HTTP/1.1", b"Host: o", b"Via: 1.1 sp"],
    ),
    (
        [b"GET https://o:80/ HTTP/1.1", b"Host: o:80"],
        [b"GET / HTTP/1.1", b"Host: o:80", b"Via: 1.1 sp"],
    ),
    ([b"GET /x HTTP/1.1", b"Host: H:81"], [b"GET /x HTTP/1.1", b"Host: h:81", b"Via: 1.1 sp"]),
    ([b"GET /x HTTP/1.0"], [b"GET /x HTTP/1.1", b"Host: ", b"Via: 1.0 sp"]),
    # RFC 9112 3.2.4
    (
        [b"OPTIONS http://o:81 HTTP/1.1", b"Host: o:81", b"Max-Forwards: 3"],
        [b"OPTIONS * HTTP/1.1", b"Host: o:81", b"Max-Forwards: 3", b"Via: 1.1 sp"],
    ),
    # RFC 9110 7.6.1: hop-by-hop, and what Connection names
    (
        [
            b"GET http://o/ HTTP/1.1",
            b"Host: o",
            b"Connection: keep-alive, X-Hop ,y-hop",
            b"x-hop: 1",
            b"X-Hop2: kept",
            b"Y-HOP: 2",
            b"Keep-Alive: timeout=5",
            b"Proxy-Connection: keep-alive",
            b"TE: gzip",
            b"Upgrade: h2c",
            b"Proxy-Authorization: Basic eDp5",  # RFC 9110 11.7.2
            b"Authorization: kept",
        ],
        [
            b"GET / HTTP/1.1",
            b"Host: o",
            b"X-Hop2: kept",
            b"Authorization: kept",
            b"Via: 1.1 sp",
        ],
    ),
    # an attack: the fields that frame and route are not Connection's to remove
    (
        [
            b"POST http://o/ HTTP/1.1",
            b"Host: o",
            b"Connection: close, Host, Content-Length, Via, Max-Forwards, Expect, Content-Type",
            b"Content-Length: 3",
            b"Via: 1.0 a",
            b"Max-Forwards: 1",
            b"Expect: 100-continue",
            b"Content-Type: a/b",
        ],
        [
            b"POST / HTTP/1.1",
            b"Host: o",
            b"Content-Length: 3",
            b"Via: 1.0 a",
            b"Max-Forwards: 1",
            b"Expect: 100-continue",
            b"Content-Type: a/b",
            b"Via: 1.1 sp",
        ],
    ),
    (
        [
            b"POST http://o/ HTTP/1.1",
            b"Host: o",
            b"Connection: transfer-encoding",
            b"Transfer-Encoding: Chunked",
            b"Trailer: X",
        ],
        [
            b"POST / HTTP/1.1",
            b"Host: o",
            b"Trailer: X",
            b"Transfer-Encoding: chunked",
            b"Via: 1.1 sp",
        ],
    ),
    # RFC 9110 8.6: one Content-Length that no reader takes as octal
    (
        [
            b"POST http://o/ HTTP/1.1",
            b"Content-Length: 0010",
            b"Host: o",
            b"content-length: 0010",
        ],
        [b"POST / HTTP/1.1", b"Content-Length: 10", b"Host: o", b"Via: 1.1 sp"],
    ),
    (
        [b"POST http://o/ HTTP/1.1", b"Host: o", b"Content-Length: 000"],
        [b"POST / HTTP/1.1", b"Host: o", b"Content-Length: 0", b"Via: 1.1 sp"],
    ),
    # RFC 9110 10.1.4: TE
    (
        [b"GET http://o/ HTTP/1.1", b"Host: o", b"TE: gzip;q=0.5, Trailers", b"Connection: TE"],
        [b"GET / HTTP/1.1", b"Host: o", b"TE: trailers", b"Connection: TE", b"Via: 1.1 sp"],
    ),
    (
        [b"GET http://o/ HTTP/1.0", b"Host: o", b"TE: trailers"],
        [b"GET / HTTP/1.1", b"Host: o", b"Via: 1.0 sp"],
    ),
    # RFC 9110 7.8: Upgrade
    (
        [
            b"GET http://o/ HTTP/1.1",
            b"Host: o",
            b"Upgrade: websocket",
            b"Connection: keep-alive, Upgrade, TE",
            b"TE: trailers",
            b"Sec-WebSocket-Key: x",
        ],
        [
            b"GET / HTTP/1.1",
            b"Host: o",
            b"Sec-WebSocket-Key: x",
            b"TE: trailers",
            b"Upgrade: websocket",
            b"Connection: TE, upgrade",
            b"Via: 1.1 sp",
        ],
    ),
    (
        [b"GET http://o/ HTTP/1.0", b"Host: o", b"Upgrade: x", b"Connection: Upgrade"],
        [b"GET / HTTP/1.1", b"Host: o", b"Via: 1.0 sp"],
    ),
]


@pytest.mark.parametrize(("received", "sent"), REQUESTS)
def test_requests(received: list[bytes], sent: list[bytes]) -> None:
    assert sent_request(*received) == lines(*sent)


def test_a_body_sent_in_another_way_has_no_content_length() -> None:
    head = parse_request(lines(b"GET http://o/ HTTP/1.1", b"Host: o", b"Content-Length: 5"))
    for body in (Body.NONE, Body.CHUNKED):
        assert b"Content-Length" not in origin_request(head, body, b"sp")


# --- responses -----------------------------------------------------------------------

RESPONSES = [
    # order, spelling, and the version is ours (RFC 9110 2.5)
    (
        [b"HTTP/1.0 404 Not \xe4", b"dATE: x", b"Content-Length: 5", b"A:", b"a: b"],
        [
            b"HTTP/1.1 404 Not \xe4",
            b"dATE: x",
            b"Content-Length: 5",
            b"A: ",
            b"a: b",
            b"Via: 1.0 sp",
        ],
    ),
    # RFC 9110 6.6.1: Date; RFC 9112 4: the space is there even without a reason
    (
        [b"HTTP/1.1 200", b"Content-Length: 0"],
        [b"HTTP/1.1 200 ", b"Content-Length: 0", b"Date: " + DATE, b"Via: 1.1 sp"],
    ),
    # RFC 9110 7.6.1, 11.7.1, 11.7.3
    (
        [
            b"HTTP/1.1 200 OK",
            b"Date: x",
            b"Connection: close, X-Hop, Content-Length, Date, Content-Type",
            b"X-Hop: 1",
            b"Keep-Alive: 1",
            b"Proxy-Connection: 1",
            b"TE: 1",
            b"Upgrade: h2",
            b"Proxy-Authenticate: Basic",
            b"Proxy-Authentication-Info: x",
            b"Content-Type: a/b",
            b"Content-Length: 07",
            b"Content-Length: 07",
            b"Via: 1.1 a",
        ],
        [
            b"HTTP/1.1 200 OK",
            b"Date: x",
            b"Content-Type: a/b",
            b"Content-Length: 7",
            b"Via: 1.1 a",
            b"Via: 1.1 sp",
        ],
    ),
    (
        [b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked", b"Trailer: X", b"Date: x"],
        [
            b"HTTP/1.1 200 OK",
            b"Trailer: X",
            b"Date: x",
            b"Transfer-Encoding: chunked",
            b"Via: 1.1 sp",
        ],
    ),
    ([b"HTTP/1.1 200 OK", b"Date: x"], [b"HTTP/1.1 200 OK", b"Date: x", b"Via: 1.1 sp"]),
    # RFC 9110 8.6, 15.4.5: for information; not in 204
    (
        [b"HTTP/1.1 304 x", b"Date: x", b"Content-Length: 5"],
        [b"HTTP/1.1 304 x", b"Date: x", b"Content-Length: 5", b"Via: 1.1 sp"],
    ),
    (
        [b"HTTP/1.1 304 x", b"Date: x", b"Transfer-Encoding: chunked"],
        [b"HTTP/1.1 304 x", b"Date: x", b"Via: 1.1 sp"],
    ),
    (
        [b"HTTP/1.1 204 x", b"Date: x", b"Content-Length: 5"],
        [b"HTTP/1.1 204 x", b"Date: x", b"Via: 1.1 sp"],
    ),
    # RFC 9110 15.2.2, 15.5.22
    (
        [b"HTTP/1.1 101 x", b"Connection: Upgrade", b"Upgrade: a", b"Content-Length: 0"],
        [b"HTTP/1.1 101 x", b"Upgrade: a", b"Connection: upgrade", b"Via: 1.1 sp"],
    ),
    (
        [b"HTTP/1.1 426 x", b"Connection: Upgrade", b"Upgrade: a", b"Date: x"],
        [b"HTTP/1.1 426 x", b"Date: x", b"Upgrade: a", b"Connection: upgrade", b"Via: 1.1 sp"],
    ),
]


@pytest.mark.parametrize(("received", "sent"), RESPONSES)
def test_responses(received: list[bytes], sent: list[bytes]) -> None:
    assert sent_response(*received) == lines(*sent)


def test_the_answer_to_head_keeps_its_length() -> None:
    received = (b"HTTP/1.1 200 OK", b"Date: x", b"Content-Length: 05")
    sent = lines(b"HTTP/1.1 200 OK", b"Date: x", b"Content-Length: 5", b"Via: 1.1 sp")
    assert sent_response(*received, method="HEAD") == sent


@pytest.mark.parametrize(
    ("body", "field"), [(Body.CHUNKED, b"Transfer-Encoding: chunked\r\n"), (Body.CLOSE, b"")]
)
@pytest.mark.parametrize("received", [b"Transfer-Encoding: chunked", b"Content-Length: 5", b"A: b"])
def test_the_body_is_announced_as_it_is_sent(body: Body, field: bytes, received: bytes) -> None:
    sent = sent_response(b"HTTP/1.1 200 OK", b"Date: x", received, body=body)
    kept = b"A: b\r\n" if received == b"A: b" else b""
    assert sent == b"HTTP/1.1 200 OK\r\nDate: x\r\n" + kept + field + b"Via: 1.1 sp\r\n\r\n"


@pytest.mark.parametrize(
    ("minor", "close", "field"),
    [
        (1, False, b""),
        (1, True, b"Connection: close\r\n"),
        (0, True, b"Connection: close\r\n"),
        (0, False, b"Connection: keep-alive\r\n"),
    ],
)
@pytest.mark.parametrize("received", [b"Connection: close", b"Connection: keep-alive", b"A: b"])
def test_connection_is_ours(minor: int, close: bool, field: bytes, received: bytes) -> None:
    sent = sent_response(
        b"HTTP/1.1 200 OK", b"Date: x", b"Content-Length: 0", received, minor=minor, close=close
    )
    kept = b"A: b\r\n" if received == b"A: b" else b""
    start = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\n"
    assert sent == start + kept + field + b"Via: 1.1 sp\r\n\r\n"


def test_interim_responses_are_passed_on() -> None:  # RFC 9110 15.2, RFC 8297
    head = parse_response(
        lines(
            b"HTTP/1.1 103 Early Hints",
            b"Link: </a>; rel=preload",
            b"Connection: X-Hop",
            b"X-Hop: 1",
            b"Content-Length: 5",
            b"Transfer-Encoding: chunked",
            b"link: </b>",
        )
    )
    assert interim_response(head, b"sp") == lines(
        b"HTTP/1.1 103 Early Hints",
        b"Link: </a>; rel=preload",
        b"link: </b>",
        b"Via: 1.1 sp",
    )
    head = parse_response(lines(b"HTTP/1.1 100 Continue"))
    assert interim_response(head, b"sp") == lines(b"HTTP/1.1 100 Continue", b"Via: 1.1 sp")


# --- property ------------------------------------------------------------------------

NAMES = [b"Connection", b"Keep-Alive", b"TE", b"Upgrade", b"X-A", b"x-b", b"Via", b"Expect"]
NAMES += [b"Proxy-Connection", b"Proxy-Authorization", b"Content-Length", b"Trailer", b"Cookie"]
VALUES = [b"", b"close", b"5", b"host, content-length", b"X-A", b"upgrade, te", b"trailers", b"a b"]


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=8))
@settings(max_examples=200, deadline=None)
def test_what_is_sent_is_valid_and_names_the_same_resource(
    fields: list[tuple[bytes, bytes]],
) -> None:
    received = [name + b": " + value for name, value in fields if name != b"Content-Length"]
    if any(name == b"Content-Length" for name, _ in fields):
        received.append(b"Content-Length: 5")
    head = parse_request(lines(b"POST http://o:81/p HTTP/1.1", b"Host: x", *received))
    body, length = head.body()
    sent = parse_request(origin_request(head, body, b"sp"))
    assert (sent.host, sent.port, sent.path, sent.method) == ("o", 81, "/p", "POST")
    assert sent.body() == (body, length)
    assert sent.values(b"via")[-1] == b"1.1 sp"
    for name in (b"proxy-connection", b"proxy-authorization", b"keep-alive"):
        assert not sent.values(name)
    assert set(sent.values(b"connection")) <= {b"TE", b"upgrade", b"TE, upgrade"}
    options = b", ".join(sent.values(b"connection"))
    assert bool(sent.values(b"te")) == (b"TE" in options)
    assert bool(sent.values(b"upgrade")) == (b"upgrade" in options)
