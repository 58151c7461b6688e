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

from spliceproxy.config import Address
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


class ListenError(Exception):
    """An address cannot be listened on. The text is one line that names it."""


class Listeners:
    """The listening sockets of all workers.

    ``addresses`` are the addresses as bound, with real ports. A TCP address has one
    socket per worker, so that each has its own queue; a Unix socket is shared by all.
    """

    __slots__ = ("_owner", "_paths", "_sockets", "addresses")

    def __init__(self, workers: int) -> None:
        self.addresses: list[Address] = []
        self._sockets: list[list[socket.socket]] = [[] for _ in range(workers)]
        self._paths: list[tuple[str, int, int]] = []  # path, device, inode
        self._owner = os.getpid()

    def of(self, worker: int) -> list[socket.socket]:
        """The sockets of one worker, in the order of ``addresses``."""
        return self._sockets[worker]

    def keep(self, worker: int) -> None:
        """Closes, in a worker's process, what belongs to the other workers only."""
        kept = set(self._sockets[worker])
        for sock in self._all() - kept:
            sock.close()

    def close(self) -> None:
        """Closes every socket. In the process that bound them it also removes the files of Unix
        sockets."""
        for sock in self._all():
            sock.close()
        if os.getpid() == self._owner:
            for path, device, inode in self._paths:
                with contextlib.suppress(FileNotFoundError):
                    found = os.lstat(path)
                    if (found.st_dev, found.st_ino) == (device, inode):
                        os.unlink(path)
            self._paths.clear()

    def _all(self) -> set[socket.socket]:
        return {sock for sockets in self._sockets for sock in sockets}

    def _bind_tcp(self, address: Address) -> None:
        first = _first_tcp(address)
        self._sockets[0].append(first)
        name = first.getsockname()
        for sockets in self._sockets[1:]:
            sock = _tcp_socket(first.family, address)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(name)
            sock.listen(BACKLOG)
        self.addresses.append(replace(address, port=name[1]))

    def _bind_unix(self, address: Address, mode: int | None) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        for sockets in self._sockets:
            sockets.append(sock)
        path = address.path
        with _locked(os.path.dirname(path) or "."):
            _remove_stale(path)
            if mode is None:
                sock.bind(path)
            else:
                _bind_with_mode(sock, path, mode)
            found = os.lstat(path)
            self._paths.append((path, found.st_dev, found.st_ino))
            sock.listen(BACKLOG)
        self.addresses.append(address)


def bind(addresses: Sequence[Address], workers: int, mode: int | None = None) -> Listeners:
    """Listens on every address; raises :class:`ListenError` and leaves nothing behind
    if one cannot be had. ``mode``: the permissions of a Unix socket's file; None: the umask
    decides."""
    listeners = Listeners(workers)
    for address in addresses:
        try:
            if address.path:
                listeners._bind_unix(address, mode)
            else:
                listeners._bind_tcp(address)
        except OSError as error:
            listeners.close()
            reason = _REASONS.get(error.errno or 0) or error.strerror or str(error)
            raise ListenError(f"cannot listen on {address}: {reason}") from error
    return listeners


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
