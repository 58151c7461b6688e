"""Changes to a message that a fuzzer would not find by flipping bits."""

from __future__ import annotations

import random

PIECES = [
    *(b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b"\x0b", b"\x7f", b"\x80", b"\xff", b"\r\n\r\n"),
    *(b":", b": ", b",", b", ", b";", b'"', b"#", b"@", b"/", b"?", b"*", b"[::1]", b"%41", b"\\"),
    *(b"0", b"1", b"5", b"00", b"0x", b"+", b"-", b"f" * 16, b"9" * 18, b"0\r\n\r\n", b"5\r\n"),
    *(b"hello", b"5\r\nhello\r\n", b"0\r\nA: b\r\n\r\n", b";a=b", b'; a="b;c"', b";\n"),
    *(b"chunked", b"gzip, ", b"identity", b"close", b"keep-alive", b"upgrade", b"trailers"),
    *(b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"GET ", b"HEAD ", b"POST ", b"CONNECT h:1 "),
    *(
        b"http://",
        b"http://h/",
        b"h:80",
        b"OPTIONS * ",
        b"200 OK",
        b"100 ",
        b"101 ",
        b"204 ",
        b"304 ",
    ),
    *(b"Host: h\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Connection: content-length\r\n"),
    *(b"Connection: upgrade\r\nUpgrade: x\r\n", b"Expect: 100-continue\r\n", b"TE: trailers\r\n"),
    *(b"Date: d\r\n", b"Content-Length: 2\r\n", b"Close: a\r\n", b"Host: \r\n", b"Via: 1.1 sp\r\n"),
    *(b"Content-Length: 5, 5\r\n", b"Transfer-Encoding: identity\r\n", b"5  \r\n", b" :", b"\n\n"),
    *(b"\r\n ", b"\n\t", b"\x01", b"HTTP/1.9", b"\xc3\xa4"),
    *(b"Trailer: a\r\n", b"Via: 1.1 x\r\n", b"Forwarded: for=x\r\n", b"X-Forwarded-For: \r\n"),
    *(
        b"Proxy-Connection: close\r\n",
        b"Max-Forwards: 1\r\n",
        b"A: b\r\n",
        b" folded\r\n",
        b"A :b\r\n",
    ),
    *(
        b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ),
]


def mutated(data: bytes, other: bytes, rng: random.Random, most: int) -> bytes:
    """``data`` with a few changes, maybe with a part of ``other``; at most ``most`` bytes."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
        data = _changed(data, other, rng)
    return data[:most]


def _changed(data: bytes, other: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((0, 0, 1, 1, 2, 4, 16)))
    kind = rng.randrange(8)
    if kind < 3:
        return data[:at] + rng.choice(PIECES) + data[end:]
    if kind == 3:
        return data[:at] + data[end:]
    if kind == 4:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    if kind == 5:  # a piece again, and again
        return data[:end] + data[at:end] * rng.choice((1, 1, 2, 60)) + data[end:]
    lines = data.split(b"\r\n")
    if kind == 6:  # a line moved, or doubled
        line = lines.pop(rng.randrange(len(lines))) if rng.random() < 0.5 else rng.choice(lines)
        lines.insert(rng.randrange(len(lines) + 1), line)
        return b"\r\n".join(lines)
    start = rng.randrange(len(other) + 1)
    return data[:at] + other[start : start + rng.randrange(64)] + data[end:]
