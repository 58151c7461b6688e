"""What clients say first in a tunnel to www.example.com, and what is to be found in it.

Some are said by real programs, when they are asked for, or were (hellos_recorded.py); the others
are made from the structures of RFC 8446 section 4, in the order in which such programs send them.
"""

from __future__ import annotations

import os
import random
import ssl
import struct
import subprocess
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from harness import need, serving
from hellos_recorded import GO, JAVA

NAME = "www.example.com"
MOST = 16384

ECH_EXTENSION = 0xFE0D
GREASE = 0x3A3A
X25519 = 0x001D
X25519MLKEM768 = 0x11EC
MLKEM1024 = 0x0202


class First(NamedTuple):
    """What a client says first, and one of ``relay.checking.FOUND``. More of it changes nothing."""

    said: bytes
    found: str


def some(size: int) -> bytes:
    """Bytes that are always the same."""
    return random.Random(size).randbytes(size)


def records(message: bytes, size: int = MOST, version: int = 0x0301, kind: int = 22) -> bytes:
    """A message in records of so many bytes."""
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(struct.pack("!BHH", kind, version, len(part)) + part for part in parts)


def handshake(body: bytes, kind: int = 1) -> bytes:
    return bytes((kind,)) + len(body).to_bytes(3, "big") + body


def vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size, "big") + data


def extension(kind: int, body: bytes) -> bytes:
    return struct.pack("!H", kind) + vector(2, body)


def server_name(*names: bytes, kind: int = 0) -> bytes:
    listed = b"".join(bytes((kind,)) + vector(2, name) for name in names)
    return extension(0, vector(2, listed))


def numbers(size: int, *values: int) -> bytes:
    return vector(size, b"".join(struct.pack("!H", value) for value in values))


def key_share(*shares: tuple[int, int]) -> bytes:
    entries = b"".join(struct.pack("!H", group) + vector(2, some(size)) for group, size in shares)
    return extension(51, vector(2, entries))


SHARES = {
    X25519: 32,
    X25519MLKEM768: 1216,  # draft-ietf-tls-ecdhe-mlkem
    MLKEM1024: 1568,
    0x6399: 1216,  # X25519Kyber768Draft00
    0x0017: 65,
    0x0019: 133,
    GREASE: 1,
}


def groups(*wanted: int) -> list[bytes]:
    """supported_groups, and a key share of each."""
    shares = key_share(*((one, SHARES[one]) for one in wanted))
    return [extension(10, numbers(2, *wanted)), shares]


VERSIONS = extension(43, b"\x04\x03\x04\x03\x03")
SIGNATURES = extension(13, numbers(2, 0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806))
ALPN = extension(16, vector(2, vector(1, b"h2") + vector(1, b"http/1.1")))
ECH = extension(ECH_EXTENSION, b"\0\0\1\0\1\7" + vector(2, some(32)) + vector(2, some(144)))
RIGHT = server_name(NAME.encode())
SUITES = (0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030)


def hello(
    extensions: Sequence[bytes] | None,
    suites: Sequence[int] = SUITES,
    session: bytes = bytes(32),
    methods: bytes = b"\0",
    version: int = 0x0303,
) -> bytes:
    """A ClientHello as a message."""
    body = struct.pack("!H", version) + some(32) + vector(1, session)
    body += numbers(2, *suites) + vector(1, methods)
    if extensions is not None:
        body += vector(2, b"".join(extensions))
    return handshake(body)


def browser(name: bytes, *more: bytes, shares: Sequence[int] = (GREASE, X25519)) -> list[bytes]:
    """The extensions of one, but for their order, which it shuffles."""
    return [
        extension(GREASE, b""), name, extension(23, b""), extension(0xFF01, b"\0"),
        *groups(*shares), extension(11, b"\1\0"), extension(35, b""), ALPN,
        extension(5, b"\1\0\0\0\0"), SIGNATURES, extension(18, b""), extension(45, b"\1\1"),
        extension(43, vector(1, struct.pack("!HHH", GREASE, 0x0304, 0x0303))),
        extension(27, b"\2\0\2"), *more, extension(0x4A4A, b"\0"),
    ]  # fmt: skip


def padded(size: int) -> bytes:
    """One whose message has so many bytes, the name at its end."""
    base = len(hello([extension(21, b""), RIGHT]))
    return hello([extension(21, bytes(size - base)), RIGHT])


QUANTUM = (GREASE, X25519MLKEM768, X25519)

MADE: dict[str, First] = {}
"""Those that are made here."""


def _put(found: str, **said: bytes) -> None:
    for name, data in said.items():
        MADE[name] = First(data, found)


_put(
    "match",
    plain=records(hello([RIGHT, VERSIONS, *groups(X25519), SIGNATURES])),
    capitals=records(hello([server_name(b"WWW.Example.COM")])),
    final_dot=records(hello([server_name(b"www.example.com.")])),
    tls_1_2_only=records(hello([RIGHT, extension(10, numbers(2, 23, 24)), SIGNATURES])),
    tls_1_0=records(hello([RIGHT], (0xC009, 0xC013, 0x2F), b"", version=0x0301)),
    old_methods=records(hello([RIGHT], methods=b"\1\0")),
    no_session=records(hello([RIGHT, VERSIONS], session=b"")),
    chromium=records(hello(browser(RIGHT, shares=QUANTUM), (GREASE, *SUITES))),
    chromium_without_quantum=records(hello(browser(RIGHT), (GREASE, *SUITES))),
    kyber=records(hello(browser(RIGHT, shares=(GREASE, 0x6399, X25519)))),
    ml_kem_1024=records(hello([VERSIONS, *groups(MLKEM1024, X25519MLKEM768, X25519), RIGHT])),
    firefox=records(
        hello([RIGHT, extension(23, b""), extension(0xFF01, b"\0"), *groups(X25519MLKEM768, 23),
               extension(11, b"\1\0"), extension(35, b""), ALPN, extension(5, b"\1\0\0\0\0"),
               extension(34, numbers(2, 0x0403, 0x0503)), VERSIONS, SIGNATURES,
               extension(45, b"\1\1"), extension(28, b"\x40\x01")])
    ),
    go=records(
        hello([RIGHT, extension(5, b"\1\0\0\0\0"), extension(11, b"\1\0"),
               extension(10, numbers(2, X25519MLKEM768, X25519, 23, 24, 25)), SIGNATURES, ALPN,
               extension(18, b""), extension(23, b""), extension(0xFF01, b"\0"), VERSIONS,
               key_share((X25519MLKEM768, 1216), (X25519, 32))])
    ),
    java=records(
        hello([RIGHT, extension(5, b"\1\0\0\0\0"), extension(10, numbers(2, X25519, 23, 24)),
               extension(11, b"\1\0"), extension(17, b"\0\7\2\0\4\0\0\0\0"), extension(23, b""),
               extension(35, b""), SIGNATURES, extension(50, numbers(2, 0x0403, 0x0804)), VERSIONS,
               extension(45, b"\1\1"), key_share((X25519, 32)), extension(0xFF01, b"\0")]),
        version=0x0303,
    ),
    gnutls=records(
        hello([extension(5, b"\1\0\0\0\0"), RIGHT, extension(0xFF01, b"\0"), extension(35, b""),
               extension(22, b""), extension(23, b""), extension(28, b"\x40\x01"),
               *groups(23, X25519), VERSIONS, SIGNATURES, extension(45, b"\3\1\0\1")])
    ),
    resumption=records(
        hello([RIGHT, VERSIONS, *groups(X25519MLKEM768), extension(42, b""),
               extension(41, vector(2, vector(2, some(1800)) + bytes(4)) + vector(2, bytes(33)))])
    ),
    padding=records(padded(512)),
    large=records(padded(9000)),
    largest=records(padded(MOST - 5)),
    records_of_1=records(hello([RIGHT, VERSIONS]), 1),
    records_of_3=records(hello([RIGHT, VERSIONS]), 3),
    records_of_4=records(hello([RIGHT, VERSIONS]), 4),
    records_of_100=records(hello(browser(RIGHT, shares=QUANTUM)), 100),
    records_of_1200=records(hello(browser(RIGHT, shares=QUANTUM)), 1200, 0x0303),
    name_in_two_records=records(hello([VERSIONS, RIGHT]), len(hello([VERSIONS, RIGHT])) - 7),
    record_of_ssl_3=records(hello([RIGHT]), version=0x0300),
    record_of_tls_1_3=records(hello([RIGHT]), version=0x0304),
    with_early_data=records(hello([RIGHT, extension(42, b"")])) + records(some(900), kind=23),
    with_a_change_of_cipher=records(hello([RIGHT])) + records(b"\1", kind=20),
    with_more_in_the_record=records(hello([RIGHT]) + b"\x14\0\0\1\0"),
)  # fmt: skip
_put("match", go_recorded=GO, java_recorded=JAVA)
_put(
    "mismatch",
    go_another=GO.replace(NAME.encode(), b"not.example.com"),
    java_another=JAVA.replace(NAME.encode(), b"not.example.com"),
)
_put(
    "ech",
    ech=records(hello([RIGHT, VERSIONS, *groups(X25519), ECH])),
    ech_of_a_browser=records(hello(browser(RIGHT, ECH, shares=QUANTUM), (GREASE, *SUITES))),
    ech_first=records(hello([ECH, RIGHT]), 200),
)
_put(
    "mismatch",
    another=records(hello([server_name(b"evil.example"), VERSIONS])),
    below=records(hello([server_name(b"a.www.example.com")])),
    above=records(hello([server_name(b"example.com")])),
    longer=records(hello([server_name(b"www.example.com.evil.example")])),
    shorter=records(hello([server_name(b"www.example.co")])),
    an_address=records(hello([server_name(b"192.0.2.7")])),
    two_dots=records(hello([server_name(b"www.example.com..")])),
    another_of_a_browser=records(hello(browser(server_name(b"evil.example"), shares=QUANTUM))),
    another_in_two_records=records(hello([VERSIONS, server_name(b"evil.example")]), 90),
    longest=records(hello([server_name(b"a." * 126 + b"a.")])),
    ech_behind_another=records(hello([server_name(b"public.example"), VERSIONS, ECH])),
    ech_behind_none=records(hello([VERSIONS, ECH])),
)
_put(
    "no-name",
    no_name=records(hello([VERSIONS, *groups(X25519MLKEM768), SIGNATURES])),
    no_extension=records(hello([])),
    no_extensions=records(hello(None, (0x2F,), b"", version=0x0301)),
)
_put(
    "malformed",
    name_of_nothing=records(hello([server_name(b"")])),
    no_names=records(hello([server_name()])),
    two_names=records(hello([server_name(NAME.encode(), b"evil.example")])),
    name_of_a_kind=records(hello([server_name(NAME.encode(), kind=1)])),
    two_server_names=records(hello([RIGHT, server_name(b"evil.example")])),
    twice_the_same=records(hello([RIGHT, extension(23, b""), extension(23, b"")])),
    nul=records(hello([server_name(b"www.example.com\0.evil.example")])),
    not_ascii=records(hello([server_name("wẃw.example.com".encode())])),
    a_blank=records(hello([server_name(b"www.example.com ")])),
    dots=records(hello([server_name(b"...")])),
    too_long=records(hello([server_name(b"a" * 255)])),
    more_behind_the_name=records(hello([extension(0, RIGHT[4:] + b"\0")])),
    long_session=records(hello([RIGHT], session=bytes(33))),
    no_suites=records(hello([RIGHT], ())),
    no_methods=records(hello([RIGHT], methods=b"")),
    half_an_extension=records(hello([RIGHT, b"\0\x17\0\4\0"])),
    more_behind_the_extensions=records(handshake(hello([RIGHT])[4:] + b"\0")),
    larger_than_is_looked_at=records(padded(MOST + 1)),
    as_large_as_is_looked_at=records(padded(MOST)),
    empty_record=b"\x16\3\1\0\0" + records(hello([RIGHT])),
    long_record=b"\x16\3\1\x40\1" + hello([RIGHT]),
    empty_message=records(b"\1\0\0\0"),
    server_hello=records(handshake(hello([RIGHT])[4:], 2)),
    hello_request=records(handshake(b"", 0)) + records(hello([RIGHT])),
    alert_between=records(hello([RIGHT])[:60]) + records(b"\1\x64", kind=21),
    alert_before=records(b"\1\x64", kind=21) + records(hello([server_name(b"evil.example")])),
    change_of_cipher_before=records(b"\1", kind=20) + records(hello([RIGHT])),
    data_before=records(b"x", kind=23) + records(hello([RIGHT])),
    heartbeat_before=records(b"\1\0\1x", kind=24) + records(hello([RIGHT])),
)
_put(
    "not-tls",
    ssh=b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
    smtp=b"EHLO me.example.com\r\n",
    imap=b"a STARTTLS\r\n",
    ftp=b"AUTH TLS\r\n",
    http=b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    http_2=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    postgres=b"\0\0\0\x08\x04\xd2\x16\x2f",
    redis=b"*1\r\n$4\r\nPING\r\n",
    rdp=b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\x03\0\0\0",
    socks=b"\x05\x01\0",
    ssl_2=b"\x80\x2e\x01\x03\x01\0\x15\0\0\0\x10",
    another_version=b"\x16\2\1\0\x05",
    a_line_end=b"\n",
    zeros=bytes(64),
)


def of_python(name: str | None, *, most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """What the ssl module of this Python says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = most
    context.set_alpn_protocols(["h2", "http/1.1"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("it waits for no answer")


def of_program(*command: str) -> bytes:
    """What a program says first to a server on this machine, whose port stands for PORT."""
    found: list[bytes] = []

    def take(connection) -> None:  # type: ignore[no-untyped-def]
        data = b""
        while len(data) < 5 or len(data) < 5 + int.from_bytes(data[3:5], "big"):
            more = connection.recv(1 << 16)
            if not more:
                break
            data += more
        found.append(data)

    with serving(take) as (_, port):
        run = [need(command[0]), *(word.replace("PORT", str(port)) for word in command[1:])]
        # Without our sanitizers, under which curl does not come to an end.
        bare = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        subprocess.run(run, input=b"", capture_output=True, timeout=60, check=False, env=bare)
    return found[0]


def _openssl(*args: str) -> bytes:
    return of_program("openssl", "s_client", "-connect", "127.0.0.1:PORT", *args)


def said() -> Iterator[tuple[str, First]]:
    """Those that programs say."""
    name = "-servername", NAME
    for title, args, found in (
        ("openssl", name, "match"),
        ("openssl, 1.2", (*name, "-tls1_2"), "match"),
        ("openssl, 1.3", (*name, "-tls1_3", "-alpn", "h2"), "match"),
        ("openssl, large shares", (*name, "-groups", "ffdhe4096:P-521:X448"), "match"),
        ("openssl, another", ("-servername", "evil.example"), "mismatch"),
        ("openssl, none", ("-noservername",), "no-name"),
    ):
        yield title, First(_openssl(*args), found)
    old = ssl.TLSVersion.TLSv1_2
    yield "python", First(of_python("WWW.example.com"), "match")
    yield "python, 1.2", First(of_python(NAME, most=old), "match")
    yield "python, none", First(of_python(None), "no-name")
    yield "python, another", First(of_python("example.com"), "mismatch")
    curl = "curl", "-sk", "--noproxy", "*"
    there = "--connect-to", "::127.0.0.1:PORT"
    yield "curl", First(of_program(*curl, *there, f"https://{NAME}/"), "match")
    yield "curl, address", First(of_program(*curl, "https://127.0.0.1:PORT/"), "no-name")
