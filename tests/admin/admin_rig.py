"""Asks a proxy process at its admin address, as a program or a browser would."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from harness import ProxyProcess

TOKEN = "0123456789abcdef-tests"


class Answer(NamedTuple):
    status: int
    fields: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Admin:
    """The admin address of a proxy. ``path`` is its Unix socket; without one it is on TCP."""

    def __init__(self, proxy: ProxyProcess, path: str = "", timeout: float = 20.0) -> None:
        self.proxy = proxy
        self.path = path
        self.timeout = timeout
        self.port = 0 if path else proxy.admin_port

    def connection(self) -> http.client.HTTPConnection:
        if self.path:
            return _UnixConnection(self.path, self.timeout)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)

    def socket(self) -> socket.socket:
        if not self.path:
            return socket.create_connection(("127.0.0.1", self.port), self.timeout)
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(self.timeout)
        s.connect(self.path)
        return s

    def ask(
        self,
        path: str,
        method: str = "GET",
        body: bytes | None = None,
        token: str | None = TOKEN,
        **fields: str,
    ) -> Answer:
        """One request on a connection of its own. A ``_`` in the name of a field is a dash."""
        sent = {name.replace("_", "-"): value for name, value in fields.items()}
        if token is not None and not self.path:
            sent.setdefault("Authorization", f"Bearer {token}")
        connection = self.connection()
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """What the JSON at this path says."""
        answer = self.ask(path)
        assert answer.status == 200, answer
        return answer.json


NewAdmin = Callable[..., Admin]
"""The fixture ``new_admin``."""


def token_file(folder: Path) -> Path:
    """A file with TOKEN that only this user can read."""
    path = folder / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path
