"""Where ``--access-log syslog:`` sends to. It imports nothing, for the settings read it at every
start."""

from __future__ import annotations

from typing import NamedTuple

LOCAL = "/dev/log"
"""The socket of the local daemon (syslog(3))."""

PREFIX = "syslog:"


class Address(NamedTuple):
    """``path`` for a socket of this machine, else ``host`` and ``port`` for UDP."""

    path: str = ""
    host: str = ""
    port: int = 0


def is_syslog(text: str) -> bool:
    """Whether a value of ``--access-log`` is for syslog."""
    return text.startswith(PREFIX)


def address_of(text: str) -> Address:
    """Of ``syslog:``, ``syslog:/path`` or ``syslog:HOST:PORT``. ValueError for anything else."""
    where = text.removeprefix(PREFIX)
    if not where or where.startswith("/"):
        return Address(where or LOCAL)
    host, colon, port = where.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address needs brackets")
    if not colon or not host:
        raise ValueError("it needs a host and a port, such as syslog:log.example:514")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{port!r} is no port; allowed: 1 to 65535")
    return Address(host=host, port=int(port))
