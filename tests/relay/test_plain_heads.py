"""Heads that the relay takes as plain, by the hundred, against http1: see plain_oracle."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_oracle import OK, Plain, check_requests, check_response
from relay_rig import native_relay, open_fds
from sanitizer import FEW

ASK = b"GET http://o/ HTTP/1.1\r\nHost: o\r\n\r\n"
POST = b"POST http://o/ HTTP/1.1\r\nHost: o\r\nContent-Length: 5\r\n\r\nhello"


def places(data: bytes) -> list[int]:
    """Where a head is cut once: at each byte. Where another run does that, for the sanitizers and
    on other versions of Python, around the ends of lines and at every seventh byte."""
    return [
        at
        for at in range(1, min(len(data), 200))
        if not FEW or at % 7 == 0 or b"\n" in data[max(at - 2, 0) : at + 1]
    ]


@pytest.fixture(scope="module", params=[b"sp", b""], ids=["via", "no-via"])
def plain(request: pytest.FixtureRequest) -> Iterator[Plain]:
    native_relay()  # or skip
    made = Plain(request.param)
    yield made
    made.close()


PLAIN = {
    "absolute": ASK,
    "origin form": b"GET /a?b=c HTTP/1.1\r\nHost: O:81\r\n\r\n",
    "connect": b"CONNECT o:443 HTTP/1.1\r\nHost: o:443\r\n\r\n",
    "connect, early data": b"CONNECT o:443 HTTP/1.1\r\nHost: o:443\r\n\r\n\x16\x03\x01",
    "head": b"HEAD http://o/x HTTP/1.1\r\nHost: o\r\n\r\n",
    "upper case": b"GET http://O.EXAMPLE:80/ HTTP/1.1\r\nhOST: O.EXAMPLE:80\r\n\r\n",
    "IPv6": b"GET http://[2001:DB8::0:1]:8080/ HTTP/1.1\r\nHost: [2001:DB8::0:1]:8080\r\n\r\n",
    "close": ASK[:-2] + b"Connection: Close\r\n\r\n",
    "keep-alive": ASK[:-2] + b"Connection: keep-alive\r\nKeep-Alive: 5\r\n\r\n",
    "proxy-connection": ASK[:-2] + b"Proxy-Connection: close\r\n\r\n",
    "both": ASK[:-2] + b"Proxy-Connection: close\r\nConnection: keep-alive\r\n\r\n",
    "other via": ASK[:-2] + b"Via: 1.0 fred, 1.1 other (x)\r\n\r\n",
    "credentials": ASK[:-2] + b"Proxy-Authorization: Basic eDp5\r\n\r\n",
    "basic": ASK[:-2] + b"Authorization: Basic eDp5\r\n\r\n",
    "basic alone": ASK[:-2] + b"authorization: BASIC\r\n\r\n",
    "bearer": ASK[:-2] + b"Authorization: Bearer a.b.c\r\n\r\n",
    "aws": ASK[:-2] + b"Authorization: AWS4-HMAC-SHA256 Credential=a/b, Signature=c\r\n\r\n",
    "two schemes": ASK[:-2] + b"Authorization: vapid t=a\r\nAuthorization: Token b\r\n\r\n",
    "whitespace": b"GET http://o/ HTTP/1.1\r\nHost:\t o \r\nA:\r\nB: \t c \t d \t\r\n\r\n",
    "obs-text": ASK[:-2] + b"A: \xff\x80\r\n\r\n",
    "empty body": ASK[:-2] + b"Content-Length: 0\r\n\r\n",
    "body": POST,
    "body of a GET": POST.replace(b"POST", b"GET"),
    "body of a HEAD": POST.replace(b"POST", b"HEAD"),
    "body, then close": POST.replace(b"Host", b"Connection: close\r\nHost"),
    "body in origin form": POST.replace(b"http://o", b""),
    "bodies, pipelined": POST + ASK + POST.replace(b"POST", b"PATCH") + ASK,
    "POST without a body": ASK.replace(b"GET", b"POST"),
    "another method": ASK.replace(b"GET", b"REPORT"),
    "lower-case method": ASK.replace(b"GET", b"get"),
    "a long method": ASK.replace(b"GET", b"A!#$%&'*+-.^_`|~" * 2),
    "OPTIONS": ASK.replace(b"GET", b"OPTIONS"),
    "DELETE": ASK.replace(b"GET", b"DELETE"),
    "TRACE": ASK.replace(b"GET", b"TRACE"),
    "expectation": ASK[:-2] + b"Expect: 100-continue\r\n\r\n",
    "expectation and body": POST.replace(b"Host", b"Expect: 100-continue\r\nHost"),
    "many": (ASK + ASK.replace(b"o/", b"o/2") + ASK.replace(b"GET", b"HEAD")) * 10,
}

CHUNKS = POST.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked")[:-5]

PLAIN |= {
    "chunks": CHUNKS + b"5\r\nhello\r\n0\r\n\r\n",
    "many chunks": CHUNKS + b"0A\r\n0123456789\r\n1\r\nx\r\n" * 20 + b"000\r\n\r\n",
    "no chunks": CHUNKS + b"0\r\n\r\n",
    "chunks of a GET": CHUNKS.replace(b"POST", b"GET") + b"0\r\n\r\n",
    "chunks, other case": CHUNKS.replace(b"chunked", b"CHUNKED") + b"0\r\n\r\n",
    "chunks, then close": CHUNKS.replace(b"Host", b"Connection: close\r\nHost") + b"0\r\n\r\n",
    "chunks, pipelined": (CHUNKS + b"2\r\nhi\r\n0\r\n\r\n" + ASK) * 3,
    "chunks and an expectation": (
        CHUNKS.replace(b"Host", b"Expect: 100-continue\r\nHost") + b"1\r\nx\r\n0\r\n\r\n"
    ),
}

ODD_CHUNKS = {
    "extension": b"2;a=b\r\nhi\r\n0\r\n\r\n",
    "extension of the last": b"2\r\nhi\r\n0;a\r\n\r\n",
    "blank": b"2 \r\nhi\r\n0\r\n\r\n",
    "trailers": b"2\r\nhi\r\n0\r\nA: b\r\n\r\n",
    "sign": b"+2\r\nhi\r\n0\r\n\r\n",
    "0x": b"0x2\r\nhi\r\n0\r\n\r\n",
    "bare LF": b"2\nhi\n0\n\n",
    "bare LF behind a chunk": b"2\r\nhi\n0\r\n\r\n",
    "bare LF behind the last": b"2\r\nhi\r\n0\r\n\n",
    "bare CR": b"2\rhi\r0\r\r",
    "longer than it says": b"2\r\nhi!\r\n0\r\n\r\n",
    "no size": b"2\r\nhi\r\n\r\n",
    "2^63": b"1\r\nx\r\n8000000000000000\r\nhi\r\n",
    "17 digits": b"1\r\nx\r\n00000000000000002\r\nhi\r\n",
}
"""Chunked bodies, of requests and of responses, that are not for the relay from some byte on."""

NOT_PLAIN = {
    "nothing of it": b"(",
    "part": ASK[:-2],
    "empty line": b"\r\n" + ASK,
    "bare LF": ASK.replace(b"\r\n", b"\n"),
    "bare LF in the middle": ASK.replace(b"1.1\r\n", b"1.1\n"),
    "bare LF before the end": ASK[:-4] + b"\n\r\n",
    "CR in a value": ASK[:-4] + b"\rx\r\n\r\n",
    "obs-fold": ASK[:-2] + b"A: b\r\n c\r\n\r\n",
    "obs-fold first": ASK.replace(b"Host", b" Host"),
    "space before the colon": ASK.replace(b"Host:", b"Host :"),
    "NUL": ASK[:-4] + b"\0\r\n\r\n",
    "NUL in a name": ASK[:-2] + b"A\0: b\r\n\r\n",
    "no colon": ASK[:-2] + b"A\r\n\r\n",
    "no name": ASK[:-2] + b": a\r\n\r\n",
    "no Host": b"GET http://o/ HTTP/1.1\r\nAccept: abcdefgh\r\n\r\n",
    "empty Host": b"GET http://o/ HTTP/1.1\r\nHost:\r\n\r\n",
    "two Hosts": ASK[:-2] + b"Host: o\r\n\r\n",
    "two Hosts, one empty": ASK.replace(b"Host", b"Host: \r\nHost"),
    "another Host": ASK.replace(b"Host: o", b"Host: p"),
    "Host with a port": ASK.replace(b"Host: o", b"Host: o:80"),
    "query in the authority": b"GET http://o?x/y HTTP/1.1\r\nHost: o?x\r\n\r\n",
    "no path": b"GET http://o HTTP/1.1\r\nHost: o\r\n\r\n",
    "no path but a query": b"GET http://o?x HTTP/1.1\r\nHost: o\r\n\r\n",
    "userinfo": b"GET http://u@o/ HTTP/1.1\r\nHost: u@o\r\n\r\n",
    "fragment": ASK.replace(b"o/", b"o/#x"),
    "no authority": b"GET http:/// HTTP/1.1\r\nHost: o\r\n\r\n",
    "another scheme": ASK.replace(b"http", b"https"),
    "scheme in upper case": ASK.replace(b"http", b"HTTP"),
    "asterisk": b"GET * HTTP/1.1\r\nHost: o\r\n\r\n",
    "HTTP/1.0": ASK.replace(b"1.1", b"1.0"),
    "HTTP/1.2": ASK.replace(b"1.1", b"1.2"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET http://o/\r\nHost: o\r\n\r\n",
    "two spaces": ASK.replace(b" H", b"  H", 1),
    "tab": ASK.replace(b"GET ", b"GET\t"),
    "space behind the version": ASK.replace(b"1.1", b"1.1 "),
    "obs-text in the target": ASK.replace(b"o/", b"o/\xff"),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "two lengths": POST.replace(b"Host", b"Content-Length: 5\r\nHost"),
    "two other lengths": POST.replace(b"Host", b"Content-Length: 6\r\nHost"),
    "a list of lengths": POST.replace(b": 5", b": 5, 5"),
    "a length with a zero in front": POST.replace(b": 5", b": 05"),
    "a length with a sign": POST.replace(b": 5", b": +5"),
    "a negative length": POST.replace(b": 5", b": -5"),
    "a length in hex": POST.replace(b": 5", b": 0x5"),
    "no length": POST.replace(b": 5", b": "),
    "19 digits": POST.replace(b": 5", b": 9999999999999999999"),
    "length and coding": POST.replace(b"Host", b"Transfer-Encoding: chunked\r\nHost"),
    "Max-Forwards": ASK.replace(b"GET", b"OPTIONS")[:-2] + b"Max-Forwards: 1\r\n\r\n",
    "33 bytes of method": ASK.replace(b"GET", b"M" * 33),
    "no token": ASK.replace(b"GET", b"G(T"),
    "no method": ASK.replace(b"GET", b""),
    "two codings": ASK[:-2] + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n",
    "a list of codings": ASK[:-2] + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "another coding": ASK[:-2] + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a tab behind the coding": ASK[:-2] + b"Transfer-Encoding: chunked\t\r\n\r\n0\r\n\r\n",
    "no coding": ASK[:-2] + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n",
    "a coding with a parameter": ASK[:-2] + b"Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n",
    "a coding of CONNECT": (
        b"CONNECT o:443 HTTP/1.1\r\nHost: o:443\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "coding and length": POST.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "NTLM": ASK[:-2] + b"Authorization: NTLM TlRM\r\n\r\n",
    "negotiate": ASK[:-2] + b"Authorization: negotiate TlRM\r\n\r\n",
    "a longer scheme": ASK[:-2] + b"Authorization: Basic1 eDp5\r\n\r\n",
    "a shorter scheme": ASK[:-2] + b"Authorization: Basi eDp5\r\n\r\n",
    "a scheme before a tab": ASK[:-2] + b"Authorization: Basic\teDp5\r\n\r\n",
    "no scheme": ASK[:-2] + b"Authorization:\r\n\r\n",
    "a second scheme": ASK[:-2] + b"Authorization: Basic x\r\nAuthorization: NTLM\r\n\r\n",
    "TE": ASK[:-2] + b"TE: trailers\r\nConnection: TE\r\n\r\n",
    "Upgrade": ASK[:-2] + b"Upgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    "two Connections": ASK[:-2] + b"Connection: close\r\nConnection: close\r\n\r\n",
    "nominated": ASK[:-2] + b"Connection: close, x\r\nX: y\r\n\r\n",
    "nominated close": ASK[:-2] + b"Connection: close\r\nClose: y\r\n\r\n",
    "empty Connection": ASK[:-2] + b"Connection: \r\n\r\n",
    "connect with a path": b"CONNECT o:443/ HTTP/1.1\r\nHost: o:443/\r\n\r\n",
    "connect without a port": b"CONNECT o HTTP/1.1\r\nHost: o\r\n\r\nxxxxxxxxxx",
    "connect with a body": b"CONNECT o:1 HTTP/1.1\r\nHost: o:1\r\nContent-Length: 1\r\n\r\nx",
    "long": ASK[:-2] + b"A: " + b"x" * 8192 + b"\r\n\r\n",
    "many fields": ASK[:-2] + b"A: b\r\n" * 100 + b"\r\n",
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_requests_are_served(plain: Plain, name: str) -> None:
    data = PLAIN[name]
    assert check_requests(plain, data) == data.count(b"HTTP/1.1\r\n")
    for cut in places(data):
        check_requests(plain, data, [cut])


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_other_requests_come_back(plain: Plain, name: str) -> None:
    data = NOT_PLAIN[name]
    assert check_requests(plain, data) == 0
    assert check_requests(plain, ASK + data + ASK) == 1
    for cut in places(data):
        assert check_requests(plain, data, [cut]) == 0


VALUE_BYTES = {9, *range(0x20, 0x7F), *range(0x80, 0x100)}
"""RFC 9110 section 5.5: what a field value may hold. A blank at its end is none of its bytes."""


@pytest.mark.parametrize("byte", [*range(0x22), 0x7E, 0x7F, 0x80, 0x8D, 0xA0, 0xFF])
def test_a_byte_at_each_place_of_a_value(plain: Plain, byte: int) -> None:
    """Values are read in pieces, which must not hide one byte that they may not hold, nor let the
    bytes beside it be taken for one."""
    for at in range(18):
        for filler in (b"!", b"~", b"\x80", b"\xff"):
            value = filler * at + bytes([byte]) + filler * (17 - at)
            data = ASK[:-2] + b"X-Value: " + value + b"\r\n\r\n"
            assert check_requests(plain, data) == (byte in VALUE_BYTES), (at, filler)


@pytest.mark.parametrize("byte", [*range(0x23), 0x7E, 0x7F, 0x80, 0xA1, 0xFF])
def test_a_byte_at_each_place_of_a_target(plain: Plain, byte: int) -> None:
    """A target is visible ASCII (RFC 3986 section 2), read in pieces as well."""
    for at in range(18):
        for filler in (b"!", b"~"):
            path = filler * at + bytes([byte]) + filler * (17 - at)
            data = b"GET http://o/" + path + b" HTTP/1.1\r\nHost: o\r\n\r\n"
            assert check_requests(plain, data) == (b"!" <= bytes([byte]) <= b"~"), (at, filler)


@pytest.mark.parametrize("front", [b":", b": ", b":  ", b":\t", b": \t"])
@pytest.mark.parametrize("end", [b"", b" ", b"\t", b" \t "])
def test_blanks_around_a_value_are_not_passed_on(plain: Plain, front: bytes, end: bytes) -> None:
    for size in (0, 1, 7, 8, 9, 16):
        data = ASK[:-2] + b"X-Value" + front + b"v" * size + end + b"\r\n\r\n"
        assert check_requests(plain, data) == 1
        answer = OK[:-4] + b"X-Value" + front + b"v" * size + end + b"\r\n\r\nok"
        assert check_response(plain, answer)


@pytest.mark.parametrize("spelling", [b"sp", b"SP", b"Sp", b"xspx"])
def test_a_request_that_has_been_here_comes_back(spelling: bytes) -> None:
    native_relay()
    plain = Plain(b"sP")
    data = ASK[:-2] + b"Via: 1.0 a, 1.1 " + spelling + b"\r\n\r\n"
    assert check_requests(plain, data) == 0
    plain.close()


RESPONSE = b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 2\r\n\r\nok"

PLAIN_RESPONSES = {
    "ok": RESPONSE,
    "empty": RESPONSE.replace(b"h: 2", b"h: 0")[:-2],
    "more to come": RESPONSE[:-1],
    "junk behind": RESPONSE + b"x",
    "another behind": RESPONSE * 2,
    "close": RESPONSE.replace(b"Date", b"Connection: close\r\nDate"),
    "keep-alive": RESPONSE.replace(b"Date", b"Connection: Keep-Alive\r\nKeep-Alive: 5\r\nDate"),
    "empty reason": RESPONSE.replace(b"200 OK", b"599 "),
    "odd reason": RESPONSE.replace(b"200 OK", b"404  a \t\xff "),
    "redirect": RESPONSE.replace(b"200 OK", b"301 x"),
    "304": b"HTTP/1.1 304 x\r\nDate:\r\nContent-Length: 5\r\n\r\n",
    "304 with a body": b"HTTP/1.1 304 x\r\nDate:\r\nContent-Length: 5\r\n\r\nhello",
    "304 without length": b"HTTP/1.1 304 x\r\nDate: \t d \r\n\r\n",
    "204": b"HTTP/1.1 204 x\r\nDate: d\r\n\r\n",
    "18 digits": RESPONSE.replace(b"h: 2", b"h: 999999999999999999"),
    "no date": RESPONSE.replace(b"Date", b"Dat"),
    "no date, close": RESPONSE.replace(b"Date: d", b"Connection: close"),
    "chunks without a date": (
        b"HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    ),
    "two dates": RESPONSE.replace(b"Date", b"Date: e\r\nDate"),
    "type": RESPONSE.replace(b"Date", b"Content-Type: " + b"x" * 100 + b"\r\nDate"),
    "100": b"HTTP/1.1 100 Continue\r\n\r\n" + RESPONSE,
    "100 and no more": b"HTTP/1.1 100 Continue\r\n\r\n",
    "103": b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\nDate: d\r\n\r\n" + RESPONSE,
    "several": b"HTTP/1.1 102 x\r\nC: d\r\n\r\nHTTP/1.1 199 x\r\nA: b\r\n\r\n" + RESPONSE,
    "set-cookie": RESPONSE.replace(b"Date", b"Set-Cookie: a\r\nset-cookie: b\r\nDATE"),
    "proxy-connection": RESPONSE.replace(b"Date", b"Proxy-Connection: close\r\nDate"),
}

CHUNKED = b"HTTP/1.1 200 OK\r\nDate: d\r\nTransfer-Encoding: chunked\r\n\r\n"

CHUNKED_RESPONSES = {
    "one chunk": b"2\r\nok\r\n0\r\n\r\n",
    "several": b"2\r\nok\r\n5\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n",
    "many": b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n",
    "none": b"0\r\n\r\n",
    "zeros": b"0002\r\nok\r\n000\r\n\r\n",
    "upper case": b"A\r\n0123456789\r\n0\r\n\r\n",
    "CRLF in the payload": b"4\r\n\r\n\r\n\r\n0\r\n\r\n",
    "another answer behind": b"2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
}

CHUNKED_RESPONSES |= {
    "not whole": b"2\r\nok\r\n0\r\n",
    "no end": b"2\r\nok\r\n",
    "cut": b"5\r\nhel",
    "nine digits": b"000000002\r\nok\r\n0\r\n\r\n",
    "16 digits": b"7fffffffffffffff\r\nok",
    "huge": b"ffffffff\r\nok\r\n0\r\n\r\n",
}

OTHER_RESPONSES = {
    "part": RESPONSE[:20],
    "100 with a length": b"HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n" + RESPONSE,
    "100 that closes": b"HTTP/1.1 100 Continue\r\nConnection: close\r\n\r\n" + RESPONSE,
    "chunked 100": b"HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n" + RESPONSE,
    "100 of HTTP/1.0": b"HTTP/1.0 100 Continue\r\n\r\n" + RESPONSE,
    "100, then part": b"HTTP/1.1 100 Continue\r\n\r\n" + RESPONSE[:20],
    "100, then no length": b"HTTP/1.1 100 Continue\r\n\r\n" + RESPONSE.replace(b"h: 2", b"h: "),
    "101": b"HTTP/1.1 101 x\r\nDate: d\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "no length": RESPONSE.replace(b"Content-Length", b"Content-Lengt"),
    "chunked": RESPONSE.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked"),
    "a tab behind the coding": CHUNKED.replace(b"chunked", b"chunked\t") + b"0\r\n\r\n",
    "both": RESPONSE.replace(b"Date", b"Transfer-Encoding: chunked\r\nDate"),
    "two lengths": RESPONSE.replace(b"Date", b"Content-Length: 2\r\nDate"),
    "two other lengths": RESPONSE.replace(b"Date", b"Content-Length: 3\r\nDate"),
    "leading zero": RESPONSE.replace(b"h: 2", b"h: 02"),
    "sign": RESPONSE.replace(b"h: 2", b"h: +2"),
    "list": RESPONSE.replace(b"h: 2", b"h: 2, 2"),
    "empty length": RESPONSE.replace(b"h: 2", b"h: "),
    "19 digits": RESPONSE.replace(b"h: 2", b"h: 9999999999999999999"),
    "hex": RESPONSE.replace(b"h: 2", b"h: 0x2"),
    "204 with a length": b"HTTP/1.1 204 x\r\nDate: d\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.0": RESPONSE.replace(b"1.1", b"1.0"),
    "HTTP/1.2": RESPONSE.replace(b"1.1", b"1.2"),
    "600": RESPONSE.replace(b"200", b"600"),
    "099": RESPONSE.replace(b"200", b"099"),
    "four digits": RESPONSE.replace(b"200", b"2000"),
    "no reason": RESPONSE.replace(b"200 OK", b"200"),
    "bare LF": RESPONSE.replace(b"\r\n", b"\n"),
    "bare LF at the end": RESPONSE.replace(b"\r\n\r\n", b"\n\r\n"),
    "obs-fold": RESPONSE.replace(b"d\r\n", b"d\r\n e\r\n"),
    "space before the colon": RESPONSE.replace(b"Date:", b"Date :"),
    "NUL": RESPONSE.replace(b"OK", b"O\0"),
    "nominated": RESPONSE.replace(b"Date", b"Connection: x\r\nX: y\r\nDate"),
    "nominated close": RESPONSE.replace(b"Date", b"Connection: close\r\nClose: y\r\nDate"),
    "two Connections": RESPONSE.replace(b"Date", b"Connection: close\r\nConnection: close\r\nDate"),
    "authentication": RESPONSE.replace(b"Date", b"Proxy-Authenticate: Basic\r\nDate"),
    "challenge": RESPONSE.replace(b"Date", b"WWW-Authenticate: NTLM\r\nDate"),
    "session": RESPONSE.replace(b"Date", b"Proxy-Support: Session-Based-Authentication\r\nDate"),
    "persistent session": RESPONSE.replace(b"Date", b"Persistent-Auth: true\r\nDate"),
    "status of a proxy": RESPONSE.replace(b"Date", b"Proxy-Status: cdn\r\nDate"),
    "upgrade": RESPONSE.replace(b"Date", b"Upgrade: h2c\r\nDate"),
    "empty line first": b"\r\n" + RESPONSE,
    "long": RESPONSE.replace(b"Date", b"A: " + b"x" * 8192 + b"\r\nDate"),
    "many fields": RESPONSE.replace(b"Date", b"A: b\r\n" * 100 + b"Date"),
}


def _each(plain: Plain, data: bytes, *, cuts: bool) -> list[bool]:
    taken = []
    for method in (b"GET", b"HEAD"):
        for last in (False, True):
            taken.append(check_response(plain, data, method, last=last))
        for cut in places(data) if cuts else ():
            check_response(plain, data, method, cut=cut)
    return taken


@pytest.mark.parametrize("name", PLAIN_RESPONSES)
def test_plain_responses_are_passed_on(plain: Plain, name: str) -> None:
    assert all(_each(plain, PLAIN_RESPONSES[name], cuts=True))


@pytest.mark.parametrize("name", CHUNKED_RESPONSES)
def test_whole_chunked_responses_are_passed_on(plain: Plain, name: str) -> None:
    data = CHUNKED + CHUNKED_RESPONSES[name]
    assert check_response(plain, data)
    assert check_response(plain, data, last=True)
    assert check_response(plain, data, b"HEAD")
    for cut in places(data):
        check_response(plain, data, cut=cut)


@pytest.mark.parametrize("name", ODD_CHUNKS)
def test_odd_chunks_of_responses_are_given_back(plain: Plain, name: str) -> None:
    data = CHUNKED + ODD_CHUNKS[name]
    assert not check_response(plain, data)
    assert not check_response(plain, data.replace(b"chunked", b"gzip, chunked"))
    for last in (False, True):
        for cut in range(len(CHUNKED), len(data)):
            assert not check_response(plain, data, last=last, cut=cut)


@pytest.mark.parametrize("name", ODD_CHUNKS)
def test_odd_chunks_of_requests_are_given_back(plain: Plain, name: str) -> None:
    data = CHUNKS + ODD_CHUNKS[name]
    for ahead in (b"", ASK, CHUNKS + b"0\r\n\r\n"):
        assert check_requests(plain, ahead + data) >= bool(ahead)
        for cut in range(len(data)):
            check_requests(plain, ahead + data, [len(ahead) + cut])


@pytest.mark.parametrize("name", OTHER_RESPONSES)
def test_other_responses_come_back(plain: Plain, name: str) -> None:
    data = OTHER_RESPONSES[name]
    to_get, to_get_last, *_ = _each(plain, data, cuts=True)
    assert not to_get
    assert not to_get_last


# ---- of every kind -----------------------------------------------------------------------

names = st.sampled_from(
    b"""Host host Connection CLOSE close Keep-Alive Proxy-Connection Via TE Trailer Upgrade
    Content-Length Transfer-Encoding Expect Proxy-Authorization Proxy-Authenticate Date date
    Content-Type Accept X A Forwarded Max-Forwards Cache-Control Cookie Authorization
    WWW-Authenticate Proxy-Support Persistent-Auth Proxy-Status""".split()
) | st.from_regex(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,40}", fullmatch=True)

values = st.sampled_from(
    (
        *(b"", b"o", b"O", b"o:80", b"o?x", b"p", b"close", b"Close", b"keep-alive", b"close, x"),
        *(b"0", b"2", b"02", b"1 2", b"9" * 18, b"9" * 19, b"chunked", b"1.1 sp", b"1.0 SP", b"x"),
        *(b"Basic x", b"basic", b"NTLM x", b"Token  x", b"Basic\tx", b"Bearer x, NTLM y"),
        *(b"1.1 other (sp)", b"trailers", b"upgrade", b"\xff", b"a\tb", b"\x7f", b"\0", b"a\rb"),
    )
) | st.binary(max_size=20)

fields = st.lists(
    st.tuples(
        names,
        st.sampled_from([b": ", b":", b" : ", b":\t ", b":  "]),
        values,
        st.sampled_from([b"\r\n"] * 12 + [b" \t\r\n", b"\n", b"\r\n ", b"\r", b""]),
    ).map(b"".join),
    max_size=6,
).map(b"".join)

authorities = st.sampled_from(
    (b"o", b"o", b"o", b"O:80", b"o:8080", b"[::1]", b"[::01]:81", b"o?x", b"u@o", b"", b"o:0")
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    authority = draw(authorities)
    method = draw(st.sampled_from((b"GET", b"GET", b"HEAD", b"CONNECT", b"get", b"POST", b"GETX")))
    path = draw(st.sampled_from((b"/", b"/a?b", b"", b"?q", b"/#f", b"/\xff", b"/a b", b"*")))
    form = draw(st.integers(0, 5))
    target = authority if method == b"CONNECT" or form == 5 else path
    if method != b"CONNECT" and form < 3:
        target = b"http://" + authority + path
    version = draw(st.sampled_from([b"HTTP/1.1"] * 8 + [b"HTTP/1.0", b"HTTP/1.1 ", b"http/1.1"]))
    host = draw(st.sampled_from([b"Host: " + authority + b"\r\n"] * 6 + [b"", b"hOST:o\r\n"]))
    end = draw(st.sampled_from([b"\r\n"] * 8 + [b"\n", b"\n\r\n", b"\r\n\r\n"]))
    line = b" ".join((method, target, version)) + b"\r\n"
    return line + draw(fields) + host + draw(fields) + end


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    status = draw(st.sampled_from((b"200", b"204", b"304", b"404", b"100", b"101", b"426", b"999")))
    reason = draw(st.sampled_from((b" OK", b" ", b"", b" \xff", b" a\tb", b" \0")))
    version = draw(st.sampled_from([b"HTTP/1.1"] * 8 + [b"HTTP/1.0", b"HTTP/1.2", b"http/1.1"]))
    date = draw(st.sampled_from((b"Date: d\r\n", b"Date: d\r\n", b"date:\r\n", b"")))
    length = draw(st.sampled_from((b"Content-Length: 2\r\n",) * 4 + (b"Content-Length:0\r\n", b"")))
    end = draw(st.sampled_from([b"\r\n"] * 8 + [b"\n", b"\n\r\n"]))
    body = draw(st.sampled_from((b"ok", b"", b"o", b"okx", b"2\r\nok\r\n0\r\n\r\n", OK)))
    line = version + b" " + status + reason + b"\r\n"
    return line + draw(fields) + date + length + draw(fields) + end + body


@settings(max_examples=300, deadline=None)
@given(data=st.lists(requests(), min_size=1, max_size=3).map(b"".join), at=st.integers(0, 400))
def test_any_request(data: bytes, at: int) -> None:
    for plain in _shared():
        check_requests(plain, data, [at] if at < len(data) else [])


@settings(max_examples=300, deadline=None)
@given(data=responses(), cut=st.integers(0, 400), last=st.booleans())
def test_any_response(data: bytes, cut: int, last: bool) -> None:
    for plain in _shared():
        for method in (b"GET", b"HEAD"):
            check_response(plain, data, method, last=last, cut=cut)


_SHARED: list[Plain] = []


def _shared() -> list[Plain]:
    """One with and one without a name in Via, for the examples of all tests."""
    if not _SHARED:
        native_relay()
        _SHARED.extend((Plain(), Plain(b"")))
    return _SHARED


@pytest.fixture(scope="module", autouse=True)
def _close_shared() -> Iterator[None]:
    before = open_fds()
    yield
    for plain in _SHARED:
        plain.close()
    _SHARED.clear()
    assert open_fds() == before
