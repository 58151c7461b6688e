"""Lines for a descriptor, from a process that has no thread and must not wait: the supervisor.

The flags of the descriptor stay as they are: whoever has given it to us may use it, too. A pipe
or terminal is opened once more by /proc/self/fd, which gives a description of its own
(open(2)) that can be O_NONBLOCK; a socket has MSG_DONTWAIT (send(2)). Where neither can be had,
poll(2) is asked first, and only another process that fills the pipe just then can make it wait.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import stat
import time
from collections import deque
from collections.abc import Callable

BACKLOG = 32 << 10
"""Bytes that may wait: fewer than a pipe holds, so that they fit in one that is made larger."""


_NO_ROOM = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN}
)
"""Errors that end when somebody makes room: as of a full disk, or a pipe that is not read."""

POLL_SECONDS = 0.05
"""Between two tries at the end, where poll(2) cannot say when there is room."""


class TryWriter:
    """``told(lines)`` makes the text that says how many lines are lost; it is written as soon
    as there is room."""

    def __init__(self, fd: int, told: Callable[[int], bytes]) -> None:
        self._told = told
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._size = 0
        self.lost = 0  # lines that have not been told of
        self._fd = fd
        self._own = -1
        self._socket: socket.socket | None = None
        self._poll = False
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISSOCK(mode):
                self._socket = socket.socket(fileno=os.dup(fd))
            elif not stat.S_ISREG(mode):
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                self._own = os.open(f"/proc/self/fd/{fd}", flags)
        except OSError:
            self._poll = True

    @property
    def waits(self) -> bool:
        """Whether :meth:`flush` has something to do."""
        return bool(self._waiting) or self.lost > 0

    def put(self, text: bytes, lines: int) -> None:
        """Whole lines."""
        if self._size + len(text) > BACKLOG:
            self.lost += lines
        else:
            self._waiting.append((text, lines))
            self._size += len(text)
        self.flush()

    def flush(self) -> None:
        """Writes what there is room for."""
        while self._waiting:
            text, lines = self._waiting[0]
            most = len(text)
            if most > select.PIPE_BUF:
                most = text.rfind(b"\n", 0, select.PIPE_BUF) + 1 or select.PIPE_BUF
            try:
                written = self._try(text[:most])
            except OSError as error:
                if error.errno in _NO_ROOM:
                    return
                written = len(text)  # nobody will ever read it
            self._size -= written
            if written < len(text):
                self._waiting[0] = text[written:], lines
            else:
                self._waiting.popleft()
        if self.lost:
            lost, self.lost = self.lost, 0
            text = self._told(lost)
            self._waiting.append((text, 0))
            self._size += len(text)
            self.flush()

    def finish(self, seconds: float) -> None:
        """Writes what waits, for so long; then makes a full pipe larger (F_SETPIPE_SZ,
        fcntl(2)), so that what was lost is at least told of."""
        end = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        self.flush()
        while self.waits and (left := end - time.monotonic()) > 0:
            poll.poll(left * 1000)
            self.flush()
            if self.waits:  # a file on a full disk: poll(2) says that there is room
                time.sleep(POLL_SECONDS)
        if self.waits:
            with contextlib.suppress(OSError):
                fcntl.fcntl(
                    self._fd, fcntl.F_SETPIPE_SZ, 2 * fcntl.fcntl(self._fd, fcntl.F_GETPIPE_SZ)
                )
                self.flush()

    def close(self) -> None:
        """Not the descriptor that was given. What waits is forgotten."""
        self._waiting.clear()
        self.lost = 0
        if self._socket is not None:
            self._socket.close()
        elif self._own >= 0:
            os.close(self._own)
            self._own = -1

    def _try(self, text: bytes) -> int:
        """Bytes that were written; BlockingIOError if there is no room."""
        if self._socket is not None:
            return self._socket.send(text, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if self._own >= 0:
            return os.write(self._own, text)
        if self._poll:
            poll = select.poll()
            poll.register(self._fd, select.POLLOUT)
            if not poll.poll(0):
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return os.write(self._fd, text)
