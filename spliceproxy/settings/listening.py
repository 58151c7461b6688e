"""The values of settings that are addresses to listen on.

An address of --listen says what its clients speak, and whether a balancer brings them:

    [proxy+][PROTOCOL+]tcp://HOST:PORT
    [proxy+][PROTOCOL+]unix:PATH
    [proxy+][PROTOCOL+]systemd:NAME

A bare HOST:PORT or unix:PATH is the same without what is in brackets. The last is a socket that
systemd opens, by its FileDescriptorName (systemd.socket(5)).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from spliceproxy.config import HTTP, MIXED, SOCKS, TRANSPARENT, Address
from spliceproxy.settings.kind import Kind, refuse
from spliceproxy.settings.values import BACKEND, ip_of, port_of

PROTOCOLS = (MIXED, HTTP, SOCKS, *TRANSPARENT)
"""What clients can speak, or how they come. A bare address stands for the first."""

PATH_MAX = 107
"""Bytes of a Unix socket's path (sun_path less its NUL, unix(7))."""

_PROXIED = "proxy"
_NAME = re.compile(r"[!-9;-~]{1,255}")  # as FileDescriptorName= allows it, without blanks
_WAY = re.compile(r"((?:[^+:/]*\+)*)(tcp://|unix:|systemd:)(.*)", re.DOTALL)


def _listen(text: str, folder: str) -> Address:
    found = _WAY.fullmatch(text)
    if found is None:
        return _address(text, folder)
    words, transport, rest = found.groups()
    protocols = words.split("+")[:-1]
    proxied = protocols[:1] == [_PROXIED]
    del protocols[: int(proxied)]
    for one in protocols:
        if one not in PROTOCOLS:
            refuse(f"clients cannot speak {one!r} here; they can speak {', '.join(PROTOCOLS)}")
    if len(protocols) > 1:
        refuse("an address has one protocol")
    if transport == "systemd:":
        if not _NAME.fullmatch(rest):
            refuse("the name of a socket has 1 to 255 printable characters of ASCII, and no colon")
        address = Address(name=rest)
    else:
        address = _address(f"unix:{rest}" if transport == "unix:" else rest, folder)
    if address.path and transport != "unix:":
        refuse("a Unix socket has no tcp://")
    protocol = "".join(protocols)
    if protocol in TRANSPARENT and (address.path or proxied):
        refuse(f"the kernel leads clients to {protocol}+tcp:// alone, without a balancer")
    return replace(address, proxied=proxied, protocol=protocol)


def _address(text: str, folder: str) -> Address:
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        absolute = os.path.abspath(os.path.join(folder, path))
        if not path or len(os.fsencode(absolute)) > PATH_MAX:
            refuse(f"the path of a Unix socket has 1 to {PATH_MAX} bytes")
        return Address(path=absolute)
    host, _, digits = text.rpartition(":")  # a bare 8888 is :8888
    if "%" in text:
        refuse(
            "an address with a zone belongs to one network interface; listen on every address, "
            "and name its clients in allow-clients, such as fe80::/10"
        )
    port = port_of(digits)
    address = ip_of(host) if host else ""
    if port < 0 or (host and not address):
        refuse()
    return Address(host=address, port=port)


def _admin(text: str, folder: str) -> Address | None:
    """The address, None for off."""
    return None if text == "off" else _address(text, folder)


def _forward(text: str, folder: str) -> Address:
    place, equals, target = text.rpartition("=")
    if not equals:
        refuse("the address to listen on and the destination have = between them")
    address = _listen(place, folder)
    if address.protocol:
        refuse(f"{address.protocol}: what clients speak there is not looked at")
    return replace(address, target=BACKEND.parse(target, folder))


_WORDS = f"(proxy\\+)?(({'|'.join(PROTOCOLS)})\\+)?"

LISTEN = Kind(
    _listen,
    ":8888, 127.0.0.1:8888, [::1]:8888 (an IP address, a port from 0 to 65535) or unix:/path; "
    f"with {' or '.join(f'{one}+tcp://' for one in PROTOCOLS)} in front it says what clients "
    "speak, and with proxy+tcp:// or as proxy+unix:/path that a balancer sends the PROXY protocol; "
    "or systemd:NAME, a socket that systemd passes by this name",
    metavar="ADDR",
    schema={
        "pattern": f"^({_WORDS}unix:.+|{_WORDS}systemd:{_NAME.pattern}|({_WORDS}tcp://)?"
        r"(([0-9.]*|\[[0-9A-Fa-f:.]+\]):)?[0-9]{1,9})$"
    },
)
LISTENER = Kind(
    lambda text, folder: _listen(text, folder).where,
    "an address as of --listen, with what clients speak or without: :8888, 127.0.0.1:8888, "
    "unix:/path, systemd:NAME",
    schema={"pattern": "^.+$"},
)
FORWARD = Kind(
    _forward,
    "an address as of --listen, but without what clients speak, then = and HOST:PORT, such as "
    "127.0.0.1:5432=db.example.com:5432",
    metavar="ADDR=HOST:PORT",
    schema={"pattern": "^.+=.+:[0-9]{1,5}$"},
)
ADMIN = Kind(
    _admin,
    "127.0.0.1:9810, [::1]:9810, :9810 (every address), unix:/path, or off",
    metavar="ADDR",
)


def contradictions(
    listen: Iterable[Address],
    balancers: Iterable[str],
    where: Callable[[Address], object],
    where_balancers: str,
) -> Iterator[str]:
    """What is wrong with addresses and the networks of balancers together. ``where``: an
    address, with what stands before it."""
    expecting = [one for one in listen if one.proxied and not one.path]
    networks = ", ".join(balancers)
    if not networks:
        for one in expecting:
            yield (
                f"{where(one)}: nobody may send a header of the PROXY protocol there; allowed: "
                "with --proxy-protocol-from NETWORK, or without proxy+"
            )
    elif not expecting:
        yield (
            f"{where_balancers} {networks}: no address expects the PROXY protocol from a network; "
            "allowed: with --listen proxy+tcp://ADDR"
        )
