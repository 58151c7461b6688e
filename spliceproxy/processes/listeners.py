"""The listening sockets. They are bound before the workers start and kept while these come and
go."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from spliceproxy.config import TPROXY, Address
from spliceproxy.net import tcp

BACKLOG = 65535
"""The queue that is asked of listen(2). The kernel cuts it to net.core.somaxconn."""

LOCK_PATIENCE = 2.0
"""Seconds to wait for another process that binds in the same directory."""

_REASONS = {
    errno.EADDRINUSE: "another program uses it",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EACCES: "permission denied",
}


Owner = tuple[int, int]
"""A user and a group."""


class ListenError(Exception):
    """An address cannot be listened on. The text is one line that names it."""


class _Place:
    """One address. ``asked`` is what the settings say, and ``address`` has the real port. A TCP
    address has one socket per worker, so that each has its own *queue*; the queue of a Unix socket
    is shared by all, and so are those that were ``given`` by systemd. ``file`` is the path of a
    Unix socket, its device and inode.

    A queue beside others does not listen before :meth:`Listeners.open`: clients that wait in it
    would be cut off if it came to nothing."""

    __slots__ = ("address", "asked", "file", "given", "queues")

    def __init__(self, asked: Address) -> None:
        self.asked = asked
        self.address = asked
        self.queues: list[socket.socket] = []
        self.file: tuple[str, int, int] | None = None
        self.given = False

    def like(self, asked: Address) -> _Place:
        """The same, with a list of its own, where the settings say this of it."""
        other = _Place(asked)
        other.address = replace(
            self.address, proxied=asked.proxied, protocol=asked.protocol, target=asked.target
        )
        other.file, other.given = self.file, self.given
        other.queues = list(self.queues)
        return other

    def of(self, worker: int, workers: int) -> list[socket.socket]:
        """The queues of one of so many workers. A queue is never given up while there is the
        address, for clients wait in it: where there are more of them than workers, all workers
        accept from each that is left over, or one of them would have twice the clients."""
        if self.asked.path or self.given:
            return self.queues
        return [*self.queues[worker : worker + 1], *self.queues[workers:]]

    def bind(self, workers: int, mode: int | None, owner: Owner | None) -> list[socket.socket]:
        """Binds what there is not yet; returns that. OSError, and nothing is left behind."""
        if self.given:
            return []
        if self.asked.name:
            raise OSError("systemd has passed no socket of this name")
        before = list(self.queues)
        try:
            if self.asked.path:
                if not self.queues:
                    self._bind_unix(mode, owner)
            else:
                self._bind_tcp(workers)
            if self.asked.spoken == TPROXY:
                from spliceproxy.net.original import make_transparent  # late: most have none

                for sock in self.queues:
                    make_transparent(sock)
        except BaseException:
            for sock in self.queues:
                if sock not in before:
                    sock.close()
            raise
        return [sock for sock in self.queues if sock not in before]

    def _bind_tcp(self, workers: int) -> None:
        if not self.queues:
            self.queues.append(_first_tcp(self.asked))
        first = self.queues[0]
        name = first.getsockname()
        while len(self.queues) < workers:
            sock = _tcp_socket(first.family, self.asked)
            self.queues.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(name)
        self.address = replace(self.asked, port=name[1])

    def _bind_unix(self, mode: int | None, owner: Owner | None) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.queues.append(sock)
        path = self.asked.path
        with _locked(os.path.dirname(path) or "."):
            _remove_stale(path)
            if mode is None:
                sock.bind(path)
            else:
                _bind_with_mode(sock, path, mode)
            found = os.lstat(path)
            self.file = path, found.st_dev, found.st_ino
            if owner is not None:
                os.chown(path, *owner, follow_symlinks=False)
            sock.listen(BACKLOG)

    def unlink(self) -> None:
        """Removes the file, if it is still this socket's."""
        if self.file is None:
            return
        path, device, inode = self.file
        with contextlib.suppress(OSError):  # it is gone, or not ours to remove any more
            found = os.lstat(path)
            if (found.st_dev, found.st_ino) == (device, inode):
                os.unlink(path)


class Listeners:
    """The listening sockets of so many workers. The files of Unix sockets are their ``owner``'s,
    by default those of this process's user."""

    __slots__ = ("_fresh", "_owner", "_pid", "_places", "_workers")

    def __init__(self, workers: int, owner: Owner | None = None) -> None:
        self._workers = workers
        self._owner = owner
        self._places: list[_Place] = []
        self._fresh: list[socket.socket] = []  # that were bound for this object
        self._pid = os.getpid()

    @property
    def addresses(self) -> list[Address]:
        """As bound, with real ports."""
        return [place.address for place in self._places]

    def of(self, worker: int) -> list[socket.socket]:
        """The sockets of one worker, in the order of ``addresses``."""
        return [sock for place in self._places for sock in place.of(worker, self._workers)]

    def alone(self, worker: int) -> list[socket.socket]:
        """Those that no other worker has."""
        others = {
            sock for other in range(self._workers) if other != worker for sock in self.of(other)
        }
        return [sock for sock in self.of(worker) if sock not in others]

    def keep(self, worker: int) -> None:
        """Closes, in a worker's process, what belongs to the other workers only."""
        kept = set(self.of(worker))
        for sock in self._all() - kept:
            sock.close()

    def close(self) -> None:
        """Closes every socket. In the process that bound them it also removes the files of Unix
        sockets."""
        for sock in self._all():
            sock.close()
        if os.getpid() == self._pid:
            for place in self._places:
                place.unlink()
        self._places.clear()

    def changed(
        self, addresses: Sequence[Address], workers: int, mode: int | None = None
    ) -> Listeners:
        """Those of other settings: what there is already is the same sockets, and the rest is
        bound. ListenError, and then nothing has changed. Either :meth:`undo` it, or :meth:`leave`
        this one."""
        wanted = [asked.where for asked in addresses]
        for place in self._places:
            if place.given and place.asked.where not in wanted:
                raise ListenError(
                    f"{place.asked}: systemd has opened this socket, so it stays as it is until "
                    "the proxy is started again"
                )
        found = Listeners(workers, self._owner)
        taken: list[_Place | None] = []
        try:
            for asked in addresses:
                known = self._known(asked, addresses, taken)
                taken.append(known)
                place = _Place(asked) if known is None else known.like(asked)
                try:
                    found._fresh += place.bind(workers, mode, self._owner)
                except OSError as error:
                    raise _refused(asked, error, self._leaves(addresses, asked)) from error
                found._places.append(place)
        except BaseException:
            found.undo()
            raise
        return found

    def _known(
        self, asked: Address, addresses: Sequence[Address], taken: Sequence[_Place | None]
    ) -> _Place | None:
        """The place of one of these addresses that is not ``taken``: the same address, or one that
        differs in what clients speak there."""
        free = [one for one in self._places if one not in taken and one.asked.where == asked.where]
        same = [one for one in free if one.asked == asked]
        return next(iter(same or [one for one in free if one.asked not in addresses]), None)

    def open(self) -> None:
        """Clients may come to each socket that was bound for this object. ListenError."""
        for place in self._places:
            for sock in place.queues:
                if sock in self._fresh:
                    try:
                        sock.listen(BACKLOG)
                    except OSError as error:
                        raise _refused(place.asked, error, False) from error

    def each(self) -> list[tuple[Address, Address, list[socket.socket], bool]]:
        """Of each address: what the settings say, what it is, its sockets, and whether they were
        given by systemd."""
        return [(one.asked, one.address, list(one.queues), one.given) for one in self._places]

    def take(self, asked: Address, port: int, queues: Sequence[socket.socket]) -> None:
        """Sockets of another program, which listen on this address and ``port`` already; they are
        this object's. The file of a Unix socket is not, before :meth:`claim`."""
        place = _Place(asked)
        place.address = replace(asked, port=port)
        place.queues = list(queues)
        self._places.append(place)

    def take_given(self, asked: Address, queues: Sequence[socket.socket]) -> None:
        """Sockets that systemd has opened for this address; they are this object's, but not the
        file of a Unix socket."""
        where = queues[0].getsockname()
        place = _Place(asked)
        place.given = True
        place.queues = list(queues)
        if asked.name and queues[0].family == socket.AF_UNIX:
            place.address = replace(asked, name="", path=os.fsdecode(where))
        elif asked.name:
            place.address = replace(asked, name="", host=where[0], port=where[1])
        self._places.append(place)

    def claim(self) -> None:
        """The other program has given all away: the files of Unix sockets are this one's."""
        for place in self._places:
            path = place.asked.path
            if path and place.file is None and not place.given:
                with contextlib.suppress(OSError):
                    found = os.lstat(path)
                    place.file = path, found.st_dev, found.st_ino

    def give_away(self) -> None:
        """Another program has them all: no file of a Unix socket is removed any more."""
        for place in self._places:
            place.file = None

    def undo(self) -> None:
        """It is not wanted: closes what was bound for it."""
        for place in self._places:
            if place.queues and place.queues[0] in self._fresh:
                place.unlink()
        for sock in self._fresh:
            sock.close()
        self._places.clear()

    def leave(self, coming: Listeners) -> None:
        """The other is in force: closes what is not in it."""
        kept = coming._all()
        files = {place.file for place in coming._places}
        for place in self._places:
            if place.file not in files:
                place.unlink()
        for sock in self._all() - kept:
            sock.close()
        self._places.clear()
        coming._fresh.clear()

    def _leaves(self, addresses: Sequence[Address], asked: Address) -> bool:
        """Whether an address of this port would be given up."""
        return any(
            place.address.port == asked.port != 0
            and place.asked.where not in [one.where for one in addresses]
            for place in self._places
        )

    def _all(self) -> set[socket.socket]:
        return {sock for place in self._places for sock in place.queues}


def bind(addresses: Sequence[Address], workers: int, mode: int | None = None) -> Listeners:
    """Listens on every address; raises :class:`ListenError` and leaves nothing behind
    if one cannot be had. ``mode``: the permissions of a Unix socket's file; None: the umask
    decides."""
    found = Listeners(workers).changed(addresses, workers, mode)
    try:
        found.open()
    except BaseException:
        found.undo()
        raise
    return found


def inode(sock: socket.socket) -> int:
    """By which a socket is known to another process that has it."""
    return os.fstat(sock.fileno()).st_ino


def _refused(address: Address, error: OSError, leaves: bool) -> ListenError:
    if address.spoken == TPROXY and error.errno == errno.EPERM:
        return ListenError(
            f"cannot listen on {address}: TPROXY needs the capability CAP_NET_ADMIN when the proxy "
            "begins to listen; allowed: started by root, with --user for the workers"
        )
    reason = _REASONS.get(error.errno or 0) or error.strerror or str(error)
    if leaves and error.errno == errno.EADDRINUSE:
        reason = (
            "this proxy listens on another address with this port, which it would give up; give "
            "that up first, by a reload of its own"
        )
    return ListenError(f"cannot listen on {address}: {reason}")


def _tcp_socket(family: int, address: Address) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    # Connections in TIME_WAIT do not block the port then (socket(7)).
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        # ":8888" is both families, "[::]:8888" IPv6 alone (ipv6(7)).
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, bool(address.host))
    tcp.set_options(sock)
    return sock


def _first_tcp(address: Address) -> socket.socket:
    """Binds the first socket of an address, alone on its port.

    SO_REUSEPORT lets any process of the same user join a port silently and take a part of its
    connections. So the first socket does without it until it listens. If that succeeds, the port
    was free, and whoever comes the same way later is refused.
    """
    sock = _bind_first(address)
    try:
        sock.listen(BACKLOG)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        sock.close()
        raise
    return sock


def _bind_first(address: Address) -> socket.socket:
    """A bound socket; for every address one of both families, where IPv6 exists."""
    if not address.host:
        try:
            return _bind_to(socket.AF_INET6, "::", address)
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
        return _bind_to(socket.AF_INET, "0.0.0.0", address)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return _bind_to(family, address.host, address)


def _bind_to(family: int, host: str, address: Address) -> socket.socket:
    sock = _tcp_socket(family, address)
    try:
        sock.bind((host, address.port))
    except OSError:
        sock.close()
        raise
    return sock


def _bind_with_mode(sock: socket.socket, path: str, mode: int) -> None:
    """The file never has more permissions than these, not even for a moment."""
    before = os.umask(0o777 & ~mode)
    try:
        sock.bind(path)
    finally:
        os.umask(before)


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Holds the directory's lock (flock(2)). If two processes find the same stale socket, the
    slower one must not remove what the faster one has just bound."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        limit = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > limit:
                    raise OSError(
                        errno.EAGAIN, f"another process holds a lock on {directory}"
                    ) from None
                time.sleep(0.01)
        yield
    finally:
        os.close(handle)


def _remove_stale(path: str) -> None:
    """Removes the socket file of a process that is gone. Any other file stays, and is an error."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "a file of that name exists and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        status = probe.connect_ex(path)
    if status == errno.ECONNREFUSED:  # nobody listens
        os.unlink(path)
    elif status == errno.EACCES:
        raise PermissionError(errno.EACCES, os.strerror(status))
    else:
        raise OSError(errno.EADDRINUSE, os.strerror(status))
