"""A non-blocking stream socket that coroutines read and write, under time limits.

Not an asyncio transport: a transport cannot give its descriptor away, and a tunnel's
sockets end up in the relay. At most one reader and one writer wait at a time.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from spliceproxy.errors import Failure, PeerGone
from spliceproxy.net import tcp
from spliceproxy.net.deadline import Deadline
from spliceproxy.net.errnos import OF_PEER

READ = 64 * 1024
"""Bytes that one receive asks for."""

LINGER_SECONDS = 2.0
LINGER_BYTES = 1 << 20
"""How long and how much a closing connection still reads once the peer has all of the
answer, so that this is not lost to a reset (RFC 9112 section 9.6)."""

TURN_CALLS = 16
"""Receives and sends in a row that did not have to wait, after which others have their
turn: 1 MiB at most."""


class Stream:
    """One connected socket. ``buffer`` holds what was received and not yet consumed:
    a consumer deletes what it takes from the front. ``received`` and ``sent`` count bytes.
    ``read_limit`` and ``write_limit`` hold for the waits of either direction.
    ``spliced_in`` and ``spliced_out`` are those of them that the relay has spliced, and
    ``relayed_in`` and ``relayed_out`` those that it has moved in whatever way, and counted; who
    uses it counts them. ``waited_read`` and ``waited_write`` are seconds of the event loop's clock.
    ``message_start`` is ``sent`` as it was between two messages: its user sets it. ``rest`` is what
    is to come of a body that is sent to it, while that could go on elsewhere (``forward.body``),
    and ``unsent`` what waits for room in the socket.
    ``released`` is called once, just before the socket is closed, or when it has another
    owner.

    PeerGone from a method: this socket has said that its peer is gone. An OSError is a fault
    of our own and says nothing about the peer."""

    __slots__ = (
        "_gone",
        "_loop",
        "_quiet",
        "_reading",
        "_turn",
        "buffer",
        "detached",
        "fd",
        "message_start",
        "read_limit",
        "received",
        "relayed_in",
        "relayed_out",
        "released",
        "rest",
        "sent",
        "sock",
        "spliced_in",
        "spliced_out",
        "transfer",
        "unsent",
        "waited_read",
        "waited_write",
        "write_limit",
    )

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.buffer = bytearray()
        self.received = 0
        self.sent = 0
        self.spliced_in = self.spliced_out = 0
        self.relayed_in = self.relayed_out = 0
        self.waited_read = self.waited_write = 0.0
        self.detached = False
        self.transfer = -1  # of the relay, which sends to it now: its id
        self.message_start = 0
        self.rest: tuple[int, bool] | None = None
        self.unsent: bytes | memoryview = b""
        self.released: Callable[[], None] | None = None
        self._loop = loop
        self._reading = False
        self._turn = 0
        self._gone: Callable[[], None] | None = None
        self._quiet = False
        self.read_limit = Deadline(loop)
        self.write_limit = Deadline(loop)

    @classmethod
    def of(cls, fd: int, address: str, received: bytes, loop: asyncio.AbstractEventLoop) -> Stream:
        """That of a descriptor which somebody else has had, and has received so much from. The
        peer's ``address`` is "" for a Unix socket. Where this raises the descriptor is closed."""
        family = (
            socket.AF_INET6 if ":" in address else socket.AF_INET if address else socket.AF_UNIX
        )
        try:
            sock = socket.socket(family, socket.SOCK_STREAM, 0, fileno=fd)
        except BaseException:
            os.close(fd)
            raise
        try:
            stream = cls(sock, loop)
            stream.buffer += received
            stream.received = len(received)
            return stream
        except BaseException:
            sock.close()
            raise

    # ---- reading ---------------------------------------------------------------------

    async def fill(self) -> int:
        """Receives once into ``buffer``; returns the number of bytes, 0 at FIN."""
        while True:
            try:
                data = self.sock.recv(READ)
            except BlockingIOError:
                await self.readable()
                continue
            except OSError as error:
                raise self._fault(error) from error
            self.buffer += data
            self.received += len(data)
            self._turn += 1
            if self._turn >= TURN_CALLS:
                await self._let_others()
                self.read_limit.check()
            return len(data)

    async def readable(self) -> None:
        """Waits until a receive would not block; Failure when the time is up."""
        wait = self.read_limit.begin()
        self._turn = 0
        self._gone = None
        if not self._reading:
            self._reading = True
            self._loop.add_reader(self.fd, self._on_readable)
        since = self._loop.time()
        try:
            await wait
        finally:
            self.waited_read += self._loop.time() - since
            self.read_limit.end()

    def _on_readable(self) -> None:
        # The reader stays registered between two waits, so that a connection that is kept
        # alive costs no epoll_ctl for each request. An event that finds nobody waiting ends it.
        if self.read_limit.waiting is not None:
            self.read_limit.wake()
        elif self._gone is None:
            self.pause()
        else:
            self._receive_watched()

    def pause(self) -> None:
        """Stops watching for input, as before the descriptor is lent to the relay."""
        self._gone = None
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self.fd)

    def watch(self, gone: Callable[[], None], *, quiet: bool = False) -> None:
        """Calls ``gone`` once if the peer goes away before anybody waits for input again. It
        goes away by a reset, or by FIN when nothing is left in ``buffer``.

        What the peer sends meanwhile goes to ``buffer``, up to READ bytes. With ``quiet`` it
        should send nothing, and any input calls ``gone``. A fault of our own ends the watch."""
        if len(self.buffer) >= READ:
            return
        before, self._gone = self._gone, gone
        self._quiet = quiet
        if not self._reading:
            self._reading = True
            self._loop.add_reader(self.fd, self._on_readable)
        elif before is None and not quiet:
            self._receive_watched()  # a reset may have come with the data before

    def unwatch(self) -> None:
        """Ends :meth:`watch`, at no cost unless the peer says something."""
        self._gone = None

    def is_quiet(self) -> bool:
        """Whether the peer has certainly said nothing, not even FIN, since the last receive."""
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return not self.buffer
        except OSError:
            return False  # after a fault of our own, too, nobody knows
        return False

    def _receive_watched(self) -> None:
        gone = self._gone
        assert gone is not None
        reset = False
        while True:
            try:
                data = self.sock.recv(READ)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in OF_PEER:
                    self.pause()  # whoever receives next has to tell of it
                    return
                data = b""
                reset = True
            self.buffer += data
            self.received += len(data)
            # Until there is no more: libuv tells of a reset once, be it behind data.
            if not data or self._quiet or len(self.buffer) >= READ:
                break
        if not data or len(self.buffer) >= READ:
            self.pause()
        if reset or self._quiet or (not data and not self.buffer):
            self._gone = None
            gone()

    async def peek(self, beyond: int, most: int) -> bytes:
        """What the peer has sent, as soon as that is more than ``beyond`` bytes, and at most
        ``most``. It stays in the socket. No more than before: the peer has ended. Failure when
        the time is up. For TCP, and while nothing is in ``buffer``."""
        waited = False
        try:
            while True:
                try:
                    data = self.sock.recv(most, socket.MSG_PEEK)
                except BlockingIOError:
                    pass
                except OSError as error:
                    raise self._fault(error) from error
                else:
                    if len(data) > beyond or waited or not data:
                        return data
                    # Else it would be readable all the time (socket(7)).
                    self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, beyond + 1)
                await self.readable()
                waited = True
        finally:
            if beyond:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    # ---- writing ---------------------------------------------------------------------

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Sends all of ``data``."""
        try:
            n = self.sock.send(data)
        except BlockingIOError:
            n = 0
        except OSError as error:
            raise self._fault(error) from error
        self.sent += n
        if n == len(data):
            self._turn += 1
            if self._turn >= TURN_CALLS:
                await self._let_others()
                self.write_limit.check()
            return
        self.unsent = memoryview(data)[n:]
        try:
            while self.unsent:
                await self.writable()
                try:
                    n = self.sock.send(self.unsent)
                except BlockingIOError:
                    continue
                except OSError as error:
                    raise self._fault(error) from error
                self.sent += n
                self.unsent = self.unsent[n:]
        finally:
            self.unsent = b""

    def send_file(self, fd: int, offset: int, count: int) -> int:
        """One sendfile(2) of up to ``count`` bytes of a file: how many went, 0 at the end of
        the file. BlockingIOError; an OSError may be the file's."""
        try:
            n = os.sendfile(self.fd, fd, offset, count)
        except BlockingIOError:
            raise
        except OSError as error:
            raise self._fault(error) from error
        self.sent += n
        return n

    def _fault(self, error: OSError) -> Exception:
        """Whose fault an error of a call on this socket is."""
        return PeerGone(self, error.errno) if error.errno in OF_PEER else error

    async def writable(self) -> None:
        """Waits until a send would not block; Failure when the time is up."""
        wait = self.write_limit.begin()
        self._turn = 0
        self._loop.add_writer(self.fd, self.write_limit.wake)
        since = self._loop.time()
        try:
            await wait
        finally:
            self.waited_write += self._loop.time() - since
            self.write_limit.end()
            if self.fd >= 0:
                self._loop.remove_writer(self.fd)

    # ---- standing still ----------------------------------------------------------------

    def hold_read(self) -> float | None:
        """Who waits for input is left waiting, and nothing is received: somebody else may go on
        with the socket. As of :meth:`Deadline.hold`."""
        left = self.read_limit.hold()
        if left is not None:
            self.pause()
        return left

    def go_on_reading(self, left: float) -> None:
        """Undoes :meth:`hold_read`."""
        self.read_limit.go_on(left)
        self._reading = True
        self._loop.add_reader(self.fd, self._on_readable)

    def hold_write(self) -> float | None:
        """The same for who waits for room."""
        left = self.write_limit.hold()
        if left is not None:
            self._loop.remove_writer(self.fd)
        return left

    def go_on_writing(self, left: float) -> None:
        """Undoes :meth:`hold_write`."""
        self.write_limit.go_on(left)
        self._loop.add_writer(self.fd, self.write_limit.wake)

    # ---- fairness --------------------------------------------------------------------

    async def _let_others(self) -> None:
        """The event loop serves others: a peer that is always ready would never let go."""
        self._turn = 0
        await asyncio.sleep(0)

    # ---- the end ---------------------------------------------------------------------

    def _let_go(self) -> None:
        """Nothing of the event loop refers to the descriptor any more."""
        self.pause()
        if self.write_limit.waiting is not None:
            self._loop.remove_writer(self.fd)
        self.read_limit.cancel()
        self.write_limit.cancel()
        self.fd = -1
        if self.released is not None:
            released, self.released = self.released, None
            released()

    def detach(self) -> int:
        """Gives the descriptor away: the caller owns it, this object is spent. Needs no memory
        where nobody watches the socket: it may have another owner already."""
        self.pause()
        fd = self.fd
        self.detached = True
        tcp.let_go(self.sock)
        self._let_go()
        return fd

    def close(self) -> None:
        """Closes the socket. Idempotent."""
        if self.fd >= 0:
            self._let_go()
            self.sock.close()

    def reset(self) -> None:
        """Closes with RST: the stream was cut short."""
        if self.fd >= 0:
            tcp.reset_on_close(self.sock)
            self.close()

    async def reset_after_sent(self) -> None:
        """Resets when the peer has acknowledged all, or after ACK_PATIENCE seconds without
        progress. A reset overtakes data, and the peer would lose what it has not yet got."""
        queue = tcp.SendQueue(self.sock, self._loop.time())
        while queue.waits(self._loop.time()):
            await asyncio.sleep(tcp.ACK_POLL)
            if self.fd < 0:
                return
        self.reset()

    async def finish(self, *, more: bool) -> None:
        """Closes behind an answer.

        The close is gentle if ``more`` is still to come from the peer, if something has come, or
        if the peer has not acknowledged all. A byte that arrives after a plain close makes the
        kernel reset the connection, and the peer would lose the rest of the answer."""
        if more or tcp.unacknowledged(self.sock) or not self.is_quiet():
            await self.close_gently()
        else:
            self.close()

    async def close_gently(self) -> None:
        """Sends FIN, and closes later. Until then it reads and drops what the peer still sends:
        a close with unread input is a reset, which would overtake the answer. It waits until
        the peer has all of the answer, and for a short while longer."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
            await self._linger()
        except (OSError, PeerGone):
            pass  # the peer is gone, or we cannot wait for it: nothing better is left to do
        finally:
            self.close()

    async def _linger(self) -> None:
        most = self.received + LINGER_BYTES
        queue = tcp.SendQueue(self.sock, self._loop.time())
        while True:
            now = self._loop.time()
            if not queue.waits(now):
                late = now >= queue.moved + LINGER_SECONDS
                if queue.size or late or self.received >= most:
                    return
            self.read_limit.set("connection_read_timeout", "lingering close", tcp.ACK_POLL)
            try:
                if not await self.fill():
                    return
            except Failure:
                continue  # time for another look at the send queue
            self.buffer.clear()
