"""Via, Max-Forwards and Forwarded: what a request says of the proxies on its way."""

from __future__ import annotations

import pytest

from spliceproxy.http1.chain import (
    forwarded_lines,
    forwards_left,
    has_passed,
    one_less_forward,
    trace_body,
)
from spliceproxy.http1.errors import HeadError
from spliceproxy.http1.framing import Body
from spliceproxy.http1.head import RequestHead, parse_request
from spliceproxy.http1.rewrite import origin_request


def request(*fields: bytes, method: bytes = b"GET") -> RequestHead:
    head = b"\r\n".join([method + b" http://h/ HTTP/1.1", b"Host: h", *fields, b"", b""])
    return parse_request(head)


@pytest.mark.parametrize(
    ("fields", "passed"),
    [
        ([], False),
        ([b"Via: 1.1 us"], True),
        ([b"Via: 1.0 other, 1.1 US (a comment)"], True),
        ([b"Via: HTTP/1.1 us:3128"], False),
        ([b"Via: 1.1 usual, 1.1 other (us)"], False),
        ([b"Via: 1.1 a", b"Via: 2 us"], True),
        ([b"Via: us"], False),
    ],
)
def test_via_names_us(fields: list[bytes], passed: bool) -> None:
    assert has_passed(request(*fields), b"us") is passed


@pytest.mark.parametrize(
    ("method", "fields", "left"),
    [
        (b"TRACE", [b"Max-Forwards: 3"], 3),
        (b"OPTIONS", [b"max-forwards: 0"], 0),
        (b"GET", [b"Max-Forwards: 0"], None),  # RFC 9110 7.6.2: others may ignore it
        (b"TRACE", [], None),
    ],
)
def test_max_forwards(method: bytes, fields: list[bytes], left: int | None) -> None:
    assert forwards_left(request(*fields, method=method)) == left


@pytest.mark.parametrize("value", [b"", b"-1", b"+1", b"1 2", b"9999999999", b"a"])
def test_bad_max_forwards(value: bytes) -> None:
    with pytest.raises(HeadError):
        forwards_left(request(b"Max-Forwards: " + value, method=b"TRACE"))


def test_max_forwards_counts_down_in_its_place() -> None:
    head = request(b"A: 1", b"Max-Forwards: 3", b"B: 2", method=b"TRACE")
    fields = one_less_forward(head, 3).fields
    assert fields[1:] == [(b"A", b"1"), (b"Max-Forwards", b"2"), (b"B", b"2")]


@pytest.mark.parametrize(
    ("mode", "client", "fields", "lines"),
    [
        ("transparent", "10.0.0.1", [b"Forwarded: for=a"], None),
        ("delete", "10.0.0.1", [b"Forwarded: for=a"], []),
        ("on", "10.0.0.1", [], [b"Forwarded: for=10.0.0.1", b"X-Forwarded-For: 10.0.0.1"]),
        ("on", "::1", [], [b'Forwarded: for="[::1]"', b"X-Forwarded-For: ::1"]),
        ("on", "", [], [b"Forwarded: for=unknown", b"X-Forwarded-For: unknown"]),
        (
            "off",
            "10.0.0.1",
            [b"X-Forwarded-For: 1.2.3.4", b"x-forwarded-for: 5.6.7.8"],
            [b"Forwarded: for=unknown", b"X-Forwarded-For: 1.2.3.4, 5.6.7.8, unknown"],
        ),
        (
            "on",
            "10.0.0.1",
            [b"Forwarded: ,", b"X-Forwarded-For: 1.2.3.4"],
            [b"Forwarded: for=10.0.0.1", b"X-Forwarded-For: 1.2.3.4, 10.0.0.1"],
        ),
    ],
)
def test_forwarded(mode: str, client: str, fields: list[bytes], lines: list[bytes] | None) -> None:
    assert forwarded_lines(request(*fields), mode, client) == lines


def test_a_client_cannot_take_away_what_we_say_of_it() -> None:
    head = request(
        b"Connection: forwarded, x-forwarded-for", b"Forwarded: for=x", b"X-Forwarded-For: y"
    )
    sent = origin_request(head, Body.NONE, b"p", forwarded_lines(head, "on", "10.0.0.1"))
    assert b"\r\nForwarded: for=10.0.0.1\r\nX-Forwarded-For: 10.0.0.1\r\n" in sent
    assert b"for=x" not in sent
    assert b": y" not in sent


def test_received_fields_are_replaced_or_kept() -> None:
    head = request(b"Forwarded: for=x")
    assert b"for=x" in origin_request(head, Body.NONE, b"p")
    assert b"Forwarded" not in origin_request(head, Body.NONE, b"p", [])


def test_trace_shows_no_secret() -> None:
    head = request(b"A: 1", b"Cookie: s", b"Authorization: s", b"Proxy-Authorization: s")
    assert trace_body(head) == b"GET http://h/ HTTP/1.1\r\nHost: h\r\nA: 1\r\n\r\n"
