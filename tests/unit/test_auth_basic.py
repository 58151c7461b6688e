"""Basic credentials and the challenge (RFC 7617)."""

from __future__ import annotations

import base64

import pytest

from spliceproxy.policy.auth.basic import challenge, split, user_pass


def basic(pair: bytes) -> bytes:
    return b"Basic " + base64.b64encode(pair)


@pytest.mark.parametrize(
    "pair",
    [b"alice:secret", b"alice:", b":", b"a:b:c", "jörg:größe".encode(), b"a b: "],
)
def test_sound(pair: bytes) -> None:
    assert user_pass(basic(pair)) == pair


@pytest.mark.parametrize("scheme", [b"basic ", b"BASIC ", b"Basic   "])
def test_scheme_in_any_case(scheme: bytes) -> None:
    assert user_pass(scheme + base64.b64encode(b"a:b")) == b"a:b"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"Basic",
        b"Basic ",
        b"Basic\tYTpi",
        b"Bearer YTpi",
        b"Basicx YTpi",
        b"Basic YTpi!",
        b"Basic YT pi",
        b"Basic YTpi YTpi",
        b"Basic YTpi,Basic YTpi",
        b"Basic YTpiYw",  # padding is missing
        b"Basic YTpiYx==",  # the bits that padding hides are set
        b"Basic YTpiYw==YTpi",
        basic(b"alice"),
        basic(b"alice\0:secret"),
        basic(b"alice:sec\nret"),
        basic(b"alice:\x7f"),
    ],
)
def test_not_sound(value: bytes) -> None:
    assert user_pass(value) is None


def test_split() -> None:
    assert split(b"alice:a:b") == ("alice", b"a:b")
    assert split("jörg:ß".encode()) == ("jörg", "ß".encode())


def test_latin_1_becomes_utf_8() -> None:
    assert user_pass(basic("jörg:größe".encode("latin-1"))) == "jörg:größe".encode()


def test_challenge() -> None:
    assert challenge('a "b" \\') == (
        b'Proxy-Authenticate: Basic realm="a \\"b\\" \\\\", charset="UTF-8"'
    )


@pytest.mark.parametrize("realm", ["a\r\nSet-Cookie: b", "ä", "\0"])
def test_bad_realm(realm: str) -> None:
    with pytest.raises(ValueError, match=r"realm .* printable ASCII"):
        challenge(realm)
