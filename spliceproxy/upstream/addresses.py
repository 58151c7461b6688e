"""IP addresses as text: one spelling for each, and the order in which to try several."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from itertools import zip_longest

_V4_MAPPED = bytes(10) + b"\xff\xff"


def literal(text: str) -> str | None:
    """The canonical text of an IP address literal (IPv6 without brackets), else None.

    IPv4 is four decimal numbers without leading zeros and nothing else: the short, octal
    and hexadecimal forms of inet_aton(3) are read as different hosts by different readers.
    An IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2) becomes the IPv4 address that the
    kernel would dial, so that a rule about that address sees it. Zone ids are refused.
    """
    try:
        if ":" not in text:
            # inet_pton(3) in glibc and musl takes canonical dotted quads only. Most hosts
            # are names, and few names end in a digit: the test saves them the exception.
            if not "0" <= text[-1:] <= "9":
                return None
            socket.inet_pton(socket.AF_INET, text)
            return text
        packed = socket.inet_pton(socket.AF_INET6, text)
    except (OSError, ValueError):  # ValueError: there is a zero byte
        return None
    if packed.startswith(_V4_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed)


def interleave(addresses: Iterable[str]) -> tuple[str, ...]:
    """The addresses without repeats; the two families alternate, beginning with the first's.

    RFC 8305 section 4 with a First Address Family Count of 1: an unreachable family costs
    one attempt, not as many as it has addresses.
    """
    unique = list(dict.fromkeys(addresses))
    families = [[a for a in unique if ":" in a], [a for a in unique if ":" not in a]]
    if unique and ":" not in unique[0]:
        families.reverse()
    return tuple(a for pair in zip_longest(*families) for a in pair if a is not None)
