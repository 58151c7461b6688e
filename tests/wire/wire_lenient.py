"""What is not as it should be, and can be read in one way only: responses reach the client as
they should have been, and their connection is not used again."""

from __future__ import annotations

from wire_case import (
    ASK,
    ASK_10,
    ASKED,
    ASKED_10,
    DATE,
    FINE,
    HEAD,
    OK,
    OK_GOT,
    VIA,
    C,
    Case,
    O,
    Step,
    Text,
    bad_response,
    forward,
    page,
    reject,
    respond,
    wire,
)

HEAD_ASK, HEAD_ASKED = ASK.replace("GET", "HEAD"), ASKED.replace("GET", "HEAD")
CHUNKED = HEAD + "Transfer-Encoding: chunked\n"
CHUNKED_GOT = f"{CHUNKED}{VIA}\n\n"


def _cleaned(name: str, source: str, sent: Text, got: Text, *after: Step) -> Case:
    """The client's connection goes on, the origin's does not."""
    return respond(name, source, sent, got, *after, O.closed(), log=[FINE])


def _field(name: str, source: str, sent: str | bytes, got: str) -> Case:
    """A field line among good ones."""
    return _cleaned(
        name,
        source,
        wire(HEAD) + wire(sent) + wire("\nContent-Length: 2\n\nok"),
        f"{HEAD}{got}\nContent-Length: 2\n{VIA}\n\nok",
    )


def _refused(name: str, source: str, fields: str | bytes, detail: str) -> Case:
    sent = wire(HEAD) + wire(fields) + wire("\nContent-Length: 2\n\nok")
    return bad_response(name, source, sent, detail)


LF = wire(OK).replace(b"\r\n", b"\n")
CRLF_THEN_LF = wire(HEAD) + b"Content-Length: 2\n\nok"
CGI = f"{HEAD}Connection: close\n{VIA}\n\n"

LINES = [
    # "a recipient MAY recognize a single LF as a line terminator"
    _cleaned("lf", "9112 2.2", LF, OK_GOT),
    _cleaned("lf-at-the-end", "9112 2.2", CRLF_THEN_LF, OK_GOT),
    _cleaned("lf-within", "9112 2.2", wire(OK).replace(b"\r\n", b"\n", 1), OK_GOT),
    respond(
        "lf-until-close",
        "9112 2.2",
        wire(HEAD).replace(b"\r\n", b"\n") + b"\n\r\nhi\n\n",
        wire(CGI) + b"\r\nhi\n\n",
        O.ends(),
        C.sees_fin(),
        O.closed(),
        log=[FINE],
    ),
    _cleaned(
        "lf-interim",
        "9112 2.2",
        b"HTTP/1.1 103 Early\nLink: </a>\n\n" + LF,
        f"HTTP/1.1 103 Early\nLink: </a>\n{VIA}\n\n{OK_GOT}",
    ),
    # "process the message as if it was in the highest minor version"
    respond("version-1.2", "9110 2.5", OK.replace("HTTP/1.1", "HTTP/1.2"), OK_GOT, log=[FINE]),
    respond("version-1.9", "9110 2.5", OK.replace("HTTP/1.1", "HTTP/1.9"), OK_GOT, log=[FINE]),
    _cleaned("empty-line-before", "9112 2.2", "\n" + OK, OK_GOT),
    _cleaned("empty-lines-before", "9112 2.2", b"\n\r\n\n" + LF, OK_GOT),
    bad_response(
        "too-many-empty-lines",
        "design",
        "\n" * 40 + OK,
        "too many empty lines before a response",
    ),
    respond(
        "empty-line-and-no-answer",
        "9112 8",
        "\n",
        "",
        O.consumed(),
        O.ends(),
        C.gets(
            page(
                502,
                "Bad Gateway",
                "connection_terminated",
                "the origin closed the connection without an answer",
                close=False,
            )
        ),
        O.closed(),
    ),
]

FIELDS = [
    # "A proxy MUST remove any such whitespace from a response message"
    _field("blank-before-colon", "9112 5.1", "A : 1", "A: 1"),
    _field("tabs-before-colon", "9112 5.1", "A\t \t:1", "A: 1"),
    _cleaned(
        "blank-before-colon-of-length",
        "9112 5.1",
        f"{HEAD}Content-Length : 2\n\nok",
        OK_GOT,
    ),
    # "replace each received obs-fold with one or more SP octets"
    _field("fold", "9112 5.2", "A: 1\n b", "A: 1 b"),
    _field("folds", "9112 5.2", "A:\n\t1 \n  Content-Length: 9", "A: 1 Content-Length: 9"),
    _field("fold-lf", "9112 5.2", b"A: 1\n b", "A: 1 b"),
    # "Field values containing other CTL characters are also invalid"
    _field("control", "9110 5.5", b"A: 1\x01\x1b2\x7f", "A: 1  2"),
    _cleaned(
        "control-in-reason",
        "9112 4",
        wire(OK).replace(b"200 OK", b"200 O\x01K"),
        wire(OK_GOT).replace(b"200 OK", b"200 O K"),
    ),
    bad_response(
        "fold-first",
        "9112 2.2",
        f"HTTP/1.1 200 OK\n A: 1\n{DATE}\n\n",
        "a folded line before the first field",
    ),
    _refused("fold-blank", "9112 5.2", "A: 1\n \t", "a line of nothing but blanks"),
    _refused("fold-of-length", "9112 5.2", "Content-Length:\n 2", "a folded Content-Length"),
    _refused(
        "fold-of-coding",
        "9112 5.2",
        "Transfer-Encoding:\n chunked",
        "a folded Transfer-Encoding",
    ),
    _refused(
        "control-in-coding",
        "9110 5.5",
        b"Transfer-Encoding: \x0bchunked",
        "control character '\\x0b'",
    ),
    _refused("nul", "9110 5.5", b"A: \0", "control character '\\x00'"),
    _refused("bare-cr", "9112 2.2", b"A: b\rc", "a CR without LF"),
]

FRAMING = [
    # "Transfer-Encoding overrides the Content-Length"
    _cleaned(
        "both",
        "9112 6.3",
        f"{CHUNKED}Content-Length: 5\n\n2\nhi\n0\n\n",
        f"{CHUNKED_GOT}2\nhi\n0\n\n",
    ),
    _cleaned(
        "both-length-first",
        "9112 6.3",
        f"{HEAD}Content-Length: 2\nTransfer-Encoding: chunked\n\n0\n\n",
        f"{CHUNKED_GOT}0\n\n",
    ),
    respond(
        "both-to-1.0",
        "9112 6.3",
        f"{CHUNKED}Content-Length: 5\n\n2\nhi\n0\n\n",
        f"{HEAD}Connection: close\n{VIA}\n\nhi",
        C.sees_fin(),
        O.closed(),
        ask=ASK_10,
        asked=ASKED_10,
        log=[FINE],
    ),
    # "treat the message as if the framing is faulty" and "close the connection after"
    _cleaned(
        "coding-in-1.0",
        "9112 6.1",
        f"HTTP/1.0 200 OK\nConnection: keep-alive\n{DATE}\nTransfer-Encoding: chunked\n\n"
        "2\nhi\n0\n\n",
        f"{CHUNKED_GOT}2\nhi\n0\n\n".replace("1.1 spl", "1.0 spl"),
    ),
    _cleaned(
        "identity",
        "2616 3.6",
        OK.replace("Content-L", "Transfer-Encoding: identity\nContent-L"),
        OK_GOT,
    ),
    respond(
        "identity-until-close",
        "2616 3.6",
        f"{HEAD}Transfer-Encoding: identity\n\nhi",
        f"{HEAD}Connection: close\n{VIA}\n\nhi",
        O.ends(),
        C.sees_fin(),
        O.closed(),
        log=[FINE],
    ),
    _cleaned(
        "identity-and-chunked",
        "2616 3.6",
        f"{HEAD}Transfer-Encoding: identity, chunked\n\n0\n\n",
        f"{CHUNKED_GOT}0\n\n",
    ),
    # "all values in the list are valid, and all values in the list are the same"
    _cleaned("length-list", "9112 6.3", OK.replace("Length: 2", "Length: 2, 2"), OK_GOT),
]


def _bodiless(
    name: str, source: str, line: str, fields: str, got: str = "", *, head: bool = False
) -> Case:
    """ "always terminated by the first empty line", "regardless of the header fields"."""
    version = line[7]
    return respond(
        name,
        source,
        f"{line}\n{DATE}\n{fields}\n\n",
        f"HTTP/1.1{line[8:]}\n{DATE}\n{got}Via: 1.{version} spliceproxy\n\n",
        O.closed(),
        ask=HEAD_ASK if head else ASK,
        asked=HEAD_ASKED if head else ASKED,
    )


def _interim(name: str, line: str, fields: str) -> Case:
    version = line[7]
    return respond(
        name,
        "9112 6.3",
        f"{line}\n{fields}\n\n{OK}",
        f"HTTP/1.1{line[8:]}\nVia: 1.{version} spliceproxy\n\n{OK_GOT}",
        O.closed(),
        everywhere=True,
    )


BODILESS = [
    _bodiless("204-coding", "9112 6.3", "HTTP/1.1 204 X", "Transfer-Encoding: gzip"),
    _bodiless("204-chunked", "9112 6.1", "HTTP/1.1 204 X", "Transfer-Encoding: chunked"),
    _bodiless("204-length", "9112 6.3", "HTTP/1.1 204 X", "Content-Length: 5"),
    _bodiless(
        "204-lengths-differ", "9112 6.3", "HTTP/1.1 204 X", "Content-Length: 0\nContent-Length: 5"
    ),
    _bodiless("304-coding", "9112 6.3", "HTTP/1.1 304 X", "Transfer-Encoding: gzip"),
    _bodiless(
        "304-both", "9112 6.3", "HTTP/1.1 304 X", "Content-Length: 5\nTransfer-Encoding: chunked"
    ),
    _bodiless("304-chunked-1.0", "9112 6.3", "HTTP/1.0 304 X", "Transfer-Encoding: chunked"),
    _bodiless(
        "head-chunked-1.0",
        "9112 6.3",
        "HTTP/1.0 200 X",
        "Connection: keep-alive\nTransfer-Encoding: chunked",
        head=True,
    ),
    _bodiless("head-coding", "9112 6.3", "HTTP/1.1 200 X", "Transfer-Encoding: gzip", head=True),
    _bodiless(
        "head-both",
        "9112 6.3",
        "HTTP/1.1 200 X",
        "Transfer-Encoding: chunked\nContent-Length: 5",
        head=True,
    ),
    _interim("100-coding", "HTTP/1.1 100 C", "Transfer-Encoding: chunked"),
    _interim("100-length", "HTTP/1.1 100 C", "Content-Length: 5"),
    _interim("103-both", "HTTP/1.1 103 C", "Content-Length: 0\nTransfer-Encoding: chunked"),
    _interim("103-gzip", "HTTP/1.1 103 C", "Transfer-Encoding: gzip"),
    _interim("100-in-1.0", "HTTP/1.0 100 C", "Keep-Alive: x"),
]


def _body(name: str, source: str, sent: Text, got: str) -> Case:
    """A chunked body."""
    return _cleaned(name, source, wire(f"{CHUNKED}\n") + wire(sent), CHUNKED_GOT + got)


CHUNKS = [
    # "BWS" in chunk-ext = *( BWS ";" BWS chunk-ext-name ... )
    _body("chunk-padded", "9112 7.1.1", "2  \nhi\n0 \n\n", "2\nhi\n0\n\n"),
    _body("chunk-padded-last", "9112 7.1.1", "2\nhi\n0\t\n\n", "2\nhi\n0\n\n"),
    respond(
        "chunk-padded-extension",
        "9112 7.1.1",
        f"{CHUNKED}\n2 ; a \nhi\n0 ;\n\n",
        f"{CHUNKED_GOT}2\nhi\n0\n\n",
        log=[FINE],
    ),
    respond(
        "chunks-padded-in-parts",
        "9112 7.1.1",
        CHUNKED + "\n",
        CHUNKED_GOT,
        O.sends("2 "),
        O.consumed(),
        O.sends("  \nhi\n"),
        C.gets("2\nhi\n"),
        O.sends("0   "),
        O.consumed(),
        O.sends("\n\n"),
        C.gets("0\n\n"),
        O.closed(),
        log=[FINE],
    ),
    Case(
        "chunks-padded-cut",
        "9112 7.1.1",
        [
            C.sends(ASK),
            O.gets(ASKED),
            O.sends(CHUNKED + "\n5  \nhello\nB \n wide\n wor\n0 \nX : 1\nContent-Length: 9\n\n"),
            C.gets_chunked(CHUNKED_GOT, b"hello wide\r\n wor", "X: 1\n"),
            O.closed(),
        ],
        everywhere=True,
    ),
    Case(
        "chunk-padded-big",
        "9112 7.1.1",
        [
            C.sends(ASK),
            O.gets(ASKED),
            O.sends(wire(CHUNKED + "\n20000   \n") + bytes(0x20000) + wire("\n0 \n\n")),
            C.gets_chunked(CHUNKED_GOT, bytes(0x20000)),
            O.closed(),
        ],
    ),
    # "a sender MUST NOT generate a trailer field unless ..."; "MAY ... discard"
    _body("trailer-length", "9110 6.5.1", "2\nhi\n0\nContent-Length: 2\n\n", "2\nhi\n0\n\n"),
    _body(
        "trailer-coding-and-host",
        "9110 6.5.1",
        "0\nTransfer-Encoding: x\nX: 1\nHost: o\n\n",
        "0\nX: 1\n\n",
    ),
    _body("trailer-blank-before-colon", "9112 5.1", "0\nX : 1\n\n", "0\nX: 1\n\n"),
    _body("trailer-fold", "9112 5.2", "0\nX: 1\n 2\n\n", "0\nX: 1 2\n\n"),
    _body("trailer-lf", "9112 2.2", b"0\r\nX: 1\n\n", "0\nX: 1\n\n"),
    _body("trailer-none-lf", "9112 2.2", b"0\r\n\n", "0\n\n"),
]

# What is made out of a field by cleaning it is looked at as any other.
TOGETHER = [
    _field("status-of-ours", "9209 2", "X: 1\nProxy-Status : spliceproxy; error=x", "X: 1"),
    _field("status-of-ours-folded", "9209 2", b"X: 1\nProxy-Status:\n spliceproxy", "X: 1"),
    _body(
        "trailer-status-of-ours", "9209 2", "0\nX: 1\nProxy-Status : spliceproxy\n\n", "0\nX: 1\n\n"
    ),
    _field("connection", "9110 7.6.1", "Connection : X\nX: 1\nY: 1", "Y: 1"),
    _field("hop-by-hop", "9110 7.6.1", "Keep-Alive : x\nY: 1", "Y: 1"),
    _field("proxy-authenticate", "9110 11.7.1", "Proxy-Authenticate\t: Basic\nY: 1", "Y: 1"),
    Case(
        "upgrade",
        "9112 6.3",
        [
            C.sends("GET http://o/ HTTP/1.1\nHost: o\nUpgrade: a\nConnection: Upgrade\n\n"),
            O.gets(f"GET / HTTP/1.1\nHost: o\nUpgrade: a\nConnection: upgrade\n{VIA}\n\n"),
            O.sends("HTTP/1.1 101 S\nUpgrade: a\nConnection: Upgrade\nContent-Length: 9\n\ndown"),
            C.gets(f"HTTP/1.1 101 S\nUpgrade: a\nConnection: upgrade\n{VIA}\n\ndown"),
            C.ends(),
            O.sees_fin(),
            O.ends(),
            C.sees_fin(),
        ],
        log=[(101, "", "")],
    ),
]


def _bound(name: str, sent: Text, got: Text) -> Case:
    """The origin has been told who is at its connection: the client must learn of its end."""
    token = "Authorization: NTLM x\n"
    return respond(
        name,
        "4559 6",
        sent,
        got,
        C.sees_fin(),
        O.closed(),
        ask=ASK.replace("Host: o\n", f"Host: o\n{token}"),
        asked=ASKED.replace("Host: o\n", f"Host: o\n{token}"),
        log=[FINE],
    )


TOGETHER += [
    _bound("bound", LF, OK_GOT.replace(VIA, f"Connection: close\n{VIA}")),
    _bound("bound-chunks", f"{CHUNKED}\n2 \nhi\n0\n\n", f"{CHUNKED_GOT}2\nhi\n0\n\n"),
]

REQUESTS = [
    # Its target says all that Host would (RFC 9112 section 3.2.3).
    Case(
        "connect-without-host",
        "9112 3.2.3",
        [
            C.sends("CONNECT o:443 HTTP/1.1\n\nhello"),
            C.gets("HTTP/1.1 200 Connection established\n\n"),
            O.gets("hello"),
            O.sends("hi"),
            C.gets("hi"),
            C.ends(),
            O.sees_fin(),
            O.ends(),
            C.sees_fin(),
        ],
        log=[FINE],
        dials=[("o", 443)],
    ),
    reject(
        "get-without-host",
        "9112 3.2",
        ASK.replace("Host: o\n", ""),
        "HTTP/1.1 without a Host field",
    ),
    forward(
        "path-utf-8",
        "design",
        "GET http://o/\xc3\xa4?\xff\x80 HTTP/1.1\nHost: o\n\n",
        f"GET /\xc3\xa4?\xff\x80 HTTP/1.1\nHost: o\n{VIA}\n\n",
    ),
    reject(
        "host-utf-8",
        "9110 4.2.1",
        "GET http://\xc3\xa4/ HTTP/1.1\nHost: o\n\n",
        "the request-target has a bad host: '\\xc3\\xa4'",
    ),
    reject(
        "connect-utf-8",
        "9112 3.2.3",
        "CONNECT \xc3\xa4:443 HTTP/1.1\nHost: o\n\n",
        "CONNECT takes HOST:PORT: a bad host: '\\xc3\\xa4:443'",
    ),
]

_ALL = [*LINES, *FIELDS, *FRAMING, *BODILESS, *CHUNKS, *TOGETHER, *REQUESTS]

CASES = [Case(**{**vars(case), "name": f"lenient-{case.name}"}) for case in _ALL]
