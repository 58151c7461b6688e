"""Heads: found in a buffer at any split, taken apart, refused where ambiguous."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracle import compare

from spliceproxy.http1.chain import trace_body
from spliceproxy.http1.framing import Body
from spliceproxy.http1.head import (
    MAX_FIELDS,
    MAX_HEAD,
    MAX_LINE,
    HeadError,
    RequestHead,
    find_head_end,
    parse_request,
    parse_response,
    skip_empty_lines,
)
from spliceproxy.http1.lenient import skip_lines
from spliceproxy.http1.rewrite import origin_request

HOST = b"Host: h\r\n"


def request(line: bytes, fields: bytes = HOST) -> RequestHead:
    return parse_request(line + b"\r\n" + fields + b"\r\n")


def refused(head: bytes) -> HeadError:
    with pytest.raises(HeadError) as caught:
        parse_request(head)
    assert caught.value.detail.isascii()
    assert caught.value.detail.isprintable()
    return caught.value


def feed(data: bytes, step: int) -> int:
    """The end of the head in data that arrives ``step`` bytes at a time."""
    buffer = bytearray()
    end = -1
    while end < 0 and len(buffer) < len(data):
        start = len(buffer)
        buffer += data[start : start + step]
        end = find_head_end(buffer, start)
    return end


# --- find_head_end -------------------------------------------------------------------

HEADS = [
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"POST http://h/ HTTP/1.1\r\nHost: h\r\nX: \t a\xffb \r\nEmpty:\r\n\r\n",
    b"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n\r\n",
]
BEHIND = [b"", b"\n", b"\r\n\r\n", b"\x16\x03\x01\x00\x00tls", b"GET / HTTP/1.1\n\n"]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("behind", BEHIND)
def test_the_end_is_found_at_every_split(head: bytes, behind: bytes) -> None:
    data = head + behind
    for split in range(len(data) + 1):
        buffer = bytearray(data[:split])
        end = find_head_end(buffer, 0)
        assert end == (len(head) if split >= len(head) else -1), split
        if end < 0:
            buffer += data[split:]
            assert find_head_end(buffer, split) == len(head), split


@pytest.mark.parametrize("head", HEADS)
def test_the_end_is_found_byte_by_byte(head: bytes) -> None:
    buffer = bytearray()
    for position, byte in enumerate(head):
        assert find_head_end(buffer, max(position - 1, 0)) == -1
        buffer.append(byte)
    assert find_head_end(buffer, len(head) - 1) == len(head)


# (what arrives, how much of it until it cannot become valid, status)
HOPELESS = [
    (b"GET / HTTP/1.1\n", 15, 400),  # RFC 9112 2.2: bare LF
    (b"GET / HTTP/1.1\r\nHost: h\n", 24, 400),
    (b"GET / HTTP/1.1\r\nHost: h\r\n\n", 26, 400),
    (b"GET / HTTP/1.1\rH", 16, 400),  # RFC 9112 2.2: bare CR
    (b"GET / HTTP/1.1\r\r\n", 16, 400),
    (b"GET / HTTP/1.1\r\nA: \0", 20, 400),  # RFC 9110 5.5: NUL
    (b"GET / HTTP/1.1\r\nA: \x7f", 20, 400),
    (b"GET / HTTP/1.1\r\nA: \x1b", 20, 400),
    (b"\x16\x03\x01\x02\x00\x01", 1, 400),  # a TLS ClientHello
    (b"PRI * HTTP/2.0\r\n", 16, 400),  # RFC 9113 3.4
    (b"\r\nGET / HTTP/1.1\r\n\r\n", 2, 400),
    (b"\x05\x01\x00", 1, 400),  # SOCKS5
]


@pytest.mark.parametrize(("data", "until", "status"), HOPELESS)
def test_a_hopeless_head_is_refused_at_once(data: bytes, until: int, status: int) -> None:
    for first in range(until + 1):
        buffer = bytearray(data[:first])
        if first == until:
            with pytest.raises(HeadError) as caught:
                find_head_end(buffer, 0)
            assert caught.value.status == status
            continue
        assert find_head_end(buffer, 0) == -1, first
        buffer += data[first:until]
        with pytest.raises(HeadError):
            find_head_end(buffer, first)
    with pytest.raises(HeadError):  # an end further on does not save it
        find_head_end(bytearray(data + b"\r\n\r\n"), 0)


def test_socks_behind_a_request() -> None:
    for data in (b"\x05\x02\x00\x01", b"\x04\x01\x00\x50"):
        with pytest.raises(HeadError, match="SOCKS was received behind something else"):
            find_head_end(bytearray(data))


def test_other_protocols_are_told_what_this_port_is() -> None:
    for data in (
        b"\x16\x03\x01\x02\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):
        with pytest.raises(HeadError, match="this is a plain HTTP proxy port: "):
            find_head_end(bytearray(data))
    with pytest.raises(HeadError, match="the origin speaks TLS") as caught:
        find_head_end(bytearray(b"\x15\x03\x01\x00\x02\x02\x46"), response=True)
    assert (caught.value.status, caught.value.error) == (502, "http_protocol_error")


@pytest.mark.parametrize("step", [1000, 1, 16 * 1024 + 1, 70_000])
@pytest.mark.parametrize("complete", [False, True])
def test_a_long_first_line_is_414(step: int, complete: bool) -> None:
    line = b"GET /" + b"a" * (MAX_LINE - 14) + b" HTTP/1.1"
    assert len(line) == MAX_LINE
    tail = b"\r\n" + HOST + b"\r\n" if complete else b""
    assert find_head_end(bytearray(line + tail)) == (len(line + tail) if complete else -1)
    if complete:
        parse_request(line + tail)
    data = b"GET /a" + line[5:] + (tail or b"aa")
    with pytest.raises(HeadError) as caught:
        feed(data, step)
    assert (caught.value.status, caught.value.error) == (414, "http_request_error")


@pytest.mark.parametrize("step", [1000, 7, 70_000])
def test_a_large_head_is_431(step: int) -> None:
    line = b"GET / HTTP/1.1\r\n"
    field_line = b"X: " + b"a" * 995 + b"\r\n"
    head = line + field_line * 65
    fitting = head + b"Y: " + b"b" * (MAX_HEAD - len(head) - 7) + b"\r\n\r\n"
    assert len(fitting) == MAX_HEAD
    assert find_head_end(bytearray(fitting)) == MAX_HEAD
    too_large = fitting.replace(b"Y: ", b"Y:  ")
    with pytest.raises(HeadError) as caught:
        feed(too_large, step)
    assert caught.value.status == 431
    with pytest.raises(HeadError):
        find_head_end(bytearray(too_large[:MAX_HEAD]))  # one byte is missing: hopeless
    assert find_head_end(bytearray(fitting[:-1])) == -1
    with pytest.raises(HeadError) as caught:
        find_head_end(bytearray(too_large), response=True)
    assert (caught.value.status, caught.value.error) == (502, "http_response_header_size")


class CountingBuffer(bytearray):
    """Counts the bytes that are searched or copied."""

    work = 0

    def find(self, sub: bytes, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]
        found = super().find(sub, start, end)
        stop = found + len(sub) if found >= 0 else min(len(self), end or len(self))
        CountingBuffer.work += max(stop - start, 0)
        return found

    def __getitem__(self, key: object) -> object:  # type: ignore[override]
        got = super().__getitem__(key)  # type: ignore[index]
        CountingBuffer.work += len(got) if isinstance(got, bytearray) else 1
        return got


@pytest.mark.parametrize("shape", ["long line", "many fields"])
def test_the_search_is_linear_however_the_bytes_arrive(shape: str) -> None:
    if shape == "long line":
        data = b"GET /" + b"a" * (MAX_LINE - 5)
    else:
        data = b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 8000
    buffer = CountingBuffer()
    CountingBuffer.work = 0
    for position in range(len(data)):
        buffer.append(data[position])
        assert find_head_end(buffer, position) == -1
    assert len(data) < CountingBuffer.work < 12 * len(data)


@pytest.mark.timeout(20)  # quadratic work would take hours
@pytest.mark.parametrize(
    "line",
    [
        b"A:" + b" " * 500_000 + b"x" * 500_000 + b"\0",
        b"A:" + b" \t" * 500_000 + b"\0",
        b"a" * 1_000_000,
        b"a:" * 500_000 + b"\0",
        b"a : " * 250_000,
    ],
)
def test_the_parser_is_linear_on_hostile_lines(line: bytes) -> None:
    assert refused(b"GET / HTTP/1.1\r\n" + line + b"\r\n\r\n").status == 400
    assert refused(b"GET " + line + b" HTTP/1.1\r\n" + HOST + b"\r\n").status == 400


def test_empty_lines_before_a_request_are_skipped() -> None:  # RFC 9112 2.2
    for skipped, left in [
        (b"", b""),
        (b"\r\n", b""),
        (b"\r\n\r\n", b"GET / HTTP/1.1\r\n"),
        (b"", b"\r"),
        (b"", b"\n"),
        (b"\r\n" * 100, b"GET / HTTP/1.1\r\n"),
        (b"\r\n" * 5, b"\r"),
    ]:
        buffer = bytearray(skipped + left)
        skip_empty_lines(buffer)
        assert buffer == left


# --- parse_request: what is accepted -------------------------------------------------

# (request-line, form, scheme, host, port, path)
TARGETS = [
    # RFC 9112 3.2.1 origin-form
    (b"GET / HTTP/1.1", "origin", "", "h", 80, "/"),
    (b"GET /a?b=c HTTP/1.1", "origin", "", "h", 80, "/a?b=c"),
    (b"GET //x/y HTTP/1.1", "origin", "", "h", 80, "//x/y"),
    (b"GET /http://o/ HTTP/1.1", "origin", "", "h", 80, "/http://o/"),
    (b'GET /{}|^`"<>[]\\ HTTP/1.1', "origin", "", "h", 80, '/{}|^`"<>[]\\'),
    # RFC 9112 3.2.2 absolute-form
    (b"GET http://o/ HTTP/1.1", "absolute", "http", "o", 80, "/"),
    (b"GET http://o HTTP/1.1", "absolute", "http", "o", 80, "/"),
    (b"GET http://o?q HTTP/1.1", "absolute", "http", "o", 80, "/?q"),
    (b"GET http://o/?q?r/s HTTP/1.1", "absolute", "http", "o", 80, "/?q?r/s"),
    (b"GET HTTP://O.Example:8080/A HTTP/1.1", "absolute", "http", "o.example", 8080, "/A"),
    (b"GET http://o:80/ HTTP/1.1", "absolute", "http", "o", 80, "/"),
    (b"GET http://o:/ HTTP/1.1", "absolute", "http", "o", 80, "/"),  # RFC 3986 3.2.3
    (b"GET http://o:00080/ HTTP/1.1", "absolute", "http", "o", 80, "/"),
    (b"GET http://o:65535/ HTTP/1.1", "absolute", "http", "o", 65535, "/"),
    (b"GET https://o/ HTTP/1.1", "absolute", "https", "o", 443, "/"),
    (b"GET ftp://o/f HTTP/1.1", "absolute", "ftp", "o", 0, "/f"),
    (b"GET http://[::1]/ HTTP/1.1", "absolute", "http", "::1", 80, "/"),
    (b"GET http://[2001:DB8:0::1]:81/ HTTP/1.1", "absolute", "http", "2001:db8::1", 81, "/"),
    (b"GET http://127.0.0.1:8/ HTTP/1.1", "absolute", "http", "127.0.0.1", 8, "/"),
    (b"GET http://a_b~c.!$&'()*+,;=/ HTTP/1.1", "absolute", "http", "a_b~c.!$&'()*+,;=", 80, "/"),
    (b"GET http://o/@:x HTTP/1.1", "absolute", "http", "o", 80, "/@:x"),
    # RFC 9112 3.2.3 authority-form
    (b"CONNECT o:443 HTTP/1.1", "authority", "", "o", 443, ""),
    (b"CONNECT O.example.:1 HTTP/1.1", "authority", "", "o.example.", 1, ""),
    (b"CONNECT [fe80::1]:22 HTTP/1.1", "authority", "", "fe80::1", 22, ""),
    # RFC 9112 3.2.4 asterisk-form
    (b"OPTIONS * HTTP/1.1", "asterisk", "", "h", 80, "*"),
    (b"OPTIONS http://o HTTP/1.1", "absolute", "http", "o", 80, "*"),
    (b"OPTIONS http://o:81 HTTP/1.1", "absolute", "http", "o", 81, "*"),
    (b"OPTIONS http://o/ HTTP/1.1", "absolute", "http", "o", 80, "/"),
    (b"OPTIONS http://o?q HTTP/1.1", "absolute", "http", "o", 80, "/?q"),
    # RFC 9110 9.1: any token is a method, and case matters
    (b"M-SEARCH / HTTP/1.1", "origin", "", "h", 80, "/"),
    (b"!#$%&'*+-.^_`|~ / HTTP/1.1", "origin", "", "h", 80, "/"),
]


@pytest.mark.parametrize(("line", "form", "scheme", "host", "port", "path"), TARGETS)
def test_targets(line: bytes, form: str, scheme: str, host: str, port: int, path: str) -> None:
    head = request(line)
    method, target, _ = line.decode().split(" ")
    assert (head.method, head.target, head.minor) == (method, target, 1)
    assert (head.form, head.scheme, head.host, head.port, head.path) == (
        form,
        scheme,
        host,
        port,
        path,
    )


def test_fields_keep_order_and_spelling_without_outer_whitespace() -> None:  # RFC 9112 5.1
    head = request(
        b"GET / HTTP/1.1",
        b"hOST: h\r\nX-A:1\r\nx-a: \t2 3\t \r\nB:\r\nC: \t \r\nD::\xe4: \r\nE: a \t b\r\n",
    )
    assert head.fields == [
        (b"hOST", b"h"),
        (b"X-A", b"1"),
        (b"x-a", b"2 3"),
        (b"B", b""),
        (b"C", b""),
        (b"D", b":\xe4:"),
        (b"E", b"a \t b"),
    ]
    assert head.values(b"x-a") == [b"1", b"2 3"]
    assert head.get(b"x-a") == b"1"
    assert head.values(b"none") == []
    assert head.get(b"none") is None


def test_the_number_of_fields_is_limited() -> None:
    request(b"GET / HTTP/1.1", HOST + b"a: b\r\n" * (MAX_FIELDS - 1))
    many = b"GET / HTTP/1.1\r\n" + HOST + b"a: b\r\n" * MAX_FIELDS + b"\r\n"
    assert refused(many).status == 431
    with pytest.raises(HeadError) as caught:
        parse_response(many.replace(b"GET / HTTP/1.1", b"HTTP/1.1 200 OK"))
    assert (caught.value.status, caught.value.error) == (502, "http_response_header_size")


# (request-line, fields, host, port): RFC 9112 3.2, 3.3
HOSTS = [
    (b"GET / HTTP/1.1", b"Host: Example.COM:81\r\n", "example.com", 81),
    (b"GET / HTTP/1.1", b"Host: [::1]\r\n", "::1", 80),
    (b"GET / HTTP/1.1", b"Host: [::1]:81\r\n", "::1", 81),
    (b"GET / HTTP/1.1", b"Host: h:\r\n", "h", 80),
    (b"GET / HTTP/1.1", b"Host:\r\n", "", 0),
    (b"GET / HTTP/1.0", b"", "", 0),
    (b"GET / HTTP/1.0", b"Host: h:1\r\n", "h", 1),
    (b"OPTIONS * HTTP/1.1", b"Host: h:1\r\n", "h", 1),
    # the target wins (RFC 9112 3.2.2)
    (b"GET http://o/ HTTP/1.1", b"Host: other:99\r\n", "o", 80),
    (b"GET http://o/ HTTP/1.1", b"Host:\r\n", "o", 80),
    (b"GET http://o/ HTTP/1.0", b"", "o", 80),
    (b"CONNECT o:443 HTTP/1.1", b"Host: o\r\n", "o", 443),
    (b"CONNECT o:443 HTTP/1.1", b"Host: other:1\r\n", "o", 443),
    (b"CONNECT o:443 HTTP/1.0", b"", "o", 443),
    (b"CONNECT o:443 HTTP/1.1", b"", "o", 443),  # as lftp and links send it
]


@pytest.mark.parametrize(("line", "fields", "host", "port"), HOSTS)
def test_hosts(line: bytes, fields: bytes, host: str, port: int) -> None:
    head = request(line, fields)
    assert (head.host, head.port) == (host, port)


# --- parse_request: what is refused --------------------------------------------------

BAD_LINES = [
    # RFC 9112 3: METHOD SP TARGET SP VERSION, and nothing else
    (b"", "request-line is"),
    (b"GET", "request-line is"),
    (b"GET /", "HTTP/0.9"),
    (b"GET / ", "request-line is"),
    (b" GET / HTTP/1.1", "request-line is"),
    (b"GET  / HTTP/1.1", "request-line is"),
    (b"GET /  HTTP/1.1", "request-line is"),
    (b"GET / HTTP/1.1 ", "request-line is"),
    (b"GET\t/ HTTP/1.1", "HTTP/0.9"),
    (b"GET /a b HTTP/1.1", "request-line is"),
    (b"GET / HTTP/1.1 HTTP/1.1", "request-line is"),
    (b"G:T / HTTP/1.1", "bad method"),
    (b'"GET" / HTTP/1.1', "bad method"),
    (b"G\xc4T / HTTP/1.1", "bad method"),
    # RFC 9112 2.3: HTTP-version is case-sensitive, one digit each
    (b"GET / http/1.1", "bad version"),
    (b"GET / HTTP/1", "bad version"),
    (b"GET / HTTP/1.10", "bad version"),
    (b"GET / HTTP/01.1", "bad version"),
    (b"GET / HTTP/1,1", "bad version"),
    (b"GET / HTTP/-1.1", "bad version"),
    (b"GET / HTTP/1.x", "bad version"),
    (b"GET / HTTPS/1.1", "bad version"),
    # RFC 9112 3.2, RFC 3986: targets
    (b"GET /\x7f HTTP/1.1", "visible ASCII"),
    (b"GET http://\xc3\xa4/ HTTP/1.1", "bad host"),
    (b"GET http://o:\xc2\xb2/ HTTP/1.1", "port"),
    (b"GET \xc3\xa4 HTTP/1.1", "not a URL"),
    (b"GET htt\xfep://o/ HTTP/1.1", "not a URL"),
    (b"CONNECT \xc3\xa4:443 HTTP/1.1", "bad host"),
    (b"CONNECT o:443\xa0 HTTP/1.1", "port"),
    (b"GET /#f HTTP/1.1", "fragment"),
    (b"GET http://o/#f HTTP/1.1", "fragment"),
    (b"GET http://o#f HTTP/1.1", "fragment"),
    (b"GET http://o?q#f HTTP/1.1", "fragment"),
    (b"GET o HTTP/1.1", "not a URL"),
    (b"GET o:80 HTTP/1.1", "not a URL"),
    (b"GET ?q HTTP/1.1", "not a URL"),
    (b"GET http:/o/ HTTP/1.1", "not a URL"),
    (b"GET http:o HTTP/1.1", "not a URL"),
    (b"GET 1http://o/ HTTP/1.1", "not a URL"),
    (b"GET ht_tp://o/ HTTP/1.1", "not a URL"),
    (b"GET ://o/ HTTP/1.1", "not a URL"),
    (b"GET \\\\o\\ HTTP/1.1", "not a URL"),
    (b"GET * HTTP/1.1", "OPTIONS only"),
    (b"OPTIONS ** HTTP/1.1", "not a URL"),
    (b"options * HTTP/1.1", "OPTIONS only"),
    (b"GET http:// HTTP/1.1", "no host"),
    (b"GET http:///x HTTP/1.1", "no host"),
    (b"GET http://:80/ HTTP/1.1", "no host"),
    (b"GET http://u@o/ HTTP/1.1", "userinfo"),  # RFC 9110 4.2.4
    (b"GET http://u:p@o/ HTTP/1.1", "userinfo"),
    (b"GET http://u:p@o:80/ HTTP/1.1", "userinfo"),
    (b"GET http://@o/ HTTP/1.1", "userinfo"),
    (b"GET http://o%41/ HTTP/1.1", "percent"),
    (b"GET http://o:0/ HTTP/1.1", "port"),
    (b"GET http://o:65536/ HTTP/1.1", "port"),
    (b"GET http://o:000080/ HTTP/1.1", "port"),
    (b"GET http://o:+80/ HTTP/1.1", "port"),
    (b"GET http://o:-1/ HTTP/1.1", "port"),
    (b"GET http://o:8a/ HTTP/1.1", "port"),
    (b"GET http://o:80:80/ HTTP/1.1", "bad host"),
    (b"GET http://::1/ HTTP/1.1", "bad host"),
    (b"GET http://[::1/ HTTP/1.1", "bad host"),
    (b"GET http://::1]/ HTTP/1.1", "bad port"),
    (b"GET http://[]/ HTTP/1.1", "bad host"),
    (b"GET http://[::1]x/ HTTP/1.1", "bad host"),
    (b"GET http://[::1]x:80/ HTTP/1.1", "bad host"),
    (b"GET http://[::g]/ HTTP/1.1", "bad host"),
    (b"GET http://[1::2::3]/ HTTP/1.1", "bad IPv6"),
    (b"GET http://[127.0.0.1]/ HTTP/1.1", "bad IPv6"),
    (b"GET http://[::1.2.3]/ HTTP/1.1", "bad IPv6"),
    (b"GET http://[fe80::1%25eth0]/ HTTP/1.1", "percent"),  # RFC 6874
    (b"GET http://[fe80::1%eth0]:1/ HTTP/1.1", "percent"),
    (b"GET http://[v1.x]/ HTTP/1.1", "bad host"),
    (b'GET http://o"/ HTTP/1.1', "bad host"),
    (b"GET http://o\\x/ HTTP/1.1", "bad host"),
    (b"GET http://o<x>/ HTTP/1.1", "bad host"),
    (b"GET http://" + b"o" * 256 + b"/ HTTP/1.1", "longer than 255"),
    # RFC 9112 3.2.3, RFC 9110 9.3.6: CONNECT takes host and port only
    (b"CONNECT o HTTP/1.1", "without a port"),
    (b"CONNECT o: HTTP/1.1", "without a port"),
    (b"CONNECT [::1] HTTP/1.1", "without a port"),
    (b"CONNECT :443 HTTP/1.1", "no host"),
    (b"CONNECT o:0 HTTP/1.1", "port"),
    (b"CONNECT o:65536 HTTP/1.1", "port"),
    (b"CONNECT o:443/ HTTP/1.1", "port"),
    (b"CONNECT o:443/x HTTP/1.1", "port"),
    (b"CONNECT / HTTP/1.1", "HOST:PORT"),
    (b"CONNECT * HTTP/1.1", "HOST:PORT|port"),
    (b"CONNECT http://o:443/ HTTP/1.1", "HOST:PORT"),
    (b"CONNECT u@o:443 HTTP/1.1", "userinfo"),
    (b"CONNECT ::1:443 HTTP/1.1", "bad host"),
    (b"CONNECT o:443,p:443 HTTP/1.1", "bad host"),
]


@pytest.mark.parametrize(("line", "detail"), BAD_LINES)
def test_bad_request_lines(line: bytes, detail: str) -> None:
    for fields in (HOST, HOST + b"Accept: */*\r\n"):
        error = refused(line + b"\r\n" + fields + b"\r\n")
        assert (error.status, error.error) == (400, "http_request_error")
        assert any(part in error.detail for part in detail.split("|")), error.detail


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/1.2", b"HTTP/0.9", b"HTTP/9.9"])
def test_other_versions_are_505(version: bytes) -> None:  # RFC 9110 15.6.6
    assert refused(b"GET / " + version + b"\r\n" + HOST + b"\r\n").status == 505


BAD_FIELDS = [
    # RFC 9112 5.1, 5.2
    (b"A : b\r\n", "space before the colon"),
    (b"A\t: b\r\n", "space before the colon"),
    (b"Transfer-Encoding: chunked\t\r\n", "a tab behind a transfer coding"),
    (b"transfer-encoding:\tchunked\t \r\n", "a tab behind a transfer coding"),
    (b"A: b\r\n c\r\n", "obs-fold"),
    (b"A: b\r\n\tc: d\r\n", "obs-fold"),
    (b" A: b\r\n", "obs-fold"),
    (b" \r\n", "obs-fold"),
    (b": b\r\n", "without a name"),
    (b"A\r\n", "without a colon"),
    (b"A b: c\r\n", "bad field name"),
    (b"A\xc4: b\r\n", "bad field name"),
    (b"A(b): c\r\n", "bad field name"),
    (b'"A": b\r\n', "bad field name"),
    (b"A/b: c\r\n", "bad field name"),
    (b"A{: c\r\n", "bad field name"),
    (b"\r\nA: b\r\n", "empty line"),
    # RFC 9112 2.2, RFC 9110 5.5
    (b"A: b\nC: d\r\n", "bare LF"),
    (b"A: b\n\r\n", "bare LF"),
    (b"\nA: b\r\n", "bare LF"),
    (b"A: b\rC: d\r\n", "CR without LF"),
    (b"A: b\r\r\n", "CR without LF"),
    (b"A: \0\r\n", "control"),
    (b"A\0: b\r\n", "control"),
    (b"A: \x0b\r\n", "control"),
    (b"A: b\x7f\r\n", "control"),
    # RFC 9112 3.2: Host
    (b"Host: h\r\n", "more than one Host"),
    (b"hOsT: other\r\n", "more than one Host"),
]


@pytest.mark.parametrize(("line", "detail"), BAD_FIELDS)
@pytest.mark.parametrize("first", [False, True])
def test_bad_fields(line: bytes, detail: str, first: bool) -> None:
    fields = line + HOST if first else HOST + line
    for head in (
        b"GET / HTTP/1.1\r\n" + fields + b"\r\n",
        b"GET http://o/ HTTP/1.0\r\n" + fields + b"Z: z\r\n\r\n",
    ):
        error = refused(head)
        assert error.status == 400
        assert detail in error.detail


@pytest.mark.parametrize(
    "value",
    [
        b"h h",
        b"h, h",
        b"u@h",
        b"h/",
        b"http://h",
        b"h:0",
        b"h:65536",
        b"h:x",
        b":80",
        b"::1",
        b"[::1",
        b"h%41",
        b"h\xe4",
        b"[fe80::1%1]",
        b"h?x",
        b"h#x",
        b"*:80:",
    ],
)
@pytest.mark.parametrize(
    "line", [b"GET / HTTP/1.1", b"GET http://o/ HTTP/1.0", b"CONNECT o:1 HTTP/1.1"]
)
def test_a_bad_host_field_is_refused_whatever_the_target(line: bytes, value: bytes) -> None:
    error = refused(line + b"\r\nHost: " + value + b"\r\n\r\n")
    assert error.status == 400
    assert "Host" in error.detail


@pytest.mark.parametrize(
    "line", [b"GET / HTTP/1.1", b"GET http://o/ HTTP/1.1", b"OPTIONS * HTTP/1.1"]
)
def test_http_1_1_needs_a_host(line: bytes) -> None:  # RFC 9112 3.2
    assert "without a Host" in refused(line + b"\r\nA: b\r\n\r\n").detail


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_head_without_its_end_is_refused(cut: int) -> None:
    refused(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"[:-cut])
    refused(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" + b"\r\n" * cut)
    refused(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" + b"A: b"[:cut])


def test_messages_quote_the_request_escaped_and_cut() -> None:
    error = refused(b"GET http\x80://" + b"x" * 500 + b"/ HTTP/1.1\r\n\r\n")
    assert "\\x80" in error.detail
    assert len(error.detail) < 200


# --- parse_response ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "minor", "status", "reason"),
    [
        (b"HTTP/1.1 200 OK", 1, 200, b"OK"),
        (b"HTTP/1.0 404 Not \xe4 Found", 0, 404, b"Not \xe4 Found"),
        (b"HTTP/1.1 200 ", 1, 200, b""),  # RFC 9112 4: the reason may be empty
        (b"HTTP/1.1 200", 1, 200, b""),
        (b"HTTP/1.1 100 Continue", 1, 100, b"Continue"),
        (b"HTTP/1.1 999 Denied", 1, 999, b"Denied"),
        (b"HTTP/1.1 200  two  spaces\t", 1, 200, b" two  spaces\t"),
    ],
)
def test_status_lines(line: bytes, minor: int, status: int, reason: bytes) -> None:
    head = parse_response(line + b"\r\nA: b\r\n\r\n")
    assert (head.minor, head.status, head.reason) == (minor, status, reason)
    assert head.fields == [(b"A", b"b")]
    assert head.get(b"a") == b"b"
    assert parse_response(line + b"\r\n\r\n").fields == []


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"HTTP/1.1",
        b"HTTP/1.1 ",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/1.1 000 OK",
        b"HTTP/1.1 +20 OK",
        b"HTTP/1.1 2x0 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1\t200 OK",
        b"HTTP/1.1 200\tOK",
        b"HTTP/1.1 200OK",
        b" HTTP/1.1 200 OK",
        b"http/1.1 200 OK",
        b"HTTP/2.0 200 OK",
        b"HTTP/1.10 200 OK",
        b"HTTP/2 200",
        b"ICY 200 OK",
        b"HTTP/1.1 200 O\0K",
        b"HTTP/1.1 200 O\rK",
        b"HTTP/1.1\x01200 OK",
        b"HTTP/1.1 200\x01OK",
        b"HTTP/1.1 200 OK\n",
        b"<html>",
    ],
)
def test_bad_status_lines(line: bytes) -> None:
    with pytest.raises(HeadError) as caught:
        parse_response(line + b"\r\nA: b\r\n\r\n")
    assert (caught.value.status, caught.value.error) == (502, "http_protocol_error")


@pytest.mark.parametrize("minor", range(10))
def test_a_higher_minor_version_is_read_as_1_1(minor: int) -> None:  # RFC 9110 2.5
    head = parse_response(b"HTTP/1.%d 200 OK\r\n\r\n" % minor)
    assert (head.minor, head.cleaned) == (min(minor, 1), False)


def answer(fields: bytes, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return line + b"\r\n" + fields + b"Z: z\r\n\r\n"


BAD_FIELDS_OF_A_RESPONSE = [
    (line, detail)
    for line, detail in BAD_FIELDS
    if detail
    in (
        "a tab behind a transfer coding",
        "without a name",
        "without a colon",
        "bad field name",
        "CR without LF",
    )
] + [
    (b" A: b\r\n", "a folded line before the first field"),
    (b" \r\n", "a folded line before the first field"),
    (b"A: b\r\n \t\r\n", "a line of nothing but blanks"),
    (b"A: b\r\n \x01\r\n", "a line of nothing but blanks"),
    (b"Content-Length: 1\r\n 2\r\n", "a folded Content-Length"),
    (b"Content-Length:\n 2\n", "a folded Content-Length"),
    (b"transfer-encoding:\r\n\tchunked\r\n", "a folded Transfer-Encoding"),
    (b"Transfer-Encoding: \x0bchunked\r\n", "control character"),
    (b"Content-Length : 1\x7f\r\n", "control character"),
    (b"A: \0\r\n", "control character"),
    (b"A\0: b\r\n", "control character"),
    (b"A\x01: b\r\n", "control character"),
    (b"A\x01 : b\r\n", "control character"),
    (b"\x01A: b\r\n", "control character"),
    (b"A: b\rC: d\n", "CR without LF"),
    (b"A: b\n\rC: d\n", "CR without LF"),
]


@pytest.mark.parametrize(("line", "detail"), BAD_FIELDS_OF_A_RESPONSE)
def test_bad_fields_of_a_response(line: bytes, detail: str) -> None:
    buffer = bytearray(answer(line))
    with pytest.raises(HeadError, match=detail) as caught:
        parse_response(bytes(buffer[: find_head_end(buffer, response=True)]))
    assert caught.value.status == 502
    assert caught.value.detail.isascii()


# (on the wire, as it is read)
CLEANED: list[tuple[bytes, list[tuple[bytes, bytes]]]] = [
    # RFC 9112 2.2: LF alone ends a line
    (b"A: b\n", [(b"A", b"b")]),
    (b"A: b\r\nB: c\nC:\n", [(b"A", b"b"), (b"B", b"c"), (b"C", b"")]),
    (b"Content-Length: 0\n", [(b"Content-Length", b"0")]),
    # RFC 9112 5.1: no whitespace before the colon
    (b"A : b\r\n", [(b"A", b"b")]),
    (b"A \t:b : c\r\n", [(b"A", b"b : c")]),
    (b"Content-Length : 0\r\n", [(b"Content-Length", b"0")]),
    # RFC 9112 5.2: a fold is a space
    (b"A: b\r\n c\r\n", [(b"A", b"b c")]),
    (b"A:\r\n\t b \r\n  c: d\n e\r\n", [(b"A", b"b c: d e")]),
    (b"A : b \r\n \tTransfer-Encoding: chunked\r\n", [(b"A", b"b Transfer-Encoding: chunked")]),
    # RFC 9110 5.5: other controls are not valid either
    (b"A: a\x01b\x7f\r\n", [(b"A", b"a b")]),
    (b"A:\x0b\r\n", [(b"A", b"")]),
    (b"A: b\r\n \x1bc\r\n", [(b"A", b"b c")]),
    (bytes((b"A"[0], 58, *(c for c in range(1, 32) if c not in (10, 13)))) + b"\n", [(b"A", b"")]),
]


@pytest.mark.parametrize(("fields", "read"), CLEANED)
@pytest.mark.parametrize("behind", [b"", b"\n\n", b"\r\n\r\n", b"\0\r\n\r\n", b"A: b\n\n"])
def test_a_response_is_cleaned_at_every_split(
    fields: bytes, read: list[tuple[bytes, bytes]], behind: bytes
) -> None:
    head = answer(fields)
    unix = head.replace(b"\r\n", b"\n")
    for data in (head, unix, head[:-2] + b"\n"):
        whole = data + behind
        for split in range(len(whole) + 1):
            buffer = bytearray(whole[:split])
            end = find_head_end(buffer, response=True)
            if split < len(data):
                assert end == -1, split
                buffer += whole[split:]
                end = find_head_end(buffer, split, response=True)
            assert end == len(data), split
        buffer = bytearray()
        for byte in data:
            assert find_head_end(buffer, max(len(buffer) - 1, 0), response=True) == -1
            buffer.append(byte)
        assert find_head_end(buffer, len(buffer) - 1, response=True) == len(data)
        response = parse_response(data)
        assert response.fields == [*read, (b"Z", b"z")]
        assert (response.status, response.reason, response.cleaned) == (200, b"OK", True)
    with pytest.raises(HeadError):
        request(b"GET / HTTP/1.1", HOST + fields)


def test_the_reason_is_cleaned() -> None:
    response = parse_response(b"HTTP/1.0 404 a\x01b\x7f\n\n")
    assert (response.minor, response.status, response.reason) == (0, 404, b"a b ")
    assert response.cleaned


def test_what_is_as_it_should_be_is_not_cleaned() -> None:
    assert not parse_response(answer(b"A:  b\xff \t\r\n")).cleaned


def test_empty_lines_before_a_response() -> None:
    for skipped, left in [
        (b"", b""),
        (b"\r\n", b"HTTP/1.1"),
        (b"\n\r\n\n", b"HTTP/1.1"),
        (b"\n", b"\r"),
        (b"", b"\r"),
        (b"", b"\rX"),
    ]:
        buffer = bytearray(skipped + left)
        assert skip_lines(buffer) == len(skipped)
        assert buffer == left


@pytest.mark.timeout(20)  # quadratic work would take hours
@pytest.mark.parametrize(
    "fields",
    [
        b"A: b\r\n" + b" c\r\n" * 200_000,
        b"A" + b" " * 500_000 + b"x: b\r\n",
        b"A" + b" \t" * 500_000 + b"\x01: b\r\n",
        b"A:" + b"\x01" * 500_000 + b"\n",
        b"A: b\n" * 200_000,
    ],
)
def test_cleaning_is_linear(fields: bytes) -> None:
    with contextlib.suppress(HeadError):
        parse_response(answer(fields))


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_the_search_in_a_response_is_linear(line_end: bytes) -> None:
    data = b"HTTP/1.1 200 OK" + line_end + b"a: \x01" + line_end
    data += (b"a: b" + line_end) * 8000
    buffer = CountingBuffer()
    CountingBuffer.work = 0
    for position in range(len(data)):
        buffer.append(data[position])
        assert find_head_end(buffer, position, response=True) == -1
    assert len(data) < CountingBuffer.work < 12 * len(data)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_the_limits_hold_for_odd_responses(line_end: bytes) -> None:
    for data in (
        b"HTTP/1.1 200 " + b"a" * MAX_LINE,
        b"HTTP/1.1 200 OK" + line_end + b"A: \x01" + line_end + b"A: b\n" * 14_000,
    ):
        for step in (997, 70_000):
            buffer = bytearray()
            with pytest.raises(HeadError) as caught:  # noqa: PT012
                for at in range(0, len(data), step):
                    start = len(buffer)
                    buffer += data[at : at + step]
                    find_head_end(buffer, start, response=True)
            assert (caught.value.status, caught.value.error) == (502, "http_response_header_size")


# --- paths that are not ASCII --------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "path", "encoded", "raw"),
    [
        (b"/\xc3\xa4?\xff", "/%C3%A4?%FF", "/%C3%A4?%FF", b"/\xc3\xa4?\xff"),
        (b"http://o/\xe4", "/%E4", "http://o/%E4", b"/\xe4"),
        (b"http://o?\x85", "/?%85", "http://o?%85", b"/?\x85"),
        (b"http://o/%C3%a4", "/%C3%a4", "http://o/%C3%a4", b""),
        (b"/\xc3%41", "/%C3%41", "/%C3%41", b"/\xc3%41"),
    ],
)
def test_a_path_that_is_not_ascii(target: bytes, path: str, encoded: str, raw: bytes) -> None:
    head = request(b"GET " + target + b" HTTP/1.1")
    assert (head.path, head.target, head.raw_path) == (path, encoded, raw)
    line = b"GET " + (raw or path.encode()) + b" HTTP/1.1\r\n"
    assert origin_request(head, Body.NONE, b"").startswith(line)
    assert trace_body(head).isascii()


# --- properties ----------------------------------------------------------------------

token = st.text("!#$%&'*+-.^_`|~0aZ", min_size=1, max_size=8).map(str.encode)
value = st.binary(max_size=12).map(
    lambda raw: bytes(c for c in raw if c == 9 or 32 <= c < 127 or c >= 128).strip(b" \t")
)
plain_fields = st.lists(st.tuples(token, value), max_size=8)
space = st.sampled_from([b"", b" ", b"\t", b" \t "])


@given(plain_fields, st.data())
@settings(max_examples=100, deadline=None)
def test_fields_round_trip(fields: list[tuple[bytes, bytes]], data: st.DataObject) -> None:
    lines = [name + b":" + data.draw(space) + v + data.draw(space) for name, v in fields]
    head = b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", b""])
    assert find_head_end(bytearray(head)) == len(head)
    assert parse_response(head).fields == fields


SEEDS = [
    b"GET http://example.com/a?b HTTP/1.1\r\nHost: example.com\r\nAccept: */*\r\n\r\n",
    b"HEAD http://[::1]:8080/ HTTP/1.0\r\nX: \t y \r\nEmpty:\r\n\r\n",
    b"GET /index.html HTTP/1.1\r\nHost: h:80\r\nConnection: close\r\n\r\n",
    b"DELETE http://h HTTP/1.1\r\nHost: h\r\nA: b\r\nA: c\r\n\r\n",
]
NOISE = [
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b"\0",
    b":",
    b": ",
    b",",
    b"a",
    b"\x7f",
    b"\xff",
    b"\x0b",
]
NOISE += [b"#", b"@", b"\r\n ", b"Host: x\r\n", b"HTTP/1.1", b"/", b"[", b"]", b"%", b"\\", b'"']
noise = st.lists(
    st.tuples(st.integers(0, 200), st.integers(0, 3), st.sampled_from(NOISE)), max_size=3
)


def mutated(seed: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for position, removed, inserted in changes:
        at = position % (len(seed) + 1)
        seed = seed[:at] + inserted + seed[at + removed :]
    return seed


@given(st.sampled_from(SEEDS), noise)
@example(SEEDS[0], [])
@settings(max_examples=400, deadline=None)
def test_what_is_accepted_llhttp_reads_the_same(
    seed: bytes, changes: list[tuple[int, int, bytes]]
) -> None:
    compare(mutated(seed, changes), response=False)


@given(st.sampled_from([b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 0\r\n\r\n"]), noise)
@settings(max_examples=200, deadline=None)
def test_what_is_accepted_of_a_response_llhttp_reads_the_same(
    seed: bytes, changes: list[tuple[int, int, bytes]]
) -> None:
    compare(mutated(seed, changes), response=True)
