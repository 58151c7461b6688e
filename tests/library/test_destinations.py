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
        ("pypi.org:443", "pypi.org", 443, True),
        ("PyPI.org.:443", "pypi.org", 443, True),
        ("pypi.org:443", "pypi.org.", 443, True),
        ("pypi.org:443", "pypi.org", 80, False),
        ("pypi.org:443", "evil-pypi.org", 443, False),
        ("pypi.org:443", "a.pypi.org", 443, False),
        ("pypi.org", "pypi.org", 8080, True),
        ("*.pypi.org", "a.b.pypi.org", 1, True),
        ("*.pypi.org:443", "a.pypi.org", 443, True),
        ("*.pypi.org:443", "a.pypi.org", 80, False),
        ("*.pypi.org", "pypi.org", 443, False),
        ("*.pypi.org", "evilpypi.org", 443, False),
        (".pypi.org", "pypi.org", 443, True),
        (".pypi.org", "a.b.pypi.org", 443, True),
        (".pypi.org", "evilpypi.org", 443, False),
        (".pypi.org:443", "pypi.org", 443, True),
        (".pypi.org:443", "a.pypi.org", 80, False),
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
        "https://pypi.org",
        "pypi.org:",
        "pypi.org:0",
        "pypi.org:x",
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
