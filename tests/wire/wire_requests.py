"""Request heads: which are taken, which are refused; targets and Host."""

from __future__ import annotations

from wire_case import ASK, ASKED, OK, OK_GOT, VIA, C, Case, O, forward, page, reject

from spliceproxy.site.pages import HOW_TO_CONFIGURE


def _line(name: str, source: str, line: str, detail: str, status: int = 400) -> Case:
    """A request-line that is refused."""
    return reject(name, source, f"{line}\nHost: o\n\n", detail, status=status)


def _field(name: str, source: str, fields: str, detail: str, status: int = 400) -> Case:
    """Field lines that are refused."""
    return reject(name, source, f"GET http://o/ HTTP/1.1\n{fields}\n\n", detail, status=status)


def _target(name: str, source: str, target: str, host: str, path: str, *dial: object) -> Case:
    """A target, and the Host and path that the origin gets."""
    return forward(
        name,
        source,
        f"GET {target} HTTP/1.1\nHost: x\n\n",
        f"GET {path} HTTP/1.1\nHost: {host}\n{VIA}\n\n",
        dials=[dial or (host, 80)],
    )


TAKEN = [
    forward("plain", "9112 3", ASK, ASKED, dials=[("o", 80)]),
    forward("empty-line-before", "9112 2.2", "\n" + ASK, ASKED),
    reject(
        "too-many-empty-lines",
        "9112 2.2",
        "\n" * 33 + ASK,
        "too many empty lines before a request",
    ),
    forward("many-empty-lines-before", "9112 2.2", "\n" * 32 + ASK, ASKED),
    forward(
        "no-space-behind-colon",
        "9112 5",
        "GET http://o/ HTTP/1.1\nHost:o\nX-A:1\n\n",
        f"GET / HTTP/1.1\nHost: o\nX-A: 1\n{VIA}\n\n",
    ),
    forward(
        "ows-around-value",
        "9112 5.1",
        "GET http://o/ HTTP/1.1\nHost: \t o \t\nX-A: \t 1 \t 2\t\n\n",
        f"GET / HTTP/1.1\nHost: o\nX-A: 1 \t 2\n{VIA}\n\n",
    ),
    forward(
        "empty-value",
        "9110 5.5",
        "GET http://o/ HTTP/1.1\nHost: o\nX-A:\n\n",
        f"GET / HTTP/1.1\nHost: o\nX-A: \n{VIA}\n\n",
    ),
    forward(
        "obs-text-in-value",
        "9110 5.5",
        b"GET http://o/ HTTP/1.1\r\nHost: o\r\nX-A: \xff\x80\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: o\r\nX-A: \xff\x80\r\nVia: 1.1 spliceproxy\r\n\r\n",
    ),
    forward(
        "order-and-spelling-kept",
        "9110 5.3",
        "GET http://o/ HTTP/1.1\nuSER-aGENT: a\nX: 1\nHOST: o\nx: 2\nAccept: */*\n\n",
        f"GET / HTTP/1.1\nuSER-aGENT: a\nX: 1\nHOST: o\nx: 2\nAccept: */*\n{VIA}\n\n",
    ),
    forward(
        "name-of-all-tchar",
        "9110 5.6.2",
        "GET http://o/ HTTP/1.1\nHost: o\n!#$%&'*+-.^_`|~09Az: 1\n\n",
        f"GET / HTTP/1.1\nHost: o\n!#$%&'*+-.^_`|~09Az: 1\n{VIA}\n\n",
    ),
    forward(
        "unknown-method",
        "9110 9.1",
        "frob!~ http://o/ HTTP/1.1\nHost: o\n\n",
        f"frob!~ / HTTP/1.1\nHost: o\n{VIA}\n\n",
    ),
    forward(
        "long-target",
        "9112 3",
        f"GET http://o/{'a' * 8000} HTTP/1.1\nHost: o\n\n",
        f"GET /{'a' * 8000} HTTP/1.1\nHost: o\n{VIA}\n\n",
    ),
]

BAD_SYNTAX = [
    _line("no-version", "9112 3", "GET http://o/", "a request-line without a version (HTTP/0.9)"),
    _line(
        "two-spaces",
        "9112 3",
        "GET  http://o/ HTTP/1.1",
        "a request-line is METHOD SP TARGET SP VERSION: 'GET  http://o/ HTTP/1.1'",
    ),
    _line(
        "space-behind-version",
        "9112 3",
        "GET http://o/ HTTP/1.1 ",
        "a request-line is METHOD SP TARGET SP VERSION: 'GET http://o/ HTTP/1.1 '",
    ),
    _line(
        "space-before-method",
        "9112 3",
        " GET http://o/ HTTP/1.1",
        "a request-line is METHOD SP TARGET SP VERSION: ' GET http://o/ HTTP/1.1'",
    ),
    _line(
        "tab-for-space",
        "9112 3",
        "GET\thttp://o/ HTTP/1.1",
        "a request-line without a version (HTTP/0.9)",
    ),
    _line(
        "tab-before-version",
        "9112 3",
        "GET http://o/\tHTTP/1.1",
        "a request-line without a version (HTTP/0.9)",
    ),
    _line(
        "two-spaces-before-version",
        "9112 3",
        "GET http://o/  HTTP/1.1",
        "a request-line is METHOD SP TARGET SP VERSION: 'GET http://o/  HTTP/1.1'",
    ),
    _line("method-not-token", "9110 9.1", "G(T http://o/ HTTP/1.1", "a bad method: 'G(T'"),
    _line("http-lower-case", "9112 2.3", "GET http://o/ http/1.1", "a bad version: 'http/1.1'"),
    _line("version-one-digit", "9112 2.3", "GET http://o/ HTTP/1", "a bad version: 'HTTP/1'"),
    _line("version-padded", "9112 2.3", "GET http://o/ HTTP/1.01", "a bad version: 'HTTP/1.01'"),
    _line(
        "version-2",
        "9110 15.6.6",
        "GET http://o/ HTTP/2.0",
        "HTTP/1.1 and HTTP/1.0 are spoken here",
        status=505,
    ),
    _line(
        "version-1-2",
        "9110 15.6.6",
        "GET http://o/ HTTP/1.2",
        "HTTP/1.1 and HTTP/1.0 are spoken here",
        status=505,
    ),
    reject(
        "bare-lf",
        "9112 2.2",
        b"GET http://o/ HTTP/1.1\nHost: o\r\n\r\n",
        "a line ends in a bare LF",
    ),
    reject(
        "bare-lf-in-field",
        "9112 2.2",
        b"GET http://o/ HTTP/1.1\r\nHost: o\nX: 1\r\n\r\n",
        "a line ends in a bare LF",
    ),
    reject(
        "bare-lf-at-end",
        "9112 2.2",
        b"GET http://o/ HTTP/1.1\r\nHost: o\r\n\n",
        "a line ends in a bare LF",
    ),
    reject(
        "bare-cr",
        "9112 2.2",
        b"GET http://o/ HTTP/1.1\r\nHost: o\r\nX: a\rb\r\n\r\n",
        "a CR without LF",
    ),
    reject(
        "nul",
        "9110 5.5",
        b"GET http://o/ HTTP/1.1\r\nHost: o\r\nX: a\0b\r\n\r\n",
        "control character '\\x00'",
    ),
    reject(
        "del-in-value",
        "9110 5.5",
        b"GET http://o/ HTTP/1.1\r\nHost: o\r\nX: a\x7fb\r\n\r\n",
        "control character '\\x7f'",
    ),
    reject(
        "bad-page-is-escaped",
        "design",
        b"G\x80T http://o/ HTTP/1.1\r\nHost: o\r\n\r\n",
        "a bad method: 'G\\x80T'",
    ),
    _field("obs-fold", "9112 5.2", "Host: o\nX: 1\n 2", "a folded field line (obs-fold)"),
    _field("fold-with-tab", "9112 5.2", "Host: o\nX: 1\n\t2", "a folded field line (obs-fold)"),
    _field("space-before-first", "9112 2.2", " X: 1\nHost: o", "a folded field line (obs-fold)"),
    _field("space-before-colon", "9112 5.1", "Host : o", "a space before the colon: 'Host '"),
    _field("tab-before-colon", "9112 5.1", "Host\t: o", "a space before the colon: 'Host\\t'"),
    _field("no-colon", "9112 5", "Host: o\nX", "a field line without a colon: 'X'"),
    _field("no-name", "9112 5", "Host: o\n: 1", "a field line without a name"),
    _field("name-not-token", "9110 5.1", "Host: o\nX(: 1", "a bad field name: 'X('"),
    _field("space-in-name", "9110 5.1", "Host: o\nX Y: 1", "a bad field name: 'X Y'"),
    _line(
        "line-too-long",
        "9112 3",
        f"GET http://o/{'a' * 16384} HTTP/1.1",
        "a first line longer than 16384 bytes",
        status=414,
    ),
    _field(
        "head-too-large",
        "6585 5",
        "Host: o\n" + "\n".join(f"X-{n}: {'a' * 7000}" for n in range(10)),
        "a head larger than 65536 bytes",
        status=431,
    ),
    _field(
        "too-many-fields",
        "6585 5",
        "Host: o\n" + "\n".join(f"X: {n}" for n in range(256)),
        "more than 256 fields",
        status=431,
    ),
    reject(
        "tls",
        "8446 5.1",
        b"\x16\x03\x01\x02\x00\x01",
        "this is a plain HTTP proxy port: TLS was received",
    ),
    reject(
        "http2-preface",
        "9113 3.4",
        "PRI * HTTP/2.0\n\nSM\n\n",
        "this is a plain HTTP proxy port: HTTP/2 was received",
    ),
]

HOST = [
    _field("host-missing", "9112 3.2", "X: 1", "HTTP/1.1 without a Host field"),
    _field("host-twice", "9112 3.2", "Host: o\nhost: o", "more than one Host field"),
    _field("host-list", "9112 3.2", "Host: o, p", "the Host field has a bad host: 'o, p'"),
    _field("host-userinfo", "9112 3.2", "Host: u@o", "the Host field has userinfo before the host"),
    _field("host-path", "9112 3.2", "Host: o/", "the Host field has a bad host: 'o/'"),
    _field("host-bad-port", "9112 3.2", "Host: o:x", "the Host field has a bad port: 'o:x'"),
    forward("host-other-than-target", "9112 3.2.2", ASK.replace("Host: o", "Host: evil"), ASKED),
    forward("host-empty", "9112 3.2.2", ASK.replace("Host: o", "Host:"), ASKED),
    forward(
        "host-keeps-its-place",
        "9112 3.2.2",
        "GET http://o/ HTTP/1.1\nA: 1\nhOsT: evil\nB: 2\n\n",
        f"GET / HTTP/1.1\nA: 1\nhOsT: o\nB: 2\n{VIA}\n\n",
    ),
    forward(
        "host-missing-in-1.0",
        "9112 3.2",
        "GET http://o/ HTTP/1.0\nA: 1\n\n",
        "GET / HTTP/1.1\nHost: o\nA: 1\nVia: 1.0 spliceproxy\n\n",
        last=True,
    ),
]

TARGETS = [
    _target("target-path-and-query", "9112 3.2.1", "http://o/a/../b?c=/d?", "o", "/a/../b?c=/d?"),
    _target("target-without-path", "9112 3.2.1", "http://o", "o", "/"),
    _target("target-query-only", "9112 3.2.1", "http://o?a", "o", "/?a"),
    _target("target-escapes-kept", "9110 4.2.3", "http://o/%7Ea%2fb", "o", "/%7Ea%2fb"),
    _target("target-odd-ascii-kept", "9112 3.2", 'http://o/{a}|"b"^', "o", '/{a}|"b"^'),
    _target("target-host-case", "9110 4.2.3", "HTTP://O.Test/A", "o.test", "/A"),
    _target("target-port", "9112 3.2.2", "http://o:8080/", "o:8080", "/", "o", 8080),
    _target("target-port-80", "9110 4.2.3", "http://o:80/", "o", "/"),
    _target("target-port-443", "9110 4.2.3", "http://o:443/", "o:443", "/", "o", 443),
    _target("target-port-empty", "9110 4.2.3", "http://o:/", "o", "/"),
    _target("target-port-zeros", "3986 3.2.3", "http://o:00080/", "o", "/"),
    _target("target-ipv4", "9110 4.2.1", "http://192.0.2.1/", "192.0.2.1", "/"),
    _target(
        "target-ipv6",
        "3986 3.2.2",
        "http://[2001:DB8::1]/",
        "[2001:db8::1]",
        "/",
        "2001:db8::1",
        80,
    ),
    _target("target-ipv6-port", "3986 3.2.2", "http://[::1]:81/", "[::1]:81", "/", "::1", 81),
    _line(
        "fragment",
        "9112 3.2",
        "GET http://o/#f HTTP/1.1",
        "a fragment in the request-target 'http://o/#f'",
    ),
    _line(
        "fragment-behind-path",
        "9112 3.2",
        "GET /a#f HTTP/1.1",
        "a fragment in the request-target: '/a#f'",
    ),
    _line(
        "userinfo",
        "9110 4.2.4",
        "GET http://u:p@o/ HTTP/1.1",
        "the request-target has userinfo before the host",
    ),
    _line("no-host", "9110 4.2.1", "GET http:///a HTTP/1.1", "the request-target has no host"),
    _line(
        "port-0",
        "9110 4.2.1",
        "GET http://o:0/ HTTP/1.1",
        "the request-target has a port outside 1-65535: 'o:0'",
    ),
    _line(
        "port-65536",
        "9110 4.2.1",
        "GET http://o:65536/ HTTP/1.1",
        "the request-target has a port outside 1-65535: 'o:65536'",
    ),
    _line(
        "port-junk",
        "9110 4.2.1",
        "GET http://o:8a/ HTTP/1.1",
        "the request-target has a bad port: 'o:8a'",
    ),
    _line(
        "port-sign",
        "9110 4.2.1",
        "GET http://o:+80/ HTTP/1.1",
        "the request-target has a bad port: 'o:+80'",
    ),
    _line(
        "percent-in-host",
        "3986 3.2.2",
        "GET http://o%2e/ HTTP/1.1",
        "the request-target has a percent sign in the host: 'o%2e'",
    ),
    _line(
        "bad-ipv6",
        "3986 3.2.2",
        "GET http://[::g]/ HTTP/1.1",
        "the request-target has a bad host: '[::g]'",
    ),
    _line(
        "bad-ipv6-groups",
        "3986 3.2.2",
        "GET http://[1:2]/ HTTP/1.1",
        "the request-target has a bad IPv6 address: '[1:2]'",
    ),
    _line(
        "backslash-in-host",
        "3986 3.2.2",
        "GET http://o\\@p/ HTTP/1.1",
        "the request-target has userinfo before the host",
    ),
    _line(
        "not-a-target", "9112 3.2", "GET o HTTP/1.1", "not a URL or path: the request-target 'o'"
    ),
    _line(
        "asterisk-get", "9112 3.2.4", "GET * HTTP/1.1", "the request-target * is for OPTIONS only"
    ),
    _line(
        "https-target",
        "9110 4.2.2",
        "GET https://o/ HTTP/1.1",
        "cannot forward https: use CONNECT for it",
    ),
    _line("origin-form", "9112 3.2.1", "GET / HTTP/1.1", HOW_TO_CONFIGURE),
    Case(
        "backend",
        "9112 3.2.1",
        [
            C.sends("GET /a?b HTTP/1.1\nHost: x:8080\nConnection: close\n\n"),
            O.gets(f"GET /a?b HTTP/1.1\nHost: x:8080\n{VIA}\n\n"),
            O.sends(OK),
            C.gets(OK_GOT.replace("Via", "Connection: close\nVia")),
            C.sees_fin(),
        ],
        config={"default_backend": ("b", 81)},
        dials=[("b", 81)],
    ),
    Case(
        "backend-without-host",
        "9112 3.2",
        [
            C.sends("GET / HTTP/1.0\n\n"),
            O.gets("GET / HTTP/1.1\nHost: \nVia: 1.0 spliceproxy\n\n"),
            O.sends(OK),
            C.gets(OK_GOT.replace("Via", "Connection: close\nVia")),
            C.sees_fin(),
        ],
        config={"default_backend": ("b", 81)},
    ),
    Case(
        "backend-not-for-absolute",
        "9112 3.2.2",
        [
            C.sends("GET http://o/ HTTP/1.1\nHost: x\nConnection: close\n\n"),
            O.gets(ASKED),
            O.sends(OK),
            C.gets(OK_GOT.replace("Via", "Connection: close\nVia")),
            C.sees_fin(),
        ],
        config={"default_backend": ("b", 81)},
        dials=[("o", 80)],
    ),
    Case(
        "head-gets-no-page",
        "9110 9.3.2",
        [
            C.sends("HEAD / HTTP/1.1\nHost: o\n\n"),
            C.gets(page(400, "Bad Request", "http_request_error", HOW_TO_CONFIGURE, body=False)),
            C.sees_fin(),
        ],
        log=[(400, "http_request_error", "")],
    ),
]

CASES = [*TAKEN, *BAD_SYNTAX, *HOST, *TARGETS]
