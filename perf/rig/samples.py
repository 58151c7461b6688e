"""Heads for the suites: what browsers and origins send, the largest, and the worst."""

from __future__ import annotations


def request(extra: list[tuple[str, str]]) -> bytes:
    """A browser's GET through a proxy, with more fields."""
    fields = [
        ("Host", "www.example.com"),
        ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
        ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("Accept-Language", "en-GB,en;q=0.5"),
        ("Accept-Encoding", "gzip, deflate"),
        ("Referer", "http://www.example.com/"),
        ("Cookie", "session=0123456789abcdef0123456789abcdef; theme=dark"),
        ("Connection", "keep-alive"),
        ("Upgrade-Insecure-Requests", "1"),
        ("Priority", "u=0, i"),
        *extra,
    ]
    return _head("GET http://www.example.com/news/index.html?page=2 HTTP/1.1", fields)


def response(extra: list[tuple[str, str]]) -> bytes:
    """An origin's answer, with more fields."""
    fields = [
        ("Server", "nginx/1.26.2"),
        ("Date", "Tue, 15 Oct 2024 09:30:00 GMT"),
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Length", "10240"),
        ("Last-Modified", "Mon, 14 Oct 2024 08:00:00 GMT"),
        ("Connection", "keep-alive"),
        ("ETag", '"670cd000-2800"'),
        ("Cache-Control", "max-age=3600, public"),
        ("Vary", "Accept-Encoding"),
        ("Accept-Ranges", "bytes"),
        *extra,
    ]
    return _head("HTTP/1.1 200 OK", fields)


def _head(line: str, fields: list[tuple[str, str]]) -> bytes:
    lines = [line, *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode()


TYPICAL_REQUEST = request([])
TYPICAL_RESPONSE = response([])

LARGE_REQUEST = request([(f"X-Field-{i}", "v" * 140) for i in range(50)])
"""60 fields, 8 KiB: the largest that most servers take."""

LARGE_RESPONSE = response(
    [("Set-Cookie", f"c{i}={'v' * 120}; Path=/; Secure; HttpOnly") for i in range(50)]
)

HOSTILE_REQUESTS = {
    "fields": request([(f"f{i}", "") for i in range(240)]),
    "spaces": request([("a", " " * 40000 + "x")]),
    "folded": TYPICAL_REQUEST[:-2] + b"a: b\r\n c\r\n\r\n",
    "bare_lf": TYPICAL_REQUEST[:-2] + b"a: b\nc: d\r\n\r\n",
    "endless": request([("a", "x" * (1 << 17))])[: 1 << 16],
    "long_line": b"GET http://www.example.com/" + b"a" * 17000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
}
"""By name; a strict reader refuses all but the first two."""
