"""Asks a running proxy at its admin address, for the commands."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from spliceproxy.config import Address
from spliceproxy.settings import token
from spliceproxy.settings.kind import Invalid
from spliceproxy.settings.sources import CONFIG_VARIABLE, Found, from_environment, from_file
from spliceproxy.settings.table import BY_NAME

ADMIN = "admin"
TOKEN_FILE = "admin-token-file"

SECONDS = 30.0
"""That an answer, or the next part of one, may take."""

_HERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where to connect for an address that stands for every address."""


class Unknown(ValueError):
    """Nothing says where the admin address is, or with which token; a line for each mistake."""


class Senseless(ValueError):
    """The proxy cannot make sense of what it was asked (status 400); the text says of what."""


class NoAnswer(OSError):
    """The proxy does not answer, or says no; the text says what."""


class Answer(NamedTuple):
    status: int
    type: str
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


class Client:
    """Of the proxy at ``address``. ``token`` is "" where none is needed; it was found in
    ``where``."""

    def __init__(self, address: Address, token: str, where: str = "the file of tokens") -> None:
        self.address = address
        self._token = token
        self._where = where

    def get(self, path: str) -> Any:
        """The JSON that is there. NoAnswer, Senseless."""
        return self._json("GET", path)

    def delete(self, path: str) -> Any:
        """What is said of an end. NoAnswer, Senseless."""
        return self._json("DELETE", path)

    def post(self, path: str, seconds: float = SECONDS) -> Any:
        """What is said of a change, within so many seconds. NoAnswer, Senseless."""
        return self._json("POST", path, seconds)

    def ask(
        self,
        method: str,
        path: str,
        fields: Mapping[str, str] | None = None,
        seconds: float = SECONDS,
    ) -> Answer:
        """Any answer. NoAnswer: there is none, or the token is not right."""
        connection = _Connection(self.address, seconds)
        sent = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            connection.request(method, path, headers={**sent, **(fields or {})})
            answer = connection.getresponse()
            found = Answer(answer.status, answer.getheader("Content-Type", ""), answer.read())
        except (OSError, http.client.HTTPException) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise NoAnswer(f"{self.address}: {why or type(error).__name__}") from None
        finally:
            connection.close()
        if found.status == 401 and self._token:
            raise NoAnswer(
                f"{self.address}: the proxy does not know the token that was sent, the first in "
                f"{self._where} (401)"
            )
        return found

    def _json(self, method: str, path: str, seconds: float = SECONDS) -> Any:
        answer = self.ask(method, path, {"Accept": "application/json"}, seconds)
        if answer.status == 400:
            raise Senseless(answer.text.strip())
        if answer.status >= 300:
            raise NoAnswer(f"{answer.text.strip()} ({answer.status})")
        try:
            return json.loads(answer.body)
        except ValueError:
            raise NoAnswer(f"{self.address}: no answer of spliceproxy's") from None


class _Connection(http.client.HTTPConnection):
    def __init__(self, address: Address, seconds: float) -> None:
        host = _HERE.get(address.host, address.host)
        super().__init__(host, address.port or None, timeout=seconds)
        self._path = address.path

    def connect(self) -> None:
        if not self._path:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def find(
    admin: str | None,
    token_file: str | None,
    config: str | None,
    environ: Mapping[str, str] = os.environ,
) -> Client:
    """The client for what the flags of a command say. What they do not say is in the environment,
    and what that does not say in the file of settings; each of the two is looked for by itself.
    Nothing else of the file has to be right. Unknown."""
    problems: list[str] = []
    found: dict[str, Found] = {}
    if config is not None:
        found = from_file(config, "--config", problems)
    elif CONFIG_VARIABLE in environ:
        found = from_file(environ[CONFIG_VARIABLE], CONFIG_VARIABLE, problems)
    wrong: list[str] = []
    found.update(from_environment(environ, wrong))
    given = {ADMIN: admin, TOKEN_FILE: token_file}
    for name in [name for name, text in given.items() if text is None]:
        # What the file says instead may be of another proxy.
        mistakes = [line for line in wrong if line.startswith(f"{BY_NAME[name].variable}: ")]
        if mistakes:
            raise Unknown("\n".join(mistakes))
    problems += wrong
    for name, text in given.items():
        if text is not None:
            try:
                found[name] = Found(BY_NAME[name].kind.read(text, ""), f"--{name}")
            except Invalid as error:
                raise Unknown(f"--{name}: {error}") from None
    address = found[ADMIN].value if ADMIN in found else None
    if address is None:
        raise _nowhere(admin, problems)
    if not (address.path or address.port):
        where = found[ADMIN].where
        raise Unknown(f"{where}: {address} does not say at which port it is; give --admin")
    token = "" if address.path else _token(found, problems)
    return Client(address, token, str(found[TOKEN_FILE].value) if token else "")


def _nowhere(admin: str | None, problems: Sequence[str]) -> Unknown:
    """There is no address; ``admin`` is what the flag says."""
    if admin is not None:
        return Unknown(f"--admin {admin}: no proxy is there; allowed: the address of one that runs")
    concerned = [line for line in problems if ADMIN in line.lower()] or problems
    what = "nothing says where the proxy is; give --admin, or --config with a file that has it"
    return Unknown("\n".join(concerned) or what)


def _token(found: Mapping[str, Found], problems: list[str]) -> str:
    if TOKEN_FILE not in found:
        concerned = [line for line in problems if "token" in line.lower()]
        raise Unknown("\n".join(concerned) or "a token is needed; give --admin-token-file")
    try:
        return token.watch(found[TOKEN_FILE].value).value[0]
    except ValueError as error:
        raise Unknown(f"{found[TOKEN_FILE].where} {error}") from None
