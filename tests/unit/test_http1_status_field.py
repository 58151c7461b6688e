"""Whose words in Proxy-Status go on."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from spliceproxy.http1.status_field import FIELD, NAME, without_own
from spliceproxy.site.pages import proxy_status

VIA = b"Edge-1.example:8080"

OWN = st.sampled_from([b"spliceproxy", b'"spliceproxy"', b"SPLICEPROXY", b"edge-1.example:8080"])
OTHERS = st.sampled_from([b"cdn", b'"cdn, spliceproxy"', b"spliceproxy-1a2b3c4d", b"*", b'""'])
BARE = st.sampled_from(
    [
        b"spliceproxy",
        b'"a, spliceproxy; \\" x"',
        b"1",
        b"-1.25",
        b"?1",
        b":YQ==:",
        b"@1",
        b'%"%c3%a4"',
    ]
)
PARAMETER = st.tuples(
    st.sampled_from([b";", b"; ", b";   "]),
    st.sampled_from([b"error", b"*", b"a-b_c.d*1"]),
    st.just(b"") | BARE.map(lambda item: b"=" + item),
).map(b"".join)
TAIL = st.lists(PARAMETER, max_size=3).map(b"".join)
MEMBER = st.tuples(st.tuples(st.just(True), OWN) | st.tuples(st.just(False), OTHERS), TAIL)


@given(
    lines=st.lists(st.lists(MEMBER, min_size=1, max_size=4), max_size=3),
    comma=st.sampled_from([b",", b", ", b" \t,\t "]),
)
def test_ours_go_and_the_others_stay(
    lines: list[list[tuple[tuple[bool, bytes], bytes]]], comma: bytes
) -> None:
    fields = [(b"A", b"spliceproxy")]
    expected = [(b"A", b"spliceproxy")]
    for line in lines:
        texts = [(own, name + tail) for (own, name), tail in line]
        others = [text for own, text in texts if not own]
        value = comma.join(text for _, text in texts)
        fields.append((b"Proxy-Status", value))
        if len(others) == len(texts):
            expected.append((b"Proxy-Status", value))
        elif others:
            expected.append((b"Proxy-Status", b", ".join(others)))
    assert without_own(fields, VIA) == expected
    assert without_own(expected, VIA) == expected


@given(st.text(max_size=30), st.sampled_from([NAME, VIA.decode()]))
def test_what_we_say_ourselves_goes(detail: str, name: str) -> None:
    ours = proxy_status("dns_error", detail, name)
    assert without_own([(FIELD, b"cdn, " + ours)], VIA) == [(FIELD, b"cdn")]


@given(st.binary(max_size=40) | st.text('",;= \\:?@%()spliceproxy', max_size=40).map(str.encode))
def test_nothing_goes_on_by_which_we_could_be_meant(value: bytes) -> None:
    """A reader that looks at what stands before the first semicolon of a line is not misled."""
    for name, kept in without_own([(FIELD, value), (b"X", b"y")], b""):
        if name == FIELD:
            first = kept.partition(b";")[0].partition(b",")[0].strip().lower()
            assert first not in (NAME.encode(), b'"%b"' % NAME.encode())
        else:
            assert (name, kept) == (b"X", b"y")


def test_one_field_that_cannot_be_read_takes_the_others_along() -> None:
    fields = [(b"Proxy-Status", b"cdn"), (b"X", b"y"), (b"proxy-STATUS", b"cdn,")]
    assert without_own(fields, b"") == [(b"X", b"y")]


def test_a_long_field_costs_no_more_than_its_length() -> None:
    start = time.process_time()
    for part in (b'\\"', b";a", b",a", b"a", b'";a="', b" ", b";a=1.", b'%"'):
        for end in (b"", b'"', b"\0"):
            without_own([(FIELD, b'a;b="' + part * (60_000 // len(part)) + end)], b"")
            without_own([(FIELD, b"a" + part * (60_000 // len(part)) + end)], b"")
    assert time.process_time() - start < 5
