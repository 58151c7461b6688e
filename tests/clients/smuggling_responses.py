"""Responses that two readers could read in two ways, from a hostile origin."""

from __future__ import annotations

from smuggling_requests import (
    CHUNKS,
    CL_TE_BODY,
    CODINGS,
    FIELDS,
    LENGTHS,
    SMUGGLED,
    TE,
    chunked,
    length,
)

BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
"""What must never be taken for a response of its own."""


def answer(*fields: bytes, body: bytes = b"", line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join([line, *fields]) + b"\r\n\r\n" + body


BAD_RESPONSES: dict[str, bytes] = {
    "CL.TE": answer(length(CL_TE_BODY), TE, body=b"0\r\n\r\n" + BODY),
    "TE.CL": answer(TE, b"Content-Length: 4", body=chunked(BODY)),
    "TE-1.0": answer(TE, body=chunked(BODY), line=b"HTTP/1.0 200 OK"),
    "CL.CL": answer(length(BODY), b"Content-Length: 0", body=BODY),
    "status-none": b"\r\n\r\n" + BODY,
    "status-LF": answer(b"Content-Length: 0").replace(b"\r\n", b"\n") + BODY,
    "status-2-digits": answer(line=b"HTTP/1.1 20 OK", body=BODY),
    "status-4-digits": answer(line=b"HTTP/1.1 2000 OK", body=BODY),
    "status-099": answer(line=b"HTTP/1.1 099 OK", body=BODY),
    "status-space": answer(line=b"HTTP/1.1  200 OK", body=BODY),
    "status-NUL": answer(line=b"HTTP/1.1 200 O\0K", body=BODY),
    "version-2.0": answer(line=b"HTTP/2.0 200 OK", body=BODY),
    "version-0.9": b"<html>hello</html>\r\n\r\n",
    "version-lower": answer(line=b"http/1.1 200 OK", body=BODY),
    "ICY": answer(line=b"ICY 200 OK", body=BODY),
    "request": SMUGGLED,
    "empty-line-first": b"\r\n" + answer(b"Content-Length: 0"),
    "many-fields": answer(*[b"A: b"] * 300),
    "large": answer(b"A: " + b"b" * 70_000),
    "101-unasked": answer(b"Connection: upgrade", b"Upgrade: x", line=b"HTTP/1.1 101 x", body=BODY),
    "100-bad": answer(b"X : y", line=b"HTTP/1.1 100 Continue", body=answer(b"Content-Length: 0")),
    "103-framing": answer(
        length(BODY), TE, line=b"HTTP/1.1 103 Early", body=answer(b"Content-Length: 0")
    ),
}
"""Responses that are answered with 502."""

for name, value in CODINGS.items():
    BAD_RESPONSES[f"TE-{name}"] = answer(b"Transfer-Encoding:" + value, body=chunked(BODY))
BAD_RESPONSES["TE-gzip-chunked"] = answer(b"Transfer-Encoding: gzip, chunked", body=chunked(BODY))
BAD_RESPONSES["TE-twice"] = answer(TE, TE, body=chunked(BODY))
for name, value in LENGTHS.items():
    BAD_RESPONSES[f"CL-{name}"] = answer(b"Content-Length: " + value, body=BODY)
for name, line in FIELDS.items():
    if not name.startswith("Host"):
        BAD_RESPONSES[f"field-{name}"] = answer(line, b"Content-Length: 0", body=BODY)

CUT_RESPONSES: dict[str, bytes] = {
    f"chunk-{name}": answer(TE, body=body) for name, body in CHUNKS.items()
}
"""Responses whose fault comes behind the head: what the client gets is cut short."""
CUT_RESPONSES["chunk-behind-data"] = answer(TE, body=b"5\r\nhello\r\n0x0\r\n\r\n" + BODY)

JUNK_RESPONSES: dict[str, tuple[bytes, bytes, bytes]] = {
    "second": (b"GET", answer(b"Content-Length: 5", body=b"hello"), BODY),
    "second-chunked": (b"GET", answer(TE, body=chunked(b"hello")), BODY),
    "HEAD": (b"HEAD", answer(b"Content-Length: %d" % len(BODY)), BODY),
    "HEAD-chunked": (b"HEAD", answer(TE), chunked(BODY)),
    "204": (b"GET", answer(line=b"HTTP/1.1 204 None"), BODY),
    "204-length": (b"GET", answer(length(BODY), line=b"HTTP/1.1 204 None"), BODY),
    "204-chunked": (b"GET", answer(TE, line=b"HTTP/1.1 204 None"), chunked(BODY)),
    "304": (b"GET", answer(length(BODY), line=b"HTTP/1.1 304 None"), BODY),
    "LF": (b"GET", answer(b"Content-Length: 0"), b"\n"),
    "CRLF": (b"GET", answer(b"Content-Length: 0"), b"\r\n"),
    "CR-behind-last-chunk": (b"GET", answer(TE, body=b"0\r\n\r\n"), b"\r"),
    "interim-behind": (b"GET", answer(b"Content-Length: 0"), b"HTTP/1.1 100 Continue\r\n\r\n"),
}
"""By name: (request method, a good response, what the origin sends behind it)."""
