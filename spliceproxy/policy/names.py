"""One spelling for each host, so that no other spelling walks around a rule."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

from spliceproxy.policy.networks import is_quad

MAX_NAME = 253
"""Characters of a host name without its final dot (RFC 1035 section 3.1)."""

_PLAIN = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]*[a-z_-][a-z0-9_-]*").fullmatch
"""A name in lower case that does not end in a number."""

_USUAL = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*[a-z_-][a-z0-9_-]{0,62}").fullmatch
"""Of these the names whose last label begins as no number does: nearly all."""

_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*").fullmatch


@lru_cache(maxsize=4096)
def canonical(host: str) -> str:
    """A host name in lower case, in A-labels (RFC 5890), without a final dot; an IPv4 address
    as dotted quad; an IPv6 address in its shortest form without brackets, an IPv4-mapped
    one as IPv4.

    IPv4 is read as inet_aton(3) and the URL standard do: one to four numbers, decimal, octal
    or hexadecimal, the last of which fills what is left. ValueError for what is no host.
    """
    if (_USUAL(host) and len(host) <= MAX_NAME) or is_quad(host):
        return host
    return _spelled(host)


def _spelled(host: str) -> str:
    """As :func:`canonical`, for any host."""
    if not host.isascii():
        host = _to_ascii(host)
    name = host.lower()
    if name[:1] == "[" or ":" in name:
        return _ipv6(name, host)
    if name.endswith("."):
        name = name[:-1]
    if len(name) > MAX_NAME:
        raise ValueError(f"a host name longer than {MAX_NAME} characters")
    labels = name.split(".")
    if _NUMBER(labels[-1]):
        return _ipv4(labels, host)
    if not _PLAIN(name) or max(map(len, labels)) > 63:
        raise ValueError(f"{host!r} is not a host name")
    return name


def is_number(host: str) -> bool:
    """Whether a host consists of numbers, as no name does. Programs agree on what that means only
    for four decimal numbers without leading zeros."""
    return all(map(_NUMBER, host.lower().rstrip(".").split(".")))


def load() -> None:
    """Loads the tables for names that are not ASCII: later there may be no descriptor for it."""
    _to_ascii("\u00fc.example")


def _to_ascii(host: str) -> str:
    import idna  # its tables are large, and few need them

    try:
        return idna.encode(host, uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise ValueError(f"{host!r} is not a host name: {error}") from None
    except UnicodeError as error:  # a label too long, or a lone surrogate
        raise ValueError(f"{host!r} is not a host name: {error}") from None


def _ipv6(name: str, host: str) -> str:
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    try:
        if "%" in name:
            raise ValueError
        address = ipaddress.IPv6Address(name)
    except ValueError:
        raise ValueError(f"{host!r} is not an IPv6 address") from None
    return str(address.ipv4_mapped or address)


def _ipv4(labels: list[str], host: str) -> str:
    """The URL standard's IPv4 parser."""
    fault = ValueError(f"{host!r} ends in a number but is not an IPv4 address")
    if len(labels) > 4 or not all(map(_NUMBER, labels)):
        raise fault
    try:
        numbers = [_number(label) for label in labels]
    except ValueError:
        raise fault from None
    *firsts, last = numbers
    if any(number > 255 for number in firsts) or last >= 256 ** (5 - len(numbers)):
        raise fault
    for place, number in enumerate(firsts):
        last += number << 8 * (3 - place)
    return str(ipaddress.IPv4Address(last))


def _number(label: str) -> int:
    if len(label) > 64:
        raise ValueError
    if label.startswith("0x"):
        return int(label[2:] or "0", 16)
    return int(label, 8) if label.startswith("0") else int(label)
