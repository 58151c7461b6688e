"""What must hold for any bytes on the relay's own path: see plain_oracle."""

from __future__ import annotations

import importlib.util
import random
import zlib

from plain_oracle import Plain, check_requests, check_response

from spliceproxy.relay.choice import NATIVE_MODULE

MOST = 256
"""Requests in one input: each costs some system calls."""

_plains: list[Plain] = []


def check_plain(data: bytes) -> int:
    """All checks, for ``data`` as what it looks like: responses or requests. How many
    messages the relay has passed on; nothing is checked where it is not compiled."""
    if importlib.util.find_spec(NATIVE_MODULE) is None:
        return 0
    if not _plains:
        _plains.extend((Plain(), Plain(b"")))
    rng = random.Random(zlib.crc32(data))
    plain = _plains[rng.random() < 0.2]
    if data[:4].upper() == b"HTTP":
        line, end, rest = data.partition(b"\r\n")
        served = 0
        for answer in (data, line + end + b"Date: d\r\n" + rest):
            method = rng.choice((b"GET", b"GET", b"HEAD"))
            last = rng.random() < 0.5
            cut = rng.randrange(len(data) + 1) if rng.random() < 0.3 else 0
            served += check_response(plain, answer, method, last=last, cut=cut)
        return served
    if data.count(b"HTTP/1.1") > MOST:
        return 0
    cuts = [rng.randrange(len(data) + 1)] if data and rng.random() < 0.3 else []
    return check_requests(plain, data, cuts)


def close() -> None:
    """Closes what the checks have opened."""
    for plain in _plains:
        plain.close()
    _plains.clear()
