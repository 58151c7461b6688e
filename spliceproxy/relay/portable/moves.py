"""How one way moves its bytes: by copying, or by copying and splicing in turn.

Invariant: a way reads only when nothing that it read before is pending, neither in ``held``
nor in its pipe. So EAGAIN of a read means that the source is dry, and EAGAIN of a write that
the target is full. 0 of a read means that the source has ended; of splice(2) only if recv(2)
agrees, for splice(2) says 0 also at an urgent byte once the FIN has come.
"""

from __future__ import annotations

import os
from errno import EINVAL, ENOSYS, EPERM
from socket import MSG_NOSIGNAL, MSG_PEEK, socket

from spliceproxy.relay.columns import (
    IN_COPIED,
    IN_SPLICED,
    OUT_COPIED,
    OUT_SPLICED,
    PIPE_STARVED,
    SPLICE_FALLBACKS,
    URGENT,
)
from spliceproxy.relay.interface import (
    BULK_READ,
    CHATTY_READ,
    CHUNK,
    CROWD,
    CROWD_LASTS,
    DEMOTE_AFTER,
    NARROW_READ,
    PROMOTE_AFTER,
    REST,
    TURN_BYTES,
    TURN_MOVES,
)
from spliceproxy.relay.portable.crowd import narrow, shrink, widen
from spliceproxy.relay.portable.pipes import Pipe, PipePool

# What a turn ends with; the first three are also the states of a way.
READY = 0  # nothing pending: to be called when the source is readable
BLOCKED = 1  # bytes pending: to be called when the target is writable
OVER = 2  # the source's FIN, or the last byte of the length, and nothing pending
SOURCE_FAILED = 3  # errno in way.errno
TARGET_FAILED = 4

STATES = ("ready", "blocked", "over", "source-failed", "target-failed")

# How a way moves its bytes now.
COPY = 0
SPLICE = 1
COPY_FOR_GOOD = 2

MODES = ("copy", "splice", "copy-for-good")

CANNOT_SPLICE = (EINVAL, ENOSYS, EPERM)
STALLS = 2  # wake-ups in a row on which a readable socket gave nothing to splice


class Way:
    """One direction of a tunnel or transfer.

    ``left`` is the number of bytes still to read, -1 without limit.
    """

    __slots__ = (
        "active",
        "copied",
        "errno",
        "for_source",
        "for_target",
        "held",
        "in_pipe",
        "left",
        "mark",
        "mode",
        "narrow",
        "pipe",
        "shrinks_at",
        "silent",
        "source",
        "spliced",
        "stalls",
        "state",
        "streak",
        "target",
        "to_client",
    )

    def __init__(
        self, source: socket, target: socket, left: int, now: float, *, to_client: bool = False
    ) -> None:
        self.to_client = to_client
        self.source = source
        self.target = target
        self.left = left
        self.held: memoryview | None = None
        self.pipe: Pipe | None = None
        self.in_pipe = 0
        self.mode = COPY
        self.streak = 0  # bulk reads in a row while copying, chatty ones while splicing
        self.stalls = 0
        self.state = READY
        self.errno = 0
        self.narrow = False  # takes less (crowd.py)
        self.shrinks_at = -1
        self.copied = 0
        self.spliced = 0
        self.active = now  # when a byte or FIN last moved, monotonic seconds
        self.mark = now  # since when it waits as it does now (waits.py)
        self.for_source = self.for_target = self.silent = 0.0

    def describe(self) -> str:
        """For :meth:`Relay.dump`."""
        waits = self.in_pipe + (len(self.held) if self.held is not None else 0)
        left = f" left={self.left}" if self.left >= 0 else ""
        return (
            f"{STATES[self.state]},{MODES[self.mode]} waits={waits}{left} "
            f"copied={self.copied} spliced={self.spliced}"
        )

    def hold(self, data: bytes) -> None:
        """``data`` goes before anything from the source."""
        if data:
            self.held = memoryview(data)
            self.state = BLOCKED


class Copier:
    """Moves bytes with recv(2) and send(2) through one buffer for all ways, and counts them in
    ``row``. ``moved``: bytes of all ways."""

    def __init__(self, row: memoryview) -> None:
        self._row = row
        self._buffer = memoryview(bytearray(CHUNK))
        self._asked = CHUNK  # bytes that the last read asked for
        self._got = 0  # bytes that it got
        self.moved = 0

    def turn(self, way: Way, now: float, readable: bool) -> int:
        """Flushes what is pending, or reads and writes within the bounds of one turn.

        ``readable``: epoll has just said so of the source.
        """
        if way.state == BLOCKED:
            state = self._flush(way, now)
            return OVER if state == READY and way.left == 0 else state
        budget = TURN_BYTES
        for move in range(TURN_MOVES):
            state = self._move(way, now, readable and move == 0)
            budget -= self._got
            # A short read has most likely emptied the source: another would say EAGAIN.
            if state != READY or self._got < self._asked or budget <= 0:
                break
        return state

    def _move(self, way: Way, now: float, readable: bool) -> int:
        """One read and its write; ``_got`` is what was read, 0 if the source is dry."""
        self._got = 0
        try:
            got = self._read(way, now)
        except BlockingIOError:
            if readable:
                self._stalled(way)
            return READY
        except OSError as error:
            way.errno = error.errno or 0
            return SOURCE_FAILED
        way.stalls = 0
        if got == 0:
            return OVER
        self._got = got
        if way.left > 0:
            way.left -= got
        state = self._flush(way, now)
        return OVER if state == READY and way.left == 0 else state

    def drop(self, way: Way) -> None:
        """Loses what is pending; the way is over."""
        way.held = None
        way.state = OVER
        if way.pipe is not None:
            self._end(way.pipe)
            way.pipe = None
            way.in_pipe = 0

    def take(self, way: Way, pipe: Pipe, size: int) -> None:
        """A way of another process has so many bytes in a pipe, which nobody may touch yet."""
        way.pipe, way.in_pipe, way.state = pipe, size, BLOCKED

    def join(self, way: Way) -> None:
        """It goes on here."""
        if way.pipe is not None:
            self.unpipe(way)

    def unpipe(self, way: Way) -> None:
        """Takes the bytes out of the pipe of a way, and ends that."""
        assert way.pipe is not None
        way.held = memoryview(_empty(way.pipe, way.in_pipe))
        self._end(way.pipe)
        way.pipe = None
        way.in_pipe = 0

    def _end(self, pipe: Pipe) -> None:
        pipe.close()

    def _read(self, way: Way, now: float) -> int:
        """Reads once, which makes the bytes pending; returns how many, 0 at FIN."""
        view = self._buffer
        if 0 <= way.left < CHUNK:
            view = view[: way.left]
        self._asked = len(view)
        got = way.source.recv_into(view)
        if got:
            way.held = view[:got]
            if got >= BULK_READ:
                self._fills(way)
        return got

    def _fills(self, way: Way) -> None:
        """A way has copied much at once. One that can only copy gains nothing by large
        buffers."""
        if not way.narrow:
            narrow(way)
        elif way.shrinks_at >= 0:
            shrink(way)

    def _stalled(self, way: Way) -> None:
        """A readable source gave nothing; for a copying way that is a stale event."""

    def _flush(self, way: Way, now: float) -> int:
        """Writes ``held``: READY, BLOCKED or TARGET_FAILED."""
        held = way.held
        if held is None:
            return READY
        try:
            sent = way.target.send(held, MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            way.errno = error.errno or 0
            return TARGET_FAILED
        if sent:
            way.active = now
            way.copied += sent
            self.moved += sent
            self._row[OUT_COPIED if way.to_client else IN_COPIED] += sent
        if sent == len(held):
            way.held = None
            return READY
        rest = held[sent:]
        # The shared buffer is needed by the next way.
        way.held = memoryview(bytes(rest)) if held.obj is self._buffer.obj else rest
        return BLOCKED


class Splicer(Copier):
    """Moves small messages by copying and bulk data with splice(2) through a lent pipe.

    A write asks for exactly the bytes that are in the pipe. Where they fill a multiple of 16
    pipe buffers, asking for more would cork the tail for 200 ms (Linux 6.5 and later).
    """

    def __init__(self, row: memoryview, pool: PipePool) -> None:
        super().__init__(row)
        self.pool = pool
        self._crowd = min(CROWD, pool.limit - 1)
        self._crowd_until = 0.0

    def turn(self, way: Way, now: float, readable: bool) -> int:
        state = super().turn(way, now, readable)
        if way.pipe is not None and not way.in_pipe:
            self.pool.put(way.pipe, now)
            way.pipe = None
        return state

    def take(self, way: Way, pipe: Pipe, size: int) -> None:
        super().take(way, pipe, size)
        self.pool.take(pipe)

    def join(self, way: Way) -> None:
        if way.pipe is not None and not self.pool.fits(way.pipe):
            self.unpipe(way)

    def _end(self, pipe: Pipe) -> None:
        self.pool.kill(pipe)

    def _read(self, way: Way, now: float) -> int:
        if way.mode == SPLICE:
            self._fit(way, now)
            rested = now - way.active >= REST and way.copied + way.spliced > 0
            if not rested and (way.pipe is not None or self._borrow(way, now)):
                return self._splice_in(way, now)
            way.mode = COPY
            way.streak = 0
        got = super()._read(way, now)
        if way.mode == COPY:
            way.streak = way.streak + 1 if got >= BULK_READ else 0
            if way.streak >= PROMOTE_AFTER:
                way.mode = SPLICE
                way.streak = 0
        return got

    def _fills(self, way: Way) -> None:
        if way.mode == COPY_FOR_GOOD:
            super()._fills(way)

    def _fit(self, way: Way, now: float) -> None:
        """Before a splice: narrow in a crowd, and wide again when it has gone."""
        if self.pool.lent > self._crowd:
            self._crowd_until = now + CROWD_LASTS
        if now < self._crowd_until:
            if not way.narrow:
                narrow(way)
            elif way.shrinks_at >= 0:
                shrink(way)
        elif way.narrow:
            widen(way)

    def _borrow(self, way: Way, now: float) -> bool:
        way.pipe = self.pool.get(now)
        if way.pipe is None:
            self._row[PIPE_STARVED] += 1
        return way.pipe is not None

    def _splice_in(self, way: Way, now: float) -> int:
        pipe = way.pipe
        assert pipe is not None
        most = min(pipe.size, NARROW_READ) if way.narrow else pipe.size
        ask = most if way.left < 0 else min(most, way.left)
        try:
            got = os.splice(way.source.fileno(), pipe.w, ask, flags=os.SPLICE_F_NONBLOCK)
        except OSError as error:
            if error.errno not in CANNOT_SPLICE:
                raise
            self._give_up(way)
            return super()._read(way, now)
        if got == 0 and way.source.recv(1, MSG_PEEK):
            # An urgent byte with a FIN somewhere behind it: not the end yet.
            self._row[URGENT] += 1
            self._give_up(way)
            return super()._read(way, now)
        self._asked = ask
        way.in_pipe = got
        # Each splice counts; in native/core/moves.pxd a small one behind the first of a turn not.
        if got >= CHATTY_READ:
            way.streak = 0
        else:
            way.streak += 1
            if way.streak >= DEMOTE_AFTER:
                way.mode = COPY
                way.streak = 0
        return got

    def _stalled(self, way: Way) -> None:
        """Once this can be a stale event. Twice in a row it is an urgent byte: splice(2) says
        EAGAIN there for ever while epoll says readable, and recv(2) gets past it."""
        if way.mode != SPLICE or way.pipe is None:
            return
        way.stalls += 1
        if way.stalls >= STALLS:
            self._row[URGENT] += 1
            self._give_up(way)

    def _give_up(self, way: Way) -> None:
        way.mode = COPY_FOR_GOOD
        self._row[SPLICE_FALLBACKS] += 1

    def _flush(self, way: Way, now: float) -> int:
        if not way.in_pipe:
            return super()._flush(way, now)
        pipe = way.pipe
        assert pipe is not None
        try:
            sent = os.splice(pipe.r, way.target.fileno(), way.in_pipe, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return BLOCKED
        except OSError as error:
            if error.errno not in CANNOT_SPLICE:
                way.errno = error.errno or 0
                return TARGET_FAILED
            way.held = memoryview(_empty(pipe, way.in_pipe))
            way.in_pipe = 0
            self._give_up(way)
            return super()._flush(way, now)
        way.active = now
        way.spliced += sent
        self.moved += sent
        self._row[OUT_SPLICED if way.to_client else IN_SPLICED] += sent
        way.in_pipe -= sent
        return BLOCKED if way.in_pipe else READY


def _empty(pipe: Pipe, size: int) -> bytes:
    """The ``size`` bytes that are in the pipe."""
    parts = []
    while size:
        parts.append(os.read(pipe.r, size))
        size -= len(parts[-1])
    return b"".join(parts)
