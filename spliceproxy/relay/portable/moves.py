"""How one direction moves its bytes: by copying, or by copying and splicing in turn.

Invariant: a direction reads only when nothing that it read before is pending, neither in
``held`` nor in its pipe. So EAGAIN of a read means that the source is dry, EAGAIN of a
write that the target is full, and 0 of a read that the source has ended; with splice(2)
only if recv(2) agrees, for it says 0 also at an urgent byte once the FIN has come.
"""

from __future__ import annotations

import os
from errno import EINVAL, ENOSYS, EPERM
from socket import MSG_NOSIGNAL, MSG_PEEK, socket

from spliceproxy.relay.interface import (
    BULK_READ,
    CHATTY_READ,
    CHUNK,
    DEMOTE_AFTER,
    PROMOTE_AFTER,
    REST,
    TURN_BYTES,
    TURN_MOVES,
)
from spliceproxy.relay.portable.pipes import Pipe, PipePool

# What a turn ends with; the first three are also the states of a flow.
READY = 0  # nothing pending: to be called when the source is readable
BLOCKED = 1  # bytes pending: to be called when the target is writable
OVER = 2  # the source's FIN, or the last byte of the length, and nothing pending
SOURCE_BROKEN = 3  # errno in flow.errno
TARGET_BROKEN = 4

# How a direction moves its bytes now.
COPY = 0
SPLICE = 1
COPY_FOR_GOOD = 2

CANNOT_SPLICE = (EINVAL, ENOSYS, EPERM)
STALLS = 2  # wake-ups in a row on which a readable socket gave nothing to splice


class Flow:
    """One direction: ``remaining`` is the number of bytes still to read, -1 without limit."""

    __slots__ = (
        "copied",
        "errno",
        "held",
        "in_pipe",
        "last",
        "mode",
        "pipe",
        "remaining",
        "source",
        "spliced",
        "stalls",
        "state",
        "streak",
        "target",
    )

    def __init__(self, source: socket, target: socket, remaining: int, now: float) -> None:
        self.source = source
        self.target = target
        self.remaining = remaining
        self.held: memoryview | None = None
        self.pipe: Pipe | None = None
        self.in_pipe = 0
        self.mode = COPY
        self.streak = 0  # bulk reads in a row while copying, chatty ones while splicing
        self.stalls = 0
        self.state = READY
        self.errno = 0
        self.copied = 0
        self.spliced = 0
        self.last = now  # when a byte or FIN last moved, monotonic seconds

    def hold(self, data: bytes) -> None:
        """``data`` goes before anything from the source."""
        if data:
            self.held = memoryview(data)
            self.state = BLOCKED


class Copier:
    """Moves bytes with recv(2) and send(2) through one buffer for all flows."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(CHUNK))
        self._asked = CHUNK  # bytes that the last read asked for
        self._got = 0  # bytes that it got
        self.copied = 0
        self.spliced = 0
        self.starved = 0
        self.fallbacks = 0
        self.urgent_stalls = 0

    def turn(self, flow: Flow, now: float, readable: bool) -> int:
        """Flushes what is pending, or reads and writes within the bounds of one turn.

        ``readable``: epoll has just said so of the source.
        """
        if flow.state == BLOCKED:
            state = self._flush(flow, now)
            return OVER if state == READY and flow.remaining == 0 else state
        budget = TURN_BYTES
        for move in range(TURN_MOVES):
            state = self._move(flow, now, readable and move == 0)
            budget -= self._got
            # A short read has most likely emptied the source: no call to hear EAGAIN.
            if state != READY or self._got < self._asked or budget <= 0:
                break
        return state

    def _move(self, flow: Flow, now: float, readable: bool) -> int:
        """One read and its write; ``_got`` is what was read, 0 if the source is dry."""
        self._got = 0
        try:
            got = self._read(flow, now)
        except BlockingIOError:
            if readable:
                self._stalled(flow)
            return READY
        except OSError as error:
            flow.errno = error.errno or 0
            return SOURCE_BROKEN
        flow.stalls = 0
        if got == 0:
            return OVER
        self._got = got
        if flow.remaining > 0:
            flow.remaining -= got
        state = self._flush(flow, now)
        return OVER if state == READY and flow.remaining == 0 else state

    def drop(self, flow: Flow) -> None:
        """Loses what is pending; the flow is over."""
        flow.held = None
        flow.state = OVER

    def _read(self, flow: Flow, now: float) -> int:
        """Reads once, which makes the bytes pending; returns how many, 0 at FIN."""
        view = self._buffer
        if 0 <= flow.remaining < CHUNK:
            view = view[: flow.remaining]
        self._asked = len(view)
        got = flow.source.recv_into(view)
        if got:
            flow.held = view[:got]
        return got

    def _stalled(self, flow: Flow) -> None:
        """A readable source gave nothing; for a copying flow that is a stale event."""

    def _flush(self, flow: Flow, now: float) -> int:
        """Writes ``held``: READY, BLOCKED or TARGET_BROKEN."""
        held = flow.held
        if held is None:
            return READY
        try:
            sent = flow.target.send(held, MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            flow.errno = error.errno or 0
            return TARGET_BROKEN
        if sent:
            flow.last = now
            flow.copied += sent
            self.copied += sent
        if sent == len(held):
            flow.held = None
            return READY
        rest = held[sent:]
        # The shared buffer is needed by the next flow.
        flow.held = memoryview(bytes(rest)) if held.obj is self._buffer.obj else rest
        return BLOCKED


class Splicer(Copier):
    """Moves small messages by copying and bulk data with splice(2) through a lent pipe.

    The exact number of bytes in the pipe is asked of the write: more would cork a tail
    for 200 ms where it fills a multiple of 16 pipe buffers (Linux 6.5 and later).
    """

    def __init__(self, pool: PipePool) -> None:
        super().__init__()
        self.pool = pool

    def turn(self, flow: Flow, now: float, readable: bool) -> int:
        state = super().turn(flow, now, readable)
        if flow.pipe is not None and not flow.in_pipe:
            self.pool.put(flow.pipe, now)
            flow.pipe = None
        return state

    def drop(self, flow: Flow) -> None:
        super().drop(flow)
        if flow.pipe is not None:
            self.pool.kill(flow.pipe)
            flow.pipe = None
            flow.in_pipe = 0

    def _read(self, flow: Flow, now: float) -> int:
        if flow.mode == SPLICE:
            rested = now - flow.last >= REST and flow.copied + flow.spliced > 0
            if not rested and (flow.pipe is not None or self._borrow(flow, now)):
                return self._splice_in(flow, now)
            flow.mode = COPY
            flow.streak = 0
        got = super()._read(flow, now)
        if flow.mode == COPY:
            flow.streak = flow.streak + 1 if got >= BULK_READ else 0
            if flow.streak >= PROMOTE_AFTER:
                flow.mode = SPLICE
                flow.streak = 0
        return got

    def _borrow(self, flow: Flow, now: float) -> bool:
        flow.pipe = self.pool.get(now)
        if flow.pipe is None:
            self.starved += 1
        return flow.pipe is not None

    def _splice_in(self, flow: Flow, now: float) -> int:
        pipe = flow.pipe
        assert pipe is not None
        ask = pipe.size if flow.remaining < 0 else min(pipe.size, flow.remaining)
        try:
            got = os.splice(flow.source.fileno(), pipe.w, ask, flags=os.SPLICE_F_NONBLOCK)
        except OSError as error:
            if error.errno not in CANNOT_SPLICE:
                raise
            self._give_up(flow)
            return super()._read(flow, now)
        if got == 0 and flow.source.recv(1, MSG_PEEK):
            # An urgent byte with a FIN somewhere behind it: not the end yet.
            self.urgent_stalls += 1
            self._give_up(flow)
            return super()._read(flow, now)
        self._asked = ask
        flow.in_pipe = got
        if got >= CHATTY_READ:
            flow.streak = 0
        else:
            flow.streak += 1
            if flow.streak >= DEMOTE_AFTER:
                flow.mode = COPY
                flow.streak = 0
        return got

    def _stalled(self, flow: Flow) -> None:
        """Behind an urgent byte splice(2) says EAGAIN for ever while epoll says readable,
        and recv(2) gets past it. Once can be a stale event."""
        if flow.mode != SPLICE or flow.pipe is None:
            return
        flow.stalls += 1
        if flow.stalls >= STALLS:
            self.urgent_stalls += 1
            self._give_up(flow)

    def _give_up(self, flow: Flow) -> None:
        flow.mode = COPY_FOR_GOOD
        self.fallbacks += 1

    def _flush(self, flow: Flow, now: float) -> int:
        if not flow.in_pipe:
            return super()._flush(flow, now)
        pipe = flow.pipe
        assert pipe is not None
        try:
            sent = os.splice(pipe.r, flow.target.fileno(), flow.in_pipe, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return BLOCKED
        except OSError as error:
            if error.errno not in CANNOT_SPLICE:
                flow.errno = error.errno or 0
                return TARGET_BROKEN
            flow.held = memoryview(_empty(pipe, flow.in_pipe))
            flow.in_pipe = 0
            self._give_up(flow)
            return super()._flush(flow, now)
        flow.last = now
        flow.spliced += sent
        self.spliced += sent
        flow.in_pipe -= sent
        return BLOCKED if flow.in_pipe else READY


def _empty(pipe: Pipe, size: int) -> bytes:
    """The ``size`` bytes that are in the pipe."""
    parts = []
    while size:
        parts.append(os.read(pipe.r, size))
        size -= len(parts[-1])
    return b"".join(parts)
