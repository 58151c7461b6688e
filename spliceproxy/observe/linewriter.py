"""A thread that writes lines to a descriptor: whoever has lines never waits for their reader.

Several processes may write to the same place, so each write(2) is whole lines, and to
anything but a regular file at most PIPE_BUF bytes, which a pipe takes in one piece (pipe(7)).
The flags of the descriptor stay as they are: whoever has given it to us may use it, too.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from spliceproxy.messages import plain

_REGULAR_WRITE = 1 << 20  # bytes in one write to a regular file

STUCK_SECONDS = 1.0
"""How long the end waits for a reader that takes nothing."""


SLOW = "written too slowly"
"""Why lines were dropped that found no room."""

MISSING = "no memory"
"""Why lines were dropped that never came."""


class Account:
    """Who counts lines; this one does not. Each call is made under one lock of the writer's."""

    def note(self, waiting: int, untold: int) -> None:
        """So many lines wait to be written, and so many are lost that nobody was told of."""

    def wrote(self, lines: int) -> None:
        """So many more are written."""

    def lose(self, lines: int, failed: bool) -> None:
        """So many more never will be: a write has ``failed``, or there was no room for them."""


class LineWriter:
    """``open`` returns the descriptor, again for each :meth:`reopen`; ``close``: it is ours.

    ``limit``: bytes that may wait, but for one text that is longer. Lines beyond it are dropped,
    and counted, until half of it is written. Then ``told(lines, why)`` is called in the thread, and
    what it returns is written; likewise when a descriptor takes lines again, and at the end.
    ``failed(text)`` says in the thread what is wrong, once for each fault. ``account`` counts what
    becomes of the lines.
    """

    def __init__(
        self,
        open: Callable[[], int],
        *,
        close: bool,
        limit: int,
        told: Callable[[int, str], bytes],
        failed: Callable[[str], None],
        name: str,
        account: Account | None = None,
    ) -> None:
        self._open = open
        self._close = close
        self._limit = limit
        self._told = told
        self._failed = failed
        self._account = account or Account()
        self._queue: SimpleQueue[tuple[bytes, int] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._unwritten = 0  # lines that wait
        # Lines that are lost, and that nobody was told of.
        self._missed = 0  # on their way here
        self._dropped = 0  # in the burst
        self._spoilt = 0  # in writes that have failed since
        self._error = ""
        self._rest = b""  # of the write that has failed
        self.pending = 0  # bytes that wait
        self.moved = 0  # bytes that the descriptor has taken, or that were given up
        self.ended = threading.Event()
        self._then: Callable[[], object] | None = None
        self._use(open())
        # A daemon: one that hangs in write(2) must not keep the process alive.
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def put(self, text: bytes, lines: int) -> None:
        """Whole lines, to be written. From any thread."""
        with self._lock:
            limit = self._limit // 2 if self._dropped else self._limit
            # What comes when nothing waits is written, however much it is at once.
            if self.pending and self.pending + len(text) > limit:
                self._dropped += lines
                self._account.lose(lines, False)
            else:
                self.pending += len(text)
                self._unwritten += lines
                self._queue.put((text, lines))
            self._noted()

    def miss(self, lines: int) -> None:
        """So many lines were lost on their way here, and counted there: that is told as of those
        that are dropped. From any thread."""
        with self._lock:
            self._missed += lines
            self._queue.put((b"", lines))
            self._noted()

    def spoil(self, lines: int) -> None:
        """So many could not be made, and whoever has tried says so. From any thread."""
        with self._lock:
            self._account.lose(lines, True)

    def reopen(self) -> None:
        """Opens anew behind the lines that wait."""
        self._queue.put((b"", 0))

    def stop(self, then: Callable[[], object] | None = None) -> None:
        """The thread ends behind the lines that wait, and calls ``then``; put nothing after it."""
        self._then = then
        self._queue.put(None)

    def wait(self, seconds: float) -> int:
        """Until the thread has ended, while it gets on and for so long; the lines that are not
        written then."""
        end = time.monotonic() + seconds
        moved = -1
        while moved != self.moved and (left := end - time.monotonic()) > 0:
            moved = self.moved
            if self.ended.wait(min(STUCK_SECONDS, left)):
                break
        return self.unwritten()

    def unwritten(self) -> int:
        """Lines that are neither written nor told of."""
        with self._lock:
            return self._unwritten + self._untold()

    def _untold(self) -> int:
        return self._missed + self._dropped + self._spoilt

    def _noted(self) -> None:
        self._account.note(self._unwritten, self._untold())

    # ---- in the thread -----------------------------------------------------------------------

    def _use(self, fd: int) -> None:
        self._fd = fd
        self._regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._most = _REGULAR_WRITE if self._regular else select.PIPE_BUF
        self._gone = False  # the reader; nothing is written any more
        self._failing = False  # the last write failed
        self._torn = False  # the last write stopped within a line

    def _run(self) -> None:
        # Signals are for the main thread, and an interrupted write could be a partial one.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while (item := self._queue.get()) is not None:
            text, lines = item
            if text:
                self._write_lines(text, lines)
                self._written(len(text))
            elif lines:
                self._write_lines(self._told(lines, MISSING))
                self._written(0, lines)
            else:
                self._reopen()
        self._failing = False  # the last word
        self._tell_lost(0)
        if self._close:
            os.close(self._fd)
        self.ended.set()
        if self._then is not None:
            self._then()

    def _written(self, size: int, missed: int = 0) -> None:
        """So many bytes no longer wait, and that so many lines were missed is told."""
        with self._lock:
            self.pending -= size
            self._missed -= missed
            self._noted()
        self._tell_lost(self._limit // 2)

    def _tell_lost(self, room: int) -> None:
        """The lines dropped, if so little waits now, and those of a fault that is over."""
        with self._lock:
            dropped = self._dropped if self.pending <= room else 0
            spoilt = 0 if self._failing else self._spoilt
            self._dropped -= dropped
            self._spoilt -= spoilt
            if dropped or spoilt:
                self._noted()
        for lines, why in ((dropped, SLOW), (spoilt, self._error)):
            if lines:
                self._write_lines(self._told(lines, why))

    def _reopen(self) -> None:
        try:
            fd = self._open()
        except OSError as error:
            self._failed(f"not reopened, the old file stays in use: {plain(error)}")
            return
        if self._close:
            os.close(self._fd)
        self._use(fd)

    def _write_lines(self, text: bytes, lines: int = 0) -> None:
        """``lines``: how many of those that wait it holds. What is written is no loss, even if the
        reader takes nothing behind it."""
        start = 0
        while start < len(text) and not self._gone:
            end = self._chunk_end(text, start)
            chunk = text[start:end]
            if self._failing and self._regular:
                self._torn = _is_torn(self._fd)  # another process may have done that as well
            try:
                # The LF ends what a failed write has left of another line.
                self._write(b"\n" + chunk if self._torn else chunk)
                self._failing = False
                spoilt = 0
            except BrokenPipeError:
                self._failed("its reader is gone, no more lines are written")
                self._gone = self._failing = True
                self._error = "its reader is gone"
                break
            except OSError as error:
                if not self._failing:
                    self._failed(f"lines are lost: {plain(error)}")
                self._failing = True
                self._error = plain(error)
                # The LF before the chunk is nobody's line.
                spoilt = min(self._rest.count(b"\n"), chunk.count(b"\n"))
            # A message may be several lines: with the last of them all of it is done.
            done = lines if end == len(text) else min(chunk.count(b"\n"), max(lines - 1, 0))
            lines -= done
            start = end
            with self._lock:
                self._unwritten -= done
                self._spoilt += spoilt
                self._account.lose(spoilt, True)
                self._account.wrote(max(done - spoilt, 0))
                self._noted()
        if lines:  # nobody will read them
            with self._lock:
                self._unwritten -= lines
                self._spoilt += lines
                self._account.lose(lines, True)
                self._noted()

    def _chunk_end(self, text: bytes, start: int) -> int:
        """Of what is written at once."""
        if len(text) - start <= self._most:
            return len(text)
        most = start + self._most
        return text.rfind(b"\n", start, most) + 1 or most  # no line is cut but a longer one

    def _wait(self) -> None:
        """Until the descriptor takes something."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.poll()

    def _write(self, chunk: bytes) -> None:
        """All of it. Only a write of more than PIPE_BUF bytes or a full disk is partial,
        so the rest of it follows at once and no line is torn by another process."""
        while chunk:
            self._rest = chunk
            try:
                written = os.write(self._fd, chunk)
            except BlockingIOError:
                self._wait()
                continue
            self.moved += written
            self._torn = chunk[written - 1] != 0x0A
            chunk = chunk[written:]


def _is_torn(fd: int) -> bool:
    """Whether the last line of a file has no end. True where it cannot be read."""
    try:
        file = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        size = os.fstat(file).st_size
        return size > 0 and os.pread(file, 1, size - 1) != b"\n"
    finally:
        os.close(file)
