"""Lines of the access log that the lane makes, in each of its formats: byte for byte those that
``observe.formats`` makes of a record."""

from __future__ import annotations

import contextlib
import json
import re
import select
import socket
import struct
from collections.abc import Iterator
from datetime import datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from json_lines import LINE
from plain_oracle import CLIENT, HOST, OK, Conversation, Plain, conversation, received
from relay_rig import native_relay, tcp_pair

from spliceproxy.forward.lane import origin_key
from spliceproxy.http1.head import parse_request
from spliceproxy.observe.format_names import NAMES
from spliceproxy.observe.formats import format_of
from spliceproxy.observe.native_line import without_query
from spliceproxy.observe.record import Record
from spliceproxy.policy.verdict import Verdict
from spliceproxy.relay import interface
from spliceproxy.relay.lane import NUMBER_BITS

PEER = HOST


@pytest.fixture(scope="module", params=[name for name in NAMES if format_of(name).lane])
def plains(request: pytest.FixtureRequest) -> Iterator[dict[bool, Plain]]:
    native_relay()
    form = request.param
    with contextlib.ExitStack() as stack:
        yield {
            query: stack.enter_context(contextlib.closing(Plain(log=True, query=query, form=form)))
            for query in (True, False)
        }


def line_of(plain: Plain) -> bytes:
    line, count = plain.lane._native.take_log()
    assert count == line.count(b"\n") == 1
    return line


def expected(line: bytes, **values: object) -> bytes:
    """The line for these values. The times, and what the kernel knows, are those that ``line``
    has."""
    record = Record("")
    if line.startswith(b"{"):
        found = json.loads(line)
        LINE.validate(found)
        record.ended_at = datetime.fromisoformat(found["time"].replace("Z", "+00:00")).timestamp()
        worker, number = map(int, found["id"].split("-"))
        record.number = (worker << NUMBER_BITS) + number
        record.seconds = (found["total_us"] + 0.5) / 1e6
        record.question, record.dial = found["question_us"], found["dial_us"]
        record.first_byte, record.looked_up = found["first_byte_us"], found["dns_us"] / 1e6
        record.inform(_raw(found["client_tcp"]), _raw(found["origin_tcp"]), None)
    else:
        ended, took = line.split()[:2]
        record.ended_at, record.seconds = float(ended), (int(took) + 0.5) / 1000
    for name, value in values.items():
        setattr(record, name, value)
    name = "json" if line.startswith(b"{") else "native" if b" in=" in line else "squid"
    return format_of(name).line(record).encode("ascii")


def _raw(leg: dict[str, int] | None) -> bytes:
    """A struct tcp_info that says the same."""
    if leg is None:
        return b""
    raw = bytearray(256)
    struct.pack_into("=II", raw, 68, leg["rtt_us"], leg["rttvar_us"])
    struct.pack_into("=I", raw, 100, leg["retransmits"])
    rest = leg["delivery_rate"], leg["busy_us"], leg["rwnd_limited_us"], leg["sndbuf_limited_us"]
    struct.pack_into("=QQQQ", raw, 160, *rest)
    return bytes(raw)


def asked(one: Conversation, head: bytes, user: str) -> socket.socket:
    """The origin of a request, which has it."""
    plain, request = one.plain, parse_request(head)
    record = Record("")
    record.user = user
    verdict = Verdict(request.host, request.port, (PEER,), "", 3600.0)
    assert plain.lane.allow(CLIENT, request, verdict, record)
    outer, inner = one._pair()
    plain.lane._native.put(origin_key(verdict.key), inner.detach(), PEER)
    one.send(one.client, head)
    got = received(outer)
    assert got
    return outer


# What a plain head can have.
targets = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=60).map(
    lambda text: text.replace("#", "")
)
users = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=15)
VALUES = re.compile(rb"[^\t -~\x80-\xff]")
types = st.binary(max_size=70).map(lambda text: VALUES.sub(b"", text).strip(b" \t"))


@given(target=targets, user=users, kind=types, query=st.booleans())
@example(target="a'b\"<>{}|\\^`%41?q=1?2", user="a b%'\"é€", kind=b"text/html; a=b", query=True)
@example(target="x" * 3050 + "'" * 20, user="", kind=b"\xe9" * 64, query=True)
@example(target="?a", user="u", kind=b"a\xa0\x85 ;", query=False)
@example(target="", user="u" * 63, kind=b";", query=False)
@settings(max_examples=300, deadline=None)
def test_a_line_is_as_python_writes_it(
    plains: dict[bool, Plain], target: str, user: str, kind: bytes, query: bool
) -> None:
    plain = plains[query]
    head = b"GET http://o/%b HTTP/1.1\r\nHost: o\r\n\r\n" % target.encode()
    answer = OK.replace(b"\r\n\r\n", b"\r\nContent-Type: " + kind + b"\r\n\r\n")
    with conversation(plain) as one:
        origin = asked(one, head, user)
        one.send(origin, answer)
        got = received(one.client)
        assert got
    line = line_of(plain)
    assert len(line) <= select.PIPE_BUF
    url = f"http://o/{target}"
    assert line == expected(
        line,
        method="GET",
        target=url if query else without_query(url),
        user=user,
        peer=PEER,
        status=200,
        content_type=kind[:64].decode("latin-1"),
        bytes_in=len(head),
        bytes_out=len(got),
    )


HEAD = b"GET http://o/ HTTP/1.1\r\nHost: o\r\n\r\n"


def test_a_line_of_an_answer_that_is_cut_short(plains: dict[bool, Plain]) -> None:
    plain = plains[True]
    with conversation(plain) as one:
        origin = asked(one, HEAD, "")
        one.send(origin, OK[:-1])
        origin.close()
        plain.step()
        got = received(one.client)
        assert got
    line = line_of(plain)
    assert b" TCP_MISS_ABORTED/200 " in line or b'"termination":"SD"' in line
    assert line == expected(
        line,
        method="GET",
        target="http://o/",
        peer=PEER,
        status=200,
        reason=interface.SOURCE_EOF,
        stage="D",
        bytes_in=len(HEAD),
        bytes_out=len(got),
    )


def test_a_line_of_a_client_that_leaves_before_its_answer(plains: dict[bool, Plain]) -> None:
    plain = plains[True]
    with conversation(plain) as one:
        asked(one, HEAD, "")
        one.client.close()
        plain.step()
    line = line_of(plain)
    assert line == expected(
        line,
        method="GET",
        target="http://o/",
        peer=PEER,
        reason=interface.CLIENT_RESET,
        stage="H",
        bytes_in=len(HEAD),
    )


def test_a_line_of_a_tunnel(plains: dict[bool, Plain]) -> None:
    plain = plains[True]
    head = b"CONNECT o:1 HTTP/1.1\r\nHost: o:1\r\n\r\n"
    with conversation(plain) as one:
        one.allow(head)
        one.send(one.client, head + b"early")
        with plain.accept() as far:
            assert far.recv(5, socket.MSG_WAITALL) == b"early"
            far.sendall(b"answer")
            plain.step()
            got = received(one.client)
            assert got
            one.client.close()
            plain.step()
        while plain.relay.tunnels:
            select.select([plain.relay.fileno()], [], [], 1)
            plain.step()
    line = line_of(plain)
    assert line == expected(
        line,
        method="CONNECT",
        target="o:1",
        peer=PEER,
        status=200,
        reason=interface.ORIGIN_RESET if b"_ABORTED" in line or b'"SD"' in line else interface.DONE,
        stage="D",
        bytes_in=len(head) + 5,
        bytes_out=len(got),
    )


@pytest.mark.parametrize("address", ["192.0.2.9", "2001:db8::7", "fe80::1%eth0'\"", ""])
def test_a_line_names_the_client(plains: dict[bool, Plain], address: str) -> None:
    plain = plains[True]
    with conversation(plain) as one, contextlib.ExitStack() as stack:
        one.allow(HEAD)
        assert CLIENT.group is not None
        plain.lane._native.add_client(address, CLIENT.group)
        outer, inner = map(stack.enter_context, tcp_pair())
        outer.setblocking(False)
        inner.setblocking(False)
        plain.lane._native.hand_over(inner.detach(), address, b"", 0)
        one.send(outer, HEAD)
        found = one.asked()
        assert found is not None
        one.send(one.keys[found[0]], OK)
    line = line_of(plain)
    if line.startswith(b"{"):
        assert json.loads(line)["client"] == (address or None)
    else:
        assert line.split()[2] == expected(line, client=address).split()[2]


def test_the_owner_is_told_of_many_lines_once_more(plains: dict[bool, Plain]) -> None:
    """Of the first line, and then when there are 256 KiB of them."""
    plain = plains[True]
    told: list[bool] = []
    news = plain.lane._news._records
    news.expect = told.append
    try:
        head = b"GET http://o/%b HTTP/1.1\r\nHost: o\r\n\r\n" % (b"x" * 2900)
        with conversation(plain) as one:
            origin = asked(one, head, "")
            for number in range(250):
                if number:
                    one.send(one.client, head)
                    assert received(origin)
                one.send(origin, OK)
                assert received(one.client)
                if len(told) == 2:
                    break
        assert told[0] is False
        assert set(told[1:]) == {True}  # until they are taken
        lines, count = plain.lane._native.take_log()
        assert count == lines.count(b"\n") == number + 1
        assert len(lines) >= 262_144 > len(lines) - 3100
        assert plain.lane._native.take_log() == (b"", 0)
    finally:
        news.expect = int
