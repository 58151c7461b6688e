"""An origin that asks for NTLM ([MS-NLMP]) and knows one user. What it has sent on a connection
must be answered on the same: the proof is computed from it."""

from __future__ import annotations

import base64
import contextlib
import hmac
import os
import socket
import struct

from harness import read_exactly, read_head

USER = "alice"
PASSWORD = "password"
_NT_HASH = bytes.fromhex("8846f7eaee8fb117ad06bdd830b7586c")  # MD4 of the password in UTF-16LE

_UNICODE, _NTLM, _EXTENDED, _TARGET_INFO = 0x1, 0x200, 0x80000, 0x800000
_HEAD = b"NTLMSSP\0"


def _challenge_message(challenge: bytes) -> bytes:
    flags = _UNICODE | _NTLM | _EXTENDED | _TARGET_INFO
    name = "TEST".encode("utf-16-le")
    info = struct.pack("<HH", 2, len(name)) + name + bytes(4)  # MsvAvNbDomainName, MsvAvEOL
    return (
        _HEAD
        + struct.pack("<I", 2)
        + struct.pack("<HHI", 0, 0, 48)
        + struct.pack("<I", flags)
        + challenge
        + bytes(8)
        + struct.pack("<HHI", len(info), len(info), 48)
        + info
    )


def _proves(message: bytes, challenge: bytes) -> bool:
    """Whether an AUTHENTICATE_MESSAGE is USER's, and made from this challenge (NTLMv2)."""

    def part(at: int) -> bytes:
        size, _, offset = struct.unpack_from("<HHI", message, at)
        return message[offset : offset + size]

    answer, domain, user = part(20), part(28), part(36)
    if user.decode("utf-16-le") != USER or len(answer) < 24:
        return False
    key = hmac.digest(
        _NT_HASH, user.decode("utf-16-le").upper().encode("utf-16-le") + domain, "md5"
    )
    return hmac.compare_digest(hmac.digest(key, challenge + answer[16:], "md5"), answer[:16])


class NtlmOrigin:
    """``handle`` is for :func:`harness.serving`. The path / is for all. ``anonymous`` has for
    each request to it who it was taken for, "" for nobody; ``proofs`` counts handshakes."""

    def __init__(self) -> None:
        self.anonymous: list[str] = []
        self.proofs = 0
        self.failures = 0
        self._open: list[socket.socket] = []

    def close(self) -> None:
        """Ends every connection: the proxy would keep some for a while."""
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle(self, connection: socket.socket) -> None:
        self._open.append(connection)
        challenge, user = b"", ""
        while head := read_head(connection):
            lines = head.decode("latin-1").split("\r\n")
            pairs = (line.partition(": ") for line in lines[1:] if line)
            fields = {name.lower(): value for name, _, value in pairs}
            read_exactly(connection, int(fields.get("content-length", "0")))
            message = base64.b64decode(fields.get("authorization", "").partition(" ")[2])
            token = ""
            if lines[0].split(" ")[1] == "/":
                self.anonymous.append(user)
            elif message[8:12] == b"\1\0\0\0":
                challenge = os.urandom(8)
                token = " " + base64.b64encode(_challenge_message(challenge)).decode()
                user = ""
            elif message[8:12] == b"\3\0\0\0":
                user = USER if challenge and _proves(message, challenge) else ""
                self.proofs += bool(user)
                self.failures += not user
            if lines[0].split(" ")[1] == "/" or user:
                connection.sendall(_response("200 OK", user or "nobody"))
            else:
                connection.sendall(_response("401 No", "", f"WWW-Authenticate: NTLM{token}"))


def _response(status: str, body: str, *fields: str) -> bytes:
    date = "Date: Tue, 15 Nov 1994 08:12:31 GMT"
    lines = [f"HTTP/1.1 {status}", date, f"Content-Length: {len(body)}", *fields, "", body]
    return "\r\n".join(lines).encode()
