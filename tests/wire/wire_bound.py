"""Connections that an origin has authenticated: they stay with their client, and end with it."""

from __future__ import annotations

from wire_case import (
    ASK,
    ASK_10,
    ASKED,
    ASKED_10,
    C2,
    DATE,
    FINE,
    HEAD,
    O2,
    O3,
    OK,
    OK_GOT,
    OK_LAST,
    VIA,
    C,
    Case,
    O,
    Step,
    page,
)

OTHER = [C2.sends(ASK), O2.gets(ASKED), O2.sends(OK), C2.gets(OK_GOT)]
"""Another client's request to the same origin goes on a connection of its own."""

SHARED = [C2.sends(ASK), O.gets(ASKED), O.sends(OK), C2.gets(OK_GOT)]
"""The same on the first connection, from the pool."""

MINE = [C.sends(ASK), O.gets(ASKED), O.sends(OK), C.gets(OK_GOT)]
"""A request of the first client, without credentials, on its own connection."""

LEFT = [C.ends(), C.sees_fin(), O.closed()]
"""The connection to the origin ends with the client's."""

HI = "POST http://o/ HTTP/1.1\nHost: o\nContent-Length: 2\n\nhi"
HI_GOT = f"POST / HTTP/1.1\nHost: o\nContent-Length: 2\n{VIA}\n\nhi"
SUPPORT = "Proxy-Support: Session-Based-Authentication"


def with_field(message: str, line: str) -> str:
    """The field goes behind Host, or behind Date."""
    behind = "Host: o\n" if "Host: o\n" in message else f"{DATE}\n"
    return message.replace(behind, f"{behind}{line}\n", 1)


def authorized(line: str, method: str = "GET") -> list[Step]:
    """A request with credentials, and its answer."""
    ask, asked = (ASK, ASKED) if method == "GET" else (HI, HI_GOT)
    return [
        C.sends(with_field(ask, line)),
        O.gets(with_field(asked, line)),
        O.sends(OK),
        C.gets(OK_GOT),
    ]


def challenged(*lines: str, supports: bool = True) -> list[Step]:
    """A 401 with these fields."""
    text = "\n".join(lines)
    sent = with_field(OK.replace("200 OK", "401 No"), text)
    got = with_field(OK_GOT.replace("200 OK", "401 No"), text)
    if supports:
        got = got.replace(VIA, f"{SUPPORT}\nConnection: Proxy-Support\n{VIA}")
    return [C.sends(ASK), O.gets(ASKED), O.sends(sent), C.gets(got)]


BINDING = {
    "negotiate": ["Authorization: Negotiate YIIabc=="],
    "ntlm": ["Authorization: NTLM TlRMTVNT"],
    "in-capitals": ["AUTHORIZATION: NEGOTIATE x"],
    "kerberos": ["Authorization: Kerberos x"],
    "unknown": ["Authorization: X-Key abc"],
    "no-scheme": ["Authorization: "],
    "no-scheme-but-text": ["Authorization: =abc"],
    "tab": ["Authorization: Basic\tabc"],
    "longer-name": ["Authorization: Basic2 abc"],
    "second-field": ["Authorization: Basic abc", "Authorization: NTLM abc"],
    "first-field": ["Authorization: NTLM abc", "Authorization: Basic abc"],
}

SHARING = {
    "basic": "Authorization: Basic abc",
    "basic-in-capitals": "authorization: BASIC abc",
    "bearer": "Authorization: Bearer abc",
    "digest": 'Authorization: Digest username="a, NTLM b", realm="c"',
    "dpop": "Authorization: DPoP abc",
    "hoba": 'Authorization: HOBA result="a"',
    "mutual": 'Authorization: Mutual user="a"',
    "oauth": 'Authorization: OAuth realm="a", oauth_token="b"',
    "privatetoken": "Authorization: PrivateToken token=abc",
    "scram-1": "Authorization: SCRAM-SHA-1 data=abc",
    "scram-256": "Authorization: SCRAM-SHA-256 data=abc",
    "vapid": "Authorization: vapid t=a, k=b",
    "aws": "Authorization: AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host;x, Signature=c",
    "token": "Authorization: Token abc",
    "name-alone": "Authorization: Basic",
}

CHALLENGES = {
    "negotiate": ["WWW-Authenticate: Negotiate"],
    "ntlm-with-token": ["WWW-Authenticate: NTLM TlRMTVNTUAAC="],
    "second-in-list": ['WWW-Authenticate: Basic realm="a", Negotiate'],
    "second-with-token": ["WWW-Authenticate: Basic realm=a , NTLM abc=="],
    "behind-empty-ones": ['WWW-Authenticate: , ,Digest realm="a", nonce="b" ,, negotiate'],
    "second-field": ['WWW-Authenticate: Basic realm="a"', "WWW-Authenticate: Negotiate"],
    "unknown": ['WWW-Authenticate: Basic realm="a", X-New realm="b"'],
    "unreadable": ['WWW-Authenticate: Basic realm="a'],
    "no-scheme": ['WWW-Authenticate: realm="a"'],
}

NO_CHALLENGES = {
    "basic": ['WWW-Authenticate: Basic realm="Negotiate, NTLM"'],
    "escaped": ['WWW-Authenticate: Basic realm="a\\", Negotiate"'],
    "digest": [
        'WWW-Authenticate: Digest realm="a", qop="auth, auth-int", nonce=b, opaque = "c"',
        "WWW-Authenticate: Bearer",
    ],
    "list": ['WWW-Authenticate: Basic realm="a", Bearer scope="b c", Digest nonce="d"'],
}

REQUESTS = [
    *(
        Case(
            f"bound-by-{name}",
            "4559 6",
            [*authorized("\n".join(lines)), *OTHER, *MINE, *LEFT],
            dials=[("o", 80), ("o", 80)],
        )
        for name, lines in BINDING.items()
    ),
    *(
        Case(f"not-bound-by-{name}", "9110 11.6", [*authorized(line), *SHARED])
        for name, line in SHARING.items()
    ),
    Case(
        "bound-takes-from-the-pool",
        "4559 6",
        [*MINE, *authorized("Authorization: NTLM a"), *OTHER, *LEFT],
    ),
    Case(
        "bound-and-head",
        "4559 6",
        [
            C.sends(with_field(ASK, "Authorization: NTLM a").replace("GET", "HEAD")),
            O.gets(with_field(ASKED, "Authorization: NTLM a").replace("GET", "HEAD")),
            O.sends(OK.replace("\n\nok", "\n\n")),
            C.gets(OK_GOT.replace("\n\nok", "\n\n")),
            *OTHER,
            *MINE,
            *LEFT,
        ],
    ),
    Case(
        "bound-chunked",
        "4559 6",
        [
            C.sends(with_field(ASK, "Authorization: NTLM a")),
            O.gets(with_field(ASKED, "Authorization: NTLM a")),
            O.sends(HEAD + "Transfer-Encoding: chunked\n\n2\nok\n0\n\n"),
            C.gets(HEAD + f"Transfer-Encoding: chunked\n{VIA}\n\n2\nok\n0\n\n"),
            *OTHER,
            *MINE,
            *LEFT,
        ],
    ),
    Case(
        "bound-by-a-handshake-on-post",
        "4559 6",
        [
            *authorized("Authorization: NTLM a", "POST"),
            *OTHER,
            *authorized("Authorization: NTLM b", "POST"),
            C.sends(HI),
            O.gets(HI_GOT),
            O.sends(OK),
            C.gets(OK_GOT),
            *LEFT,
        ],
        dials=[("o", 80), ("o", 80)],
    ),
    Case(
        "bound-pipelined",
        "4559 6",
        [
            C.sends(ASK + with_field(ASK, "Authorization: NTLM a") + ASK),
            O.gets(ASKED),
            O.sends(OK),
            C.gets(OK_GOT),
            O.gets(with_field(ASKED, "Authorization: NTLM a")),
            O.sends(OK),
            C.gets(OK_GOT),
            O.gets(ASKED),
            O.sends(OK),
            C.gets(OK_GOT),
            *OTHER,
            *LEFT,
        ],
    ),
    Case(
        "bound-not-beyond-1.0",
        "9112 C.2.2",
        [
            C.sends(with_field(ASK_10, "Authorization: NTLM a")),
            O.gets(with_field(ASKED_10, "Authorization: NTLM a")),
            O.sends(OK),
            C.gets(OK_LAST),
            C.sees_fin(),
            O.closed(),
            *OTHER,
        ],
    ),
]

ANSWERS = [
    *(
        Case(
            f"bound-by-challenge-{name}",
            "4559 6",
            [*challenged(*lines), *OTHER, *MINE, *LEFT],
        )
        for name, lines in CHALLENGES.items()
    ),
    *(
        Case(
            f"not-bound-by-challenge-{name}",
            "9110 11.6.1",
            [*challenged(*lines, supports=False), *SHARED],
        )
        for name, lines in NO_CHALLENGES.items()
    ),
    Case(
        "bound-by-proxy-support",
        "4559 6",
        [
            C.sends(ASK),
            O.gets(ASKED),
            O.sends(with_field(OK, SUPPORT)),
            C.gets(OK_GOT),
            *OTHER,
            *MINE,
            *LEFT,
        ],
    ),
    Case(
        "bound-by-persistent-auth",
        "design",
        [
            C.sends(ASK),
            O.gets(ASKED),
            O.sends(with_field(OK, "Persistent-Auth: true")),
            C.gets(with_field(OK_GOT, "Persistent-Auth: true")),
            *OTHER,
            *MINE,
            *LEFT,
        ],
    ),
    Case(
        "bound-by-interim-response",
        "design",
        [
            C.sends(ASK),
            O.gets(ASKED),
            O.sends("HTTP/1.1 103 E\nWWW-Authenticate: NTLM\n\n"),
            C.gets(f"HTTP/1.1 103 E\nWWW-Authenticate: NTLM\n{VIA}\n\n"),
            O.sends(OK),
            C.gets(OK_GOT),
            *OTHER,
            *MINE,
            *LEFT,
        ],
    ),
    Case(
        "bound-by-three-legs",
        "4559 6",
        [
            *challenged("WWW-Authenticate: NTLM"),
            C.sends(with_field(ASK, "Authorization: NTLM one")),
            O.gets(with_field(ASKED, "Authorization: NTLM one")),
            O.sends(with_field(OK.replace("200 OK", "401 No"), "WWW-Authenticate: NTLM two")),
            C.gets(
                with_field(
                    OK_GOT.replace("200 OK", "401 No"), "WWW-Authenticate: NTLM two"
                ).replace(VIA, f"{SUPPORT}\nConnection: Proxy-Support\n{VIA}")
            ),
            *OTHER,
            *authorized("Authorization: NTLM three"),
            *MINE,
            *LEFT,
        ],
        dials=[("o", 80), ("o", 80)],
    ),
    Case(
        "challenge-to-1.0",
        "4559 6",
        [
            C.sends(ASK_10),
            O.gets(ASKED_10),
            O.sends(with_field(OK, "WWW-Authenticate: NTLM")),
            C.gets(with_field(OK_LAST, "WWW-Authenticate: NTLM")),
            C.sees_fin(),
            O.closed(),
            *OTHER,
        ],
    ),
]

BIND = authorized("Authorization: Negotiate a")

ENDS = [
    Case(
        "bound-left-for-another-origin",
        "design",
        [
            *BIND,
            C.sends(ASK.replace("//o/", "//o:81/")),
            O.closed(),
            O2.gets(ASKED.replace(": o", ": o:81")),
            O2.sends(OK),
            C.gets(OK_GOT),
            C.sends(ASK),
            O3.gets(ASKED),
            O3.sends(OK),
            C.gets(OK_GOT),
        ],
        dials=[("o", 80), ("o", 81), ("o", 80)],
    ),
    Case(
        "bound-until-the-origin-closes",
        "design",
        [*BIND, O.ends(), C.sees_fin(), O.closed(), *OTHER],
    ),
    Case(
        "bound-until-the-origin-speaks",
        "design",
        [*BIND, O.sends(OK), C.sees_fin(), O.closed(), *OTHER],
    ),
    Case(
        "bound-until-the-origin-resets",
        "design",
        [*BIND, O.resets(), C.sees_fin(), *OTHER],
    ),
    Case(
        "bound-until-the-client-is-silent",
        "9112 9.5",
        [*BIND, C.waits(), C.sees_fin(), O.closed(), *OTHER],
    ),
    Case("bound-until-reset", "design", [*BIND, C.resets(), O.closed(), *OTHER]),
    Case(
        "bound-until-close",
        "9112 9.6",
        [
            *BIND,
            C.sends(with_field(ASK, "Connection: close")),
            O.gets(ASKED),
            O.sends(OK),
            C.gets(OK_LAST),
            C.sees_fin(),
            O.closed(),
            *OTHER,
        ],
    ),
    Case(
        "bound-ends-with-the-answer",
        "9112 9.6",
        [
            C.sends(with_field(ASK, "Authorization: NTLM a")),
            O.gets(with_field(ASKED, "Authorization: NTLM a")),
            O.sends(with_field(OK, "Connection: close")),
            C.gets(OK_LAST),
            C.sees_fin(),
            O.closed(),
            *OTHER,
        ],
    ),
    Case(
        "bound-answer-cut",
        "design",
        [
            C.sends(with_field(ASK, "Authorization: NTLM a")),
            O.gets(with_field(ASKED, "Authorization: NTLM a")),
            O.sends(OK[:-1]),
            C.gets(OK_GOT[:-1]),
            O.ends(),
            C.sees_fin(),
            O.closed(),
            *OTHER,
        ],
    ),
    Case(
        "bound-too-long-an-answer",
        "design",
        [
            C.sends(with_field(ASK, "Authorization: NTLM a")),
            O.gets(with_field(ASKED, "Authorization: NTLM a")),
            O.sends(OK + "x"),
            C.gets(OK_GOT),
            O.closed(),
            *OTHER,
        ],
    ),
    Case(
        "bound-and-dead-again",
        "9110 9.2.2",
        [
            *BIND,
            C.sends(ASK),
            O.gets(ASKED),
            O.ends(),
            O2.gets(ASKED),
            O2.sends(OK),
            C.gets(OK_GOT),
            O.closed(),
            C2.sends(ASK),
            O3.gets(ASKED),
            O3.sends(OK),
            C2.gets(OK_GOT),
            C.ends(),
            C.sees_fin(),
            O2.closed(),
        ],
        dials=[("o", 80), ("o", 80), ("o", 80)],
    ),
    Case(
        "bound-and-dead-not-again-for-post",
        "9110 9.2.2",
        [
            *BIND,
            C.sends(HI),
            O.gets(HI_GOT),
            O.ends(),
            C.gets(
                page(
                    502,
                    "Bad Gateway",
                    "connection_terminated",
                    "the origin closed the connection without an answer",
                )
            ),
            C.sees_fin(),
            O.closed(),
        ],
        log=[FINE, (502, "connection_terminated", "")],
    ),
    Case(
        "bound-then-a-tunnel",
        "design",
        [
            *BIND,
            C.sends("CONNECT o:443 HTTP/1.1\nHost: o:443\n\n"),
            C.gets("HTTP/1.1 200 Connection established\n\n"),
            O.closed(),
            C.sends("up"),
            O2.gets("up"),
            C.ends(),
            O2.sees_fin(),
            O2.ends(),
            C.sees_fin(),
        ],
    ),
    Case(
        "bound-and-draining",
        "design",
        [
            C.sends(with_field(ASK, "Authorization: NTLM a")),
            O.gets(with_field(ASKED, "Authorization: NTLM a")),
            O.sends(OK),
            C.gets(OK_LAST),
            C.sees_fin(),
            O.closed(),
        ],
        draining=True,
    ),
]

CASES = [*REQUESTS, *ANSWERS, *ENDS]
