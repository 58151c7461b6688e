"""Users that need no password: known by the client's network or by a process's uid."""

from __future__ import annotations

import ipaddress
import pwd
import socket
import struct
from collections.abc import Iterable, Mapping

from spliceproxy.config import AuthConfig
from spliceproxy.policy.networks import may_hold, parse_network, parsed
from spliceproxy.watched import Mistakes

_UCRED = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid

REMEMBERED = 4096
"""Addresses whose user is remembered."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def peer_uid(sock: socket.socket) -> int:
    """The uid of the process that connected a Unix socket (SO_PEERCRED, unix(7))."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(credentials)[1])


class Identities:
    """Users by network, the longest prefix first, and by uid."""

    __slots__ = ("_remembered", "_tables", "_uids")

    def __init__(self, networks: Mapping[Network, str], uids: Mapping[int, str]) -> None:
        self._uids = dict(uids)
        tables: dict[tuple[int, int], dict[int, str]] = {}
        for network, user in networks.items():
            host_bits = network.max_prefixlen - network.prefixlen
            table = tables.setdefault((network.version, host_bits), {})
            table[int(network.network_address) >> host_bits] = user
        self._tables = sorted(tables.items())  # few host bits: a long prefix
        self._remembered: dict[str, str] = {}

    def of(self, client: str, uid: int) -> str:
        """The user at an IP address, which a mark may be in front of, or behind a Unix socket (""
        and the peer's uid); "" for nobody."""
        if not client:
            return self._uids.get(uid, "")
        user = self._remembered.get(client)
        if user is None:
            if len(self._remembered) >= REMEMBERED:
                self._remembered.clear()
            user = self._remembered[client] = self._find(client)
        return user

    def has_peer(self, user: str) -> bool:
        """Whether a process behind a Unix socket can be this user."""
        return user in self._uids.values()

    def has(self, user: str) -> bool:
        """Whether anybody can be this user."""
        return self.has_peer(user) or any(user in table.values() for _, table in self._tables)

    def _find(self, client: str) -> str:
        place = parsed(client)
        if place is None:  # somebody whom a balancer has brought, which has a Unix socket
            return ""
        for (version, host_bits), table in self._tables:
            if may_hold(version, host_bits, place) and (user := table.get(place[1] >> host_bits)):
                return user
        return ""


Entry = tuple[str, str, str]
"""Where it is written (the beginning of an error's text), network or uid, user."""


def entries(config: AuthConfig) -> list[Entry]:
    """What the configuration itself says."""
    return [("networks: ", *pair) for pair in config.networks.items()] + [
        ("peers: ", *pair) for pair in config.peers.items()
    ]


def build(entries: Iterable[Entry]) -> Identities:
    """The table of these entries; Mistakes name the place and the value."""
    networks: dict[Network, str] = {}
    uids: dict[int, str] = {}
    problems: list[str] = []
    for place, text, user in entries:
        try:
            key = _key(place, text)
        except ValueError as error:
            problems.append(str(error))
            continue
        if not user or not user.isprintable() or ":" in user:
            problems.append(f"{place}{text}: {user!r} is not a valid user name")
        elif key in networks or key in uids:
            problems.append(f"{place}{text}: is listed twice")
        elif isinstance(key, int):
            uids[key] = user
        else:
            networks[key] = user
    if problems:
        raise Mistakes(problems)
    return Identities(networks, uids)


def parse(text: str, config: AuthConfig) -> Identities:
    """The table of the configuration and of a file's lines ``network-or-uid user``; empty lines
    and comments that begin with # are passed over. Mistakes, for a WatchedFile."""
    found = entries(config)
    problems: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2:
            problems.append(f":{number}: not of the form: network-or-uid user")
            continue
        found.append((f":{number}: ", words[0], words[1]))
    try:
        identities = build(found)
    except Mistakes as mistakes:
        problems += mistakes.problems
    if problems:
        raise Mistakes(sorted(problems, key=_line))
    return identities


def _line(problem: str) -> int:
    number = problem[1:].partition(":")[0]
    return int(number) if number.isdigit() else 0


def _key(place: str, text: str) -> Network | int:
    """A network, or the uid of a name or a number."""
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return parse_network(text)
    except ValueError as error:
        reason = str(error)
    try:
        return pwd.getpwnam(text).pw_uid  # after the networks, for it may open files
    except KeyError:
        raise ValueError(
            f"{place}{text}: it is neither a network such as 10.0.0.0/8 nor a user of this system "
            f"({reason})"
        ) from None
