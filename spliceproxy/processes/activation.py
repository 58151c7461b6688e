"""Sockets that systemd has opened, and passes to the proxy when it starts (sd_listen_fds(3)).

Each has to be that of an address of --listen, or of --admin: by its address, or by its name where
the setting is ``systemd:NAME``. The name is that of ``FileDescriptorName=``, by default that of the
socket unit. All workers accept from it: it is one queue. Its file, if it has one, stays systemd's.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Sequence
from typing import NamedTuple

from spliceproxy.config import LISTEN_VARIABLE, Address
from spliceproxy.net import tcp
from spliceproxy.processes.listeners import ListenError, Listeners

FIRST = 3
"""SD_LISTEN_FDS_START: the first descriptor."""

VARIABLES = (LISTEN_VARIABLE, "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")

UNNAMED = "unknown"
"""What sd_listen_fds_with_names(3) calls a socket whose name is not told."""


class Passed(NamedTuple):
    """A socket, and its name."""

    name: str
    sock: socket.socket

    @property
    def address(self) -> str:
        """As --listen says it."""
        where = self.sock.getsockname()
        if self.sock.family == socket.AF_UNIX:
            return f"unix:{where if isinstance(where, str) else where.decode('utf-8', 'replace')}"
        return str(Address(where[0], where[1]))


class Activation:
    """What has been passed. ListenError: it is not what it should be."""

    def __init__(self, passed: Sequence[Passed]) -> None:
        self._left = list(passed)

    @classmethod
    def of_environment(cls) -> Activation:
        """Takes it: nobody else finds it there any more."""
        told = {name: os.environ.pop(name, "") for name in VARIABLES}
        count = told["LISTEN_FDS"]
        if not count.isdigit():
            raise ListenError(f"LISTEN_FDS {count!r}: systemd passes a number of sockets")
        names = told["LISTEN_FDNAMES"].split(":") if told["LISTEN_FDNAMES"] else []
        found = []
        for at in range(int(count)):
            name = names[at] if at < len(names) else UNNAMED
            found.append(Passed(name, _socket(FIRST + at, name)))
        return cls(found)

    def give(self, found: Listeners, wanted: Sequence[Address]) -> None:
        """Those of these addresses are ``found`` to be there."""
        for asked in wanted:
            mine = [one for one in self._left if _is_at(one, asked)]
            if not mine:
                continue
            places = sorted({one.address for one in mine})
            if len(places) > 1:
                raise ListenError(
                    f"{asked}: systemd has passed sockets of several addresses for it, "
                    f"{', '.join(places)}; allowed: each by its own address, or a "
                    "FileDescriptorName= for each"
                )
            for one in mine:
                self._left.remove(one)
            found.take_given(asked, [one.sock for one in mine])

    def finish(self) -> None:
        """Nobody is left over. ListenError."""
        for one in self._left:
            raise ListenError(
                f"systemd has passed the socket {one.name!r} with the address {one.address}, which "
                f"no setting names; allowed: --listen systemd:{one.name}, or --listen {one.address}"
            )


def _socket(fd: int, name: str) -> socket.socket:
    """One that was passed, as a listening socket of ours."""
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ListenError(
            f"systemd has passed {name!r} as descriptor {fd}, which is no socket: {error.strerror}"
        ) from None
    known = sock.family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
    if not listens or not known or sock.type != socket.SOCK_STREAM:
        raise ListenError(
            f"systemd has passed {name!r}, which is no listening stream socket; allowed: "
            "ListenStream= with Accept=no"
        )
    sock.setblocking(False)
    if sock.family != socket.AF_UNIX:
        tcp.set_options(sock)
    return sock


def _is_at(one: Passed, asked: Address) -> bool:
    """Whether the socket is that of this address."""
    if asked.name:
        return one.name == asked.name
    where = one.sock.getsockname()
    if asked.path or one.sock.family == socket.AF_UNIX:
        return bool(asked.path) and bool(where == asked.path)
    host, port = where[:2]
    if port != asked.port:
        return False
    if not asked.host:
        return host in ("::", "0.0.0.0")
    return ipaddress.ip_address(host.partition("%")[0]) == ipaddress.ip_address(asked.host)
