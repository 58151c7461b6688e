"""Requests that two readers could read in two ways, after the corpora of
the HTTP Garden and of the literature on request smuggling.

``ORIGIN`` in the bytes is replaced by the origin's address, which is as long: body
lengths stay right. A request case ends where the next request may begin. Its expected
result is a tuple of statuses, one of which the proxy answers by itself before it closes
the connection, or the number of requests that reach the origin. ``SMUGGLED`` is what
must never be taken for a request of its own.
"""

from __future__ import annotations

ORIGIN = b"127.0.0.1:00000"
SMUGGLED = b"GET http://" + ORIGIN + b"/smuggled HTTP/1.1\r\nHost: " + ORIGIN + b"\r\n\r\n"
HOST = b"Host: " + ORIGIN
TE = b"Transfer-Encoding: chunked"

Expected = int | tuple[int, ...]

REQUESTS: dict[str, tuple[bytes, Expected]] = {}
"""By name: (bytes, expected)."""


def message(
    *fields: bytes,
    body: bytes = b"",
    method: bytes = b"POST",
    target: bytes = b"http://" + ORIGIN + b"/case",
    version: bytes = b"HTTP/1.1",
    host: bytes = HOST,
) -> bytes:
    lines = [method + b" " + target + b" " + version, *([host] if host else []), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def add(name: str, data: bytes, expected: Expected = (400,)) -> None:
    assert name not in REQUESTS, name
    REQUESTS[name] = (data, expected)


def length(body: bytes) -> bytes:
    return b"Content-Length: %d" % len(body)


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"


# --- Content-Length against Transfer-Encoding (RFC 9112 6.1, 6.3) -----------------------

CL_TE_BODY = b"0\r\n\r\n" + SMUGGLED
TE_CL_BODY = chunked(SMUGGLED)

add("CL.TE", message(length(CL_TE_BODY), TE, body=CL_TE_BODY))
add("TE.CL", message(TE, b"Content-Length: 4", body=TE_CL_BODY))
add("CL-0.TE", message(b"Content-Length: 0", TE, body=TE_CL_BODY))
add("TE.CL-0", message(TE, b"Content-Length: 0", body=TE_CL_BODY))
add("TE-GET.CL", message(TE, b"Content-Length: 4", body=TE_CL_BODY, method=b"GET"))
add("CL-bad.TE", message(b"Content-Length: x", TE, body=CL_TE_BODY))

CODINGS = {
    "xchunked": b" xchunked",
    "chunkedx": b" chunkedx",
    "identity": b" identity",
    "gzip": b" gzip",
    "chunked-gzip": b" chunked, gzip",
    "chunked-identity": b" chunked, identity",
    "identity-comma": b" identity, chunked, identity",
    "doubled": b" chunked, chunked",
    "comma-behind": b" chunked,",
    "comma-before": b" ,chunked",
    "commas": b",,chunked",
    "semicolon": b" chunked;",
    "parameter": b" chunked;q=1",
    "double-quoted": b' "chunked"',
    "single-quoted": b" 'chunked'",
    "backquoted": b" `chunked`",
    "braced": b" {chunked}",
    "space-inside": b" chun ked",
    "two-words": b" chunked x",
    "two-words-before": b" x chunked",
    "vertical-tab": b" \x0bchunked",
    "vertical-tab-behind": b" chunked\x0b",
    "form-feed": b" \x0cchunked",
    "NUL": b" chunked\0",
    "NUL-before": b" \0chunked",
    "backspace": b" chunked\x08",
    "DEL": b" chunked\x7f",
    "NBSP": b" \xa0chunked",
    "NEL": b" chunked\x85",
    "BOM": b" \xef\xbb\xbfchunked",
    "long-s": b" chunk\xc4\x97d",
    "bare-CR": b" \rchunked",
    "bare-CR-behind": b" chunked\r",
    "bare-LF-behind": b" chunked\nX: y",
    "obs-fold": b"\r\n chunked",
    "obs-fold-tab": b"\r\n\tchunked",
    "obs-fold-behind": b" chunked\r\n x",
    "empty": b"",
    "plus": b" +chunked",
    "equals": b"=chunked",
    "colon": b": chunked",
}
for name, value in CODINGS.items():
    field = b"Transfer-Encoding:" + value
    add(f"TE-{name}", message(field, body=TE_CL_BODY))
    add(f"TE-{name}.CL", message(field, length(TE_CL_BODY), body=TE_CL_BODY))
    add(f"CL.TE-{name}", message(length(CL_TE_BODY), field, body=CL_TE_BODY))
add("TE-gzip-chunked", message(b"Transfer-Encoding: gzip, chunked", body=TE_CL_BODY), (501,))
add("TE-deflate.TE", message(b"Transfer-Encoding: deflate", TE, body=TE_CL_BODY), (501,))
add(
    "TE-identity-chunked", message(b"Transfer-Encoding: identity, chunked", body=TE_CL_BODY), (501,)
)
add("TE.TE", message(TE, TE, body=TE_CL_BODY))
add("TE.TE-identity", message(TE, b"Transfer-Encoding: identity", body=TE_CL_BODY))
add("TE.TE-cow", message(TE, b"Transfer-encoding: cow", body=TE_CL_BODY))
add("TE.TE-empty", message(TE, b"Transfer-Encoding:", body=TE_CL_BODY))
add("TE-tab-behind", message(b"Transfer-Encoding: chunked\t", body=TE_CL_BODY))
add("TE-1.0", message(TE, body=TE_CL_BODY, version=b"HTTP/1.0"))
add("TE-1.0.CL", message(TE, b"Content-Length: 4", body=TE_CL_BODY, version=b"HTTP/1.0"))
add(
    "TE-1.0-keep-alive",
    message(TE, b"Connection: keep-alive", body=TE_CL_BODY, version=b"HTTP/1.0"),
)

for name, value in {
    "plain": b" chunked",
    "upper": b" CHUNKED",
    "tab": b"\tchunked",
    "none": b"chunked",
}.items():
    add(f"TE-good-{name}", message(b"Transfer-Encoding:" + value, body=TE_CL_BODY), 2)
add("TE-good-name", message(b"tRANSFER-eNCODING: chunked", body=TE_CL_BODY), 2)
add("TE-good-GET", message(TE, body=TE_CL_BODY, method=b"GET"), 2)
add("TE-good-DELETE", message(TE, body=TE_CL_BODY, method=b"DELETE"), 2)
# The field is ours to write, and Connection does not take the framing away.
add("TE-nominated", message(TE, b"Connection: transfer-encoding", body=TE_CL_BODY), 2)

# --- Content-Length (RFC 9110 8.6) ------------------------------------------------------

N = b"%d" % len(SMUGGLED)
LENGTHS = {
    "plus": b"+" + N,
    "minus": b"-" + N,
    "minus-zero": b"-0",
    "hex": b"0x%x" % len(SMUGGLED),
    "octal": b"0o155",
    "list-equal": N + b", " + N,
    "list-differs": N + b", 0",
    "list-open": N + b",",
    "list-before": b"," + N,
    "two-numbers": N + b" 0",
    "two-numbers-tab": b"0\t" + N,
    "dot": N + b".0",
    "exponent": b"1e2",
    "underscore": b"1_0",
    "quoted": b'"' + N + b'"',
    "semicolon": N + b";",
    "letters": N + b"abc",
    "word": b"chunked",
    "empty": b"",
    "comma": b",",
    "NUL": N + b"\0",
    "vertical-tab": b"\x0b" + N,
    "form-feed": N + b"\x0c",
    "bare-CR": N + b"\r",
    "bare-LF": N + b"\n",
    "NBSP": b"\xa0" + N,
    "arabic": b"\xd9\xa5",
    "superscript": b"\xb2",
    "obs-fold": N + b"\r\n 0",
    "obs-fold-before": b"\r\n " + N,
    "19-digits": b"9" * 19,
    "2^63": b"%d" % (1 << 63),
    "2^64": b"%d" % (1 << 64),
    "2^64-and-more": b"%d" % ((1 << 64) + len(SMUGGLED)),
    "2^32-and-more-bits": b"%d" % ((1 << 96) + len(SMUGGLED)),
}
for name, value in LENGTHS.items():
    add(f"CL-{name}", message(b"Content-Length: " + value, body=SMUGGLED))
add("CL.CL", message(length(SMUGGLED), b"Content-Length: 0", body=SMUGGLED))
add("CL-0.CL", message(b"Content-Length: 0", length(SMUGGLED), body=SMUGGLED))
add("CL.CL-spelled", message(length(SMUGGLED), b"content-length: 0", body=SMUGGLED))
add("CL.CL-zeros", message(length(SMUGGLED), b"Content-Length: 0" + N, body=SMUGGLED))
add("CL.CL-empty", message(length(SMUGGLED), b"Content-Length:", body=SMUGGLED))
add("CL.CL-plus", message(length(SMUGGLED), b"Content-Length: +" + N, body=SMUGGLED))
add("CL.CL.CL", message(length(SMUGGLED), length(SMUGGLED), b"Content-Length: 0", body=SMUGGLED))
add("CL-name-space", message(b"Content-Length : " + N, body=SMUGGLED))
add("CL-name-tab", message(b"Content-Length\t: " + N, body=SMUGGLED))
add("CL-name-NUL", message(b"Content-Length\0: " + N, body=SMUGGLED))
add("CL-name-CR", message(b"Content-Length\r: " + N, body=SMUGGLED))
add("CL-name-space-before", message(b"X: y", b" Content-Length: " + N, body=SMUGGLED))
add("CL-first-line-space", message(b" Content-Length: " + N, body=SMUGGLED, host=b""))

add("CL-good", message(length(SMUGGLED), body=SMUGGLED), 2)
add("CL-good-zeros", message(b"Content-Length: 0000" + N, body=SMUGGLED), 2)
add("CL-good-OWS", message(b"Content-Length: \t" + N + b" \t", body=SMUGGLED), 2)
add("CL-good-doubled", message(length(SMUGGLED), length(SMUGGLED), body=SMUGGLED), 2)
add("CL-good-GET", message(length(SMUGGLED), body=SMUGGLED, method=b"GET"), 2)
add("CL-good-HEAD", message(length(SMUGGLED), body=SMUGGLED, method=b"HEAD"), 2)
add("CL-good-OPTIONS", message(length(SMUGGLED), body=SMUGGLED, method=b"OPTIONS"), 2)
add("CL-good-1.0", message(length(SMUGGLED), body=SMUGGLED, version=b"HTTP/1.0"), 1)
add("CL-other-name", message(b"Content_Length: " + N, b"Content-Lengt\x68: 0", method=b"GET"), 2)
add("CL-underscore-name", message(b"Content_Length: " + N, length(SMUGGLED), body=SMUGGLED), 2)
add("CL-nominated", message(b"Connection: content-length", length(SMUGGLED), body=SMUGGLED), 2)
add(
    "CL-nominated-close",
    message(b"Connection: close, content-length", length(SMUGGLED), body=SMUGGLED),
    1,
)
add("Host-nominated", message(b"Connection: host", length(SMUGGLED), body=SMUGGLED), 2)
add("CL-0-GET", message(b"Content-Length: 0", method=b"GET"), 2)

# --- chunked (RFC 9112 7.1) -------------------------------------------------------------

H = b"%x" % len(SMUGGLED)
END = b"\r\n0\r\n\r\n"
CHUNKS = {
    "0x": b"0x" + H + b"\r\n" + SMUGGLED + END,
    "0X": b"0X" + H + b"\r\n" + SMUGGLED + END,
    "plus": b"+" + H + b"\r\n" + SMUGGLED + END,
    "minus": b"-" + H + b"\r\n" + SMUGGLED + END,
    "minus-one": b"-1\r\n" + SMUGGLED,
    "underscore": b"0_0\r\n\r\n" + SMUGGLED,
    "empty-size": b"\r\n" + SMUGGLED + END,
    "space-before": b" " + H + b"\r\n" + SMUGGLED + END,
    "space-behind": H + b" \r\n" + SMUGGLED + END,
    "tab-behind": H + b"\t\r\n" + SMUGGLED + END,
    "two-sizes": H + b" 0\r\n" + SMUGGLED + END,
    "two-sizes-comma": H + b",0\r\n" + SMUGGLED + END,
    "quoted": b'"' + H + b'"\r\n' + SMUGGLED + END,
    "h-behind": H + b"h\r\n" + SMUGGLED + END,
    "NUL": H + b"\0\r\n" + SMUGGLED + END,
    "vertical-tab": b"\x0b" + H + b"\r\n" + SMUGGLED + END,
    "fullwidth": b"\xef\xbc\x95\r\n" + SMUGGLED + END,
    "2^63": b"8000000000000000\r\n" + SMUGGLED + END,
    "2^64-1": b"ffffffffffffffff\r\n" + SMUGGLED + END,
    "2^64": b"10000000000000000\r\n" + SMUGGLED + END,
    "2^64-and-more": b"1" + b"0" * (16 - len(H)) + H + b"\r\n" + SMUGGLED + END,
    "2^32-and-more-zeros": b"0" * 20 + H + b"\r\n" + SMUGGLED + END,
    "bare-LF": H + b"\n" + SMUGGLED + END,
    "bare-CR": H + b"\r" + SMUGGLED + END,
    "CR-CR-LF": H + b"\r\r\n" + SMUGGLED + END,
    "LF-CR": H + b"\n\r" + SMUGGLED + END,
    "last-bare-LF": b"0\n\n" + SMUGGLED,
    "last-LF-CRLF": b"0\n\r\n" + SMUGGLED,
    "last-CRLF-LF": b"0\r\n\n" + SMUGGLED,
    "last-bare-CR": b"0\r\r" + SMUGGLED,
    "last-CR-x": b"0\r\n\rx" + SMUGGLED,
    "last-xx": b"0\r\nxx" + SMUGGLED,
    "ext-LF": H + b";a\n" + SMUGGLED + END,  # TERM.EXT
    "ext-LF-size": b"2;\nxx\r\n" + H + b"\r\n0\r\n\r\n" + SMUGGLED + END,
    "ext-LF-quoted": H + b';a="\n"\r\n' + SMUGGLED + END,
    "ext-CR": H + b";a\rb\r\n" + SMUGGLED + END,
    "ext-CR-x": b"5;\rx\r\nhello\r\n0\r\n\r\n",
    "ext-NUL": H + b";a\0\r\n" + SMUGGLED + END,
    "ext-too-long": H + b";" + b"a" * 2000 + b"\r\n" + SMUGGLED + END,
    "no-CRLF-behind": H + b"\r\n" + SMUGGLED + b"0\r\n\r\n",
    "LF-behind": H + b"\r\n" + SMUGGLED + b"\n0\r\n\r\n",
    "CR-x-behind": b"5\r\nhello\rx0\r\n\r\n" + SMUGGLED,
    "xx-behind": b"5\r\nhelloxx0\r\n\r\n" + SMUGGLED,  # a reader that skips two bytes
    "spill": b"3\r\nhello\r\n0\r\n\r\n" + SMUGGLED,
    "short": b"6\r\nhello\r\n0\r\n\r\n" + SMUGGLED,
    "semicolon-only": b";\r\n" + SMUGGLED + END,
    "trailer-CL": b"0\r\nContent-Length: 5\r\n\r\n",
    "trailer-TE": b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "trailer-Host": b"0\r\nHost: x\r\n\r\n",
    "trailer-obs-fold": b"0\r\nA: b\r\n c\r\n\r\n",
    "trailer-space": b"0\r\nA : b\r\n\r\n",
    "trailer-no-colon": b"0\r\nA\r\n\r\n",
    "trailer-LF": b"0\r\nA: b\n\r\n",
    "trailer-CR": b"0\r\nA: b\rC: d\r\n\r\n",
    "trailer-NUL": b"0\r\nA: \0\r\n\r\n",
    "trailer-request": b"0\r\n" + SMUGGLED,  # a trailer section that looks like a request
}
for name, body in CHUNKS.items():
    add(f"chunk-{name}", message(TE, body=body))

GOOD_CHUNKS = {
    "zeros": b"000000" + H + b"\r\n" + SMUGGLED + b"\r\n0000\r\n\r\n",
    "upper": H.upper() + b"\r\n" + SMUGGLED + END,
    "ext": H + b";a=b\r\n" + SMUGGLED + b"\r\n0;c\r\n\r\n",
    "ext-quoted": H + b';a="0;x"\r\n' + SMUGGLED + END,
    "ext-space": H + b" ; a = b\r\n" + SMUGGLED + END,
    "ext-empty": H + b";\r\n" + SMUGGLED + END,
    "CRLF-in-payload": b"2\r\n\r\n\r\n" + H + b"\r\n" + SMUGGLED + END,
    "last-in-payload": b"5\r\n0\r\n\r\n\r\n" + H + b"\r\n" + SMUGGLED + END,
    "trailer": H + b"\r\n" + SMUGGLED + b"\r\n0\r\nX-Sum: 1\r\n\r\n",
    "trailer-hop": H + b"\r\n" + SMUGGLED + b"\r\n0\r\nConnection: close\r\n\r\n",
}
for name, body in GOOD_CHUNKS.items():
    add(f"chunk-good-{name}", message(TE, body=body), 2)

# --- field lines (RFC 9112 5) -----------------------------------------------------------

FIELDS = {
    "space-before-colon": b"X : y",
    "tab-before-colon": b"X\t: y",
    "no-colon": b"X",
    "no-name": b": y",
    "space-inside-name": b"X Y: z",
    "obs-fold": b"X: y\r\n z",
    "obs-fold-tab": b"X: y\r\n\tz",
    "obs-fold-empty": b"X: y\r\n ",
    "obs-fold-TE": b"X: y\r\n Transfer-Encoding: chunked",
    "bare-CR": b"X: y\rTransfer-Encoding: chunked",
    "bare-LF": b"X: y\nTransfer-Encoding: chunked",
    "CR-CR-LF": b"X: y\r\r",
    "LF-CR": b"X: y\n\rZ: z",
    "NUL": b"X: y\0z",
    "NUL-name": b"X\0: y",
    "SOH": b"X: \x01",
    "DEL": b"X: \x7f",
    "vertical-tab": b"X: y\x0bz",
    "name-8-bit": b"X\xff: y",
    "name-UTF-8": b"X\xc3\xa9: y",
    "name-slash": b"X/Y: z",
    "name-paren": b"X(Y): z",
    "name-quote": b'"X": y',
    "name-bracket": b"X[Y]: z",
    "name-at": b"X@Y: z",
    "name-equals": b"X=Y: z",
    "name-comma": b"X,Y: z",
    "name-semicolon": b"X;Y: z",
    "name-brace": b"X{Y: z",
    "TE-name-NUL": b"Transfer-Encoding\0: chunked",
    "TE-name-space": b"Transfer-Encoding : chunked",
    "TE-name-tab": b"Transfer-Encoding\t: chunked",
    "TE-name-CR": b"Transfer-Encoding\r: chunked",
    "TE-name-LF": b"Transfer-Encoding\n: chunked",
    "TE-name-VT": b"Transfer-Encoding\x0b: chunked",
    "TE-name-before": b" Transfer-Encoding: chunked",
    "TE-name-quoted": b'"Transfer-Encoding": chunked',
    "Host-twice": HOST,
    "Host-other": b"Host: other",
}
for name, line in FIELDS.items():
    add(f"field-{name}", message(line, body=b"0\r\n\r\n" + SMUGGLED))
    add(f"field-first-{name}", message(line, HOST, body=b"0\r\n\r\n" + SMUGGLED, host=b""))
add("field-empty-line-first", message(b"", HOST, body=SMUGGLED, host=b""))
add("field-many", message(*[b"X: y"] * 300), (431,))
add("field-large", message(b"X: " + b"y" * 70_000), (431,))
for name, line in {
    "8-bit": b"X: \xff\xfe",
    "empty": b"X:",
    "colons": b"X:: y: z:",
    "odd-token": b"!#$%&'*+-.^_`|~9: y",
    "underscore-TE": b"Transfer_Encoding: chunked",
    "TE-in-value": b"X: y, Transfer-Encoding: chunked",
}.items():
    add(f"field-good-{name}", message(line, length(SMUGGLED), body=SMUGGLED), 2)

# --- the request-line and Host (RFC 9112 3) ---------------------------------------------

URL = b"http://" + ORIGIN + b"/case"
LINES: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "0.9": (b"GET " + URL, (400,)),
    "0.9-space": (b"GET " + URL + b" ", (400,)),
    "two-spaces": (b"GET  " + URL + b" HTTP/1.1", (400,)),
    "two-spaces-behind": (b"GET " + URL + b"  HTTP/1.1", (400,)),
    "space-before": (b" GET " + URL + b" HTTP/1.1", (400,)),
    "space-behind": (b"GET " + URL + b" HTTP/1.1 ", (400,)),
    "space-in-target": (b"GET " + URL + b" x HTTP/1.1", (400,)),
    "two-versions": (b"GET " + URL + b" HTTP/1.1 HTTP/1.1", (400,)),
    "tabs": (b"GET\t" + URL + b"\tHTTP/1.1", (400,)),
    "vertical-tab": (b"GET\x0b" + URL + b" HTTP/1.1", (400,)),
    "bare-CR": (b"GET\r" + URL + b" HTTP/1.1", (400,)),
    "bare-LF": (b"GET " + URL + b" HTTP/1.1\nX: y", (400,)),
    "NUL": (b"GET " + URL + b"\0 HTTP/1.1", (400,)),
    "8-bit-method": (b"G\xffT " + URL + b" HTTP/1.1", (400,)),
    "8-bit-scheme": (b"GET htt\xffp://" + ORIGIN + b"/ HTTP/1.1", (400,)),
    "8-bit-port": (b"GET http://" + ORIGIN + b"\xff/ HTTP/1.1", (400,)),
    "8-bit-version": (b"GET " + URL + b" HTTP/1.\xff", (400,)),
    "method-colon": (b"GET: " + URL + b" HTTP/1.1", (400,)),
    "method-quoted": (b'"GET" ' + URL + b" HTTP/1.1", (400,)),
    "method-empty": (b"" + URL + b" HTTP/1.1", (400,)),
    "version-lower": (b"GET " + URL + b" http/1.1", (400,)),
    "version-1": (b"GET " + URL + b" HTTP/1", (400,)),
    "version-1.": (b"GET " + URL + b" HTTP/1.", (400,)),
    "version-.1": (b"GET " + URL + b" HTTP/.1", (400,)),
    "version-1.10": (b"GET " + URL + b" HTTP/1.10", (400,)),
    "version-01.1": (b"GET " + URL + b" HTTP/01.1", (400,)),
    "version-comma": (b"GET " + URL + b" HTTP/1,1", (400,)),
    "version-plus": (b"GET " + URL + b" HTTP/+1.1", (400,)),
    "version-space": (b"GET " + URL + b" HTTP/ 1.1", (400,)),
    "version-other": (b"GET " + URL + b" HTTPS/1.1", (400,)),
    "version-0.9": (b"GET " + URL + b" HTTP/0.9", (505,)),
    "version-1.2": (b"GET " + URL + b" HTTP/1.2", (505,)),
    "version-1.9": (b"GET " + URL + b" HTTP/1.9", (505,)),
    "version-2.0": (b"GET " + URL + b" HTTP/2.0", (505,)),
    "version-9.9": (b"GET " + URL + b" HTTP/9.9", (505,)),
    "preface": (b"PRI * HTTP/2.0", (400,)),
    "fragment": (b"GET " + URL + b"#x HTTP/1.1", (400,)),
    "userinfo": (b"GET http://u@" + ORIGIN + b"/ HTTP/1.1", (400,)),
    "userinfo-host": (b"GET http://evil@" + ORIGIN + b":80/ HTTP/1.1", (400,)),
    "no-host": (b"GET http:///case HTTP/1.1", (400,)),
    "backslash": (b"GET http:\\\\" + ORIGIN + b"\\case HTTP/1.1", (400,)),
    "bad-port": (b"GET http://127.0.0.1:0x50/ HTTP/1.1", (400,)),
    "relative": (b"GET case HTTP/1.1", (400,)),
    "asterisk": (b"GET * HTTP/1.1", (400,)),
    "CONNECT-path": (b"CONNECT /case HTTP/1.1", (400,)),
    "CONNECT-URL": (b"CONNECT " + URL + b" HTTP/1.1", (400,)),
    "response": (b"HTTP/1.1 200 OK", (400,)),
}
for name, (line, statuses) in LINES.items():
    add(f"line-{name}", line + b"\r\n" + HOST + b"\r\n\r\n" + SMUGGLED, statuses)

add("Host-none", message(method=b"GET", host=b""))
add("Host-none-origin-form", message(method=b"GET", target=b"/case", host=b""))
for name, value in {
    "space": b"a b",
    "list": b"a, b",
    "userinfo": b"u@a",
    "path": b"a/b",
    "URL": b"http://a",
    "port-0": b"a:0",
    "port-word": b"a:x",
    "two-ports": b"a:80:80",
    "percent": b"a%00",
    "8-bit": b"a\xff",
    "NUL": b"a\0b",
    "bracket": b"[::1",
    "fold": b"a\r\n b",
}.items():
    add(f"Host-{name}", message(method=b"GET", host=b"Host: " + value))
# The target wins over Host (RFC 9112 3.2.2), and Host is written anew.
add("Host-contradicts", message(method=b"GET", host=b"Host: smuggled.example:81"), 2)
add("Host-empty", message(method=b"GET", host=b"Host:"), 2)
add("Host-none-1.0", message(method=b"GET", host=b"", version=b"HTTP/1.0"), 1)
add("origin-form", message(length(SMUGGLED), target=b"/case", body=SMUGGLED), 2)
add("query", message(method=b"GET", target=URL + b"?a=%0d%0aHost:%20x", host=HOST), 2)
add("double-slash", message(method=b"GET", target=b"//evil/case"), 2)

# --- line ends, pipelines, and tricks with other fields ---------------------------------

GET = message(method=b"GET")
add("lines-LF", GET.replace(b"\r\n", b"\n") + SMUGGLED)
add("lines-CR", GET.replace(b"\r\n", b"\r") + SMUGGLED)
add("lines-LF-CR", GET.replace(b"\r\n", b"\n\r") + SMUGGLED)
add("lines-end-LF", GET[:-2] + b"\n" + SMUGGLED)
add("lines-end-LF-LF", GET[:-4] + b"\n\n" + SMUGGLED)
add("lines-end-CR-LF-CR", GET[:-1] + SMUGGLED)
add("lines-NEL", GET.replace(b"\r\n", b"\xc2\x85") + SMUGGLED)
add("pipeline", GET + GET, 3)
add("pipeline-CRLF", b"\r\n" + GET + b"\r\n\r\n" + GET, 3)
add("pipeline-LF", b"\n" + GET)
add("pipeline-space", b" " + GET)
add("pipeline-close", message(b"Connection: close", method=b"GET") + SMUGGLED, 1)
add("pipeline-1.0", message(method=b"GET", version=b"HTTP/1.0") + SMUGGLED, 1)
add(
    "pipeline-1.0-keep",
    message(b"Connection: keep-alive", method=b"GET", version=b"HTTP/1.0") + SMUGGLED,
    1,
)
add("expect", message(b"Expect: 100-continue", length(SMUGGLED), body=SMUGGLED), 2)
add("expect-chunked", message(b"Expect: 100-continue", TE, body=TE_CL_BODY), 2)
add("expect-GET", message(b"Expect: 100-continue", method=b"GET"), 2)
add(
    "expect-1.0",
    message(b"Expect: 100-continue", length(SMUGGLED), body=SMUGGLED, version=b"HTTP/1.0"),
    1,
)
UPGRADE = (b"Connection: upgrade", b"Upgrade: websocket")
add("upgrade-body", message(*UPGRADE, length(SMUGGLED), body=SMUGGLED), 2)
add("upgrade-chunked", message(*UPGRADE, TE, body=TE_CL_BODY), 2)
add("upgrade-not-named", message(UPGRADE[1], length(SMUGGLED), body=SMUGGLED), 2)
H2C = (b"Connection: upgrade, http2-settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
add("upgrade-h2c", message(*H2C, length(SMUGGLED), body=SMUGGLED), 2)
add(
    "proxy-connection", message(b"Proxy-Connection: keep-alive", length(SMUGGLED), body=SMUGGLED), 2
)
add("keep-alive-field", message(b"Keep-Alive: max=1", length(SMUGGLED), body=SMUGGLED), 2)
add(
    "method-override",
    message(b"X-HTTP-Method-Override: CONNECT", length(SMUGGLED), body=SMUGGLED),
    2,
)
add("HEAD-pipelined", message(method=b"HEAD") + GET, 3)
for name, field in {"CL": length(SMUGGLED), "TE": TE, "CL-x": b"Content-Length: x"}.items():
    add(f"CONNECT-{name}", message(field, method=b"CONNECT", target=ORIGIN, body=SMUGGLED))
