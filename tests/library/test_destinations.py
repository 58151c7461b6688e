"""Sets of destinations."""

from __future__ import annotations

import pytest

from spliceproxy.embed.destinations import Destinations
from spliceproxy.observe.record import Record


def to(host: str, port: int) -> Record:
    record = Record("127.0.0.1", 0.0)
    record.host, record.port = host, port
    return record


@pytest.mark.parametrize(
    ("pattern", "host", "port", "inside"),
    [
        ("github.com:443", "github.com", 443, True),
        ("GitHub.com.:443", "github.com", 443, True),
        ("github.com:443", "github.com.", 443, True),
        ("github.com:443", "github.com", 80, False),
        ("github.com:443", "evil-github.com", 443, False),
        ("github.com:443", "a.github.com", 443, False),
        ("github.com", "github.com", 8080, True),
        ("*.github.com", "a.b.github.com", 1, True),
        ("*.github.com:443", "a.github.com", 443, True),
        ("*.github.com:443", "a.github.com", 80, False),
        ("*.github.com", "github.com", 443, False),
        ("*.github.com", "evilgithub.com", 443, False),
        (".github.com", "github.com", 443, True),
        (".github.com", "a.b.github.com", 443, True),
        (".github.com", "evilgithub.com", 443, False),
        (".github.com:443", "github.com", 443, True),
        (".github.com:443", "a.github.com", 80, False),
        ("bücher.example", "xn--bcher-kva.example", 443, True),
        ("127.0.0.1:80", "0x7f.1", 80, True),
        ("[::1]:80", "::1", 80, True),
        ("[::1]", "::1", 80, True),
        ("[::1]:80", "::1", 81, False),
        ("example.org", "not~a~host", 80, False),
    ],
)
def test_contains(pattern: str, host: str, port: int, inside: bool) -> None:
    assert (to(host, port) in Destinations(["other.example:1", pattern])) is inside
    assert to(host, port) not in Destinations([])


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "https://github.com",
        "github.com:",
        "github.com:0",
        "github.com:x",
        "a b",
        "*.",
        "*",
        ".",
        "/x/",
        "//x",
    ],
)
def test_bad_pattern(pattern: str) -> None:
    with pytest.raises(ValueError, match="no destination"):
        Destinations([pattern])
