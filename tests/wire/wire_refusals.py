"""Interim responses, and responses that are refused."""

from __future__ import annotations

from wire_case import (
    ASK,
    ASK_10,
    ASKED,
    ASKED_10,
    OK,
    OK_GOT,
    VIA,
    C,
    Case,
    O,
    bad_response,
    page,
    respond,
    wire,
)

HEAD_ASK, HEAD_ASKED = ASK.replace("GET", "HEAD"), ASKED.replace("GET", "HEAD")


def _bad_field(name: str, source: str, fields: str, detail: str, error: str = "") -> Case:
    error = error or "http_protocol_error"
    return bad_response(name, source, f"HTTP/1.1 200 OK\n{fields}\n\n", detail, error=error)


def _line(name: str, line: str | bytes, detail: str) -> Case:
    return bad_response(name, "9112 4", wire(line) + b"\r\nContent-Length: 0\r\n\r\n", detail)


INTERIM = [
    respond(
        "100",
        "9110 15.2.1",
        "HTTP/1.1 100 Continue\n\n" + OK,
        f"HTTP/1.1 100 Continue\n{VIA}\n\n" + OK_GOT,
        everywhere=True,
    ),
    respond(
        "103-twice",
        "8297 2",
        "HTTP/1.1 103 Early Hints\nLink: </a>\n\nHTTP/1.1 103 Early Hints\nLink: </b>\n\n" + OK,
        f"HTTP/1.1 103 Early Hints\nLink: </a>\n{VIA}\n\n"
        f"HTTP/1.1 103 Early Hints\nLink: </b>\n{VIA}\n\n" + OK_GOT,
        everywhere=True,
    ),
    respond(
        "103-before-the-rest",
        "8297 2",
        "HTTP/1.1 103 Early Hints\nLink: </a>\nConnection: x\nX: 1\n\n",
        f"HTTP/1.1 103 Early Hints\nLink: </a>\n{VIA}\n\n",
        O.sends(OK),
        C.gets(OK_GOT),
    ),
    respond("102", "2518 10.1", "HTTP/1.1 102 \n\n" + OK, f"HTTP/1.1 102 \n{VIA}\n\n" + OK_GOT),
    respond("199", "9110 15.2", "HTTP/1.1 199 X\n\n" + OK, f"HTTP/1.1 199 X\n{VIA}\n\n" + OK_GOT),
    respond(
        "many-100",
        "9110 15.2",
        "HTTP/1.1 100 C\n\n" * 40 + OK,
        f"HTTP/1.1 100 C\n{VIA}\n\n" * 40 + OK_GOT,
    ),
    respond(
        "100-length-dropped",
        "9110 8.6",
        "HTTP/1.1 100 C\nContent-Length: 0\n\n" + OK,
        f"HTTP/1.1 100 C\n{VIA}\n\n" + OK_GOT,
    ),
    respond(
        "100-not-to-1.0",
        "9110 15.2",
        "HTTP/1.1 100 C\n\nHTTP/1.1 103 E\n\n" + OK,
        OK_GOT.replace(VIA, f"Connection: close\n{VIA}"),
        C.sees_fin(),
        ask=ASK_10,
        asked=ASKED_10,
    ),
    Case(
        "100-then-end",
        "9112 8",
        [
            C.sends(ASK),
            O.gets(ASKED),
            O.sends("HTTP/1.1 100 C\n\n"),
            C.gets(f"HTTP/1.1 100 C\n{VIA}\n\n"),
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
    ),
]

REFUSED = [
    _line("status-http2", "HTTP/2.0 200 OK", "the origin speaks another version of HTTP"),
    _line(
        "status-four-digits",
        "HTTP/1.1 2000 OK",
        "the origin sent a bad status-line: 'HTTP/1.1 2000 OK'",
    ),
    _line(
        "status-two-digits", "HTTP/1.1 20 OK", "the origin sent a bad status-line: 'HTTP/1.1 20 OK'"
    ),
    _line("status-099", "HTTP/1.1 099 OK", "the origin sent a bad status-line: 'HTTP/1.1 099 OK'"),
    _line(
        "status-two-spaces",
        "HTTP/1.1  200 OK",
        "the origin sent a bad status-line: 'HTTP/1.1  200 OK'",
    ),
    _line("status-icy", "ICY 200 OK", "the origin sent a bad status-line: 'ICY 200 OK'"),
    _line("status-junk", "hello", "the origin sent a bad status-line: 'hello'"),
    _line("status-control", b"HTTP/1.1 200 O\0K", "control character '\\x00'"),
    bad_response(
        "tls-alert", "8446 6", b"\x15\x03\x01\x00\x02\x02\x46", "the origin speaks TLS on this port"
    ),
    bad_response("bare-cr", "9112 2.2", b"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", "a CR without LF"),
    _bad_field("no-colon", "9112 5", "A", "a field line without a colon: 'A'"),
    _bad_field(
        "lengths-differ",
        "9112 6.3",
        "Content-Length: 0\nContent-Length: 1",
        "more than one Content-Length, and they differ",
    ),
    _bad_field(
        "length-list",
        "9112 6.3",
        "Content-Length: 0, 1",
        "more than one Content-Length, and they differ",
    ),
    _bad_field(
        "length-list-open",
        "9112 6.3",
        "Content-Length: 0,",
        "more than one Content-Length, and they differ",
    ),
    _bad_field("length-junk", "9110 8.6", "Content-Length: -1", "a bad Content-Length: '-1'"),
    _bad_field(
        "coding-unknown",
        "9112 6.1",
        "Transfer-Encoding: gzip, chunked",
        "a transfer coding other than chunked: 'gzip, chunked'",
        "http_response_transfer_coding",
    ),
    _bad_field(
        "coding-not-last",
        "9112 6.3",
        "Transfer-Encoding: chunked, gzip",
        "a Transfer-Encoding that does not end in one chunked: 'chunked, gzip'",
    ),
    _bad_field(
        "fields-too-many",
        "6585 5",
        "\n".join(["A: 1"] * 257),
        "more than 256 fields",
        "http_response_header_size",
    ),
    _bad_field(
        "head-too-large",
        "6585 5",
        f"A: {'a' * 66000}",
        "a head larger than 65536 bytes",
        "http_response_header_size",
    ),
    bad_response(
        "line-too-long",
        "9112 4",
        f"HTTP/1.1 200 {'a' * 17000}\n\n",
        "a first line longer than 16384 bytes",
        error="http_response_header_size",
    ),
    Case(
        "head-lengths-differ",
        "9112 6.3",
        [
            C.sends(HEAD_ASK),
            O.gets(HEAD_ASKED),
            O.sends("HTTP/1.1 200 OK\nContent-Length: 0\nContent-Length: 1\n\n"),
            C.gets(
                page(
                    502,
                    "Bad Gateway",
                    "http_protocol_error",
                    "more than one Content-Length, and they differ",
                    close=False,
                    body=False,
                )
            ),
            O.closed(),
        ],
        log=[(502, "http_protocol_error", "")],
    ),
]

_ALL = [*INTERIM, *REFUSED]

CASES = [Case(**{**vars(case), "name": f"response-{case.name}"}) for case in _ALL]
