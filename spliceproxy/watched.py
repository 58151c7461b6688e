"""A file whose contents are read again when it changes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from spliceproxy.kept import Kept
from spliceproxy.messages import log
from spliceproxy.textfile import text_of

T = TypeVar("T")

RETRY = 30.0
"""Seconds after which a file with mistakes is read again though it has not changed: where there
are no descriptors, getpwnam(3) knows no user."""

MOST = 20
"""Mistakes of one file that are told."""

SETTLED = 2.0
"""Seconds after its last change for which a file is read again: a change within the
granularity of its timestamps would go unseen."""


class Mistakes(ValueError):
    """What is wrong, all of it: ``problems`` are the lines of the error's text."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class WatchedFile(Generic[T]):
    """``value`` is what ``parse(text)`` made of the file; ``parse`` raises :class:`Mistakes`,
    whose lines begin with ``:line: `` or ``: ``. The constructor raises them with the file's
    name, unless what the file said before is ``kept``."""

    __slots__ = ("_complaint", "_kept", "_parse", "_path", "_retry_at", "_signature", "value")

    def __init__(self, path: Path, parse: Callable[[str], T], kept: Kept | None = None) -> None:
        self._path = path
        self._parse = parse
        self._kept = kept
        self._signature: tuple[int, ...] | None = None
        self._complaint = ""
        self._retry_at = 0.0
        before = None if kept is None else kept.given.followed.get(str(path))
        try:
            self.value = self._read()
        except ValueError as error:
            if kept is None or before is None:
                raise
            self.value = parse(text_of(before))
            kept.follow(str(path), before)
            self._complain(str(error))

    def look(self) -> bool:
        """Reads the file again if it has changed; returns whether there is a new ``value``. A
        file that cannot be read, or has a bad line, changes nothing, and is complained of
        once."""
        try:
            same = self._signature == _signature(os.stat(self._path))
            if same and not (self._complaint and time.monotonic() >= self._retry_at):
                return False
            self.value = self._read()
            self._complaint = ""
            return True
        except (OSError, ValueError) as error:
            found = _unreadable(self._path, error) if isinstance(error, OSError) else str(error)
            self._complain(found)
            return False

    def _complain(self, found: str) -> None:
        self._retry_at = time.monotonic() + RETRY
        if found == self._complaint:
            return
        self._complaint = found
        *others, last = found.split("\n")
        for problem in others:
            log.error("%s", problem)
        log.error("%s; what the file said before stays in force", last)

    def _read(self) -> T:
        try:
            with open(self._path, "rb") as file:
                found = os.fstat(file.fileno())
                content = file.read()
            text = text_of(content)
        except OSError as error:
            raise ValueError(_unreadable(self._path, error)) from error
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise ValueError(f"{self._path}:{line}: not UTF-8") from error
        except ValueError as error:
            raise ValueError(f"{self._path}: {error}") from error
        settled = time.time() - found.st_mtime >= SETTLED
        self._signature = _signature(found) if settled else None
        try:
            value = self._parse(text)
        except Mistakes as error:
            problems = [f"{self._path}{problem}" for problem in error.problems[:MOST]]
            if len(error.problems) > MOST:
                problems.append(f"{self._path}: {len(error.problems) - MOST} more such lines")
            raise Mistakes(problems) from error
        if self._kept is not None:
            self._kept.follow(str(self._path), content)
        return value


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path}: cannot be read: {error.strerror}"


def _signature(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
