"""Opens what is below a folder and nothing outside of it. Links are refused, or followed as long
as they stay inside. Nothing is checked first and opened later: nobody can swap a file between."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence

MAX_LINKS = 40
"""How many links are followed for one path (the kernel's MAXSYMLINKS)."""

LOOKED_AT = 10_000
"""How many directory entries a search for links looks at."""

_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO or a device must not wait.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def open_folder(path: str) -> int:
    """A descriptor for the folder (itself or behind a link); OSError."""
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def open_below(root: str, names: Sequence[bytes], *, links: bool) -> int:
    """Opens the last of ``names``, each below the one before, for reading; OSError.

    ``links``: whether links are followed, as openat2(2) does with RESOLVE_BENEATH. A link that
    is absolute or leads out of ``root``, even if it comes back, is EXDEV.
    """
    if links:
        return _Walk(root).open(names)
    folder = open_folder(root)
    try:
        for name in names[:-1]:
            inner = os.open(name, _PATH | os.O_DIRECTORY, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(names[-1], _READ, dir_fd=folder)
    finally:
        os.close(folder)


class _Walk:
    """``folders``: descriptors from the root to the present folder. ".." goes back to the one
    before. So whatever is renamed meanwhile, every folder was reached from the root by names."""

    def __init__(self, root: str) -> None:
        self._folders = [open_folder(root)]
        self._links = 0

    def open(self, names: Sequence[bytes]) -> int:
        todo = [*reversed(names)]
        try:
            while len(todo) > 1:
                self._step(todo)
            return self._last(todo)
        finally:
            for folder in self._folders:
                os.close(folder)

    def _step(self, todo: list[bytes]) -> None:
        """Takes the next name, after which more names follow."""
        name = todo.pop()
        if name in (b"", b"."):
            return
        if name == b"..":
            if len(self._folders) == 1:
                raise OSError(errno.EXDEV, "a link leads out of the folder")
            os.close(self._folders.pop())
            return
        inner = os.open(name, _PATH, dir_fd=self._folders[-1])
        mode = os.fstat(inner).st_mode
        if stat.S_ISDIR(mode):
            self._folders.append(inner)
            return
        try:
            if not stat.S_ISLNK(mode):
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            self._follow(inner, todo)
        finally:
            os.close(inner)

    def _last(self, todo: list[bytes]) -> int:
        while True:
            while len(todo) > 1:
                self._step(todo)
            if todo[0] in (b"", b".", b".."):
                self._step(todo)
                return os.open(".", _READ, dir_fd=self._folders[-1])
            try:
                return os.open(todo[0], _READ, dir_fd=self._folders[-1])
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
            link = os.open(todo.pop(), _PATH, dir_fd=self._folders[-1])
            try:
                self._follow(link, todo)  # EINVAL or ENOENT if it is no link any more
            finally:
                os.close(link)

    def _follow(self, link: int, todo: list[bytes]) -> None:
        """Puts the names of the link's target before those that are left."""
        self._links += 1
        target = os.readlink(b"", dir_fd=link)
        if self._links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if target.startswith(b"/"):
            raise OSError(errno.EXDEV, "an absolute link")
        todo.extend(reversed(target.split(b"/")))


def unserved(root: str, *, links: bool) -> list[str]:
    """The paths of links below a folder that :func:`open_below` refuses; some of a large one's."""
    found = []
    for path in find_links(root):
        if links:
            names = os.fsencode(os.path.relpath(path, root)).split(b"/")
            try:
                os.close(open_below(root, names, links=True))
                continue
            except OSError:
                pass  # why it is refused does not matter here: it is one of those asked for
        found.append(path)
    return sorted(found)


def find_links(root: str) -> Iterator[str]:
    """The links below a folder whose names do not begin with a dot; some of a large one's."""
    todo = [root]
    left = LOOKED_AT
    while todo and left > 0:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    left -= 1
                    if entry.name.startswith(".") or left < 0:
                        continue
                    if entry.is_symlink():
                        yield entry.path
                    elif entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
        except OSError:  # what cannot be read is not served either
            continue
