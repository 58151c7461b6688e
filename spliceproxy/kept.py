"""What files said when the proxy began to go by them, for a process that begins later.

A worker that takes the place of another goes by what is in force, whatever somebody has written
into a file meanwhile. So each worker notes what it has read, and the supervisor keeps that
(:mod:`spliceproxy.processes.keeping`). The admin process does the same with its tokens.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

ANY = 0
"""In the place of the number of a configuration: what is followed stands in for no other file than
that of the same path, whichever configuration names it."""


class Texts(NamedTuple):
    """``modules``: by name, the file and the source of each that was executed from there.
    ``files``: by path, what is read in the place of the file. ``followed``: the same for files that
    are read again whenever they change; it stands in where they cannot be used as they are now."""

    modules: dict[str, tuple[str, bytes]]
    files: dict[str, bytes]
    followed: dict[str, bytes]


def nothing() -> Texts:
    """Of a process that is given no text."""
    return Texts({}, {}, {})


class Kept:
    """Of one policy: the texts that it is ``given``, and those that it goes by. ``told`` is called
    when one that is followed is another."""

    __slots__ = ("given", "read", "told")

    def __init__(self, given: Texts | None = None) -> None:
        self.given = given or nothing()
        self.read = nothing()
        self.told: Callable[[], None] | None = None

    def follow(self, path: str, text: bytes) -> None:
        """The file says this from now on."""
        self.read.followed[path] = text
        if self.told is not None:
            self.told()

    def go_on_with(self, before: Kept) -> None:
        """The files that are followed are those of the policy before, by the same objects."""
        self.read = self.read._replace(followed=before.read.followed)


def packed(modules: Mapping[str, tuple[str, bytes]], files: Mapping[str, bytes]) -> bytes:
    """Texts for another process. Whoever reads them need not trust who has written them."""
    import json  # late: most policies read no file

    found = {
        "modules": {name: [path, _text(source)] for name, (path, source) in modules.items()},
        "files": {path: _text(content) for path, content in files.items()},
    }
    return json.dumps(found).encode("ascii")


def written(content: bytes) -> int:
    """A file without a name (memfd_create(2)) with this content. OSError."""
    fd = os.memfd_create("spliceproxy-kept", os.MFD_CLOEXEC)
    try:
        with open(os.dup(fd), "wb") as file:
            file.write(content)
    except BaseException:
        os.close(fd)
        raise
    return fd


def unpacked(fixed: bytes, followed: bytes) -> Texts:
    """The texts of two packages: what stays as it is, and what is followed. Each may be empty."""
    modules, files = _contents(fixed)
    return Texts(modules, files, _contents(followed)[1])


def _contents(package: bytes) -> tuple[dict[str, tuple[str, bytes]], dict[str, bytes]]:
    if not package:
        return {}, {}
    import json

    found = json.loads(package)
    modules = {
        str(name): (str(path), _bytes(source)) for name, (path, source) in found["modules"].items()
    }
    return modules, {str(path): _bytes(text) for path, text in found["files"].items()}


def _text(content: bytes) -> str:
    return content.decode("latin-1")  # a character for each byte, so none is lost


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")
