"""Which tunnels and requests are meant: the filters of ``/tunnels``.

A filter is the value of a parameter of the query. Of those with the same name one must match, of
those with different names each. The admin process reads them, and the workers apply them.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spliceproxy.policy.hosts import parse_pattern
from spliceproxy.policy.names import canonical
from spliceproxy.policy.networks import parse_network

Flow = Mapping[str, Any]
"""A tunnel or request, as ``/tunnels`` shows it."""

Test = Callable[[Flow], bool]

_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?").fullmatch
_NUMBER = re.compile(r"[0-9]{1,9}").fullmatch
_KINDS = ("tunnel", "request")

SEARCHED = ("id", "client", "user", "method", "target", "peer", "state")
"""What words are looked for in."""

WORDS_MOST = 200
"""Characters of them."""


def _text(name: str) -> Callable[[str], Test]:
    return lambda text: lambda flow: bool(flow[name] == text)


def _network(name: str) -> Callable[[str], Test]:
    """A network or an address; "unix" is a client of a Unix socket."""

    def make(text: str) -> Test:
        if text == "unix":
            return lambda flow: bool(flow[name] == text)
        network = parse_network(text)

        def is_in(flow: Flow) -> bool:
            try:
                return ipaddress.ip_address(flow[name]) in network
            except ValueError:
                return False

        return is_in

    return make


def _host(text: str) -> Test:
    """As in ``hosts`` of a rule, but for regular expressions: of such a one nobody knows how long
    it takes over a name that a client has chosen, and clients would wait for it."""
    if text.startswith("/"):
        raise ValueError("allowed: a name, .NAME or *.NAME; words looks for parts of one")
    pattern = parse_pattern(text)

    def matches(flow: Flow) -> bool:
        try:
            host = canonical(flow["host"])
        except ValueError:
            return False
        return (pattern.itself and host == pattern.name) or (
            pattern.below and host.endswith(f".{pattern.name}")
        )

    return matches


def _port(text: str) -> Test:
    if not _NUMBER(text):
        raise ValueError("allowed: a port")
    port = int(text)
    return lambda flow: bool(flow["port"] == port)


def _tag(text: str) -> Test:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError("allowed: NAME=VALUE")
    return lambda flow: bool(flow["tags"].get(name) == value)


def age_of(started: float, now: float) -> float | None:
    """Seconds, of what has started at this moment; None where nobody knows when."""
    return round(max(0.0, now - started), 3) if started else None


def _older(text: str) -> Test:
    if not _SECONDS(text):
        raise ValueError("allowed: seconds")
    seconds = float(text)

    def test(flow: Flow) -> bool:
        age = age_of(flow["started"], time.monotonic())
        return age is not None and age >= seconds

    return test


def _kind(text: str) -> Test:
    if text not in _KINDS:
        raise ValueError(f"allowed: {', '.join(_KINDS)}")
    return lambda flow: bool(flow["kind"] == text)


def _words(text: str) -> Test:
    """Each of the words is in one of SEARCHED, in whatever case."""
    words = text.lower().split()
    if not words or len(text) > WORDS_MOST:
        raise ValueError(f"allowed: words, with {WORDS_MOST} characters at most")
    return lambda flow: has_words(flow, words)


def has_words(flow: Flow, words: Sequence[str]) -> bool:
    """Whether each of these, in lower case, is in one of SEARCHED."""
    texts = [str(flow.get(name) or "").lower() for name in SEARCHED]
    return all(any(word in text for text in texts) for word in words)


def _worker(text: str) -> Test:
    if not _NUMBER(text):
        raise ValueError("allowed: the number of a worker")
    index = int(text)
    return lambda flow: bool(flow["worker"] == index)


FILTERS: Mapping[str, Callable[[str], Test]] = {
    "id": _text("id"),
    "client": _network("client"),
    "via": _network("via"),
    "user": _text("user"),
    "method": _text("method"),
    "host": _host,
    "port": _port,
    "peer": _network("peer"),
    "rule": _text("rule"),
    "tag": _tag,
    "kind": _kind,
    "older": _older,
    "worker": _worker,
    "words": _words,
}
"""The filters that there are."""


def refuse_empty(query: Mapping[str, Sequence[str]]) -> None:
    """ValueError: a value is empty, which means those that have none. Of what is to be ended that
    is asked for by mistake alone, such as a variable of a script that is not set."""
    for name, values in query.items():
        for value in values:
            if not value or (name == "tag" and value.endswith("=")):
                raise ValueError(f"{name}: {value!r}; what is to be ended needs a value here")


def _made(make: Callable[[str], Test], name: str, value: str) -> Test:
    try:
        return make(value)
    except ValueError as error:
        said = str(error) if value in str(error) else f"{value!r}; {error}"
        raise ValueError(f"{name}: {said}") from None


class Filter:
    """Of a query's parameters. ValueError says which of them is wrong, and what is allowed."""

    def __init__(self, query: Mapping[str, Sequence[str]]) -> None:
        self._tests: list[list[Test]] = []
        for name, values in query.items():
            make = FILTERS.get(name)
            if make is None:
                raise ValueError(f"there is no filter {name!r}; allowed: {', '.join(FILTERS)}")
            self._tests.append([_made(make, name, value) for value in values])

    def matches(self, flow: Flow) -> bool:
        return all(any(test(flow) for test in tests) for tests in self._tests)
