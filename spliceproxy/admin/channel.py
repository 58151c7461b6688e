"""The control channel: JSON messages and descriptors between two processes of one proxy.

A channel is one end of a pair of SOCK_SEQPACKET sockets (unix(7)). A message is one datagram, so
it comes whole or not at all, and never together with another. Descriptors travel with it by
SCM_RIGHTS. Nobody waits here: a message for which there is no room is refused, and the sender
decides what becomes of it.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from spliceproxy.messages import log, plain
from spliceproxy.relay.columns import CHANNEL_ERRORS

MAX_MESSAGE = 64 << 10
"""Bytes of one message. Three of them fit into the usual buffer (net.core.wmem_default)."""

MAX_FDS = 128
"""Descriptors that come with one message."""

Message = dict[str, Any]


class Closed(Exception):
    """The process at the other end is gone, or has closed its end."""


class Troubled(Exception):
    """The kernel cannot pass a message on, as for want of memory; it has been told and counted.
    The channel is as it was, and the same may be tried later."""


_GONE = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN})

errors = 0
"""How often that was so in this process."""

_row: memoryview | None = None
_told: set[int] = set()


def count_in(row: memoryview) -> None:
    """This process counts its errors in that row."""
    global errors, _row
    errors, _row = 0, row


def count(number: int) -> None:
    """So many errors more, of this process or of one that has no row."""
    global errors
    errors += number
    if _row is not None:
        _row[CHANNEL_ERRORS] += number


def _failure(error: OSError) -> Closed | Troubled:
    """What an error of the kernel's means."""
    number = error.errno or 0
    if number in _GONE:
        return Closed(plain(error))
    count(1)
    if number not in _told:
        _told.add(number)
        log.error("a control channel: %s; it is tried again, and counted from now on", plain(error))
    return Troubled(plain(error))


class Channel:
    """One end, which is never waited for. Whoever has it closes it."""

    __slots__ = ("_sock",)

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock

    @classmethod
    def of(cls, fd: int) -> Channel:
        """The end that is this descriptor, which is the channel's from here on."""
        return cls(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fd))

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> bool:
        """Sends a message; the descriptors stay the caller's, too. False: there is no room just
        now. Closed. Troubled. ValueError: it is larger than MAX_MESSAGE, or than the kernel
        takes."""
        import json  # late: most proxies have nobody who asks

        # Without ASCII alone what came from a client could be no Unicode.
        data = json.dumps(message, separators=(",", ":")).encode("ascii")
        if len(data) > MAX_MESSAGE:
            raise ValueError(f"a message of {len(data)} bytes")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._sock.sendmsg([data], rights)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                raise ValueError(f"a message of {len(data)} bytes: {plain(error)}") from None
            raise _failure(error) from None
        return True

    def receive(self) -> tuple[Message, list[int]] | None:
        """The next message and its descriptors, which are the caller's; None: there is none.
        Closed. Troubled. A message may have lost its descriptors, where this process may open no
        more."""
        room = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
        try:
            data, rights, _, _ = self._sock.recvmsg(MAX_MESSAGE, room, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        except OSError as error:
            raise _failure(error) from None
        fds = _descriptors(rights)
        if not data:
            raise Closed("end of file")
        import json

        try:
            message = json.loads(data)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            close_all(fds)
            raise Closed("no message")
        return message, fds

    def close(self) -> None:
        """Idempotent."""
        self._sock.close()

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def pair() -> tuple[Channel, Channel]:
    """Both ends. OSError: there is no descriptor to be had."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(one), Channel(other)


def close_all(fds: Sequence[int]) -> None:
    """Closes descriptors that nobody wants."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def _descriptors(rights: Sequence[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()
