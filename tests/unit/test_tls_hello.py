"""tls/hello.py and front/named.py: the name in the first bytes of a client, cut at every byte."""

from __future__ import annotations

import ssl
import struct
import subprocess

import pytest
from harness import need, serving
from hypothesis import given
from hypothesis import strategies as st

from spliceproxy.front.named import name_in
from spliceproxy.tls.hello import MOST, Hello, read

ECH_EXTENSION = 0xFE0D


def of_python(name: str | None, *, most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = most
    context.set_alpn_protocols(["h2", "http/1.1"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def of_openssl(*args: str) -> bytes:
    """What s_client sends at first."""
    found = []

    def take(connection) -> None:  # type: ignore[no-untyped-def]
        data = b""
        while len(data) < 5 or len(data) < 5 + int.from_bytes(data[3:5], "big"):
            data += connection.recv(1 << 16)
        found.append(data)

    with serving(take) as (host, port):
        command = [need("openssl"), "s_client", "-connect", f"{host}:{port}", *args]
        subprocess.run(command, input=b"", capture_output=True, timeout=60, check=False)
    return found[0]


@pytest.fixture(scope="module")
def hellos() -> dict[str, tuple[bytes, Hello]]:
    named = Hello("named", "www.example.com")
    long = "a" * 63 + "." + "b" * 63 + ".example.com"
    return {
        "python": (of_python("WWW.example.com"), named),
        "python 1.2": (of_python("www.example.com", most=ssl.TLSVersion.TLSv1_2), named),
        "python, none": (of_python(None), Hello("no-name")),
        "long": (of_python(long), Hello("named", long)),
        "openssl": (of_openssl("-servername", "www.example.com"), named),
        "openssl, none": (of_openssl("-noservername"), Hello("no-name")),
        "openssl 1.2": (of_openssl("-tls1_2", "-servername", "www.example.com"), named),
        "openssl, x448": (
            of_openssl("-groups", "X448:P-521:ffdhe4096", "-servername", "www.example.com"),
            named,
        ),
    }


NAMES = [
    "python", "python 1.2", "python, none", "long", "openssl", "openssl, none", "openssl 1.2",
    "openssl, x448",
]  # fmt: skip


def records(body: bytes, size: int) -> bytes:
    """A message in records of so many bytes."""
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"\x16\x03\x01" + struct.pack("!H", len(part)) + part for part in parts)


@pytest.mark.parametrize("name", NAMES)
def test_cut_at_every_byte(hellos: dict[str, tuple[bytes, Hello]], name: str) -> None:
    data, wanted = hellos[name]
    for look in (read, name_in):
        for at in range(1, len(data)):
            assert look(data[:at]) is None
        for more in (b"", b"\x14\x03\x03\x00\x01\x01", b"\x00"):
            assert look(data + more) == wanted


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 3, 4, 5, 100])
def test_in_several_records(hellos: dict[str, tuple[bytes, Hello]], name: str, size: int) -> None:
    data, wanted = hellos[name]
    cut = records(data[5:], size)
    for at in range(0, len(cut), 7):
        assert read(cut[:at]) is None
    assert read(cut) == wanted


def message(*extensions: tuple[int, bytes], head: bytes = b"") -> bytes:
    """A ClientHello with these extensions, as one record."""
    parts = b"".join(struct.pack("!HH", kind, len(body)) + body for kind, body in extensions)
    body = head or b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    body += struct.pack("!H", len(parts)) + parts
    return records(b"\x01" + len(body).to_bytes(3, "big") + body, 16384)


def server_name(*names: bytes, kind: int = 0) -> tuple[int, bytes]:
    listed = b"".join(struct.pack("!BH", kind, len(name)) + name for name in names)
    return 0, struct.pack("!H", len(listed)) + listed


ECH = (ECH_EXTENSION, b"\x00" + bytes(40))
MALFORMED = Hello("malformed")


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (message(server_name(b"a.test")), Hello("named", "a.test")),
        (message(server_name(b"A.test.")), Hello("named", "a.test")),
        (message((0x2A2A, b""), server_name(b"a.test"), (0x3A3A, b"\0")), Hello("named", "a.test")),
        (message(server_name(b"a.test"), ECH), Hello("ech", "a.test")),
        (message(ECH), Hello("ech", "")),
        (message((0xFF01, b"\0" * 9000), server_name(b"a.test")), Hello("named", "a.test")),
        (message(), Hello("no-name")),
        (message(server_name(b"")), MALFORMED),
        (message(server_name()), MALFORMED),
        (message(server_name(b"a.test", b"b.test")), MALFORMED),
        (message(server_name(b"a.test"), server_name(b"b.test")), MALFORMED),
        (message(server_name(b"a.test", kind=1)), MALFORMED),
        (message(server_name(b"a.test\0.b.test")), MALFORMED),
        (message(server_name("ä.test".encode())), MALFORMED),
        (message(server_name(b"." * 3)), MALFORMED),
        (message(server_name(b"a" * 300)), MALFORMED),
        (message((0, b"\x00")), MALFORMED),
        (message((0, server_name(b"a.test")[1] + b"\0")), MALFORMED),
        (message(server_name(b"a.test"), head=b"\3\3" + bytes(32) + b"\x21" + bytes(9)), MALFORMED),
        (message(server_name(b"a.test"), (0xFF01, b"\0" * 16400)), MALFORMED),
        (b"\x16\x03\x01\x00\x00", MALFORMED),
        (b"\x16\x03\x01\x40\x01", MALFORMED),
        (b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", MALFORMED),
        (b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", MALFORMED),
        (b"\x16\x03\x01\x00\x01\x01\x17\x03\x03\x00\x01\x00", MALFORMED),
        (b"\x16\x03\x01\x00\x04\x01\x01\x00\x00", MALFORMED),
        (b"\x16\x02", Hello("not-tls")),
        (b"\x80\x2e\x01\x03\x01", Hello("not-tls")),
        (b"\x00", Hello("not-tls")),
        (b"\x05\x01\x00", Hello("not-tls")),
    ],
)  # fmt: skip
def test_made_by_hand(data: bytes, wanted: Hello) -> None:
    assert read(data) == wanted
    seen = [read(data[:at]) for at in range(len(data) + 1)]
    answers = [one for one in seen if one is not None]
    assert set(answers) == {wanted}, "once there is an answer it stays"
    assert seen[len(seen) - len(answers) :] == answers


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"GET / HTTP/1.1\r\nHost: A.test:8080\r\n\r\n", Hello("named", "a.test")),
        (b"GET / HTTP/1.1\r\nHost: a.test.\r\n\r\nmore", Hello("named", "a.test")),
        (b"GET http://b.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", Hello("named", "b.test")),
        (b"GET / HTTP/1.0\r\n\r\n", Hello("no-name")),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", Hello("no-name")),
        (b"GET / HTTP/1.1\r\n\r\n", MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n", MALFORMED),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", MALFORMED),
        (b"GET / HTTP/1.1\nHost: a.test\n\n", Hello("not-tls")),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Hello("not-tls")),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Hello("not-tls")),
        (b"EHLO me\r\n", Hello("not-tls")),
        (b"x" * MOST, Hello("not-tls")),
        (b"GET / HTTP/1.1\r\nHost: a.test\r\nX: " + b"x" * MOST, MALFORMED),
    ],
)
def test_requests(data: bytes, wanted: Hello) -> None:
    assert name_in(data) == wanted
    seen = [name_in(data[:at]) for at in range(0, len(data) + 1, 1 if len(data) < 200 else 97)]
    assert {one for one in seen if one is not None} <= {wanted}
    assert name_in(data + b"more") == wanted


@given(data=st.binary(max_size=400), at=st.integers(0, 400), more=st.binary(max_size=20))
def test_any_bytes(data: bytes, at: int, more: bytes) -> None:
    """What is known early is not changed by what comes behind."""
    for start in (b"", b"\x16\x03\x01", message(server_name(b"a.test"))[: at % 60]):
        whole = start + data
        early = name_in(whole[:at])
        if early is not None:
            assert name_in(whole) == early
            assert name_in(whole + more) == early
