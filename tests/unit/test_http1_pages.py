"""The proxy's own answers."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spliceproxy.config import Timeouts
from spliceproxy.errors import STATUS, WHY, reasons
from spliceproxy.http1.framing import Body
from spliceproxy.http1.head import find_head_end, parse_response
from spliceproxy.http1.rewrite import ESTABLISHED
from spliceproxy.site.pages import (
    DETAILS_MAX,
    HOW_TO_CONFIGURE,
    PHRASE_MAX,
    Denial,
    error_page,
    proxy_status,
)

DATE = b"Mon, 23 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("detail", "value"),
    [
        ("", b"spliceproxy; error=dns_error"),
        ("no such name", b'spliceproxy; error=dns_error; details="no such name"'),
        ('a "b" \\c', b'spliceproxy; error=dns_error; details="a \\"b\\" \\\\c"'),
        ("\u00e4\r\t\x7f\0!~", b'spliceproxy; error=dns_error; details="?????!~"'),
        ("first\r\nX: y\nthird", b'spliceproxy; error=dns_error; details="first?"'),
        ("\nsecond", b"spliceproxy; error=dns_error"),
        ("x" * 1000000, b'spliceproxy; error=dns_error; details="%b"' % (b"x" * DETAILS_MAX)),
    ],
)
def test_proxy_status(detail: str, value: bytes) -> None:  # RFC 9209 2, RFC 8941 3.3.3
    assert proxy_status("dns_error", detail) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("edge-1.example:80/a", b"edge-1.example:80/a; error=e"),
        ("*x", b"*x; error=e"),
        ("1st", b'"1st"; error=e'),
        ("my proxy", b'"my proxy"; error=e'),
        ('"', b'"\\""; error=e'),
        ("", b'""; error=e'),
    ],
)
def test_proxy_status_names(name: str, value: bytes) -> None:  # RFC 8941 3.3.3, 3.3.4
    assert proxy_status("e", "", name) == value


def test_an_error_page_exactly() -> None:
    page = error_page(
        503,
        "connection_limit_reached",
        'too many "x"',
        close=True,
        date=DATE,
        extra=(b"X-A: b",),
    )
    body = b'503 Service Unavailable\ntoo many "x"\n'
    assert page == b"\r\n".join(
        [
            b"HTTP/1.1 503 Service Unavailable",
            b"Date: " + DATE,
            b"Content-Type: text/plain; charset=utf-8",
            b"Content-Length: %d" % len(body),
            b"Cache-Control: no-store",
            b"Proxy-Status: spliceproxy; error=connection_limit_reached;"
            b' details="too many \\"x\\""',
            b"Retry-After: 1",
            b"X-A: b",
            b"Connection: close",
            b"",
            body,
        ]
    )
    head = error_page(
        503,
        "connection_limit_reached",
        'too many "x"',
        close=True,
        head_only=True,
        date=DATE,
        extra=(b"X-A: b",),
    )
    assert head + body == page


@pytest.mark.parametrize(
    ("minor", "close", "field"),
    [(1, False, None), (1, True, b"close"), (0, True, b"close"), (0, False, b"keep-alive")],
)
def test_connection_of_an_error_page(minor: int, close: bool, field: bytes | None) -> None:
    page = error_page(502, "dns_error", "x", minor=minor, close=close, date=DATE)
    head = parse_response(page[: find_head_end(bytearray(page))])
    assert head.get(b"connection") == field
    assert head.get(b"retry-after") is None


@pytest.mark.parametrize(
    ("status", "phrase"),
    [
        (400, b"Bad Request"),
        (403, b"Forbidden"),
        (407, b"Proxy Authentication Required"),
        (408, b"Request Timeout"),
        (414, b"URI Too Long"),
        (431, b"Request Header Fields Too Large"),
        (501, b"Not Implemented"),
        (502, b"Bad Gateway"),
        (504, b"Gateway Timeout"),
        (505, b"HTTP Version Not Supported"),
        (599, b"Error"),
    ],
)
def test_phrases(status: int, phrase: bytes) -> None:  # RFC 9110 15
    page = error_page(status, "e", "x", close=True, date=DATE)
    assert page.startswith(b"HTTP/1.1 %d %b\r\n" % (status, phrase))
    assert page.endswith(b"\r\n\r\n%d %b\nx\n" % (status, phrase))


def test_the_text_does_a_terminal_no_harm() -> None:
    page = error_page(400, "e", "\x1b[2J\r\u202e\udc80\u00e4", close=True, date=DATE)
    assert page.endswith(b"\n\\x1b[2J\\r\\u202e\\udc80\xc3\xa4\n")


def test_how_to_configure_is_shown_line_by_line() -> None:
    page = error_page(400, "http_request_error", HOW_TO_CONFIGURE, close=True, date=DATE)
    head, _, body = page.partition(b"\r\n\r\n")
    assert b"curl -x http://HOST:PORT http://example.com/\n" in body
    assert b"curl" not in head
    assert b"This is a forward proxy" in head


def test_established_has_no_body_fields() -> None:  # RFC 9110 9.3.6
    head = parse_response(ESTABLISHED)
    assert (head.minor, head.status, head.fields) == (1, 200, [])


@given(st.text(max_size=80), st.booleans(), st.integers(0, 1), st.sampled_from([400, 503]))
@settings(max_examples=100, deadline=None)
def test_whatever_the_detail_the_page_is_one_valid_response(
    detail: str, close: bool, minor: int, status: int
) -> None:
    page = error_page(status, "e", detail, minor=minor, close=close, date=DATE)
    end = find_head_end(bytearray(page), response=True)
    head = parse_response(page[:end])
    assert head.body("GET") == (Body.LENGTH, len(page) - end)
    assert page[end:].decode().startswith(f"{status} ")

    class Seen:
        complete = False

        def on_message_complete(self) -> None:
            self.complete = True

    seen = Seen()
    httptools.HttpResponseParser(seen).feed_data(page)
    assert seen.complete


def phrase(page: bytes) -> bytes:
    return page.partition(b"\r\n")[0].partition(b" ")[2]


@pytest.mark.parametrize(
    ("status", "rule", "shown"),
    [
        (403, "no-metadata", b"403 Forbidden by rule no-metadata"),
        (403, "", b"403 Forbidden by policy"),
        (451, "law", b"451 Unavailable For Legal Reasons: rule law"),
        (403, "r\xe8gle\r\nX: y \x1b[2J", b"403 Forbidden by rule r?gle??X: y ?[2J"),
        (403, "\udc80", b"403 Forbidden by rule ?"),
        (403, "x" * 100, b"403 Forbidden by rule " + b"x" * 62),
        (403, "x" * 61 + " y", b"403 Forbidden by rule " + b"x" * 61),
    ],
)
def test_the_phrase_names_the_rule(status: int, rule: str, shown: bytes) -> None:
    """Half of all clients show it and nothing else (RFC 9112 section 4). What Deny() says, and
    what the request held, is not in it."""
    denial = Denial(rule, "the reason", "the advice")
    page = error_page(
        status, "http_request_denied", "the detail", close=True, date=DATE, denial=denial
    )
    assert phrase(page) == shown
    assert len(shown) <= 4 + PHRASE_MAX == 84


def test_every_error_says_why() -> None:
    """Each in a few words of ASCII, without a number that was not filled in."""
    assert set(WHY) == set(STATUS)
    texts = reasons(Timeouts(head=30.0, dial=9.0, dns=4.0, idle=3600.0))
    for error, why in texts.items():
        page = error_page(STATUS[error], error, "the detail", close=True, date=DATE, why=why)
        shown = phrase(page).decode("ascii")
        assert shown.endswith(f": {why}")
        assert len(shown) <= 4 + PHRASE_MAX
        assert "{" not in shown
    assert texts["connection_timeout"] == "no connection within 9 s"
    assert texts["dns_timeout"] == "no DNS answer within 4 s"


@pytest.mark.parametrize(
    ("status", "extra", "seconds"),
    [(429, (), [b"10"]), (503, (), [b"1"]), (429, (b"Retry-After: 7",), [b"7"]), (403, (), [])],
)
def test_when_to_try_again(status: int, extra: tuple[bytes, ...], seconds: list[bytes]) -> None:
    page = error_page(status, "http_request_denied", "x", close=True, date=DATE, extra=extra)
    head = parse_response(page[: find_head_end(bytearray(page), response=True)])
    assert list(head.values(b"retry-after")) == seconds
