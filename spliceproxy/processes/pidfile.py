"""The file of --pid-file: it has the process id of the supervisor while that runs.

The supervisor keeps a lock on it (fcntl(2), which ends with its process and is no child's). So a
file that was left behind by a crash or a power cut is told from that of a proxy that runs, also
where its process id is another program's by now. The file is replaced in one step: nobody reads
half of it, and a program that takes over has its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

from spliceproxy.messages import log, plain

LONGEST = 32
"""Bytes of a pid file, with what some programs write behind the number."""


class PidFileError(Exception):
    """It cannot be had; the text is one line that names it."""


class PidFile:
    """Of one supervisor."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def claim(self) -> None:
        """Writes it. PidFileError: another proxy has it, or it cannot be written."""
        try:
            while not self._replace():  # another start has been faster
                pass
        except OSError as error:
            raise PidFileError(f"--pid-file {self._path}: {plain(error)}") from None

    def take_over(self) -> None:
        """This process is the main one from here on, and whoever was before has left."""
        try:
            self._write(os.rename)
        except OSError as error:
            log.error("--pid-file %s: %s", self._path, plain(error))

    def remove(self) -> None:
        """If it is still this process's. Idempotent."""
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):  # somebody has taken it away
            own, found = os.fstat(self._fd), os.lstat(self._path)
            if (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino):
                self._path.unlink()
        self.close()

    def close(self) -> None:
        """In a child, which has no part in it. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _replace(self) -> bool:
        """Writes it in the place of what is there. False: that is another file by now.
        PidFileError, OSError."""
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return self._write(_put_first)
        try:
            self._look(fd)
            try:
                there = os.path.samestat(os.fstat(fd), os.lstat(self._path))
            except FileNotFoundError:
                there = False
            # It is locked until the new one is there, so no other start comes between.
            return there and self._write(os.rename)
        finally:
            os.close(fd)

    def _look(self, fd: int) -> None:
        """Locks the file that is there, if it may be replaced. PidFileError, OSError."""
        text = os.read(fd, LONGEST + 1) if stat.S_ISREG(os.fstat(fd).st_mode) else b"?"
        number = text.strip()
        if text and not (number.isdigit() and len(text) <= LONGEST):
            raise PidFileError(
                f"--pid-file {self._path}: what is there is no process id; allowed: a file that "
                "does not exist, or that a proxy has left behind"
            )
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise PidFileError(
                f"--pid-file {self._path}: process {number.decode()} has it and runs; stop that "
                "first, or give this proxy a file of its own"
            ) from None

    def _write(self, put: Callable[[Path, Path], None]) -> bool:
        """``put`` puts the file there that was made. False: there must not be one yet, and there
        is. OSError."""
        made = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            made.unlink()  # of a process of this number that could not finish
        fd = os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(fd, b"%d\n" % os.getpid())
            put(made, self._path)
            self._fd, fd = fd, -1
        except FileExistsError:
            return False
        finally:
            if fd >= 0:
                os.close(fd)
            with contextlib.suppress(OSError):
                made.unlink()
        return True


def _put_first(made: Path, path: Path) -> None:
    """Where there must not be a file yet (FileExistsError), if the file system knows links."""
    try:
        os.link(made, path)
    except FileExistsError:
        raise
    except OSError:
        os.rename(made, path)
