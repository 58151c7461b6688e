"""Regular expressions of squid that speak of hosts, as hosts of rules.

``dstdom_regex`` looks for the expression in the host. ``url_regex`` looks for it in the whole URL
of a request, and in HOST:PORT of a CONNECT. What could match elsewhere than in the host has no
counterpart: ValueError.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from spliceproxy.settings import posix
from spliceproxy.settings.squid.terms import Acl, all_of, any_of, listed, split, unknown
from spliceproxy.settings.tinyproxy import filters

try:
    from re import _parser  # type: ignore[attr-defined]
except ImportError:  # Python 3.10
    import sre_parse as _parser

_IPV6 = "an address of IPv6 is in brackets in squid, and not here"
_ELSEWHERE = "it could match elsewhere than in the host"

_SCHEME = re.compile(
    r"\^(https?\??|\((?:https?\|https?|https\?)\)|http\(s\)\?|\[hH\]\[tT\]\[tT\]\[pP\]):(?:\\?/){2}"
).match
_END = re.compile(  # what may end the host
    r"\((?P<set>[:/$](?:\|[:/$])+)\)(?:\.\*)?\$?"
    r"|(?P<port>\(:\[0-9\][+*]\)\?)(?:\\?/|\(/\|\$\))"
    r"|\\?/(?:\.\*\$?)?|\((?:/\.\*)\)\?\$"
)


class Expression(NamedTuple):
    """As it is written; ``ignore``: -i stands before it."""

    text: str
    ignore: bool


def expressions(words: Iterable[str]) -> Iterator[Expression]:
    """-i holds for what follows it, until +i."""
    ignore = False
    for word in words:
        if word in ("-i", "+i"):
            ignore = word == "-i"
        else:
            yield Expression(word, ignore)


def in_hosts(found: Iterable[Expression], *, literal: bool) -> Acl:
    """``dstdom_regex``. ``literal``: addresses are not looked up (-n)."""
    hosts: list[str] = []
    faults: list[str] = []
    for one in found:
        try:
            text = _translated(one)
            _without_brackets(_parser.parse(text))
            if not literal and re.search(text, "none", re.ASCII) and not _is_any(text):
                raise ValueError("it matches the word none, which stands for addresses without one")
            hosts += _guarded(one.text, _hosts(one, text))
        except ValueError as error:
            faults.append(f"{one.text}: {error}")
    return any_of([listed("hosts", hosts), *map(unknown, faults)])


def in_urls(found: Iterable[Expression]) -> Acl:
    """``url_regex``."""
    tunnels: list[str] = []
    plain: dict[bool, list[str]] = {True: [], False: []}  # by whether it is on every port
    faults: tuple[list[str], list[str]] = ([], [])
    for one in found:
        try:
            tunnels += _in_tunnel(one)
        except ValueError as error:
            faults[0].append(f"{one.text}: {error}")
        try:
            for pattern, every_port in _in_url(one):
                plain[every_port].append(pattern)
        except ValueError as error:
            faults[1].append(f"{one.text}: {error}")
    inside = any_of([listed("hosts", tunnels), *map(unknown, faults[0])])
    on_80 = all_of([listed("hosts", plain[False]), listed("ports", ["80"])])
    outside = any_of([listed("hosts", plain[True]), on_80, *map(unknown, faults[1])])
    return split("methods", "CONNECT", inside, outside)


def _translated(one: Expression) -> str:
    return posix.from_regex(one.text, extended=True, case="ignored" if one.ignore else "exact")


def _hosts(one: Expression, text: str) -> list[str]:
    return filters.hosts_of(one.text, text, "ere", "ignored" if one.ignore else "exact")


def _guarded(written: str, hosts: list[str]) -> list[str]:
    """Where it begins at the first character, it matches no address of IPv6: that is a bracket."""
    if "^" not in written:
        return hosts
    return [f"/(?!.*:){one[1:-1]}/" if one[0] == one[-1] == "/" else one for one in hosts]


def _in_tunnel(one: Expression) -> list[str]:
    """Where it matches HOST:PORT."""
    text = _translated(one)
    tree = _parser.parse(text)
    if _SCHEME(one.text) and len(tree) > 1:  # with one node it is alternatives
        return []
    _without_brackets(tree)
    branches = _branches(tree)
    never = [_ends_behind_port(branch) for branch in branches]
    if all(never):
        return []
    if any(never) or not all(map(_stays_in_host, branches)):
        raise ValueError(f"{_ELSEWHERE}, in the port")
    return _guarded(one.text, _hosts(one, text))


def _in_url(one: Expression) -> Iterator[tuple[str, bool]]:
    """Where it matches http://HOST/ or http://HOST:PORT/; whether on every port."""
    match = _SCHEME(one.text)
    if match is None:
        if _begins_otherwise(_translated(one)):
            return
        raise ValueError(f"{_ELSEWHERE}, in the path")
    if (
        len(_parser.parse(_translated(one))) == 1
    ):  # alternatives, of which the first alone begins so
        raise ValueError(f"{_ELSEWHERE}, in the path")
    if match[1] == "https":
        return
    rest = one.text[match.end() :]
    end = next((found for found in _END.finditer(rest) if found.end() == len(rest)), None)
    rest = rest[: end.start()] if end is not None else rest.removesuffix(".*")
    text = _translated(Expression(rest, one.ignore))
    tree = _parser.parse(text)
    _without_brackets(tree)
    branches = _branches(tree)
    if any(_reaches(tree, "/")) or not rest or not all(map(_stays_in_host, branches)):
        raise ValueError(f"{_ELSEWHERE}, in the path")
    case, more = "?" if one.ignore else "?-i", "" if end is not None else ".*"
    every_port = end is None or bool(end["port"]) or ":" in (end["set"] or "")
    yield f"/(?!.*:)({case}:{text}){more}/", every_port


def _is_any(text: str) -> bool:
    return text in (".", ".*", ".+", "")


def _begins_otherwise(text: str) -> bool:
    """Whether it begins at the first character, with one that no URL begins with."""
    nodes = list(_parser.parse(text))
    if len(nodes) < 2 or nodes[0][0] is not _parser.AT or nodes[0][1] is not _parser.AT_BEGINNING:
        return False
    return _is_one(nodes[1]) and not any(_can(nodes[1], char) for char in "hH")


# ---- what a part of an expression can match ----------------------------------------------------


def _branches(tree: Any) -> list[Sequence[Any]]:
    """The alternatives that the whole is made of."""
    nodes = list(tree)
    if len(nodes) == 1 and nodes[0][0] is _parser.SUBPATTERN:
        return _branches(nodes[0][1][-1])
    if len(nodes) == 1 and nodes[0][0] is _parser.BRANCH:
        return [branch for one in nodes[0][1][1] for branch in _branches(one)]
    return [nodes]


def _without_brackets(tree: Any) -> None:
    for node in _all(tree):
        if node[0] is _parser.LITERAL and chr(node[1]) in "[]:":
            raise ValueError(_IPV6)


def _all(tree: Any) -> Iterator[Any]:
    """Every node that matches one character, or a place."""
    for node in tree:
        if node[0] is _parser.BRANCH:
            for one in node[1][1]:
                yield from _all(one)
        elif node[0] is _parser.SUBPATTERN or node[0] in _REPEATS:
            yield from _all(node[1][-1])
        else:
            yield node


_REPEATS = (_parser.MAX_REPEAT, _parser.MIN_REPEAT)


def _reaches(tree: Any, char: str) -> Iterator[bool]:
    return (_can(node, char) for node in _all(tree))


def _can(node: Any, char: str) -> bool:
    """Whether a node can match this character; True where that is not known."""
    operation, value = node
    if operation is _parser.LITERAL:
        return chr(value) == char
    if operation is _parser.NOT_LITERAL:
        return chr(value) != char
    if operation is _parser.AT:
        return False
    if operation is _parser.IN:
        if any(one[0] is _parser.CATEGORY for one in value):
            return True
        negated = value[0][0] is _parser.NEGATE
        return any(_holds(one, char) for one in value) != negated
    return True


def _holds(one: Any, char: str) -> bool:
    operation, value = one
    if operation is _parser.LITERAL:
        return chr(value) == char
    if operation is _parser.RANGE:
        return bool(value[0] <= ord(char) <= value[1])
    return False


def _is_one(node: Any) -> bool:
    """Whether it matches one character, and no other number of them."""
    return node[0] in (_parser.LITERAL, _parser.NOT_LITERAL, _parser.IN, _parser.ANY)


def _is_sure(node: Any) -> bool:
    """Whether it matches at least one character, and none that a port has."""
    if node[0] in _REPEATS and node[1][0] > 0:
        return len(node[1][2]) == 1 and _is_sure(node[1][2][0])
    return _is_one(node) and not any(_can(node, char) for char in ":0123456789")


def _stays_in_host(nodes: Sequence[Any]) -> bool:
    """Whether all that it matches in HOST:PORT is within the host: something has to match there,
    and nothing behind that can match the colon. What may match nothing at the end is of no
    account."""
    nodes = list(nodes)
    while nodes and nodes[-1][0] in _REPEATS and nodes[-1][1][0] == 0:
        nodes.pop()
    inner = nodes[1:] if nodes and nodes[0][0] is _parser.AT else nodes
    if any(node[0] is _parser.AT for node in _all(inner)):
        return False
    last = max((n for n, node in enumerate(nodes) if _is_sure(node)), default=-1)
    return last >= 0 and not any(_reaches(nodes[last + 1 :], ":"))


def _ends_behind_port(nodes: Sequence[Any]) -> bool:
    """Whether it ends in ``$`` behind what no port ends with, so that it never matches."""
    nodes = list(nodes)
    return (
        len(nodes) > 1
        and nodes[-1][0] is _parser.AT
        and nodes[-1][1] in (_parser.AT_END, _parser.AT_END_STRING)
        and _is_sure(nodes[-2])
    )
