"""Responses: where they end, and how they are framed for the client."""

from __future__ import annotations

from wire_case import (
    ASK,
    ASK_10,
    ASKED,
    ASKED_10,
    BIG,
    DATE,
    HEAD,
    OK,
    OK_GOT,
    VIA,
    C,
    Case,
    O,
    respond,
    wire,
)

CHUNKED = HEAD + "Transfer-Encoding: chunked\n"
CLOSE = HEAD + f"Connection: close\n{VIA}\n\n"
HEAD_ASK, HEAD_ASKED = ASK.replace("GET", "HEAD"), ASKED.replace("GET", "HEAD")


def _bodiless(name: str, source: str, sent: str, got: str, *, head: bool = False) -> Case:
    """A response without a body, whatever its fields say; the connection is kept."""
    return respond(
        name,
        source,
        f"HTTP/1.1 {sent}\n\n",
        f"HTTP/1.1 {got}\n{VIA}\n\n",
        ask=HEAD_ASK if head else ASK,
        asked=HEAD_ASKED if head else ASKED,
    )


NO_BODY = [
    _bodiless(
        "head-length",
        "9110 9.3.2",
        f"200 OK\n{DATE}\nContent-Length: 5",
        f"200 OK\n{DATE}\nContent-Length: 5",
        head=True,
    ),
    _bodiless(
        "head-chunked",
        "9112 6.1",
        f"200 OK\n{DATE}\nTransfer-Encoding: chunked",
        f"200 OK\n{DATE}",
        head=True,
    ),
    _bodiless("head-without-length", "9112 6.3", f"200 OK\n{DATE}", f"200 OK\n{DATE}", head=True),
    _bodiless("204", "9110 15.3.5", f"204 No Content\n{DATE}", f"204 No Content\n{DATE}"),
    _bodiless(
        "204-length-dropped",
        "9110 8.6",
        f"204 No Content\n{DATE}\nContent-Length: 0",
        f"204 No Content\n{DATE}",
    ),
    respond(
        "204-body-is-junk",
        "9112 6.3",
        f"HTTP/1.1 204 X\n{DATE}\nContent-Length: 4\n\njunk",
        f"HTTP/1.1 204 X\n{DATE}\n{VIA}\n\n",
        O.closed(),
    ),
    _bodiless(
        "304",
        "9110 15.4.5",
        f"304 Not Modified\n{DATE}\nETag: x",
        f"304 Not Modified\n{DATE}\nETag: x",
    ),
    _bodiless(
        "304-length-kept",
        "9110 8.6",
        f"304 Not Modified\n{DATE}\nContent-Length: 5",
        f"304 Not Modified\n{DATE}\nContent-Length: 5",
    ),
    _bodiless(
        "304-chunked-dropped",
        "9112 6.1",
        f"304 Not Modified\n{DATE}\nTransfer-Encoding: chunked",
        f"304 Not Modified\n{DATE}",
    ),
    _bodiless(
        "205-empty",
        "9110 15.3.6",
        f"205 Reset\n{DATE}\nContent-Length: 0",
        f"205 Reset\n{DATE}\nContent-Length: 0",
    ),
]

LENGTHS = [
    respond(
        "empty", "9112 6.3", HEAD + "Content-Length: 0\n\n", HEAD + f"Content-Length: 0\n{VIA}\n\n"
    ),
    respond("leading-zeros", "9110 8.6", HEAD + "Content-Length: 002\n\nok", OK_GOT),
    respond(
        "equal-lengths", "9112 6.3", HEAD + "Content-Length: 2\nContent-Length: 2\n\nok", OK_GOT
    ),
    respond(
        "length-in-parts",
        "9112 6.2",
        HEAD + "Content-Length: 10\n\nhello",
        HEAD + f"Content-Length: 10\n{VIA}\n\nhello",
        O.sends("wor"),
        C.gets("wor"),
        O.sends("ld"),
        C.gets("ld"),
        log=[(200, "", "")],
        everywhere=True,
    ),
    respond(
        "length-big",
        "9112 6.2",
        wire(HEAD + f"Content-Length: {len(BIG)}\n\n") + BIG,
        wire(HEAD + f"Content-Length: {len(BIG)}\n{VIA}\n\n") + BIG,
    ),
    respond(
        "length-big-behind-head",
        "9112 6.2",
        HEAD + f"Content-Length: {len(BIG)}\n\n",
        HEAD + f"Content-Length: {len(BIG)}\n{VIA}\n\n",
        O.sends(BIG),
        C.gets(BIG),
    ),
    respond("junk-behind-length", "9112 6.3", OK + "junk", OK_GOT, O.closed(), everywhere=True),
    respond("response-behind-response", "9112 9.2", OK + OK, OK_GOT, O.closed()),
    respond(
        "length-to-1.0",
        "9112 9.3",
        OK,
        OK_GOT.replace(VIA, f"Connection: close\n{VIA}"),
        C.sees_fin(),
        ask=ASK_10,
        asked=ASKED_10,
    ),
    respond(
        "partial",
        "9110 15.3.7",
        OK.replace("200 OK", "206 Partial").replace(
            "Content-L", "Content-Range: bytes 0-1/9\nContent-L"
        ),
        OK_GOT.replace("200 OK", "206 Partial").replace(
            "Content-L", "Content-Range: bytes 0-1/9\nContent-L"
        ),
    ),
]


def _chunks(name: str, source: str, sent: str, got: str) -> Case:
    return respond(name, source, f"{CHUNKED}\n{sent}", f"{CHUNKED}{VIA}\n\n{got}")


def _bad_chunk(name: str, source: str, sent: str | bytes, *, good: str = "") -> Case:
    """The response has begun: the client gets what was ``good``, and sees that it is cut."""
    return respond(
        name,
        source,
        CHUNKED + "\n2\nhi\n",
        CHUNKED + f"{VIA}\n\n2\nhi\n",
        O.sends(sent),
        C.gets(good),
        C.sees_fin(),
        O.closed(),
        log=[(200, "http_protocol_error", "source-error")],
    )


CHUNKS = [
    _chunks("chunks", "9112 7.1", "5\nhello\n6\n world\n0\n\n", "b\nhello world\n0\n\n"),
    _chunks("chunks-none", "9112 7.1", "0\n\n", "0\n\n"),
    _chunks("chunk-extension-dropped", "9112 7.1.1", "2;a=b\nhi\n0;c\n\n", "2\nhi\n0\n\n"),
    _chunks("trailers", "9112 7.1.2", "2\nhi\n0\nX-Sum: 1\n\n", "2\nhi\n0\nX-Sum: 1\n\n"),
    _chunks(
        "trailers-not-allowed", "9110 6.5.1", "0\nSet-Cookie: a\nX: 1\nDate: b\n\n", "0\nX: 1\n\n"
    ),
    respond(
        "chunks-then-junk",
        "9112 6.3",
        f"{CHUNKED}\n0\n\njunk",
        f"{CHUNKED}{VIA}\n\n0\n\n",
        O.closed(),
    ),
    respond(
        "chunks-in-parts",
        "9112 7.1",
        CHUNKED + "\n",
        CHUNKED + f"{VIA}\n\n",
        O.sends("5\nhel"),
        C.gets("3\nhel\n"),
        O.sends("lo\n0"),
        C.gets("2\nlo\n"),
        O.sends("\n\n"),
        C.gets("0\n\n"),
    ),
    Case(
        "chunks-in-many-parts",
        "9112 7.1",
        [
            C.sends(ASK),
            O.gets(ASKED),
            O.sends(CHUNKED + "\n"),
            C.gets(CHUNKED + f"{VIA}\n\n"),
            O.sends("5\nhe"),
            C.gets("2\nhe\n"),
            O.sends("llo\n1"),
            C.gets("3\nllo\n"),
            O.sends("\n!\n6\n world\n00"),
            C.gets("7\n! world\n"),
            O.sends(b"0\r"),
            O.consumed(),
            O.sends(b"\n\r"),
            O.consumed(),
            O.sends(b"\n"),
            C.gets("0\n\n"),
        ],
    ),
    Case(
        "chunks-plain-cut",
        "9112 7.1",
        [
            C.sends(ASK),
            O.gets(ASKED),
            O.sends(CHUNKED + "\n005\nhello\nB\n wide\n wor\n00\n\n"),
            C.gets_chunked(CHUNKED + f"{VIA}\n\n", b"hello wide\r\n wor"),
        ],
        everywhere=True,
    ),
    Case(
        "chunk-plain-big",
        "9112 7.1",
        [
            C.sends(ASK),
            O.gets(ASKED),
            O.sends(wire(CHUNKED + "\n1\n!\n40000\n") + BIG + wire("\n2\nhi\n0\n\n")),
            C.gets_chunked(CHUNKED + f"{VIA}\n\n", b"!" + BIG + b"hi"),
        ],
    ),
    Case(
        "chunks-cut",
        "9112 7.1",
        [
            C.sends(ASK),
            O.gets(ASKED),
            O.sends(CHUNKED + "\n005;a=b\nhello\nB\n wide\n wor\n0;c\nX: 1\nVary: a\n\n"),
            C.gets_chunked(CHUNKED + f"{VIA}\n\n", b"hello wide\r\n wor", "X: 1\n"),
        ],
        everywhere=True,
    ),
    Case(
        "chunk-big",
        "9112 7.1",
        [
            C.sends(ASK),
            O.gets(ASKED),
            O.sends(wire(CHUNKED + "\n40000\n") + BIG + wire("\n2\nhi\n0\nX: 1\n\n")),
            C.gets_chunked(CHUNKED + f"{VIA}\n\n", BIG + b"hi", "X: 1\n"),
        ],
    ),
    respond(
        "chunks-to-1.0",
        "9112 7",
        f"{CHUNKED}\n5\nhello\n0\nX: 1\n\n",
        CLOSE + "hello",
        C.sees_fin(),
        ask=ASK_10,
        asked=ASKED_10,
    ),
    Case(
        "chunk-big-to-1.0",
        "9112 7",
        [
            C.sends(ASK_10),
            O.gets(ASKED_10),
            O.sends(wire(CHUNKED + "\n40000\n") + BIG + wire("\n0\n\n")),
            C.gets(wire(CLOSE) + BIG),
            C.sees_fin(),
        ],
    ),
    _bad_chunk("chunk-size-junk", "9112 7.1", "2x\nhi\n"),
    _bad_chunk("chunk-size-overflow", "9112 7.1", "ffffffffffffffff\nhi\n"),
    _bad_chunk("chunk-too-long", "9112 7.1", "2\nhi!\n", good="2\nhi\n"),
    _bad_chunk("chunk-bare-lf", "9112 7.1", b"2\nhi\n"),
    _bad_chunk("trailer-bad", "9112 7.1.2", "0\nX(: 1\n\n"),
    _bad_chunk("trailer-fold-first", "9112 5.2", "0\n X: 1\n\n"),
    _bad_chunk("trailer-bare-cr", "9112 2.2", b"0\r\nX: 1\rY: 2\r\n\r\n"),
    respond(
        "chunk-bad-to-1.0",
        "9112 8",
        CHUNKED + "\n2\nhi\n",
        CLOSE + "hi",
        O.sends("zz\n"),
        C.sees_reset(),
        O.closed(),
        ask=ASK_10,
        asked=ASKED_10,
    ),
    respond(
        "chunk-bad-first",
        "9112 8",
        CHUNKED + "\nzz\n",
        CHUNKED + f"{VIA}\n\n",
        C.sees_fin(),
        O.closed(),
        log=[(200, "http_protocol_error", "source-error")],
    ),
]

UNTIL_CLOSE = [
    respond(
        "until-close",
        "9112 6.3",
        HEAD + "\nhello",
        CLOSE + "hello",
        O.sends(" world"),
        C.gets(" world"),
        O.ends(),
        C.sees_fin(),
        O.closed(),
        log=[(200, "", "")],
    ),
    respond(
        "until-close-empty", "9112 6.3", HEAD + "\n", CLOSE, O.ends(), C.sees_fin(), O.closed()
    ),
    respond(
        "until-close-big",
        "9112 6.3",
        wire(HEAD + "\n") + BIG,
        wire(CLOSE) + BIG,
        O.ends(),
        C.sees_fin(),
        O.closed(),
    ),
    respond(
        "until-close-1.0",
        "9112 6.3",
        f"HTTP/1.0 200 OK\n{DATE}\n\nhello",
        CLOSE.replace("1.1 spl", "1.0 spl") + "hello",
        O.ends(),
        C.sees_fin(),
        O.closed(),
        ask=ASK_10,
        asked=ASKED_10,
    ),
    respond(
        "until-close-keeps-no-tail-back",
        "9112 9.6",
        HEAD + "\nhello",
        CLOSE + "hello",
        C.sends(ASK),
        O.sends(BIG),
        O.ends(),
        C.gets(BIG),
        C.sees_fin(),
        O.closed(),
    ),
]

_ALL = [*NO_BODY, *LENGTHS, *CHUNKS, *UNTIL_CLOSE]

CASES = [Case(**{**vars(case), "name": f"response-{case.name}"}) for case in _ALL]
