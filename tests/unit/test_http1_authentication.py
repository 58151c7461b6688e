"""Which credentials and challenges bind a connection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spliceproxy.http1.authentication import (
    PER_REQUEST,
    challenges_bind,
    request_binds,
    response_binds,
)
from spliceproxy.http1.head import RequestHead, ResponseHead


def asked(*values: bytes) -> RequestHead:
    fields = [(b"Authorization", value) for value in values]
    return RequestHead("GET", "/", 1, fields, "origin", "", "h", 80, "/")


def answered(*values: bytes) -> ResponseHead:
    return ResponseHead(1, 401, b"", [(b"WWW-Authenticate", value) for value in values])


def test_a_message_without_the_fields_binds_nothing() -> None:
    assert not request_binds(asked())
    assert not response_binds(answered())


@pytest.mark.parametrize("scheme", sorted(PER_REQUEST))
@pytest.mark.parametrize("spelled", [bytes.lower, bytes.upper, bytes.title])
def test_schemes_of_one_request(scheme: bytes, spelled: object) -> None:
    name = spelled(scheme)  # type: ignore[operator]
    assert not request_binds(asked(name + b" abc=="))
    assert not request_binds(asked(name))
    assert not challenges_bind(answered(name))
    assert not challenges_bind(answered(name + b' realm="x", a=b'))


@pytest.mark.parametrize(
    "value",
    [
        *(b"NTLM", b"NTLM a==", b"ntlm a", b"Negotiate a", b"Kerberos a", b"Passport1.4 a=b"),
        *(b"", b"=", b"Basic\ta", b"Basic,a", b'"Basic" a', b"Basic=a", b"Basi a", b"Basicc a"),
        *(b"\xe9 a", b"abcdef0123456789"),
    ],
)
def test_any_other_binds(value: bytes) -> None:
    assert request_binds(asked(value))
    assert request_binds(asked(b"Basic a", value))
    assert request_binds(asked(value, b"Basic a"))


@pytest.mark.parametrize(
    ("value", "binds"),
    [
        (b"", False),
        (b",, ,", False),
        (b"Basic", False),
        (b"Basic a==", False),
        (b'Basic realm="x"', False),
        (b"Basic realm=x", False),
        (b'Basic realm = "x"', False),
        (b'Basic realm="NTLM, Negotiate"', False),
        (b'Basic realm="a\\", NTLM"', False),
        (b'Basic realm="a\\\\", NTLM', True),
        (b'Basic realm="x", charset="UTF-8"', False),
        (b'Basic realm="x",charset=UTF-8 ,Bearer', False),
        (b'Digest realm="x", nonce=ab+/==, qop="auth,auth-int", Basic realm="y"', False),
        (b"NTLM", True),
        (b"nEGOTIATE oYG2MIGz==", True),
        (b"Basic, NTLM", True),
        (b"Basic,NTLM", True),
        (b'Basic realm="x", NTLM', True),
        (b'Basic realm="x", NTLM abc=', True),
        (b'Basic realm="x", NTLM a=b', True),
        (b'Basic realm="x" , , negotiate ,', True),
        (b'NTLM, Basic realm="x"', True),
        (b'realm="x"', True),
        (b", realm=x", True),
        (b"Basic realm=My Realm", True),
        (b'Basic realm="x', True),
        (b'Basic realm="x\\"', True),
        (b'Basic realm="x" NTLM', True),
        (b"Basic\tNTLM", True),
        (b"Basic;NTLM", True),
        (b"\xff", True),
    ],
)
def test_challenges(value: bytes, binds: bool) -> None:  # RFC 9110 11.6.1
    assert challenges_bind(answered(value)) is binds
    assert challenges_bind(answered(b"Basic", value)) is binds
    assert challenges_bind(answered(value, b"Bearer")) is binds
    assert response_binds(answered(value)) is binds


@pytest.mark.parametrize("name", [b"Proxy-Support", b"PERSISTENT-AUTH"])
def test_fields_of_sessions(name: bytes) -> None:
    head = ResponseHead(1, 200, b"", [(name, b"x")])
    assert response_binds(head)
    assert not challenges_bind(head)


schemes = st.sampled_from(sorted(PER_REQUEST)) | st.sampled_from([b"NTLM", b"X-Other", b"hoba2"])
quoted = st.from_regex(rb'"([^"\\\r\n\0]|\\[^\r\n\0]){0,9}"', fullmatch=True)
tokens = st.from_regex(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,9}", fullmatch=True)
parameters = st.tuples(tokens, st.sampled_from([b"=", b" = ", b"=\t"]), quoted | tokens).map(
    b"".join
)


@st.composite
def challenges(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A scheme, and a challenge of it."""
    scheme = draw(schemes)
    kind = draw(st.integers(0, 2))
    if kind == 0:
        return scheme, scheme
    if kind == 1:
        return scheme, scheme + b" " + draw(
            st.from_regex(rb"[0-9A-Za-z._~+/-]{1,9}=*", fullmatch=True)
        )
    separator = draw(st.sampled_from([b",", b", ", b" ,\t", b",,"]))
    return scheme, scheme + b" " + separator.join(
        draw(st.lists(parameters, min_size=1, max_size=4))
    )


@given(st.lists(challenges(), min_size=1, max_size=5), st.sampled_from([b",", b", ", b" , ,"]))
def test_any_list_of_challenges(made: list[tuple[bytes, bytes]], separator: bytes) -> None:
    expected = any(scheme.lower() not in PER_REQUEST for scheme, _ in made)
    assert challenges_bind(answered(separator.join(text for _, text in made))) is expected
    assert challenges_bind(answered(*(text for _, text in made))) is expected


@given(st.binary(max_size=60))
def test_any_value_is_read(value: bytes) -> None:
    request_binds(asked(value))
    challenges_bind(answered(value))
