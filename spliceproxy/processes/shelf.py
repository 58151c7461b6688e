"""What files said that the workers go by, as the supervisor keeps it for those that it starts
(:mod:`spliceproxy.processes.keeping`)."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from spliceproxy.admin.channel import Message, close_all
from spliceproxy.kept import Texts, nothing, packed, unpacked, written

FIXED, FOLLOWED = "fixed", "followed"
"""What stays as it is while a generation is in force, and what is read again."""


class Shelf:
    """Of one supervisor."""

    def __init__(self) -> None:
        self._generation = 0
        self._fds: dict[str, int] = {}

    def hear(self, message: Message, generation: int) -> None:
        """A worker says what its files say; this ``generation`` is in force."""
        kind, fds = message["kept"], list(message["fds"])
        if generation != self._generation:
            self.close()
            self._generation = generation
        late = message.get("generation") != generation or (kind == FIXED and FIXED in self._fds)
        if late or kind not in (FIXED, FOLLOWED) or len(fds) != 1:
            close_all(fds)
            return
        before = self._fds.get(kind)
        self._fds[kind] = fds[0]
        if before is not None:
            os.close(before)

    def follow(self, path: Path, generation: int) -> None:
        """What a file says now is for the first process that follows it, until that has said what
        it has read. Where it cannot be kept, that process finds what there is by then."""
        with contextlib.suppress(OSError):
            fd = written(packed({}, {str(path): path.read_bytes()}))
            message = {"kept": FOLLOWED, "generation": generation, "fds": [fd]}
            self.hear(message, generation)

    def texts(self, generation: int) -> Texts:
        """Those of this generation."""
        if generation != self._generation or not self._fds:
            return nothing()
        return unpacked(self._read(FIXED), self._read(FOLLOWED))

    def _read(self, kind: str) -> bytes:
        fd = self._fds.get(kind)
        return b"" if fd is None else os.pread(fd, os.fstat(fd).st_size, 0)

    def close(self) -> None:
        """Keeps nothing any more, also in a process that was forked."""
        close_all(list(self._fds.values()))
        self._fds.clear()
