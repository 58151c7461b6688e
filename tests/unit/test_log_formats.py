"""The formats of the access log beside the native one: what they say, and that no request can forge
a line in any of them."""

from __future__ import annotations

import json
import re
import select
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from json_lines import LINE

from spliceproxy.observe import json_line
from spliceproxy.observe.custom_line import CODES, CustomLine
from spliceproxy.observe.format_names import NAMES
from spliceproxy.observe.formats import check, format_of
from spliceproxy.observe.json_line import note, stamp
from spliceproxy.observe.record import Record
from spliceproxy.observe.tcpinfo import TcpInfo
from spliceproxy.relay import interface
from spliceproxy.relay.lane import LIVE, NOTE_MAX

OURS = " ".join(f"%{code}" for code in CODES if code not in ("note", ">h", "json"))
FORMATS = [*NAMES, f'{OURS} "%{{A}}>h" %{{A}}>h %{{t}}note "%{{target}}json" %{{user}}json']


def record(**values: Any) -> Record:
    made = Record("192.0.2.7", 0.0, None, (3 << 40) + 4711)
    made.ended_at, made.seconds = 1286536308.779123, 0.18
    made.method, made.target, made.status = "GET", "http://example.com/?q", 200
    made.host, made.port, made.peer = "example.com", 80, "198.51.100.1"
    made.bytes_in, made.bytes_out, made.spliced_out, made.user = 99, 1234, 1000, "ann"
    made.stage = "D"
    for name, value in values.items():
        setattr(made, name, value)
    return made


def test_squid_is_its_ten_fields() -> None:
    line = format_of("squid").line(record(rule="r", error="http_request_denied"))
    native = format_of("native").line(record(rule="r", error="http_request_denied"))
    assert native == line.rstrip("\n") + " rule=r in=99\n"
    assert len(line.split()) == 10


def test_the_schema_of_json_is_one() -> None:
    LINE.check_schema(LINE.schema)


def test_json() -> None:
    made = record(tags=MappingProxyType({"team": "w\u00e9b", "n": 7}), first_byte=5)
    found = json.loads(format_of("json").line(made))
    LINE.validate(found)
    assert found == {
        "v": 1,
        "time": "2010-10-08T11:11:48.779123Z",
        "event": "end",
        "id": "3-4711",
        "client": "192.0.2.7",
        "via": None,
        "method": "GET",
        "target": "http://example.com/?q",
        "socks": None,
        "name": None,
        "tls_name": None,
        "generation": 1,
        "user": "ann",
        "rule": None,
        "reason": None,
        "error": None,
        "failed": None,
        "tags": {"team": "w\u00e9b", "n": "7"},
        "route": "direct",
        "connect_by": None,
        "peer": "198.51.100.1",
        "status": 200,
        "type": None,
        "termination": "--",
        "in_copied": 99,
        "in_spliced": 0,
        "out_copied": 234,
        "out_spliced": 1000,
        "head_us": 0,
        "question_us": 0,
        "dns_us": 0,
        "dial_us": 0,
        "first_byte_us": 5,
        "total_us": 180000,
        "client_tcp": None,
        "origin_tcp": None,
        "stalled": None,
    }


def test_json_of_a_tunnel_that_lives() -> None:
    found = json.loads(json_line.json_line(record(event=LIVE)))
    LINE.validate(found)
    assert (found["event"], found["termination"]) == ("live", None)


def test_json_without_queries() -> None:
    """Nor may a reason quote one."""
    line = format_of("json", query=False).line(record(detail="bad target /?q=secret"))
    assert json.loads(line)["target"] == "http://example.com/?"
    assert "secret" not in line
    denied = format_of("json", query=False).line(record(rule="r", why="Not today."))
    assert json.loads(denied)["reason"] == "Not today."


def test_what_does_not_fit_in_json_is_left_out() -> None:
    tags = {f"tag-{n}": "x" * 40 for n in range(100)}
    found = json.loads(format_of("json").line(record(tags=tags, target="/" + "\u00e9" * 5000)))
    assert list(found["tags"]) == [f"tag-{n}" for n in range(len(found["tags"]))]
    assert 5 < len(found["tags"]) < 12
    assert found["target"] == "/" + "\u00e9" * ((json_line.TARGET_MAX - 1) // 6)


@pytest.mark.parametrize(
    "seconds", [0.0, 951_782_400.5, 1_709_164_799.999999, 4_102_444_799.0, 1_795_968_000.123456]
)
def test_stamps(seconds: float) -> None:
    from datetime import datetime, timezone

    wanted = datetime.fromtimestamp(round(seconds * 1e6) / 1e6, timezone.utc)
    assert stamp(seconds) == wanted.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


texts = st.text(st.characters())


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=100, deadline=None)
@given(*8 * [texts], st.dictionaries(texts, texts, max_size=5))
@example(*8 * ['\ud800\n"\\\x00\x7f\u2028%{|}'], {"\ud800": '"\n'})
@example(*8 * ["x" * 9000], {"x" * 900: "y" * 9000})
@example(*8 * ['"' * 9000], {'"' * 900: "\\" * 9000})
@example(*8 * ["\U0001f600" * 9000], {"a": "b"})
def test_no_request_forges_a_line(
    form: str,
    method: str,
    target: str,
    user: str,
    peer: str,
    kind: str,
    detail: str,
    field: str,
    client: str,
    tags: dict[str, str],
) -> None:
    made = record(
        method=method, target=target, user=user, peer=peer, content_type=kind, detail=detail,
        client=client, tags={**tags, "t": field}, rule=field, failed=field, error=field,
        fields=[(b"A", field.encode("utf-8", "surrogatepass"))],
        reason=interface.HALF_CLOSE, by="c",
    )  # fmt: skip
    line = format_of(form).line(made)
    assert line.isascii()
    assert line.count("\n") == 1
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert len(line) <= select.PIPE_BUF
    if form == "json":
        found = json.loads(line)
        LINE.validate(found)
        short = target[:100].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert len(target) > 100 or (found["target"] or "") == short
    if form == "combined":
        assert len(re.findall(r'(?<!\\)"', line)) == 6


def test_the_longest_json_line_fits_a_pipe_write() -> None:
    leg = TcpInfo(*[(1 << 32) - 1] * 3, 0, 0, 0, *[(1 << 64) - 1] * 4)
    import struct

    raw = bytearray(256)
    struct.pack_into("=II", raw, 68, leg.rtt, leg.rttvar)
    struct.pack_into("=I", raw, 100, leg.retransmits)
    struct.pack_into("=QQQQ", raw, 160, *[(1 << 64) - 1] * 4)
    for character in ("x", '"', "\u00e9", "\U0001f600"):
        long = character * 9000
        made = record(
            client=long, method=long, target=long, user=long, peer=long, content_type=long,
            rule=long, detail=long, failed=long, error="http_response_transfer_coding",
            route=long, connect_by="address",
            tags={long[:20]: long[:60], **{f"{n}": "x" * 30 for n in range(50)}},
            bytes_in=1 << 65, bytes_out=1 << 65, spliced_in=1 << 64, spliced_out=1 << 64,
            seconds=1e12, looked_up=1e9, question=1 << 40, dial=1 << 40, first_byte=1 << 40,
        )  # fmt: skip
        made.inform(bytes(raw), bytes(raw), None)
        line = json_line.json_line(made)
        assert 3000 < len(line) <= select.PIPE_BUF
        LINE.validate(json.loads(line))
        assert len(note(made)) <= NOTE_MAX


# ---- squid's codes ---------------------------------------------------------------------------


def test_a_format_of_squids_codes_is_the_native_line() -> None:
    """squid.conf's own: %ts.%03tu %6tr %>a %Ss/%03>Hs %<st %rm %ru %[un %Sh/%<a %mt"""
    squid = CustomLine("%ts.%03tu %6tr %>a %Ss/%03>Hs %<st %rm %ru %[un %Sh/%<a %mt")
    for made in (
        record(),
        record(status=0, peer="", client="", user="", content_type="text/html; x"),
        record(target="/\u00e9 '", user="a%b", seconds=1e7, reason=interface.IDLE),
    ):
        assert squid(made) == format_of("squid").line(made)


def test_common_and_combined() -> None:
    made = record(
        fields=[(b"Referer", b"http://a/"), (b"user-agent", b'Mozilla "5.0" (\xe9\n)')],
        user="",
        minor=0,
    )
    line = format_of("combined").line(made)
    assert re.fullmatch(
        r"192\.0\.2\.7 - - \[0[789]/Oct/2010:\d\d:\d\d:48 [+-]\d{4}\] "
        r'"GET http://example\.com/\?q HTTP/1\.0" 200 1234 "http://a/" '
        r'"Mozilla \\"5\.0\\" \(\\xc3\\xa9\\x0a\)"\n',
        line,
    )
    assert line.startswith(format_of("common").line(made).rstrip("\n"))
    assert format_of("combined").fields
    assert not format_of("common").fields


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("%%", "%"),
        ("%tg{%Y}", "2010"),
        ("%{%Y-%m-%d}tg", "2010-10-08"),
        ("%-6un|", "ann   |"),
        ("%6un|", "   ann|"),
        ("%.2un|", "an|"),
        ("%06tr", "000180"),
        ("%>rd:%>rP", "example.com:80"),
        ("%<p", "80"),
        ("%dt", "-"),
        ("%st", "1333"),
        ("%err_code", "-"),
        ("%{team}note", "a%20b"),
        ('"%{team}note"', '"a b"'),
        ('%"{team}note', "a b"),
        ("%{other}note", "-"),
        ("%{id}json", "3-4711"),
        ("%{termination}json", "--"),
        ("%{out_spliced}json", "1000"),
        ("%{stalled}json", "-"),
        ("%{event}json", "end"),
    ],
)
def test_codes(form: str, text: str) -> None:
    assert CustomLine(form)(record(tags={"team": "a b"})) == f"{text}\n"


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ("%zz", "there is no code %zz; allowed: %% %>a"),
        ("a %", "'%' begins with no code; a percent sign is %%"),
        ("%'un", '"%\'un" begins with no code'),
        ("%{Foo} %>a", "there is no code behind %{Foo}; allowed: %{Foo}>h for a field of the"),
        ("%>a %{Foo}zz", "there is no code %zz (%{Foo}zz); allowed: %% %>a"),
        ("%{Foo", "'%{Foo' begins with no code"),
        ("%>h", r"needs the name of a field"),
        ("%note", r"needs the name of a tag"),
        ("%{nothing}json", r"needs a key of the JSON format: v, time"),
        ("%un\n", "one line of printable ASCII"),
        ("%un \u00e9", "one line of printable ASCII"),
        ("xml", "neither a name nor a format"),
        ("", "neither a name nor a format"),
    ],
)
def test_what_is_no_format(form: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its text is looked at
        check(form)
    assert why in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_names_are_formats(name: str) -> None:
    check(name)


def test_queries_are_left_out() -> None:
    made = record(detail="/?q=secret", target="/?secret")
    for form in FORMATS:
        assert "secret" not in format_of(form, query=False).line(made)
