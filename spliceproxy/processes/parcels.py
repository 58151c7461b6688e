"""What two workers say to each other while one moves to the other what it serves.

They have a pair of SOCK_SEQPACKET sockets (unix(7)). Each message is one datagram: a line of JSON,
then bytes as they are, and the descriptors by SCM_RIGHTS.

    giver                                       taker
    {"flow": 7}, state, descriptors   ───►      makes it, but moves no byte
                                      ◄───      {"ok": [7]}, or {"no": 7, "why": "..."}
    lets go of it: it is the taker's
    {"go": [7]}                       ───►      serves it

    {"client": 8, "address": ...}, received bytes, its descriptor: likewise
    {"abort": true}                   ───►      drops what it has not been told to serve

So each flow has one process that may move its bytes, at any time. Until the giver has read "ok" it
is the giver's, which takes it back by "abort". Behind that it is the taker's, and where the giver
dies before it could say "go", the end of the stream says so. A giver that sees that the taker has
hung up reads no "ok" any more: what has not been let go of would be nobody's.

A descriptor with "abort" is the end of another pair, whose other end the giver has: the taker is to
give back by that what it serves. "no" with "later": the taker may be able to take it then.
"""

from __future__ import annotations

import array
import asyncio
import json
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from spliceproxy.admin.channel import Closed, close_all
from spliceproxy.messages import log

MOST = 64 << 10
"""Bytes of a message. What is larger goes in a file of memory (memfd_create(2))."""

FDS = 16
"""Descriptors of a message."""

LARGEST = 16 << 20
"""Bytes that may come in a file of memory."""

TURN = 32
"""Messages that are read before the event loop goes on."""

RETRY_SECONDS = 0.01
"""Until what found no room is sent again."""

_written = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode

_CREDENTIALS = struct.Struct("iII")  # of SO_PASSCRED (unix(7)): process, user, group


class Parcel(NamedTuple):
    """A message. The descriptors are whose who has received it."""

    head: Mapping[str, Any]
    data: bytes
    fds: list[int]


class Nonsense(Closed):
    """What has come is no message. The other end is there, and may say more."""


class Line:
    """An end of a pair, which is never waited for."""

    __slots__ = ("_sock", "peer")

    def __init__(self, sock: socket.socket) -> None:
        self.peer = 0  # the process that has sent the last message, where that is asked for
        sock.setblocking(False)
        self._sock = sock

    @classmethod
    def of(cls, fd: int) -> Line:
        """The end that is this descriptor, which is the line's from here on."""
        return cls(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fd))

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        """Idempotent."""
        self._sock.close()

    def send(self, head: Mapping[str, Any], data: bytes = b"", fds: Sequence[int] = ()) -> bool:
        """Sends a message; the descriptors stay the caller's, too. False: there is no room just
        now. Closed; OSError: there is no descriptor or memory to be had."""
        memory = -1
        if len(data) > MOST:
            memory = _filled(data)
            head, data, fds = {**head, "memory": len(data)}, b"", [*fds, memory]
        try:
            text = _written(head).encode("ascii") + b"\n" + data
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            self._sock.sendmsg([text], rights)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed(error.strerror) from None
        finally:
            if memory >= 0:
                os.close(memory)
        return True

    @property
    def hung_up(self) -> bool:
        """Whether the other end is closed. What it has said before can be read yet."""
        poll = select.poll()
        poll.register(self._sock, 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0))

    def receive(self) -> Parcel | None:
        """The next message; None: there is none. Closed: the other end is, and all that it has said
        was read. Nonsense. The head of a message that did not come whole has "torn"."""
        try:
            text, rights, flags = self._message()
        except BlockingIOError:
            return None
        except OSError as error:
            raise Closed(error.strerror) from None
        fds = self._ancillary(rights)
        if not text:
            raise Closed("end of file")
        line, _, data = text.partition(b"\n")
        try:
            head = json.loads(line)
        except ValueError:
            head = None
        if not isinstance(head, dict):
            close_all(fds)
            raise Nonsense("no message")
        if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
            # Without free descriptors some are missing, and nobody knows which.
            close_all(fds)
            return Parcel({**head, "torn": True}, b"", [])
        if "memory" in head:
            return _with_memory(head, fds)
        return Parcel(head, data, fds)

    def some(self) -> Iterator[Parcel]:
        """Messages that there are, as many as are read in one turn. Closed, Nonsense."""
        for _ in range(TURN):
            parcel = self.receive()
            if parcel is None:
                return
            yield parcel

    def _message(self) -> tuple[bytes, list[tuple[int, int, bytes]], int]:
        """The text, what came along, and flags (recvmsg(2)). OSError."""
        room = socket.CMSG_SPACE(FDS * array.array("i").itemsize)
        room += socket.CMSG_SPACE(_CREDENTIALS.size)
        try:
            return self._sock.recvmsg(2 * MOST, room, socket.MSG_CMSG_CLOEXEC)[:3]
        except ConnectionResetError:
            # The other end was closed before it had read all. The kernel says so once, in front of
            # what was sent here, which counts as ever.
            return self._sock.recvmsg(2 * MOST, room, socket.MSG_CMSG_CLOEXEC)[:3]

    def _ancillary(self, rights: Sequence[tuple[int, int, bytes]]) -> list[int]:
        """The descriptors that came along; who has sent it is noted."""
        fds = array.array("i")
        for level, kind, given in rights:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(given[: len(given) - len(given) % fds.itemsize])
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                self.peer = _CREDENTIALS.unpack(given)[0]
        return fds.tolist()


class Party:
    """One of two workers: an end of the pair on its event loop, and what is to be done later."""

    def __init__(self, loop: asyncio.AbstractEventLoop, line: Line) -> None:
        self._loop = loop
        self._line = line
        self._timer: asyncio.TimerHandle | None = None
        self.closed = False

    def start(self) -> None:
        """Begins to listen to the other one."""
        self._loop.add_reader(self._line.fileno(), self._read)

    def _read(self) -> None:
        """Something has come."""
        raise NotImplementedError

    def _later(self, seconds: float, work: Callable[[], None]) -> None:
        """Does this, and nothing else that was to be done later."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if self.closed else self._loop.call_later(seconds, work)

    @staticmethod
    def _safely(work: Callable[..., object], *args: object) -> bool:
        """Does something with one flow, whose fault is no other's; whether it could be done."""
        try:
            work(*args)
        except Exception:
            log.exception("a fault in one connection that moves between workers")
            return False
        return True

    def _cease(self) -> bool:
        """Does and hears nothing more; whether it had not ceased before."""
        if self.closed:
            return False
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._line.fileno())
        return True


def _filled(data: bytes) -> int:
    memory = os.memfd_create("spliceproxy-state", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(memory, view) :]
    except BaseException:
        os.close(memory)
        raise
    return memory


def _with_memory(head: Mapping[str, Any], fds: list[int]) -> Parcel:
    size = head["memory"]
    if not fds or not isinstance(size, int) or not 0 < size <= LARGEST:
        close_all(fds)
        raise Nonsense("no message")
    memory = fds.pop()
    try:
        data = os.pread(memory, size, 0)
    except OSError:
        close_all(fds)
        return Parcel({**head, "torn": True}, b"", [])
    finally:
        os.close(memory)
    if len(data) != size:
        close_all(fds)
        raise Nonsense("no message")
    return Parcel(head, data, fds)


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends, for two workers. OSError."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
