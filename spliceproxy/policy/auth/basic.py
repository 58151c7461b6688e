"""The Basic scheme (RFC 7617): credentials taken apart, and the challenge for them. No I/O."""

from __future__ import annotations

import binascii
import re

from spliceproxy.errors import Failure

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]").search
_REALM = re.compile(r"[\x20-\x7e]*").fullmatch


class Unauthenticated(Failure):
    """A client that must say who it is (407), or has to wait before it tries again (429).

    ``why`` is for the reason phrase; ``fields`` are the answer's further field lines, without
    CRLF. ``reason`` is one of relay.columns' UNIDENTIFIED.
    """

    def __init__(
        self,
        detail: str,
        status: int,
        fields: tuple[bytes, ...],
        *,
        why: str,
        reason: str = "wrong",
    ) -> None:
        super().__init__("http_request_denied", detail, status, why=why)
        self.fields = fields
        self.reason = reason


def user_pass(value: bytes) -> bytes | None:
    """``user:password`` of a Proxy-Authorization field's value, in UTF-8; None unless these are
    sound Basic credentials (RFC 7617 section 2)."""
    if value[:6].lower() != b"basic ":
        return None
    token = value[6:].lstrip(b" ")
    try:
        pair = binascii.a2b_base64(token)
    except binascii.Error:
        return None
    # The decoder passes over what is not base64.
    if binascii.b2a_base64(pair, newline=False) != token or b":" not in pair or _CONTROL(pair):
        return None
    try:
        pair.decode()
    except UnicodeDecodeError:
        # Many clients, requests and urllib3 among them, send Latin-1 whatever is asked for.
        pair = pair.decode("latin-1").encode()
    return pair


def split(pair: bytes) -> tuple[str, bytes]:
    """User and password of what :func:`user_pass` returned."""
    user, _, password = pair.partition(b":")
    return user.decode(), password


def challenge(realm: str) -> bytes:
    """The field line that asks for credentials (RFC 7617 sections 2 and 2.1)."""
    if not _REALM(realm):
        raise ValueError(f"realm {realm!r}: only printable ASCII is allowed")
    quoted = realm.replace("\\", "\\\\").replace('"', '\\"')
    return f'Proxy-Authenticate: Basic realm="{quoted}", charset="UTF-8"'.encode("ascii")
