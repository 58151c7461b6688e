"""A file whose contents are read again when it changes."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

log = logging.getLogger("spliceproxy")

T = TypeVar("T")

SETTLED = 2.0
"""Seconds after its last change for which a file is read again: a change within the
granularity of its timestamps would go unseen."""


class WatchedFile(Generic[T]):
    """``value`` is what ``parse(text)`` made of the file; ``parse`` raises ValueError, whose
    text begins with ``:line`` or a blank. The constructor raises it with the file's name."""

    __slots__ = ("_complaint", "_parse", "_path", "_signature", "value")

    def __init__(self, path: Path, parse: Callable[[str], T]) -> None:
        self._path = path
        self._parse = parse
        self._signature: tuple[int, ...] | None = None
        self._complaint = ""
        self.value = self._read()

    def look(self) -> bool:
        """Reads the file again if it has changed; returns whether there is a new ``value``. A
        file that cannot be read, or has a bad line, changes nothing, and is complained of
        once."""
        try:
            if self._signature == _signature(os.stat(self._path)):
                return False
            self.value = self._read()
            self._complaint = ""
            return True
        except (OSError, ValueError) as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.error("%s; what it said before stays in force", error)
            return False

    def _read(self) -> T:
        try:
            with open(self._path, "rb") as file:
                found = os.fstat(file.fileno())
                text = file.read().decode("utf-8")
        except OSError as error:
            raise ValueError(f"{self._path}: cannot be read ({error.strerror})") from error
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise ValueError(f"{self._path}:{line}: not UTF-8") from error
        settled = time.time() - found.st_mtime >= SETTLED
        self._signature = _signature(found) if settled else None
        try:
            return self._parse(text)
        except ValueError as error:
            raise ValueError(f"{self._path}{error}") from error


def _signature(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
