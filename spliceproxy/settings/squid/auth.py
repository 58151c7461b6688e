"""auth_param: who is a user."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from spliceproxy.settings.imported import Report
from spliceproxy.settings.squid.reading import Statement


class Auth:
    """``htpasswd``: the file of basic_ncsa_auth, None where users are known otherwise. ``schemes``:
    those that have a program."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._realm = ""
        self._case_counts = False
        self.schemes: set[str] = set()
        self.htpasswd: str | None = None
        self._about: Statement | None = None

    def take(self, statement: Statement) -> None:
        scheme, key, *rest = (*statement.words, "", "")
        rest = [one for one in rest if one]
        if key == "program":
            self.schemes.add(scheme)
            self._program(scheme, rest, statement)
        elif scheme == "basic" and key == "realm":
            self._realm = " ".join(rest)
        elif scheme == "basic" and key == "casesensitive":
            self._case_counts = rest == ["on"]

    def _program(self, scheme: str, words: list[str], statement: Statement) -> None:
        files = [word for word in words[1:] if not word.startswith("-")]
        if scheme == "basic" and words and "ncsa" in os.path.basename(words[0]) and files:
            self.htpasswd = files[0]
            self._about = statement
        else:
            program = words[0] if words else "no program"
            self._report.miss(f"{scheme} by {program}: users have a file of htpasswd here")

    def names(self, values: Iterable[str], *, ignore: bool) -> list[str]:
        """The users that squid means: unless the case counts, it knows them in lower case alone."""
        if self._case_counts:
            if ignore:
                raise ValueError("-i: the case of users counts here")
            return list(values)
        if ignore:
            return [value.lower() for value in values]
        return [value for value in values if value == value.lower()]

    def settings(self) -> dict[str, Any]:
        """Those that say who is a user, if any acl asks for one."""
        if self.htpasswd is None:
            return {}
        found: dict[str, Any] = {"htpasswd": self.htpasswd, "auth-required": "by-rule"}
        if self._realm and self._realm.isascii() and self._realm.isprintable():
            found["auth-realm"] = self._realm
        self._report.note(
            "the case of users counts here, and a wrong password is refused also where none is "
            "needed",
            self._where,
        )
        return found

    @property
    def _where(self) -> str:
        assert self._about is not None
        return f"{self._about.path}:{self._about.line}: {self._about.written}"

    def never_right(self) -> list[str]:
        """Users of the file whom squid never finds there, for it asks for them in lower case."""
        if self.htpasswd is None or self._case_counts:
            return []
        try:
            lines = Path(self.htpasswd).read_text("utf-8", "surrogateescape").split("\n")
        except OSError as error:
            self._report.close(f"{self.htpasswd}: cannot be read ({error.strerror})", self._where)
            self.htpasswd = None
            return []
        users = [line.partition(":")[0].strip() for line in lines if not line.startswith("#")]
        return sorted({user for user in users if user != user.lower()})
