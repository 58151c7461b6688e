"""Bodies of requests: length, chunks, and framing that is refused."""

from __future__ import annotations

from wire_case import (
    BIG,
    OK,
    OK_GOT,
    POST,
    POSTED,
    VIA,
    C,
    Case,
    O,
    forward,
    page,
    reject,
    wire,
)

CHUNKED = POST + "Transfer-Encoding: chunked\n\n"
CHUNKED_GOT = POSTED + f"Transfer-Encoding: chunked\n{VIA}\n\n"
TE_CL = "Transfer-Encoding together with Content-Length"


def _length(name: str, sent: str, received: str, body: str) -> Case:
    return forward(
        name,
        "9112 6.2",
        f"{POST}{sent}\n\n{body}",
        f"{POSTED}Content-Length: {received}\n{VIA}\n\n{body}",
    )


def _framing(name: str, source: str, fields: str, detail: str, status: int = 400) -> Case:
    return reject(name, source, f"{POST}{fields}\n\n0\n\n", detail, status=status)


def _chunked(name: str, source: str, sent: str, received: str) -> Case:
    return forward(name, source, CHUNKED + sent, CHUNKED_GOT + received)


def _bad_chunk(name: str, source: str, sent: str | bytes, detail: str, *, good: str = "") -> Case:
    """A chunked body that cannot be understood: 400, and the origin gets what was ``good``,
    never a whole message."""
    return Case(
        name,
        source,
        [
            C.sends(CHUNKED + "2\nhi\n"),
            O.gets(CHUNKED_GOT + "2\nhi\n"),
            C.sends(sent),
            C.gets(page(400, "Bad Request", "http_request_error", detail)),
            C.sees_fin(),
            O.gets(good),
            O.closed(),
        ],
        log=[(400, "http_request_error", "")],
    )


LENGTHS = [
    _length("length", "Content-Length: 2", "2", "hi"),
    _length("length-zero", "Content-Length: 0", "0", ""),
    _length("length-leading-zeros", "Content-Length: 0002", "2", "hi"),
    _length("length-equal-twice", "Content-Length: 2\ncontent-length: 2", "2", "hi"),
    forward(
        "length-of-get",
        "9110 9.3.1",
        "GET http://o/ HTTP/1.1\nHost: o\nContent-Length: 2\n\nhi",
        f"GET / HTTP/1.1\nHost: o\nContent-Length: 2\n{VIA}\n\nhi",
    ),
    forward(
        "length-of-1.0",
        "9112 6.2",
        "POST http://o/ HTTP/1.0\nContent-Length: 2\n\nhi",
        "POST / HTTP/1.1\nHost: o\nContent-Length: 2\nVia: 1.0 spliceproxy\n\nhi",
        last=True,
    ),
    forward("post-without-length", "9112 6.3", POST + "\n", POSTED + f"{VIA}\n\n"),
    Case(
        "length-in-parts",
        "9112 6.2",
        [
            C.sends(POST + "Content-Length: 10\n\nhello"),
            O.gets(POSTED + f"Content-Length: 10\n{VIA}\n\nhello"),
            C.sends("wo"),
            O.gets("wo"),
            C.sends("rld"),
            O.gets("rld"),
            O.sends(OK),
            C.gets(OK_GOT),
        ],
    ),
    Case(
        "length-big",
        "9112 6.2",
        [
            C.sends(wire(POST + f"Content-Length: {len(BIG)}\n\n") + BIG),
            O.gets(wire(POSTED + f"Content-Length: {len(BIG)}\n{VIA}\n\n") + BIG),
            O.sends(OK),
            C.gets(OK_GOT),
        ],
    ),
    _framing(
        "length-differs",
        "9112 6.3",
        "Content-Length: 2\nContent-Length: 3",
        "more than one Content-Length, and they differ",
    ),
    _framing(
        "length-differs-in-zeros",
        "9112 6.3",
        "Content-Length: 2\nContent-Length: 02",
        "more than one Content-Length, and they differ",
    ),
    _framing("length-list", "9112 6.3", "Content-Length: 2, 2", "a bad Content-Length: '2, 2'"),
    _framing("length-negative", "9110 8.6", "Content-Length: -1", "a bad Content-Length: '-1'"),
    _framing("length-plus", "9110 8.6", "Content-Length: +1", "a bad Content-Length: '+1'"),
    _framing("length-hex", "9110 8.6", "Content-Length: 0x2", "a bad Content-Length: '0x2'"),
    _framing("length-empty", "9110 8.6", "Content-Length:", "a bad Content-Length: ''"),
    _framing("length-underscore", "9110 8.6", "Content-Length: 1_0", "a bad Content-Length: '1_0'"),
    _framing(
        "length-overflow",
        "9110 8.6",
        "Content-Length: 18446744073709551618",
        "a bad Content-Length: '18446744073709551618'",
    ),
]

CODINGS = [
    _framing(
        "coding-and-length", "9112 6.1", "Transfer-Encoding: chunked\nContent-Length: 5", TE_CL
    ),
    _framing(
        "length-and-coding", "9112 6.1", "Content-Length: 0\nTransfer-Encoding: chunked", TE_CL
    ),
    _framing(
        "coding-unknown",
        "9112 6.1",
        "Transfer-Encoding: gzip, chunked",
        "a transfer coding other than chunked: 'gzip, chunked'",
        501,
    ),
    _framing(
        "coding-not-chunked-last",
        "9112 6.3",
        "Transfer-Encoding: chunked, gzip",
        "a Transfer-Encoding that does not end in one chunked: 'chunked, gzip'",
    ),
    _framing(
        "coding-chunked-twice",
        "9112 6.1",
        "Transfer-Encoding: chunked\nTransfer-Encoding: chunked",
        "a Transfer-Encoding that does not end in one chunked: 'chunked,chunked'",
    ),
    _framing(
        "coding-identity",
        "9112 7",
        "Transfer-Encoding: identity",
        "a Transfer-Encoding that does not end in one chunked: 'identity'",
    ),
    _framing(
        "coding-empty",
        "9112 6.1",
        "Transfer-Encoding:",
        "a Transfer-Encoding that does not end in one chunked: ''",
    ),
    _framing(
        "coding-quoted",
        "9112 6.1",
        'Transfer-Encoding: "chunked"',
        "a Transfer-Encoding that does not end in one chunked: '\"chunked\"'",
    ),
    _framing(
        "coding-parameter",
        "9112 7",
        "Transfer-Encoding: chunked;a=b",
        "a Transfer-Encoding that does not end in one chunked: 'chunked;a=b'",
    ),
    _framing(
        "coding-vertical-tab",
        "9110 5.5",
        "Transfer-Encoding: \x0bchunked",
        "control character '\\x0b'",
    ),
    _framing(
        "coding-xchunked",
        "9112 6.3",
        "Transfer-Encoding: xchunked",
        "a Transfer-Encoding that does not end in one chunked: 'xchunked'",
    ),
    reject(
        "coding-in-1.0",
        "9112 6.1",
        "POST http://o/ HTTP/1.0\nHost: o\nTransfer-Encoding: chunked\n\n0\n\n",
        "Transfer-Encoding in an HTTP/1.0 message",
    ),
    forward(
        "coding-other-case",
        "9112 7",
        POST + "transfer-ENCODING: Chunked\n\n0\n\n",
        CHUNKED_GOT + "0\n\n",
    ),
]

CHUNKS = [
    _chunked("chunks", "9112 7.1", "5\nhello\n6\n world\n0\n\n", "b\nhello world\n0\n\n"),
    _chunked("chunks-empty", "9112 7.1", "0\n\n", "0\n\n"),
    _chunked(
        "chunks-hex-case-zeros", "9112 7.1", "00A\n0123456789\n000\n\n", "a\n0123456789\n0\n\n"
    ),
    _chunked("chunk-extension-dropped", "9112 7.1.1", '2;a=b;c="d;e"\nhi\n0;x\n\n', "2\nhi\n0\n\n"),
    _chunked("chunk-extension-bws", "9112 7.1.1", "2 \t; a\nhi\n0\n\n", "2\nhi\n0\n\n"),
    _chunked(
        "trailers", "9112 7.1.2", "2\nhi\n0\nX-a: 1\nx-B:2 \n\n", "2\nhi\n0\nX-a: 1\nx-B: 2\n\n"
    ),
    _chunked(
        "trailers-not-allowed",
        "9110 6.5.1",
        "2\nhi\n0\nAuthorization: a\nX: 1\nTE: b\n\n",
        "2\nhi\n0\nX: 1\n\n",
    ),
    Case(
        "chunks-in-parts",
        "9112 7.1",
        [
            C.sends(CHUNKED),
            O.gets(CHUNKED_GOT),
            C.sends("5\nhe"),
            O.gets("2\nhe\n"),
            C.sends("llo\n"),
            O.gets("3\nllo\n"),
            C.sends("1"),
            C.consumed(),
            C.sends(b"\r"),
            C.consumed(),
            C.sends(b"\n!\r"),
            O.gets("1\n!\n"),
            C.sends(b"\n0\r\n"),
            C.consumed(),
            C.sends("X: 1\n"),
            C.consumed(),
            C.sends("\n"),
            O.gets("0\nX: 1\n\n"),
            O.sends(OK),
            C.gets(OK_GOT),
        ],
    ),
    Case(
        "chunks-plain-in-parts",
        "9112 7.1",
        [
            C.sends(CHUNKED + "5\nhe"),
            O.gets(CHUNKED_GOT + "2\nhe\n"),
            C.sends("llo\n1"),
            O.gets("3\nllo\n"),
            C.sends("\n!\n6\n world\n00"),
            O.gets("7\n! world\n"),
            C.sends(b"0\r"),
            C.consumed(),
            C.sends(b"\n\r"),
            C.consumed(),
            C.sends(b"\n"),
            O.gets("0\n\n"),
            O.sends(OK),
            C.gets(OK_GOT),
        ],
    ),
    Case(
        "chunks-plain-cut",
        "9112 7.1",
        [
            C.sends(CHUNKED + "005\nhello\nB\n wide\n wor\n00\n\n"),
            O.gets_chunked(CHUNKED_GOT, b"hello wide\r\n wor"),
            O.sends(OK),
            C.gets(OK_GOT),
        ],
        everywhere=True,
    ),
    Case(
        "chunk-plain-big",
        "9112 7.1",
        [
            C.sends(wire(CHUNKED + "1\n!\n40000\n") + BIG + wire("\n2\nhi\n0\n\n")),
            O.gets_chunked(CHUNKED_GOT, b"!" + BIG + b"hi"),
            O.sends(OK),
            C.gets(OK_GOT),
        ],
    ),
    Case(
        "chunks-cut",
        "9112 7.1",
        [
            C.sends(CHUNKED + "005;a=b\nhello\nB\n wide\n wor\n0;c\nX: 1\nTE: a\n\n"),
            O.gets_chunked(CHUNKED_GOT, b"hello wide\r\n wor", "X: 1\n"),
            O.sends(OK),
            C.gets(OK_GOT),
        ],
        everywhere=True,
    ),
    Case(
        "chunk-big",
        "9112 7.1",
        [
            C.sends(wire(CHUNKED + "40000\n") + BIG + wire("\n2\nhi\n0\nX: 1\n\n")),
            O.gets_chunked(CHUNKED_GOT, BIG + b"hi", "X: 1\n"),
            O.sends(OK),
            C.gets(OK_GOT),
        ],
    ),
    _bad_chunk("chunk-size-junk", "9112 7.1", "2x\nhi\n", "a bad chunk size: '2x'"),
    _bad_chunk("chunk-size-0x", "9112 7.1", "0x2\nhi\n", "a bad chunk size: '0x2'"),
    _bad_chunk("chunk-size-negative", "9112 7.1", "-2\nhi\n", "a bad chunk size: '-2'"),
    _bad_chunk("chunk-size-plus", "9112 7.1", "+2\nhi\n", "a bad chunk size: '+2'"),
    _bad_chunk("chunk-size-space", "9112 7.1", "2 \nhi\n", "a bad chunk size: '2 '"),
    _bad_chunk("chunk-size-space-before", "9112 7.1", " 2\nhi\n", "a bad chunk size: ' 2'"),
    _bad_chunk("chunk-size-none", "9112 7.1", "\nhi\n", "a bad chunk size: ''"),
    _bad_chunk(
        "chunk-size-overflow",
        "9112 7.1",
        "8000000000000000\nhi\n",
        "a chunk size beyond 2^63: '8000000000000000'",
    ),
    _bad_chunk(
        "chunk-size-17-digits",
        "9112 7.1",
        "10000000000000002\nhi\n",
        "a bad chunk size: '10000000000000002'",
    ),
    _bad_chunk("chunk-size-bare-lf", "9112 7.1", b"2\nhi\r\n", "a bad chunk size: '2\\nhi'"),
    _bad_chunk(
        "chunk-ext-bare-lf", "9112 7.1.1", b"2;a\nhi\r\n0\r\n\r\n", "a bad chunk size: '2;a\\nhi'"
    ),
    _bad_chunk("chunk-ext-control", "9112 7.1.1", b"2;\0\r\nhi\r\n", "a bad chunk size: '2;\\x00'"),
    _bad_chunk(
        "chunk-ext-long",
        "9112 7.1.1",
        f"2;{'a' * 1100}\nhi\n",
        "a chunk line longer than 1024 bytes",
    ),
    Case(
        "chunk-bad-first",
        "9112 7.1",
        [
            C.sends(CHUNKED + "2\nhi\nzz\n"),
            O.gets(CHUNKED_GOT + "2\nhi\n"),
            C.gets(page(400, "Bad Request", "http_request_error", "a bad chunk size: 'zz'")),
            C.sees_fin(),
            O.closed(),
        ],
        log=[(400, "http_request_error", "")],
    ),
    _bad_chunk(
        "chunk-too-long",
        "9112 7.1",
        "2\nhi!\n",
        "a chunk longer than its size says: '!\\r'",
        good="2\nhi\n",
    ),
    _bad_chunk(
        "chunk-end-bare-lf",
        "9112 7.1",
        b"2\r\nhi\n0\r\n\r\n",
        "a chunk longer than its size says: '\\n0'",
        good="2\nhi\n",
    ),
    _bad_chunk(
        "trailer-length",
        "9110 6.5.1",
        "0\nContent-Length: 5\n\n",
        "a trailer field 'Content-Length'",
    ),
    _bad_chunk("trailer-folded", "9112 5.2", "0\nX: 1\n 2\n\n", "a folded field line (obs-fold)"),
    _bad_chunk("trailer-bare-lf", "9112 2.2", b"0\r\nX: 1\n\r\n", "a line ends in a bare LF"),
    _bad_chunk(
        "trailer-too-large",
        "6585 5",
        f"0\nX: {'a' * 16384}\n\n",
        "a trailer section larger than 16384 bytes",
    ),
]

CASES = [*LENGTHS, *CODINGS, *CHUNKS]
