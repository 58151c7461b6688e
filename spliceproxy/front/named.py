"""The name of the server in the first bytes of a client: that of its TLS, or of its request."""

from __future__ import annotations

import re

from spliceproxy.http1.errors import HeadError
from spliceproxy.http1.head import find_head_end, parse_request
from spliceproxy.tls import hello
from spliceproxy.tls.hello import MALFORMED, MOST, NAMED, NO_NAME, NOT_TLS, Hello

_REQUEST = re.compile(rb"[A-Za-z-]{1,32} [^ \r\n]+ HTTP/1\.[0-9]\r")


def name_in(data: bytes) -> Hello | None:
    """What the first bytes say, None while there are too few to know. Once there is an answer,
    more bytes do not change it."""
    if not data:
        return None
    if not data[:1].isalpha():
        return hello.read(data)
    line, end, _ = data[:MOST].partition(b"\n")
    if not end:
        return Hello(NOT_TLS) if len(data) >= MOST else None
    if not _REQUEST.fullmatch(line):
        return Hello(NOT_TLS)
    return _of_request(data)


def _of_request(data: bytes) -> Hello | None:
    try:
        end = find_head_end(bytearray(data))
        if end < 0:
            return Hello(MALFORMED) if len(data) >= MOST else None
        host = parse_request(data[:end]).host
    except HeadError:
        return Hello(MALFORMED)
    host = host.removesuffix(".")
    return Hello(NAMED, host) if host else Hello(NO_NAME)
