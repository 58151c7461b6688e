"""What a denial looks like: to a person, to a program, and in the access log."""

from __future__ import annotations

import json

import pytest

from spliceproxy.errors import Denied
from spliceproxy.observe.native_line import format_line
from spliceproxy.observe.record import Record
from spliceproxy.site.pages import Denial, error_page

DENIAL = Denial("no-metadata", "It is <not> allowed.", "Ask & wait.")


def page(*accept: bytes, denial: Denial = DENIAL, status: int = 403) -> tuple[str, bytes]:
    """The media type and the body."""
    answer = error_page(
        status,
        "http_request_denied",
        f"rule {denial.rule}",
        close=False,
        date=b"now",
        denial=denial._replace(accept=accept),
    )
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert b'Proxy-Status: spliceproxy; error=http_request_denied; details="rule ' in head
    assert b"Content-Length: %d" % len(body) in lines
    (kind,) = [line[14:] for line in lines if line.startswith(b"Content-Type: ")]
    return kind.decode(), body


TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"
PROBLEM = "application/problem+json"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ([], TEXT),
        ([b""], TEXT),
        ([b"*/*"], TEXT),
        ([b"text/*"], TEXT),
        ([b"image/png"], TEXT),
        ([b"text/html"], HTML),
        ([b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"], HTML),
        ([b"application/json"], PROBLEM),
        ([b"application/problem+json"], PROBLEM),
        ([b"application/json, text/plain, */*"], PROBLEM),
        ([b"application/json;q=0.5, text/html;q=0.9"], HTML),
        ([b"application/json ; q=0.9 , text/html; q=0.5"], PROBLEM),
        ([b"text/html;q=0, */*"], TEXT),
        ([b"text/html;q=0"], TEXT),
        ([b"text/html;q=7, application/json;q=0.1"], PROBLEM),
        ([b"text/html;level=1;q=0.3", b"Application/JSON;Q=0.4"], PROBLEM),
        ([b",;,q=1,\xff/\xff"], TEXT),
    ],
)
def test_the_form_that_the_client_prefers(accept: list[bytes], kind: str) -> None:
    assert page(*accept)[0] == kind


def test_text() -> None:
    assert page() == (
        TEXT,
        b"403 Forbidden\nIt is <not> allowed.\nRule: no-metadata\nAsk & wait.\n",
    )
    assert b"Rule" not in page(denial=DENIAL._replace(rule=""))[1]


def test_html() -> None:
    body = page(b"text/html")[1].decode()
    assert "<p>It is &lt;not&gt; allowed.</p>" in body
    assert "<p>Rule: <code>no-metadata</code></p>" in body
    assert "<p>Ask &amp; wait.</p>" in body
    assert "Rule" not in page(b"text/html", denial=DENIAL._replace(rule=""))[1].decode()


def test_problem() -> None:
    """RFC 9457."""
    assert json.loads(page(b"application/json", status=451)[1]) == {
        "title": "Unavailable For Legal Reasons",
        "status": 451,
        "detail": "It is <not> allowed.",
        "rule": "no-metadata",
        "advice": "Ask & wait.",
    }
    assert "rule" not in json.loads(page(b"application/json", denial=DENIAL._replace(rule=""))[1])


def test_the_words_of_a_rule_stand_in_for_ours() -> None:
    denied = Denied("Ours.", "r", words="Ask <us>.")
    denial = Denial(denied.rule, denied.reason, denied.advice, words=denied.words)
    assert page(denial=denial)[1] == b"403 Forbidden\nAsk <us>.\nRule: r\n"
    assert page(b"text/html", denial=denial)[1].count(b"<p>") == 2
    assert json.loads(page(b"application/json", denial=denial)[1]) == {
        "title": "Forbidden",
        "status": 403,
        "detail": "Ask <us>.",
        "rule": "r",
    }


@pytest.mark.parametrize("accept", [b"text/plain", b"text/html", b"application/json"])
def test_a_hooks_words_do_no_harm(accept: bytes) -> None:
    denial = Denial('a\x1b[2J"b', "\x1b[31m\ud800<script>", "\u202e")
    body = page(accept, denial=denial)[1]
    assert b"\x1b" not in body
    assert "\u202e".encode() not in body
    assert b"<script>" not in body or accept != b"text/html"


def test_the_access_log() -> None:
    record = Record("10.0.0.7", 0.0)
    record.method, record.target, record.status = "CONNECT", "a.test:443", 403
    record.error, record.rule = "http_request_denied", "no metadata\n"
    line = format_line(record)
    assert " TCP_DENIED/403 " in line
    assert line.endswith(" rule=no%20metadata%0A in=0\n")
    record.rule, record.words = "ask", "Ask us, in #a=b \u00e4"
    assert format_line(record).endswith(" rule=ask reason=Ask%20us,%20in%20#a=b%20%C3%A4 in=0\n")
    record.rule, record.words, record.target = "x" * 5000, " " * 5000, "y" * 5000
    record.user, record.method = " " * 5000, "z" * 5000
    assert len(format_line(record)) < 4096
    record.rule = ""
    assert format_line(record).endswith(" error=http_request_denied in=0\n")
