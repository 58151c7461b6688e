"""Where the client of a connection wanted to go, if the kernel has led it here.

By NAT (redirect) the kernel remembers it. With TPROXY it is the own end of the connection. Both are
documented in the kernel's sources alone: include/uapi/linux/netfilter_ipv4.h and
Documentation/networking/tproxy.rst.
"""

from __future__ import annotations

import ipaddress
import socket
import struct

_ORIGINAL_DST = 80  # SO_ORIGINAL_DST, IP6T_SO_ORIGINAL_DST
_IP_TRANSPARENT = 19  # ip(7)

_SOCKADDR_IN = struct.Struct("!2xH4s8x")
_SOCKADDR_IN6 = struct.Struct("!2xH4x16s4x")

_MAPPED = "::ffff:"


def redirected(sock: socket.socket) -> tuple[str, int] | None:
    """The address and the port, None where NAT has not led the connection here."""
    here = sock.getsockname()
    is_ipv6 = ":" in here[0] and not here[0].startswith(_MAPPED)
    level, form = (
        (socket.IPPROTO_IPV6, _SOCKADDR_IN6) if is_ipv6 else (socket.IPPROTO_IP, _SOCKADDR_IN)
    )
    try:
        port, packed = form.unpack(sock.getsockopt(level, _ORIGINAL_DST, form.size))
    except OSError:  # the kernel tracks no connections, or not this one
        return None
    found = str(ipaddress.ip_address(packed)), port
    # Of a connection that was made to this very address it remembers just that.
    return None if found == _plain(here) else found


def intercepted(sock: socket.socket) -> tuple[str, int] | None:
    """The same of a connection that has come by TPROXY. None where it was made to an address of
    this machine."""
    found = _plain(sock.getsockname())
    address = found[0]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return found
    return None


def make_transparent(sock: socket.socket) -> None:
    """Connections to any address may come to a listening socket, by TPROXY. OSError without
    CAP_NET_ADMIN."""
    if not is_transparent(sock):
        sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)


def is_transparent(sock: socket.socket) -> bool:
    """Whether it is such a socket, or a connection that was accepted from one."""
    return bool(sock.getsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT))


def _plain(name: tuple[str, int]) -> tuple[str, int]:
    """An address of IPv4 as such."""
    host = name[0].partition("%")[0]
    if host.startswith(_MAPPED) and "." in host:
        host = host.removeprefix(_MAPPED)
    return host, name[1]
