"""The page of what the wire cases hold, from their sources: ``docs/conformance.md`` is its output.

``python tests/wire/conformance.py > docs/conformance.md`` renews it.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does: see pyproject.toml

from test_wire import TOPICS
from wire_case import Case

DESIGN = "design"
"""The source of a case that holds a choice of this proxy."""

RFCS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "9110": (
        "HTTP Semantics",
        {
            "2.5": "Protocol Version",
            "4.2.1": "http URI Scheme",
            "4.2.2": "https URI Scheme",
            "4.2.3": "http(s) Normalization and Comparison",
            "4.2.4": "Deprecation of userinfo in http(s) URIs",
            "5.1": "Field Names",
            "5.3": "Field Order",
            "5.5": "Field Values",
            "5.6.2": "Tokens",
            "6.5.1": "Limitations on Use of Trailers",
            "6.6.1": "Date",
            "6.6.2": "Trailer",
            "7.6.1": "Connection",
            "7.6.2": "Max-Forwards",
            "7.6.3": "Via",
            "7.8": "Upgrade",
            "8.6": "Content-Length",
            "9.1": "Methods: Overview",
            "9.2.2": "Idempotent Methods",
            "9.3.1": "GET",
            "9.3.2": "HEAD",
            "9.3.6": "CONNECT",
            "9.3.7": "OPTIONS",
            "9.3.8": "TRACE",
            "10.1.1": "Expect",
            "10.1.4": "TE",
            "11.6": "Authenticating Users to Origin Servers",
            "11.6.1": "WWW-Authenticate",
            "11.7.1": "Proxy-Authenticate",
            "11.7.2": "Proxy-Authorization",
            "11.7.3": "Proxy-Authentication-Info",
            "15": "Status Codes",
            "15.2": "Informational 1xx",
            "15.2.1": "100 Continue",
            "15.2.2": "101 Switching Protocols",
            "15.3.5": "204 No Content",
            "15.3.6": "205 Reset Content",
            "15.3.7": "206 Partial Content",
            "15.4.5": "304 Not Modified",
            "15.5.9": "408 Request Timeout",
            "15.5.22": "426 Upgrade Required",
            "15.6.3": "502 Bad Gateway",
            "15.6.4": "503 Service Unavailable",
            "15.6.5": "504 Gateway Timeout",
            "15.6.6": "505 HTTP Version Not Supported",
        },
    ),
    "9112": (
        "HTTP/1.1",
        {
            "2.2": "Message Parsing",
            "2.3": "HTTP Version",
            "3": "Request Line",
            "3.2": "Request Target",
            "3.2.1": "origin-form",
            "3.2.2": "absolute-form",
            "3.2.3": "authority-form",
            "3.2.4": "asterisk-form",
            "4": "Status Line",
            "5": "Field Syntax",
            "5.1": "Field Line Parsing",
            "5.2": "Obsolete Line Folding",
            "6.1": "Transfer-Encoding",
            "6.2": "Content-Length",
            "6.3": "Message Body Length",
            "7": "Transfer Codings",
            "7.1": "Chunked Transfer Coding",
            "7.1.1": "Chunk Extensions",
            "7.1.2": "Chunked Trailer Section",
            "8": "Handling Incomplete Messages",
            "9.2": "Associating a Response to a Request",
            "9.3": "Persistence",
            "9.3.2": "Pipelining",
            "9.5": "Failures and Timeouts",
            "9.6": "Tear-down",
            "11.2": "Request Smuggling",
            "C.2.2": "Keep-Alive Connections",
        },
    ),
    "9209": (
        "The Proxy-Status HTTP Response Header Field",
        {"2": "The Proxy-Status HTTP Field", "2.3": "Proxy Error Types"},
    ),
    "9113": ("HTTP/2", {"3.1": "HTTP/2 Version Identification", "3.4": "Connection Preface"}),
    "8941": (
        "Structured Field Values for HTTP",
        {"3.1": "Lists", "3.3.3": "Strings", "4.2": "Parsing Structured Fields"},
    ),
    "8446": ("TLS 1.3", {"5.1": "Record Layer", "6": "Alert Protocol"}),
    "8297": ("103 Early Hints", {}),
    "7540": ("HTTP/2, the older one", {"3.2.1": "HTTP2-Settings Header Field"}),
    "7239": ("Forwarded HTTP Extension", {"6.2": "The unknown Identifier"}),
    "6585": ("Additional HTTP Status Codes", {"5": "431 Request Header Fields Too Large"}),
    "4559": ("Kerberos and NTLM HTTP Authentication", {"6": "Security Considerations"}),
    "3986": ("URI: Generic Syntax", {"3.2.2": "Host", "3.2.3": "Port"}),
    "2817": ("Upgrading to TLS Within HTTP/1.1", {"5.1": "Hop By Hop Upgrade"}),
    "2616": ("HTTP/1.1 of 1999", {"3.6": "Transfer Codings"}),
    "2518": ("WebDAV", {"10.1": "102 Processing"}),
    "1928": (
        "SOCKS 5",
        {
            "3": "Procedure for TCP-based clients",
            "4": "Requests",
            "5": "Addressing",
            "6": "Replies",
        },
    ),
    "1929": ("Username/Password Authentication for SOCKS V5", {"2": "Initial negotiation"}),
}
"""The RFCs in the order of the page: the title, and those of sections."""

_WIDTH = 100

_BEGIN = """\
# What of the standards is held by a test?

This page is made from the cases of `tests/wire` by

    python tests/wire/conformance.py > docs/conformance.md

Each case is a conversation in exact bytes between a client, the proxy and an origin, and names the
section that says how it has to go. Every case runs on asyncio and on uvloop, and again with the
head of either side cut in two: at each byte, or at many bytes of a large head. Every case runs once
more where the native engine has the clients and serves what is plain by itself. The command
`pytest tests/wire -k NAME` runs one.

"""


def page() -> str:
    """The page, in Markdown. KeyError, where the RFC of a case is not in RFCS."""
    held: dict[str, dict[str, list[tuple[str, Case]]]] = defaultdict(lambda: defaultdict(list))
    for topic in TOPICS:
        for case in topic.CASES:
            rfc, _, section = case.source.partition(" ")
            held[rfc][section].append((topic.__name__, case))
    count = sum(len(topic.CASES) for topic in TOPICS)
    order = [*RFCS, DESIGN]
    lines = [f"{_BEGIN}{count} cases hold {sum(map(len, held.values()))} sections."]
    for rfc in sorted(held, key=order.index):
        title, sections = RFCS.get(rfc, ("", {}))
        lines += ["", f"## RFC {rfc}: {title}" if title else "## Choices of this proxy"]
        for section in sorted(held[rfc], key=_number):
            cases = held[rfc][section]
            lines += ["", *_entry(section, sections.get(section, ""), cases)]
    return "\n".join(lines) + "\n"


def _number(section: str) -> list[tuple[bool, int, str]]:
    """Appendices come last."""
    parts = section.split(".") if section else []
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def _entry(section: str, title: str, cases: list[tuple[str, Case]]) -> Iterator[str]:
    if section:
        yield f"**{f'{section} {title}'.strip()}**"
        yield ""
    for topic in dict.fromkeys(topic for topic, _ in cases):
        line = f"- `{topic}.py`:"
        for name in sorted(case.name for where, case in cases if where == topic):
            if len(line) + len(name) + 2 > _WIDTH:
                yield line
                line = " "
            line += f" {name},"
        yield line.removesuffix(",")


if __name__ == "__main__":
    print(page(), end="")
