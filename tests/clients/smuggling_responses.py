"""Responses that two readers could read in two ways, from a hostile origin, and others that
are odd but can be read in one way only."""

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
for name in ("field-bare-LF", "field-TE-name-space", "field-TE-name-tab"):
    # A coding that is read, and that the body does not have.
    CUT_RESPONSES[name] = BAD_RESPONSES.pop(name)
for name in ("CL-list-equal", "CL-bare-LF"):
    del BAD_RESPONSES[name]  # their lengths are a request's; there are others below

CLEANED_RESPONSES: dict[str, tuple[bytes, bytes]] = {
    "CL-list": (answer(b"Content-Length: 5, 5", body=b"hello" + BODY), b"hello"),
    "CL-LF": (answer(b"Content-Length: 7\n", body=b"hello" + BODY), b"\r\nhello"),
    "CL-space": (answer(b"Content-Length : 5", body=b"hello" + BODY), b"hello"),
    "204-CL": (answer(length(BODY), line=b"HTTP/1.1 204 None", body=BODY), b""),
    "204-TE": (answer(TE, line=b"HTTP/1.1 204 None", body=chunked(BODY)), b""),
    "304-TE-gzip": (
        answer(b"Transfer-Encoding: gzip", line=b"HTTP/1.1 304 None", body=BODY),
        b"",
    ),
    "TE-identity-until-close": (
        answer(b"Transfer-Encoding: identity", b"Connection: close", body=chunked(BODY)),
        chunked(BODY),
    ),
}
"""By name: (a response that can be read in one way only, its body). What reaches the client is
as it should have been, and nothing else that this connection says is for anyone."""

del BAD_RESPONSES["TE-identity"]  # it would end with the connection
for name, body in {
    "CL.TE": b"",
    "TE.CL": BODY,
    "TE-1.0": BODY,
    "status-none": b"poison",
    "status-LF": b"",
    "empty-line-first": b"",
    "100-bad": b"",
    "103-framing": b"",
    "TE-bare-LF-behind": BODY,
    "field-space-before-colon": b"",
    "field-tab-before-colon": b"",
    "field-obs-fold": b"",
    "field-obs-fold-tab": b"",
    "field-obs-fold-TE": b"",
    "field-SOH": b"",
    "field-DEL": b"",
    "field-vertical-tab": b"",
}.items():
    CLEANED_RESPONSES[name] = (BAD_RESPONSES.pop(name), body)
for name, body in {
    "space-behind": SMUGGLED,
    "tab-behind": SMUGGLED,
    "last-CRLF-LF": b"",
    "trailer-CL": b"",
    "trailer-TE": b"",
    "trailer-Host": b"",
    "trailer-obs-fold": b"",
    "trailer-space": b"",
    "trailer-LF": b"",
}.items():
    CLEANED_RESPONSES[f"chunk-{name}"] = (CUT_RESPONSES.pop(f"chunk-{name}"), body)

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

CLOSED_AT_ONCE = {"204-length", "204-chunked"}
"""Of these: what announces a body that it cannot have is not waited for."""
